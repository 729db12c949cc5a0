"""One run's slice of its tenant's budget: taken from the ledger now and then, reserved from and settled in memory. Pure.

The tenant's counter holds every slice that was taken, spent or not; so the sum over all runs never passes the limit,
whoever crashes. All amounts are micro-USD.
"""

from __future__ import annotations

from dataclasses import dataclass

_STEPS_AHEAD = 8  # a slice is for so many steps like the one that asks
_PART_OF_REST = 4  # and at most this part of what the tenant has left


@dataclass(slots=True)
class Slice:
    """What a run was given, what it has spent, and what its present calls may still cost."""

    granted: int = 0
    spent: int = 0
    reserved: int = 0

    @property
    def free(self) -> int:
        """What a new call may reserve."""
        return self.granted - self.spent - self.reserved

    @property
    def unspent(self) -> int:
        """What can be given back when nothing is running."""
        return max(0, self.granted - self.spent - self.reserved)

    def missing(self, amount: int) -> int:
        """How much more must be taken before `amount` can be reserved; 0 if it fits."""
        return max(0, amount - self.free)

    def reserve(self, amount: int) -> None:
        """Set money aside before a call. Takes from `free`, so `missing` must be 0."""
        self.reserved += amount

    def settle(self, *, reserved: int, cost: int) -> int:
        """The call is over: count what it cost. Gives what no slice covered, which the tenant's counter must add."""
        self.reserved -= reserved
        self.spent += cost
        overdraft = max(0, self.spent + self.reserved - self.granted)
        self.granted += overdraft
        return overdraft


def slice_size(missing: int, *, needed: int, left: int) -> int:
    """How much to take when `missing` is lacking for a step that needs `needed`, and the tenant has `left`.

    Enough for several such steps, but no more than a part of what is left, so that other runs find something too.
    """
    return max(missing, min(_STEPS_AHEAD * needed, left // _PART_OF_REST))
