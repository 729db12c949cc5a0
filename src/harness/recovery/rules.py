"""The rule model: a `ModelPort` without a model. It reads the same messages and tools as any other and answers from a table.

It is the demo's model, and the runbook for when a real one is away. What it says and does is labelled `rules`. It is
told nothing that other models are not told; what the evidence does not show, it does not know, and then it says so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import msgspec

from harness.errors import ModelMalformed
from harness.kernel import Message, ModelRequest, ModelResult, ToolCall, Usage
from harness.recovery.analyst import ANALYST_TASK, EVIDENCE_HEADER, CheckEvidence, Evidence
from harness.recovery.brief import Facts, facts_in
from harness.recovery.diagnosis import Diagnosis, diagnose, signs_of
from harness.recovery.failures import Severity

NAME = "rules"
MAX_PROPOSALS = 3
MAX_WAITS = 2

_FREE = Usage(cost_usd=0.0)


class RuleModel:
    """Answers the analyst's question and works tickets, one tool call at a time, by the rules of `diagnosis`."""

    async def complete(self, request: ModelRequest) -> ModelResult:
        system = next((message.text for message in request.messages if message.role == "system"), "")
        if system.startswith(ANALYST_TASK):
            return _answer(analysed(request.prompt))
        facts = _facts(request.messages)
        if facts is None:
            return _answer("unknown: this is no ticket that rules know how to read")
        return self._work(facts, request)

    def _work(self, facts: Facts, request: ModelRequest) -> ModelResult:
        offered = {tool.name for tool in request.allowed_tools}
        move = next_move(facts, heard(request.messages))
        if isinstance(move, str):
            return _answer(move)
        if move.name not in offered:
            return _answer(f"unknown: the tool {move.name} is not offered, so nothing can be done by rules")
        turn = 1 + sum(message.role == "assistant" for message in request.messages)
        call = ToolCall(id=f"{NAME}-{turn}", name=move.name, arguments_json=json.dumps(dict(move.arguments), sort_keys=True))
        return ModelResult(text=move.why, tool_calls=(call,), usage=_FREE, stop_reason="tool_calls", model=NAME)


def _answer(said: str | dict[str, Any]) -> ModelResult:
    if isinstance(said, str):
        return ModelResult(text=said, usage=_FREE, model=NAME)
    return ModelResult(output=said, text=json.dumps(said, sort_keys=True), usage=_FREE, model=NAME)


# -- a ticket


@dataclass(frozen=True, slots=True)
class Move:
    """The next tool call, and why."""

    name: str
    arguments: Mapping[str, Any]
    why: str


@dataclass(slots=True)
class Heard:
    """What the conversation has brought so far. Looks that are older than the newest deed count no more."""

    status: Mapping[str, Any] | None = None
    log: str | None = None
    metrics: bool = False
    waits: int = 0
    proposals: list[Mapping[str, Any]] = field(default_factory=list[Mapping[str, Any]])
    concluded: str = ""
    said: str = ""  # the newest refusal of a conclusion
    failures: int = 0  # tools that could not answer

    def take(self, call: ToolCall, message: Message) -> None:
        """One tool's result."""
        result = _result(message)
        if message.is_error or result is None:
            self.failures += 1
        match call.name:
            case "service_status":
                self.status = result or {}
            case "query_logs":
                self.log = unfenced(str((result or {}).get("log", "")))
            case "query_metrics":
                self.metrics = True
            case "check_now":
                self.waits += 1
                self.status = None
            case "propose_action":
                self.proposals.append(result or {"verdict": "refused", "reason": message.text[:300], "limit": "error"})
                self.status, self.log = None, None
            case "update_ticket_status" if message.is_error:
                self.said = message.text[:300]
            case "update_ticket_status":
                self.concluded = str((result or {}).get("status", ""))
            case _:
                pass


def heard(messages: Sequence[Message]) -> Heard:
    """What the tools have said, in order."""
    found = Heard()
    calls = {call.id: call for message in messages for call in message.tool_calls}
    for message in messages:
        if message.role == "tool" and (call := calls.get(message.tool_call_id)) is not None:
            found.take(call, message)
    return found


def next_move(facts: Facts, known: Heard) -> Move | str:
    """The next tool call, or the last words."""
    if known.concluded:
        return _summary(known)
    if known.said:
        return _conclude("escalated", f"unknown: {known.said}")
    if known.failures > 6 or not facts.target:
        what = "the ticket names no service" if not facts.target else "the tools do not answer"
        return _conclude("escalated", f"unknown: {what}")
    if known.proposals and (done := _after_deed(known)):
        return done
    if known.status is None:
        return Move("service_status", {"service": facts.target}, f"Look at {facts.target}.")
    if known.log is None:
        return Move("query_logs", {"service": facts.target, "lines": 40}, "Read the end of its log.")
    found = diagnose(signs_of(known.status, log=known.log, ticket=facts.ticket))
    return _by(facts, known, found)


