"""`/api/tickets`: list, open, change, and answer for them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response

from harness.errors import UsageError
from harness.ledger import Event
from harness.recovery import approvals, facts
from harness.web.context import Here
from harness.web.events import EventRow, event_row
from harness.web.overview import Ticket, ticket_of
from harness.web.schemas import Answer, NewDependency, NewNote, NewTicket, TicketChange
from harness.work import Status

router = APIRouter(prefix="/api/tickets", tags=["tickets"])

_READY = "ready"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """What a person said to an agent's question."""

    ticket: str
    question: str
    text: str
    answer: str
    by: str


@router.get("")
async def list_tickets(
    here: Here,
    response: Response,
    status: Annotated[str | None, Query(description="ready, or one of the statuses")] = None,
    source_type: str | None = None,
    source_id: str | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    offset: Annotated[int, Query(ge=0)] = 0,
) -> list[Ticket]:
    """Tickets, the most urgent first; the header X-Total-Count says how many match."""
    if status not in (None, _READY, *Status):
        raise UsageError(f"status {status!r}: one of {_READY}, {', '.join(Status)}")
    match: dict[str, Any] = {
        "status": status if status != _READY else None,
        "ready": True if status == _READY else None,
        "source_type": source_type,
        "source_id": source_id,
    }
    found = await here.items.list(**match, limit=None)
    response.headers["X-Total-Count"] = str(len(found))
    return [ticket_of(item) for item in found[offset : offset + limit]]


@router.post("", status_code=201)
async def open_ticket(here: Here, new: NewTicket, response: Response) -> Ticket:
    """Open a ticket; if one with the same source is open already, count a recurrence on it and answer 200."""
    wanted: dict[str, Any] = {
        "title": new.title,
        "description": new.description,
        "priority": new.priority.value,
        "source_type": new.source_type.value,
        "source_id": new.source_id,
        "depends_on": tuple(new.depends_on),
        "labels": new.labels,
        "actor": here.actor,
    }
    if not new.source_id:
        return ticket_of(await here.items.create(**wanted))
    fingerprint = f"source/{new.source_type.value}/{new.source_id}"
    item, created = await here.items.create_or_recur(fingerprint=fingerprint, detail=new.description, **wanted)
    response.status_code = 201 if created else 200
    return ticket_of(item)


@router.get("/{ticket}")
async def show_ticket(here: Here, ticket: str) -> dict[str, Any]:
    """A ticket with everything that happened to it."""
    item = await here.items.get(ticket)
    events = await _events(here, ticket)
    return {**asdict(ticket_of(item)), "events": [asdict(event_row(event)) for event in events]}


@router.patch("/{ticket}")
async def change_ticket(here: Here, ticket: str, change: TicketChange) -> Ticket:
    """Change words, urgency or status, or add a note. `completed` is the verifier's to say where a ticket has gates."""
    item = await here.items.get(ticket)
    if change.status is not None:
        reason = change.reason or "changed over the API"
        item = await here.items.transition(ticket, change.status, reason=reason, actor=here.actor)
    if not (change.title is None and change.description is None and change.priority is None):
        priority = None if change.priority is None else change.priority.value
        item = await here.items.edit(
            ticket, title=change.title, description=change.description, priority=priority, actor=here.actor
        )
    if change.note is not None:
        await here.items.note(ticket, change.note, author=here.actor)
        item = await here.items.get(ticket)
    return ticket_of(item)


@router.get("/{ticket}/events")
async def ticket_events(here: Here, ticket: str) -> list[EventRow]:
    """What happened to the ticket and its incident, in the ledger's order."""
    await here.items.get(ticket)
    return [event_row(event) for event in await _events(here, ticket)]


@router.post("/{ticket}/events", status_code=201)
async def add_note(here: Here, ticket: str, note: NewNote) -> EventRow:
    """Write a note into the ticket's history."""
    return event_row(await here.items.note(ticket, note.text, author=here.actor))


@router.get("/{ticket}/dependencies")
async def ticket_dependencies(here: Here, ticket: str) -> dict[str, list[Ticket]]:
    """What the ticket waits for, and what waits for it."""
    item = await here.items.get(ticket)
    return {
        "depends_on": [ticket_of(await here.items.get(other)) for other in item.depends_on],
        "dependents": [ticket_of(other) for other in await here.items.dependents(ticket)],
    }


@router.post("/{ticket}/dependencies", status_code=201)
async def add_dependency(here: Here, ticket: str, new: NewDependency) -> Ticket:
    """Let the ticket wait for another one."""
    return ticket_of(await here.items.depend(ticket, new.depends_on, actor=here.actor))


@router.post("/{ticket}/approve")
async def approve(here: Here, ticket: str, answer: Answer | None = None) -> Answered:
    """Let the agent do what it proposed for this ticket: these arguments, once."""
    return await _answered(here, ticket, answer or Answer(), approved=True)


@router.post("/{ticket}/deny")
async def deny(here: Here, ticket: str, answer: Answer | None = None) -> Answered:
    """Forbid what the agent proposed for this ticket."""
    return await _answered(here, ticket, answer or Answer(), approved=False)


async def _answered(here: Here, ticket: str, answer: Answer, *, approved: bool) -> Answered:
    await here.items.get(ticket)
    said = await approvals.answer(
        here.store, ticket, approved=approved, by=here.actor, reason=answer.reason, question=answer.question
    )
    return Answered(ticket=ticket, question=said.id, text=said.text, answer=said.answer or "", by=said.answered_by or "")


async def _events(here: Here, ticket: str) -> list[Event]:
    own = await here.items.history(ticket)
    incident = await here.store.read(facts.incident_stream(ticket))
    return sorted([*own, *incident], key=lambda event: event.position)
