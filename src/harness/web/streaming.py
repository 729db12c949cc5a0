"""Server-sent events, whatever they tell: their form, and a sign of life while there is nothing to tell."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import TypeVar

from fastapi.responses import StreamingResponse

T = TypeVar("T")
A = TypeVar("A")
B = TypeVar("B")

KEEP_ALIVE_SECONDS = 15.0
STILL_HERE = b": still here\n\n"


def sent(lines: AsyncIterator[bytes]) -> StreamingResponse:
    """The answer that sends these."""
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(lines, media_type="text/event-stream", headers=headers)


def message(event: str, data: bytes, *, id_: str = "") -> bytes:
    """One event; its data has no line ends, as JSON has none."""
    head = b"id: %b\n" % id_.encode() if id_ else b""
    return b"%bevent: %b\ndata: %b\n\n" % (head, event.encode(), data)


async def with_silence(followed: AsyncGenerator[T]) -> AsyncGenerator[T | None]:
    """What comes, and None whenever nothing came for a while, so that a gone reader is noticed. Closes what it follows."""
    upcoming: asyncio.Future[T] | None = None
    try:
        while True:
            upcoming = upcoming or asyncio.ensure_future(anext(followed))
            done, _ = await asyncio.wait({upcoming}, timeout=KEEP_ALIVE_SECONDS)
            if not done:
                yield None
                continue
            try:
                came, upcoming = upcoming.result(), None
            except StopAsyncIteration:
                upcoming = None
                return
            yield came
    finally:
        if upcoming is not None:
            upcoming.cancel()
            with contextlib.suppress(asyncio.CancelledError, StopAsyncIteration):
                await upcoming
        await followed.aclose()


async def merged(first: AsyncGenerator[A], second: AsyncGenerator[B]) -> AsyncGenerator[A | B]:
    """What comes from both, as it comes. Ends with the first one, and closes both."""
    waiting: dict[asyncio.Future[A | B], AsyncGenerator[A | B]] = {}
    try:
        for each in (first, second):
            waiting[asyncio.ensure_future(anext(each))] = each
        while True:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for future in done:
                source = waiting.pop(future)
                try:
                    came = future.result()
                except StopAsyncIteration:
                    if source is first:
                        return
                    continue
                yield came
                waiting[asyncio.ensure_future(anext(source))] = source
    finally:
        for future in waiting:
            future.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        await first.aclose()
        await second.aclose()
