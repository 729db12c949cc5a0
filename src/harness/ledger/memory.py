"""The ledger's in-memory twin: the same promises without a file, for tests and rehearsals. Nothing outlives it.

Views live in a private in-memory SQLite database, since their folds speak SQL.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Self, cast

import anyio
import msgspec

from harness.clock import Clock, SystemClock
from harness.errors import Conflict, LedgerError, NotFound
from harness.ledger import proof
from harness.ledger.chain import Prepared
from harness.ledger.events import GENESIS, START, Cursor, Event
from harness.ledger.folding import Folding
from harness.ledger.guards import Guard, Lease, judge, renewed
from harness.ledger.origins import verify_run
from harness.ledger.store import Appended, Head, Problem, Verification, Write
from harness.ledger.views import Value, View


class MemoryStore:
    """A ledger in this process's memory. See `Store` for the promises; durable means: as long as the object."""

    def __init__(
        self, *, actor: str = "harness", tenant: str = "default", clock: Clock | None = None, views: Sequence[View] = ()
    ) -> None:
        self.actor = actor
        self.tenant = tenant
        self.clock: Clock = clock or SystemClock()
        self._events: list[Event] = []
        self._streams: dict[str, list[int]] = {}  # indexes into _events
        self._keys: dict[str, tuple[str, int]] = {}
        self._leases: dict[str, Lease] = {}
        self._counters: dict[str, int] = {}
        self._latest: dict[tuple[str, str], int] = {}
        self._folding = Folding(self._scan)
        self._folding.register(views)
        self._tables = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        self._tables.execute("CREATE TABLE views (name TEXT PRIMARY KEY, position INTEGER NOT NULL)")
        self._news = anyio.Event()
        self._closed = False

    @classmethod
    async def open(cls, **options: object) -> Self:
        """The same as the constructor, for code that opens any kind of store."""
        return cls(**options)  # type: ignore[arg-type]

    @property
    def location(self) -> str:
        return "memory"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # Rows, for guards

    def head_seq(self, stream: str) -> int:
        return len(self._streams.get(stream, ()))

    def key(self, name: str) -> tuple[str, int] | None:
        return self._keys.get(name)

    def counter(self, name: str) -> int:
        return self._counters.get(name, 0)

    # Writing

    async def append(self, *writes: Write, guards: Sequence[Guard] = ()) -> Appended:
        appended = self._write(writes, guards)
        await asyncio.sleep(0)
        return appended

    def submit(self, *writes: Write, guards: Sequence[Guard] = ()) -> Awaitable[Appended]:
        future: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()
        try:
            future.set_result(self._write(writes, guards))
        except LedgerError as error:
            future.set_exception(error)
            future.exception()
        return future

    def _write(self, writes: Sequence[Write], guards: Sequence[Guard]) -> Appended:
        self._check_open()
        now = self.clock.now_us()
        work = Prepared(writes, guards, now_us=now, actor=self.actor, tenant=self.tenant)
        stream = work.events[0].stream
        effects = judge(work.guards, _Rows(self), first=(stream, self.head_seq(stream) + 1), now_us=now)
        for name, place in effects.keys.items():
            if place is None:
                self._keys.pop(name, None)
            else:
                self._keys[name] = place
        self._leases.update(effects.leases)
        self._counters.update(effects.counters)
        written: list[Event] = []
        for prepared in work.events:
            indexes = self._streams.get(prepared.stream, ())
            prev = self._events[indexes[-1]].hash if indexes else GENESIS
            event = prepared.chained(seq=len(indexes) + 1, prev=prev, position=len(self._events) + 1)
            self._put(event)
            written.append(event)
        self._announce(written)
        return Appended(tuple(written))

    def _put(self, event: Event) -> None:
        self._streams.setdefault(event.stream, []).append(len(self._events))
        if event.key is not None:
            self._latest[event.stream, event.key] = len(self._events)
        self._events.append(event)

    def _announce(self, written: Sequence[Event]) -> None:
        self._folding.advance(self._tables, written)
        self._news.set()
        self._news = anyio.Event()

    def _check_open(self) -> None:
        if self._closed:
            raise LedgerError("memory is closed")

    async def renew(self, lease: str, token: int, ttl_seconds: float) -> Lease:
        fresh = renewed(self._leases.get(lease), lease, token, ttl_seconds, self.clock.now_us())
        self._leases[lease] = fresh
        return fresh

    # Reading

    def surely_at(self, stream: str) -> int | None:
        return len(self._streams.get(stream, ()))

    async def head(self, stream: str) -> Head | None:
        indexes = self._streams.get(stream)
        return _head(self._events[indexes[-1]]) if indexes else None

    async def heads(self, prefix: str = "") -> list[Head]:
        return [_head(self._events[self._streams[name][-1]]) for name in sorted(self._streams) if name.startswith(prefix)]

    async def read(self, stream: str, *, after: int = 0, limit: int | None = None) -> list[Event]:
        self._check_open()
        indexes = self._streams.get(stream, [])[max(after, 0) :]
        return [self._events[index] for index in (indexes if limit is None else indexes[:limit])]

    async def event(self, stream: str, seq: int) -> Event | None:
        indexes = self._streams.get(stream, [])
        return self._events[indexes[seq - 1]] if 0 < seq <= len(indexes) else None

    async def latest(self, stream: str, key: str) -> Event | None:
        index = self._latest.get((stream, key))
        return None if index is None else self._events[index]

    async def tail(self) -> Cursor:
        return Cursor(str(len(self._events)))

    async def read_all(
        self, *, after: Cursor = START, streams: Sequence[str] = (), types: Sequence[str] = (), limit: int = 1000
    ) -> list[Event]:
        self._check_open()
        return self._select(tuple(streams), tuple(types), _position_of(after), len(self._events), limit)

    def _select(self, prefixes: tuple[str, ...], types: tuple[str, ...], after: int, upto: int, limit: int) -> list[Event]:
        found: list[Event] = []
        for event in self._events[after:upto]:
            if len(found) >= limit:
                break
            if (not prefixes or event.stream.startswith(prefixes)) and (not types or event.type in types):
                found.append(event)
        return found

    def _scan(self, _: sqlite3.Connection, prefixes: tuple[str, ...], after: int, upto: int, limit: int) -> list[Event]:
        return self._select(prefixes, (), after, upto, limit)

    async def follow(
        self, *, after: Cursor = START, streams: Sequence[str] = (), types: Sequence[str] = ()
    ) -> AsyncGenerator[Event]:
        position = _position_of(after)
        while True:
            news = self._news
            upto = len(self._events)
            for event in self._select(tuple(streams), tuple(types), position, upto, upto):
                yield event
            position = upto
            await asyncio.sleep(0)  # also a follower that never waits lets others run
            if upto == len(self._events):
                await news.wait()

    # Guards

    async def lease(self, name: str) -> Lease | None:
        return self._leases.get(name)

    async def leases(self, prefix: str = "") -> list[Lease]:
        return [self._leases[name] for name in sorted(self._leases) if name.startswith(prefix)]

    async def holder_of(self, key: str) -> tuple[str, int] | None:
        return self._keys.get(key)

    async def reserved(self, counter: str) -> int:
        return self._counters.get(counter, 0)

    # Views

    def register(self, *views: View) -> None:
        self._folding.register(views)

    async def query(self, view: View, sql: str, *values: Value) -> list[tuple[Value, ...]]:
        self._check_open()
        if self._folding.behind(self._tables, view, len(self._events)):
            self._folding.catch_up(self._tables, view, len(self._events))
        return cast("list[tuple[Value, ...]]", self._tables.execute(sql, values).fetchall())

    async def rebuild(self, *views: View) -> int:
        folded = 0
        for view in views:
            self._folding.drop(self._tables, view)
            folded += self._folding.catch_up(self._tables, view, len(self._events))
        return folded

    async def check(self, *views: View) -> list[str]:
        upto = len(self._events)
        differing: list[str] = []
        for view in views:
            if self._folding.behind(self._tables, view, upto):
                self._folding.catch_up(self._tables, view, upto)
            differing += self._folding.differing(self._tables, view)
        return differing

    # Proof

    async def verify(
        self, stream: str | None = None, *, seals: Sequence[Path] = (), progress: Callable[[int], None] | None = None
    ) -> Verification:
        if stream is not None and stream not in self._streams:
            raise NotFound(f"memory: no stream {stream!r}")
        names = sorted(self._streams) if stream is None else [stream]
        problems: list[Problem] = []
        count = 0
        for name in names:
            chain = proof.Chain(name)
            for index in self._streams[name]:
                chain.add_event(self._events[index])
            count += len(self._streams[name])
            problems += chain.problems
            if progress is not None:
                progress(count)
        if seals:
            from harness.ledger.seals import compare

            problems += compare(seals, hash_at=self._hash_at, length=self.head_seq, stream=stream)
        return Verification(ok=not problems, streams=len(names), events=count, problems=tuple(problems))

    def _hash_at(self, stream: str, seq: int) -> bytes | None:
        indexes = self._streams.get(stream, [])
        return self._events[indexes[seq - 1]].hash if 0 < seq <= len(indexes) else None

    async def verify_run_chain(self, run_id: str) -> Verification:
        """Verify one run, and what it inherits as a fork. Truthy only if verified; raises `NotFound` for an unknown run."""
        return await verify_run(self, run_id)

    async def erase(self, stream: str, seq: int, *, reason: str) -> Event:
        self._check_open()
        if await self.event(stream, seq) is None:
            raise NotFound(f"no event {stream}#{seq}")
        index = self._streams[stream][seq - 1]
        before = self._events[index]
        self._events[index] = msgspec.structs.replace(before, stored_digest=before.digest, data=None, salt=None)
        work = proof.erasure(seq, reason)
        return self._write([Write(stream, (work,))], ()).first

    async def restore(self, events: Sequence[Event]) -> None:
        """Write streams of another ledger as they are, all or none. They must not exist here."""
        self._check_open()
        if not events:
            raise LedgerError("there is nothing to restore")
        for stream in {event.stream for event in events}:
            if (at := self.head_seq(stream)) != 0:
                raise Conflict(f"{stream} exists already, with {at} events; import into another ledger", name=stream, actual=at)
        moved = [proof.moved(event, len(self._events) + 1 + index) for index, event in enumerate(events)]
        for event in moved:
            self._put(event)
        self._announce(moved)

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._tables.close()


class _Rows:
    """The guard tables as `judge` reads them."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self.head_seq = store.head_seq
        self.key = store.key
        self.counter = store.counter

    def lease(self, name: str) -> Lease | None:
        return self._store._leases.get(name)  # pyright: ignore[reportPrivateUsage]


def _head(event: Event) -> Head:
    return Head(stream=event.stream, seq=event.seq, hash=event.hash, position=event.position, ts=event.ts)


def _position_of(cursor: Cursor) -> int:
    if not cursor:
        return 0
    if not cursor.isascii() or not cursor.isdigit():
        raise LedgerError(f"{cursor!r} is no cursor of this ledger")
    return int(cursor)
