"""A session as its events tell it: the fold that status, waiting and analysis stand on. No I/O."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from harness.ledger import Event
from harness.sessions import facts
from harness.sessions.facts import MessageStatus, State
from harness.sessions.reports import Cumulative


class Message(msgspec.Struct, kw_only=True):
    """One message to the agent and what became of it."""

    id: str
    text: str
    status: MessageStatus
    placing: facts.Placing
    origin: facts.Origin
    queued_us: int
    expires_us: int
    submit: bool = True
    only_submit: bool = False
    forced: bool = False
    reason: str = ""
    turn: str = ""
    changed_us: int = 0

    @property
    def open(self) -> bool:
        return self.status in facts.OPEN_STATUSES


class Approval(msgspec.Struct, kw_only=True):
    """One thing that the agent asked leave for."""

    request: str
    tool: str
    summary: str
    arguments: object
    asked_us: int
    question: str = ""
    deadline_us: int | None = None
    decision: str = ""  # empty: it is open
    by: str = ""
    reason: str = ""


class Totals(msgspec.Struct, kw_only=True):
    """Sums over the run."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    cost_usd: float | None = None
    unpriced: str = ""  # a model of which nobody knows what it costs
    uncounted: bool = False  # nobody knows what is used at all
    messages: int = 0
    turns: int = 0
    tools: int = 0
    errors: int = 0
    busy_us: int = 0


