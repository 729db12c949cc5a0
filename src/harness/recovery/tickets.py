"""Tickets of failures: opened once, counted exactly, told to the incident's timeline once.

A ticket is an item of work with the failure's fingerprint, which the ledger lets only one open item hold. Blocked and
parked ones are open too. Whoever opens it may die at any instant: `mend` writes what is then missing of the timeline.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import msgspec

from harness.clock import MICROSECONDS
from harness.errors import KeyTaken, NotFound
from harness.ledger import Event, Store, Unique, Write
from harness.recovery.analyst import Analysis
from harness.recovery.facts import (
    Fact,
    IncidentAnalysed,
    IncidentClosed,
    IncidentOpened,
    IncidentRecurred,
    draft,
    incident_stream,
)
from harness.recovery.failures import Failure, OpenTicket, Severity, labels_of
from harness.work import ITEM_VIEW, OPEN, Item, Items, Role, Status

GATE = "verified by the monitor"
"""What must be proven before a ticket of ours is completed: nobody else can."""

TERMINAL_EVENTS = ("item.completed", "item.failed", "item.cancelled")
_MENDED = 100  # the newest incidents: older ones were mended by an earlier start


class Opening(msgspec.Struct, frozen=True, kw_only=True):
    """The payload of a ticket's item: enough to write the beginning of its timeline again."""

    failure: Failure
    analysis: Analysis


class Tickets:
    """Opens, finds and recounts tickets. Several processes may do so at once."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.items = Items(store, role=Role.SYSTEM)
        store.register(ITEM_VIEW)

    async def open_for(self, subject: str) -> list[Item]:
        """The open tickets of a subject, the most urgent first."""
        return [*await self.items.list(status=OPEN, labels={"subject": subject}, limit=None)]

    async def report(self, failure: Failure, analysis: Analysis) -> tuple[Item, bool]:
        """A ticket for the failure, or one recurrence more on the one that is open; also whether it is new.

        Each call counts exactly once, however many processes call at the same time.
        """
        source, source_id = _source(failure)
        item, fresh = await self.items.create_or_recur(
            title=failure.title,
            fingerprint=failure.fingerprint,
            detail=failure.observed,
            data={"ref": failure.ref, "root": failure.root},
            description=_description(failure, analysis),
            priority=analysis.priority,
            source_type=source,
            source_id=source_id,
            gates=(GATE,),
            labels=labels_of(failure),
            payload=msgspec.to_builtins(Opening(failure=failure, analysis=analysis)),
            parent=failure.ref or None,
        )
        if fresh:
            await self._begin(item.id, failure, analysis)
        else:
            await self._tell_recurrence(item, failure)
        return item, fresh

    async def recur(self, item_id: str, failure: Failure) -> Item:
        """One recurrence more on a ticket that covers the failure. Raises `IllegalTransition` if it was closed."""
        item = await self.items.recur(item_id, failure.observed, data={"ref": failure.ref, "root": failure.root})
        await self._tell_recurrence(item, failure)
        return item

    async def mend(self, item: Item) -> None:
        """Write the beginning of a ticket's timeline if whoever opened it died before."""
        with suppress(msgspec.ValidationError):  # opened by a person, who tells no failure
            opening = msgspec.convert(item.payload, Opening)
            await self._begin(item.id, opening.failure, opening.analysis)

    async def told(self, item_id: str) -> set[str]:
        """The evidence that this ticket has counted, as references to events."""
        refs: set[str] = set()
        for event in await self.items.history(item_id):
            match event.type:
                case "item.described":
                    refs.add(str(event.payload.get("payload", {}).get("failure", {}).get("ref", "")))
                case "item.recurred":
                    refs.add(str(event.payload.get("data", {}).get("ref", "")))
                case _:
                    pass
        return refs - {""}

    async def _begin(self, ticket: str, failure: Failure, analysis: Analysis) -> None:
        opened = IncidentOpened(
            ticket=ticket, fingerprint=failure.fingerprint, check=failure.root, target=failure.target,
            title=failure.title, observed=failure.observed, detected_us=failure.detected_us,
            evidence={"severity": failure.severity.value, "ref": failure.ref, "checks": list(failure.checks)},
        )  # fmt: skip
        told = IncidentAnalysed(
            ticket=ticket, open_ticket=True, by=analysis.by, objective=analysis.objective, context=analysis.context,
            priority=analysis.priority, reason=analysis.reason, run=analysis.run, seconds=analysis.seconds,
        )  # fmt: skip
        await tell_once(self._store, ticket, "opened", opened, told, parent=failure.ref or None)

    async def _tell_recurrence(self, item: Item, failure: Failure) -> None:
        fact = IncidentRecurred(ticket=item.id, count=item.occurrences, check=failure.root, observed=failure.observed)
        await self._store.append(Write(incident_stream(item.id), (draft(fact, parent=failure.ref or None),)))


async def tell_once(store: Store, ticket: str, what: str, *facts: Fact, parent: str | None = None) -> bool:
    """Write facts to an incident's timeline unless `what` was told before; gives whether it was new."""
    write = Write(incident_stream(ticket), tuple(draft(fact, parent=parent) for fact in facts))
    try:
        await store.append(write, guards=(Unique(f"incident/{ticket}/{what}"),))
    except KeyTaken:
        return False
    return True


async def tell_closed(store: Store, event: Event) -> None:
    """End an incident's timeline when its item reaches a last state, by whoever's doing."""
    ticket = event.stream.partition("/")[2]
    status, reason = str(event.payload.get("target", "")), str(event.payload.get("reason", ""))
    fact = IncidentClosed(ticket=ticket, status=status, reason=reason)
    await tell_once(store, ticket, f"closed-{event.seq}", fact, parent=event.ref)


async def mend_closed(store: Store, items: Items) -> None:
    """End the timelines that a monitor left open because it died between the ticket's last state and its telling."""
    newest = sorted(await store.heads("incident/"), key=lambda head: head.ts)[-_MENDED:]
    for head in newest:
        last = await store.event(head.stream, head.seq)
        if last is not None and last.type != IncidentClosed.TYPE:
            with suppress(NotFound):
                for event in reversed(await items.history(head.stream.partition("/")[2])):
                    if event.type in TERMINAL_EVENTS:
                        await tell_closed(store, event)
                        break


def as_open(items: Sequence[Item]) -> list[OpenTicket]:
    """Items as routing wants them. A person's ticket about a subject counts as the worst: they know of it."""
    return [
        OpenTicket(
            id=item.id,
            status=Status(item.status),
            severity=_severity(item.labels.get("severity", "")),
            fingerprint=item.fingerprint or "",
        )
        for item in items
    ]


def _severity(label: str) -> Severity:
    return Severity(label) if label in set(Severity) else Severity.DOWN


def _source(failure: Failure) -> tuple[str, str]:
    named = failure.root if not failure.root.startswith("process:") else (*failure.checks, "")[0]
    return ("invariant", named) if named else ("anomaly", failure.root)


def _description(failure: Failure, analysis: Analysis) -> str:
    checks = "\n".join(f"* the check {name} passes" for name in failure.checks) or f"* {failure.subject} runs"
    seconds = failure.detected_us / MICROSECONDS
    return f"""{analysis.objective}

{analysis.context}

Observed: {failure.observed} (by {failure.root}, at {seconds:.3f} s since 1970)
Decided by {analysis.by}: {analysis.reason}

Done when, freshly and for a while:
{checks}"""
