"""What every open page shares: the newest overview and the newest incidents' timelines, kept fresh by following the ledger."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.web.stories import Story, story_of

if TYPE_CHECKING:
    from harness.ledger import Store
    from harness.people import Question
    from harness.web.overview import Overview
    from harness.web.statistics import Statistics

_GATHER_SECONDS = 0.1  # so many events are shown at once, so that a storm of them costs little
_LOOK_SECONDS = 2.0  # a supervisor that is killed writes no event
_INCIDENTS = 8
_STREAMS = ("incident/", "item/", "service/", "check/", "control/", "question/", "run/")


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """Everything that the page shows."""

    overview: Overview
    statistics: Statistics
    stories: tuple[Story, ...]
    questions: tuple[Question, ...]


class Feed:
    """Follows the ledger for as long as it runs, and tells its listeners whenever there is something new to see."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._closed: dict[str, Story] = {}  # these do not change any more
        self._listeners: list[Callable[[View], None]] = []
        self._changed = asyncio.Event()
        self.view: View | None = None

    def listen(self, listener: Callable[[View], None]) -> Callable[[], None]:
        """Be told of every new view; what is given back ends it."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    async def run(self) -> None:
        """Follow until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow())
            tasks.create_task(self._publish())

    async def _follow(self) -> None:
        async for _ in self._store.follow(after=await self._store.tail(), streams=_STREAMS):
            self._changed.set()

    async def _publish(self) -> None:
        while True:
            self._changed.clear()
            view = await self.look()
            if view != self.view:
                self.view = view
                for listener in list(self._listeners):
                    listener(view)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_SECONDS):
                    await self._changed.wait()
            await asyncio.sleep(_GATHER_SECONDS)

    async def look(self) -> View:
        """Everything as of now."""
        from harness.recovery import approvals
        from harness.web.overview import overview
        from harness.web.statistics import statistics

        return View(
            overview=await overview(self._store),
            statistics=await statistics(self._store),
            stories=await self._stories(),
            questions=tuple(await approvals.pending(self._store)),
        )

    async def _stories(self) -> tuple[Story, ...]:
        from harness.recovery.incidents import incident_of, list_incidents

        stories: list[Story] = []
        for found in await list_incidents(self._store, limit=_INCIDENTS):
            story = self._closed.get(found.ticket) or story_of(await incident_of(self._store, found.ticket))
            if found.times.closed_us:
                self._closed[found.ticket] = story
            stories.append(story)
        self._closed = {story.ticket: story for story in stories if story.ticket in self._closed}
        return tuple(stories)
