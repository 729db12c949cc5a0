"""The ledger in one SQLite file: the `Store` for one machine and any number of its processes.

Reads run inline on a connection of their own, a page at a time; writes go through `group` and `transaction`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import sys
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar, cast

from harness.clock import Clock, SystemClock
from harness.errors import LedgerError, NotFound, StoreUnavailable, UsageError
from harness.ledger import inspection, proof
from harness.ledger.chain import Prepared
from harness.ledger.database import Durability, connect, truncate_log, unavailable
from harness.ledger.events import START, Cursor, Event
from harness.ledger.folding import Folding
from harness.ledger.gate import Gate
from harness.ledger.group import Entry, GroupCommit
from harness.ledger.guards import Guard, Lease, renewed
from harness.ledger.origins import verify_run
from harness.ledger.store import Appended, Head, Verification, Write
from harness.ledger.transaction import Writer
from harness.ledger.views import Value, View
from harness.wake import Bell

T = TypeVar("T")


def _file(path: object) -> Path:
    """A path that can be meant: SQLite's own word for memory would become a file of that name."""
    if not isinstance(path, str | os.PathLike) or not os.fspath(path):  # pyright: ignore[reportUnknownArgumentType]
        raise UsageError(f"a ledger's path names a file, such as SQLiteStore('harness.db'), not {path!r}")
    if str(path) == ":memory:":  # pyright: ignore[reportUnknownArgumentType]
        raise UsageError("a SQLiteStore keeps a file, which several processes may open; MemoryStore() keeps a ledger in memory")
    if isinstance(path, str) and "://" in path:
        raise UsageError(f"{path.partition(':')[0]}://… is an address, not a file; PostgresStore(dsn) takes one of PostgreSQL")
    return Path(path)  # pyright: ignore[reportUnknownArgumentType]


_COLUMNS = """e.position, s.name, e.seq, e.type, e.ts, e.actor, e.tenant, e.parent, e.key, e.schema,
    CAST(e.data AS BLOB), e.salt, e.digest, e.prev, e.hash"""
_EVENTS = f"SELECT {_COLUMNS} FROM events e JOIN streams s ON s.id = e.stream"
_OWN_EVENTS = f"SELECT {_COLUMNS.replace('s.name', '?1')} FROM events e"  # of one stream, named by the first value
_HEADS = """SELECT s.name, e.seq, e.hash, e.position, e.ts, s.seq, s.hash FROM streams s
    JOIN events e ON e.stream = s.id AND e.seq = (SELECT max(seq) FROM events WHERE stream = s.id)"""
_PAGE = 500
_NEAR = 5000  # so many positions are scanned rather than looked up by stream
_LOOK_AGAIN_SECONDS = 1.0  # a writer may have died between its commit and the bell
_BUSY_SECONDS = 10.0
_MAX_INTEGER = 2**63 - 1


def _event(row: Sequence[Any]) -> Event:
    position, stream, seq, type_, ts, actor, tenant, parent, key, schema, data, salt, digest, prev, hash_ = row
    return Event(
        position=position, stream=stream, seq=seq, type=type_, ts=ts, actor=actor, tenant=tenant, parent=parent, key=key,
        schema=schema, data=data, salt=salt, stored_digest=digest, prev=prev, hash=hash_,
        cursor=str(position),  # type: ignore[arg-type] - Cursor() would be a call more for each event
    )  # fmt: skip


