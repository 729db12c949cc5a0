"""Pausing recovery: one event stops every agent's next action, in every process, until somebody unpauses.

The pause is an event in `control/recovery`, so it takes effect as fast as the ledger is pushed, and survives
every restart. What was begun is finished; nothing new is begun.
"""

from __future__ import annotations

import contextlib

from harness.clock import iso
from harness.errors import Conflict
from harness.ledger import Event, Expect, Store, Write
from harness.recovery.facts import CONTROL, PAUSE_KEY, RecoveryPaused, RecoveryUnpaused, draft

_TRIES = 100


async def pause(store: Store, *, by: str, reason: str = "") -> Event:
    """No agent acts from now on. Gives the event that says so, an older one if it was paused already."""
    return await _set(store, RecoveryPaused(by=by, reason=reason))


async def unpause(store: Store, *, by: str, reason: str = "") -> Event | None:
    """Agents may act again. Gives the event, or None if nobody had ever paused."""
    if await store.latest(CONTROL, PAUSE_KEY) is None:
        return None
    return await _set(store, RecoveryUnpaused(by=by, reason=reason))


async def _set(store: Store, fact: RecoveryPaused | RecoveryUnpaused) -> Event:
    for _ in range(_TRIES):
        newest = await store.latest(CONTROL, PAUSE_KEY)
        if newest is not None and newest.type == fact.TYPE:
            return newest
        head = await store.head(CONTROL)
        try:
            written = await store.append(Write(CONTROL, (draft(fact),)), guards=(Expect(CONTROL, head.seq if head else 0),))
        except Conflict:
            continue
        return written.first
    raise Conflict(f"{CONTROL} is paused and unpaused all the time; try again", name=CONTROL)


async def paused_reason(store: Store) -> str | None:
    """Who paused recovery, when and why, in words; None if it is not paused. An erased reason does not unpause."""
    event = await store.latest(CONTROL, PAUSE_KEY)
    if event is None or event.type != RecoveryPaused.TYPE:
        return None
    fact = RecoveryPaused(by="somebody") if event.erased else event.load(RecoveryPaused)
    return f"by {fact.by} at {iso(event.ts)}" + (f", {fact.reason}" if fact.reason else "")


async def wait_unpaused(store: Store) -> None:
    """Return once recovery is not paused; at once if it is not."""
    await _wait(store, paused=False)


async def wait_paused(store: Store) -> None:
    """Return once recovery is paused; at once if it is."""
    await _wait(store, paused=True)


async def _wait(store: Store, *, paused: bool) -> None:
    while True:
        seen = await store.tail()
        if (await paused_reason(store) is not None) is paused:
            return
        async with contextlib.aclosing(store.follow(after=seen, streams=(CONTROL,))) as events:
            async for _ in events:
                break
