"""Following one session to its end, whoever dies meanwhile: its stream and its processes are watched together."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence

from harness.ledger import Cursor, Event, Store
from harness.processes import Identity, Watch
from harness.sessions import facts, ids
from harness.sessions.burying import bury, refresh, session_gone
from harness.sessions.record import Session, folded

_PAGE = 256


async def following(store: Store, session: Session, *, after: int) -> AsyncGenerator[Event]:
    """The stream's events above `after`, and those to come, up to the session's end.

    A session whose guard and host die meanwhile is buried, which is its end. Close it when you stop before the end.
    """
    stream = facts.stream_of(session.key)
    cursor = await store.tail()  # before reading: what is written in between is seen twice, not never
    over = session.exited is not None
    while events := await store.read(stream, after=after, limit=_PAGE):
        for event in events:
            yield event
            over = over or event.type == facts.EXITED
        after = events[-1].seq
    if over:
        return
    queue: asyncio.Queue[Event] = asyncio.Queue(_PAGE)
    tasks = {
        asyncio.ensure_future(_pump(store, stream, cursor, queue)),
        asyncio.ensure_future(_watch(store, session.key)),
    }
    try:
        while not over:
            event = await _next(queue, tasks)
            if event.seq > after:
                after, over = event.seq, event.type == facts.EXITED
                yield event
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _next(queue: asyncio.Queue[Event], tasks: set[asyncio.Task[None]]) -> Event:
    """The next event. Raises what ended one of the tasks."""
    if not queue.empty():
        return queue.get_nowait()
    getting = asyncio.ensure_future(queue.get())
    try:
        while not getting.done():
            done, _ = await asyncio.wait({getting, *tasks}, return_when=asyncio.FIRST_COMPLETED)
            for task in [task for task in tasks if task in done]:
                tasks.discard(task)
                task.result()
        return getting.result()
    finally:
        getting.cancel()


async def _pump(store: Store, stream: str, cursor: Cursor, queue: asyncio.Queue[Event]) -> None:
    async with contextlib.aclosing(store.follow(after=cursor, streams=(stream,))) as feed:
        async for event in feed:
            if event.stream == stream:
                await queue.put(event)


async def _watch(store: Store, key: str) -> None:
    """Bury the session when nobody owns it any more; only the machine that it runs on can see that."""
    session = folded(key, await store.read(facts.stream_of(key)))
    while session.live:
        if session_gone(store, session):
            await bury(store, key)
            return
        if session.claimed is None or session.claimed.machine != ids.machine():
            return
        if owners := _owners(session):  # none: they have died since we looked, and the next look sees it
            await _until_one_exits(owners)
        await refresh(store, session)


def _owners(session: Session) -> list[Identity]:
    """The guard and the host, as far as they run: both have to go before a session is nobody's."""
    assert session.claimed is not None
    guard = Identity(pid=session.guard_pid, started=session.guard_started)
    host = Identity(pid=session.claimed.host_pid, started=session.claimed.host_started)
    return [each for each in {guard, host} if each.alive()]


async def _until_one_exits(owners: Sequence[Identity]) -> None:
    exited = asyncio.Event()
    watches: list[Watch] = []
    try:
        watches.extend(Watch(identity, exited.set) for identity in owners)
        await exited.wait()
    finally:
        for watch in watches:
            watch.close()
