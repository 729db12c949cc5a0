"""What a session may use at most. Pure: it decides from the record and the time."""

from __future__ import annotations

import msgspec

from harness.sessions import facts
from harness.sessions.record import Session


class Limits(msgspec.Struct, frozen=True):
    """The limits of one run, which began at `began`, in seconds of a clock that no one sets."""

    given: facts.Limits
    began: float

    def crossed(self, session: Session, now: float) -> str:
        """The words for a limit that is reached; empty if none is."""
        if words := spent(self.given, session):
            return words
        ends = self.ends
        return f"the limit of {self.given.max_wall_seconds:g} s is over" if ends is not None and now >= ends else ""

    @property
    def ends(self) -> float | None:
        """When time is over, by the same clock."""
        return None if self.given.max_wall_seconds is None else self.began + self.given.max_wall_seconds


def spent(given: facts.Limits, session: Session) -> str:
    """The words for turns or money that are used up; empty while there is some left."""
    totals = session.totals
    if given.max_turns is not None and totals.turns >= given.max_turns:
        return f"the limit of {given.max_turns} turns is reached"
    if given.max_budget_usd is not None and (totals.cost_usd or 0.0) >= given.max_budget_usd:
        return f"the budget of {given.max_budget_usd:g} USD is spent: {totals.cost_usd or 0.0:.4f}"
    if given.max_budget_usd is not None and totals.unpriced:
        return f"nobody knows what {totals.unpriced} costs, so that a budget of {given.max_budget_usd:g} USD cannot be kept"
    if given.max_budget_usd is not None and totals.uncounted:
        return f"nobody knows what it uses, so that a budget of {given.max_budget_usd:g} USD cannot be kept"
    return ""


def rest(given: facts.Limits, session: Session) -> tuple[facts.Limits, str]:
    """What a run has left for the one that continues it, and the words for why there is nothing; empty if there is."""
    words = spent(given, session)
    wall = given.max_wall_seconds
    if wall is not None:
        wall -= max(0, session.exited_us - session.started_us) / 1e6
        words = words or (f"the limit of {given.max_wall_seconds:g} s is over" if wall <= 0 else "")
    left = facts.Limits(
        max_budget_usd=None if given.max_budget_usd is None else given.max_budget_usd - (session.totals.cost_usd or 0.0),
        max_turns=None if given.max_turns is None else given.max_turns - session.totals.turns,
        max_wall_seconds=wall,
    )
    return left, words
