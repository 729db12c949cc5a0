"""Claude Code's stream-json, both ways, and the same output of a program that was given one prompt. No I/O.

    claude -p --input-format stream-json --output-format stream-json --verbose \\
        --permission-prompt-tool stdio --replay-user-messages
    claude -p --output-format stream-json --verbose -- PROMPT

Seen of 2.1.329: the state comes as `session_state_changed` if `CLAUDE_CODE_EMIT_SESSION_STATE_EVENTS=1`; a message is
`queued` when the program has it and `started` when a turn takes it up. A message of priority `next` joins the turn under
way at its next step, one of priority `later` waits for a turn of its own, and one of priority `now` ends the turn under
way (after the tool that runs). The same message id twice is taken once, even by a program that continues the session.
"""

from __future__ import annotations

from harness.errors import UsageError
from harness.sessions.dialects.claude.asking import Asking
from harness.sessions.dialects.claude.identity import Identity, told_by
from harness.sessions.dialects.claude.items import Items, brief, task_item, tasks_of
from harness.sessions.dialects.claude.outgoing import Requests, message_line
from harness.sessions.dialects.claude.states import States, reading, retried
from harness.sessions.dialects.claude.turns import Turns
from harness.sessions.dialects.claude.usage import Meter
from harness.sessions.dialects.fields import NotJson, Object, as_object, count, decoded, part, text, truth
from harness.sessions.facts import Identified, ItemCompleted, Mode, Noted, State, TurnCompleted, Unrecognised
from harness.sessions.reports import ApprovalAsked, Decision, Outgoing, Progress, Reading, Report, Step

_RAW = 2_000
_KIND = 80
_HEARTBEAT = Progress(what="heartbeat")
_MOVES = frozenset({
    "active_goal", "auth_status", "conversation_reset", "prompt_suggestion", "tool_use_summary", "system/commands_changed",
    "system/files_persisted", "system/hook_progress", "system/hook_response", "system/hook_started",
    "system/memory_recall", "system/task_progress", "system/task_started", "system/task_updated",
})  # fmt: skip
_NOTICES = frozenset({
    "informational", "local_command_output", "model_refusal_fallback", "model_refusal_no_fallback", "notification",
    "permission_denied", "session_writes_lost", "worker_shutting_down",
})  # fmt: skip


