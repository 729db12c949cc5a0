"""What the program asks its host: leave to use a tool, which somebody decides, and all else, which is answered at once.

A request that nobody answers would hold the agent for ever, so every one is answered, if only with an error.
"""

from __future__ import annotations

import msgspec

from harness.errors import NotFound
from harness.sessions.dialects.claude.items import brief, summary_of
from harness.sessions.dialects.fields import Object, encoded, part, parts, text
from harness.sessions.facts import Noted, Unrecognised
from harness.sessions.reports import ApprovalAsked, ApprovalSettled, Decision, Report, Step

QUESTION = "AskUserQuestion"
"""The tool by which the agent asks a person; the reason of an approval is the answer."""


class _Open(msgspec.Struct, frozen=True, kw_only=True):
    tool: str
    given: Object


class Asking:
    """The approvals that are open."""

    def __init__(self) -> None:
        self._open: dict[str, _Open] = {}

    def request(self, line: Object, turn: str) -> Step:
        """A `control_request` of the program."""
        request_id, request = text(line, "request_id"), part(line, "request")
        match text(request, "subtype"):
            case _ if not request_id:
                return Step(reports=(Unrecognised(kind="control_request/no id", raw=brief(repr(line), 2_000)),))
            case "can_use_tool":
                return Step(reports=self._ask(request_id, request, turn))
            case "elicitation":
                told = f"{text(request, 'mcp_server_name')} asked: {text(request, 'message')}; declined, for nobody can answer"
                return _answered(request_id, {"action": "decline"}, Noted(kind="elicitation", text=brief(told)))
            case "hook_callback":
                told = Noted(kind="hook_callback", text=brief(text(request, "callback_id")))
                return _answered(request_id, {}, told)
            case "request_user_dialog" | "mcp_message" as subtype:
                told = " ".join(text(request, name) for name in ("dialog_kind", "server_name") if text(request, name))
                return _refused(request_id, subtype, Noted(kind=subtype, text=brief(told)))
            case subtype:
                told = Unrecognised(kind=brief(f"control_request/{subtype}", 80), raw=brief(repr(request), 2_000))
                return _refused(request_id, subtype, told)

    def pending(self, response: Object, turn: str) -> list[Report]:
        """The requests that the program says are still open, as it does when it is greeted again."""
        found: list[Report] = []
        for line in parts(response, "pending_permission_requests"):
            request_id, request = text(line, "request_id"), part(line, "request")
            if request_id and text(request, "subtype") == "can_use_tool":
                found += self._ask(request_id, request, turn)
        return found

    def cancelled(self, line: Object) -> list[Report]:
        """A `control_cancel_request`: the program does not wait for this any more."""
        request_id = text(line, "request_id")
        if self._open.pop(request_id, None) is None:
            return []
        return [ApprovalSettled(request=request_id, reason="the agent withdrew it")]

    def withdraw_all(self) -> list[Report]:
        """The program is at its prompt: it waits for nothing."""
        left, self._open = self._open, {}
        return [ApprovalSettled(request=each, reason="the agent went on without an answer") for each in left]

    def decide(self, request: str, decision: Decision) -> bytes:
        """The answer to write. Raises `NotFound` if nobody waits for it."""
        asked = self._open.pop(request, None)
        if asked is None:
            raise NotFound(f"the agent does not wait for an answer to {request!r}; see 'harness status' for what is open")
        if decision.allow:
            return _response(request, {"behavior": "allow", "updatedInput": _allowed(asked, decision.reason)})
        denial = {"behavior": "deny", "message": decision.reason or "denied", "interrupt": decision.interrupt}
        return _response(request, denial)

    @property
    def what(self) -> str:
        """What the agent waits for: `question`, `permission`, or nothing."""
        if not self._open:
            return ""
        return "question" if next(reversed(self._open.values())).tool == QUESTION else "permission"

    def _ask(self, request_id: str, request: Object, turn: str) -> tuple[Report, ...]:
        if request_id in self._open:
            return ()
        tool, given = text(request, "tool_name"), part(request, "input")
        self._open[request_id] = _Open(tool=tool, given=given)
        why = text(request, "decision_reason")
        summary = f"{summary_of(given)}\n({brief(why)})" if why else summary_of(given)
        return (ApprovalAsked(request=request_id, tool=tool, arguments=dict(given), summary=summary, turn=turn),)


def _allowed(asked: _Open, reason: str) -> Object:
    """The arguments as they were; to a question also the answer, which is the same for each of several."""
    if asked.tool != QUESTION or not reason:
        return asked.given
    questions = [text(question, "question") for question in parts(asked.given, "questions")]
    return {**asked.given, "answers": {question: reason for question in questions if question}}


def _response(request_id: str, response: Object) -> bytes:
    inner = {"subtype": "success", "request_id": request_id, "response": response}
    return encoded({"type": "control_response", "response": inner})


def _answered(request_id: str, response: Object, *reports: Report) -> Step:
    return Step(reports=reports, replies=(_response(request_id, response),))


def _refused(request_id: str, subtype: str, *reports: Report) -> Step:
    inner = {"subtype": "error", "request_id": request_id, "error": f"{subtype} is not served here"}
    return Step(reports=reports, replies=(encoded({"type": "control_response", "response": inner}),))
