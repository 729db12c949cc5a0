"""Events in words."""

from __future__ import annotations

import pytest

from harness.ledger import Draft, Event, MemoryStore, Write
from harness.recovery import facts
from harness.web.words import Tone, words_of


async def _event(stream: str, draft: Draft) -> Event:
    return (await MemoryStore().append(Write(stream, (draft,)))).first


@pytest.mark.parametrize("kind", sorted(facts.FACTS.values(), key=lambda kind: kind.TYPE))
async def test_an_erased_event_has_no_words(kind: type[facts.Fact]) -> None:
    """Whatever it was: what was erased cannot be read back."""
    store = MemoryStore()
    written = await store.append(Write("service/a", (Draft(type=kind.TYPE, payload={"epoch": 1}),)))
    await store.erase("service/a", written.first.seq, reason="test")

    erased = await store.event("service/a", written.first.seq)

    assert erased is not None
    assert words_of(erased) is None


async def test_hostile_output_is_cleaned() -> None:
    """Escapes, bidi marks and line ends of a log reach neither terminal nor page."""
    fact = facts.ServiceExited(
        epoch=1, pid=7, code=None, signal=9, ran_seconds=1.5, last_output="\x1b]0;owned\x07\x1b[31mred\u202egnp\x00"
    )
    event = await _event("service/rate_limiter", facts.draft(fact))

    told = words_of(event)

    assert told is not None
    assert told.tone is Tone.BAD
    assert told.text == "killed by signal 9 after 1.5 s"
    assert told.detail == "redgnp"


async def test_a_title_with_escapes_stays_on_its_line() -> None:
    """One event is one line."""
    fact = facts.IncidentOpened(ticket="t1", fingerprint="f", check="c", target="s", title="a\n\x1b[2Jb", observed="status 503")
    event = await _event("incident/t1", facts.draft(fact))

    told = words_of(event)

    assert told is not None
    assert told.text == "opened ticket t1: a b (status 503)"


async def test_a_soft_failure_is_quiet_and_a_hard_one_is_not() -> None:
    """Only what is believed is shouted."""
    soft = facts.CheckChanged(name="c", result=facts.CheckResult.FAIL, observed="status 503")
    hard = facts.CheckChanged(name="c", result=facts.CheckResult.FAIL, observed="status 503", hard=True)

    tones = []
    for fact in (soft, hard):
        told = words_of(await _event("check/c", facts.draft(fact)))
        assert told is not None
        tones.append(told.tone)

    assert tones == [Tone.QUIET, Tone.BAD]
