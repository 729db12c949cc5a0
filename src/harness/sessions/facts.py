"""What is written about a session (stream `session/KEY`): event types and payloads. No I/O.

KEY is `ID@RUN`: the id that a person uses, and eight hex digits that are new for every start, so that a reused id
never mixes two runs. Client and host both import this module and never each other.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal

import msgspec

CLAIMED = "session.claimed"
STARTED = "session.started"
GUARD_LOST = "session.guard_lost"
IDENTIFIED = "session.identified"
STATE_CHANGED = "session.state_changed"
STATE_DISPUTED = "session.state_disputed"
QUEUED = "message.queued"
WRITTEN = "message.written"
ACCEPTED = "message.accepted"
COMPLETED = "message.completed"
FAILED = "message.failed"
DROPPED = "message.dropped"
EXPIRED = "message.expired"
WITHDRAWN = "message.withdrawn"
LOST = "message.lost"
TURN_STARTED = "turn.started"
ITEM_COMPLETED = "item.completed"
TURN_COMPLETED = "turn.completed"
USAGE = "usage.recorded"
APPROVAL_REQUESTED = "approval.requested"
APPROVAL_DECIDED = "approval.decided"
UNRECOGNISED = "protocol.unrecognised"
NOTED = "notice.recorded"
STALLED = "stall.detected"
RESUMED = "session.resumed"
ESCALATED = "session.escalated"
LIMITED = "session.limited"
RETRIED = "session.retried"
GIT = "git.observed"
STOP_REQUESTED = "stop.requested"
INTERRUPT_REQUESTED = "interrupt.requested"
PROBE_REQUESTED = "probe.requested"
EXITED = "session.exited"
SUMMARIZED = "session.summarized"

INBOX_LIMIT = 64
"""How many messages may wait for one session; one more is refused."""


class Mode(StrEnum):
    """How the host talks to the agent program."""

    PTY = "pty"
    STREAM = "stream"
    APP_SERVER = "app-server"
    ONCE = "once"  # one prompt, one answer, exit


class State(StrEnum):
    """What the agent is doing, as far as anybody can tell."""

    STARTING = "starting"
    PROMPT = "prompt"  # it waits for the next message
    BUSY = "busy"
    BLOCKED = "blocked"  # it waits for an answer: see `detail`
    LIMITED = "limited"  # a usage limit holds it until `until_us`
    UNKNOWN = "unknown"  # nothing is sent, nothing is killed
    EXITED = "exited"
    LOST = "lost"  # its host died and nobody saw how it ended


class Source(StrEnum):
    """Where a reading of the state comes from, the most trusted first."""

    PROTOCOL = "protocol"
    HOOK = "hook"
    TRANSCRIPT = "transcript"
    TITLE = "title"
    SCREEN = "screen"
    PROCESS = "process"
    HOST = "host"  # the host's own deeds: it started it, it saw it exit


class MessageStatus(StrEnum):
    """Where a message stands. The last six are final."""

    QUEUED = "queued"
    WRITTEN = "written"  # it is with the program, or on the way: from here on it cannot be taken back
    ACCEPTED = "accepted"  # there is a receipt
    DONE = "done"  # the turn that it started is over
    FAILED = "failed"
    DROPPED = "dropped"  # by a person, or because the session ended
    EXPIRED = "expired"
    WITHDRAWN = "withdrawn"  # by its sender
    UNKNOWN = "unknown"  # written, and no receipt will ever come


class Placing(StrEnum):
    """When a message is put before the agent."""

    QUEUE = "queue"  # at its next prompt
    STEER = "steer"  # into the turn under way, where the transport can
    INTERRUPT = "interrupt"  # after ending the turn under way


class ExitReason(StrEnum):
    """Why a session is over."""

    SUCCESS = "success"
    FAILURE = "failure"
    TIMEOUT = "timeout"  # a limit of the session was reached
    STOPPED = "stopped"
    KILLED = "killed"  # by a signal that we did not send
    LOST = "lost"


class Origin(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Who sends a message."""

    kind: Literal["human", "session", "harness"] = "human"
    cli: str = ""  # of the sending session
    id: str = ""  # of the sending session


