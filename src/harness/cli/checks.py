"""`harness checks`: what shall be true, whether it is, and how to add to it or keep it quiet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.app import App
from harness.cli.opening import actor, execute, reading, settings_of, writing
from harness.cli.options import Home, Json
from harness.cli.output import ago, clock_time, json_line, line, now_us, plain, table

if TYPE_CHECKING:
    from harness.recovery.checks import Check as Runnable
    from harness.recovery.checks import Sample
    from harness.web.overview import Check

app = App("List, run, add and silence checks.")


@app.command("list")
def list_(
    target: Annotated[str, typer.Option(help="Only those about this service.")] = "",
    as_json: Json = False,
    home: Home = None,
) -> None:
    """List the checks with their last results.

    \b
    Examples:
      harness checks list
      harness checks list --target api --json
    """

    async def work() -> list[Check]:
        from harness.cli import declared
        from harness.web import overview

        rows = await declared.recorded_or(home, overview.checks, declared.checks)
        return [row for row in rows if target in ("", row.target, row.name)]

    found = execute(work)
    if as_json:
        json_line(found)
        return
    now = now_us()
    rows = [(row.name, _state(row), row.target, ago(row.since_us, now), row.condition, row.observed) for row in found]
    table(("check", "result", "target", "since", "condition", "observed"), rows, empty="no checks were ever declared here")


def _state(row: Check) -> str:
    return row.result if row.enabled else "off"


@app.command()
def run(
    names: Annotated[list[str] | None, typer.Argument(metavar="CHECK", help="Which; all without it.")] = None,
    as_json: Json = False,
    home: Home = None,
) -> None:
    """Look once, here and now, and say what each check sees. Records nothing.

    Ends with 0 if all pass, with 1 if not.

    \b
    Examples:
      harness checks run
      harness checks run rate_limiter_healthy --json
    """
    samples = execute(lambda: _looked(tuple(names or ()), home))
    if as_json:
        json_line(samples)
    else:
        rows = [(each.check, each.result.value, f"{each.took_ms:g} ms", each.detail) for each in samples]
        table(("check", "result", "took", "detail"), rows, empty="no checks are declared here")
    raise typer.Exit(0 if all(each.result.value == "pass" for each in samples) else 1)


async def _looked(names: tuple[str, ...], home: Path | None) -> list[Sample]:
    from harness.errors import NotFound

    known = {check.name: check for check in _runnable(home)}
    if missing := [name for name in names if name not in known]:
        raise NotFound(f"no check {missing[0]!r}; declared: {', '.join(known) or 'none'}")
    return [await _look(known[name], home) for name in names or known]


def _runnable(home: Path | None) -> list[Runnable]:
    from harness.recovery import load_declarations
    from harness.recovery.checks import build_check

    return [build_check(invariant) for invariant in load_declarations(settings_of(home)).invariants]


async def _look(check: Runnable, home: Path | None) -> Sample:
    from harness.recovery.checks import sample
    from harness.recovery.probes import probe

    known = await _process(check.query.service, home) if check.query.kind == "process" else {}
    started = now_us()
    seen = await probe(check, lambda _: known)
    return sample(check, seen, started_us=started, ended_us=now_us())


async def _process(service: str, home: Path | None) -> dict[str, object]:
    """What the ledger says of a service's process, as the condition's fields."""
    from harness.web import overview

    async with reading(home) as store:
        row = await overview.service(store, service)
    if row is None or row.state == overview.UNKNOWN:
        return {}
    return {"running": row.pid is not None, "state": row.state, "pid": row.pid or 0, "restarts": 0}


@app.command()
def add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A new name.")],
    query: Annotated[str, typer.Argument(metavar="QUERY", help="http://…, latency:URL, tcp:HOST:PORT or process:SERVICE.")],
    condition: Annotated[str, typer.Argument(metavar="CONDITION", help="CEL, such as 'status == 200'.")] = "",
    target: Annotated[str, typer.Option(help="The service that it is about.")] = "",
    description: Annotated[str, typer.Option(help="What it means, in words.")] = "",
    interval: Annotated[float, typer.Option(min=0.1, max=86_400, help="Seconds between looks.")] = 5.0,
    as_json: Json = False,
    home: Home = None,
) -> None:
    """Add a check while everything runs. To keep it in the project, write it into harness.toml.

    \b
    Examples:
      harness checks add api_up http://localhost:9000/health 'status == 200'
      harness checks add db_port tcp:127.0.0.1:5432
      harness checks add api_fast latency:http://localhost:9000/ 'value < 200' --target api
    """

    async def work() -> Check:
        from harness.recovery import Invariant, load_declarations
        from harness.web import registering

        invariant = Invariant(
            name=name, query=query, condition=condition, target=target, description=description, interval_seconds=interval
        )
        declarations = load_declarations(settings_of(home))
        async with writing(home) as store:
            return await registering.register(store, invariant, declarations)

    row = execute(work)
    if as_json:
        json_line(row)
    else:
        line(f"added: {plain(row.name)}")


@app.command()
def silence(
    subject: Annotated[str, typer.Argument(metavar="CHECK|SERVICE", help="What shall open no tickets.")],
    minutes: Annotated[float, typer.Option("--minutes", "-m", min=0, max=525_600, help="For how long; 0 ends it.")] = 60.0,
    reason: Annotated[str, typer.Option(help="Why; it is recorded.")] = "",
    as_json: Json = False,
    home: Home = None,
) -> None:
    """Let a check, or all checks of a service, open no tickets for a while. They go on being run.

    \b
    Examples:
      harness checks silence rate_limiter --minutes 30 --reason "maintenance"
      harness checks silence rate_limiter --minutes 0
    """

    async def work() -> int:
        from harness.web import registering

        async with writing(home) as store:
            fact = await registering.silence(store, subject, seconds=minutes * 60, by=actor(), reason=reason)
            return fact.until_us

    until = execute(work)
    if as_json:
        json_line({"subject": subject, "until_us": until})
    else:
        line(f"{plain(subject)}: silent until {clock_time(until)[:-4]}" if minutes else f"{plain(subject)}: no longer silent")
