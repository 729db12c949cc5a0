"""`harness ledger replay | fork | diff | why | reconcile`: runs beside runs, and what led to what."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.opening import execute, reading, writing
from harness.cli.options import Home, Json
from harness.cli.output import clock_time, json_line, line, note, plain, table

if TYPE_CHECKING:
    from harness.kernel import Cause, ReplayDiff, RunDiff, RunHandle, StepRecord, StepToolResult, Story
    from harness.ledger import Verification

Run = Annotated[str, typer.Argument(metavar="RUN", help="A run's id.", show_default=False)]


def replay(
    run: Run,
    model: Annotated[str | None, typer.Option(help="Ask this one, such as anthropic:MODEL.", show_default=False)] = None,
    prompt: Annotated[str | None, typer.Option(help="In place of the first user message.", show_default=False)] = None,
    system: Annotated[str | None, typer.Option(help="In place of the system message.", show_default=False)] = None,
    only: Annotated[str, typer.Option(help="Change the words of steps that match this pattern.")] = "*",
    new_run_id: Annotated[str | None, typer.Option("--as", help="Id of the replay's run.", show_default=False)] = None,
    as_json: Json = False,
    home: Home = None,
) -> None:
    """Verify a run and print its steps as recorded; with a model, make its decisions again.

    Each model step is asked again with its recorded input, changed as told; no tool runs. The answers are recorded in a
    run of their own and compared. Ends with 1 if the run does not verify.

    \b
    Examples:
      harness ledger replay nightly-7
      harness ledger replay nightly-7 --model anthropic:MODEL
      harness ledger replay nightly-7 --model openai:MODEL --system "Be brief." --only "agent/turn-*"
    """
    if model is None:
        if prompt is not None or system is not None or new_run_id is not None:
            from harness.errors import UsageError

            raise UsageError("to ask again, say whom: --model anthropic:MODEL (or openai:MODEL, rules, …)")
        _as_recorded(run, as_json, home)
        return
    diff = execute(lambda: _again(run, model, prompt, system, only, new_run_id, home))
    if as_json:
        json_line(_diff_json(diff))
        return
    _print_diff(diff)
    line(f"replayed as {plain(diff.run_id)}")


def _as_recorded(run: str, as_json: bool, home: Any) -> None:
    async def work() -> tuple[Verification, Story]:
        from harness.errors import NotFound
        from harness.kernel import story_of

        async with reading(home) as store:
            try:
                return await store.verify_run_chain(run), await story_of(store, run)
            except NotFound as error:
                raise NotFound(f"no run {run!r} in {store.location}; 'harness ledger streams run/' lists them") from error

    found, story = execute(work)
    steps = list(story.steps.values())
    if as_json:
        json_line({"run": run, "verified": found.ok, "problems": found.problems, "steps": steps})
        raise typer.Exit(0 if found.ok else 1)
    rows = [
        (step.step, step.kind, step.name, step.state, step.inherited_from or "", f"{step.cost_usd:g}", _came(step))
        for step in steps
    ]
    table(("step", "kind", "name", "state", "from", "usd", "came of it"), rows, empty="no steps")
    for problem in found.problems:
        line(plain(f"{problem.kind}: {problem.stream}#{problem.seq}: {problem.detail}"))
    if found.ok:
        note(f"verified: {found.events} events in {found.streams} streams")
    raise typer.Exit(0 if found.ok else 1)


def _came(step: StepRecord) -> str:
    import msgspec

    if step.error or step.message:
        return _short(f"{step.error}: {step.message}".strip(": "))
    if step.tool_calls:
        return _short(", ".join(f"{call.name}({call.arguments_json})" for call in step.tool_calls))
    value = step.output if step.output is not None else step.result
    return _short(step.text or ("" if value is None else msgspec.json.encode(value).decode()))


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:59]}…"


async def _again(
    run: str, model: str, prompt: str | None, system: str | None, only: str, new_run_id: str | None, home: Any
) -> ReplayDiff:
    from harness.errors import ReplayConsistencyError, UsageError
    from harness.kernel import Kernel, PromptChange
    from harness.recovery.attempts import port_named

    port = port_named(model)
    changed = {only: PromptChange(system=system, user=prompt)} if prompt is not None or system is not None else None
    async with writing(home) as store, Kernel(store=store, model_port=port) as kernel:
        name = model.partition(":")[2] or model
        try:
            return await kernel.replay_run(run, model=name, prompt=changed, new_run_id=new_run_id)
        except ReplayConsistencyError as error:
            raise UsageError(f"{new_run_id!r} was begun with something else: {error.difference}; give another --as") from error


def fork(
    run: Run,
    at: Annotated[int, typer.Option("--at", min=1, help="The event after which it goes another way.", show_default=False)],
    new_run_id: Annotated[str | None, typer.Option("--as", help="Id of the fork.", show_default=False)] = None,
    as_json: Json = False,
    home: Home = None,
) -> None:
    """Begin a run with the steps that another one had ended after one of its events.

    \b
    Examples:
      harness ledger fork nightly-7 --at 12
      harness ledger fork nightly-7 --at 12 --as nightly-7b --json
    """

    async def work() -> RunHandle:
        from harness.kernel import Kernel

        async with writing(home) as store, Kernel(store=store) as kernel:
            return await kernel.fork_run(run_id=run, at_seq=at, new_run_id=new_run_id)

    made = execute(work)
    if as_json:
        json_line(made)
    else:
        line(f"forked: {plain(made.run_id)} from {plain(run)} after event {at}")


def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="A run's id.", show_default=False)],
    b: Annotated[str, typer.Argument(metavar="B", help="Another run's id.", show_default=False)],
    check: Annotated[bool, typer.Option("--check", help="End with 1 if they differ.")] = False,
    as_json: Json = False,
    home: Home = None,
) -> None:
    """Compare two runs step by step: what was asked, what came of it, what it cost.

    \b
    Examples:
      harness ledger diff nightly-7 nightly-8
      harness ledger diff nightly-7 nightly-8 --check --json
    """

    async def work() -> RunDiff:
        from harness.kernel import Kernel

        async with reading(home) as store, Kernel(store=store) as kernel:
            return await kernel.diff_runs(a, b)

    found = execute(work)
    if as_json:
        json_line(_diff_json(found))
    else:
        _print_diff(found)
    raise typer.Exit(1 if check and found else 0)


def _diff_json(found: RunDiff) -> dict[str, object]:
    return {
        "before_run": found.before_run,
        "after_run": found.after_run,
        "counts": found.counts,
        "cost_before_usd": found.cost_before_usd,
        "cost_after_usd": found.cost_after_usd,
        "steps": found.steps,
    }


def _print_diff(found: RunDiff) -> None:
    rows = [
        (
            step.step,
            step.verdict,
            ", ".join(step.fields),
            f"{step.cost_before_usd:g}",
            f"{step.cost_after_usd:g}",
            step.difference,
        )
        for step in found.steps
    ]
    table(("step", "", "differs in", "usd before", "usd after", "how"), rows, empty="neither run has a step")
    counts = ", ".join(f"{count} {verdict}" for verdict, count in found.counts.items() if count) or "no steps"
    line(f"{counts}; ${found.cost_before_usd:g} before, ${found.cost_after_usd:g} after")


def why(
    place: Annotated[str, typer.Argument(metavar="STREAM#SEQ|RUN", help="An event, or a run.", show_default=False)],
    step: Annotated[str | None, typer.Argument(metavar="STEP", help="A step of the run.", show_default=False)] = None,
    as_json: Json = False,
    home: Home = None,
) -> None:
    """Say what led to an event or a step, back to the beginning, over all streams.

    \b
    Examples:
      harness ledger why run/nightly-7#12
      harness ledger why nightly-7 agent/turn-2/call-1
      harness ledger why incident/4711#9 --json
    """

    async def work() -> list[Cause]:
        from harness.errors import UsageError
        from harness.kernel import causes_of, step_place

        async with reading(home) as store:
            if step is not None:
                return await causes_of(store, *await step_place(store, place, step))
            stream, _, seq = place.rpartition("#")
            if not stream or not seq.isdigit():
                raise UsageError(f"{place!r} is no event: write STREAM#SEQ, such as run/nightly-7#12, or RUN STEP")
            return await causes_of(store, stream, int(seq))

    found = execute(work)
    if as_json:
        json_line(found)
        return
    for each in found:
        line(plain(f"{f'{each.link} ' if each.link else ''}{each.ref} {each.type}{f' {each.step}' if each.step else ''}"))
        line(plain(f"  {clock_time(each.ts)} by {each.actor}{f': {each.told}' if each.told else ''}"))


def reconcile(
    run: Run,
    step: Annotated[str, typer.Argument(metavar="STEP", help="The step's id.", show_default=False)],
    outcome: Annotated[str, typer.Option(help="completed or failed.", show_default=False)],
    result: Annotated[str | None, typer.Option(help="What the tool gave, as JSON.", show_default=False)] = None,
    message: Annotated[str, typer.Option(help="Why it failed.", show_default=False)] = "",
    as_json: Json = False,
    home: Home = None,
) -> None:
    """Record what became of a side effect whose outcome is unknown. Nothing is run.

    \b
    Examples:
      harness ledger reconcile bill-12 pay --outcome completed --result '{"paid": 5}'
      harness ledger reconcile bill-12 pay --outcome failed --message "the bank never saw it"
    """
    value = _checked(outcome, result, message)
    done = execute(lambda: _settle(run, step, outcome, value, message, home))
    if as_json:
        json_line({"run": run, "step": step, "outcome": outcome, "seq": None if done is None else done.seq})
    else:
        line(f"{outcome}: {plain(step)} of {plain(run)}")


def _checked(outcome: str, result: str | None, message: str) -> object:
    """The result as a value. Raises `UsageError` for what this command cannot record."""
    import msgspec

    from harness.errors import UsageError

    if outcome in ("retry", "probe"):
        raise UsageError(
            f"--outcome {outcome} runs the tool's code, which is not here: call kernel.reconcile_tool(outcome={outcome!r}) in"
            " the program that has it, or record what you know with --outcome completed|failed"
        )
    if outcome not in ("completed", "failed"):
        raise UsageError(f"--outcome is completed or failed, not {outcome!r}")
    if message and outcome == "completed":
        raise UsageError("--message says why it failed; what is completed may have a --result")
    if result is None:
        return None
    if outcome == "failed":
        raise UsageError("what failed has no result; give --message")
    try:
        return msgspec.json.decode(result.encode())
    except (msgspec.DecodeError, UnicodeEncodeError) as error:
        raise UsageError(f"--result is no JSON: {error}; a text needs quotes: '\"sent\"'") from error


async def _settle(run: str, step: str, outcome: Any, value: object, message: str, home: Any) -> StepToolResult | None:
    from harness.errors import NotFound
    from harness.kernel import Kernel, TenantContext, story_of

    async with writing(home) as store, Kernel(store=store) as kernel:
        story = await story_of(store, run)
        record = story.steps.get(step)
        if record is None:
            unknown = [each.step for each in story.steps.values() if each.state in ("unknown", "started") and each.side_effect]
            raise NotFound(f"run {run!r} has no step {step!r}; of unknown outcome: {', '.join(unknown) or 'none'}")
        return await kernel.reconcile_tool(
            run_id=run, tenant=TenantContext(tenant_id=story.first.tenant), tool_name=record.name, step=step,
            outcome=outcome, result=value, message=message, by=store.actor,
        )  # fmt: skip


COMMANDS: tuple[Callable[..., None], ...] = (replay, fork, diff, why, reconcile)
