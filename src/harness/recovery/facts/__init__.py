"""What recovery writes into the ledger: the payloads and types of its events, and which stream each belongs to.

Owns names and shapes only; nobody decides here. A new field needs a default; a changed meaning needs a new type.

    service/NAME      the supervisor: life of a process, actions on it, its configuration, chaos
    check/NAME        the monitor: changes of a check, never samples
    incident/TICKET   monitor, responder and verifier: the timeline of one incident, named by its ticket
    control/recovery  pause and unpause
    control/supervisor  who supervises this home
    control/monitor     who watches
"""

from __future__ import annotations

import msgspec

from harness.ledger import Draft, Event
from harness.recovery.facts.actions import (
    ActionCompleted,
    ActionRefused,
    ActionRequested,
    ActionStarted,
    ChaosHealed,
    ChaosInjected,
    ChaosRefused,
    ChaosRequested,
    ConfigChanged,
)
from harness.recovery.facts.checks import (
    CheckChanged,
    CheckDeclared,
    CheckDismissed,
    CheckSilenced,
)
from harness.recovery.facts.control import (
    MonitorStarted,
    RecoveryPaused,
    RecoveryUnpaused,
    SupervisorStarted,
    SupervisorStopped,
)
from harness.recovery.facts.incidents import (
    IncidentActionDecided,
    IncidentActionProposed,
    IncidentAnalysed,
    IncidentAttemptFailed,
    IncidentClosed,
    IncidentConcluded,
    IncidentEngaged,
    IncidentEscalated,
    IncidentOpened,
    IncidentRecurred,
    IncidentVerified,
    IncidentVerifying,
)
from harness.recovery.facts.services import (
    ServiceAdopted,
    ServiceBackingOff,
    ServiceBlocked,
    ServiceDeclared,
    ServiceExited,
    ServiceGaveUp,
    ServiceNotReady,
    ServiceReady,
    ServiceStarted,
    ServiceStarting,
    ServiceStopped,
    ServiceStopping,
)
from harness.recovery.facts.vocabulary import (
    CHAOS_KEY,
    CONFIG_KEY,
    CONTROL,
    DECLARED_KEY,
    DISMISSED_KEY,
    MONITOR,
    MONITOR_LEASE,
    OWN_PREFIX,
    PAUSE_KEY,
    SILENCE_KEY,
    STATE_KEY,
    SUPERVISOR,
    SUPERVISOR_LEASE,
    ActionKind,
    ChaosKind,
    CheckResult,
    Decision,
    Fact,
    Level,
    Origin,
    Outcome,
    Value,
    Verdict,
    action_finished_key,
    action_key,
    action_requested_key,
    action_started_key,
    check_stream,
    incident_stream,
    service_stream,
)

__all__ = [
    "CHAOS_KEY",
    "CONFIG_KEY",
    "CONTROL",
    "DECLARED_KEY",
    "DISMISSED_KEY",
    "FACTS",
    "MONITOR",
    "MONITOR_LEASE",
    "OWN_PREFIX",
    "PAUSE_KEY",
    "SILENCE_KEY",
    "STATE_KEY",
    "SUPERVISOR",
    "SUPERVISOR_LEASE",
    "ActionCompleted",
    "ActionKind",
    "ActionRefused",
    "ActionRequested",
    "ActionStarted",
    "ChaosHealed",
    "ChaosInjected",
    "ChaosKind",
    "ChaosRefused",
    "ChaosRequested",
    "CheckChanged",
    "CheckDeclared",
    "CheckDismissed",
    "CheckResult",
    "CheckSilenced",
    "ConfigChanged",
    "Decision",
    "Fact",
    "IncidentActionDecided",
    "IncidentActionProposed",
    "IncidentAnalysed",
    "IncidentAttemptFailed",
    "IncidentClosed",
    "IncidentConcluded",
    "IncidentEngaged",
    "IncidentEscalated",
    "IncidentOpened",
    "IncidentRecurred",
    "IncidentVerified",
    "IncidentVerifying",
    "Level",
    "MonitorStarted",
    "Origin",
    "Outcome",
    "RecoveryPaused",
    "RecoveryUnpaused",
    "ServiceAdopted",
    "ServiceBackingOff",
    "ServiceBlocked",
    "ServiceDeclared",
    "ServiceExited",
    "ServiceGaveUp",
    "ServiceNotReady",
    "ServiceReady",
    "ServiceStarted",
    "ServiceStarting",
    "ServiceStopped",
    "ServiceStopping",
    "SupervisorStarted",
    "SupervisorStopped",
    "Value",
    "Verdict",
    "action_finished_key",
    "action_key",
    "action_requested_key",
    "action_started_key",
    "check_stream",
    "draft",
    "fact_of",
    "incident_stream",
    "service_stream",
]


def _leaves(kind: type[Fact]) -> list[type[Fact]]:
    found = [kind] if kind.TYPE else []
    for inner in kind.__subclasses__():
        found += _leaves(inner)
    return found


FACTS: dict[str, type[Fact]] = {kind.TYPE: kind for kind in _leaves(Fact)}
"""Every payload by its event's type."""


def draft(fact: Fact, *, parent: str | None = None, actor: str | None = None) -> Draft:
    """The fact as an event to be appended, with its type and key."""
    return Draft(type=fact.TYPE, payload=fact, key=fact.key(), parent=parent, actor=actor)


def fact_of(event: Event) -> Fact | None:
    """The event's payload as its own struct; None if erased, of another shape, or not one of recovery's."""
    shape = FACTS.get(event.type)
    if shape is None or event.data is None:
        return None
    try:
        return msgspec.json.decode(event.data, type=shape)
    except msgspec.ValidationError:
        return None
