"""When a repair is believed: by table and by property."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from harness.recovery.checks import Sample
from harness.recovery.facts import CheckResult
from harness.recovery.verifying import Verification, begun

SECOND = 1_000_000


def look(check: str, at: float, result: CheckResult = CheckResult.PASS, took: float = 0.01) -> Sample:
    """A look that ended at this second."""
    started = round((at - took) * SECOND)
    return Sample(
        check=check, target="api", result=result, detail="", started_us=started, ended_us=round(at * SECOND), took_ms=took
    )  # fmt: skip


def verification(*checks: str, after: float = 10.0, window: float = 2.0, deadline: float = 40.0) -> Verification:
    return begun(
        ticket="t", attempt=1, action_id="a", after_us=round(after * SECOND), window_us=round(window * SECOND),
        deadline_us=round(deadline * SECOND), needed=dict.fromkeys(checks, 3),
    )  # fmt: skip


def test_all_checks_through_the_window_are_believed() -> None:
    """Two checks that pass every half second for two seconds verify, and not a look earlier."""
    watched = verification("a", "b")
    held: list[float] = []
    for tick in range(8):
        at = 10.5 + tick / 2
        watched = watched.saw(look("a", at)).saw(look("b", at + 0.1))
        if watched.standing().holds:
            held.append(at)

    assert held[0] == 13.0  # since the later of the first passes, at 10.6, it is 2.4 s
    assert dict(watched.standing().passes or {}) == {"a": 8, "b": 8}


def test_looks_from_before_the_action_do_not_count() -> None:
    """A look that began before the action was over is not fresh, even if it ended after it."""
    watched = verification("a")
    for at in (8.0, 9.0, 10.0):
        watched = watched.saw(look("a", at))
    watched = watched.saw(look("a", 10.2, took=0.5))

    assert not watched.streaks


def test_one_bad_look_begins_the_window_anew() -> None:
    """Unknown and error are no passes either."""
    for result in (CheckResult.FAIL, CheckResult.UNKNOWN, CheckResult.ERROR):
        watched = verification("a")
        for at in (10.5, 11.0, 11.5, 12.0):
            watched = watched.saw(look("a", at))
        watched = watched.saw(look("a", 12.5, result))
        for at in (13.0, 13.5, 14.0, 14.5):
            watched = watched.saw(look("a", at))

        assert not watched.standing().holds
        assert watched.saw(look("a", 15.0)).standing().holds


def test_hard_evidence_begins_it_anew() -> None:
    """A process that ended makes everything before it worthless."""
    watched = verification("a")
    for at in (10.5, 11.0, 11.5, 12.0):
        watched = watched.saw(look("a", at))

    broken = watched.broke(round(12.2 * SECOND), "signal 9")

    assert not broken.streaks
    assert broken.standing().reason == "signal 9"
    assert broken.saw(look("a", 12.1)).streaks == {}


def test_without_checks_nothing_is_verified() -> None:
    """Nobody looked, so nobody can say that it holds."""
    assert not verification().standing().holds


def test_a_streak_that_began_in_time_may_finish() -> None:
    """At the deadline it is over, unless all checks pass just now and the window is running."""
    nothing = verification("a", deadline=12.0)
    promising = nothing.saw(look("a", 11.9))

    assert nothing.overdue(round(12.0 * SECOND))
    assert not promising.overdue(round(12.5 * SECOND))
    assert promising.overdue(round(16.0 * SECOND))


STEPS = st.lists(
    st.tuples(st.sampled_from("ab"), st.sampled_from(list(CheckResult)), st.integers(1, 30)), min_size=1, max_size=60
)


@given(STEPS)
@example(
    [("a", CheckResult.PASS, 1)] * 2
    + [("b", CheckResult.PASS, 1)] * 2
    + [("a", CheckResult.PASS, 19), ("b", CheckResult.PASS, 1)]
)
def test_what_is_believed_was_seen(steps: list[tuple[str, CheckResult, int]]) -> None:
    """Whenever it holds, the window before it holds passes of every check only, all begun after the action."""
    watched, at, seen = verification("a", "b"), 10.5, list[Sample]()
    for check, result, tenths in steps:
        at += tenths / 10
        seen.append(look(check, at, result))
        watched = watched.saw(seen[-1])
        standing = watched.standing()
        if standing.holds:
            window = [each for each in seen if each.ended_us >= standing.since_us]
            for name in "ab":
                mine = [each for each in window if each.check == name]
                assert len(mine) >= 3
                assert all(each.result is CheckResult.PASS for each in mine)
                assert mine[-1].ended_us - standing.since_us >= 2 * SECOND
