"""A session's output as it comes, to the end of the session: what `logs --follow` and `pane --follow` stand on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, cast

from harness.errors import NotFound
from harness.processes import Chunk, LogReader

if TYPE_CHECKING:
    from harness.sessions.client.sessions import Sessions


def reader_of(sessions: Sessions, key: str, *, errors: bool = False) -> LogReader:
    """The transcript of a run, or its stderr. Raises `NotFound` if its folder is gone."""
    folder = sessions.folder(key)
    if not folder.path.is_dir():
        raise NotFound(f"the files of {key} are gone; only its events are left: `harness events --id {key}`")
    return LogReader(folder.errors if errors else folder.transcript)


async def output(sessions: Sessions, key: str, *, after: int, errors: bool = False) -> AsyncGenerator[Chunk]:
    """The output from an offset on, as it is written; ends when the session has ended and all of it was given."""
    position = after
    feed = cast("AsyncGenerator[Chunk]", reader_of(sessions, key, errors=errors).follow(after))
    ending = asyncio.ensure_future(sessions.ended(key))
    try:
        while not ending.done():
            getting = asyncio.ensure_future(anext(feed))
            try:
                await asyncio.wait({getting, ending}, return_when=asyncio.FIRST_COMPLETED)
                if getting.done():
                    chunk = getting.result()
                    position = chunk.offset + len(chunk.data)
                    yield chunk
            finally:
                getting.cancel()
                await asyncio.gather(getting, return_exceptions=True)
        ending.result()
        rest = reader_of(sessions, key, errors=errors)  # by now a new run may have the folder that it was in
        while (chunk := rest.read(position)).data:
            position = chunk.offset + len(chunk.data)
            yield chunk
    finally:
        ending.cancel()
        await asyncio.gather(ending, return_exceptions=True)
        await feed.aclose()