class ClaudeStream:
    """See `LineDialect`. `mode` is `stream`, or `once` for a program that takes no messages after its first.

    `resumed`: it continues a session, so its counters have a beginning that is to be told.
    """

    failed = ""

    def __init__(self, mode: Mode = Mode.STREAM, *, resumed: bool = False) -> None:
        once = mode is Mode.ONCE
        talks = {"messages", "steer", "interrupt", "approve", "receipts", "probe"}
        self.can: frozenset[str] = frozenset({"usage", "resume"} | (set() if once else talks))
        self._once = once
        self._turns = Turns(once=once)
        self._items = Items()
        self._states = States()
        self._asking = Asking()
        self._requests = Requests()
        self._identity = Identity()
        self._meter = Meter(resumed=resumed)
        self._background: frozenset[str] = frozenset()
        self._refused = False

    # What is written

    def opening(self) -> tuple[bytes, ...]:
        """Its answer is the first sign that the program is at its prompt."""
        return () if self._once else (self._requests.compose("initialize", {"hooks": None}),)

    def message(self, message: Outgoing) -> bytes:
        if self._once:
            raise UsageError("a program that was given its one prompt takes no messages: start it with --mode stream")
        return message_line(message)

    def interrupt(self) -> bytes:
        working = self._turns.open or self._states.working
        return self._requests.compose("interrupt", {}) if working and not self._once else b""

    def decide(self, request: str, decision: Decision) -> bytes:
        return self._asking.decide(request, decision)

    def probe(self) -> bytes:
        """The session's cost: unlike the context's size, it is told without asking the model's provider."""
        return b"" if self._once else self._requests.compose("get_session_cost", {}, purpose="probe")

    def finish(self) -> bytes:
        """Nothing: the program ends when its input is closed, after the turn under way and those that wait."""
        return b""

    # What is read

    def feed(self, line: bytes) -> Step:
        try:
            message = as_object(decoded(line))
        except NotJson:
            return Step(reports=(Noted(kind="output", text=brief(line.decode("utf-8", "replace"), _RAW)),))
        if message is None:
            return _unrecognised("no object", line)
        try:
            return self._one(message, line)
        except RecursionError:
            return _unrecognised("nested too deep", line)

    def _one(self, message: Object, line: bytes) -> Step:
        type_ = text(message, "type")
        kind = f"system/{text(message, 'subtype')}" if type_ == "system" else type_
        if kind == "keep_alive":
            return Step()
        if kind in _MOVES:
            return Step(reports=(_HEARTBEAT,))
        if type_ == "control_request":
            return self._asked(message)
        reports = self._system(message) if type_ == "system" else self._message(type_, message)
        if self._once and reports:  # it will exit: it never waits for a message
            reports = [each for each in reports if not (isinstance(each, Reading) and each.state is State.PROMPT)]
        return _unrecognised(kind, line) if reports is None else Step(reports=tuple(reports))

    def _message(self, type_: str, line: Object) -> list[Report] | None:
        match type_:
            case "assistant":
                return [*self._states.answered(line), *self._items.said(line, self._turns.turn)]
            case "user" if truth(line, "isReplay"):
                return [_HEARTBEAT, *self._turns.replayed(line)]
            case "user":
                return self._items.results(line)
            case "stream_event":
                delta = text(part(part(line, "event"), "delta"), "type")
                return [Progress(what="text" if delta == "text_delta" else "tokens")]
            case "tool_progress":
                return [Progress(what="tool", in_tool=True)]
            case "result":
                return self._result(line)
            case "command_lifecycle":
                return self._turns.lifecycle(line)
            case "rate_limit_event":
                return self._states.rate_limit(part(line, "rate_limit_info"))
            case "control_response":
                return self._answer(part(line, "response"))
            case "control_cancel_request":
                return self._asking.cancelled(line)
            case _:
                return None

    def _system(self, line: Object) -> list[Report] | None:
        match text(line, "subtype"):
            case "init":
                return self._init(line)
            case "session_state_changed":
                left = self._asking.withdraw_all() if text(line, "state") == "idle" else []
                changed = self._states.changed(text(line, "state"))
                return None if changed is None else [*left, *changed]
            case "api_retry":
                return retried(line)
            case "status":
                compacting = text(line, "status") == "compacting"
                shown = compacting or "compact_result" in line
                return [_HEARTBEAT, *([reading(State.BUSY, "status", detail="compacting" * compacting)] if shown else [])]
            case "compact_boundary":
                return [self._compacted(part(line, "compact_metadata"))]
            case "thinking_tokens":
                return [Progress(what="tokens")]
            case "background_tasks_changed":
                self._background = tasks_of(line)
                return [_HEARTBEAT]
            case "task_notification":
                ours = text(line, "task_id") in self._background
                return [_HEARTBEAT, *([task_item(line, self._turns.turn)] if ours else [])]
            case subtype if subtype in _NOTICES:
                self._refused = self._refused or subtype == "model_refusal_no_fallback"
                return [_HEARTBEAT, _notice(subtype, line)]
            case _:
                return None

    def _init(self, line: Object) -> list[Report]:
        begun = self._turns.begin(text(line, "uuid") or text(line, "session_id"))
        return [*self._identity.news(told_by(line)), *begun, *self._states.shown(State.BUSY, "init")]

    def _result(self, line: Object) -> list[Report]:
        usage = self._meter.read(line, self._turns.turn)
        left = self._items.end_turn()
        over = self._turns.end(line, limited=self._states.limited, refused=self._refused, background=bool(self._background))
        self._refused = False
        waits = any(isinstance(report, TurnCompleted) for report in over) and not count(line, "queued_turn_count")
        return [*left, *usage, *over, *(self._states.shown(State.PROMPT, "result") if waits else [])]

    def _compacted(self, told: Object) -> Report:
        summary = f"{text(told, 'trigger')}: {count(told, 'pre_tokens')} to {count(told, 'post_tokens')} tokens"
        return ItemCompleted(kind="compaction", summary=brief(summary), turn=self._turns.turn)

    def _asked(self, line: Object) -> Step:
        step = self._asking.request(line, self._turns.turn)
        if not any(isinstance(report, ApprovalAsked) for report in step.reports):
            return step
        self._items.waits(text(part(line, "request"), "tool_use_id"))
        return Step(reports=(*step.reports, reading(State.BLOCKED, "can_use_tool", detail=self._asking.what)))

    def _answer(self, response: Object) -> list[Report]:
        """A `control_response`: to a request of ours, or the echo of an answer that we gave."""
        purpose = self._requests.answered(text(response, "request_id"))
        if not purpose:
            return [_HEARTBEAT, *(self._states.shown(State.BUSY, "answered") if self._turns.open else [])]
        failed = text(response, "subtype") == "error" and purpose != "probe"
        told = [Noted(kind="control_error", text=brief(f"{purpose}: {text(response, 'error')}"))] if failed else []
        return [_HEARTBEAT, *told, *(self._greeted(response) if purpose == "initialize" else [])]

    def _greeted(self, response: Object) -> list[Report]:
        greeting = part(response, "response")
        found: list[Report] = [*self._identity.news(Identified(cli_version=text(greeting, "claude_code_version")))]
        for where in (response, greeting):
            found += self._asking.pending(where, self._turns.turn)
        if self._asking.what:
            return [*found, reading(State.BLOCKED, "initialize", detail=self._asking.what)]
        if self._states.told or self._turns.open:
            return found
        busy = text(greeting, "session_state") in ("running", "requires_action")
        return [*found, reading(State.BUSY if busy else State.PROMPT, "initialize")]


def _notice(subtype: str, line: Object) -> Noted:
    tool = text(line, "tool_name")
    said = next((each for name in ("message", "content", "text", "error") if (each := text(line, name))), "")
    return Noted(kind=subtype, text=brief(f"{tool}: {said}" if tool else said))


def _unrecognised(kind: str, line: bytes) -> Step:
    raw = brief(line[: 4 * _RAW].decode("utf-8", "replace"), _RAW)
    return Step(reports=(_HEARTBEAT, Unrecognised(kind=brief(kind, _KIND) or "no type", raw=raw)))
