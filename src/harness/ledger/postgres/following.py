"""Waking followers: NOTIFY after commits, some milliseconds' worth in one, and LISTEN on a connection of its own."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import psycopg

from harness.errors import LedgerError
from harness.ledger.postgres.link import Connection, Link

if TYPE_CHECKING:
    from harness.ledger.postgres.session import Session

_GAP_SECONDS = 0.005  # at most one NOTIFY in so long: each takes a lock that all databases of the server share
_LOOK_AGAIN_SECONDS = 1.0  # a writer may have died between its commit and its NOTIFY


class Bell:
    """Rings after commits, and wakes those of this loop who wait for a ring of anybody."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._channel = f"harness_{session.address.schema}"
        self._link = Link(session.address)
        self._watched: tuple[asyncio.AbstractEventLoop, int] | None = None
        self._news = asyncio.Event()
        self._ringing: asyncio.Task[None] | None = None
        self._due = False

    def ring(self) -> None:
        """Wake every follower in every process, soon. Never fails: a lost ring is found by the next look."""
        self._wake()
        self._due = True
        if self._ringing is None or self._ringing.done():
            self._ringing = asyncio.get_running_loop().create_task(self._ring(), name="harness ledger bell")

    async def _ring(self) -> None:
        while self._due:
            self._due = False
            with contextlib.suppress(LedgerError):
                await self._session.rows("ring", self._channel)
            await asyncio.sleep(_GAP_SECONDS)

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    def listen(self) -> asyncio.Event:
        """What is set by the next ring; take it before looking, so that no ring is missed."""
        return self._news

    async def wait(self, news: asyncio.Event, *, held: float | None) -> None:
        """Until the next ring, a second at most; not so long if events are `held` back for now."""
        await self._attach()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LOOK_AGAIN_SECONDS if held is None else held):
                await news.wait()

    async def _attach(self) -> None:
        """Listen on the server, unless that is so already. Where it fails, looking once a second has to do."""
        live = self._link.live
        if live is not None and not live.closed and self._watched is not None:
            return
        self._unwatch()
        with contextlib.suppress(LedgerError, psycopg.Error, OSError):
            async with self._link.held() as connection:
                if self._watched is not None:
                    return
                await connection.execute(f'LISTEN "{self._channel}"'.encode())
                loop = asyncio.get_running_loop()
                self._watched = (loop, connection.fileno())
                loop.add_reader(connection.fileno(), self._readable, connection)
                self._wake()  # what came in between is to be looked for

    def _readable(self, connection: Connection) -> None:
        rung = False
        try:
            connection.pgconn.consume_input()
            while connection.pgconn.notifies() is not None:
                rung = True
        except psycopg.Error:
            self._unwatch()
            self._link.drop()
            rung = True
        if rung:
            self._wake()

    def _unwatch(self) -> None:
        if self._watched is not None:
            loop, descriptor = self._watched
            self._watched = None
            if not loop.is_closed():
                loop.remove_reader(descriptor)

    async def flush(self) -> None:
        """Ring for what was written last."""
        if self._ringing is not None and not self._ringing.done():
            self._ringing.cancel()
            self._due = True
        if self._due:
            self._due = False
            with contextlib.suppress(LedgerError):
                await self._session.rows("ring", self._channel)

    def close(self) -> None:
        """Let go of the connection."""
        if self._ringing is not None and not self._ringing.done() and not self._ringing.get_loop().is_closed():
            self._ringing.cancel()
        self._ringing = None
        self._unwatch()
        self._link.drop()
