"""One incident from the fault to its end, folded from the ledger: its times, its outcome, its events in order.

An incident is named by its ticket. Its timeline is its own stream, its item's, its target's service and checks for as
long as it lasted, and the runs of the analyst and the agents. Reads; decides and writes nothing. Words are the doors'.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from harness.clock import MICROSECONDS
from harness.errors import NotFound
from harness.ledger import Event, Store
from harness.recovery.facts import (
    ActionCompleted,
    ActionStarted,
    ChaosInjected,
    IncidentActionProposed,
    IncidentAnalysed,
    IncidentClosed,
    IncidentConcluded,
    IncidentEngaged,
    IncidentEscalated,
    IncidentOpened,
    IncidentRecurred,
    IncidentVerified,
    IncidentVerifying,
    Outcome,
    check_stream,
    fact_of,
    incident_stream,
    service_stream,
)
from harness.work import stream_of

LEAD_SECONDS = 120.0
"""A fault that was injected at most so long before the first evidence is taken for its cause."""

_PAGE = 200


class Times(msgspec.Struct, frozen=True, kw_only=True):
    """When what happened, in UTC microseconds; 0 for what did not happen."""

    fault_us: int  # the injected fault if one is known, else the first evidence
    detected_us: int
    ticket_us: int
    engaged_us: int = 0
    acted_us: int = 0  # the last action that succeeded was over
    verified_us: int = 0
    closed_us: int = 0

    def seconds(self, name: str) -> float | None:
        """Seconds from the fault to `detected`, `ticket`, `engaged`, `acted`, `verified` or `closed`; None if never."""
        at_us: int = getattr(self, f"{name}_us")
        return round((at_us - self.fault_us) / MICROSECONDS, 3) if at_us else None


class Incident(msgspec.Struct, frozen=True, kw_only=True):
    """One incident, as of now."""

    ticket: str
    title: str
    target: str
    check: str
    severity: str
    fingerprint: str
    status: str  # open, verifying, verified, escalated; and at last the ticket's own: completed, failed, cancelled
    times: Times
    occurrences: int = 1
    attempts: int = 0
    by: str = ""  # who decided that it needs a ticket
    runs: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()
    reason: str = ""  # of its end or escalation
    events: tuple[Event, ...] = ()  # everything above, in order

    def seconds(self, event: Event) -> float:
        """Seconds from the fault to an event of its timeline."""
        return round((event.ts - self.times.fault_us) / MICROSECONDS, 3)


def summary(incident: Incident) -> dict[str, object]:
    """The incident as the demo prints it: seconds since the fault."""
    told = {f"{name}_s": incident.times.seconds(name) for name in ("detected", "ticket", "acted", "verified")}
    return {"ticket": incident.ticket, **told, "status": incident.status}


def fold(ticket: str, events: Iterable[Event]) -> Incident | None:
    """The incident that these events tell; None if it was never opened. Events may be more than its own."""
    ordered = sorted(events, key=lambda event: (event.position, event.ts))
    opening = next(
        (event for event in ordered if event.type == IncidentOpened.TYPE and event.stream == incident_stream(ticket)), None
    )
    if opening is None:
        return None
    opened = _opened(ticket, opening)
    told: dict[str, object] = {"status": "open"}
    times = {"detected_us": opened.detected_us or opening.ts, "ticket_us": opening.ts}
    runs: list[str] = []
    actions: list[str] = []
    for event in ordered:
        _take(event, ticket, opened, told, times, runs, actions)
    fault_us = _fault_us(ordered, opened.target, times["detected_us"])
    return Incident(
        ticket=ticket, title=opened.title, target=opened.target, check=opened.check,
        severity=str(opened.evidence.get("severity", "")), fingerprint=opened.fingerprint,
        times=Times(fault_us=fault_us, **times), runs=tuple(dict.fromkeys(runs)), actions=tuple(dict.fromkeys(actions)),
        events=tuple(event for event in ordered if event.ts >= fault_us), **told,  # type: ignore[arg-type]
    )  # fmt: skip


def _opened(ticket: str, event: Event) -> IncidentOpened:
    if event.erased:
        return IncidentOpened(ticket=ticket, fingerprint="", check="", target="", title="(erased)")
    return event.load(IncidentOpened)


def _take(
    event: Event,
    ticket: str,
    opened: IncidentOpened,
    told: dict[str, object],
    times: dict[str, int],
    runs: list[str],
    actions: list[str],
) -> None:
    fact = None if event.erased else fact_of(event)
    if event.stream == stream_of(ticket) and event.type == "item.claimed" and not event.erased:
        told["attempts"] = event.payload.get("attempt", 0)
    if event.stream not in (incident_stream(ticket), service_stream(opened.target)):
        return
    match fact:
        case IncidentAnalysed():
            told["by"] = fact.by
            runs.append(fact.run)
        case IncidentEngaged():
            times.setdefault("engaged_us", event.ts)
            runs.append(fact.run)
        case IncidentActionProposed() | IncidentConcluded():
            times.setdefault("engaged_us", event.ts)
            runs.append(fact.run)
        case IncidentRecurred():
            told["occurrences"] = fact.count
        case ActionStarted() if fact.ticket == ticket:
            actions.append(fact.action_id)
        case ActionCompleted() if fact.ticket == ticket and fact.outcome is Outcome.SUCCEEDED:
            actions.append(fact.action_id)
            times["acted_us"] = event.ts
        case IncidentVerifying():
            told["status"] = "verifying"
        case IncidentVerified():
            told["status"] = "verified"
            times["verified_us"] = event.ts
        case IncidentEscalated():
            told.update(status="escalated", reason=fact.reason)
        case IncidentClosed():
            told.update(status=fact.status, reason=fact.reason)
            times["closed_us"] = event.ts
        case _:
            pass
    while "" in runs:
        runs.remove("")


def _fault_us(events: Sequence[Event], target: str, detected_us: int) -> int:
    """When the fault was injected, if one is known to have been just before; else when it was first seen."""
    earliest = detected_us - round(LEAD_SECONDS * MICROSECONDS)
    injected = [
        event.ts
        for event in events
        if event.type == ChaosInjected.TYPE and event.stream == service_stream(target) and earliest <= event.ts <= detected_us
    ]
    return max(injected, default=detected_us)


async def incident_of(store: Store, ticket: str) -> Incident:
    """The incident of a ticket, with its whole timeline. Raises `NotFound`."""
    own = await store.read(incident_stream(ticket))
    found = fold(ticket, own)
    if found is None:
        raise NotFound(f"no incident {ticket!r}; `harness tickets list` shows what there is")
    events = [*own, *await store.read(stream_of(ticket))]
    end_us = found.times.closed_us or store.clock.now_us()
    begin_us = found.times.detected_us - round(LEAD_SECONDS * MICROSECONDS)
    streams = [service_stream(found.target)] if found.target else []
    streams += [check_stream(name) for name in _checks(own)]
    for stream in streams:
        events += [event for event in await events_since(store, stream, begin_us) if event.ts <= end_us]
    for run in found.runs:
        events += await store.read(f"run/{run}")
    whole = fold(ticket, events)
    assert whole is not None
    return whole


async def list_incidents(store: Store, *, limit: int = 50) -> list[Incident]:
    """The newest incidents, newest first, each by its own stream alone: without what its target did meanwhile."""
    heads = sorted(await store.heads("incident/"), key=lambda head: head.ts, reverse=True)[:limit]
    folded = [fold(head.stream.partition("/")[2], await store.read(head.stream)) for head in heads]
    found = [incident for incident in folded if incident is not None]
    return sorted(found, key=lambda incident: incident.times.ticket_us, reverse=True)


def _checks(own: Sequence[Event]) -> list[str]:
    names: list[str] = []
    for event in own:
        if event.type == IncidentOpened.TYPE and not event.erased:
            names += [str(name) for name in event.load(IncidentOpened).evidence.get("checks", [])]
    return list(dict.fromkeys(name for name in names if name))


async def events_since(store: Store, stream: str, since_us: int) -> list[Event]:
    """A stream's events from a time on, in order, without reading what came before."""
    head = await store.head(stream)
    found: list[Event] = []
    end = head.seq if head else 0
    while end > 0:
        begin = max(0, end - _PAGE)
        found = [*await store.read(stream, after=begin, limit=end - begin), *found]
        if found[0].ts < since_us:
            break
        end = begin
    return [event for event in found if event.ts >= since_us]
