"""The contract of a ledger store. `sqlite`, `memory` (and `postgres`) keep it; one suite tests them all."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from harness.clock import Clock
from harness.ledger.events import START, Cursor, Draft, Event
from harness.ledger.guards import Guard, Lease
from harness.ledger.views import Value, View


class Write(msgspec.Struct, frozen=True, gc=False):
    """Events for one stream, in order."""

    stream: str
    events: tuple[Draft, ...]


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """A stream's newest event."""

    stream: str
    seq: int
    hash: bytes
    position: int
    ts: int
    listed: int = 0  # where the stream was at least, as is noted apart from its events: one that ends before that was cut
    listed_hash: bytes = b""  # of that event


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """One place where history does not verify."""

    stream: str
    seq: int | None
    kind: str  # changed | gap | truncated | missing | rewritten
    detail: str


class Verification(msgspec.Struct, frozen=True, kw_only=True):
    """What verifying found. Truthy only if nothing is wrong."""

    ok: bool
    streams: int
    events: int
    problems: tuple[Problem, ...] = ()

    def __bool__(self) -> bool:
        return self.ok


class Appended(msgspec.Struct, frozen=True):
    """The events as they were written, in the order given."""

    events: tuple[Event, ...]

    @property
    def first(self) -> Event:
        return self.events[0]

    @property
    def last(self) -> Event:
        return self.events[-1]


class Store(Protocol):
    """The ledger. Every method may be called from several tasks of one event loop.

    * `append` commits whole or raises `Conflict`, `KeyTaken`, `LeaseHeld`, `Fenced`, `Refused` or
      `Busy`, and then nothing was written. It is durable when it returns. A task that is cancelled
      while its append is queued leaves the append to be written: it cannot be taken back.
    * `submit` queues the same without waiting. It is written in order with, and at the latest together
      with, the next append of this store object; awaiting what it returns waits for it.
    * Appends of one store object to one stream are written in the order of the calls.
    * Reading never writes an event.
    """

    clock: Clock
    actor: str
    tenant: str

    @property
    def location(self) -> str:
        """Where the ledger is, for messages."""
        ...

    async def append(self, *writes: Write, guards: Sequence[Guard] = ()) -> Appended: ...

    def submit(self, *writes: Write, guards: Sequence[Guard] = ()) -> Awaitable[Appended]: ...

    def surely_at(self, stream: str) -> int | None:
        """The stream's newest sequence if that is known without a query, else None: others may have written meanwhile."""
        ...

    async def head(self, stream: str) -> Head | None:
        """The newest event's place; None if the stream does not exist."""
        ...

    async def read(self, stream: str, *, after: int = 0, limit: int | None = None) -> list[Event]:
        """A stream's events with a sequence above `after`, in order."""
        ...

    async def read_all(
        self, *, after: Cursor = START, streams: Sequence[str] = (), types: Sequence[str] = (), limit: int = 1000
    ) -> list[Event]:
        """Events of all streams in the ledger's order. `streams` are beginnings of names; empty means all."""
        ...

    def follow(self, *, after: Cursor = START, streams: Sequence[str] = (), types: Sequence[str] = ()) -> AsyncGenerator[Event]:
        """As `read_all`, and then whatever comes, pushed across processes. Never ends by itself; cancel it."""
        ...

    async def tail(self) -> Cursor:
        """The place after the newest event: `follow(after=await tail())` shows only what comes."""
        ...

    async def latest(self, stream: str, key: str) -> Event | None:
        """The newest event of the stream with this key, without reading the others."""
        ...

    async def event(self, stream: str, seq: int) -> Event | None: ...

    async def heads(self, prefix: str = "") -> list[Head]:
        """The heads of all streams whose names begin with `prefix`, by name."""
        ...

    async def lease(self, name: str) -> Lease | None: ...

    async def leases(self, prefix: str = "") -> list[Lease]: ...

    async def renew(self, lease: str, token: int, ttl_seconds: float) -> Lease:
        """Lengthen a lease from now on. Not an event. Raises `Fenced` if it was lost."""
        ...

    async def holder_of(self, key: str) -> tuple[str, int] | None:
        """Which event, as stream and sequence, holds a unique key."""
        ...

    async def reserved(self, counter: str) -> int:
        """What is reserved on a counter; 0 if nobody ever did."""
        ...

    def register(self, *views: View) -> None:
        """Make views known, so that appends advance them and `query` can read them."""
        ...

    async def query(self, view: View, sql: str, *values: Value) -> list[tuple[Value, ...]]:
        """Rows of a view, folded up to the newest event first."""
        ...

    async def rebuild(self, *views: View) -> int:
        """Drop the views and fold them anew from the events; gives the number of events folded."""
        ...

    async def check(self, *views: View) -> list[str]:
        """Fold the views anew beside the present ones and name the tables that differ."""
        ...

    async def verify(
        self, stream: str | None = None, *, seals: Sequence[Path] = (), progress: Callable[[int], None] | None = None
    ) -> Verification:
        """Recompute the chain of one stream or of all. An unknown stream raises `NotFound`."""
        ...

    async def verify_run_chain(self, run_id: str) -> Verification:
        """The same for one run and what it inherits as a fork (see `origins.verify_run`). Raises `NotFound`."""
        ...

    async def erase(self, stream: str, seq: int, *, reason: str) -> Event:
        """Remove an event's payload for good; the chain stays valid. Gives the event that records it."""
        ...

    async def restore(self, events: Sequence[Event]) -> None:
        """Write verified streams of another ledger as they are (see `bundles`). `Conflict` if one exists here: then none is."""
        ...

    async def close(self) -> None:
        """Write what is queued, as far as the gate lets us in, and let go of the files. Idempotent."""
        ...
