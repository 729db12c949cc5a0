"""What a store has in one event loop: its connections, its queue of appends, its followers' bell."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from harness.errors import LedgerError, StoreUnavailable
from harness.ledger.postgres import faults
from harness.ledger.postgres.address import Address
from harness.ledger.postgres.following import Bell
from harness.ledger.postgres.link import Connection, Link, apart, closed, rows
from harness.ledger.postgres.migrations import Standing, prepare
from harness.ledger.postgres.statements import Statements
from harness.ledger.postgres.writing import Writing

_SETTLE_SECONDS = 0.5  # how long a reader waits for older transactions of others, to see its own appends


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a store was opened."""

    address: Address
    tenant: str
    create: bool
    read_only: bool
    busy_seconds: float
    retry_seconds: float


class Session:
    """A store's connections in one event loop: one writes, one reads and folds views, one listens once somebody follows."""

    def __init__(self, options: Options, statements: Statements) -> None:
        self.options = options
        self.address = options.address
        self.statements = statements
        self.standing: Standing | None = None
        self._reader = Link(self.address)
        self._settled = 0  # nothing below this transaction can come any more
        self.newest = 0  # the last transaction of ours that wrote events
        self.bell = Bell(self)
        self.writing = Writing(self)
        self._closed = False

    async def open(self) -> None:
        """Connect and look what is there. Raises `StoreUnavailable`."""
        async with self.reader():
            pass

    async def ready(self, link: Link, connection: Connection) -> None:
        """Make the link fit for the ledger: the first one looks what is there. Called while it is held."""
        if self._closed:
            raise closed(self.address.location)
        if self.standing is None:
            create, read_only = self.options.create, self.options.read_only
            self.standing = await prepare(connection, self.address, create=create, read_only=read_only)
            self._check_tenant(self.standing.tenant)
        if "search_path" not in link.settings:
            await link.set("search_path", f'"{self.standing.views}", pg_catalog')

    @property
    def views(self) -> str:
        """The schema of the views' tables."""
        assert self.standing is not None
        return self.standing.views

    def _check_tenant(self, bound: str | None) -> None:
        if bound is not None and bound != self.options.tenant:
            self.standing = None
            raise StoreUnavailable(
                f"{self.address.location}: this user belongs to tenant {bound!r}, not {self.options.tenant!r};"
                f" open the store with tenant={bound!r}",
                reason="denied",
            )

    @contextlib.asynccontextmanager
    async def reader(self) -> AsyncGenerator[Connection]:
        """The reading connection, for one task."""
        if self._closed:
            raise closed(self.address.location)
        async with self._reader.held() as connection:
            await self.ready(self._reader, connection)
            yield connection

    @contextlib.asynccontextmanager
    async def guarded(self) -> AsyncGenerator[Connection]:
        """The same, for what is not tried again: the driver's errors come in our words."""
        try:
            async with self.reader() as connection:
                yield connection
        except (psycopg.Error, OSError) as error:
            if faults.lost(error):
                self._reader.drop()
            raise self.understood(error) from error

    async def rows(self, name: str, *values: object) -> list[tuple[Any, ...]]:
        """The rows of a named statement."""
        return await self.select(self.statements[name], values)

    async def select(self, sql: str, values: Sequence[object], *, binary: bool = True) -> list[tuple[Any, ...]]:
        """The rows of a statement that only reads, asked again once where the connection was lost."""
        return await apart(self._select(sql, values, binary=binary))

    async def _select(self, sql: str, values: Sequence[object], *, binary: bool) -> list[tuple[Any, ...]]:
        for last in (False, True):
            try:
                async with self.reader() as connection:
                    return await rows(connection, sql, values, binary=binary)
            except (psycopg.Error, OSError, OverflowError) as error:
                if not faults.lost(error):
                    raise self.understood(error) from error
                self._reader.drop()
                if last:
                    raise faults.down(error, self.address) from error
        raise AssertionError("unreachable")

    def understood(self, error: BaseException) -> LedgerError:
        """A driver's error in our words."""
        if isinstance(error, (OverflowError, psycopg.errors.NumericValueOutOfRange)):
            return LedgerError(f"no ledger has numbers as large as that: {error}")
        return faults.unavailable(error, self.address)

    def lost_reader(self) -> None:
        """The reading connection is of no use any more."""
        self._reader.drop()

    async def settled(self) -> bool:
        """Wait a moment until followers may see what this store wrote. Gives whether something newer is held back."""
        loop = asyncio.get_running_loop()
        pause, deadline = 0.001, loop.time() + _SETTLE_SECONDS
        while self._settled <= self.newest:
            held = await self.held_back()
            if self._settled > self.newest or loop.time() > deadline:
                return held
            await asyncio.sleep(pause)
            pause = min(pause * 2, 0.05)
        return False

    async def held_back(self) -> bool:
        """Whether events are there that followers may not see yet, since an older transaction is under way."""
        [(self._settled, held)] = await self.rows("settled")
        return bool(held)

    def close(self) -> None:
        """Let go of everything, without waiting."""
        self._closed = True
        self.writing.close()
        self.bell.close()
        self._reader.drop()

    def __del__(self) -> None:  # a store that nobody closed leaves no socket behind
        with contextlib.suppress(Exception):
            self.close()
