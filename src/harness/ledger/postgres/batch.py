"""What one call of the database's append function takes, and what its answer means. No I/O."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from uuid import UUID

import msgspec

from harness.errors import Conflict, LedgerError
from harness.ledger.chain import Prepared
from harness.ledger.events import Cursor, Event
from harness.ledger.guards import Acquire, Expect, Fence, Free, Guard, Lease, Release, Reserve, Unique, expiry_of, judge
from harness.ledger.postgres.arrays import blobs, numbers, texts, utf8
from harness.ledger.postgres.locks import lock_id

_MAX = 2**63 - 1


def batch_id() -> UUID:
    """A new id for a transaction; later ones are greater."""
    return UUID(bytes=time.time_ns().to_bytes(8, "big") + os.urandom(8))


def batches_before(seconds: float) -> UUID:
    """An id that is greater than those older than so many seconds."""
    return UUID(bytes=int((time.time() - seconds) * 1e9).to_bytes(8, "big") + bytes(8))


class Row(NamedTuple):
    """A guard as the function takes it."""

    kind: str
    name: str
    number: int | None = None
    holder: str | None = None
    other: int | None = None


_LOCKED = {"fence": "lease", "acquire": "lease", "release": "lease", "unique": "key", "free": "key", "reserve": "counter"}


def row_of(guard: Guard, now_us: int) -> Row:
    """The guard as a row. What no column holds equals nothing that one does. Raises `LedgerError`."""
    match guard:
        case Expect(stream, seq):
            return Row("expect", stream, _within(seq))
        case Unique(key):
            return Row("unique", key)
        case Free(key):
            return Row("free", key)
        case Acquire(lease, holder, token, ttl_seconds):
            return Row("acquire", lease, _within(token), holder, expiry_of(lease, now_us, ttl_seconds))
        case Fence(lease, token):
            return Row("fence", lease, _within(token))
        case Release(lease, token):
            return Row("release", lease, _within(token))
        case Reserve(counter, amount, limit):
            if abs(amount) > _MAX:
                raise LedgerError(f"counter {counter!r}: {amount} is more than 64 bits can hold")
            return Row("reserve", counter, amount, None, None if limit is None else max(-_MAX, min(limit, _MAX)))
        case _:
            raise LedgerError(f"{type(guard).__name__} is no guard that this ledger knows")


def _within(number: int) -> int:
    return number if abs(number) <= _MAX else -1


def locks_of(work: Prepared, guards: Sequence[Row], schema: str) -> set[int]:
    """The locks of every name that the append looks at."""
    locks = {lock_id(schema, "stream", event.stream) for event in work.events}
    locks |= {lock_id(schema, _LOCKED.get(row.kind, "stream"), row.name) for row in guards}
    return locks


def arguments(
    works: Sequence[tuple[Prepared, Sequence[Row]]], locks: Sequence[int], *, tenant: str, batch: UUID, now_us: int
) -> list[Any]:
    """The values of the function's parameters, in order. Raises `OverflowError`, `UnicodeError`."""
    guards = [(index, row) for index, (_, rows) in enumerate(works, 1) for row in rows]
    events = [(index, event, event.draft) for index, (work, _) in enumerate(works, 1) for event in work.events]
    return [
        tenant,
        batch,
        len(works),
        now_us,
        numbers(locks),
        numbers([index for index, _ in guards]),
        texts([row.kind for _, row in guards]),
        texts([row.name for _, row in guards]),
        numbers([row.number for _, row in guards]),
        texts([row.holder for _, row in guards]),
        numbers([row.other for _, row in guards]),
        numbers([index for index, _, _ in events]),
        texts([event.stream for _, event, _ in events]),
        texts([draft.type for _, _, draft in events]),
        numbers([event.ts for _, event, _ in events]),
        texts([event.actor for _, event, _ in events]),
        texts([event.tenant for _, event, _ in events]),
        texts([draft.parent for _, _, draft in events]),
        texts([draft.key for _, _, draft in events]),
        numbers([draft.schema for _, _, draft in events]),
        utf8([event.data for _, event, _ in events]),
        blobs([event.salt for _, event, _ in events]),
    ]


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a batch: the places of the events written, in order, and who was refused why."""

    xid: str | None
    places: list[tuple[int, int, bytes]]  # seq, position, prev
    refusals: list[dict[str, Any]]

    def refused(self) -> dict[int, dict[str, Any]]:
        """The refusals by the append's index, from 0."""
        return {int(refusal["append"]) - 1: refusal for refusal in self.refusals}


def placed(work: Prepared, places: Sequence[tuple[int, int, bytes]], xid: str) -> tuple[Event, ...]:
    """The append's events at their places."""
    return tuple(
        msgspec.structs.replace(event.chained(seq, prev, position), cursor=Cursor(f"{xid}-{position}"))
        for event, (seq, position, prev) in zip(work.events, places, strict=True)
    )


@dataclass(frozen=True, slots=True)
class _Seen:
    """The rows that a guard was refused for, as `judge` reads them."""

    refusal: dict[str, Any]

    def head_seq(self, stream: str) -> int:
        return int(self.refusal["seq"])

    def key(self, name: str) -> tuple[str, int] | None:
        return self.refusal["stream"], int(self.refusal["seq"])

    def lease(self, name: str) -> Lease | None:
        lease = self.refusal["lease"]
        if lease["token"] is None:
            return None
        return Lease(name=name, token=lease["token"], holder=lease["holder"], expires_us=lease["expires"])

    def counter(self, name: str) -> int:
        return int(self.refusal["amount"])


def refusal_of(work: Prepared, refusal: dict[str, Any], now_us: int) -> LedgerError:
    """The error that the guard's own rule gives for what the database saw."""
    guard = work.guards[int(refusal["guard"])]
    try:
        judge((guard,), _Seen(refusal), first=("", 0), now_us=now_us)
    except LedgerError as error:
        return error
    return Conflict(f"{guard} does not hold: read again and decide again")
