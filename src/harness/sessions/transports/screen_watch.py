"""Renders a program's screen when there is reason to, and says what the rules make of it. Owns when, not how.

Rendering costs a thousand times what reading does. So output is collected, and rendered when the program has been quiet for a
moment, at the latest a quarter of a second after it began; of a flood only the end is rendered, and told with little confidence
until the program has painted everything anew.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from harness.processes import Size
from harness.sessions.dialects.screens import Look, ScreenReader, Snapshot
from harness.sessions.screen import Screen

QUIET_SECONDS = 0.06
LONGEST_SECONDS = 0.25
FLOOD_SECONDS = 1.0
MAX_PENDING = 256 << 10
KEPT = 64 << 10
_SLICE = 8 << 10  # rendered at once, so that the loop is never held up for long


class ScreenWatch:
    """The screen of one program. `seen` is called in the loop with every new look."""

    def __init__(self, reader: ScreenReader, size: Size, seen: Callable[[Look], object]) -> None:
        self.reader = reader
        self._size = size
        self._seen = seen
        self._loop = asyncio.get_running_loop()
        self._screen: Screen | None = None
        self._whole = True
        self._pending: deque[bytes] = deque()
        self._count = 0
        self._flooded = False
        self._first = self._last = 0.0  # of the output that is not rendered yet
        self._came = asyncio.Event()
        self._rendering = asyncio.Lock()
        self._looked = asyncio.Event()
        self._task = self._loop.create_task(self._run())

    def feed(self, data: bytes) -> None:
        """Take output; costs next to nothing."""
        self._last = self._loop.time()
        if not self._pending:
            self._first = self._last
            self._came.set()
        self._pending.append(data)
        self._count += len(data)
        if self._count > MAX_PENDING:
            self._drop()

    def _drop(self) -> None:
        """Keep the end of a flood, and begin with an empty screen."""
        kept = b"".join(self._pending)[-KEPT:]
        self._pending = deque((kept,))
        self._count = len(kept)
        self._screen, self._whole, self._flooded = None, False, True

    async def _run(self) -> None:
        while True:
            await self._came.wait()
            rest = self._due() - self._loop.time()
            if rest > 0:
                await asyncio.sleep(rest)  # and see whether more has come meanwhile
            else:
                await self.look()

    def _due(self) -> float:
        return min(self._last + QUIET_SECONDS, self._first + (FLOOD_SECONDS if self._flooded else LONGEST_SECONDS))

    async def look(self) -> Look:
        """Render all that has come and look at it now."""
        async with self._rendering:
            screen = await self._render()
            self._came.clear()
            if self._pending:
                self._came.set()
            whole = self._whole or screen.repainted
            look = self.reader.look(Snapshot(lines=screen.lines(), cursor=screen.cursor, whole=whole))
        self._seen(look)
        self._looked.set()
        return look

    async def _render(self) -> Screen:
        self._flooded = False
        limit = MAX_PENDING  # what comes meanwhile is for the next look, if it is that much
        while self._pending and limit > 0:
            part = self._pending.popleft()
            if len(part) > _SLICE:
                self._pending.appendleft(part[_SLICE:])
                part = part[:_SLICE]
            self._count -= len(part)
            limit -= len(part)
            self._screen = self._screen or self._new()
            self._screen.feed(part)
            if self._pending:
                await asyncio.sleep(0)
        self._first = self._loop.time()
        self._screen = self._screen or self._new()
        return self._screen

    def _new(self) -> Screen:
        return Screen(self._size.columns, self._size.rows)

    async def next_look(self, timeout_seconds: float) -> None:
        """Return at the next look, or when the time is over."""
        self._looked.clear()
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._looked.wait()
        except TimeoutError:
            return

    def resize(self, size: Size) -> None:
        """The window is this large from now on."""
        self._size = size
        if self._screen is not None:
            self._screen.resize(size.columns, size.rows)

    def close(self) -> None:
        """Stop looking. Idempotent."""
        self._task.cancel()
        self._pending.clear()
        self._count = 0