class Session(msgspec.Struct, kw_only=True):
    """One run of a session. Fields that nothing has told yet are empty."""

    key: str
    id: str = ""
    cli: str = ""
    mode: str = ""
    seq: int = 0  # of the newest event that is folded in
    claimed: facts.Claimed | None = None
    started_us: int = 0
    pid: int = 0
    pid_started: int = 0
    guard_pid: int = 0  # while it or the host runs, the session is somebody's
    guard_started: int = 0
    state: State = State.STARTING
    state_detail: str = ""
    state_source: str = ""
    state_confidence: float = 0.0
    state_us: int = 0
    until_us: int | None = None
    vendor_session: str = ""
    vendor_sessions: list[str] = msgspec.field(default_factory=list[str])  # all that it was given or has told of
    model: str = ""
    cli_version: str = ""
    vendor_transcript: str = ""
    turn: str = ""  # under way; empty: none
    turn_started_us: int = 0
    last_event_us: int = 0
    messages: dict[str, Message] = msgspec.field(default_factory=dict[str, Message])
    forgotten: dict[MessageStatus, int] = msgspec.field(default_factory=dict[MessageStatus, int])  # of `messages`, by a host
    approvals: dict[str, Approval] = msgspec.field(default_factory=dict[str, Approval])
    counters: dict[str, Cumulative] = msgspec.field(default_factory=dict[str, Cumulative])  # of the vendor, by model
    totals: Totals = msgspec.field(default_factory=Totals)
    stop: facts.StopRequested | None = None
    exited: facts.Exited | None = None
    exited_us: int = 0
    escalated: str = ""
    resumes: int = 0

    @property
    def live(self) -> bool:
        """Whether nobody has recorded its end."""
        return self.exited is None

    @property
    def pending(self) -> list[Message]:
        """Messages that wait, the oldest first."""
        return [message for message in self.messages.values() if message.status is MessageStatus.QUEUED]

    @property
    def open_approvals(self) -> list[Approval]:
        return [approval for approval in self.approvals.values() if not approval.decision]

    def fold(self, event: Event) -> None:
        """Take one event in. An erased payload leaves what it told as it was."""
        self.seq = event.seq
        self.last_event_us = event.ts
        if event.erased:
            return
        shape = facts.SHAPES.get(event.type)
        if shape is not None:
            self._take(event, event.load(shape))

    def _take(self, event: Event, told: msgspec.Struct) -> None:
        match told:
            case facts.Claimed():
                self.claimed, self.id, self.cli, self.mode = told, told.id, told.cli, str(told.mode)
                self.started_us = event.ts
                self._has_vendor_session(told.vendor_session)
                self.guard_pid, self.guard_started = told.guard_pid, told.guard_started
            case facts.Started():
                self.pid, self.pid_started = told.pid, told.started
            case facts.Identified():
                self._has_vendor_session(told.vendor_session)
                self.model = told.model or self.model
                self.cli_version = told.cli_version or self.cli_version
                self.vendor_transcript = told.transcript or self.vendor_transcript
            case facts.StateChanged():
                self._count_busy(event.ts)
                self.state, self.state_detail, self.state_us = told.state, told.detail, event.ts
                self.state_source, self.state_confidence, self.until_us = str(told.source), told.confidence, told.until_us
            case facts.Queued():
                self.totals.messages += 1
                self.messages[told.message_id] = Message(
                    id=told.message_id, text=told.text, status=MessageStatus.QUEUED, placing=told.placing, origin=told.origin,
                    queued_us=event.ts, expires_us=told.expires_us, submit=told.submit, only_submit=told.only_submit,
                    forced=told.forced, changed_us=event.ts,
                )  # fmt: skip
            case facts.Moved():
                self._move(event, told)
            case facts.TurnStarted():
                self.turn, self.turn_started_us = told.turn, event.ts
            case facts.TurnCompleted():
                self.turn = ""
                self.totals.turns += 1
                self.totals.errors += told.outcome == "error"
            case facts.ItemCompleted():
                self.totals.tools += told.kind == "tool"
                self.totals.errors += told.kind == "error"
            case facts.Usage():
                self._add(told)
            case facts.Noted(kind="uncounted"):
                self.totals.uncounted = True
            case facts.ApprovalRequested():
                self.approvals[told.request] = Approval(
                    request=told.request, tool=told.tool, summary=told.summary, arguments=told.arguments, asked_us=event.ts,
                    question=told.question, deadline_us=told.deadline_us,
                )  # fmt: skip
            case facts.ApprovalDecided():
                if (approval := self.approvals.get(told.request)) is not None:
                    approval.decision, approval.by, approval.reason = told.decision, told.by, told.reason
            case facts.GuardLost():
                self.guard_pid, self.guard_started = told.pid, told.started
            case facts.StopRequested():
                self.stop = told
            case facts.Resumed():
                self.resumes = max(self.resumes, told.number)
            case facts.Escalated():
                self.escalated = told.reason
            case facts.Exited():
                self._count_busy(event.ts)
                self.exited, self.exited_us, self.state_us, self.turn = told, event.ts, event.ts, ""
                self.state = State.LOST if told.reason is facts.ExitReason.LOST else State.EXITED
                self.state_source, self.state_confidence, self.state_detail = str(facts.Source.HOST), 1.0, told.detail
            case _:
                pass

    def _has_vendor_session(self, vendor: str) -> None:
        if vendor:
            self.vendor_session = vendor
            self.vendor_sessions = [*(each for each in self.vendor_sessions if each != vendor), vendor]

    def _count_busy(self, now_us: int) -> None:
        if self.state is State.BUSY:
            self.totals.busy_us += now_us - self.state_us

    def _move(self, event: Event, told: facts.Moved) -> None:
        message = self.messages.get(told.message_id)
        if message is None:
            return
        message.status = facts.STATUS_AFTER[event.type]
        message.reason = told.reason or message.reason
        message.turn = told.turn or message.turn
        message.changed_us = event.ts

    def _add(self, told: facts.Usage) -> None:
        self.counters[told.model] = Cumulative(
            model=told.model, input_tokens=told.at_input, output_tokens=told.at_output, cached_tokens=told.at_cached,
            cache_write_tokens=told.at_cache_write, reasoning_tokens=told.at_reasoning, cost_usd=told.at_cost_usd,
        )  # fmt: skip
        totals = self.totals
        totals.input_tokens += told.input_tokens
        totals.output_tokens += told.output_tokens
        totals.cached_tokens += told.cached_tokens
        totals.reasoning_tokens += told.reasoning_tokens
        if told.cost_usd is None:
            totals.unpriced = told.model or "its model"
        else:
            totals.cost_usd = (totals.cost_usd or 0.0) + told.cost_usd


def folded(key: str, events: Iterable[Event]) -> Session:
    """The session that these events of its stream tell, from the first on."""
    session = Session(key=key)
    for event in events:
        session.fold(event)
    return session
