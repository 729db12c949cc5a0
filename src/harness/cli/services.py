"""`harness services`: what runs, a person's wishes to the supervisor, and what the services wrote."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.app import App
from harness.cli.opening import actor, execute, reading, writing
from harness.cli.options import Home, Json
from harness.cli.output import ago, json_line, line, now_us, plain, table

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from harness.processes import LogReader
    from harness.recovery.facts import ActionCompleted, ActionKind, ActionRefused
    from harness.web.overview import Service

app = App("List, start, stop, restart services; read their logs.")

Name = Annotated[str, typer.Argument(metavar="SERVICE", help="The service's name.", show_default=False)]
Wait = Annotated[float, typer.Option(min=0.1, max=3600, help="Seconds to wait for the supervisor's answer.")]
Reason = Annotated[str, typer.Option(help="Why; it is recorded.")]


@app.command("list")
def list_(as_json: Json = False, home: Home = None) -> None:
    """List the services and Harness's own processes, with what each does now.

    \b
    Examples:
      harness services list
      harness services list --json
    """

    async def work() -> list[Service]:
        from harness.cli import declared
        from harness.web import overview

        return await declared.recorded_or(home, overview.services, declared.services)

    found = execute(work)
    if as_json:
        json_line(found)
        return
    now = now_us()
    rows = [(row.name, row.state, row.pid, ago(row.since_us, now), row.address, row.chaos, row.reason) for row in found]
    table(("service", "state", "pid", "since", "address", "chaos", "reason"), rows, empty="no services were ever declared here")


@app.command()
def start(name: Name, reason: Reason = "", wait: Wait = 60.0, as_json: Json = False, home: Home = None) -> None:
    """Start a service that is stopped.

    \b
    Examples:
      harness services start rate_limiter
    """
    _act("start_service", name, reason, wait, as_json, home)


@app.command()
def stop(name: Name, reason: Reason = "", wait: Wait = 60.0, as_json: Json = False, home: Home = None) -> None:
    """Stop a service with all its processes; returns when they are gone.

    \b
    Examples:
      harness services stop rate_limiter --reason "maintenance"
    """
    _act("stop_service", name, reason, wait, as_json, home)


@app.command()
def restart(name: Name, reason: Reason = "", wait: Wait = 60.0, as_json: Json = False, home: Home = None) -> None:
    """Stop a service and start it again.

    \b
    Examples:
      harness services restart rate_limiter
    """
    _act("restart_service", name, reason, wait, as_json, home)


def _act(kind: str, name: str, reason: str, wait: float, as_json: bool, home: Path | None) -> None:
    from harness.errors import HarnessError
    from harness.recovery import facts

    answer = execute(lambda: _asked(facts.ActionKind(kind), name, reason, wait, home))
    done = isinstance(answer, facts.ActionCompleted) and answer.outcome is facts.Outcome.SUCCEEDED
    said = answer.detail if isinstance(answer, facts.ActionCompleted) else answer.reason
    if as_json:
        json_line({"ok": done, "service": name, "action": kind, "action_id": answer.action_id, "detail": said})
    elif done:
        line(plain(f"{name}: {said}"))
    if not done:
        word = "refused" if isinstance(answer, facts.ActionRefused) else answer.outcome.value
        raise HarnessError(f"{kind} of {name} {word}: {said}")


async def _asked(kind: ActionKind, name: str, reason: str, wait: float, home: Path | None) -> ActionCompleted | ActionRefused:
    from harness.web import requests

    async with writing(home) as store:
        return await requests.act(store, kind, name, by=actor(), reason=reason, wait_seconds=wait)


@app.command()
def logs(
    name: Name,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many lines of the end.")] = 50,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes, until interrupted.")] = False,
    search: Annotated[str | None, typer.Option(help="Only lines with this text, through all that is kept.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines.")] = False,
    home: Home = None,
) -> None:
    """Print what a service wrote, rotated parts included.

    \b
    Examples:
      harness services logs rate_limiter
      harness services logs rate_limiter --search error
      harness services logs rate_limiter --follow
    """
    execute(lambda: _logs(name, lines, follow, search, as_json, home))


async def _logs(name: str, count: int, follow: bool, search: str | None, as_json: bool, home: Path | None) -> None:
    from harness.processes import LogReader

    reader = LogReader(await _log_path(name, home))
    found = reader.tail(count) if search is None else reader.search(search, limit=max(1, count))
    for each in found:
        _show(name, each.text, as_json)
    if not follow:
        return
    async for text in followed_lines(reader):
        if search is None or search in text:
            _show(name, text, as_json)


async def followed_lines(reader: LogReader) -> AsyncIterator[str]:
    """The lines that are written from now on, without their ends."""
    from harness.processes import Lines

    lines = Lines()
    async for chunk in reader.follow():
        for data in lines.feed(chunk.data):
            yield data.decode(errors="replace")


async def _log_path(name: str, home: Path | None) -> Path:
    from harness.errors import NotFound
    from harness.web import overview

    async with reading(home) as store:
        row = await overview.service(store, name)
        if row is None:
            known = ", ".join(each.name for each in await overview.services(store)) or "none"
            raise NotFound(f"no service {name!r}; declared: {known}")
    if not row.log or not Path(row.log).exists():
        raise NotFound(f"{name} has written nothing yet")
    return Path(row.log)


def _show(name: str, text: str, as_json: bool) -> None:
    from harness.text import sanitise

    if as_json:
        json_line({"service": name, "line": text})
    else:
        line(sanitise(text))
