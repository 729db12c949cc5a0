"""Numbers over all incidents: how many, and how long they took. Folded from the incidents' few events."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from harness.clock import MICROSECONDS
from harness.recovery import facts

if TYPE_CHECKING:
    from harness.ledger import Event, Store

_TYPES = (
    facts.IncidentOpened.TYPE, facts.IncidentVerified.TYPE, facts.IncidentEscalated.TYPE, facts.IncidentActionDecided.TYPE,
    facts.IncidentActionProposed.TYPE,
)  # fmt: skip
_PAGE = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """Counts, and medians in seconds from the first evidence; None until there was one."""

    tickets: Mapping[str, int]
    incidents: int
    verified: int
    escalated: int
    human_answers: int
    seconds_to_ticket: float | None
    seconds_to_engage: float | None
    seconds_to_verify: float | None
    events: int
    streams: int


async def statistics(store: Store) -> Statistics:
    """The numbers as of now."""
    from harness.work import Items

    found = await _incident_events(store)
    opened = {event.stream: event for event in found if event.type == facts.IncidentOpened.TYPE}
    detected = {stream: event.payload.get("detected_us") or event.ts for stream, event in opened.items()}
    answered = [event for event in found if event.type == facts.IncidentActionDecided.TYPE]
    heads = await store.heads()
    return Statistics(
        tickets=await Items(store).counts(),
        incidents=len(opened),
        verified=len({event.stream for event in found if event.type == facts.IncidentVerified.TYPE}),
        escalated=len({event.stream for event in found if event.type == facts.IncidentEscalated.TYPE}),
        human_answers=sum(event.payload.get("by", "envelope") != "envelope" for event in answered),
        seconds_to_ticket=_median(found, facts.IncidentOpened.TYPE, detected),
        seconds_to_engage=_median(found, facts.IncidentActionProposed.TYPE, detected),
        seconds_to_verify=_median(found, facts.IncidentVerified.TYPE, detected),
        events=sum(head.seq for head in heads),
        streams=len(heads),
    )


async def _incident_events(store: Store) -> list[Event]:
    found: list[Event] = []
    while page := await _page(store, found):
        found += page
    return found


async def _page(store: Store, found: list[Event]) -> list[Event]:
    from harness.ledger import START

    after = found[-1].cursor if found else START
    return await store.read_all(after=after, streams=("incident/",), types=_TYPES, limit=_PAGE)


def _median(found: list[Event], kind: str, detected: Mapping[str, int]) -> float | None:
    """The median time from detection to the first event of a kind."""
    first: dict[str, int] = {}
    for event in found:
        if event.type == kind and event.stream in detected:
            first.setdefault(event.stream, event.ts)
    seconds = [(ts - detected[stream]) / MICROSECONDS for stream, ts in first.items()]
    return round(median(seconds), 3) if seconds else None
