"""Progress, explanations and checkpoints: told by index, true to the events, readable."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from harness.clock import VirtualClock
from harness.errors import (
    ModelUnavailable,
    NotFound,
    OutcomeUnknown,
    PolicyDenied,
    ReplayConsistencyError,
    StepRejected,
    UsageError,
)
from harness.kernel import (
    Kernel,
    KernelPolicy,
    MockModelPort,
    ModelInput,
    ModelResult,
    ScriptedModelPort,
    TenantContext,
    Usage,
    WorkflowContext,
)
from harness.kernel.insight import tasks_of
from harness.kernel.progress import PROGRESS_VIEW
from harness.ledger import MemoryStore, PostgresStore, SQLiteStore
from harness.people import Questions

Store = MemoryStore | SQLiteStore | PostgresStore
TENANT = TenantContext(tenant_id="t")
RUN = "run-1"


@pytest.fixture(params=["memory", "sqlite", "postgres"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    match request.param:
        case "memory":
            made: Store = MemoryStore()
        case "sqlite":
            made = SQLiteStore(tmp_path / "k.db")
        case _:
            made = PostgresStore(request.getfixturevalue("postgres_dsn"))
    yield made
    assert await made.check(PROGRESS_VIEW) == []
    await made.close()


async def opened(store: Store, port: Any = None) -> Kernel:
    kernel = Kernel(store=store, model_port=port, policy=KernelPolicy(retry_base_seconds=0))
    await kernel.open_run(tenant=TENANT, run_id=RUN)
    return kernel


def said(text: str, cost: float) -> ModelResult:
    return ModelResult(text=text, usage=Usage(input_tokens=100, output_tokens=10, cost_usd=cost))


async def ask(kernel: Kernel, key: str, *, model: str = "big", prompt: str = "x", **more: Any) -> Any:
    return await kernel.step_model(
        run_id=RUN, tenant=TENANT, model=model, input=ModelInput.from_prompt(prompt), step_key=key, **more
    )


async def test_costs_are_told_by_model_and_tool(store: Store) -> None:
    """Whatever was retried, failed or repeated is counted where it belongs, and replays cost nothing."""
    script = [said("a", 0.02), ModelUnavailable("503"), said("b", 0.03), said("c", 0.001)]
    kernel = await opened(store, ScriptedModelPort(script))
    kernel.tool(name="look")(lambda: "seen")

    for _ in range(2):
        await kernel.load_run(run_id=RUN)
        await ask(kernel, "one")
        await ask(kernel, "two")
        await ask(kernel, "three", model="small")
        await kernel.step_tool(run_id=RUN, tenant=TENANT, tool_name="look")
    told = await kernel.explain_run(RUN)

    lines = {(line.kind, line.name): (line.completed, line.retried, line.cost_usd, line.input_tokens) for line in told.costs}
    assert lines == {
        ("model", "big"): (2, 1, 0.05, 200),
        ("model", "small"): (1, 0, 0.001, 100),
        ("tool", "look"): (1, 0, 0.0, 0),
    }
    assert told.cost_usd == pytest.approx(0.051)
    assert told.progress.steps == {"completed": 4}
    text = str(told)
    assert "model big: 2 completed, 1 tried again, $0.05, 200 tokens in, 20 out" in text
    assert "step.retried two: error=ModelUnavailable message=503" in text
    await kernel.close()


async def test_trouble_is_told(store: Store) -> None:
    """Drifts, rejections, failures, unknown outcomes, pauses: each is there with its step, the newest is why."""
    kernel = await opened(store, MockModelPort(text="x"))

    @kernel.tool(side_effect=True)
    def pay() -> str:
        raise OutcomeUnknown("the line went dead")

    await ask(kernel, "one")
    await ask(kernel, "one", prompt="y", replay_policy="allow_prompt_drift")
    with pytest.raises(ReplayConsistencyError):
        await ask(kernel, "one", prompt="z")
    with pytest.raises(StepRejected):
        await kernel.step_tool(run_id=RUN, tenant=TENANT, tool_name="ghost")
    assert "its newest trouble is step.rejected of ghost#1" in (await kernel.explain_run(RUN)).why
    with pytest.raises(OutcomeUnknown):
        await kernel.step_tool(run_id=RUN, tenant=TENANT, tool_name="pay")
    unknown = await kernel.explain_run(RUN)
    await kernel.pause(run_id=RUN, reason="look first")
    paused = await kernel.explain_run(RUN)

    assert [note.step for note in unknown.drifts] == ["one"]
    assert [note.step for note in unknown.unknown_outcomes] == ["pay#1"]
    assert unknown.why == "the outcome of pay#1 is unknown; reconcile it"
    assert paused.why == "it was paused and waits for `resume`: look first"
    assert [note.type for note in paused.notes] == ["step.drifted", "step.rejected", "step.unknown", "run.paused"]
    (last,) = (await kernel.explain_run(RUN, limit=1)).notes
    assert last.type == "run.paused"
    assert (await kernel.explain_run(RUN, limit=1)).notes_left_out == 3
    await kernel.close()


async def test_open_questions_and_the_tree_are_told(store: Store) -> None:
    """What people are asked about this run, and the runs below it with their costs, each after what caused it."""
    kernel = await opened(store, MockModelPort(text="x", usage=Usage(cost_usd=0.01)))
    for run_id, parent in (("kid", RUN), ("grandkid", "kid"), ("kid-2", RUN), ("stranger", None)):
        await kernel.start_run(tenant=TENANT, run_id=run_id, parent_run=parent)
        await kernel.step_model(run_id=run_id, tenant=TENANT, model="m", input=ModelInput.from_prompt("x"))
    for subject in (f"run/{RUN}#3", f"run/{RUN}1#3"):
        await Questions(store).ask("approval", subject, digest="d", text=f"about {subject}?")

    told = await kernel.explain_run(RUN)

    assert [(child.run_id, child.depth, child.cost_usd) for child in told.children] == [
        ("kid", 1, 0.01),
        ("grandkid", 2, 0.01),
        ("kid-2", 1, 0.01),
    ]
    assert told.tree_cost_usd == pytest.approx(0.03)
    (question,) = told.open_questions
    assert question.endswith(f"about run/{RUN}#3?")
    assert told.why == "people were asked and have not answered"
    assert "    child grandkid: active, $0.01" in str(told)
    await kernel.close()


async def test_what_is_waited_for(tmp_path: Path) -> None:
    """A human, a time, a reconciliation: progress says which, and until when."""
    clock = VirtualClock()
    async with SQLiteStore(tmp_path / "k.db", clock=clock) as store, Kernel(store=store) as kernel:

        async def workflow(ctx: WorkflowContext) -> None:
            await ctx.sleep(60)
            await ctx.pause("well?")

        async def go_on() -> Any:
            return await kernel.run_workflow(run_id=RUN, tenant=TENANT, workflow=workflow, longest_sleep_seconds=0)

        await go_on()
        sleeping = await kernel.get_run_progress(run_id=RUN)
        clock.advance(61)
        await go_on()
        paused = await kernel.get_run_progress(run_id=RUN)
        await kernel.resume(run_id=RUN)
        await go_on()
        over = await kernel.get_run_progress(run_id=RUN)

    assert (sleeping.waiting_for, sleeping.waiting_step, sleeping.due_us) == (
        "timer",
        "sleep#1",
        sleeping.started_us + 60_000_000,
    )
    assert (paused.waiting_for, paused.waiting_step, paused.reason) == ("human", "pause#1", "well?")
    assert (over.waiting_for, over.current_step, over.status) == (None, None, "completed")
    assert over.updated_at == datetime.fromtimestamp(clock.now_us() / 1e6, UTC)
    assert "waits for timer until" in str(sleeping)


async def test_progress_reads_no_steps(tmp_path: Path) -> None:
    """However long a run is, progress and explanation read a few rows, not the run."""
    async with SQLiteStore(tmp_path / "k.db", durability="process") as store, Kernel(store=store) as kernel:
        kernel.tool(name="look")(lambda: "seen")
        await kernel.start_run(tenant=TENANT, run_id=RUN)
        for _ in range(300):
            await kernel.step_tool(run_id=RUN, tenant=TENANT, tool_name="look")
        await kernel.get_run_progress(run_id=RUN)

        read = store.read

        async def refuse(stream: str, **place: Any) -> Any:
            assert place == {"after": 0, "limit": 1}, "the run was read"  # its first event says whether it is a fork
            return await read(stream, **place)

        store.read = refuse  # type: ignore[method-assign]
        progress = await kernel.get_run_progress(run_id=RUN)
        told = await kernel.explain_run(RUN)
        del store.read

    assert progress.steps == {"completed": 300}
    assert told.costs[0].completed == 300


async def test_an_erased_step_still_counts(store: Store) -> None:
    """Its name and cost are gone, that it ended is not."""
    kernel = await opened(store, MockModelPort(text="x", usage=Usage(cost_usd=0.01)))
    done = await ask(kernel, "one")
    await store.erase(f"run/{RUN}", done.seq, reason="asked to")
    await store.rebuild(PROGRESS_VIEW)

    told = await kernel.explain_run(RUN)

    assert told.progress.steps == {"completed": 1}
    assert told.cost_usd == 0
    await kernel.close()


async def test_a_checkpoint_is_marked_once(store: Store) -> None:
    """The same mark again is the one that is there; another payload is another mark, or another step's."""
    kernel = await opened(store)

    async def mark(payload: Any, step_key: str | None = None) -> int:
        return await kernel.checkpoint(run_id=RUN, tenant=TENANT, name="loaded", payload=payload, step_key=step_key)

    first, same, second = await mark({"rows": 1}), await mark({"rows": 1}), await mark({"rows": 2})
    assert first == same < second
    assert await mark("a", "k") == await mark("b", "k")
    assert await kernel.get_latest_run_summary(run_id=RUN, summary_type="checkpoint::loaded") == "a"
    with pytest.raises(TypeError):
        await mark({1, 2})
    await kernel.close()


