"""Events of sessions in words: every public one has some, hostile ones do no harm, long ones are cut."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from harness.ledger import Draft, Event, MemoryStore, Write
from harness.sessions import facts
from harness.web.session_words import session_words
from harness.web.words import Tone

SAMPLES: dict[str, msgspec.Struct] = {
    facts.STARTED: facts.Started(pid=1, started=2),
    facts.GUARD_LOST: facts.GuardLost(pid=1, started=2),
    facts.IDENTIFIED: facts.Identified(model="m"),
    facts.STATE_CHANGED: facts.StateChanged(state=facts.State.BLOCKED, source=facts.Source.HOOK, confidence=1, detail="trust"),
    facts.STATE_DISPUTED: facts.StateDisputed(
        state=facts.State.BUSY, source=facts.Source.HOOK, other_state=facts.State.PROMPT, other_source=facts.Source.SCREEN
    ),
    facts.QUEUED: facts.Queued(message_id="m", text="fix it", expires_us=1),
    facts.TURN_STARTED: facts.TurnStarted(turn="t"),
    facts.ITEM_COMPLETED: facts.ItemCompleted(kind="tool", name="Bash", summary="ls"),
    facts.TURN_COMPLETED: facts.TurnCompleted(turn="t", outcome="error", error="no credit"),
    facts.USAGE: facts.Usage(input_tokens=1, output_tokens=2, cost_usd=0.5),
    facts.APPROVAL_REQUESTED: facts.ApprovalRequested(request="r", tool="Bash", summary="rm", arguments={"a": 1}),
    facts.APPROVAL_DECIDED: facts.ApprovalDecided(request="r", decision="deny", by="person:x", reason="no"),
    facts.UNRECOGNISED: facts.Unrecognised(kind="novelty", raw="{}"),
    facts.NOTED: facts.Noted(kind="notice", text="something"),
    facts.STALLED: facts.Stalled(clock="output", idle_seconds=480, rung="probe"),
    facts.RESUMED: facts.Resumed(number=1, maximum=2, how="vendor"),
    facts.ESCALATED: facts.Escalated(reason="stuck"),
    facts.LIMITED: facts.Limited(kind="usage"),
    facts.RETRIED: facts.Retried(attempt=2, error="529"),
    facts.GIT: facts.GitObserved(phase="start", sha="0123456789abcdef", branch="main", dirty=True),
    facts.STOP_REQUESTED: facts.StopRequested(by="person:x"),
    facts.INTERRUPT_REQUESTED: facts.InterruptRequested(by="person:x"),
    facts.EXITED: facts.Exited(reason=facts.ExitReason.FAILURE, code=3, needed="term"),
    facts.SUMMARIZED: facts.Summarized(turns=1),
    **{type_: facts.Moved(message_id="0123456789") for type_, shape in facts.SHAPES.items() if shape is facts.Moved},
}
SILENT: dict[str, msgspec.Struct] = {
    facts.CLAIMED: facts.Claimed(
        id="w1", cli="claude", mode=facts.Mode.PTY, argv=(), cwd="/", machine="m", guard_pid=1, guard_started=2, host_pid=3,
        host_started=4,
    ),
    facts.PROBE_REQUESTED: facts.ProbeRequested(by="x"),
}  # fmt: skip


async def event_of(type_: str, payload: Any) -> Event:
    store = MemoryStore()
    written = await store.append(Write("session/w1@00000000", (Draft(type=type_, payload=payload),)))
    await store.close()
    return written.first


def test_every_event_was_thought_of() -> None:
    """A new one either has words or is listed as silent."""
    assert set(SAMPLES) | set(SILENT) == set(facts.SHAPES)


@pytest.mark.parametrize("type_", SAMPLES)
async def test_every_event_is_told(type_: str) -> None:
    """By whom and what, in one line."""
    told = session_words(await event_of(type_, SAMPLES[type_]))

    assert told is not None
    assert told.who
    assert told.text
    assert "\n" not in told.text


@pytest.mark.parametrize("type_", SILENT)
async def test_some_tell_a_reader_nothing(type_: str) -> None:
    """What they say is said by others."""
    assert session_words(await event_of(type_, SILENT[type_])) is None


async def test_an_end_is_told_as_it_was() -> None:
    """Good, bad, or not known; by a signal or with a code."""
    ends = [
        (facts.Exited(reason=facts.ExitReason.SUCCESS, code=0), Tone.GOOD, "ended, success (code 0)"),
        (facts.Exited(reason=facts.ExitReason.KILLED, signal=9), Tone.BAD, "ended, killed (signal 9)"),
        (facts.Exited(reason=facts.ExitReason.LOST), Tone.BAD, "ended, lost (nobody saw how)"),
        (facts.Exited(reason=facts.ExitReason.STOPPED, code=0, needed="kill"), Tone.INFO, "stopped (code 0, it took kill)"),
    ]
    for exited, tone, text in ends:
        told = session_words(await event_of(facts.EXITED, exited))
        assert told is not None
        assert told.tone is tone
        assert text in told.text


async def test_hostile_and_long_text_does_no_harm() -> None:
    """Escapes and marks that cannot be seen are gone; of a long text all of it is in the detail."""
    said = facts.ItemCompleted(kind="text", summary="\x1b[31mred\u202e\n" + "x" * 1000)

    told = session_words(await event_of(facts.ITEM_COMPLETED, said))

    assert told is not None
    assert told.text.startswith("red x")
    assert len(told.text) < 450
    assert told.detail.endswith("x" * 1000)


async def test_what_cannot_be_read_is_told_so() -> None:
    """An event of another version breaks no page."""
    told = session_words(await event_of(facts.EXITED, {"reason": "tired"}))

    assert told is not None
    assert "cannot be read" in told.text