def _after_deed(known: Heard) -> Move | None:
    """What follows from the newest proposal; None to look again."""
    newest = known.proposals[-1]
    reason = str(newest.get("reason", ""))
    what = f"{newest.get('kind')} of {newest.get('target')}"
    match newest.get("verdict"):
        case "done" if newest.get("outcome") == "succeeded" and newest.get("after") in (None, "as intended"):
            return _conclude("completed", f"{what} is done: {newest.get('detail', '')}")
        case "done" if len(known.proposals) < MAX_PROPOSALS:
            return None
        case "done":
            return _conclude("escalated", f"unknown: {what} {newest.get('outcome')}: {newest.get('detail', '')}")
        case "suggested":
            return _conclude("escalated", f"{what} is suggested and not done: {reason}")
        case _ if reason.startswith("nothing is wrong"):
            return _conclude("completed", f"it is well again without {what}: {reason}")
        case _:
            return _conclude("escalated", f"{what} was refused: {reason}")


def _by(facts: Facts, known: Heard, found: Diagnosis) -> Move:
    why = f"{found.reason} (rule {found.rule})"
    match found.remedy:
        case "none":
            return _conclude("completed", why)
        case "wait" if known.waits < MAX_WAITS:
            return Move("check_now", {"service": facts.target}, f"Wait for fresh results: {why}.")
        case "wait" | "escalate":
            told = f"unknown: {found.reason}" if not found.known or found.remedy == "wait" else why
            return _conclude("escalated", told)
        case "restart_service" if found.rule == "slow" and not known.metrics:
            return Move("query_metrics", {"service": facts.target}, "See how slow it is, and since when.")
        case "restart_service" | "revert_config":
            if len(known.proposals) >= MAX_PROPOSALS:
                return _conclude("escalated", f"unknown: {len(known.proposals)} proposals did not help; {why}")
            arguments = {"action": found.remedy, "target": facts.target, "reason": why}
            return Move("propose_action", arguments, f"Propose {found.remedy}: {why}.")


def _conclude(status: str, reason: str) -> Move:
    reason = f"{reason} [by {NAME}]"
    return Move("update_ticket_status", {"status": status, "reason": reason[:1500]}, reason)


def _summary(known: Heard) -> str:
    deeds = [f"{each.get('kind')}: {each.get('outcome') or each.get('verdict')}" for each in known.proposals]
    return f"Concluded by {NAME}: {known.concluded}. Actions: {', '.join(deeds) or 'none'}."


def _facts(messages: Sequence[Message]) -> Facts | None:
    for message in messages:
        if message.role == "user" and (facts := facts_in(message.text)) is not None:
            return facts
    return None


def _result(message: Message) -> Mapping[str, Any] | None:
    try:
        value = msgspec.json.decode(message.text)
    except (msgspec.DecodeError, UnicodeEncodeError):
        return None
    return cast("Mapping[str, Any]", value) if isinstance(value, dict) else None


def unfenced(text: str) -> str:
    """The lines inside a fence, without their marks."""
    return "\n".join(line.removeprefix("| ") for line in text.splitlines() if line.startswith("| "))


# -- the analyst's question


def analysed(prompt: str) -> dict[str, Any]:
    """Whether the failure in the evidence needs a ticket. Raises `ModelMalformed` if there is no evidence to read."""
    line = next((line for line in prompt.splitlines() if line.startswith(EVIDENCE_HEADER)), EVIDENCE_HEADER)
    try:
        evidence = msgspec.json.decode(line.removeprefix(EVIDENCE_HEADER), type=Evidence)
    except msgspec.DecodeError as error:
        raise ModelMalformed(f"rules found no evidence in the analyst's question: {error}") from error
    failure, process = evidence.failure, evidence.process
    passed = bool(evidence.checks) and all(check.recent[-1:] == ("pass",) for check in evidence.checks)
    ended = process.get("running") is False or any(process.get(name) is not None for name in ("signal", "code"))
    needed = failure.severity is Severity.DOWN or ended or not passed  # checks may be older than the end of a process
    shown = "; ".join(_check_words(check) for check in evidence.checks) or "nothing else is checked"
    well = "runs and passes" if failure.severity is Severity.DOWN else "passes"
    priorities = {Severity.DOWN: "critical", Severity.DEGRADED: failure.priority, Severity.BLIND: "medium"}
    return {
        "ticket": "yes" if needed else "no",
        "objective": f"{failure.subject} {well} all of its checks",
        "context": f"Observed: {failure.observed}. {_likely(failure.severity, process)} Checks: {shown}. [by {NAME}]",
        "priority": priorities[failure.severity],
        "reason": "it fails and will not pass by itself" if needed else "its newest results all pass again",
    }


def _likely(severity: Severity, process: Mapping[str, Any]) -> str:
    if (signal := process.get("signal")) is not None:
        return f"Its process was ended by signal {signal}, so it did not end by itself."
    if (code := process.get("code")) is not None:
        return f"Its process ended with code {code}."
    if process.get("running"):
        return "Its process is there and gives no answer: it may hang." if severity is Severity.DOWN else "Its process runs."
    return "What happened to its process is not known."


def _check_words(check: CheckEvidence) -> str:
    recent = ", ".join(check.recent[-5:]) or "not looked at yet"
    return f"{check.name}: {recent}" + (f" ({check.detail})" if check.detail else "")
