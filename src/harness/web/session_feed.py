"""What every open page shares about sessions: the newest rows of the table, kept fresh by events and by processes that end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from harness.processes import Identity, Watch
from harness.sessions import ids

if TYPE_CHECKING:
    from harness.ledger import Store
    from harness.sessions.client import Row, Sessions

_GATHER_SECONDS = 0.2  # so many events are shown at once
ENDED_SHOWN = 50
Rows = tuple["Row", ...]


class SessionFeed:
    """Follows all sessions for as long as it runs, and tells its listeners whenever a row has changed."""

    def __init__(self, store: Store, sessions: Sessions) -> None:
        self._store = store
        self._sessions = sessions
        self._listeners: list[Callable[[Rows], None]] = []
        self._changed = asyncio.Event()
        self._watches: dict[Identity, Watch] = {}
        self.rows: Rows | None = None

    def listen(self, listener: Callable[[Rows], None]) -> Callable[[], None]:
        """Be told of every new table; what is given back ends it."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    async def run(self) -> None:
        """Follow until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._follow())
                tasks.create_task(self._publish())
        finally:
            for watch in self._watches.values():
                watch.close()
            self._watches.clear()

    async def _follow(self) -> None:
        async for _ in self._store.follow(after=await self._store.tail(), streams=("session/",)):
            self._changed.set()

    async def _publish(self) -> None:
        ended: Rows = ()
        before: set[str] | None = None
        while True:
            self._changed.clear()
            live = await self._sessions.list(live=True)
            if before is None or before - {row.key for row in live}:
                ended = tuple((await self._sessions.list(live=False))[:ENDED_SHOWN])
            before = {row.key for row in live}
            self._watch(live)
            self._tell((*live, *ended))
            await self._changed.wait()
            await asyncio.sleep(_GATHER_SECONDS)

    def _tell(self, rows: Rows) -> None:
        if rows == self.rows:
            return
        self.rows = rows
        for listener in list(self._listeners):
            listener(rows)

    def _watch(self, live: list[Row]) -> None:
        """Look again when a guard of this machine ends: it writes no event."""
        here = ids.machine()
        wanted = {
            Identity(pid=row.guard_pid, started=row.guard_started)
            for row in live
            if row.machine == here and row.guard_pid and row.state != "lost"
        }
        for identity in self._watches.keys() - wanted:
            self._watches.pop(identity).close()
        for identity in wanted - self._watches.keys():
            self._watches[identity] = Watch(identity, self._changed.set)
