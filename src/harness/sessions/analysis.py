"""What a session's events amount to: turns, tools, errors, money, time and a timeline. A pure fold; it prints nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Literal

import msgspec

from harness.ledger import Event
from harness.sessions import facts
from harness.sessions.facts import MessageStatus, State
from harness.sessions.record import Session
from harness.text import clipped

TEXT_LIMIT = 300
_MICROSECONDS = 1_000_000


class Tool(msgspec.Struct, kw_only=True):
    """All calls of one tool."""

    name: str
    calls: int = 0
    failures: int = 0
    seconds: float = 0.0  # of the calls whose time is known
    longest_seconds: float = 0.0
    timed: int = 0  # how many those are
    longest_row: int = 0  # of identical calls, one after another


class Spent(msgspec.Struct, kw_only=True):
    """Tokens and money."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    cost_usd: float | None = None

    def add(self, used: facts.Usage) -> None:
        self.input_tokens += used.input_tokens
        self.output_tokens += used.output_tokens
        self.cached_tokens += used.cached_tokens
        self.cache_write_tokens += used.cache_write_tokens
        self.reasoning_tokens += used.reasoning_tokens
        if used.cost_usd is not None:
            self.cost_usd = (self.cost_usd or 0.0) + used.cost_usd


class Turn(msgspec.Struct, kw_only=True):
    """One turn; `outcome` is empty while it is under way, and `cut` if the session ended in the midst of it."""

    turn: str
    started_us: int
    ended_us: int | None = None
    outcome: str = ""
    messages: tuple[str, ...] = ()
    tools: int = 0
    failures: int = 0
    words: str = ""  # the last ones
    error: str = ""
    spent: Spent = msgspec.field(default_factory=Spent)

    @property
    def seconds(self) -> float | None:
        return None if self.ended_us is None else (self.ended_us - self.started_us) / _MICROSECONDS


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that went wrong."""

    at_us: int
    kind: Literal["tool", "error", "turn", "message", "retry", "stall", "exit"]
    text: str
    turn: str = ""


class Latency(msgspec.Struct, kw_only=True):
    """How long one message took; None: that never came."""

    message_id: str
    origin: str
    status: str
    text: str
    queued_us: int
    written_seconds: float | None = None  # since it was queued, as the others
    accepted_seconds: float | None = None
    done_seconds: float | None = None


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the timeline; `seconds` since the session's start."""

    at_us: int
    seconds: float
    kind: str
    text: str


class Analysis(msgspec.Struct, kw_only=True):
    """All of it."""

    key: str
    session: Session
    started_us: int = 0
    until_us: int = 0  # the end, or when this was made
    seconds_in: dict[str, float] = msgspec.field(default_factory=dict[str, float])  # by state
    turns: list[Turn] = msgspec.field(default_factory=list[Turn])
    tools: dict[str, Tool] = msgspec.field(default_factory=dict[str, Tool])
    failures: list[Failure] = msgspec.field(default_factory=list[Failure])
    models: dict[str, Spent] = msgspec.field(default_factory=dict[str, Spent])
    total: Spent = msgspec.field(default_factory=Spent)
    messages: dict[str, Latency] = msgspec.field(default_factory=dict[str, Latency])
    files: dict[str, int] = msgspec.field(default_factory=dict[str, int])  # how often each was touched
    approvals: Counter[str] = msgspec.field(default_factory=Counter[str])  # by decision; `open` where there is none
    events: Counter[str] = msgspec.field(default_factory=Counter[str])  # by type
    timeline: list[Row] = msgspec.field(default_factory=list[Row])
    stalls: int = 0
    retries: int = 0
    erased: int = 0

    @property
    def wall_seconds(self) -> float:
        return max(0, self.until_us - self.started_us) / _MICROSECONDS

    @property
    def busy_seconds(self) -> float:
        return self.seconds_in.get(State.BUSY, 0.0)

    @property
    def blocked_seconds(self) -> float:
        return self.seconds_in.get(State.BLOCKED, 0.0)

    @property
    def limited_seconds(self) -> float:
        return self.seconds_in.get(State.LIMITED, 0.0)

    @property
    def tool_calls(self) -> int:
        return sum(tool.calls for tool in self.tools.values())

    def latency(self, share: float, of: Literal["written", "accepted", "done"] = "accepted") -> float | None:
        """The time within which this share of the messages got so far; None if none did."""
        known = sorted(value for message in self.messages.values() if (value := getattr(message, f"{of}_seconds")) is not None)
        return known[min(len(known) - 1, int(share * len(known)))] if known else None


