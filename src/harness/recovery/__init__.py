"""Services that heal: supervised, checked, repaired within limits, verified. Import from here, not from the modules inside.

A name needs two lines: one in the table, one under `TYPE_CHECKING`. Events are in `harness.recovery.facts`,
which may be imported as a module.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.recovery.declarations import Declarations, Envelope, Invariant, Limits, Service, load_declarations

_HOME = {
    "Declarations": "declarations",
    "Envelope": "declarations",
    "Invariant": "declarations",
    "Limits": "declarations",
    "Service": "declarations",
    "load_declarations": "declarations",
}

__all__ = ["Declarations", "Envelope", "Invariant", "Limits", "Service", "load_declarations"]


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
