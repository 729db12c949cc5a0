"""What may refuse an append. Guards are checked inside the append's transaction, before any write.

They are rows of generic tables that belong to the ledger, so any process can write any stream
without importing the package that owns it.
"""

from __future__ import annotations

import msgspec


class Guard(msgspec.Struct, frozen=True, gc=False):
    """A condition of an append; all of them hold, or nothing is written."""


class Expect(Guard, frozen=True):
    """The stream's head is exactly `seq` (0: it does not exist yet). Else `Conflict`."""

    stream: str
    seq: int


class Unique(Guard, frozen=True):
    """Nobody holds `key`; from now on the append's first event does. Else `KeyTaken`."""

    key: str


class Free(Guard, frozen=True):
    """Gives `key` back. Nothing happens if nobody holds it."""

    key: str


class Acquire(Guard, frozen=True):
    """`holder` takes the lease as its holder number `token`, which is one more than the last.

    Raises `LeaseHeld` while another holder's lease lasts, `Conflict` if `token` is not the next.
    The holder itself may take it anew at any time.
    """

    lease: str
    holder: str
    token: int
    ttl_seconds: float


class Fence(Guard, frozen=True):
    """The lease's newest token is `token` and it was not released. Else `Fenced`.

    A lease that expired and that nobody took over still passes.
    """

    lease: str
    token: int


class Release(Guard, frozen=True):
    """As `Fence`, and gives the lease back."""

    lease: str
    token: int


class Reserve(Guard, frozen=True):
    """Adds `amount` to `counter` if the sum stays within `limit` (None: no limit). Else `Refused`.

    A negative amount gives back and is never refused. Units are the caller's (micro-USD, tokens).
    """

    counter: str
    amount: int
    limit: int | None = None


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """The right of one holder to go on until it expires."""

    name: str
    token: int  # grows with every holder; a write with an older one is refused
    holder: str | None  # None: released
    expires_us: int

    def held_at(self, now_us: int) -> bool:
        """Whether somebody holds it at this time."""
        return self.holder is not None and now_us < self.expires_us
