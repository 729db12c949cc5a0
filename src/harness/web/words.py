"""Events of recovery in words, for the merged log, the timeline and the page. Pure; text from outside is cleaned.

Nothing is decided here: an event that nobody needs to read has no words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, cast

import msgspec

from harness.recovery import facts
from harness.text import sanitise

if TYPE_CHECKING:
    from harness.ledger import Event

_LONGEST = 2_000
_SHORT = 160


class Tone(StrEnum):
    """How a reader should take it."""

    BAD = "bad"
    GOOD = "good"
    ASK = "ask"  # a person is wanted
    ACT = "act"  # somebody does something
    INFO = "info"
    SAW = "saw"  # what a model was shown
    QUIET = "quiet"  # for the whole story only


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """One event as a person reads it."""

    tone: Tone
    who: str  # the service, the check or the part of Harness
    text: str
    detail: str = ""  # more, such as a diff or what a model answered


def words_of(event: Event) -> Words | None:
    """The event in words; None for one that tells a reader nothing."""
    fact = facts.fact_of(event)
    told = _fact(fact, event) if fact is not None else _item(event) or _step(event)
    return None if told is None else _cleaned(told)


def _cleaned(told: Words) -> Words:
    return Words(
        tone=told.tone,
        who=sanitise(told.who),
        text=" ".join(sanitise(told.text)[:_LONGEST].split()),
        detail=sanitise(told.detail)[: 10 * _LONGEST],
    )


def _fact(fact: facts.Fact, event: Event) -> Words | None:
    name = event.stream.partition("/")[2]
    kind = event.stream.partition("/")[0]
    match kind:
        case "service":
            return _service(fact, name)
        case "check":
            return _check(fact, name)
        case "incident":
            return _incident(fact)
        case _:
            return _control(fact)


def _service(fact: facts.Fact, name: str) -> Words | None:
    match fact:
        case facts.ServiceExited():
            how = f"killed by signal {fact.signal}" if fact.signal is not None else f"ended with code {fact.code}"
            how = "ended" if fact.signal is None and fact.code is None else how
            return Words(tone=Tone.BAD, who=name, text=f"{how} after {fact.ran_seconds:.1f} s", detail=fact.last_output)
        case facts.ServiceStarting():
            return Words(tone=Tone.QUIET, who=name, text=f"is being started: {fact.reason}")
        case facts.ServiceStarted():
            return Words(tone=Tone.INFO, who=name, text=f"started as pid {fact.pid}")
        case facts.ServiceReady():
            return Words(tone=Tone.GOOD, who=name, text=f"ready after {fact.seconds:.1f} s")
        case facts.ServiceNotReady():
            return Words(tone=Tone.BAD, who=name, text=f"not ready after {fact.seconds:.1f} s: {fact.reason}")
        case facts.ServiceStopping():
            return Words(tone=Tone.QUIET, who=name, text=f"is being stopped: {fact.reason}")
        case facts.ServiceStopped():
            return Words(tone=Tone.INFO, who=name, text=f"stopped, {fact.ended} processes are gone")
        case facts.ServiceAdopted():
            return Words(tone=Tone.INFO, who=name, text=f"adopted as pid {fact.pid}")
        case facts.ServiceBackingOff():
            return Words(tone=Tone.QUIET, who=name, text=f"is started again in {fact.delay_seconds:g} s")
        case facts.ServiceGaveUp() | facts.ServiceBlocked():
            word = "given up" if isinstance(fact, facts.ServiceGaveUp) else "cannot be started"
            return Words(tone=Tone.BAD, who=name, text=f"{word}: {fact.reason}")
        case _:
            return _asked(fact, name)


def _asked(fact: facts.Fact, name: str) -> Words | None:
    match fact:
        case facts.ChaosInjected():
            return Words(tone=Tone.BAD, who="chaos", text=f"{fact.kind} injected into {name} (pid {fact.pid})")
        case facts.ChaosHealed():
            return Words(tone=Tone.QUIET, who="chaos", text=f"{fact.kind} in {name} is over: {fact.reason}")
        case facts.ChaosRefused():
            return Words(tone=Tone.INFO, who="chaos", text=f"{fact.kind} of {name} refused: {fact.reason}")
        case facts.ConfigChanged():
            return Words(tone=Tone.ACT, who="supervisor", text=f"changed {fact.path}", detail=fact.diff)
        case facts.ActionRequested() if fact.origin is facts.Origin.PERSON:
            return Words(tone=Tone.ACT, who=fact.requested_by, text=f"asks for {_action(fact)}")
        case facts.ActionStarted():
            return Words(tone=Tone.ACT, who="supervisor", text=f"{_action(fact)}: begun")
        case facts.ActionCompleted():
            tone = Tone.GOOD if fact.outcome is facts.Outcome.SUCCEEDED else Tone.BAD
            return Words(tone=tone, who="supervisor", text=f"{_action(fact)}: {fact.outcome}, {fact.detail}")
        case facts.ActionRefused():
            return Words(tone=Tone.BAD, who="supervisor", text=f"{_action(fact)}: refused, {fact.reason}")
        case _:
            return None


def _action(fact: facts.ActionRequested | facts.ActionStarted | facts.ActionCompleted | facts.ActionRefused) -> str:
    return f"{fact.kind.replace('_', ' ')} {fact.target}"


def _check(fact: facts.Fact, name: str) -> Words | None:
    match fact:
        case facts.CheckChanged():
            tone = Tone.GOOD if fact.result is facts.CheckResult.PASS else Tone.BAD
            seen = f": {fact.observed or fact.reason}" if fact.observed or fact.reason else ""
            return Words(tone=tone if fact.hard else Tone.QUIET, who=name, text=f"{fact.result}{seen}")
        case facts.CheckSilenced():
            return Words(tone=Tone.INFO, who=name, text=f"silenced by {fact.by} {fact.reason}")
        case facts.CheckDismissed():
            return Words(tone=Tone.INFO, who=name, text=f"no ticket, says {fact.by}: {fact.reason}")
        case _:
            return None


def _incident(fact: facts.Fact) -> Words | None:
    match fact:
        case facts.IncidentOpened():
            observed = "" if fact.observed in fact.title else f" ({fact.observed})"
            return Words(tone=Tone.BAD, who="monitor", text=f"opened ticket {fact.ticket}: {fact.title}{observed}")
        case facts.IncidentRecurred():
            return Words(tone=Tone.QUIET, who="monitor", text=f"seen {fact.count} times: {fact.observed}")
        case facts.IncidentAnalysed():
            needed = "a ticket is needed" if fact.open_ticket else "no ticket is needed"
            goal = f"Goal: {fact.objective}" if fact.objective else ""
            detail = "\n".join(part for part in (fact.context, goal) if part)
            return Words(tone=Tone.INFO, who=f"analyst ({fact.by})", text=f"{needed}: {fact.reason}", detail=detail)
        case facts.IncidentEngaged():
            return Words(
                tone=Tone.ACT, who=f"agent ({fact.by})", text=f"takes the ticket, attempt {fact.attempt}", detail=fact.prompt
            )
        case facts.IncidentConcluded():
            told = "it should be fixed" if fact.fixed else "it is not fixed"
            return Words(tone=Tone.INFO, who=f"agent ({fact.by})", text=f"{told}: {fact.reason}")
        case facts.IncidentActionProposed():
            arguments = ", ".join(f"{key}={value!r}" for key, value in fact.arguments.items())
            what = f"{fact.kind.replace('_', ' ')} {fact.target}" + (f" ({arguments})" if arguments else "")
            return Words(tone=Tone.ACT, who=f"agent ({fact.by})", text=f"wants to {what}: {fact.reason}")
        case facts.IncidentActionDecided():
            tones = {facts.Verdict.ALLOW: Tone.GOOD, facts.Verdict.ASK: Tone.ASK}
            tone = tones.get(fact.decision.verdict, Tone.BAD)
            return Words(tone=tone, who=fact.by, text=f"{fact.decision.verdict}: {fact.decision.reason}")
        case facts.IncidentVerifying():
            return Words(
                tone=Tone.INFO, who="verifier", text=f"looks at {', '.join(fact.checks)} for {fact.window_seconds:g} s"
            )
        case facts.IncidentVerified():
            seen = ", ".join(f"{name} passed {count} times" for name, count in fact.passes.items())
            return Words(tone=Tone.GOOD, who="verifier", text=f"healed: {seen} through {fact.window_seconds:g} s")
        case facts.IncidentAttemptFailed():
            return Words(tone=Tone.BAD, who="verifier", text=f"attempt {fact.attempt} did not heal it: {fact.reason}")
        case facts.IncidentEscalated():
            return Words(tone=Tone.ASK, who="agent", text=f"a person has to take over: {fact.reason}", detail=_handed(fact))
        case facts.IncidentClosed():
            tone = Tone.GOOD if fact.status == "completed" else Tone.INFO
            return Words(tone=tone, who="ticket", text=f"{fact.status}: {fact.reason}")
        case _:
            return None


def _handed(fact: facts.IncidentEscalated) -> str:
    parts = (("known", fact.known), ("tried", fact.tried), ("ruled out", fact.ruled_out), ("next", fact.next_commands))
    return "\n".join(f"{name}: {line}" for name, lines in parts for line in lines)


def _control(fact: facts.Fact) -> Words | None:
    match fact:
        case facts.RecoveryPaused():
            return Words(tone=Tone.ASK, who=fact.by, text=f"paused recovery {fact.reason}")
        case facts.RecoveryUnpaused():
            return Words(tone=Tone.INFO, who=fact.by, text=f"let agents act again {fact.reason}")
        case facts.SupervisorStarted():
            return Words(tone=Tone.QUIET, who="supervisor", text=f"pid {fact.pid} looks after {', '.join(fact.services)}")
        case facts.SupervisorStopped():
            return Words(tone=Tone.QUIET, who="supervisor", text=f"ended: {fact.reason}")
        case _:
            return None


_ITEM_TONES = {
    "item.failed": Tone.BAD, "item.blocked": Tone.ASK, "item.noted": Tone.INFO, "item.parked": Tone.ASK,
    "item.cancelled": Tone.INFO,
}  # fmt: skip


def _item(event: Event) -> Words | None:
    if not event.type.startswith("item.") or event.erased:
        return None
    payload: Mapping[str, Any] = event.payload
    word = event.type.partition(".")[2].replace("_", " ")
    said = next((str(payload[key]) for key in ("text", "reason", "title", "holder", "detail") if payload.get(key)), "")
    text = f"{word}: {said}" if said else word
    return Words(tone=_ITEM_TONES.get(event.type, Tone.QUIET), who="ticket", text=text)


def _step(event: Event) -> Words | None:
    """What a model said and what a tool answered, from the run's own record."""
    if event.type not in ("step.completed", "step.failed", "step.rejected") or event.erased:
        return None
    payload: Mapping[str, Any] = event.payload
    name = str(payload.get("name", "step"))
    if event.type != "step.completed":
        why = f"{payload.get('error', '')} {payload.get('message', '')}"
        return Words(tone=Tone.QUIET, who=name, text=f"{event.type.partition('.')[2]}: {why}")
    answer: Mapping[str, Any] | None = payload.get("answer")
    if answer is None:
        shown = _pretty(payload.get("result"))
        return Words(tone=Tone.SAW, who=f"saw {name}", text=shown[:_SHORT], detail=_indented(payload.get("result")))
    calls = [_call(call) for call in answer.get("tool_calls") or ()]
    said = str(answer.get("text") or "") or _pretty(answer.get("output"))
    if not calls:  # its conclusion, which others tell of
        return Words(tone=Tone.QUIET, who=f"model ({name})", text=said[:_SHORT] or "said nothing")
    return Words(tone=Tone.INFO, who=f"model ({name})", text=" ".join([said, *(f"→ {call}" for call in calls)]))


def _call(call: Mapping[str, Any]) -> str:
    """A tool call, without the reason that stands in the words before it."""
    try:
        arguments: Any = msgspec.json.decode(str(call.get("arguments_json") or "{}"))
    except msgspec.DecodeError:
        arguments = {}
    shown = cast("dict[str, Any]", arguments) if isinstance(arguments, dict) else {}
    inside = ", ".join(f"{key}={_pretty(value)[:60]}" for key, value in shown.items() if key != "reason")
    return f"{call.get('name')}({inside})"


def _indented(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.format(msgspec.json.encode(value), indent=2).decode()


def _pretty(value: object) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
