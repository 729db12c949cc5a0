"""Time: what the clock says, and waiting for it. Everything that decides by time takes a `Clock`."""

from __future__ import annotations

import heapq
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import anyio

MICROSECONDS = 1_000_000


class Clock(Protocol):
    """Wall time for records, monotonic time for durations, and a cancellable sleep."""

    def now_us(self) -> int:
        """UTC in microseconds since 1970."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back; only differences mean anything."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds`; cancellable."""
        ...


class SystemClock:
    """The machine's clock."""

    def now_us(self) -> int:
        return time.time_ns() // 1000

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        import asyncio

        await asyncio.sleep(seconds)


class VirtualClock:
    """A clock that moves only when told to; sleepers wake in order of their deadlines."""

    def __init__(self, start_us: int = 1_750_000_000_000_000) -> None:
        self._us = start_us
        self._sleepers: list[tuple[int, int, anyio.Event]] = []
        self._count = 0

    def now_us(self) -> int:
        return self._us

    def monotonic(self) -> float:
        return self._us / MICROSECONDS

    def advance(self, seconds: float) -> None:
        """Move time forward and wake every sleeper whose deadline has come."""
        self._us += round(seconds * MICROSECONDS)
        while self._sleepers and self._sleepers[0][0] <= self._us:
            heapq.heappop(self._sleepers)[2].set()

    async def sleep(self, seconds: float) -> None:
        import anyio.lowlevel

        if seconds <= 0:
            await anyio.lowlevel.checkpoint()
            return
        self._count += 1
        wake = anyio.Event()
        heapq.heappush(self._sleepers, (self._us + round(seconds * MICROSECONDS), self._count, wake))
        await wake.wait()


def iso(us: int) -> str:
    """Microseconds since 1970 as ISO 8601 in UTC, such as `2026-01-02T03:04:05.000006Z`."""
    return datetime.fromtimestamp(us / MICROSECONDS, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