def analyse(key: str, events: Iterable[Event], *, now_us: int | None = None) -> Analysis:
    """Fold a session's events from the first on. `now_us` is where what is still open is counted to."""
    fold = _Fold(key)
    for event in events:
        fold.take(event)
    return fold.finish(now_us)


class _Fold:
    def __init__(self, key: str) -> None:
        self.made = Analysis(key=key, session=Session(key=key))
        self._state: str = State.STARTING
        self._since_us = 0
        self._turn: Turn | None = None
        self._call = ""
        self._row = 0

    def take(self, event: Event) -> None:
        made = self.made
        if not made.started_us:
            made.started_us = self._since_us = event.ts
        made.until_us = event.ts
        made.events[event.type] += 1
        made.session.fold(event)
        if event.erased:
            made.erased += 1
            return
        shape = facts.SHAPES.get(event.type)
        if shape is not None:
            self._one(event, event.load(shape))

    def _one(self, event: Event, told: msgspec.Struct) -> None:
        made, at = self.made, event.ts
        match told:
            case facts.Claimed():
                self._row_of(at, "started", f"{told.id}: {' '.join(told.argv)}")
            case facts.StateChanged():
                self._enter(told.state, at)
                self._row_of(at, "state", f"{told.state}{f' ({told.detail})' if told.detail else ''} by {told.source}")
            case facts.Queued() | facts.Moved():
                self._message(event, told)
            case facts.TurnStarted():
                self._turn = Turn(turn=told.turn, started_us=at, messages=told.message_ids)
                made.turns.append(self._turn)
                self._forget_calls()
                self._row_of(at, "turn", f"{told.turn} begins")
            case facts.ItemCompleted():
                self._item(told, at)
            case facts.TurnCompleted():
                self._turn_over(told, at)
            case facts.Usage():
                made.total.add(told)
                made.models.setdefault(told.model, Spent()).add(told)
                if (turn := self._turn_of(told.turn)) is not None:
                    turn.spent.add(told)
            case facts.ApprovalRequested():
                self._row_of(at, "approval", f"{told.tool}: {told.summary}")
            case facts.ApprovalDecided():
                self._row_of(at, "approval", f"{told.decision} by {told.by}{f': {told.reason}' if told.reason else ''}")
            case _:
                self._rest(told, at)

    def _rest(self, told: msgspec.Struct, at: int) -> None:
        match told:
            case facts.Retried():
                self.made.retries += 1
                of = f" of {told.maximum}" if told.maximum else ""
                self._fail(at, "retry", f"attempt {told.attempt}{of}: {told.error}")
            case facts.Limited():
                self._row_of(at, "limited", told.kind)
            case facts.Stalled():
                self.made.stalls += 1
                self._fail(at, "stall", f"{told.reason}, so {told.rung}")
            case facts.Resumed():
                self._row_of(at, "resumed", f"{told.number}/{told.maximum} by {told.how}{f': {told.key}' if told.key else ''}")
            case facts.Escalated():
                self._row_of(at, "escalated", told.reason)
            case facts.GitObserved():
                self._row_of(at, "git", f"{told.phase}: {told.branch} {told.sha[:12]}".rstrip())
            case facts.StopRequested():
                self._row_of(at, "stop", f"by {told.by}{f': {told.reason}' if told.reason else ''}")
            case facts.InterruptRequested():
                self._row_of(at, "interrupt", f"by {told.by}{f': {told.reason}' if told.reason else ''}")
            case facts.Exited():
                self._exited(told, at)
            case _:
                pass

    # Time

    def _enter(self, state: str, at: int) -> None:
        seconds = max(0, at - self._since_us) / _MICROSECONDS
        if seconds:
            self.made.seconds_in[self._state] = self.made.seconds_in.get(self._state, 0.0) + seconds
        self._state, self._since_us = state, at

    def _row_of(self, at: int, kind: str, text: str) -> None:
        seconds = (at - self.made.started_us) / _MICROSECONDS
        self.made.timeline.append(Row(at_us=at, seconds=seconds, kind=kind, text=clipped(text, TEXT_LIMIT)))

    def _fail(self, at: int, kind: Literal["tool", "error", "turn", "message", "retry", "stall", "exit"], text: str) -> None:
        turn = self._turn.turn if self._turn is not None else ""
        self.made.failures.append(Failure(at_us=at, kind=kind, text=clipped(text, TEXT_LIMIT), turn=turn))
        self._row_of(at, kind if kind in ("retry", "stall") else "error", text)

    # Work

    def _turn_of(self, name: str) -> Turn | None:
        return next((turn for turn in reversed(self.made.turns) if turn.turn == name), self._turn) if name else self._turn

    def _item(self, item: facts.ItemCompleted, at: int) -> None:
        turn = self._turn_of(item.turn)
        for path in item.paths:
            self.made.files[path] = self.made.files.get(path, 0) + 1
        if item.kind == "tool":
            self._tool(item, at)
            if turn is not None:
                turn.tools += 1
                turn.failures += not item.ok
        elif item.kind == "error":
            self._fail(at, "error", f"{item.name}: {item.summary}" if item.name else item.summary)
        elif item.kind in ("text", "file", "plan"):
            self._row_of(at, item.kind, item.summary or ", ".join(item.paths))
            if item.kind == "text" and turn is not None and not item.agent:
                turn.words = clipped(item.summary, TEXT_LIMIT)
        if item.kind in ("file", "plan"):
            self._forget_calls()

    def _tool(self, item: facts.ItemCompleted, at: int) -> None:
        tool = self.made.tools.setdefault(item.name, Tool(name=item.name))
        tool.calls += 1
        if item.duration_ms is not None:
            seconds = item.duration_ms / 1000
            tool.timed += 1
            tool.seconds += seconds
            tool.longest_seconds = max(tool.longest_seconds, seconds)
        self._row = self._row + 1 if item.call and item.call == self._call else 1
        self._call = item.call
        tool.longest_row = max(tool.longest_row, self._row)
        words = f"{item.name}: {item.summary}" if item.summary else item.name
        if item.ok:
            self._row_of(at, "tool", words)
            return
        tool.failures += 1
        self._fail(at, "tool", words + (f" (code {item.exit_code})" if item.exit_code is not None else ""))

    def _forget_calls(self) -> None:
        self._call, self._row = "", 0

    def _turn_over(self, told: facts.TurnCompleted, at: int) -> None:
        turn = self._turn_of(told.turn)
        if turn is None or turn.ended_us is not None:
            turn = Turn(turn=told.turn, started_us=at - (told.duration_ms or 0) * 1000)  # its beginning was never told
            self.made.turns.append(turn)
        turn.ended_us, turn.outcome, turn.error = at, told.outcome, clipped(told.error, TEXT_LIMIT)
        turn.messages = turn.messages or told.message_ids
        turn.words = clipped(told.summary, TEXT_LIMIT) or turn.words
        if told.outcome in ("error", "refused"):
            self._fail(at, "turn", told.error or told.summary or told.outcome)
        else:
            self._row_of(at, "turn", f"{told.turn} ends: {told.outcome}")
        if turn is self._turn:
            self._turn = None

    # Messages

    def _message(self, event: Event, told: facts.Queued | facts.Moved) -> None:
        at = event.ts
        if isinstance(told, facts.Queued):
            origin = told.origin.kind if not told.origin.id else f"{told.origin.kind} {told.origin.id}"
            self.made.messages[told.message_id] = Latency(
                message_id=told.message_id, origin=origin, status=MessageStatus.QUEUED, text=clipped(told.text, TEXT_LIMIT),
                queued_us=at,
            )  # fmt: skip
            self._row_of(at, "message", told.text)
            return
        message = self.made.messages.get(told.message_id)
        if message is None:
            return
        message.status = facts.STATUS_AFTER[event.type]
        seconds = (at - message.queued_us) / _MICROSECONDS
        match message.status:
            case MessageStatus.WRITTEN:
                message.written_seconds = seconds
            case MessageStatus.ACCEPTED:
                message.accepted_seconds = seconds
            case MessageStatus.DONE:
                message.done_seconds = seconds
            case MessageStatus.FAILED | MessageStatus.EXPIRED | MessageStatus.UNKNOWN:
                self._fail(at, "message", f"{message.status}: {told.reason or message.text}")
            case _:
                pass

    # The end

    def _exited(self, told: facts.Exited, at: int) -> None:
        self._enter(State.EXITED, at)
        if self._turn is not None:
            self._turn.ended_us, self._turn.outcome, self._turn = at, "cut", None
        how = f"{told.reason}" + (f", code {told.code}" if told.code is not None else "")
        how += (f", signal {told.signal}" if told.signal is not None else "") + (f": {told.detail}" if told.detail else "")
        if told.reason in (facts.ExitReason.SUCCESS, facts.ExitReason.STOPPED):
            self._row_of(at, "exited", how)
        else:
            self._fail(at, "exit", how)

    def finish(self, now_us: int | None) -> Analysis:
        """Count what is still open up to now."""
        made = self.made
        if made.session.live and now_us is not None and now_us > made.until_us:
            made.until_us = now_us
        if made.session.live:
            self._enter(self._state, made.until_us)
        made.approvals = Counter(approval.decision or "open" for approval in made.session.approvals.values())
        return made