class Limits(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the host enforces whatever the agent does; None: no limit."""

    max_budget_usd: float | None = None
    max_turns: int | None = None
    max_wall_seconds: float | None = None


class Claimed(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The id is this run's from here on: written before the agent is started."""

    id: str
    cli: str
    mode: Mode
    argv: tuple[str, ...]
    cwd: str
    machine: str  # as in `ids.machine`: pids mean nothing elsewhere
    guard_pid: int
    guard_started: int  # as in `processes.Identity`
    host_pid: int
    host_started: int
    repo: str = ""  # root of the git repository, or the working directory
    description: str = ""
    meta: Any = None
    limits: Limits = Limits()
    inbox_ttl_seconds: float = 120.0
    attended: bool = False  # a person started it in the foreground
    tmux: str = ""  # the window that shows it
    worktree: str = ""
    branch: str = ""
    folder: str = ""  # which its host holds while it lives, as in `ids.let_go`
    follows: str = ""  # key of the run that this one continues
    vendor_session: str = ""  # that it continues
    port: int = 0  # of its own web door, if it has one


class Started(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The agent runs. What the claim said is said again from `cli` on, so that readers of the public events need only this."""

    pid: int
    started: int
    columns: int = 0
    rows: int = 0
    cli: str = ""
    mode: Mode | None = None
    host_pid: int | None = None
    cwd: str = ""
    repo: str = ""
    description: str = ""
    meta: Any = None
    follows: str = ""


class GuardLost(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The guard is gone and the host goes on alone: from here on the host's process stands for the session."""

    pid: int
    started: int


class Identified(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the program said about itself; only what is new."""

    vendor_session: str = ""
    model: str = ""
    cli_version: str = ""
    transcript: str = ""  # the vendor's own record
    capabilities: tuple[str, ...] = ()


class StateChanged(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    state: State
    source: Source
    confidence: float
    detail: str = ""  # of blocked: permission, question, trust, dialog; else what the source saw
    until_us: int | None = None
    evidence: str = ""


class StateDisputed(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Two sources disagree; `state` and `source` won."""

    state: State
    source: Source
    other_state: State
    other_source: Source
    evidence: str = ""


class Queued(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    message_id: str  # a UUID
    text: str
    expires_us: int
    placing: Placing = Placing.QUEUE
    origin: Origin = Origin()
    submit: bool = True  # False: the text is put into the composer only
    only_submit: bool = False  # no text: Enter alone
    forced: bool = False  # also where the state is not known


class Moved(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A message's next status; the event's type says which."""

    message_id: str
    reason: str = ""
    by: str = ""
    turn: str = ""
    receipt: str = ""  # what proves it


class TurnStarted(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    turn: str
    message_ids: tuple[str, ...] = ()


class ItemCompleted(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that the agent did or said."""

    kind: Literal["text", "reasoning", "tool", "file", "plan", "error", "notice", "compaction"]
    name: str = ""  # of a tool
    summary: str = ""
    turn: str = ""
    ok: bool = True
    duration_ms: int | None = None
    call: str = ""  # digest of tool and arguments: the same call again has the same
    exit_code: int | None = None
    paths: tuple[str, ...] = ()
    agent: str = ""  # of a sub-agent


class TurnCompleted(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A turn is over; whether the task is done is for somebody else to say."""

    turn: str
    outcome: Literal["success", "error", "interrupted", "limit", "refused"]
    summary: str = ""  # the last words, clipped
    error: str = ""
    message_ids: tuple[str, ...] = ()
    duration_ms: int | None = None
    more: bool = False  # background work or queued turns go on


class Usage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Tokens and money since the last such event, and in all since the vendor's session began."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    cost_usd: float | None = None
    model: str = ""
    turn: str = ""
    total_input_tokens: int = 0
    total_output_tokens: int = 0
    total_cost_usd: float | None = None
    at_input: int = 0  # where the vendor's own counters of this model stand
    at_output: int = 0
    at_cached: int = 0
    at_cache_write: int = 0
    at_reasoning: int = 0
    at_cost_usd: float | None = None


class ApprovalRequested(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    request: str
    tool: str
    summary: str = ""
    arguments: Any = None
    question: str = ""  # stream question/ID where a person is asked; empty: policy decides
    deadline_us: int | None = None
    turn: str = ""


class ApprovalDecided(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    request: str
    decision: Literal["allow", "deny", "withdrawn"]
    by: str  # policy, deadline, a person, the agent itself
    reason: str = ""


class Unrecognised(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The first message of a kind that the dialect does not know; all of them are in the transcript."""

    kind: str
    raw: str = ""


class Noted(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    kind: str
    text: str


class Stalled(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    clock: str  # which one ran out
    idle_seconds: float
    rung: str  # what is done about it
    reason: str = ""
    state: str = ""


class Resumed(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    number: int
    maximum: int
    how: Literal["interrupt", "vendor", "fresh"]
    reason: str = ""
    key: str = ""  # of the run that goes on, where it is another one


class Escalated(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    reason: str


class Limited(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    kind: str
    until_us: int | None = None


class Retried(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The program itself tries again after a failure of its provider."""

    attempt: int
    maximum: int | None = None
    delay_seconds: float | None = None
    error: str = ""


class GitObserved(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    phase: Literal["start", "change", "end"]
    sha: str = ""
    branch: str = ""
    dirty: bool | None = None


class StopRequested(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    by: str
    timeout_seconds: float = 30.0
    reason: str = ""
    kill: bool = False  # at once, without the program's own exit


class InterruptRequested(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    by: str
    reason: str = ""


class ProbeRequested(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    by: str
    reason: str = ""


class Exited(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The agent and all its descendants are gone."""

    reason: ExitReason
    code: int | None = None
    signal: int | None = None
    needed: Literal["", "exit", "term", "kill"] = ""  # to stop it
    detail: str = ""
    tail: str = ""  # last output, cleaned
    by: str = "host"  # or guard, or who found it lost


class Summarized(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Counted once, at the end."""

    turns: int = 0
    messages: int = 0
    tools: int = 0
    errors: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float | None = None
    wall_seconds: float = 0.0
    busy_seconds: float = 0.0
    final_state: str = ""


SHAPES: dict[str, type[msgspec.Struct]] = {
    CLAIMED: Claimed, STARTED: Started, GUARD_LOST: GuardLost, IDENTIFIED: Identified, STATE_CHANGED: StateChanged,
    STATE_DISPUTED: StateDisputed,
    QUEUED: Queued, WRITTEN: Moved, ACCEPTED: Moved, COMPLETED: Moved, FAILED: Moved, DROPPED: Moved, EXPIRED: Moved,
    WITHDRAWN: Moved, LOST: Moved, TURN_STARTED: TurnStarted, ITEM_COMPLETED: ItemCompleted, TURN_COMPLETED: TurnCompleted,
    USAGE: Usage, APPROVAL_REQUESTED: ApprovalRequested, APPROVAL_DECIDED: ApprovalDecided, UNRECOGNISED: Unrecognised,
    NOTED: Noted, STALLED: Stalled, RESUMED: Resumed, ESCALATED: Escalated, LIMITED: Limited, RETRIED: Retried,
    GIT: GitObserved, STOP_REQUESTED: StopRequested, INTERRUPT_REQUESTED: InterruptRequested,
    PROBE_REQUESTED: ProbeRequested, EXITED: Exited, SUMMARIZED: Summarized,
}  # fmt: skip

STATUS_AFTER: dict[str, MessageStatus] = {
    QUEUED: MessageStatus.QUEUED,
    WRITTEN: MessageStatus.WRITTEN,
    ACCEPTED: MessageStatus.ACCEPTED,
    COMPLETED: MessageStatus.DONE,
    FAILED: MessageStatus.FAILED,
    DROPPED: MessageStatus.DROPPED,
    EXPIRED: MessageStatus.EXPIRED,
    WITHDRAWN: MessageStatus.WITHDRAWN,
    LOST: MessageStatus.UNKNOWN,
}

OPEN_STATUSES = frozenset({MessageStatus.QUEUED, MessageStatus.WRITTEN, MessageStatus.ACCEPTED})
FINAL_STATUSES = frozenset(MessageStatus) - OPEN_STATUSES


def stream_of(key: str) -> str:
    """The stream of a run of a session."""
    return f"session/{key}"


def id_lock(id_: str) -> str:
    """The unique key that the living run of an id holds."""
    return f"session-id/{id_}"


def vendor_lock(cli: str, vendor_session: str) -> str:
    """The unique key of who owns a vendor's session: the programs do not look themselves."""
    return f"vendor-session/{cli}/{vendor_session}"


def inbox_counter(key: str) -> str:
    """The counter that holds the inbox to `INBOX_LIMIT`."""
    return f"session-inbox/{key}"
