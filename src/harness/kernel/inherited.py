"""What a fork has of its parent besides steps: the newest event under a key, and all of them, as of the fork point.

Reads only. How a run's steps are inherited is `replay`'s and `runs`'.
"""

from __future__ import annotations

from harness.kernel.runs import stream_of
from harness.ledger import Event, Store, lineage

_PAGE = 500


async def newest(store: Store, run_id: str, key: str) -> Event | None:
    """The newest event of a run under a key; a fork that has none of its own has the one that it inherits."""
    event = await store.latest(stream_of(run_id), key)
    if event is not None:
        return event
    for origin in await lineage(store, run_id):
        event = await store.latest(origin.stream, key)
        if event is not None and event.seq > origin.at:
            event = await _newest_up_to(store, origin.stream, key, origin.at)
        if event is not None:
            return event
    return None


async def _newest_up_to(store: Store, stream: str, key: str, upto: int) -> Event | None:
    """Looks back page by page: there is an index for the newest only, and few keys are written again after a fork."""
    while upto > 0:
        after = max(0, upto - _PAGE)
        for event in reversed(await store.read(stream, after=after, limit=upto - after)):
            if event.key == key:
                return event
        upto = after
    return None


async def events_before(store: Store, run_id: str) -> list[Event]:
    """The events that a fork inherits, from the oldest run on; none of a run that is no fork."""
    return [
        event for origin in reversed(await lineage(store, run_id)) for event in await store.read(origin.stream, limit=origin.at)
    ]