async def test_what_makes_no_sense_is_refused(store: Store) -> None:
    """Unknown runs, another tenant, names and limits that are none."""
    kernel = await opened(store)

    with pytest.raises(NotFound, match="ghost"):
        await kernel.get_run_progress(run_id="ghost")
    with pytest.raises(NotFound, match="ghost"):
        await kernel.explain_run("ghost")
    with pytest.raises(NotFound, match="ghost"):
        await kernel.checkpoint(run_id="ghost", tenant=TENANT, name="n")
    with pytest.raises(PolicyDenied):
        await kernel.checkpoint(run_id=RUN, tenant=TenantContext(tenant_id="other"), name="n")
    for name in ("", "  ", 5):
        with pytest.raises(UsageError, match="a checkpoint's name"):
            await kernel.checkpoint(run_id=RUN, tenant=TENANT, name=name)  # type: ignore[arg-type]
    for limit in (0, -1, True, 1.5, "3"):
        with pytest.raises(UsageError, match="limit"):
            await kernel.explain_run(RUN, limit=limit)  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="limit"):
            await kernel.list_timers(limit=limit)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="time zone"):
        await kernel.list_timers(due_before=datetime(2030, 1, 1, tzinfo=UTC).replace(tzinfo=None))
    await kernel.close()


@pytest.mark.parametrize(
    ("recorded", "told"),
    [
        ({"units": [{"id": "a", "state": "done"}, {"id": "b", "state": "pending"}]}, (2, 1, ("b",))),
        ([{"name": "a", "status": "completed"}], (1, 1, ())),
        ({"tasks": {"total": 4, "done": 1}}, (4, 1, ())),
        ({"total": 4, "completed": 4}, (4, 4, ())),
        ({"total": True, "done": True}, (None, None, ())),
        ({"total": 4, "done": 5}, (None, None, ())),
        ([{"state": 3}], (None, None, ())),
        (None, (None, None, ())),
    ],
)
def test_tasks_are_read_from_what_a_run_recorded(recorded: Any, told: Any) -> None:
    """Several forms are understood; what says nothing of a total gives no number."""
    assert tasks_of(recorded) == told
