"""What a session's terminal shows: once, or again whenever it changes. `client.panes` draws it, beside the loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from harness.clock import SystemClock, iso
from harness.processes import LogReader
from harness.sessions.client import panes
from harness.web.session_rows import files_of

if TYPE_CHECKING:
    from harness.processes import Chunk
    from harness.sessions.client import Row, Sessions

_QUIET_SECONDS = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Shot:
    """A screen at one moment."""

    columns: int
    rows: int
    lines: list[str]
    captured_at: str = field(compare=False)

    @property
    def text(self) -> str:
        """The lines, without empty ones at the end."""
        return "\n".join(panes.last(self.lines, None))


async def shot(sessions: Sessions, row: Row) -> Shot | None:
    """The screen as it is, or as it was left; None if the session's files are not here."""
    if files_of(sessions.folder(row.key)) is None:
        return None
    return await _drawn(sessions, row, panes.Pane(sessions, row.key, row.mode))


async def shots(sessions: Sessions, row: Row) -> AsyncGenerator[Shot]:
    """The screen, and each one that follows, at most ten a second. Goes on until it is closed."""
    files = files_of(sessions.folder(row.key))
    if files is None:
        return
    pane, before = panes.Pane(sessions, row.key, row.mode), None
    log = LogReader(files / sessions.folder(row.key).transcript.name)
    async with contextlib.aclosing(_changes(log)) as changes:
        async for _ in changes:
            now = await _drawn(sessions, row, pane)
            if now != before:
                before = now
                yield now
            await asyncio.sleep(_QUIET_SECONDS)


async def _drawn(sessions: Sessions, row: Row, pane: panes.Pane) -> Shot:
    """A thread draws, since a whole window takes longer than others should wait; it is given back at once."""
    lines = await asyncio.to_thread(pane.draw)
    columns, rows = panes.window(sessions.folder(row.key))
    return Shot(columns=columns, rows=rows, lines=lines, captured_at=iso(SystemClock().now_us()))


async def _changes(log: LogReader) -> AsyncGenerator[None]:
    """One for what is there, and one whenever more was written; who draws reads it."""
    position = log.end
    yield
    async with contextlib.aclosing(cast("AsyncGenerator[Chunk]", log.follow(position))) as chunks:
        async for _ in chunks:
            yield
