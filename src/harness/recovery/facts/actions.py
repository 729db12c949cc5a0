"""`service/NAME`: what is asked of the supervisor, and what it has made of it: actions, configuration, faults."""

from __future__ import annotations

from typing import ClassVar

from msgspec import field

from harness.recovery.facts.vocabulary import (
    CHAOS_KEY,
    CONFIG_KEY,
    ActionKind,
    ChaosKind,
    Decision,
    Fact,
    Origin,
    Outcome,
    Value,
    action_key,
)


class ConfigChanged(Fact, frozen=True, kw_only=True):
    """A service's configuration file changed from one version to another."""

    TYPE: ClassVar[str] = "config.changed"
    KEY: ClassVar[str | None] = CONFIG_KEY

    path: str
    before: str  # SHA-256 of the bytes; the bytes themselves are kept in the home
    after: str
    diff: str  # unified, with secrets masked
    action_id: str = ""
    reverts: str = ""  # the version that was put back


class _Action(Fact, frozen=True, kw_only=True):
    action_id: str

    def key(self) -> str | None:
        return action_key(self.action_id)


class ActionRequested(_Action, frozen=True, kw_only=True):
    """Somebody asks the supervisor to act on the service whose stream this is."""

    TYPE: ClassVar[str] = "action.requested"

    kind: ActionKind
    target: str
    arguments: dict[str, Value] = field(default_factory=dict[str, Value])
    origin: Origin = Origin.AGENT
    requested_by: str
    reason: str = ""
    ticket: str = ""
    fingerprint: str = ""
    lease: str = ""  # the claim it is made under; the supervisor fences with it
    token: int = 0
    decision: Decision | None = None  # what the envelope said when it was proposed
    question: str = ""  # the approval it rests on, whose digest binds these arguments
    deadline_us: int | None = None  # not begun after this


class ActionStarted(_Action, frozen=True, kw_only=True):
    """The supervisor has begun, once, after the envelope agreed a second time."""

    TYPE: ClassVar[str] = "action.started"

    kind: ActionKind
    target: str
    epoch: int  # the service's epoch before the action
    ticket: str = ""
    fingerprint: str = ""
    origin: Origin = Origin.AGENT
    decision: Decision | None = None


class ActionCompleted(_Action, frozen=True, kw_only=True):
    """The action is over, once."""

    TYPE: ClassVar[str] = "action.completed"

    kind: ActionKind
    target: str
    outcome: Outcome
    detail: str
    epoch: int  # the service's epoch after it
    ticket: str = ""
    resolved: bool = False  # found out by a later supervisor from what had happened


class ActionRefused(_Action, frozen=True, kw_only=True):
    """The action was not begun, and will not be."""

    TYPE: ClassVar[str] = "action.refused"

    kind: ActionKind
    target: str
    reason: str
    ticket: str = ""
    decision: Decision | None = None


class ChaosRequested(Fact, frozen=True, kw_only=True):
    """Somebody asks for a fault."""

    TYPE: ClassVar[str] = "chaos.requested"

    chaos_id: str
    kind: ChaosKind
    heal_after_seconds: float | None = None  # None: the kind's own default
    requested_by: str = ""


class ChaosInjected(Fact, frozen=True, kw_only=True):
    """The fault is there since this event's time."""

    TYPE: ClassVar[str] = "chaos.injected"
    KEY: ClassVar[str | None] = CHAOS_KEY

    chaos_id: str
    kind: ChaosKind
    pid: int
    epoch: int
    heals_us: int | None = None  # None: nothing is left to heal


class ChaosHealed(Fact, frozen=True, kw_only=True):
    """The fault is gone."""

    TYPE: ClassVar[str] = "chaos.healed"
    KEY: ClassVar[str | None] = CHAOS_KEY

    chaos_id: str
    kind: ChaosKind
    reason: str  # its time was over | the process was replaced | asked to


class ChaosRefused(Fact, frozen=True, kw_only=True):
    """The fault was not made."""

    TYPE: ClassVar[str] = "chaos.refused"

    chaos_id: str
    kind: ChaosKind
    reason: str
