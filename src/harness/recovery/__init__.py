"""Services that heal: supervised, checked, repaired within limits, verified. Import from here, not from the modules inside.

A name needs two lines: one in the table, one under `TYPE_CHECKING`. Events are in `harness.recovery.facts`,
which may be imported as a module.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.recovery.attempts import AgentSettings
    from harness.recovery.checks import Sample
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
    from harness.recovery.incidents import Incident, incident_of, list_incidents
    from harness.recovery.monitor import MonitorSettings, monitor_alive, run_monitor
    from harness.recovery.responder import run_responder
    from harness.recovery.samples import latest_samples, read_samples
    from harness.recovery.supervisor.core import Supervisor
    from harness.recovery.supervisor.own import own_services
    from harness.recovery.supervisor.ownership import supervisor_pid

_HOME = {
    "AgentSettings": "attempts",
    "run_responder": "responder",
    "Declarations": "declarations",
    "demo_toml": "declarations",
    "Envelope": "declarations",
    "Incident": "incidents",
    "incident_of": "incidents",
    "Invariant": "declarations",
    "latest_samples": "samples",
    "Limits": "declarations",
    "list_incidents": "incidents",
    "load_declarations": "declarations",
    "monitor_alive": "monitor",
    "MonitorSettings": "monitor",
    "own_services": "supervisor.own",
    "parse_declarations": "declarations",
    "read_samples": "samples",
    "run_monitor": "monitor",
    "Sample": "checks",
    "Service": "declarations",
    "Supervisor": "supervisor.core",
    "supervisor_pid": "supervisor.ownership",
}

__all__ = [
    "AgentSettings",
    "Declarations",
    "Envelope",
    "Incident",
    "Invariant",
    "Limits",
    "MonitorSettings",
    "Sample",
    "Service",
    "Supervisor",
    "demo_toml",
    "incident_of",
    "latest_samples",
    "list_incidents",
    "load_declarations",
    "monitor_alive",
    "own_services",
    "parse_declarations",
    "read_samples",
    "run_monitor",
    "run_responder",
    "supervisor_pid",
]


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
