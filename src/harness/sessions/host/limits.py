"""What a session may use at most. Pure: it decides from the record and the time."""

from __future__ import annotations

import msgspec

from harness.sessions import facts
from harness.sessions.record import Session


class Limits(msgspec.Struct, frozen=True):
    """The limits of one run."""

    given: facts.Limits

    def crossed(self, session: Session, now_us: int) -> str:
        """The words for a limit that is reached; empty if none is."""
        given, totals = self.given, session.totals
        if given.max_turns is not None and totals.turns >= given.max_turns:
            return f"the limit of {given.max_turns} turns is reached"
        if given.max_budget_usd is not None and (totals.cost_usd or 0.0) >= given.max_budget_usd:
            return f"the budget of {given.max_budget_usd:g} USD is spent: {totals.cost_usd or 0.0:.4f}"
        if given.max_budget_usd is not None and totals.unpriced:
            return f"nobody knows what {totals.unpriced} costs, so that a budget of {given.max_budget_usd:g} USD cannot be kept"
        ends = self.ends_us(session)
        if ends is not None and now_us >= ends:
            return f"the limit of {given.max_wall_seconds:g} s is over"
        return ""

    def ends_us(self, session: Session) -> int | None:
        """When time is over."""
        if self.given.max_wall_seconds is None or not session.started_us:
            return None
        return session.started_us + round(self.given.max_wall_seconds * 1e6)
