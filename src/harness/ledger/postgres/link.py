"""One connection to the server: made when it is needed, made anew after it was lost, used by one task at a time."""

from __future__ import annotations

import asyncio
import contextlib
import select
from collections.abc import AsyncGenerator, Coroutine, Sequence
from typing import Any, TypeVar

import psycopg
from psycopg import AsyncConnection, AsyncRawCursor, pq
from psycopg.abc import Buffer
from psycopg.adapt import Loader
from psycopg.types.numeric import Int8Dumper

from harness.errors import LedgerError
from harness.ledger.postgres import arrays, faults
from harness.ledger.postgres.address import Address

T = TypeVar("T")

_PROMISES = """SELECT set_config('default_transaction_isolation', 'read committed', false), set_config('synchronous_commit',
    CASE current_setting('synchronous_commit') WHEN 'off' THEN 'on' ELSE current_setting('synchronous_commit') END, false)"""
Connection = AsyncConnection[tuple[Any, ...]]


class _Number(Loader):
    """A sum or an average as SQLite gives it, rather than as a `Decimal`."""

    def load(self, data: Buffer) -> float:
        text = bytes(data)
        return int(text) if text.lstrip(b"-").isdigit() else float(text)


class _Truth(Loader):
    """A comparison's result as SQLite gives it."""

    def load(self, data: Buffer) -> int:
        return int(bytes(data) == b"t")


class Link:
    """A connection that comes back. Everything that is to be undisturbed happens inside `held`."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self.settings: dict[str, str] = {}  # set on every new connection
        self._connection: Connection | None = None
        self._lock = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def held(self) -> AsyncGenerator[Connection]:
        """The connection for one task. Raises `LedgerError`, mostly `StoreUnavailable`, when there is none to be had."""
        async with self._lock:
            connection = await self._live()
            try:
                yield connection
            finally:  # whoever is cancelled in mid-statement may not get to undo it
                if connection is self._connection and connection.info.transaction_status != pq.TransactionStatus.IDLE:
                    self.drop()

    async def _live(self) -> Connection:
        connection = self._connection
        if connection is not None and not connection.closed and not _ended(connection):
            return connection
        self.drop()
        try:
            connection = await AsyncConnection.connect(
                **self._address.parameters, autocommit=True, prepare_threshold=3, cursor_factory=AsyncRawCursor
            )
        except (psycopg.Error, OSError, UnicodeError, ValueError) as error:
            raise faults.unavailable(error, self._address) from None
        try:
            _adapt(connection)
            await connection.execute(_PROMISES)  # an append reads what others commit while it waits, and is durable
            for name, value in self.settings.items():
                await connection.execute("SELECT set_config($1, $2, false)", (name, value))
        except BaseException as error:
            finish(connection)
            if isinstance(error, psycopg.Error):
                raise faults.unavailable(error, self._address) from error
            raise
        self._connection = connection
        return connection

    async def set(self, name: str, value: str) -> None:
        """Set something on this connection and on those that come after it. Only inside `held`."""
        self.settings[name] = value
        if self._connection is not None:
            await self._connection.execute("SELECT set_config($1, $2, false)", (name, value))

    @property
    def live(self) -> Connection | None:
        """The connection if there is one now."""
        return self._connection

    def drop(self) -> None:
        """Let go of the connection, whatever state it is in."""
        connection, self._connection = self._connection, None
        if connection is not None:
            finish(connection)


def _ended(connection: Connection) -> bool:
    """Whether the server has something to say on an idle connection, which is mostly its end.

    Then nothing was sent on it, so nothing is unknown, and a new connection costs little.
    """
    poll = select.poll()
    poll.register(connection.pgconn.socket, select.POLLIN)
    return bool(poll.poll(0))


async def apart(work: Coroutine[Any, Any, T]) -> T:
    """Do what uses a connection in a task of its own: a caller that is cancelled leaves it to end its statement in order.

    In the caller's own task a cancelled scope would break off the ending too, and the server would go on for nobody.
    """
    task = asyncio.get_running_loop().create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.cancel()
        task.add_done_callback(_forget)
        raise


def _forget(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()


def _adapt(connection: Connection) -> None:
    arrays.register(connection)
    connection.adapters.register_dumper(int, Int8Dumper)
    connection.adapters.register_loader("numeric", _Number)
    connection.adapters.register_loader("bool", _Truth)


def finish(connection: Connection) -> None:
    """Close a connection without waiting for anything."""
    with contextlib.suppress(psycopg.Error):
        connection.pgconn.finish()


async def rows(
    connection: Connection, sql: str, values: Sequence[object] = (), *, binary: bool = True, prepare: bool | None = None
) -> list[tuple[Any, ...]]:
    """A statement's rows; none for a statement without."""
    cursor = connection.cursor(binary=binary)
    await cursor.execute(sql, values, prepare=prepare)  # pyright: ignore[reportArgumentType, reportCallIssue]
    return await cursor.fetchall() if cursor.description is not None else []


def closed(location: str) -> LedgerError:
    """The error of one who uses what was closed."""
    return LedgerError(f"{location} is closed")
