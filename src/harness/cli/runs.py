"""`harness runs`: which runs there are, where each stands and why; pause, resume and cancel one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.app import App
from harness.cli.opening import execute, reading, writing
from harness.cli.options import Home, Json
from harness.cli.output import ago, json_line, line, note, now_us, plain, table

if TYPE_CHECKING:
    from harness.kernel import Kernel, RunExplanation, RunStatus
    from harness.ledger import Store

app = App("List the kernel's runs, show where one stands and why; pause, resume and cancel one.")

Run = Annotated[str, typer.Argument(metavar="RUN", help="A run's id.", show_default=False)]
Reason = Annotated[str, typer.Option(help="Why; it is recorded.")]


@app.command("list")
def list_(
    every: Annotated[bool, typer.Option("--all", help="Those that are over too, the newest last.")] = False,
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's.", show_default=False)] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most so many of the newest.")] = 100,
    as_json: Json = False,
    home: Home = None,
) -> None:
    """List the runs that are not over: active, paused for a person, or blocked.

    \b
    Examples:
      harness runs list
      harness runs list --all --limit 20 --json
    """

    async def work() -> list[RunStatus]:
        from harness.kernel import Kernel

        async with reading(home) as store, Kernel(store=store) as kernel:
            if not every:
                return list(await kernel.list_active_runs(tenant_id=tenant))[-limit:]
            heads = sorted(await store.heads("run/"), key=lambda head: head.ts)
            known = [await _status(kernel, head.stream.partition("/")[2]) for head in heads]
            return [status for status in known if status is not None and tenant in (None, status.tenant_id)][-limit:]

    found = execute(work)
    if as_json:
        json_line(found)
        return
    now = now_us()
    rows = [(each.run_id, each.status, each.tenant_id, ago(each.updated_us, now), each.last_seq, each.reason) for each in found]
    table(("run", "status", "tenant", "last", "events", "why"), rows, empty="no runs" if every else "no run is under way")


async def _status(kernel: Kernel, run: str) -> RunStatus | None:
    from harness.errors import Unproven

    try:
        return await kernel.get_run_status(run_id=run)
    except Unproven as error:  # it hides none of the others
        note(plain(f"not listed: {error}"))
        return None


@app.command()
def show(run: Run, as_json: Json = False, home: Home = None) -> None:
    """Show where a run stands and why: progress, what it waits for, cost, trouble, children and forks.

    \b
    Examples:
      harness runs show nightly-7
      harness runs show nightly-7 --json
    """

    async def work() -> RunExplanation:
        from harness.kernel import Kernel

        async with reading(home) as store, Kernel(store=store) as kernel:
            return await kernel.explain_run(run)

    found = execute(work)
    if as_json:
        json_line(found)
        return
    for text in str(found).splitlines():
        line(plain(text))


@app.command()
def pause(run: Run, reason: Reason = "", as_json: Json = False, home: Home = None) -> None:
    """Let a run execute no further step until it is resumed. Steps at work end and are recorded.

    \b
    Examples:
      harness runs pause nightly-7 --reason "look at the bill first"
    """
    _change(run, "paused", lambda _, kernel: kernel.pause(run_id=run, reason=reason), as_json, home)


@app.command()
def resume(
    run: Run,
    text: Annotated[str | None, typer.Option("--input", help="What you say to the run, as it is.", show_default=False)] = None,
    given: Annotated[str | None, typer.Option("--input-json", help="The same as JSON.", show_default=False)] = None,
    reason: Reason = "",
    as_json: Json = False,
    home: Home = None,
) -> None:
    """Let a paused run go on, with what it waits to be told. Its program then goes on, or is run again.

    A run that waits for an approval is answered with `harness questions`.

    \b
    Examples:
      harness runs resume release-42 --input yes
      harness runs resume release-42 --input-json '{"region": "eu"}'
    """
    said = _said(text, given)

    async def go_on(store: Store, kernel: Kernel) -> int:
        from harness.errors import UsageError
        from harness.people import Questions

        for asked in await Questions(store).pending(kind="approval"):
            if asked.subject.startswith(f"run/{run}#"):
                raise UsageError(f"run {run!r} waits for a yes or no: harness questions approve {asked.id} (or deny, or show)")
        return await kernel.resume(run_id=run, human_input=said, reason=reason)

    _change(run, "active", go_on, as_json, home)


def _said(text: str | None, given: str | None) -> Any:
    """What a person says. Raises `UsageError` for what is no JSON."""
    import msgspec

    from harness.errors import UsageError

    if given is None:
        return text
    if text is not None:
        raise UsageError("say it once: --input for a text, or --input-json")
    try:
        return msgspec.json.decode(given)
    except msgspec.DecodeError as error:
        raise UsageError(f"--input-json is no JSON: {error}; for a text there is --input") from error


@app.command()
def cancel(run: Run, reason: Reason = "", as_json: Json = False, home: Home = None) -> None:
    """End a run for good: nothing more is executed. Steps at work end and are recorded.

    \b
    Examples:
      harness runs cancel nightly-7 --reason "no longer wanted"
    """
    _change(run, "cancelled", lambda _, kernel: kernel.cancel_run(run_id=run, reason=reason), as_json, home)


def _change(run: str, status: str, change: Callable[[Store, Kernel], Awaitable[int]], as_json: bool, home: Path | None) -> None:
    async def work() -> int:
        from harness.kernel import Kernel

        async with writing(home) as store, Kernel(store=store) as kernel:
            return await change(store, kernel)

    seq = execute(work)
    if as_json:
        json_line({"run": run, "status": status, "seq": seq})
    else:
        line(f"{status}: {plain(run)}")
