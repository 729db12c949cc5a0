"""`harness incident`: one incident from the fault to its end, as a story, as a bundle, or as the reasons of its decisions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.app import App
from harness.cli.ledger import event_json, write_bundle
from harness.cli.opening import execute, reading
from harness.cli.options import Home, Json
from harness.cli.output import json_line, line, plain, table

if TYPE_CHECKING:
    from harness.ledger import Event
    from harness.recovery.incidents import Incident

app = App("Show, export and explain one incident.")

Id = Annotated[str, typer.Argument(metavar="ID", help="The incident's ticket.", show_default=False)]


@app.command("list")
def list_(
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most so many.")] = 20,
    as_json: Json = False,
    home: Home = None,
) -> None:
    """List the newest incidents and how long each took, in seconds since the fault.

    \b
    Examples:
      harness incident list
    """
    from harness.web.stories import incident_row

    async def work() -> list[Incident]:
        from harness.recovery.incidents import incident_of, list_incidents

        async with reading(home) as store:
            return [await incident_of(store, found.ticket) for found in await list_incidents(store, limit=limit)]

    rows = [incident_row(found) for found in execute(work)]
    if as_json:
        json_line(rows)
        return
    shown = [(row.ticket, row.status, row.target, row.ticket_s, row.acted_s, row.verified_s, row.title) for row in rows]
    table(("incident", "status", "target", "ticket", "acted", "verified", "title"), shown, empty="no incidents")


@app.command()
def show(
    ticket: Id,
    everything: Annotated[bool, typer.Option("--all", "-a", help="Also what is only for the whole story.")] = False,
    as_json: Json = False,
    home: Home = None,
) -> None:
    """Show an incident's timeline: what was seen, thought, decided and done.

    \b
    Examples:
      harness incident show 4711
      harness incident show 4711 --all
      harness incident show 4711 --json
    """
    from harness.web.stories import incident_row, lines_of

    found = execute(lambda: _found(ticket, home))
    if as_json:
        timeline = lines_of(found)
        json_line(
            {"incident": incident_row(found), "timeline": timeline, "events": [event_json(each) for each in found.events]}
        )
        return
    line(plain(f"{found.ticket}  {found.title}"))
    line(plain(f"  {found.status}{': ' + found.reason if found.reason else ''}"))
    for each in lines_of(found):
        if everything or each.tone != "quiet":
            line(plain(f"  {each.seconds:+8.2f} s  {each.who:<18} {each.text}"))
            for detail in each.detail.splitlines()[: None if everything else 4]:
                line(f"{'':>33}| {plain(detail)}")


@app.command()
def export(
    ticket: Id,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The bundle's file; stdout without it.")] = None,
    home: Home = None,
) -> None:
    """Write everything about an incident as one bundle, which verifies on its own and imports elsewhere.

    \b
    Examples:
      harness incident export 4711 -o incident.jsonl
    """

    async def work() -> None:
        from harness.recovery.incidents import incident_of

        async with reading(home) as store:
            found = await incident_of(store, ticket)
            await write_bundle(store, _streams(found), out)

    execute(work)


def _streams(found: Incident) -> Sequence[str]:
    return list(dict.fromkeys(event.stream for event in found.events))


@app.command()
def why(ticket: Id, as_json: Json = False, home: Home = None) -> None:
    """Say why each thing was decided: by whom, on which grounds, and within which limit.

    \b
    Examples:
      harness incident why 4711
    """
    found = execute(lambda: _found(ticket, home))
    decisions = [each for event in found.events if (each := _decision(event)) is not None]
    if as_json:
        json_line(decisions)
        return
    for each in decisions:
        line(plain(f"{each['decided']}: {each['by']}"))
        line(plain(f"  because {each['because']}"))
        line(plain(f"  recorded as {each['event']}"))


async def _found(ticket: str, home: Path | None) -> Incident:
    from harness.recovery.incidents import incident_of

    async with reading(home) as store:
        return await incident_of(store, ticket)


def _decision(event: Event) -> dict[str, str] | None:
    """A decision with its reason, if the event is one."""
    from harness.recovery import facts

    match facts.fact_of(event):
        case facts.IncidentOpened() as fact:
            told = ("a ticket is needed", "monitor", fact.observed or fact.title)
        case facts.IncidentAnalysed() as fact:
            told = (fact.objective or "what the ticket is about", fact.by, fact.reason or fact.context)
        case facts.IncidentActionProposed() as fact:
            told = (f"to ask for {fact.kind} of {fact.target}", fact.by, fact.reason)
        case facts.IncidentActionDecided() as fact:
            decision = fact.decision
            limit = f" (limit {decision.limit})" if decision.limit else ""
            told = (f"{decision.verdict} at level {decision.level}", fact.by, f"{decision.reason}{limit}")
        case facts.ActionStarted() as fact if fact.decision is not None:
            told = (f"{fact.decision.verdict} when it was to be done", "supervisor", fact.decision.reason)
        case facts.ActionRefused() as fact:
            told = (f"{fact.kind} is not done", "supervisor", fact.reason)
        case facts.IncidentConcluded() as fact:
            told = ("it should be fixed" if fact.fixed else "it is not fixed", fact.by, fact.reason)
        case facts.IncidentVerified() as fact:
            seen = ", ".join(f"{name} passed {count} times" for name, count in fact.passes.items())
            told = ("it is healed", "verifier", f"{seen} through {fact.window_seconds:g} s")
        case facts.IncidentAttemptFailed() as fact:
            told = (f"attempt {fact.attempt} did not heal it", "verifier", fact.reason)
        case facts.IncidentEscalated() as fact:
            told = ("a person has to take over", event.actor, fact.reason)
        case _:
            return None
    return {"decided": told[0], "by": told[1], "because": told[2], "event": event.ref}
