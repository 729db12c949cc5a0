"""What the newest record of a session means for the next pass: the whole table."""

from __future__ import annotations

import pytest

from harness.kernel.session_records import (
    SESSION_ENDED,
    SESSION_INTERRUPTED,
    SESSION_RESUMED,
    SESSION_STARTED,
    Plan,
    SessionRecord,
    planned,
)

CUT_SHORT = [SESSION_STARTED, SESSION_RESUMED, SESSION_INTERRUPTED]


def test_a_run_without_sessions_begins_with_the_first() -> None:
    """Nothing was recorded."""
    assert planned(None, "") == Plan(number=1)


@pytest.mark.parametrize("type_", CUT_SHORT)
def test_what_was_cut_short_is_gone_on_with(type_: str) -> None:
    """A killed, resumed or interrupted session keeps its number, and so its steps."""
    assert planned(SessionRecord(number=3), type_) == Plan(number=3, resumes=True)


@pytest.mark.parametrize("type_", CUT_SHORT)
def test_what_met_an_error_is_tried_again(type_: str) -> None:
    """Only an error makes recorded failures worth another attempt; after a kill they are replayed as they were."""
    assert planned(SessionRecord(number=3, error="ModelUnavailable"), type_).retries
    assert not planned(SessionRecord(number=3), type_).retries


def test_after_an_end_there_is_a_new_session() -> None:
    """Whatever the end was."""
    done = SessionRecord(number=3, outcome="completed", initialized=True)
    failed = SessionRecord(number=3, outcome="failed", error="ValueError")

    assert planned(done, SESSION_ENDED) == Plan(number=4, initialized=True)
    assert planned(failed, SESSION_ENDED) == Plan(number=4, retries=True)


def test_asking_for_the_same_again_replays_a_completed_session() -> None:
    """A parent that was killed after its child's session gets that session, whatever came after it."""
    done = SessionRecord(number=3, outcome="completed")

    assert planned(done, SESSION_ENDED, 3) == Plan(number=3, replays=True, initialized=True)
    assert planned(done, SESSION_ENDED, 2) == Plan(number=2, replays=True, initialized=True)
    assert planned(SessionRecord(number=4), SESSION_STARTED, 2).replays


@pytest.mark.parametrize("type_", CUT_SHORT)
def test_a_fresh_session_leaves_what_was_cut_short(type_: str) -> None:
    """The way out, if the program has changed too much to go on."""
    assert planned(SessionRecord(number=3), type_, fresh=True) == Plan(number=4)
