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

from enum import StrEnum
from typing import Any, ClassVar

import msgspec

from harness.ledger import Draft, Event

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


class _State(Fact, frozen=True, kw_only=True):
    KEY: ClassVar[str | None] = STATE_KEY

    epoch: int  # grows with every decision to start or to stop


# -- service/NAME: life of a process


class ServiceDeclared(Fact, frozen=True, kw_only=True):
    """What shall run. Written when it differs from what was declared last."""

    TYPE: ClassVar[str] = "service.declared"
    KEY: ClassVar[str | None] = DECLARED_KEY

    name: str
    command: tuple[str, ...]
    ready: str = ""
    restart: str = "agent"
    depends_on: tuple[str, ...] = ()
    own: bool = False  # one of Harness's own processes
    config: str = ""  # path of the file that set_config edits
    address: str = ""  # host:port it listens on, as far as known
    log: str = ""  # path of its captured output
    digest: str = ""  # of the whole declaration: what differs here is another service
    removed: bool = False  # no longer declared


class ServiceStarting(_State, frozen=True, kw_only=True):
    """A start was decided; the process is about to be spawned under `tag`."""

    TYPE: ClassVar[str] = "service.starting"

    tag: str
    reason: str
    action_id: str = ""  # the action that asked for it
    restarts: int = 0  # automatic restarts in a row before this one
    log_offset: int = 0  # where in its log its output begins


class ServiceStarted(_State, frozen=True, kw_only=True):
    """The process exists. It need not be ready."""

    TYPE: ClassVar[str] = "service.started"

    pid: int
    started: int  # start time in clock ticks since boot: pid and this name one process
    tag: str
    action_id: str = ""


class ServiceReady(_State, frozen=True, kw_only=True):
    """The readiness probe passed."""

    TYPE: ClassVar[str] = "service.ready"

    pid: int
    seconds: float  # since it was spawned or adopted


class ServiceNotReady(_State, frozen=True, kw_only=True):
    """The readiness probe did not pass in time; the process is still there."""

    TYPE: ClassVar[str] = "service.not_ready"

    pid: int
    seconds: float
    reason: str


class ServiceExited(_State, frozen=True, kw_only=True):
    """The process ended without having been asked to: hard evidence."""

    TYPE: ClassVar[str] = "service.exited"

    pid: int
    code: int | None  # None: ended by a signal, or unknown since it was adopted
    signal: int | None
    ran_seconds: float
    last_output: str = ""  # the end of what it wrote; data, never to be trusted


class ServiceStopping(_State, frozen=True, kw_only=True):
    """A stop was decided; the whole tree is being asked to end."""

    TYPE: ClassVar[str] = "service.stopping"

    pid: int | None
    reason: str
    action_id: str = ""


class ServiceStopped(_State, frozen=True, kw_only=True):
    """The process and all its descendants are gone."""

    TYPE: ClassVar[str] = "service.stopped"

    pid: int | None
    needed: str  # nothing | term | kill
    ended: int  # how many processes
    action_id: str = ""


class ServiceAdopted(_State, frozen=True, kw_only=True):
    """A process that an earlier supervisor had started is owned again."""

    TYPE: ClassVar[str] = "service.adopted"

    pid: int
    started: int
    tag: str


class ServiceBackingOff(_State, frozen=True, kw_only=True):
    """A restart waits until `due_us`."""

    TYPE: ClassVar[str] = "service.backing_off"

    delay_seconds: float
    due_us: int
    restarts: int


class ServiceGaveUp(_State, frozen=True, kw_only=True):
    """Too many automatic restarts in a row; only a person or an action starts it again."""

    TYPE: ClassVar[str] = "service.gave_up"

    restarts: int
    window_seconds: float
    reason: str


class ServiceBlocked(_State, frozen=True, kw_only=True):
    """It cannot be started as things are: its port belongs to a foreign process, or its command does not run."""

    TYPE: ClassVar[str] = "service.blocked"

    kind: str  # port_taken | command | dependency
    reason: str
    pid: int | None = None  # who holds the port, if that can be seen; it is left alone


