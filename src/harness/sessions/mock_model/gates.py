"""Gates: answers wait before them until somebody opens them, over HTTP or in this process."""

from __future__ import annotations

import asyncio
import threading

from harness.sessions.mock_model.http import Client, Gone
from harness.sessions.mock_model.script import MAX_WAIT_SECONDS


class Gates:
    """Every gate by its name. A gate that was opened stays open until all are closed.

    `changed` guards it and is notified of every change; it may be used from any thread.
    """

    def __init__(self, changed: threading.Condition) -> None:
        self._changed = changed
        self._open: set[str] = set()
        self._waiting: dict[str, list[tuple[asyncio.AbstractEventLoop, asyncio.Event]]] = {}

    def held(self) -> dict[str, int]:
        """How many answers wait, by gate."""
        with self._changed:
            return {name: len(waiting) for name, waiting in self._waiting.items() if waiting}

    def release(self, name: str) -> int:
        """Open a gate; gives how many answers waited there."""
        with self._changed:
            self._open.add(name)
            waiting = self._waiting.pop(name, [])
            for loop, opened in waiting:
                loop.call_soon_threadsafe(opened.set)
            self._changed.notify_all()
            return len(waiting)

    def close(self) -> None:
        """Close every gate again; who waits goes on waiting."""
        with self._changed:
            self._open.clear()
            self._changed.notify_all()

    async def passed(self, name: str, client: Client) -> None:
        """Wait until this gate is open, at most `MAX_WAIT_SECONDS`. Raises `Gone` as soon as the client leaves."""
        opened = asyncio.Event()
        entry = (asyncio.get_running_loop(), opened)
        with self._changed:
            if name in self._open:
                return
            self._waiting.setdefault(name, []).append(entry)
            self._changed.notify_all()
        waits = [asyncio.ensure_future(opened.wait()), asyncio.ensure_future(client.gone.wait())]
        try:
            await asyncio.wait(waits, timeout=MAX_WAIT_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
            self._forget(name, entry)
        if client.gone.is_set():
            raise Gone("the client left while its answer was held")

    def _forget(self, name: str, entry: tuple[asyncio.AbstractEventLoop, asyncio.Event]) -> None:
        with self._changed:
            if entry in self._waiting.get(name, ()):
                self._waiting[name].remove(entry)
            self._changed.notify_all()
