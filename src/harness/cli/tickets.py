"""`harness tickets`: what is being worked on, and what people say about it."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.app import App
from harness.cli.opening import actor, execute, reading, writing
from harness.cli.options import Home, Json
from harness.cli.output import ago, clock_time, json_line, line, now_us, plain, table

if TYPE_CHECKING:
    from harness.ledger import Event
    from harness.people import Question
    from harness.web.overview import Ticket

app = App("List, create, note, close, approve and deny tickets.")

Id = Annotated[str, typer.Argument(metavar="ID", help="The ticket's id.", show_default=False)]
Reason = Annotated[str, typer.Option(help="Why; it is recorded.")]

Which = Annotated[str | None, typer.Option("--question", help="Which question, when the ticket has several.")]


class Priority(StrEnum):
    """How urgent a ticket is."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"


class Ending(StrEnum):
    """How a person may end a ticket."""

    COMPLETED = "completed"
    CANCELLED = "cancelled"
    FAILED = "failed"


@app.command("list")
def list_(
    status: Annotated[str | None, typer.Option(help="ready, open, or a status such as pending or completed.")] = None,
    source: Annotated[str | None, typer.Option(help="human, invariant, webhook, …")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most so many.")] = 100,
    as_json: Json = False,
    home: Home = None,
) -> None:
    """List tickets, the most urgent first.

    \b
    Examples:
      harness tickets list
      harness tickets list --status open
      harness tickets list --status ready --json
    """

    async def work() -> list[Ticket]:
        from harness.web import ticket_of
        from harness.work import OPEN, Items

        wanted = OPEN if status == "open" else None if status == "ready" else status
        async with reading(home) as store:
            found = await Items(store).list(
                status=wanted, ready=True if status == "ready" else None, source_type=source, limit=limit
            )
        return [ticket_of(item) for item in found]

    found = execute(work)
    if as_json:
        json_line(found)
        return
    now = now_us()
    rows = [
        (row.id, row.status, row.priority, ago(row.created_us, now), row.occurrences, row.holder, row.title) for row in found
    ]
    table(("ticket", "status", "priority", "opened", "seen", "holder", "title"), rows, empty="no tickets")


@app.command()
def show(ticket: Id, as_json: Json = False, home: Home = None) -> None:
    """Show one ticket and everything that happened to it.

    \b
    Examples:
      harness tickets show 4711
    """

    async def work() -> tuple[Ticket, list[Event]]:
        from harness.web import ticket_of
        from harness.work import Items

        async with reading(home) as store:
            items = Items(store)
            return ticket_of(await items.get(ticket)), list(await items.history(ticket))

    found, events = execute(work)
    if as_json:
        from dataclasses import asdict

        from harness.cli.ledger import event_json

        json_line({**asdict(found), "events": [event_json(event) for event in events]})
        return
    _print(found)
    for event in events:
        line(plain(f"  {clock_time(event.ts)}  {event.type:<22} {event.actor}  {_words(event)}"))


def _print(found: Ticket) -> None:
    line(plain(f"{found.id}  {found.title}"))
    line(plain(f"  {found.status}{' (ready)' if found.ready else ''}, {found.priority}, from {found.source_type}"))
    for name, value in (
        ("source", found.source_id),
        ("holder", found.holder),
        ("waits for", ", ".join(found.depends_on)),
        ("reason", found.reason),
        ("result", found.result),
    ):
        if value:
            line(plain(f"  {name}: {value}"))
    for paragraph in found.description.splitlines():
        line(plain(f"  | {paragraph}"))


def _words(event: Event) -> str:
    payload = event.payload
    for key in ("text", "reason", "detail", "title", "holder"):
        if payload.get(key):
            return str(payload[key])[:160]
    return ""


@app.command()
def create(
    title: Annotated[str, typer.Argument(metavar="TITLE", help="What is wanted, in a line.")],
    description: Annotated[str, typer.Option("--description", "-d", help="More words.")] = "",
    priority: Annotated[Priority, typer.Option("--priority", "-p", help="How urgent.")] = Priority.MEDIUM,
    depends_on: Annotated[list[str] | None, typer.Option(help="A ticket to be completed first; may be repeated.")] = None,
    as_json: Json = False,
    home: Home = None,
) -> None:
    """Open a ticket.

    \b
    Examples:
      harness tickets create "Rotate the logs" --priority low
    """

    async def work() -> Ticket:
        from harness.web import ticket_of
        from harness.work import Items

        async with writing(home) as store:
            item = await Items(store).create(
                title=title, description=description, priority=priority.value, depends_on=tuple(depends_on or ())
            )
        return ticket_of(item)

    _tell(execute(work), "opened", as_json)


def _tell(found: Ticket, what: str, as_json: bool) -> None:
    if as_json:
        json_line(found)
    else:
        line(plain(f"{what}: {found.id} is {found.status}"))


@app.command()
def note(
    ticket: Id,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What to write down.")],
    as_json: Json = False,
    home: Home = None,
) -> None:
    """Write something down in a ticket's history.

    \b
    Examples:
      harness tickets note 4711 "the disk was replaced"
    """

    async def work() -> Ticket:
        from harness.web import ticket_of
        from harness.work import Items

        async with writing(home) as store:
            items = Items(store)
            await items.note(ticket, text)
            return ticket_of(await items.get(ticket))

    _tell(execute(work), "noted", as_json)


@app.command()
def close(
    ticket: Id,
    as_: Annotated[Ending, typer.Option("--as", help="How it ended.")] = Ending.COMPLETED,
    reason: Reason = "",
    as_json: Json = False,
    home: Home = None,
) -> None:
    """Close a ticket. Where checks can prove it, they have to: then it is verified first, and completed by that.

    \b
    Examples:
      harness tickets close 4711 --reason "done by hand"
      harness tickets close 4711 --as cancelled --reason "not needed"
    """

    async def work() -> Ticket:
        from harness.web import ticket_of
        from harness.work import Items, Status

        async with writing(home) as store:
            items = Items(store)
            item = await items.get(ticket)
            gated = as_ is Ending.COMPLETED and bool(item.gates)
            to = Status.VERIFYING if gated else Status(as_.value)
            return ticket_of(await items.transition(ticket, to, reason=reason or f"closed by {actor()}"))

    _tell(execute(work), "closed", as_json)


@app.command()
def approve(ticket: Id, reason: Reason = "", question: Which = None, as_json: Json = False, home: Home = None) -> None:
    """Let the agent do what it proposed for this ticket: these arguments, once.

    \b
    Examples:
      harness tickets approve 4711
    """
    _answer(ticket, True, reason, question, as_json, home)


@app.command()
def deny(ticket: Id, reason: Reason = "", question: Which = None, as_json: Json = False, home: Home = None) -> None:
    """Forbid what the agent proposed for this ticket.

    \b
    Examples:
      harness tickets deny 4711 --reason "not during the day"
    """
    _answer(ticket, False, reason, question, as_json, home)


def _answer(ticket: str, approved: bool, reason: str, question: str | None, as_json: bool, home: Path | None) -> None:
    async def work() -> Question:
        from harness.recovery import approvals

        async with writing(home) as store:
            return await approvals.answer(store, ticket, approved=approved, by=actor(), reason=reason, question=question)

    answered = execute(work)
    word = "approved" if approved else "denied"
    if as_json:
        json_line({"ticket": ticket, "answer": word, "question": answered.id, "text": answered.text})
    else:
        line(plain(f"{word}: {answered.text}"))
