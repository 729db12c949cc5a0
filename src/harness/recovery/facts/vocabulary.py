"""The words of recovery's events: streams, keys, closed choices, and what a fact is."""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar

import msgspec

CONTROL = "control/recovery"
SUPERVISOR = "control/supervisor"
SUPERVISOR_LEASE = "recovery/supervisor"
MONITOR = "control/monitor"
MONITOR_LEASE = "recovery/monitor"  # renewed as long as the monitor really looks: its dead man's switch
PAUSE_KEY = "pause"
STATE_KEY = "state"  # `latest("service/NAME", STATE_KEY)` is what the process does now
DECLARED_KEY = "declared"
CONFIG_KEY = "config"
CHAOS_KEY = "chaos"
SILENCE_KEY = "silence"
DISMISSED_KEY = "dismissed"
OWN_PREFIX = "harness-"  # the names of Harness's own processes begin so; nothing else's may

Value = str | int | float | bool | None
"""What an action's argument may be."""


def service_stream(name: str) -> str:
    """Where a service's life is recorded."""
    return f"service/{name}"


def check_stream(name: str) -> str:
    """Where a check's changes are recorded."""
    return f"check/{name}"


def incident_stream(ticket: str) -> str:
    """Where an incident's timeline is recorded; it is named by its ticket's item."""
    return f"incident/{ticket}"


def action_key(action_id: str) -> str:
    """`latest(service_stream(target), action_key(id))` is how far an action has come."""
    return f"action/{action_id}"


def action_requested_key(action_id: str) -> str:
    """The unique key that `action.requested` takes, so that a repeated proposal is one request."""
    return f"action-requested/{action_id}"


def action_started_key(action_id: str) -> str:
    """The unique key that `action.started` takes: an action is begun once."""
    return f"action-started/{action_id}"


def action_finished_key(action_id: str) -> str:
    """The unique key that `action.completed` or `action.refused` takes: an action ends once."""
    return f"action-finished/{action_id}"


class Level(StrEnum):
    """How far an action may go on its own."""

    OFF = "off"  # not even proposed
    SUGGEST = "suggest"  # written down for a person to do
    APPROVE = "approve"  # done once a person approves these very arguments
    AUTO = "auto"  # done


class ActionKind(StrEnum):
    """What the supervisor can be asked to do."""

    START_SERVICE = "start_service"  # people only
    STOP_SERVICE = "stop_service"
    RESTART_SERVICE = "restart_service"
    SET_CONFIG = "set_config"  # arguments: key (dotted), value
    REVERT_CONFIG = "revert_config"  # arguments: version (a digest) or none for the one before


class ChaosKind(StrEnum):
    """What can be broken on purpose."""

    KILL = "kill"
    HANG = "hang"
    SLOW = "slow"
    ERROR_503 = "503"


class CheckResult(StrEnum):
    """What a check says. Only PASS is good; UNKNOWN means that it could not look."""

    PASS = "pass"  # noqa: S105 - a result, not a password
    FAIL = "fail"
    UNKNOWN = "unknown"
    ERROR = "error"


class Verdict(StrEnum):
    """What the envelope says to one action at one time."""

    ALLOW = "allow"
    ASK = "ask"  # a person has to approve
    SUGGEST = "suggest"
    REFUSE = "refuse"


class Origin(StrEnum):
    """Who asks for an action: the envelope binds agents, not people."""

    AGENT = "agent"
    PERSON = "person"


class Outcome(StrEnum):
    """How an action ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    UNKNOWN = "unknown"  # it may or may not have happened


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What the envelope decided, and why."""

    verdict: Verdict
    level: Level
    reason: str
    limit: str = ""  # the name of the limit that refused, if one did


class Fact(msgspec.Struct, frozen=True, kw_only=True):
    """A payload that knows its event's type; `key()` is what `latest` finds it by."""

    TYPE: ClassVar[str] = ""
    KEY: ClassVar[str | None] = None

    def key(self) -> str | None:
        return self.KEY
