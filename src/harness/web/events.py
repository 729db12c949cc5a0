"""`/api/events`: the ledger as server-sent events, resumed by Last-Event-ID without loss or repeat.

Of agents' sessions and of the questions about them it tells only those who may see sessions: see `guard.Access.trusts`.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import StreamingResponse

from harness.clock import iso
from harness.errors import LedgerError, UsageError
from harness.ledger import START, Cursor, Event, Store
from harness.web import streaming
from harness.web.context import Here, trusted

router = APIRouter(tags=["events"])

_PRIVATE = ("session/", "question/")


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRow:
    """One event of the ledger. `payload` is null once erased; `cursor` is where a follower goes on."""

    cursor: str
    stream: str
    seq: int
    type: str
    time: str
    ts: int
    actor: str
    parent: str | None
    payload: dict[str, Any] | None
    hash: str


def event_row(event: Event) -> EventRow:
    """An event as the API sends it."""
    return EventRow(
        cursor=str(event.cursor),
        stream=event.stream,
        seq=event.seq,
        type=event.type,
        time=iso(event.ts),
        ts=event.ts,
        actor=event.actor,
        parent=event.parent,
        payload=None if event.erased else event.payload,
        hash=event.hash.hex(),
    )


@router.get("/api/events", response_class=StreamingResponse)
async def events(
    here: Here,
    request: Request,
    stream: Annotated[list[str] | None, Query(description="beginnings of streams' names, such as item/")] = None,
    type: Annotated[list[str] | None, Query(description="only these types")] = None,
    after: Annotated[str | None, Query(description="a cursor, `start`, or nothing for what comes from now on")] = None,
    last_event_id: Annotated[str | None, Header()] = None,
) -> StreamingResponse:
    """Follow the ledger. Each message's id is a cursor; send it back as Last-Event-ID to go on after it.

    Without one, `after=start` begins with the first event, and nothing at all with what comes next.
    """
    start = await _start(here.store, last_event_id or after)
    hidden = () if trusted(request) else _PRIVATE
    return streaming.sent(_messages(here.store, start, tuple(stream or ()), tuple(type or ()), hidden))


async def _start(store: Store, given: str | None) -> Cursor:
    if given is None:
        return await store.tail()
    if given == "start":
        return START
    wrong = UsageError(f"Last-Event-ID {given[:80]!r} is no cursor of this ledger")
    tail = await store.tail()
    try:
        following = await store.read_all(after=Cursor(given), limit=1)
    except LedgerError as error:
        raise wrong from error
    if not following and given != tail:  # beyond the end: following from there would leave out what comes
        raise wrong
    return Cursor(given)


async def _messages(
    store: Store, after: Cursor, streams: tuple[str, ...], types: tuple[str, ...], hidden: tuple[str, ...]
) -> AsyncIterator[bytes]:
    yield f": after {after}\nretry: 1000\n\n".encode()
    followed = store.follow(after=after, streams=streams, types=types)
    async with contextlib.aclosing(streaming.with_silence(followed)) as found:
        async for event in found:
            if event is None:
                yield streaming.STILL_HERE
            elif not event.stream.startswith(hidden):
                yield message(event)


def message(event: Event) -> bytes:
    """One event in the form of server-sent events; its JSON has no line ends."""
    return streaming.message(event.type, msgspec.json.encode(event_row(event)), id_=str(event.cursor))
