"""Events of agents' sessions in words, for the page. Pure; text from outside is cleaned."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from harness.errors import LedgerError
from harness.sessions import facts
from harness.sessions.facts import ExitReason, State
from harness.text import sanitise
from harness.web.words import Tone, Words

if TYPE_CHECKING:
    from harness.ledger import Event

_TEXT = 400
_DETAIL = 8_000
_STATES: dict[State, Tone] = {
    State.STARTING: Tone.QUIET, State.PROMPT: Tone.INFO, State.BUSY: Tone.INFO, State.BLOCKED: Tone.ASK,
    State.LIMITED: Tone.ASK, State.UNKNOWN: Tone.BAD, State.EXITED: Tone.INFO, State.LOST: Tone.BAD,
}  # fmt: skip
_MOVES: dict[str, tuple[Tone, str]] = {
    facts.WRITTEN: (Tone.QUIET, "is with the agent"),
    facts.ACCEPTED: (Tone.QUIET, "was accepted"),
    facts.COMPLETED: (Tone.QUIET, "is done"),
    facts.FAILED: (Tone.BAD, "failed"),
    facts.DROPPED: (Tone.INFO, "was dropped"),
    facts.EXPIRED: (Tone.BAD, "expired"),
    facts.WITHDRAWN: (Tone.INFO, "was taken back"),
    facts.LOST: (Tone.BAD, "may or may not have arrived"),
}
_ITEMS = {"error": Tone.BAD, "tool": Tone.ACT, "file": Tone.ACT, "text": Tone.INFO}


def session_words(event: Event) -> Words | None:
    """The event in words; None for one that tells a reader nothing."""
    shape = facts.SHAPES.get(event.type)
    if shape is None or event.erased:
        return None
    try:
        told = _words(event, event.load(shape))
    except LedgerError:
        return Words(tone=Tone.QUIET, who="ledger", text=f"{event.type}: its payload cannot be read")
    if told is None:
        return None
    text = " ".join(sanitise(told.text).split())
    cut = len(text) > _TEXT
    detail = told.detail or (told.text if cut else "")
    return Words(
        tone=told.tone, who=sanitise(told.who)[:80], text=text[:_TEXT] + "…" * cut, detail=sanitise(detail)[:_DETAIL].strip()
    )  # fmt: skip


def _words(event: Event, told: msgspec.Struct) -> Words | None:
    match told:
        case facts.StateChanged():
            about = f" ({told.detail})" if told.detail else ""
            return Words(tone=_STATES[told.state], who=f"state ({told.source})", text=f"{told.state}{about}")
        case facts.StateDisputed():
            text = f"{told.source} says {told.state}, {told.other_source} says {told.other_state}"
            return Words(tone=Tone.QUIET, who="state", text=text)
        case facts.Queued():
            text = "presses Enter" if told.only_submit else told.text
            return Words(tone=Tone.ACT, who=_sender(told.origin), text=text)
        case facts.Moved():
            tone, said = _MOVES[event.type]
            why = f": {told.reason}" if told.reason else ""
            return Words(tone=tone, who=f"message {told.message_id[:8]}", text=f"{said}{why}")
        case _:
            return _of_agent(told) or _of_host(told)


def _sender(origin: facts.Origin) -> str:
    return f"{origin.cli or 'session'} {origin.id}" if origin.kind == "session" else origin.kind


def _of_agent(told: msgspec.Struct) -> Words | None:
    match told:
        case facts.ItemCompleted():
            who = f"agent {told.agent}" if told.agent else "agent"
            named = ": ".join(part for part in (told.name, told.summary) if part) or told.kind
            text = named if told.kind in ("text", "tool") else f"{told.kind}: {named}"
            return Words(tone=_ITEMS.get(told.kind, Tone.QUIET) if told.ok else Tone.BAD, who=who, text=text)
        case facts.TurnStarted():
            return Words(tone=Tone.QUIET, who="agent", text="begins a turn")
        case facts.TurnCompleted():
            tone = Tone.GOOD if told.outcome == "success" else Tone.BAD
            said = f": {told.error}" if told.error else ""
            return Words(tone=tone, who="agent", text=f"ends its turn, {told.outcome}{said}")
        case facts.Usage():
            cost = f", ${told.cost_usd:.4f}" if told.cost_usd else ""
            return Words(tone=Tone.QUIET, who="usage", text=f"{told.input_tokens} tokens in, {told.output_tokens} out{cost}")
        case facts.ApprovalRequested():
            detail = "" if told.arguments is None else msgspec.json.format(msgspec.json.encode(told.arguments)).decode()
            return Words(tone=Tone.ASK, who="agent", text=f"asks to use {told.tool}: {told.summary}", detail=detail)
        case facts.ApprovalDecided():
            tone = {"allow": Tone.GOOD, "deny": Tone.BAD}.get(told.decision, Tone.QUIET)
            return Words(tone=tone, who=told.by, text=f"{told.decision}: {told.reason}" if told.reason else told.decision)
        case facts.Identified():
            known = [part for part in (told.model, told.cli_version, told.vendor_session) if part]
            return Words(tone=Tone.QUIET, who="agent", text=" · ".join(known)) if known else None
        case facts.Limited():
            return Words(tone=Tone.ASK, who="provider", text=f"a limit is reached: {told.kind}")
        case facts.Retried():
            return Words(tone=Tone.INFO, who="agent", text=f"tries again, {told.attempt}: {told.error}")
        case facts.Unrecognised():
            return Words(tone=Tone.QUIET, who="agent", text=f"said something unknown: {told.kind}", detail=told.raw)
        case _:
            return None


def _of_host(told: msgspec.Struct) -> Words | None:
    match told:
        case facts.Started():
            return Words(tone=Tone.INFO, who="host", text=f"the program runs as pid {told.pid}")
        case facts.GuardLost():
            return Words(tone=Tone.BAD, who="host", text="its guard is gone; the host goes on alone")
        case facts.Noted():
            return Words(tone=Tone.INFO, who=told.kind, text=told.text)
        case facts.Stalled():
            idle = f"nothing for {told.idle_seconds:.0f} s ({told.clock})"
            return Words(tone=Tone.BAD, who="watch", text=f"{idle}, so: {told.rung} {told.reason}")
        case facts.Resumed():
            return Words(tone=Tone.ACT, who="watch", text=f"resumes, {told.number} of {told.maximum}: {told.how} {told.reason}")
        case facts.Escalated():
            return Words(tone=Tone.ASK, who="watch", text=f"a person is needed: {told.reason}")
        case facts.GitObserved():
            dirty = ", with changes" if told.dirty else ""
            return Words(tone=Tone.QUIET, who="git", text=f"{told.branch} at {told.sha[:12]}{dirty}")
        case facts.StopRequested():
            how = "asks for its end at once" if told.kill else f"asks for its end within {told.timeout_seconds:g} s"
            return Words(tone=Tone.ACT, who=told.by, text=f"{how} {told.reason}")
        case facts.InterruptRequested():
            return Words(tone=Tone.ACT, who=told.by, text=f"interrupts the turn {told.reason}")
        case facts.Exited():
            return _exited(told)
        case facts.Summarized():
            text = f"{told.turns} turns, {told.tools} tools, {told.wall_seconds:.0f} s, {told.busy_seconds:.0f} s of them busy"
            return Words(tone=Tone.QUIET, who="summary", text=text)
        case _:
            return None


def _exited(told: facts.Exited) -> Words:
    tone = {ExitReason.SUCCESS: Tone.GOOD, ExitReason.STOPPED: Tone.INFO}.get(told.reason, Tone.BAD)
    how = "nobody saw how"
    if told.signal is not None or told.code is not None:
        how = f"code {told.code}" if told.signal is None else f"signal {told.signal}"
    needed = f", it took {told.needed}" if told.needed else ""
    about = f": {told.detail}" if told.detail else ""
    return Words(tone=tone, who=told.by, text=f"ended, {told.reason} ({how}{needed}){about}", detail=told.tail)
