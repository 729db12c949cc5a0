"""`incident/TICKET`: the timeline of one incident, written by monitor, responder and verifier."""

from __future__ import annotations

from typing import Any, ClassVar

from msgspec import field

from harness.recovery.facts.vocabulary import ActionKind, Decision, Fact, Value


class IncidentOpened(Fact, frozen=True, kw_only=True):
    """Something is wrong and has a ticket."""

    TYPE: ClassVar[str] = "incident.opened"

    ticket: str
    fingerprint: str
    check: str
    target: str
    title: str = ""
    observed: str = ""
    detected_us: int = 0  # when the first evidence was seen
    evidence: dict[str, Any] = field(default_factory=dict[str, Any])


class IncidentRecurred(Fact, frozen=True, kw_only=True):
    """The same fingerprint again while its ticket is open."""

    TYPE: ClassVar[str] = "incident.recurred"

    ticket: str
    count: int
    check: str = ""
    observed: str = ""


class IncidentAnalysed(Fact, frozen=True, kw_only=True):
    """What the analyst made of it, and whether a model, rules or the fallback did."""

    TYPE: ClassVar[str] = "incident.analysed"

    ticket: str
    open_ticket: bool
    by: str  # model's name, `rules`, or `fallback`
    objective: str = ""
    context: str = ""
    priority: str = ""
    reason: str = ""
    run: str = ""  # the kernel run that recorded it
    seconds: float = 0.0


class IncidentEngaged(Fact, frozen=True, kw_only=True):
    """An agent has begun an attempt. What it was told stands here, so that it is told the same after a restart."""

    TYPE: ClassVar[str] = "incident.engaged"

    ticket: str
    attempt: int
    by: str  # model's name, or `rules`
    run: str  # the kernel run that records it
    holder: str = ""
    system: str = ""
    prompt: str = ""
    reason: str = ""  # why this model, if it is not the configured one


class IncidentConcluded(Fact, frozen=True, kw_only=True):
    """What the agent itself says of its attempt. It is no proof of anything; the newest of an attempt counts."""

    TYPE: ClassVar[str] = "incident.concluded"

    ticket: str
    attempt: int
    fixed: bool  # it thinks so; False: a person has to go on
    reason: str = ""
    by: str = ""
    run: str = ""


class IncidentActionProposed(Fact, frozen=True, kw_only=True):
    """The agent wants to act."""

    TYPE: ClassVar[str] = "incident.action_proposed"

    ticket: str
    action_id: str
    kind: ActionKind
    target: str
    arguments: dict[str, Value] = field(default_factory=dict[str, Value])
    reason: str = ""
    attempt: int = 1
    by: str = ""
    run: str = ""


class IncidentActionDecided(Fact, frozen=True, kw_only=True):
    """The envelope, or a person, answered a proposal."""

    TYPE: ClassVar[str] = "incident.action_decided"

    ticket: str
    action_id: str
    decision: Decision
    by: str = "envelope"
    question: str = ""


class IncidentVerifying(Fact, frozen=True, kw_only=True):
    """The agent says it is done; now the checks have to."""

    TYPE: ClassVar[str] = "incident.verifying"

    ticket: str
    attempt: int = 1
    action_id: str = ""
    checks: tuple[str, ...] = ()
    window_seconds: float = 0.0


class IncidentVerified(Fact, frozen=True, kw_only=True):
    """All the target's checks passed, freshly, through the window."""

    TYPE: ClassVar[str] = "incident.verified"

    ticket: str
    attempt: int = 1
    action_id: str = ""
    passes: dict[str, int] = field(default_factory=dict[str, int])  # fresh passing results by check
    since_us: int = 0
    window_seconds: float = 0.0


class IncidentAttemptFailed(Fact, frozen=True, kw_only=True):
    """An attempt did not heal it."""

    TYPE: ClassVar[str] = "incident.attempt_failed"

    ticket: str
    attempt: int
    reason: str
    action_id: str = ""
    reverted: bool = False


class IncidentEscalated(Fact, frozen=True, kw_only=True):
    """A person has to take over; this is the hand-over."""

    TYPE: ClassVar[str] = "incident.escalated"

    ticket: str
    reason: str
    known: tuple[str, ...] = ()
    tried: tuple[str, ...] = ()
    ruled_out: tuple[str, ...] = ()
    next_commands: tuple[str, ...] = ()


class IncidentClosed(Fact, frozen=True, kw_only=True):
    """The ticket reached its last state."""

    TYPE: ClassVar[str] = "incident.closed"

    ticket: str
    status: str  # of the item
    reason: str = ""
