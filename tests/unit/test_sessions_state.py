"""Readings of several sources and the state they amount to."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.sessions.facts import Source, State
from harness.sessions.reports import Reading
from harness.sessions.state import DISPUTED_US, OUTLIVES_US, SURE, TRUST, Board

NOW = 1_000_000_000


def board(*readings: tuple[Reading, int]) -> Board:
    made = Board()
    for reading, at in readings:
        made.take(reading, at)
    return made


def said(state: State, source: Source, confidence: float = 1.0, **more: object) -> Reading:
    return Reading(state=state, source=source, confidence=confidence, **more)  # type: ignore[arg-type]


def test_until_anything_is_read_it_is_starting() -> None:
    """A board that nobody has told anything says what the host knows: it has started the program."""
    made = Board()

    assert made.settle(NOW) == (None, [])
    assert made.state.state is State.STARTING


def test_what_nobody_says_any_more_is_unknown() -> None:
    """When the last reading is taken back, it is not starting again: nobody knows."""
    made = board((said(State.BUSY, Source.HOOK), NOW))
    made.settle(NOW)

    made.forget(Source.HOOK)
    changed, _ = made.settle(NOW)

    assert changed is not None
    assert changed.state is State.UNKNOWN


def test_a_source_that_knows_nothing_leaves_it_to_the_others() -> None:
    """A window's title without a spinner says nothing, so the prompt on the screen counts, though it was seen before."""
    made = board((said(State.PROMPT, Source.SCREEN), NOW), (said(State.BUSY, Source.TITLE), NOW))
    made.settle(NOW)

    made.take(said(State.UNKNOWN, Source.TITLE, 0.0), NOW + 1)
    changed, _ = made.settle(NOW + 1)

    assert changed is not None
    assert (changed.state, changed.source) == (State.PROMPT, Source.SCREEN)


@pytest.mark.parametrize(("better", "worse"), list(itertools.pairwise(TRUST)))
def test_the_more_trusted_source_wins(better: Source, worse: Source) -> None:
    """Whatever a less trusted source says at the same time, the more trusted one is believed."""
    made = board((said(State.BUSY, better), NOW), (said(State.PROMPT, worse), NOW))

    changed, _ = made.settle(NOW)

    assert changed is not None
    assert (changed.state, changed.source) == (State.BUSY, better)


def test_an_idle_title_at_a_permission_dialog_is_blocked() -> None:
    """The idle glyph in the title must not read as a prompt while a hook says that the agent asks for leave."""
    made = board(
        (said(State.BLOCKED, Source.HOOK, detail="permission"), NOW),
        (said(State.PROMPT, Source.TITLE), NOW + 100),
        (said(State.PROMPT, Source.SCREEN, 0.5), NOW + 100),
    )

    changed, disputes = made.settle(NOW + 100 + DISPUTED_US)

    assert changed is not None
    assert (changed.state, changed.detail) == (State.BLOCKED, "permission")
    assert [(dispute.other_source, dispute.other_state) for dispute in disputes] == [(Source.TITLE, State.PROMPT)]


def test_a_disagreement_is_said_once() -> None:
    """The same disagreement a second later is no news; one that ended and came again is."""
    made = board((said(State.BUSY, Source.HOOK), NOW), (said(State.PROMPT, Source.SCREEN), NOW))

    first = made.settle(NOW + DISPUTED_US)[1]
    second = made.settle(NOW + DISPUTED_US + 1000)[1]
    made.take(said(State.BUSY, Source.SCREEN), NOW + DISPUTED_US + 2000)
    made.settle(NOW + DISPUTED_US + 2000)
    made.take(said(State.PROMPT, Source.SCREEN), NOW + DISPUTED_US + 3000)
    third = made.settle(NOW + 2 * DISPUTED_US + 3000)[1]

    assert (len(first), len(second), len(third)) == (1, 0, 1)


def test_sources_that_notice_the_same_one_after_the_other_do_not_disagree() -> None:
    """A screen is painted a moment after the hook: that is no event."""
    made = board((said(State.PROMPT, Source.SCREEN), NOW - 5 * DISPUTED_US), (said(State.BUSY, Source.HOOK), NOW))

    assert made.settle(NOW + DISPUTED_US - 1)[1] == []
    assert made.next_us(NOW + 1) == NOW + DISPUTED_US


def test_a_hook_that_never_came_does_not_hold_a_session_busy_for_ever() -> None:
    """There is no hook after Esc: a sure and later screen outlives the hook's word after a while, and not before."""
    made = board((said(State.BUSY, Source.HOOK), NOW), (said(State.PROMPT, Source.SCREEN, 0.9), NOW + 1000))

    early, _ = made.settle(NOW + OUTLIVES_US - 1)
    late, _ = made.settle(NOW + 1000 + OUTLIVES_US)

    assert early is not None
    assert early.state is State.BUSY
    assert late is not None
    assert (late.state, late.source) == (State.PROMPT, Source.SCREEN)


def test_what_a_protocol_says_is_never_outlived() -> None:
    """However long another source disagrees, the protocol knows better."""
    made = board((said(State.BUSY, Source.PROTOCOL), NOW), (said(State.PROMPT, Source.SCREEN), NOW + 1))

    changed, _ = made.settle(NOW + 100 * OUTLIVES_US)

    assert changed is not None
    assert changed.state is State.BUSY


def test_a_limit_ends_by_itself() -> None:
    """A reading that holds until a moment is over then: the program, whose turn had ended, is at its prompt."""
    made = board((said(State.LIMITED, Source.PROTOCOL, until_us=NOW + 500), NOW))

    limited, _ = made.settle(NOW)
    after, _ = made.settle(NOW + 500)

    assert limited is not None
    assert (limited.state, limited.until_us) == (State.LIMITED, NOW + 500)
    assert after is not None
    assert (after.state, after.source) == (State.PROMPT, Source.PROTOCOL)


def test_a_clock_that_is_set_back_holds_no_state_for_ever() -> None:
    """What a later source says after the clock went back an hour is later all the same, and prevails in its time."""
    made = board((said(State.BUSY, Source.HOOK), NOW))
    made.settle(NOW)
    back = NOW - 3_600_000_000

    made.take(said(State.PROMPT, Source.SCREEN), back)
    made.settle(back)
    made.settle(back + OUTLIVES_US)

    assert (made.state.state, made.state.source) == (State.PROMPT, Source.SCREEN)


readings = st.builds(
    Reading,
    state=st.sampled_from([State.PROMPT, State.BUSY, State.BLOCKED, State.UNKNOWN]),
    source=st.sampled_from(TRUST),
    confidence=st.floats(0, 1),
)


@given(st.lists(st.tuples(readings, st.integers(0, 2 * OUTLIVES_US)), min_size=1, max_size=20))
def test_the_state_is_always_what_some_source_says_and_settling_again_changes_nothing(
    told: list[tuple[Reading, int]],
) -> None:
    """No state is made up, a settled board is settled, and an unsure source never beats a more trusted one."""
    made, now = Board(), NOW
    for reading, pause in told:
        now += pause
        made.take(reading, now)
        made.settle(now)

    again, disputes = made.settle(now)

    assert again is None
    assert disputes == []
    newest = {held.reading.source: held.reading for held in made.readings()}
    if not newest:
        assert (made.state.state, made.state.source) == (State.UNKNOWN, Source.HOST)
        return
    assert made.state.state is newest[made.state.source].state
    best = made.readings()[0].reading
    assert made.state.source is best.source or newest[made.state.source].confidence >= SURE
