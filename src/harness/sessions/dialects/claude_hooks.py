"""What Claude Code's hooks tell: prompts taken, tools, leave asked for, turns ended. Pure: JSON in, reports out.

Source of the fields: Claude Code 2.1.329. A turn that a person cuts short with Esc ends without any hook: see `cut_short`.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from harness.sessions import facts
from harness.sessions.dialects.claude.items import brief, call_of, summary_of
from harness.sessions.dialects.fields import NotJson, Object, as_object, decoded, part, text
from harness.sessions.dialects.turns import Outcome, Turns
from harness.sessions.facts import Source, State
from harness.sessions.reports import ApprovalAsked, ApprovalSettled, Progress, Reading, Report

EVENTS = (
    "SessionStart", "UserPromptSubmit", "PreToolUse", "PostToolUse", "PostToolUseFailure", "PermissionRequest", "Notification",
    "Stop", "StopFailure", "SubagentStop", "PostCompact", "SessionEnd",
)  # fmt: skip
"""The hooks that are asked for; PermissionRequest is the one whose answer counts."""

QUESTION_TOOL = "AskUserQuestion"
_LIMITS = frozenset({"rate_limit", "billing_error", "account_on_hold"})
_EXIT_CODE = re.compile(r"\bExit code (\d{1,3})\b")
_PATHS = ("file_path", "notebook_path")
_CLIP = 300


class ClaudeHooks:
    """Turns hooks into reports. `turns` is shared with whoever types the messages."""

    def __init__(self, turns: Turns) -> None:
        self.live = False  # whether any hook has come
        self.background = False  # the last turn left something running
        self.works: Callable[[], bool] = lambda: False  # whether the program says otherwise that it works
        self._answered: str | None = None  # the last words of a turn that goes on with what has joined it
        self._turns = turns
        self._asked: dict[str, str] = {}  # requests that wait, with what they are about
        self._tools: set[str] = set()

    @property
    def asked(self) -> tuple[str, ...]:
        """The requests that wait for an answer."""
        return tuple(self._asked)

    def feed(self, data: bytes, request: str = "") -> list[Report]:
        """One hook's input; `request` names it if its answer is waited for. Never raises."""
        try:
            told = as_object(decoded(data))
        except NotJson:
            told = None
        if told is None:
            return [facts.Noted(kind="hook", text=f"a hook's input is no JSON: {_shown(data)}")]
        self.live = True
        event = text(told, "hook_event_name")
        match event:
            case "SessionStart":
                return [_identified(told)]
            case "UserPromptSubmit":
                return self._prompt(told)
            case "PreToolUse":
                return self._tool_began(told)
            case "PostToolUse" | "PostToolUseFailure":
                return self._tool_ended(told, ok=event == "PostToolUse")
            case "PermissionRequest":
                return self._permission(told, request)
            case "Stop":
                return self._stop(told)
            case "StopFailure":
                return self._failure(told)
            case "Notification":
                return self._notification(told)
            case "SubagentStop":
                return [Progress(what="tool")]
            case "PostCompact":
                return [facts.ItemCompleted(kind="compaction", turn=self._turns.turn)]
            case "SessionEnd":
                return self._withdraw("the session ended")
            case _:
                return [facts.Unrecognised(kind=f"hook {event}"[:_CLIP], raw=_shown(data))]

    def answered(self, request: str) -> bool:
        """Whether this request waits; it does not any more."""
        return self._asked.pop(request, None) is not None

    def not_blocked(self) -> list[Report]:
        """The program no longer asks anything: what was not answered here was answered at its terminal."""
        return self._withdraw("it was answered at the terminal")

    def rested(self) -> list[Report]:
        """The program has stopped working: a turn that might have gone on is over."""
        if self._answered is None:
            return []
        return self._over("success", _reading(State.PROMPT, "Stop"), summary=self._answered)

    def cut_short(self) -> list[Report]:
        """The turn under way was interrupted, of which no hook tells."""
        self._tools.clear()
        self._answered = None
        withdrawn = self._withdraw("the turn was interrupted")
        unknown = Reading(state=State.UNKNOWN, source=Source.HOOK, confidence=0.0, evidence="interrupted: no hook tells")
        return [*withdrawn, *self._turns.ended("interrupted"), unknown]

    def _withdraw(self, reason: str) -> list[Report]:
        requests, self._asked = tuple(self._asked), {}
        return [ApprovalSettled(request=request, reason=reason) for request in requests]

    def _prompt(self, told: Object) -> list[Report]:
        withdrawn = self._withdraw("another prompt came")
        self.background = False
        taken = self._turns.taken(text(told, "prompt"), turn=text(told, "prompt_id"), proof="hook UserPromptSubmit")
        return [*withdrawn, *taken, _reading(State.BUSY, "UserPromptSubmit")]

    def _tool_began(self, told: Object) -> list[Report]:
        self._tools.add(text(told, "tool_use_id"))
        return [Progress(what="tool", in_tool=True), *self._busy(told)]

    def _tool_ended(self, told: Object, *, ok: bool) -> list[Report]:
        self._tools.discard(text(told, "tool_use_id"))
        call = _call(told)
        settled = [request for request, asked in self._asked.items() if asked == call]
        reports: list[Report] = []
        for request in settled:
            del self._asked[request]
            reports.append(ApprovalSettled(request=request, decision="allow", reason="it was allowed at the terminal"))
        code = _EXIT_CODE.search(text(told, "error")) if not ok else None
        reports += [
            facts.ItemCompleted(
                kind="tool", name=brief(text(told, "tool_name"), 200), summary=_summary(told), turn=self._turns.turn, ok=ok,
                duration_ms=_milliseconds(told), call=call,
                exit_code=int(code[1]) if code is not None else None, paths=_paths(told), agent=text(told, "agent_id"),
            ),
            Progress(what="tool", in_tool=bool(self._tools)),
        ]  # fmt: skip
        return [*reports, *self._busy(told)]

    def _busy(self, told: Object) -> list[Report]:
        """It works, unless another call of the same turn still waits for leave."""
        evidence = f"{text(told, 'hook_event_name')} {text(told, 'tool_name')}"
        return [] if self._asked else [_reading(State.BUSY, evidence)]

    def _permission(self, told: Object, request: str) -> list[Report]:
        tool = text(told, "tool_name")
        detail = "question" if tool == QUESTION_TOOL else "permission"
        reports: list[Report] = [_reading(State.BLOCKED, f"PermissionRequest {tool}: {_summary(told)}", detail)]
        if request:
            self._asked[request] = _call(told)
            asked = ApprovalAsked(
                request=request, tool=tool, arguments=told.get("tool_input"), summary=_summary(told), turn=self._turns.turn
            )
            reports.append(asked)
        return reports

    def _stop(self, told: Object) -> list[Report]:
        self.background = bool(told.get("background_tasks") or told.get("session_crons"))
        if self._turns.joined and not self.background and self.works():
            self._turns.joined, self._answered = False, text(told, "last_assistant_message")
            return self._withdraw("the turn went on")  # to what was queued, of which no hook tells
        detail = "background work goes on" if self.background else ""
        return self._over("success", _reading(State.PROMPT, "Stop", detail), summary=text(told, "last_assistant_message"))

    def _failure(self, told: Object) -> list[Report]:
        kind, self.background = text(told, "error"), False
        words = text(told, "last_assistant_message") or text(told, "error_details") or kind
        limited = kind in _LIMITS
        reports: list[Report] = [facts.Limited(kind=kind)] if limited else []
        over = self._over("limit" if limited else "error", _reading(State.PROMPT, f"StopFailure {kind}", "error"), error=words)
        return [*reports, *over]

    def _over(self, outcome: Outcome, reading: Reading, *, summary: str = "", error: str = "") -> list[Report]:
        self._tools.clear()
        self._answered = None
        ended = self._turns.ended(outcome, summary=summary, error=error, more=self.background)
        return [*self._withdraw("the turn is over"), *ended, reading]

    def _notification(self, told: Object) -> list[Report]:
        """Late and seldom of use; that it has waited for a minute says that it is at its prompt."""
        kind = text(told, "notification_type")
        if kind == "idle_prompt" and not self._turns.turn:
            return [_reading(State.PROMPT, "Notification idle_prompt")]
        return []


def _identified(told: Object) -> facts.Identified:
    return facts.Identified(
        vendor_session=text(told, "session_id"), model=text(told, "model"), transcript=text(told, "transcript_path")
    )


def _reading(state: State, evidence: str, detail: str = "") -> Reading:
    return Reading(state=state, source=Source.HOOK, confidence=0.95, detail=detail, evidence=evidence[:_CLIP])


def _call(told: Object) -> str:
    return call_of(text(told, "tool_name"), part(told, "tool_input"))


def _summary(told: Object) -> str:
    return summary_of(part(told, "tool_input"))


def _paths(told: Object) -> tuple[str, ...]:
    given = part(told, "tool_input")
    return tuple(path for name in _PATHS if (path := text(given, name)))


def _milliseconds(told: Object) -> int | None:
    value = told.get("duration_ms")
    return int(value) if isinstance(value, int | float) and 0 <= value < 1e12 else None


def _shown(data: bytes) -> str:
    return brief(data[:_CLIP].decode("utf-8", "replace"))
