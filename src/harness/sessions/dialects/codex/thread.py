"""One thread as the app-server tells it: state, turns, items, tokens, limits; and its sub-agents' threads beside it."""

from __future__ import annotations

from collections.abc import Callable

from harness.sessions.dialects.codex.account import LIMIT, Allowance, Meter, error_text, outcome_of, retried
from harness.sessions.dialects.codex.agents import Agents
from harness.sessions.dialects.codex.items import CALLS, arguments_text, brief, item_of, plan_of
from harness.sessions.dialects.codex.notices import LIFE, Notices
from harness.sessions.dialects.codex.turns import Turn, Turns
from harness.sessions.dialects.fields import Object, number, part, parts, text, texts
from harness.sessions.facts import Identified, Limited, Noted, Source, State, TurnCompleted, TurnStarted, Unrecognised
from harness.sessions.reports import Progress, Reading, Receipt, Report

READ = "thread/read"
_SUMMARY = 2_000
_MAX_ITEMS = 1_000
_OF_OTHERS = frozenset({
    "turn/started", "turn/completed", "thread/settings/updated", "thread/goal/updated", "thread/goal/cleared", "model/rerouted",
    "thread/reverted",
})  # fmt: skip
"""What of a sub-agent's thread is only a sign of life."""


class Thread:
    """Follows the thread of a session. Each method gives what is to be reported, in order."""

    def __init__(self, *, resumed: str, now: Callable[[], float]) -> None:
        self.id = resumed
        self.turns = Turns()
        self.left_running = False  # the turn that has just been interrupted left commands running
        self._now = now
        self._open = False
        self._model = ""
        self._status = ""
        self._earlier = bool(resumed)  # no turn has been ours yet
        self._limited_until: int | None = None
        self._limited = False
        self._goal = False
        self._allowance = Allowance()
        self._meter = Meter()
        self._items: dict[str, Object] = {}  # changes that were announced, for who is asked about them
        self._left: set[str] = set()
        self._agents = Agents()
        self._background: set[str] = set()  # commands that outlive their turn
        self._unknown: set[str] = set()
        self._notices = Notices()

    # Answers to our requests

    def opened(self, result: Object, evidence: str) -> list[Report]:
        """The thread exists."""
        thread = part(result, "thread")
        self.id, self._open = text(thread, "id"), True
        self._model = text(result, "model") or text(thread, "model")
        told: list[Report] = [
            Identified(vendor_session=self.id, model=self._model, transcript=text(thread, "path"))
        ]  # fmt: skip
        last = parts(part(result, "initialTurnsPage"), "data")
        if last and text(last[0], "status") == "interrupted" and number(last[0], "completedAt") is None:
            told.append(_cut(last[0]))
        return [*told, *self._status_is(part(thread, "status"), evidence)]

    def read(self, thread: Object) -> list[Report]:
        """The thread as it is now, told for our asking. It is called idle still when a turn of ours has been accepted."""
        turn = self.turns.active
        return [] if turn is not None and not turn.begun else self._status_is(part(thread, "status"), READ)

    def started(self, id_: str, message_id: str, *, cut: bool) -> list[Report]:
        """Our turn/start was answered. If the program had begun a turn by itself, the message has joined that one."""
        if not id_:
            return [Receipt(stage="accepted", message_id=message_id, proof="turn/start")]
        known = self.turns.known(id_)
        turn = self.turns.begin(id_)
        turn.cut = turn.cut or cut
        turn.add(message_id, read=known is None)
        busy = self._reading(State.BUSY, evidence="turn/start")
        return [busy, Receipt(stage="accepted", message_id=message_id, turn=id_, proof="turn/start")]

    def steered(self, id_: str, message_id: str) -> list[Report]:
        """Our turn/steer was taken; whether it is read in time is told by the turn."""
        turn = self.turns.known(id_)
        if turn is not None:
            turn.add(message_id, read=False)
        return [Receipt(stage="accepted", message_id=message_id, turn=id_, proof="turn/steer")]

    def announced(self, item: str) -> Object:
        """What was said of an item when it began."""
        return self._items.get(item, {})

    def terminals(self, listed: list[Object], *, all_: bool) -> list[str]:
        """The commands that run on, as the program lists them. Gives those that our interrupt was to end."""
        running = {text(each, "itemId"): text(each, "processId") for each in listed}
        if all_:
            self._background &= running.keys()
        left, self._left = self._left, set()
        return [running[item] for item in sorted(left) if running.get(item)]

    # Notifications

    def notified(self, method: str, params: Object) -> list[Report] | None:
        """What a notification tells; None if its kind is not known."""
        self.left_running = False
        if (told := self._notices.take(method, params)) is not None:
            return told
        other = text(params, "threadId")
        if other and other != self.id:
            return self._other(method, params, other)
        match method:
            case "thread/status/changed":
                return self._status_is(part(params, "status"), method)
            case "turn/started":
                return self._turn_started(text(part(params, "turn"), "id"))
            case "turn/completed":
                return self._turn_completed(part(params, "turn"))
            case "item/started":
                return self._item_started(part(params, "item"), text(params, "turnId"))
            case "item/completed":
                return self._item_completed(part(params, "item"), text(params, "turnId"))
            case _:
                return self._aside(method, params)

    def _aside(self, method: str, params: Object) -> list[Report] | None:
        match method:
            case "thread/tokenUsage/updated":
                return self._used(params, self.id, self._model)
            case "account/rateLimits/updated":
                return list(self._allowance.take(part(params, "rateLimits"))) or [LIFE]
            case "error":
                return self._error(params)
            case "turn/plan/updated":
                return [plan_of(parts(params, "plan"), text(params, "turnId"))]
            case "thread/goal/updated" | "thread/goal/cleared":
                self._goal = text(part(params, "goal"), "status") == "active"
                return [LIFE]
            case "thread/settings/updated":
                return self._model_is(text(part(params, "threadSettings"), "model"))
            case "model/rerouted":
                said = f"from {text(params, 'fromModel')} to {text(params, 'toModel')}: {text(params, 'reason')}"
                return [Noted(kind="model", text=brief(said)), *self._model_is(text(params, "toModel"))]
            case "thread/closed" | "thread/archived" | "thread/deleted" | "thread/reverted":
                return [self._reading(State.UNKNOWN, detail=method.partition("/")[2], evidence=method)]
            case _:
                return None

    # State

    def _reading(self, state: State, *, detail: str = "", evidence: str, until_us: int | None = None) -> Reading:
        return Reading(state=state, source=Source.PROTOCOL, detail=detail, evidence=evidence, until_us=until_us)

    def _status_is(self, status: Object, evidence: str) -> list[Report]:
        """The thread's status. That a turn is over is reported when the turn has been."""
        if not self._open:
            return [LIFE]
        self._status = text(status, "type")
        match self._status:
            case "active":
                flags = texts(status, "activeFlags")
                self._limited = False
                if "waitingOnApproval" in flags:
                    return [self._reading(State.BLOCKED, detail="permission", evidence=evidence)]
                if "waitingOnUserInput" in flags:
                    return [self._reading(State.BLOCKED, detail="question", evidence=evidence)]
                return [self._reading(State.BUSY, evidence=evidence)]
            case "idle" | "systemError":
                held = self.turns.active is not None and evidence != READ
                self.turns.rest()
                return [LIFE] if held else [self._at_rest(evidence)]
            case other:
                return [self._reading(State.UNKNOWN, detail=brief(other, 100) or "no status", evidence=evidence)]

    def _at_rest(self, evidence: str) -> Reading:
        """No turn is under way. What `systemError` means is known if a turn has failed: the next one may be tried."""
        if self._limited and not self._limit_over(evidence):
            return self._reading(State.LIMITED, detail=LIMIT, evidence=evidence, until_us=self._limited_until)
        if self._status == "systemError" and self._earlier:
            return self._reading(State.UNKNOWN, detail="systemError", evidence=evidence)
        return self._reading(State.PROMPT, detail="after an error" if self._status == "systemError" else "", evidence=evidence)

    def _limit_over(self, evidence: str) -> bool:
        """A limit without a known end holds until somebody asks how the thread is."""
        until = self._limited_until
        return evidence == READ if until is None else until <= self._now() * 1e6

    def _model_is(self, model: str) -> list[Report]:
        if not model or model == self._model:
            return [LIFE]
        self._model = model
        return [Identified(model=model)]

    # Turns

    def _turn_started(self, id_: str) -> list[Report]:
        if not id_:
            return [LIFE]
        self._earlier = False
        turn = self.turns.begin(id_)
        turn.begun = True
        return [TurnStarted(turn=id_, message_ids=tuple(turn.messages))]

    def _turn_completed(self, said: Object) -> list[Report]:
        id_ = text(said, "id")
        known = self.turns.end(id_)
        turn = known or Turn(id_)
        error = part(said, "error")
        outcome = outcome_of(text(said, "status"), error)
        running = turn.calls & self._background if outcome == "interrupted" else set[str]()
        self.left_running = bool(running)
        self._left = running if turn.cut else set()
        duration = number(said, "durationMs")
        told = TurnCompleted(
            turn=id_, outcome=outcome, summary=brief(_last_words(said) or turn.last_words, _SUMMARY),
            error=error_text(error) if error else "", message_ids=tuple(turn.messages),
            duration_ms=None if duration is None else max(0, round(duration)),
            more=self._goal or self._agents.busy or bool(self._background - running),
        )  # fmt: skip
        reports: list[Report] = [told, *turn.receipts()]
        self._limited = outcome == "limit"
        if self._limited:
            self._limited_until = self._allowance.until_us()
            if self._limited_until is None:  # else it was told with the window that is used up
                reports.append(Limited(kind=LIMIT))
        if turn.calls:
            reports.append(Progress(what="tool", in_tool=False))
        if self.turns.active is None and self._status in ("idle", "systemError"):
            reports.append(self._at_rest("turn/completed"))
        return reports

    # Items

    def _item_started(self, item: Object, turn_id: str, agent: str = "") -> list[Report]:
        kind, id_ = text(item, "type"), text(item, "id")
        turn = self.turns.known(turn_id)
        if kind == "userMessage":
            return self._user_message(item, turn)
        if kind == "subAgentActivity":
            self._agents.activity(item)
        if kind == "fileChange" and len(self._items) < _MAX_ITEMS:
            self._items[id_] = item
        if kind == "commandExecution" and not agent and len(self._background) < _MAX_ITEMS:
            self._background.add(id_)
        if kind not in CALLS:
            return [Progress(what="text")]
        if turn is not None and len(turn.calls) < _MAX_ITEMS:
            turn.calls.add(id_)
        return [Progress(what="tool", in_tool=None if agent else True)]

    def _item_completed(self, item: Object, turn_id: str, agent: str = "") -> list[Report]:
        kind, id_ = text(item, "type"), text(item, "id")
        turn = self.turns.known(turn_id)
        if kind == "userMessage":
            return self._user_message(item, turn)
        self._items.pop(id_, None)
        self._background.discard(id_)
        if kind == "agentMessage" and turn is not None:
            turn.last_words = brief(text(item, "text"), _SUMMARY)
        told = item_of(item, turn_id, agent)
        reports: list[Report] = [told if told is not None else self._strange(item)]
        if turn is not None and id_ in turn.calls:
            turn.calls.discard(id_)
            if not turn.calls:
                reports.append(Progress(what="tool", in_tool=False))
        return reports

    def _strange(self, item: Object) -> Report:
        kind = brief(f"item/{text(item, 'type')}", 200)
        if kind in self._unknown or len(self._unknown) >= _MAX_ITEMS:
            return LIFE
        self._unknown.add(kind)
        return Unrecognised(kind=kind, raw=brief(arguments_text(item), _SUMMARY))

    def _user_message(self, item: Object, turn: Turn | None) -> list[Report]:
        """The program shows a message in its conversation: nothing proves better that it was read."""
        message_id = text(item, "clientId")
        if not message_id or turn is None or message_id in turn.messages:
            return [LIFE]
        turn.add(message_id, read=True)
        return [Receipt(stage="accepted", message_id=message_id, turn=turn.id, proof="userMessage")]

    # The rest

    def _used(self, params: Object, thread: str, model: str) -> list[Report]:
        turn = text(params, "turnId")
        total = part(part(params, "tokenUsage"), "total")
        before = thread == self.id and self._earlier
        used = self._meter.take(thread, model, total, "" if before else turn, before=before)
        return [Progress(what="tokens"), used]

    def _error(self, params: Object) -> list[Report]:
        """An error that is not tried again ends its turn, which tells of it; one without a turn tells itself."""
        error = part(params, "error")
        if params.get("willRetry") is True:
            return [retried(error)]
        known = self.turns.known(text(params, "turnId")) is not None
        return [LIFE] if known else [Noted(kind="error", text=error_text(error))]

    # Sub-agents

    def _other(self, method: str, params: Object, thread: str) -> list[Report] | None:
        """Of a thread that is not ours: a sub-agent's."""
        if not self._open:
            return [LIFE]
        agent = self._agents.name(thread)
        match method:
            case "thread/status/changed" | "thread/closed" | "thread/archived" | "thread/deleted":
                self._agents.status(thread, params)
                return [LIFE]
            case "item/started":
                return self._item_started(part(params, "item"), "", agent)
            case "item/completed":
                return self._item_completed(part(params, "item"), text(params, "turnId"), agent)
            case "thread/tokenUsage/updated":
                return self._used(params, thread, self._agents.model(thread) or self._model)
            case "error":
                return [retried(part(params, "error"))] if params.get("willRetry") is True else [LIFE]
            case "turn/plan/updated":
                return [plan_of(parts(params, "plan"), text(params, "turnId"), agent)]
            case _:
                return [LIFE] if method in _OF_OTHERS else None


def _cut(turn: Object) -> TurnCompleted:
    """The last turn of a thread that is continued, which nobody ended: its program was killed."""
    ids = [text(item, "clientId") for item in parts(turn, "items") if text(item, "type") == "userMessage"]
    return TurnCompleted(
        turn=text(turn, "id"), outcome="interrupted", summary=brief(_last_words(turn), _SUMMARY),
        error="it was cut off when its program ended", message_ids=tuple(each for each in ids if each),
    )  # fmt: skip


def _last_words(turn: Object) -> str:
    return next((text(item, "text") for item in reversed(parts(turn, "items")) if text(item, "type") == "agentMessage"), "")
