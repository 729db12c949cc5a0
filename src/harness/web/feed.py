"""What every open page shares: the newest overview and the newest incidents' timelines, kept fresh by following the ledger."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from harness.ledger import Event, Store
from harness.people import Question
from harness.recovery import facts
from harness.web import overview
from harness.web.overview import Overview
from harness.web.statistics import Statistics, statistics
from harness.web.words import Words, words_of

_GATHER_SECONDS = 0.1  # so many events are shown at once, so that a storm of them costs little
_LOOK_SECONDS = 2.0  # a supervisor that is killed writes no event
_INCIDENTS = 8
_ENTRIES = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line of a timeline; `seconds` are since the incident's first evidence."""

    seconds: float
    words: Words
    ref: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """One incident's timeline, as the page tells it."""

    ticket: str
    title: str
    target: str
    status: str
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """Everything that the page shows."""

    overview: Overview
    statistics: Statistics
    stories: tuple[Story, ...]
    questions: tuple[Question, ...]


@dataclass(slots=True)
class _Telling:
    """An incident whose timeline is being collected."""

    ticket: str
    since_us: int
    title: str = ""
    target: str = ""
    status: str = "open"
    ended: bool = False
    runs: set[str] = field(default_factory=set[str])
    events: deque[Event] = field(default_factory=lambda: deque[Event](maxlen=_ENTRIES))

    def concerns(self, event: Event) -> bool:
        kind, _, name = event.stream.partition("/")
        match kind:
            case "incident" | "item":
                return name == self.ticket
            case "service":
                return name == self.target and not self.ended
            case "run":
                return name in self.runs
            case _:
                return False

    def story(self) -> Story:
        entries = [
            Entry(seconds=round((event.ts - self.since_us) / 1_000_000, 1), words=words, ref=event.ref)
            for event in self.events
            if (words := words_of(event)) is not None
        ]
        return Story(
            ticket=self.ticket, title=self.title, target=self.target, status=self.status, entries=tuple(entries)
        )  # fmt: skip


class Feed:
    """Follows the ledger for as long as it runs, and tells its listeners whenever there is something new to see."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._tellings: deque[_Telling] = deque(maxlen=_INCIDENTS)
        self._recent: deque[Event] = deque(maxlen=64)  # what happened just before an incident was opened
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
        prefixes = ("incident/", "item/", "service/", "check/", "control/", "question/", "run/")
        async for event in self._store.follow(streams=prefixes):
            self.take(event)
            self._changed.set()

    def take(self, event: Event) -> None:
        """Sort one event into the timelines."""
        fact = facts.fact_of(event)
        if isinstance(fact, facts.IncidentOpened):
            self._open(fact, event)
        for telling in self._tellings:
            if telling.concerns(event):
                _follow_on(telling, fact)
                telling.events.append(event)
        if event.stream.startswith("service/"):
            self._recent.append(event)

    def _open(self, fact: facts.IncidentOpened, event: Event) -> None:
        since = fact.detected_us or event.ts
        telling = _Telling(ticket=fact.ticket, since_us=since, title=fact.title, target=fact.target)
        telling.events.extend(seen for seen in self._recent if telling.concerns(seen) and seen.ts >= since - 10_000_000)
        self._tellings.append(telling)

    async def _publish(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_SECONDS):
                    await self._changed.wait()
            await asyncio.sleep(_GATHER_SECONDS)
            self._changed.clear()
            view = await self._seen()
            if view != self.view:
                self.view = view
                for listener in list(self._listeners):
                    listener(view)

    async def _seen(self) -> View:
        from harness.recovery import approvals

        return View(
            overview=await overview.overview(self._store),
            statistics=await statistics(self._store),
            stories=tuple(telling.story() for telling in reversed(self._tellings)),
            questions=tuple(await approvals.pending(self._store)),
        )


def _follow_on(telling: _Telling, fact: facts.Fact | None) -> None:
    match fact:
        case facts.IncidentClosed():
            telling.status = fact.status
            telling.ended = True
        case facts.IncidentVerifying():
            telling.status = "verifying"
        case facts.IncidentVerified():
            telling.status = "verified"
        case facts.IncidentEscalated():
            telling.status = "escalated"
        case facts.IncidentAnalysed() | facts.IncidentActionProposed() if fact.run:
            telling.runs.add(fact.run)
        case _:
            pass
