"""Services that heal: supervised, checked, repaired within limits, verified. Import from here, not from the modules inside.

A name needs two lines: one in the table, one under `TYPE_CHECKING`. Events are in `harness.recovery.facts`,
which may be imported as a module.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.recovery.declarations import (
        Declarations,
        Envelope,
        Invariant,
        Limits,
        Service,
        demo_toml,
        load_declarations,
        parse_declarations,
    )
    from harness.recovery.supervisor.core import Supervisor
    from harness.recovery.supervisor.own import own_services
    from harness.recovery.supervisor.ownership import supervisor_pid

_HOME = {
    "Declarations": "declarations",
    "demo_toml": "declarations",
    "Envelope": "declarations",
    "Invariant": "declarations",
    "Limits": "declarations",
    "load_declarations": "declarations",
    "own_services": "supervisor.own",
    "parse_declarations": "declarations",
    "Service": "declarations",
    "Supervisor": "supervisor.core",
    "supervisor_pid": "supervisor.ownership",
}

__all__ = [
    "Declarations",
    "Envelope",
    "Invariant",
    "Limits",
    "Service",
    "Supervisor",
    "demo_toml",
    "load_declarations",
    "own_services",
    "parse_declarations",
    "supervisor_pid",
]


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