class SQLiteStore:
    """A ledger in a SQLite file. See `Store` for the promises.

    `create` makes a missing file (its folder must exist); `read_only` writes nothing at all. `durability`
    "full" survives power loss, "process" survives kill -9 only. An append that waits longer than
    `busy_seconds` for another process raises `Busy`. Event loops of several threads may share a store, but one that was
    opened before a fork writes nothing in the child. Raises `StoreUnavailable`.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        actor: str = "harness",
        tenant: str = "default",
        create: bool = True,
        read_only: bool = False,
        durability: Durability = "full",
        busy_seconds: float = _BUSY_SECONDS,
        clock: Clock | None = None,
        views: Sequence[View] = (),
    ) -> None:
        self.path = _file(path)
        self.actor = actor
        self.tenant = tenant
        self.clock: Clock = clock or SystemClock()
        self.read_only = read_only
        self._pid = os.getpid()
        self._folding = Folding(self._scan)
        self._folding.register(views)
        self._bell = Bell(Path(f"{self.path}-bell"))
        self._writer: Writer | None = None
        self._busy_seconds = busy_seconds
        self._closing = False  # nothing more is taken
        self._closed = False
        if not read_only:
            connection = connect(self.path, create=create, read_only=False, durability=durability)
            self._writer = Writer(connection, self._folding, self.clock, self.location)
            self._gate = Gate(self.path)
            self._bell.hang()
            self._group = GroupCommit(self._commit, self._gate, name=self.location, busy_seconds=busy_seconds)
        self._reader = connect(self.path, create=False, read_only=True, durability=durability)
        self._reading = threading.RLock()  # a statement that another thread has begun would hold ours in its past

    @classmethod
    async def open(cls, path: str | Path, **options: object) -> Self:
        """The same as the constructor, for code that opens any kind of store."""
        return cls(path, **options)  # type: ignore[arg-type]

    @property
    def location(self) -> str:
        return str(self.path)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # Writing

    async def append(self, *writes: Write, guards: Sequence[Guard] = ()) -> Appended:
        if self._closing or self.read_only or os.getpid() != self._pid:
            self._check_writable()
        work = Prepared(writes, guards, now_us=self.clock.now_us(), actor=self.actor, tenant=self.tenant)
        return await self._group.put(work)  # type: ignore[return-value]

    def submit(self, *writes: Write, guards: Sequence[Guard] = ()) -> Awaitable[Appended]:
        if self._closing or self.read_only or os.getpid() != self._pid:
            self._check_writable()
        work = Prepared(writes, guards, now_us=self.clock.now_us(), actor=self.actor, tenant=self.tenant)
        return self._group.submit(work)  # type: ignore[return-value]

    def _check_writable(self) -> None:
        if self._closing or self.read_only:
            raise LedgerError(f"{self.location} is {'closed' if self._closing else 'opened for reading only'}")
        if os.getpid() != self._pid:
            raise LedgerError(f"{self.location} was opened by process {self._pid}; open it anew after a fork")

    def _commit(self, entries: list[Entry]) -> None:
        assert self._writer is not None
        if self._writer.commit(entries, undisturbed=self._gate.undisturbed):
            self._bell.ring()

    async def _job(self, job: Callable[[Writer], T]) -> T:
        """Run a function in the writer's turn, inside its transaction."""
        self._check_writable()
        writer = cast("Writer", self._writer)
        return cast("T", await self._group.put(lambda: job(writer)))

    async def renew(self, lease: str, token: int, ttl_seconds: float) -> Lease:
        def job(writer: Writer) -> Lease:
            fresh = renewed(writer.lease(lease), lease, token, ttl_seconds, self.clock.now_us())
            writer.put_lease(fresh)
            return fresh

        return await self._job(job)

    # Reading

    def _rows(self, sql: str, values: Sequence[object] = ()) -> list[tuple[object, ...]]:
        if self._closed:
            raise LedgerError(f"{self.location} is closed")
        try:
            with self._reading:
                return self._reader.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise unavailable(error, self.location) from error
        except OverflowError as error:
            raise LedgerError(f"no ledger has numbers as large as that: {error}") from error

    def surely_at(self, stream: str) -> int | None:
        if self._writer is None:
            return None
        turn = self._group.turn
        seq = 0 if turn % 2 else self._writer.known_seq(stream)
        return seq if seq and self._gate.ours() and self._group.turn == turn else None  # else our thread came in between

    async def head(self, stream: str) -> Head | None:
        rows = self._rows(f"{_HEADS} WHERE s.name = ?", (stream,))
        return _head(rows[0]) if rows else None

    async def heads(self, prefix: str = "") -> list[Head]:
        return [_head(row) for row in self._rows(f"{_HEADS} WHERE s.name >= ? AND s.name < ? ORDER BY s.name", _span(prefix))]

    async def read(self, stream: str, *, after: int = 0, limit: int | None = None) -> list[Event]:
        sql = f"{_OWN_EVENTS} WHERE e.stream = (SELECT id FROM streams WHERE name = ?1) AND e.seq > ?2 ORDER BY e.seq LIMIT ?3"
        return [_event(row) for row in self._rows(sql, (stream, after, -1 if limit is None else limit))]

    async def event(self, stream: str, seq: int) -> Event | None:
        events = await self.read(stream, after=seq - 1, limit=1)
        return events[0] if events and events[0].seq == seq else None

    async def latest(self, stream: str, key: str) -> Event | None:
        sql = f"{_EVENTS} WHERE e.stream = (SELECT id FROM streams WHERE name = ?) AND e.key = ? ORDER BY e.seq DESC LIMIT 1"
        rows = self._rows(sql, (stream, key))
        return _event(rows[0]) if rows else None

    async def tail(self) -> Cursor:
        return Cursor(str(self._position()))

    def _position(self) -> int:
        return cast("int", self._rows("SELECT coalesce(max(position), 0) FROM events")[0][0])

    async def read_all(
        self, *, after: Cursor = START, streams: Sequence[str] = (), types: Sequence[str] = (), limit: int = 1000
    ) -> list[Event]:
        start = _position_of(after)
        with self._reading:
            return self._select(self._reader, tuple(streams), tuple(types), start, self._position(), limit)

    async def follow(
        self, *, after: Cursor = START, streams: Sequence[str] = (), types: Sequence[str] = ()
    ) -> AsyncGenerator[Event]:
        position = _position_of(after)
        with self._bell.listen() as listener:
            while True:
                upto = self._position()
                while position < upto:
                    with self._reading:
                        events = self._select(self._reader, tuple(streams), tuple(types), position, upto, _PAGE)
                    for event in events:
                        yield event
                    position = upto if len(events) < _PAGE else events[-1].position
                    await asyncio.sleep(0)  # also a follower that never waits lets others run
                await listener.wait(_LOOK_AGAIN_SECONDS)

    def _scan(
        self, connection: sqlite3.Connection, prefixes: tuple[str, ...], after: int, upto: int, limit: int
    ) -> list[Event]:
        return self._select(connection, prefixes, (), after, upto, limit)

    def _select(
        self,
        connection: sqlite3.Connection,
        prefixes: tuple[str, ...],
        types: tuple[str, ...],
        after: int,
        upto: int,
        limit: int,
    ) -> list[Event]:
        where, values = ["e.position > ? AND e.position <= ?"], [after, upto]
        conditions: list[object] = list(values)
        if prefixes and "" not in prefixes:
            if upto - after < _NEAR:  # the plus sign keeps SQLite from looking up every such stream first
                where.append("(" + " OR ".join(["(+s.name >= ? AND +s.name < ?)"] * len(prefixes)) + ")")
            else:
                spans = " OR ".join(["(name >= ? AND name < ?)"] * len(prefixes))
                where.append(f"e.stream IN (SELECT id FROM streams WHERE {spans})")
            for prefix in prefixes:
                conditions.extend(_span(prefix))
        if types:
            where.append(f"e.type IN ({','.join('?' * len(types))})")
            conditions.extend(types)
        sql = f"{_EVENTS} WHERE {' AND '.join(where)} ORDER BY e.position LIMIT ?"
        if self._closed:
            raise LedgerError(f"{self.location} is closed")
        try:
            return [_event(row) for row in connection.execute(sql, (*conditions, limit)).fetchall()]
        except sqlite3.Error as error:
            raise unavailable(error, self.location) from error

    # Guards

    async def lease(self, name: str) -> Lease | None:
        leases = self._leases("name = ?", (name,))
        return leases[0] if leases else None

    async def leases(self, prefix: str = "") -> list[Lease]:
        return self._leases("name >= ? AND name < ?", _span(prefix))

    def _leases(self, where: str, values: Sequence[object]) -> list[Lease]:
        rows = self._rows(f"SELECT name, token, holder, expires FROM leases WHERE {where} ORDER BY name", values)
        return [Lease(name=r[0], token=r[1], holder=r[2], expires_us=r[3]) for r in rows]  # type: ignore[arg-type]

    async def holder_of(self, key: str) -> tuple[str, int] | None:
        rows = self._rows("SELECT stream, seq FROM keys WHERE name = ?", (key,))
        return cast("tuple[str, int]", rows[0]) if rows else None

    async def reserved(self, counter: str) -> int:
        rows = self._rows("SELECT amount FROM counters WHERE name = ?", (counter,))
        return cast("int", rows[0][0]) if rows else 0

    # Views

    def register(self, *views: View) -> None:
        self._folding.register(views)

    async def query(self, view: View, sql: str, *values: Value) -> list[tuple[Value, ...]]:
        with self._errors():
            upto = self._position()
            with self._reading:
                behind = self._folding.behind(self._reader, view, upto)
            if behind:
                if self.read_only:
                    return self._query_shadow(view, sql, values, upto)
                await self._job(lambda writer: self._folding.catch_up(writer.connection, view, upto))
            return cast("list[tuple[Value, ...]]", self._rows(sql, values))

    def _query_shadow(self, view: View, sql: str, values: Sequence[Value], upto: int) -> list[tuple[Value, ...]]:
        """Answer from an up-to-date copy in temporary tables, since this store writes nothing."""
        with self._reading, self._folding.shadow(self._reader, view, upto):
            return cast("list[tuple[Value, ...]]", self._rows(sql, values))

    async def rebuild(self, *views: View) -> int:
        def job(writer: Writer) -> int:
            folded = 0
            upto = cast("int", writer.connection.execute("SELECT coalesce(max(position), 0) FROM events").fetchone()[0])
            for view in views:
                self._folding.drop(writer.connection, view)
                folded += self._folding.catch_up(writer.connection, view, upto)
            return folded

        return await self._job(job)

    async def check(self, *views: View) -> list[str]:
        with self._errors():
            differing: list[str] = []
            for view in views:
                upto = self._position()
                if not self.read_only and self._folding.behind(self._reader, view, upto):
                    await self._job(lambda writer, view=view, upto=upto: self._folding.catch_up(writer.connection, view, upto))
                with self._reading:
                    differing += self._folding.differing(self._reader, view)
            return differing

    @contextlib.contextmanager
    def _errors(self) -> Generator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise unavailable(error, self.location) from error

    # Proof

    async def verify(
        self, stream: str | None = None, *, seals: Sequence[Path] = (), progress: Callable[[int], None] | None = None
    ) -> Verification:
        with self._errors():
            return await inspection.verify(self.path, stream, seals=seals, progress=progress)

    async def verify_run_chain(self, run_id: str) -> Verification:
        """Verify one run, and what it inherits as a fork. Truthy only if verified; raises `NotFound` for an unknown run."""
        return await verify_run(self, run_id)

    async def erase(self, stream: str, seq: int, *, reason: str) -> Event:
        if not 0 < seq <= _MAX_INTEGER:
            raise NotFound(f"no event {stream}#{seq}")
        draft = Write(stream, (proof.erasure(seq, reason),))
        record = Prepared([draft], (), now_us=self.clock.now_us(), actor=self.actor, tenant=self.tenant)
        event = await self._job(lambda writer: writer.erase(stream, seq, record))
        await self._truncate_log()
        return event

    async def _truncate_log(self) -> None:
        """Erased bytes may still stand in the write-ahead log: bring it into the file and cut it.

        On a connection of its own, since the writer's may be inside a transaction. Raises `StoreUnavailable` if a
        reader needs the old log for too long.
        """
        import anyio.to_thread

        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._busy_seconds
        while not await anyio.to_thread.run_sync(truncate_log, self.path):
            if loop.time() > deadline:
                log = f"{self.path.name}-wal"
                raise StoreUnavailable(
                    f"{self.location}: erased, but another program keeps the old bytes in {log}; end it and erase again",
                    reason="busy",
                )
            await anyio.sleep(0.05)

    async def restore(self, events: Sequence[Event]) -> None:
        """Write streams of another ledger as they are, all or none. They must not exist here. See `bundles`."""
        await self._job(lambda writer: writer.restore(events))

    async def close(self) -> None:
        if self._closing:
            return
        self._closing = True
        writer = self._writer if os.getpid() == self._pid else None
        try:
            if writer is not None:
                with _shield(), contextlib.suppress(LedgerError):  # others keep the gate: no more to do
                    await self._group.drain()
                    await self._group.put(writer.write_heads)
        finally:
            self._let_go(writer)

    def _let_go(self, writer: Writer | None) -> None:
        if writer is not None:
            self._group.close()
            with contextlib.suppress(sqlite3.Error):
                writer.connection.execute("PRAGMA busy_timeout = 0")
                writer.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            writer.connection.close()
        self._closed = True
        self._reader.close()
        self._bell.close()


def _shield() -> contextlib.AbstractContextManager[object]:
    """No cancel scope of anyio reaches inside; a process that has not loaded it is in none, and need not load it."""
    if "anyio" not in sys.modules:
        return contextlib.nullcontext()
    import anyio

    return anyio.CancelScope(shield=True)


def _head(row: Sequence[Any]) -> Head:
    name, seq, hash_, position, ts, listed, listed_hash = row
    return Head(stream=name, seq=seq, hash=hash_, position=position, ts=ts, listed=listed, listed_hash=listed_hash)  # type: ignore[arg-type]


def _span(prefix: str) -> tuple[str, str]:
    """The names that begin with a prefix, as a half-open range."""
    return prefix, prefix + "\U0010ffff"


def _position_of(cursor: Cursor) -> int:
    if not cursor:
        return 0
    if not cursor.isascii() or not cursor.isdigit() or len(cursor) > 18:
        raise LedgerError(f"{cursor!r} is no cursor of this ledger")
    return int(cursor)
