"""What a session may use at most, and what is left of it for the run that continues one."""

from __future__ import annotations

import pytest

from harness.errors import HarnessError
from harness.sessions import LaunchRequest, facts
from harness.sessions.limits import Limits, rest
from harness.sessions.record import Session
from harness.sessions.watch.succession import successor

LIMITS = facts.Limits(max_budget_usd=5.0, max_turns=4, max_wall_seconds=60.0)


def used(*, cost: float = 0.0, turns: int = 0, seconds: float = 0.0) -> Session:
    session = Session(key="w1@0f3a9c21", id="w1", started_us=1_000_000, exited_us=1_000_000 + round(seconds * 1e6))
    session.totals.cost_usd, session.totals.turns = cost, turns
    session.claimed = facts.Claimed(
        id="w1", cli="claude", mode=facts.Mode.STREAM, argv=(), cwd="/", machine="m", guard_pid=1, guard_started=1, host_pid=2,
        host_started=1, limits=LIMITS,
    )  # fmt: skip
    return session


def test_what_nobody_can_price_is_no_budget_left() -> None:
    """Unknown is neither free nor little: the session ends, and the reason names the model."""
    session = used(cost=4.0)
    budget = Limits(facts.Limits(max_budget_usd=5.0), began=0.0)
    assert budget.crossed(session, 0.0) == ""

    session.totals.unpriced = "some-model"

    assert "nobody knows what some-model costs" in budget.crossed(session, 0.0)
    session.totals.unpriced, session.totals.uncounted = "", True
    assert "nobody knows what it uses" in budget.crossed(session, 0.0)
    assert Limits(facts.Limits(), began=0.0).crossed(session, 0.0) == ""


@pytest.mark.parametrize(
    ("session", "now", "words"),
    [
        (used(cost=4.99, turns=3), 159.9, ""),
        (used(cost=5.0), 100.0, "the budget of 5 USD is spent: 5.0000"),
        (used(turns=4), 100.0, "the limit of 4 turns is reached"),
        (used(), 160.0, "the limit of 60 s is over"),
    ],
)
def test_a_limit_is_crossed_when_it_is_reached(session: Session, now: float, words: str) -> None:
    assert Limits(LIMITS, began=100.0).crossed(session, now) == words


def test_time_is_that_of_a_clock_which_no_one_sets() -> None:
    """When the session was started by the wall clock, and what that says now, do not matter."""
    session = used()
    session.started_us = 10**18

    assert Limits(LIMITS, began=7.0).ends == 67.0
    assert Limits(LIMITS, began=7.0).crossed(session, 66.0) == ""


def test_a_run_that_continues_another_has_what_that_one_left() -> None:
    """Money, turns and time are those of the work, not of each attempt; so it is again for the next."""
    request = LaunchRequest(home="/h", database="/h/d", cli="claude", max_budget_usd=5.0, max_turns=4, max_wall_seconds=60.0)

    again = successor(request, used(cost=1.5, turns=1, seconds=20.0), text="go on", vendor_session="v")

    assert (again.max_budget_usd, again.max_turns, again.max_wall_seconds) == (3.5, 3, 40.0)
    assert (again.id, again.follows, again.vendor_session, again.context) == ("w1", "w1@0f3a9c21", "v", "go on")
    assert rest(facts.Limits(), used(cost=9.0, turns=9, seconds=9.0)) == (facts.Limits(), "")


@pytest.mark.parametrize("session", [used(cost=5.0), used(turns=4), used(seconds=60.0)])
def test_no_run_continues_one_that_has_used_up_its_limits(session: Session) -> None:
    with pytest.raises(HarnessError, match=r"budget|turns|60 s"):
        successor(LaunchRequest(home="/h", database="/h/d", cli="claude"), session, text="", vendor_session="")


def test_a_clock_that_was_set_back_gives_no_time_back() -> None:
    session = used()
    session.exited_us = 0

    left, words = rest(LIMITS, session)

    assert (left.max_wall_seconds, words) == (60.0, "")