# -- service/NAME: configuration, actions, chaos


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
    arguments: dict[str, Value] = {}
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


# -- check/NAME


class CheckDeclared(Fact, frozen=True, kw_only=True):
    """What is checked. Written when it differs from what was declared last."""

    TYPE: ClassVar[str] = "check.declared"
    KEY: ClassVar[str | None] = DECLARED_KEY

    name: str
    query: str
    condition: str = ""
    target: str = ""
    description: str = ""
    enabled: bool = True
    interval_seconds: float = 5.0
    timeout_seconds: float = 3.0
    fail_after: int = 2
    fail_window: int = 3
    recover_after: int = 3
    priority: str = "high"
    labels: dict[str, str] = {}
    origin: str = "file"  # file: harness.toml | api: added while running
    removed: bool = False


class CheckChanged(Fact, frozen=True, kw_only=True):
    """A check's result or its hard state changed."""

    TYPE: ClassVar[str] = "check.changed"
    KEY: ClassVar[str | None] = STATE_KEY

    name: str
    result: CheckResult
    before: CheckResult | None = None  # None: the first result
    hard: bool = False  # the change is believed: enough results in a row, or hard evidence
    target: str = ""
    observed: str = ""  # in words: "status 503", "connection refused", "412 ms"
    evidence: dict[str, Any] = {}
    sampled_us: int = 0
    reason: str = ""


class CheckSilenced(Fact, frozen=True, kw_only=True):
    """No tickets for this check or target for a while. The stream is `check/` and the check's or target's name."""

    TYPE: ClassVar[str] = "check.silenced"
    KEY: ClassVar[str | None] = SILENCE_KEY

    subject: str
    until_us: int  # in the past: the silence is over
    reason: str = ""
    by: str = ""


class CheckDismissed(Fact, frozen=True, kw_only=True):
    """The analyst wants no ticket for this failure now; it is asked again after `until_us`."""

    TYPE: ClassVar[str] = "check.dismissed"
    KEY: ClassVar[str | None] = DISMISSED_KEY

    subject: str  # the target, or the check if it has none
    fingerprint: str
    until_us: int
    by: str
    reason: str = ""
    run: str = ""


# -- incident/TICKET


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
    evidence: dict[str, Any] = {}


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
    arguments: dict[str, Value] = {}
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
    passes: dict[str, int] = {}  # fresh passing results by check
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


# -- control/*


class RecoveryPaused(Fact, frozen=True, kw_only=True):
    """No agent acts until unpaused; survives every restart."""

    TYPE: ClassVar[str] = "recovery.paused"
    KEY: ClassVar[str | None] = PAUSE_KEY

    by: str
    reason: str = ""


class RecoveryUnpaused(Fact, frozen=True, kw_only=True):
    """Agents may act again."""

    TYPE: ClassVar[str] = "recovery.unpaused"
    KEY: ClassVar[str | None] = PAUSE_KEY

    by: str
    reason: str = ""


class MonitorStarted(Fact, frozen=True, kw_only=True):
    """A monitor looks from now on."""

    TYPE: ClassVar[str] = "monitor.started"
    KEY: ClassVar[str | None] = STATE_KEY

    pid: int
    started: int
    checks: int


class SupervisorStarted(Fact, frozen=True, kw_only=True):
    """A supervisor took this home over."""

    TYPE: ClassVar[str] = "supervisor.started"
    KEY: ClassVar[str | None] = STATE_KEY

    pid: int
    started: int
    services: tuple[str, ...]
    adopted: int = 0


class SupervisorStopped(Fact, frozen=True, kw_only=True):
    """It ended everything it owned and let go."""

    TYPE: ClassVar[str] = "supervisor.stopped"
    KEY: ClassVar[str | None] = STATE_KEY

    pid: int
    reason: str


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
