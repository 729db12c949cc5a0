"""Who writes and when: what is queued in one tick, or while a transaction was under way, is the next transaction.

Each transaction carries an id that it records. When its reply is lost, the id is looked up on a new connection: noting it
as never to be written succeeds only if it was not, and waits for a server that is still at it. So an append whose
connection breaks is known to be written, or is written anew; only if the database stays away is it named unknown.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

import psycopg

from harness.errors import Busy, LedgerError, StoreUnavailable
from harness.ledger.chain import Prepared
from harness.ledger.events import Event
from harness.ledger.postgres import faults
from harness.ledger.postgres.batch import (
    Answer,
    Row,
    arguments,
    batch_id,
    batches_before,
    locks_of,
    placed,
    refusal_of,
    row_of,
)  # fmt: skip
from harness.ledger.postgres.link import Connection, Link, closed, rows
from harness.ledger.postgres.statements import event_of
from harness.ledger.store import Appended

if TYPE_CHECKING:
    from harness.ledger.postgres.session import Session

_AT_ONCE = 64  # appends in one transaction; each takes a few entries of the server's lock table
_BYTES_AT_ONCE = 8 * 1024 * 1024
_PRUNE_EVERY = 4096
_KEPT_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Job:
    """A transaction that is no append. `found` gives its result once it is known to be committed."""

    run: Callable[[Connection, UUID], Awaitable[object]]
    found: Callable[[Sequence[Event]], object]
    locks: Sequence[int] = ()
    alone: bool = False  # one statement, which is a transaction by itself


class Entry:
    """One append or job, and who waits for it."""

    __slots__ = ("future", "since", "work")

    def __init__(self, work: Prepared | Job, loop: asyncio.AbstractEventLoop) -> None:
        self.work = work
        self.since = loop.time()
        self.future: asyncio.Future[Any] = loop.create_future()

    def succeed(self, result: object) -> None:
        if not self.future.done():
            self.future.set_result(result)

    def fail(self, error: BaseException) -> None:
        if not self.future.done():
            self.future.set_exception(error)
            self.future.exception()  # whoever awaits it gets it; nobody has to


class Writing:
    """The queue of one event loop, and the task that empties it."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._options = session.options
        self._link = Link(session.address)
        self._link.settings["lock_timeout"] = str(max(1, round(self._options.busy_seconds * 1000)))
        self._queue: list[Entry] = []
        self._task: asyncio.Task[None] | None = None
        self._unresolved: list[UUID] = []  # their callers were told that nobody knows: they must not be written later
        self._since_pruning = 0
        self._closed = False
        self.now_us: Callable[[], int] = lambda: 0

    def put(self, work: Prepared | Job) -> asyncio.Future[Any]:
        """Queue work; the future is resolved when it is written or refused."""
        if self._closed:
            raise closed(self._session.address.location)
        loop = asyncio.get_running_loop()
        entry = Entry(work, loop)
        self._queue.append(entry)
        if self._task is None or self._task.done():
            self._task = loop.create_task(self._run(), name="harness ledger writer")
        return entry.future

    async def drain(self) -> None:
        """Return when everything queued so far was written or refused."""
        if self._task is not None and not self._task.done():
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        while self._queue:
            entries = self._take()
            try:
                await self._serve(entries)
            except Exception as error:  # noqa: BLE001  # whoever waits for the entries gets it
                for entry in entries:
                    entry.fail(error)
            except BaseException:
                for entry in [*entries, *self._queue]:
                    entry.future.cancel()
                self._queue = []
                raise

    def _take(self) -> list[Entry]:
        """The next entries that go into one transaction."""
        size, count = 0, 0
        for entry in self._queue[:_AT_ONCE]:
            if isinstance(entry.work, Job):
                count = count or 1
                break
            size += sum(len(event.data) for event in entry.work.events)
            if count and size > _BYTES_AT_ONCE:
                break
            count += 1
        entries, self._queue = self._queue[:count], self._queue[count:]
        return entries

    async def _serve(self, entries: list[Entry]) -> None:
        first = entries[0]
        if isinstance(first.work, Job):
            first.succeed(await self._do(first.work, first.since))
            return
        good: list[tuple[Entry, Prepared, list[Row]]] = []
        now_us = self.now_us()
        for entry in entries:
            assert isinstance(entry.work, Prepared)
            try:
                good.append((entry, entry.work, [row_of(guard, now_us) for guard in entry.work.guards]))
            except LedgerError as error:
                entry.fail(error)
        if good:
            await self._append(good, now_us)

    async def _append(self, good: list[tuple[Entry, Prepared, list[Row]]], now_us: int) -> None:
        works = [(work, guards) for _, work, guards in good]
        schema = self._session.address.schema
        locks = sorted(set[int]().union(*(locks_of(work, guards, schema) for work, guards in works)))

        async def send(connection: Connection, batch: UUID) -> Answer:
            values = arguments(works, locks, tenant=self._options.tenant, batch=batch, now_us=now_us)
            [row] = await rows(connection, self._session.statements["append"], values, prepare=True)
            xid, seqs, positions, prevs, refusals = row
            return Answer(xid, list(zip(seqs, positions, prevs, strict=True)), refusals or [])

        async def found(connection: Connection, xid: str, refusals: list[dict[str, Any]]) -> Answer:
            events = await self._written(connection, xid)
            return Answer(xid, [(event.seq, event.position, event.prev) for event in events], refusals)

        try:
            answer = await self._transact(send, found, since=good[0][0].since, locks=locks)
        except Exception as error:
            if len(good) == 1 or not faults.of_one(error.__cause__ or error):
                raise
            for one in good:  # one of them cannot be written: it fails alone
                try:
                    await self._append([one], now_us)
                except LedgerError as problem:
                    one[0].fail(problem)
            return
        self._tell(good, answer, now_us)

    def _tell(self, good: Sequence[tuple[Entry, Prepared, list[Row]]], answer: Answer, now_us: int) -> None:
        refused = answer.refused()
        at = 0
        for index, (entry, work, _) in enumerate(good):
            if index in refused:
                entry.fail(refusal_of(work, refused[index], now_us))
                continue
            assert answer.xid is not None
            places = answer.places[at : at + len(work.events)]
            at += len(work.events)
            entry.succeed(Appended(placed(work, places, answer.xid)))
        if answer.xid is not None:
            self._session.newest = max(self._session.newest, int(answer.xid))
            self._session.bell.ring()

    async def _do(self, job: Job, since: float) -> object:
        """Run a job in a transaction of its own."""

        async def send(connection: Connection, batch: UUID) -> object:
            if job.alone:
                return await job.run(connection, batch)
            async with connection.transaction():
                return await job.run(connection, batch)

        async def found(connection: Connection, xid: str, _: list[dict[str, Any]]) -> object:
            return job.found(await self._written(connection, xid))

        result = await self._transact(send, found, since=since, locks=job.locks)
        if not job.alone:
            self._session.bell.ring()
        return result

    async def _written(self, connection: Connection, xid: str) -> list[Event]:
        return [event_of(row) for row in await rows(connection, self._session.statements["written"], (xid,))]

    async def _transact(
        self,
        send: Callable[[Connection, UUID], Awaitable[Any]],
        found: Callable[[Connection, str, list[dict[str, Any]]], Awaitable[Any]],
        *,
        since: float,
        locks: Sequence[int],
    ) -> Any:
        """Send a transaction until it is known to be written or refused. Raises `LedgerError`."""
        deadline = since + self._options.retry_seconds
        while True:
            batch = batch_id()
            try:
                return await self._on_connection(lambda connection, batch=batch: send(connection, batch), deadline)
            except _Lost as error:
                outcome = await self._find_out(batch, found, deadline, error)
                if outcome is not None:
                    return outcome[0]
                self._give_up_after(deadline, error)
            except psycopg.Error as error:
                if faults.again(error):
                    self._give_up_after(deadline, error)
                    continue
                if faults.waited(error):
                    raise await self._busy(locks) from error
                raise self._session.understood(error) from error
            except (OverflowError, UnicodeError) as error:
                raise LedgerError(f"this cannot be written: {error}") from error

    def _give_up_after(self, deadline: float, error: BaseException) -> None:
        if asyncio.get_running_loop().time() > deadline:
            raise faults.down(error.__cause__ or error, self._session.address) from error

    async def _on_connection(self, use: Callable[[Connection], Awaitable[Any]], deadline: float) -> Any:
        """Use the writing connection. Raises `_Lost` if it broke meanwhile, `StoreUnavailable` if there is none."""
        pause = 0.05
        loop = asyncio.get_running_loop()
        while True:
            try:
                async with self._link.held() as connection:
                    await self._session.ready(self._link, connection)
                    await self._void_unresolved(connection)
                    await self._prune(connection)
                    break_off = _Breaks(self._link)
                    async with break_off:
                        return await use(connection)
            except StoreUnavailable as error:
                patient = error.reason in ("down", "busy") and self._session.standing is not None
                if not patient or loop.time() + pause > deadline:
                    raise
            except _Gone:
                if loop.time() + pause > deadline:
                    raise faults.down(None, self._session.address) from None
            await asyncio.sleep(pause)
            pause = min(pause * 2, 1.0)

    async def _void_unresolved(self, connection: Connection) -> None:
        while self._unresolved:
            await self._before(connection, "void", self._unresolved[-1])
            self._unresolved.pop()

    async def _prune(self, connection: Connection) -> None:
        self._since_pruning -= 1
        if self._since_pruning < 0:
            self._since_pruning = _PRUNE_EVERY
            await self._before(connection, "prune", batches_before(_KEPT_SECONDS))

    async def _before(self, connection: Connection, name: str, batch: UUID) -> list[tuple[Any, ...]]:
        """A statement before the one that matters: if the connection breaks, that was not sent yet."""
        try:
            return await rows(connection, self._session.statements[name], (self._options.tenant, batch))
        except (psycopg.Error, OSError) as error:
            if faults.lost(error):
                self._link.drop()
                raise _Gone from error
            raise self._session.understood(error) from error

    async def _find_out(
        self,
        batch: UUID,
        found: Callable[[Connection, str, list[dict[str, Any]]], Awaitable[Any]],
        deadline: float,
        problem: BaseException,
    ) -> tuple[Any] | None:
        """What became of a transaction whose reply was lost: its result, or None if it was not and never will be written."""

        async def look(connection: Connection) -> tuple[Any] | None:
            statements = self._session.statements
            if await rows(connection, statements["void"], (self._options.tenant, batch)):
                return None
            [(xid, refusals)] = await rows(connection, statements["batch"], (self._options.tenant, batch))
            return None if xid is None else (await found(connection, xid, refusals or []),)

        while True:
            try:
                return await self._on_connection(look, deadline)
            except _Lost:
                if asyncio.get_running_loop().time() <= deadline:
                    continue
                cause: BaseException = problem
            except (LedgerError, psycopg.Error) as error:
                cause = error
            self._unresolved.append(batch)
            raise StoreUnavailable(
                f"{self._session.address.location}: the connection broke in mid-append and the database stays away, so it is"
                f" not known whether the append {batch} was written; read the stream again when the database is back",
                reason="unknown",
            ) from cause

    async def _busy(self, locks: Sequence[int]) -> Busy:
        """Who keeps us waiting."""
        try:
            found = await self._session.rows("lock_holder", list(locks))
        except LedgerError:
            found = []
        pid = int(found[0][0]) if found else None
        return Busy(self._session.address.location, holder_pid=pid, waited_seconds=self._options.busy_seconds)

    def close(self) -> None:
        """Refuse what is queued and let go of the connection."""
        self._closed = True
        task, self._task = self._task, None
        if task is not None and not task.done() and not task.get_loop().is_closed():
            task.cancel()
        self._link.drop()


class _Lost(Exception):
    """The connection broke after the statement was sent."""


class _Gone(Exception):
    """The connection broke before the statement was sent."""


class _Breaks:
    """Turns the driver's errors about a broken connection into `_Lost`, and lets go of the connection."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def __aenter__(self) -> None:
        return None

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, (psycopg.Error, OSError)) and faults.lost(error):
            self._link.drop()
            raise _Lost(str(error)) from error
