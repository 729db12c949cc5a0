"""What runs beside a host's pump, and wakes it when it is done."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from harness.errors import StoreUnavailable


class Beside:
    """Tasks of one host. One that fails is complained of and ends alone; a ledger that can be used no more ends the host."""

    def __init__(self, *, complain: Callable[[BaseException], object], wake: Callable[[], object]) -> None:
        self.broken: StoreUnavailable | None = None
        self._complain = complain
        self._wake = wake
        self._tasks: set[asyncio.Task[None]] = set()

    def run(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Begin it."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    async def end(self) -> None:
        """Cancel what still runs, and wait for it."""
        left = [*self._tasks]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._complain(error)
            if isinstance(error, StoreUnavailable):
                self.broken = error
                self._wake()
