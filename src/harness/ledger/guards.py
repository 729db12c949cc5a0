"""What may refuse an append. Guards are checked inside the append's transaction, before any write.

They are rows of generic tables that belong to the ledger, so any process can write any stream
without importing the package that owns it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from harness.errors import Conflict, Fenced, KeyTaken, LeaseHeld, LedgerError, Refused

_MAX_INTEGER = 2**63 - 1
_MAX_TTL_SECONDS = 100 * 366 * 86_400.0


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


class Rows(Protocol):
    """The guard tables inside one transaction."""

    def head_seq(self, stream: str) -> int: ...

    def key(self, name: str) -> tuple[str, int] | None: ...

    def lease(self, name: str) -> Lease | None: ...

    def counter(self, name: str) -> int: ...


class Effects(msgspec.Struct):
    """What passing guards change; None frees a key."""

    keys: dict[str, tuple[str, int] | None] = msgspec.field(default_factory=dict[str, tuple[str, int] | None])
    leases: dict[str, Lease] = msgspec.field(default_factory=dict[str, Lease])
    counters: dict[str, int] = msgspec.field(default_factory=dict[str, int])


def judge(guards: Sequence[Guard], rows: Rows, *, first: tuple[str, int], now_us: int) -> Effects:
    """Check guards in order, each seeing what the ones before change. Raises what the first refusal is.

    `first` is the stream and sequence of the append's first event, which holds its unique keys.
    """
    effects = Effects()
    for guard in guards:
        match guard:
            case Expect(stream, seq):
                if (actual := rows.head_seq(stream)) != seq:
                    raise Conflict(f"{stream} is at {actual}, not at {seq}", name=stream, expected=seq, actual=actual)
            case Unique(key):
                held = effects.keys[key] if key in effects.keys else rows.key(key)
                if held is not None:
                    raise KeyTaken(key, stream=held[0], seq=held[1])
                effects.keys[key] = first
            case Free(key):
                effects.keys[key] = None
            case Acquire() | Fence() | Release():
                lease = effects.leases.get(guard.lease) or rows.lease(guard.lease)
                changed = _judge_lease(guard, lease, now_us)
                if changed is not None:
                    effects.leases[guard.lease] = changed
            case Reserve(counter, amount, limit):
                reserved = effects.counters[counter] if counter in effects.counters else rows.counter(counter)
                if limit is not None and amount > 0 and reserved + amount > limit:
                    raise Refused(counter, amount=amount, reserved=reserved, limit=limit)
                if abs(reserved + amount) > _MAX_INTEGER:
                    raise LedgerError(f"counter {counter!r}: {reserved} and {amount} are more than 64 bits can hold")
                effects.counters[counter] = reserved + amount
            case _:
                raise LedgerError(f"{type(guard).__name__} is no guard that this ledger knows")
    return effects


def _judge_lease(guard: Acquire | Fence | Release, lease: Lease | None, now_us: int) -> Lease | None:
    token = lease.token if lease else 0
    if isinstance(guard, Acquire):
        if lease is not None and lease.held_at(now_us) and lease.holder != guard.holder:
            raise LeaseHeld(guard.lease, holder=str(lease.holder), expires_us=lease.expires_us)
        if guard.token != token + 1:
            raise Conflict(
                f"lease {guard.lease!r} is at token {token}, so the next is {token + 1}, not {guard.token}",
                name=guard.lease, expected=guard.token - 1, actual=token,
            )  # fmt: skip
        expires_us = expiry_of(guard.lease, now_us, guard.ttl_seconds)
        return Lease(name=guard.lease, token=guard.token, holder=guard.holder, expires_us=expires_us)
    holder = lease.holder if lease else None
    if guard.token != token or holder is None:
        raise Fenced(guard.lease, token=guard.token, current=token, holder=holder)
    if isinstance(guard, Release):
        return Lease(name=guard.lease, token=token, holder=None, expires_us=now_us)
    return None


def renewed(lease: Lease | None, name: str, token: int, ttl_seconds: float, now_us: int) -> Lease:
    """The lease from now on for `ttl_seconds` more. Raises `Fenced` if it was lost."""
    _judge_lease(Fence(name, token), lease, now_us)
    assert lease is not None
    return Lease(name=name, token=token, holder=lease.holder, expires_us=expiry_of(name, now_us, ttl_seconds))


def expiry_of(lease: str, now_us: int, ttl_seconds: float) -> int:
    """When a lease that is taken now expires. Raises `LedgerError` for a time that is none."""
    if not abs(ttl_seconds) <= _MAX_TTL_SECONDS:
        raise LedgerError(f"lease {lease!r}: {ttl_seconds} seconds is no time that a lease can last")
    return now_us + round(ttl_seconds * 1_000_000)
