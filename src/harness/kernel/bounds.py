"""Numbers, times and texts that a caller gives: whether they can be meant at all. Pure; raises `UsageError`."""

from __future__ import annotations

import math
from typing import TypeGuard

from harness.errors import UsageError

_MOST = 10**12


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether it is a finite number; a bool is none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def check_number(what: str, value: object, least: float = 0) -> None:
    """A finite number from `least` on."""
    if not is_number(value) or value < least:
        raise UsageError(f"{what} is a finite number from {least:g} on, not {value!r}")


def check_count(what: str, value: object) -> None:
    """How many of something there may be, which is at least one."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UsageError(f"{what} is a whole number from 1 on, not {value!r}")


def check_seconds(what: str, value: object) -> None:
    """A time that can pass."""
    if not is_number(value) or value <= 0:
        raise UsageError(f"{what} is a number of seconds above 0, not {value!r}")


def check_limit(what: str, value: object) -> None:
    """What is counted up to; None is no limit. Counters of the ledger are whole numbers of 64 bits."""
    if value is not None and not (is_number(value) and 0 <= value < _MOST):
        raise UsageError(f"{what} is a number from 0 to a million million, not {value!r}")


def check_text(what: str, value: object) -> None:
    """A text that says something."""
    if not isinstance(value, str) or not value.strip():
        raise UsageError(f"{what} is a text that is not empty, not {value!r}")
