"""The ledger in a PostgreSQL database: the `Store` for several processes on several machines.

Logic lives in the modules named after it: `writing` (appends, failover), `following`, `folding` (views), `inspection`.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast
from weakref import WeakKeyDictionary

from harness.clock import Clock, SystemClock
from harness.errors import LedgerError, NotFound, StoreUnavailable
from harness.ledger import proof
from harness.ledger.chain import Prepared
from harness.ledger.events import START, Cursor, Event
from harness.ledger.guards import Guard, Lease, expiry_of, renewed
from harness.ledger.origins import verify_run
from harness.ledger.postgres.address import parse_address
from harness.ledger.postgres.locks import lock_id
from harness.ledger.postgres.standing import HeldBack
from harness.ledger.postgres.statements import Statements, event_of, head_of, lease_of, span
from harness.ledger.store import Appended, Head, Verification, Write
from harness.ledger.views import Value, View

if TYPE_CHECKING:
    from uuid import UUID

    from harness.ledger.postgres.link import Connection
    from harness.ledger.postgres.session import Session

_PAGE = 500
_MAX_INTEGER = 2**63 - 1
_CURSOR = re.compile(r"(\d{1,19})-(\d{1,19})")
_LONGEST_PAUSE_SECONDS = 0.25


class PostgresStore:
    """A ledger in a schema of a PostgreSQL database. See `Store` for the promises.

    `dsn` is a `postgresql://` address (`?schema=` may name the schema) or libpq's words. Nothing connects before the
    first use, `open` or `async with`. `create` makes a missing schema; `read_only` writes nothing at all. An append
    that waits longer than `busy_seconds` for another process raises `Busy`; one that loses its connection is found out
    about or written anew for `retry_seconds`, then `StoreUnavailable` is raised with reason `down` (nothing was
    written) or `unknown`.

    A store belongs to no event loop: each one that uses it gets connections of its own. A role that `isolate` bound to
    a tenant sees that tenant only. Where tenants gave the same name to different streams, a store that sees several
    tenants takes its own `tenant`'s.
    """

    def __init__(
        self,
        dsn: str,
        *,
        actor: str = "harness",
        tenant: str = "default",
        schema: str | None = None,
        create: bool = True,
        read_only: bool = False,
        busy_seconds: float = 10.0,
        retry_seconds: float = 15.0,
        clock: Clock | None = None,
        views: Sequence[View] = (),
    ) -> None:
        self._address = parse_address(dsn, schema)
        from harness.ledger.postgres.folding import Folding
        from harness.ledger.postgres.session import Options

        self.actor = actor
        self.tenant = tenant
        self.clock: Clock = clock or SystemClock()
        self.read_only = read_only
        self._options = Options(
            address=self._address, tenant=tenant, create=create, read_only=read_only, busy_seconds=busy_seconds,
            retry_seconds=retry_seconds,
        )  # fmt: skip
        self._statements = Statements(f'"{self._address.schema}"')
        self._folding = Folding()
        self._folding.register(views)
        self._sessions: WeakKeyDictionary[asyncio.AbstractEventLoop, Session] = WeakKeyDictionary()
        self._pid = os.getpid()
        self._closed = False

    @classmethod
    async def open(cls, dsn: str, **options: Any) -> Self:
        """The same as the constructor, connected. Raises `StoreUnavailable`."""
        store = cls(dsn, **options)
        return await store.__aenter__()

    def __repr__(self) -> str:
        return f"PostgresStore({self.location!r})"

    @property
    def location(self) -> str:
        """The database and schema, without the password."""
        return self._address.location

    async def __aenter__(self) -> Self:
        try:
            await self._session.open()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def _session(self) -> Session:
        """What this event loop has of the store."""
        from harness.ledger.postgres.session import Session

        if self._closed:
            raise LedgerError(f"{self.location} is closed")
        if os.getpid() != self._pid:
            raise LedgerError(f"{self.location} was opened by process {self._pid}; open it anew after a fork")
        loop = asyncio.get_running_loop()
        session = self._sessions.get(loop)
        if session is None:
            session = self._sessions[loop] = Session(self._options, self._statements)
            session.writing.now_us = self.clock.now_us
        return session

    # Writing

    async def append(self, *writes: Write, guards: Sequence[Guard] = ()) -> Appended:
        return await asyncio.shield(self._put(writes, guards))

    def submit(self, *writes: Write, guards: Sequence[Guard] = ()) -> Awaitable[Appended]:
        return self._put(writes, guards)

    def _put(self, writes: Sequence[Write], guards: Sequence[Guard]) -> asyncio.Future[Any]:
        work = Prepared(writes, guards, now_us=self.clock.now_us(), actor=self.actor, tenant=self.tenant)
        return self._writable().writing.put(work)

    def _writable(self) -> Session:
        if self.read_only:
            raise LedgerError(f"{self.location} is opened for reading only")
        return self._session

    async def _job(
        self,
        run: Callable[[Connection, UUID], Awaitable[object]],
        found: Callable[[Sequence[Event]], object],
        locks: Sequence[int] = (),
        *,
        alone: bool = False,
    ) -> Any:
        """Run a transaction in the order of the appends."""
        from harness.ledger.postgres.writing import Job

        return await asyncio.shield(self._writable().writing.put(Job(run, found, locks, alone)))

    async def renew(self, lease: str, token: int, ttl_seconds: float) -> Lease:
        from harness.ledger.postgres.link import rows

        now_us = self.clock.now_us()
        lock = lock_id(self._address.schema, "lease", lease)
        within = token if abs(token) <= _MAX_INTEGER else -1
        values = (lock, lease, self.tenant, within, expiry_of(lease, now_us, ttl_seconds))

        async def run(connection: Connection, _: UUID) -> Lease:
            [(current, holder, expires)] = await rows(connection, self._statements["renew"], values)
            known = None if current is None else Lease(name=lease, token=current, holder=holder, expires_us=expires)
            return renewed(known, lease, token, ttl_seconds, now_us)

        return cast("Lease", await self._job(run, lambda _: None, (lock,), alone=True))

    # Reading

    def surely_at(self, stream: str) -> int | None:
        return None  # another machine may have written at any moment

    async def head(self, stream: str) -> Head | None:
        rows = await self._session.rows("head", stream, self.tenant)
        return head_of(rows[0]) if rows else None

    async def heads(self, prefix: str = "") -> list[Head]:
        return [head_of(row) for row in await self._session.rows("heads", *span(prefix))]

    async def read(self, stream: str, *, after: int = 0, limit: int | None = None) -> list[Event]:
        rows = await self._session.rows("read", stream, self.tenant, after, limit)
        return [event_of(row) for row in rows]

    async def event(self, stream: str, seq: int) -> Event | None:
        events = await self.read(stream, after=seq - 1, limit=1)
        return events[0] if events and events[0].seq == seq else None

    async def latest(self, stream: str, key: str) -> Event | None:
        rows = await self._session.rows("latest", stream, self.tenant, key)
        return event_of(rows[0]) if rows else None

    async def tail(self) -> Cursor:
        session = self._session
        await session.settled()
        rows = await session.rows("tail")
        return Cursor(f"{rows[0][0]}-{rows[0][1]}") if rows else START

    async def read_all(
        self, *, after: Cursor = START, streams: Sequence[str] = (), types: Sequence[str] = (), limit: int = 1000
    ) -> list[Event]:
        place = _place_of(after)
        await self._session.settled()
        return await self._page(place, streams, types, limit)

    async def _page(self, place: tuple[str, int], streams: Sequence[str], types: Sequence[str], limit: int) -> list[Event]:
        sql, values = self._statements.chosen("page", 3, tuple(streams), tuple(types))
        return [event_of(row) for row in await self._session.select(sql, (*place, limit, *values))]

    async def follow(
        self, *, after: Cursor = START, streams: Sequence[str] = (), types: Sequence[str] = ()
    ) -> AsyncGenerator[Event]:
        place = _place_of(after)
        bell = self._session.bell
        held: float | None = None
        while True:
            news = bell.listen()
            try:
                events = await self._page(place, streams, types, _PAGE)
                behind = not events and await self._session.held_back()
            except StoreUnavailable as error:
                if error.reason not in ("down", "busy") or self._session.standing is None:
                    raise
                await bell.wait(news, held=None)  # a follower outlasts the server's absence
                continue
            for event in events:
                yield event
            if events:
                place, held = _place_of(events[-1].cursor), None
                await asyncio.sleep(0)  # also a follower that never waits lets others run
                continue
            held = min((held or 0.002) * 2, _LONGEST_PAUSE_SECONDS) if behind else None
            await bell.wait(news, held=held)

    # Guards

    async def lease(self, name: str) -> Lease | None:
        rows = await self._session.rows("lease", name, self.tenant)
        return lease_of(rows[0]) if rows else None

    async def leases(self, prefix: str = "") -> list[Lease]:
        return [lease_of(row) for row in await self._session.rows("leases", *span(prefix))]

    async def holder_of(self, key: str) -> tuple[str, int] | None:
        rows = await self._session.rows("holder_of", key, self.tenant)
        return cast("tuple[str, int]", rows[0]) if rows else None

    async def reserved(self, counter: str) -> int:
        rows = await self._session.rows("reserved", counter, self.tenant)
        return int(rows[0][0]) if rows else 0

    # Views

    def register(self, *views: View) -> None:
        self._folding.register(views)

    async def query(self, view: View, sql: str, *values: Value) -> list[tuple[Value, ...]]:
        from harness.ledger.postgres.questions import ask

        return await ask(self._session, self._folding, view, sql, values, write=not self.read_only)

    async def rebuild(self, *views: View) -> int:
        from harness.ledger.postgres.questions import rebuild

        return sum([await rebuild(self._writable(), self._folding, view) for view in views])

    async def check(self, *views: View) -> list[str]:
        from harness.ledger.postgres.questions import check

        found = [await check(self._session, self._folding, view, write=not self.read_only) for view in views]
        return [table for tables in found for table in tables]

    # Proof

    async def verify(
        self, stream: str | None = None, *, seals: Sequence[Path] = (), progress: Callable[[int], None] | None = None
    ) -> Verification:
        from harness.ledger.postgres import inspection

        return await inspection.verify(self._session, stream, seals=seals, progress=progress)

    async def verify_run_chain(self, run_id: str) -> Verification:
        """Verify one run, and what it inherits as a fork. Truthy only if verified; raises `NotFound` for an unknown run."""
        return await verify_run(self, run_id)

    async def erase(self, stream: str, seq: int, *, reason: str) -> Event:
        from harness.ledger.postgres import transactions

        if not 0 < seq <= _MAX_INTEGER:
            raise NotFound(f"no event {stream}#{seq}")
        draft = Write(stream, (proof.erasure(seq, reason),))
        record = Prepared([draft], (), now_us=self.clock.now_us(), actor=self.actor, tenant=self.tenant)
        locks = (lock_id(self._address.schema, "stream", stream),)
        run = transactions.erasing(self._statements, record, seq, locks, self.tenant, self.clock.now_us())
        event = cast("Event", await self._job(run, lambda events: events[0], locks))
        await transactions.sweep(self._session)
        return event

    async def restore(self, events: Sequence[Event]) -> None:
        from harness.ledger.postgres import transactions

        if not events:
            raise LedgerError("there is nothing to restore")
        names = dict.fromkeys(event.stream for event in events)
        locks = sorted(lock_id(self._address.schema, "stream", name) for name in names)
        await self._job(transactions.restoring(self._statements, events, locks, self.tenant), lambda _: None, locks)

    async def isolate(self, role: str, tenant: str) -> None:
        """Bind a database role to one tenant by row-level security: it sees and writes that tenant's streams only.

        The role must exist. To be called by the owner of the ledger's schema; again for each role. Raises `LedgerError`.
        """
        from harness.ledger.postgres.isolation import bind

        session = self._writable()
        async with session.guarded() as connection:
            await bind(connection, self._address, role, tenant)

    async def held_back(self) -> list[HeldBack]:
        """The transactions that keep followers from newer events, the oldest first; of which role needs pg_monitor to see."""
        rows = await self._session.rows("holding_back")
        return [
            HeldBack(pid=pid, user=user, application=application, state=state, age_seconds=float(age or 0.0))
            for pid, user, application, state, age in rows
        ]

    async def close(self) -> None:
        """Write what is queued, then let go of the connections. Idempotent."""
        if self._closed:
            return
        try:
            session = self._sessions.get(asyncio.get_running_loop()) if os.getpid() == self._pid else None
            if session is not None:
                await session.writing.drain()
                await session.bell.flush()
        finally:
            self._closed = True
            for session in list(self._sessions.values()):
                session.close()


def _place_of(cursor: Cursor) -> tuple[str, int]:
    if not cursor:
        return "0", 0
    match = _CURSOR.fullmatch(cursor)
    if match is None or int(match[1]) > _MAX_INTEGER or int(match[2]) > _MAX_INTEGER:
        raise LedgerError(f"{cursor!r} is no cursor of this ledger")
    return match[1], int(match[2])
