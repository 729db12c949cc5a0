"""How long a watched session may be still and how often it is helped: presets, and times as people write them. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from harness.errors import UsageError

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?|\.[0-9]+)(ms|s|m|h|d)?")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
MAX_SECONDS = 366 * 86_400.0
MAX_RESUMES = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What is patience with one agent."""

    stall_after_seconds: float = 480.0
    max_resumes: int = 1  # over the whole watch, whatever the means
    repeats: int = 10  # identical tool calls in a row that are a stall

    # How many times `stall_after_seconds` may pass without progress while something moves:
    spinning: float = 3.0  # bytes come, and mean nothing
    in_tool: float = 6.0  # a tool runs and shows that it lives
    retrying: float = 6.0  # the program announces that it tries again

    @property
    def answer_seconds(self) -> float:
        """How long a probe or an interrupt may take to show."""
        return min(30.0, self.stall_after_seconds / 4)

    @property
    def linger_seconds(self) -> float:
        """How long a program that has given its one result may take to end."""
        return min(60.0, self.stall_after_seconds)


PRESETS = {
    "impl": Policy(stall_after_seconds=480.0, max_resumes=1),
    "plan": Policy(stall_after_seconds=180.0, max_resumes=2),
    "gate": Policy(stall_after_seconds=900.0, max_resumes=0),
}


def policy(*, preset: str | None = None, stall_after: str | None = None, max_resumes: str | int | None = None) -> Policy:
    """The preset with what was said explicitly over it. Raises `UsageError` for what makes no sense."""
    if preset is not None and preset not in PRESETS:
        raise UsageError(f"--preset is one of {', '.join(PRESETS)}, not {preset!r}")
    made = PRESETS[preset] if preset is not None else Policy()
    if stall_after is not None:
        made = replace(made, stall_after_seconds=seconds(stall_after, name="--stall-after"))
    if max_resumes is not None:
        made = replace(made, max_resumes=_count(max_resumes))
    return made


def _count(given: str | int) -> int:
    text = str(given)
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) <= MAX_RESUMES):
        raise UsageError(f"--max-resumes takes a whole number from 0 to {MAX_RESUMES}, not {text!r}")
    return int(text)


def seconds(text: str, *, name: str = "a duration") -> float:
    """A time such as `90`, `90s`, `8m`, `1h` or `1.5h` in seconds. Raises `UsageError`."""
    match = _DURATION.fullmatch(text.strip())
    value = float(match[1]) * _UNITS[match[2] or "s"] if match else 0.0
    if not 0 < value <= MAX_SECONDS:
        raise UsageError(f"{name} takes a time such as 90, 90s, 8m or 1h, above zero and up to a year, not {text!r}")
    return value


def in_words(value: float) -> str:
    """Seconds with one decimal in the unit that fits: `12.0s`, `8.0m`, `1.5h`."""
    if value < 60:
        return f"{value:.1f}s"
    return f"{value / 60:.1f}m" if value < 3600 else f"{value / 3600:.1f}h"
