"""Workflows: steps, retries, timers, pauses, children; what a restart, a pause and a cancellation leave of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from harness.clock import VirtualClock
from harness.errors import (
    Conflict,
    NotFound,
    OutcomeUnknown,
    PolicyDenied,
    ReplayConsistencyError,
    RunNotActive,
    StepFailed,
    UsageError,
)
from harness.kernel import (
    Kernel,
    MockModelPort,
    ModelInput,
    RetryPolicy,
    TenantContext,
    WorkflowContext,
    WorkflowResult,
)
from harness.ledger import MemoryStore, PostgresStore, SQLiteStore

Store = MemoryStore | SQLiteStore | PostgresStore
TENANT = TenantContext(tenant_id="t")
RUN = "run-1"
PATIENCE_SECONDS = 30.0


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture(params=["memory", "sqlite", "postgres"])
async def store(request: pytest.FixtureRequest, tmp_path: Path, clock: VirtualClock) -> AsyncIterator[Store]:
    match request.param:
        case "memory":
            made: Store = MemoryStore(clock=clock)
        case "sqlite":
            made = SQLiteStore(tmp_path / "k.db", clock=clock)
        case _:
            made = PostgresStore(request.getfixturevalue("postgres_dsn"), clock=clock)
    yield made
    await made.close()


@pytest.fixture
async def kernel(store: Store) -> AsyncIterator[Kernel]:
    async with Kernel(store=store, model_port=MockModelPort(text="said")) as made:
        yield made


Function = Callable[[WorkflowContext], Any]


async def run(kernel: Kernel, workflow: Function, run_id: str = RUN, **options: Any) -> WorkflowResult:
    async with asyncio.timeout(PATIENCE_SECONDS):
        return await kernel.run_workflow(run_id=run_id, tenant=TENANT, workflow=workflow, **options)


async def again(store: Store, workflow: Function, **options: Any) -> WorkflowResult:
    """The same as after a restart: another kernel, which knows nothing but the ledger."""
    async with Kernel(store=store, model_port=MockModelPort(text="said")) as fresh:
        return await run(fresh, workflow, **options)


async def types(kernel: Kernel, run_id: str = RUN) -> list[str]:
    return [event.type for event in await kernel.get_events(run_id=run_id)]


async def recorded(store: Store, kind: str, run_id: str = RUN, nth: int = 1) -> None:
    """Wait until an event of this type is there for the n-th time."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        async for event in store.follow(streams=(f"run/{run_id}",)):
            nth -= event.stream == f"run/{run_id}" and event.type == kind
            if not nth:
                return


class Calls:
    """An action that counts, and gives or raises what its script says."""

    def __init__(self, *script: Any) -> None:
        self.script = list(script)
        self.count = 0

    async def __call__(self) -> Any:
        self.count += 1
        said = self.script[min(self.count, len(self.script)) - 1]
        if isinstance(said, BaseException):
            raise said
        return said


# Steps


async def test_a_step_is_executed_once(kernel: Kernel, store: Store) -> None:
    """What a step gave is recorded and given back; running the finished workflow again executes and writes nothing."""
    action = Calls({"rows": [1, 2]})

    async def workflow(ctx: WorkflowContext) -> Any:
        return await ctx.step(name="fetch", action=action)

    first = await run(kernel, workflow)
    before = await types(kernel)
    second = await again(store, workflow)

    assert (first.status, first.output, first.replayed) == ("completed", {"rows": [1, 2]}, False)
    assert (second.status, second.output, second.replayed) == ("completed", {"rows": [1, 2]}, True)
    assert action.count == 1
    assert await types(kernel) == before == ["run.started", "step.completed", "run.completed"]


async def test_a_first_result_is_what_a_replay_gives(kernel: Kernel, store: Store) -> None:
    """Tuples and models come back as JSON or as the asked type, also the first time."""

    class Row(BaseModel):
        name: str

    async def workflow(ctx: WorkflowContext) -> Any:
        plain = await ctx.step(name="plain", action=lambda: {"pair": (1, 2)})
        typed = await ctx.step(name="typed", action=lambda: Row(name="a"), result_type=Row)
        return plain, typed

    first, second = await run(kernel, workflow), await again(store, workflow)

    assert first.output == second.output == ({"pair": [1, 2]}, Row(name="a"))


async def test_a_serializer_writes_what_is_no_json(kernel: Kernel, store: Store) -> None:
    """An own serializer is used both ways."""

    class Hex:
        def dumps(self, value: bytes, /) -> str:
            return value.hex()

        def loads(self, text: str, /) -> bytes:
            return bytes.fromhex(text)

    async def workflow(ctx: WorkflowContext) -> Any:
        return await ctx.step(name="raw", action=lambda: b"\x00\xff", serializer=Hex())

    assert (await run(kernel, workflow)).output == (await again(store, workflow)).output == b"\x00\xff"


async def test_a_result_that_is_no_json_fails_the_step(kernel: Kernel, store: Store) -> None:
    """What cannot be recorded is a failure that names the way out, and the action is not repeated for it."""
    action = Calls(object())

    async def workflow(ctx: WorkflowContext) -> Any:
        return await ctx.step(name="odd", action=action, retry=RetryPolicy(max_attempts=5))

    for _ in range(2):
        with pytest.raises(StepFailed, match="odd failed: TypeError: object is no JSON"):
            await again(store, workflow)

    assert action.count == 1


async def test_gathered_steps_of_one_name_keep_their_results(kernel: Kernel, store: Store) -> None:
    """Steps are numbered when they are called, whichever ends first."""
    gate = asyncio.Event()

    async def slow() -> str:
        await gate.wait()
        return "slow"

    async def fast() -> str:
        gate.set()
        return "fast"

    async def workflow(ctx: WorkflowContext) -> Any:
        return await asyncio.gather(ctx.step(name="part", action=slow), ctx.step(name="part", action=fast))

    assert (await run(kernel, workflow)).output == ["slow", "fast"]
    assert (await again(store, workflow)).output == ["slow", "fast"]


async def test_a_failed_step_fails_again_on_replay(kernel: Kernel, store: Store) -> None:
    """A failure is recorded and raised again; a workflow that catches it goes on, one that does not fails its run."""
    action = Calls(ValueError("no disk"))

    async def caught(ctx: WorkflowContext) -> str:
        try:
            return await ctx.step(name="write", action=action)
        except StepFailed as error:
            return f"{error} (replayed {error.replayed})"

    async def uncaught(ctx: WorkflowContext) -> str:
        return await ctx.step(name="write", action=action)

    first = await run(kernel, caught)
    second = await again(store, caught)
    with pytest.raises(StepFailed, match="write failed: ValueError: no disk"):
        await run(kernel, uncaught, "run-2")

    assert first.output == "write failed: ValueError: no disk (replayed False)"
    assert second.output == "write failed: ValueError: no disk (replayed True)"
    status = await kernel.get_run_status(run_id="run-2")
    assert (status.status, status.reason) == ("failed", "StepFailed: write failed: ValueError: no disk")
    with pytest.raises(StepFailed, match="no disk"):
        await run(kernel, uncaught, "run-2")
    assert action.count == 2


async def test_an_exception_of_the_workflow_itself_fails_the_run(kernel: Kernel) -> None:
    """The run does not stay active behind a program that has given up."""

    async def workflow(_: WorkflowContext) -> None:
        raise KeyError("plan")

    with pytest.raises(KeyError):
        await run(kernel, workflow)

    assert (await kernel.get_run_status(run_id=RUN)).status == "failed"
    assert await kernel.list_active_runs() == ()


async def test_what_a_person_can_put_right_leaves_the_run_active(kernel: Kernel) -> None:
    """An unknown outcome is no failure of the run: it is reconciled, and the workflow goes on."""

    @kernel.tool(side_effect=True)
    async def pay() -> str:
        raise OutcomeUnknown("the line went dead")

    async def workflow(ctx: WorkflowContext) -> Any:
        return (await ctx.tool("pay")).result

    with pytest.raises(OutcomeUnknown):
        await run(kernel, workflow)
    assert (await kernel.get_run_status(run_id=RUN)).active
    progress = await kernel.get_run_progress(run_id=RUN)
    assert (progress.waiting_for, progress.waiting_step) == ("reconciliation", "pay#1")
    await kernel.reconcile_tool(run_id=RUN, tenant=TENANT, tool_name="pay", outcome="completed", result="paid")

    assert (await run(kernel, workflow)).output == "paid"


async def test_models_and_tools_inside_an_action_have_a_scope_of_their_own(kernel: Kernel, store: Store) -> None:
    """Steps that an action takes are recorded by themselves, and a crash of the action does not repeat them."""
    crashes = [True]

    async def workflow(ctx: WorkflowContext) -> Any:
        async def action() -> str:
            said = await ctx.model(model="m", input=ModelInput.from_prompt("x"))
            if crashes:
                crashes.pop()
                raise asyncio.CancelledError
            return said.text

        return await ctx.step(name="ask", action=action)

    with pytest.raises(asyncio.CancelledError):
        await run(kernel, workflow)
    port = MockModelPort(text="other")
    async with Kernel(store=store, model_port=port) as fresh:
        assert (await run(fresh, workflow)).output == "said"

    assert port.calls == 0
    assert {event.key for event in await kernel.get_events(run_id=RUN) if event.type.startswith("step.")} == {
        "ask#1",
        "ask%231/model#1",
    }


async def test_changed_inputs_are_refused(kernel: Kernel, store: Store) -> None:
    """Inputs that were named are compared on replay; a key of another kind of step is refused too."""

    async def workflow(ctx: WorkflowContext, day: int = 1) -> Any:
        return await ctx.step(name="load", action=lambda: day, inputs={"day": day})

    async def other_kind(ctx: WorkflowContext) -> Any:
        return await ctx.sleep(1, name="load")

    await run(kernel, workflow)

    async def changed(ctx: WorkflowContext) -> Any:
        return await workflow(ctx, 2)

    with pytest.raises(ReplayConsistencyError, match="other inputs"):
        await again(store, changed)
    with pytest.raises(ReplayConsistencyError, match="recorded as a action step and is asked as a timer step"):
        await again(store, other_kind)


# Retries


async def retrying(
    kernel: Kernel, clock: VirtualClock, running: asyncio.Task[WorkflowResult], seconds: float, attempt: int
) -> None:
    """Let a waiting attempt's time come."""
    await recorded(kernel.store, "step.retried", nth=attempt)  # type: ignore[arg-type]
    while not clock._sleepers and not running.done():
        await asyncio.sleep(0)
    clock.advance(seconds)


async def test_each_attempt_is_on_the_ledger(kernel: Kernel, clock: VirtualClock) -> None:
    """A policy says how often and after how long; the attempts and their times are events."""
    action = Calls(ValueError("a"), ValueError("b"), "done")

    async def workflow(ctx: WorkflowContext) -> Any:
        return await ctx.step(name="flaky", action=action, retry=RetryPolicy(max_attempts=3, base_seconds=10))

    began = clock.now_us()
    running = asyncio.ensure_future(run(kernel, workflow))
    await retrying(kernel, clock, running, 10, 1)
    await retrying(kernel, clock, running, 20, 2)

    assert (await running).output == "done"
    retried = [event.payload for event in await kernel.get_events(run_id=RUN) if event.type == "step.retried"]
    assert [(r["attempt"], r["message"], (r["next_at_us"] - began) // 1_000_000) for r in retried] == [
        (1, "a", 10),
        (2, "b", 30),
    ]
    (step,) = await kernel.get_steps(run_id=RUN)
    assert (step.state, step.attempt) == ("completed", 3)


async def test_the_next_attempt_survives_a_restart(store: Store, clock: VirtualClock) -> None:
    """Neither the count nor the time begins anew in another process."""
    action = Calls(ValueError("a"), ValueError("b"), "never")

    async def workflow(ctx: WorkflowContext) -> Any:
        return await ctx.step(name="flaky", action=action, retry=RetryPolicy(max_attempts=2, base_seconds=100, max_seconds=100))

    async with Kernel(store=store) as first:
        running = asyncio.ensure_future(run(first, workflow))
        await recorded(store, "step.retried")
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    clock.advance(60)
    async with Kernel(store=store) as second:
        (timer,) = await second.list_timers()
        assert (timer.run_id, timer.kind, timer.step) == (RUN, "retry", "flaky#1")
        running = asyncio.ensure_future(run(second, workflow))
        await retrying(second, clock, running, 30, 1)
        assert action.count == 1
        await retrying(second, clock, running, 10, 1)
        with pytest.raises(StepFailed, match="flaky failed: ValueError: b"):
            await running

    assert action.count == 2


async def test_a_final_error_is_not_tried_again(kernel: Kernel) -> None:
    """What is named as final fails at once, and a policy can ask for another try at a recorded failure."""
    action = Calls(KeyError("gone"), "back")

    def workflow(retry: RetryPolicy) -> Function:
        async def inner(ctx: WorkflowContext) -> Any:
            try:
                return await ctx.step(name="get", action=action, retry=retry)
            except StepFailed:
                await ctx.pause("look")
                return await inner(ctx)

        return inner

    result = await run(kernel, workflow(RetryPolicy(non_retryable=(LookupError,))))
    assert (result.status, action.count) == ("paused", 1)
    await kernel.resume(run_id=RUN)

    assert (await run(kernel, workflow(RetryPolicy(retry_failed=True)))).output == "back"


async def test_cancelling_a_run_wakes_a_step_that_waits_for_its_next_attempt(kernel: Kernel, store: Store) -> None:
    """Nobody waits out a day for a run that is over; the run has a terminal event and nothing more is tried."""
    action = Calls(ValueError("a"))

    async def workflow(ctx: WorkflowContext) -> Any:
        return await ctx.step(name="flaky", action=action, retry=RetryPolicy(base_seconds=86_400, max_seconds=86_400))

    running = asyncio.ensure_future(run(kernel, workflow))
    await recorded(store, "step.retried")
    async with Kernel(store=store) as other:
        await other.cancel_run(run_id=RUN, reason="enough")
    result = await running

    assert (result.status, result.reason, action.count) == ("cancelled", "enough", 1)
    assert (await types(kernel))[-1] == "run.cancelled"


async def test_cancelling_a_run_wakes_a_model_step_that_waits_for_its_next_attempt(store: Store) -> None:
    """The same for the attempts that the kernel itself makes at a model."""
    from harness.errors import ModelUnavailable

    port = MockModelPort(error=ModelUnavailable("503", retry_after_seconds=30))
    async with Kernel(store=store, model_port=port) as kernel:
        await kernel.start_run(tenant=TENANT, run_id=RUN)
        asked = asyncio.ensure_future(
            kernel.step_model(run_id=RUN, tenant=TENANT, model="m", input=ModelInput.from_prompt("x"))
        )
        await recorded(store, "step.retried")
        await kernel.cancel_run(run_id=RUN)
        async with asyncio.timeout(PATIENCE_SECONDS):
            with pytest.raises(RunNotActive, match="cancelled"):
                await asked

    assert port.calls == 1


# Timers


async def slept(clock: VirtualClock, running: asyncio.Task[Any], seconds: float) -> None:
    """Move the clock once somebody waits for it."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not clock._sleepers and not running.done():
            await asyncio.sleep(0.001)
    clock.advance(seconds)


@pytest.mark.parametrize(
    "until",
    [90, 90.0, timedelta(seconds=90), "aware"],
)
async def test_a_sleep_lasts_until_its_time(kernel: Kernel, clock: VirtualClock, until: Any) -> None:
    """Seconds, a timedelta and an aware datetime are times; the time is recorded before the wait."""
    if until == "aware":
        until = datetime.fromtimestamp(clock.now_us() / 1e6 + 90, UTC)

    async def workflow(ctx: WorkflowContext) -> str:
        await ctx.sleep(until)
        return "awake"

    running = asyncio.ensure_future(run(kernel, workflow))
    await slept(clock, running, 89)
    await asyncio.sleep(0.05)
    assert not running.done()
    assert (await types(kernel))[-1] == "step.started"
    await slept(clock, running, 1)

    assert (await running).output == "awake"
    assert (await types(kernel))[1:3] == ["step.started", "step.completed"]


async def test_a_timer_survives_a_restart(store: Store, clock: VirtualClock) -> None:
    """The time that was meant first stands, however late and however often the workflow is run again."""

    async def workflow(ctx: WorkflowContext) -> str:
        await ctx.sleep(3600)
        return "awake"

    async with Kernel(store=store) as first:
        result = await run(first, workflow, longest_sleep_seconds=60)
        due = result.due_us
        assert (result.status, due) == ("sleeping", clock.now_us() + 3_600_000_000)
    clock.advance(1800)
    async with Kernel(store=store) as second:
        assert (await run(second, workflow, longest_sleep_seconds=60)).due_us == due
        assert [timer.due_us for timer in await second.list_timers()] == [due]
        now = datetime.fromtimestamp(clock.now_us() / 1e6, UTC)
        assert await second.list_timers(due_before=now) == ()
        clock.advance(7200)  # jumps far past it
        assert len(await second.list_timers(due_before=now + timedelta(hours=3))) == 1

        assert (await run(second, workflow, longest_sleep_seconds=60)).output == "awake"
        assert await second.list_timers() == ()


async def test_what_is_past_is_due_at_once(kernel: Kernel) -> None:
    """A time in the past, zero and a negative wait are recorded with one event and no wait."""

    async def workflow(ctx: WorkflowContext) -> None:
        await ctx.sleep(datetime(2001, 1, 1, tzinfo=UTC))
        await ctx.sleep(0)
        await ctx.sleep(timedelta(seconds=-5))

    assert (await run(kernel, workflow)).completed
    assert await types(kernel) == ["run.started", *["step.completed"] * 3, "run.completed"]


@pytest.mark.parametrize(
    "until",
    [
        datetime(2030, 1, 1, tzinfo=UTC).replace(tzinfo=None),
        float("nan"),
        float("inf"),
        1e12,
        True,
        None,
        "tomorrow",
        timedelta.max,
    ],
)
async def test_what_is_no_time_is_refused(kernel: Kernel, until: Any) -> None:
    """A naive datetime, NaN and the like are refused in one line, and nothing is recorded of them."""

    async def workflow(ctx: WorkflowContext) -> None:
        await ctx.sleep(until)

    with pytest.raises(UsageError) as caught:
        await run(kernel, workflow)

    assert "\n" not in str(caught.value)
    assert await types(kernel) == ["run.started"]


async def test_a_sleep_outside_of_workflows_is_a_step_too(kernel: Kernel, clock: VirtualClock, store: Store) -> None:
    """Any program can wait durably in its run, and is woken by a pause."""
    await kernel.start_run(tenant=TENANT, run_id=RUN)
    waiting = asyncio.ensure_future(kernel.sleep(run_id=RUN, tenant=TENANT, until=60, step_key="nap"))
    await slept(clock, waiting, 60)
    await waiting
    await kernel.sleep(run_id=RUN, tenant=TENANT, until=60, step_key="nap")  # is recorded
    longer = asyncio.ensure_future(kernel.sleep(run_id=RUN, tenant=TENANT, until=60))
    await recorded(store, "step.started", nth=2)
    await kernel.pause(run_id=RUN, reason="stop")

    async with asyncio.timeout(PATIENCE_SECONDS):
        with pytest.raises(RunNotActive, match="paused"):
            await longer
    for odd in ({"tenant": "t"}, {"run_id": 5}, {"step_key": 5}):
        with pytest.raises(UsageError):
            await kernel.sleep(**{"run_id": RUN, "tenant": TENANT, "until": 1, **odd})
    with pytest.raises(NotFound, match="ghost"):
        await kernel.sleep(run_id="ghost", tenant=TENANT, until=1)
    with pytest.raises(PolicyDenied):
        await kernel.sleep(run_id=RUN, tenant=TenantContext(tenant_id="other"), until=1)


# Pauses


async def test_a_pause_happens_once_and_gives_what_the_human_said(kernel: Kernel, store: Store) -> None:
    """The run is paused, asking again gives the same pause, and after the resume the workflow goes on with the answer."""
    action = Calls("plan")

    async def workflow(ctx: WorkflowContext) -> Any:
        plan = await ctx.step(name="plan", action=action)
        return await ctx.pause("is it good?", context={"plan": plan})

    first, second = await run(kernel, workflow), await again(store, workflow)
    assert first.status == second.status == "paused"
    assert first.pause is not None
    assert (first.pause.run_id, first.pause.reason, first.pause.context) == (RUN, "is it good?", {"plan": "plan"})
    await kernel.resume(run_id=RUN, human_input={"good": True})
    third = await again(store, workflow)
    before = await types(kernel)

    assert (third.status, third.output) == ("completed", {"good": True})
    assert (await again(store, workflow)).output == {"good": True}
    assert await types(kernel) == before
    assert (before.count("run.paused"), action.count) == (1, 1)


async def test_two_pauses_are_answered_one_after_the_other(kernel: Kernel) -> None:
    """Gathered pauses do not get each other's answers."""

    async def workflow(ctx: WorkflowContext) -> Any:
        return await asyncio.gather(ctx.pause("first?"), ctx.pause("second?"))

    answers: list[str] = []
    while (result := await run(kernel, workflow)).status == "paused":
        assert result.pause is not None
        answers.append(result.pause.reason)
        await kernel.resume(run_id=RUN, human_input=f"{result.pause.reason} yes")

    assert answers == ["first?", "second?"]
    assert result.output == ["first? yes", "second? yes"]


async def test_a_step_beside_a_pause_ends_and_is_recorded(kernel: Kernel) -> None:
    """What is being executed when the run is paused is not lost, and the function sees no error."""
    gate = asyncio.Event()
    seen: list[str] = []

    async def slow() -> str:
        await gate.wait()
        return "ended"

    async def workflow(ctx: WorkflowContext) -> Any:
        try:
            return await asyncio.gather(ctx.step(name="slow", action=slow), ctx.pause("well?"))
        except Exception as error:
            seen.append(repr(error))
            raise

    running = asyncio.ensure_future(run(kernel, workflow))
    await recorded(kernel.store, "run.paused")  # type: ignore[arg-type]
    done, _ = await asyncio.wait({running}, timeout=0.1)
    assert not done
    gate.set()
    assert (await running).status == "paused"
    assert (await kernel.get_steps(run_id=RUN))[0].result == "ended"
    await kernel.resume(run_id=RUN, human_input="fine")

    assert (await run(kernel, workflow)).output == ["ended", "fine"]
    assert seen == []


async def test_a_pause_from_outside_stops_before_the_next_step(kernel: Kernel, store: Store) -> None:
    """Another process pauses, blocks or cancels the run; the workflow goes no further and says so."""
    steps = Calls("a")

    async def workflow(ctx: WorkflowContext) -> str:
        await ctx.step(name="a", action=steps)
        async with Kernel(store=store) as other:
            if (await other.get_run_status(run_id=RUN)).last_seq == 2:
                await other.block_run(run_id=RUN, reason="no quota")
        await ctx.step(name="b", action=steps)
        return "over"

    blocked = await run(kernel, workflow)
    assert (blocked.status, blocked.reason, steps.count) == ("blocked", "no quota", 1)
    await kernel.unblock_run(run_id=RUN)

    assert (await run(kernel, workflow)).output == "over"
    assert steps.count == 2


async def test_a_pause_that_is_blocked_meanwhile_ends_without_an_answer(kernel: Kernel) -> None:
    """Who unblocks a run that was paused has answered nothing."""

    async def workflow(ctx: WorkflowContext) -> Any:
        return await ctx.pause("well?")

    await run(kernel, workflow)
    await kernel.block_run(run_id=RUN)
    await kernel.unblock_run(run_id=RUN)

    result = await run(kernel, workflow)
    assert (result.status, result.output) == ("completed", None)


async def test_a_workflow_that_swallows_its_cancellation_still_stops(kernel: Kernel) -> None:
    """A function that catches everything cannot go on with a paused run."""

    async def workflow(ctx: WorkflowContext) -> str:
        for _ in range(2):
            try:
                await ctx.pause("well?")
            except BaseException:  # noqa: BLE001 - on purpose
                continue
        return "went on"

    assert (await run(kernel, workflow)).status == "paused"


async def test_of_many_pauses_and_resumes_by_several_kernels_each_has_one_answer(store: Store) -> None:
    """Whoever is late is told so; the history alternates."""
    async with Kernel(store=store) as kernel:
        await kernel.start_run(tenant=TENANT, run_id=RUN)

    async def change(name: str) -> None:
        async with Kernel(store=store) as other:
            for _ in range(10):
                try:
                    await getattr(other, name)(run_id=RUN)
                except (RunNotActive, Conflict):
                    await asyncio.sleep(0)

    await asyncio.gather(*(change(name) for name in ("pause", "resume", "pause", "resume")))

    changes = [event.type for event in await store.read(f"run/{RUN}") if event.key == "status"][1:]
    assert changes == ["run.paused", "run.resumed"] * (len(changes) // 2) + ["run.paused"] * (len(changes) % 2)


# Children


async def test_a_child_runs_in_a_run_of_its_own(kernel: Kernel, store: Store) -> None:
    """Its result is a step of the parent, its run is linked, and a replay does not run it again."""
    action = Calls(7)

    async def inner(ctx: WorkflowContext) -> int:
        return await ctx.step(name="work", action=action)

    async def workflow(ctx: WorkflowContext) -> Any:
        with ctx.scope("part"):
            return [await ctx.child(name="kid", workflow=inner), await ctx.child(name="kid", workflow=inner)]

    assert (await run(kernel, workflow)).output == [7, 7]
    assert (await again(store, workflow)).output == [7, 7]
    assert action.count == 2
    children = (await kernel.explain_run(RUN)).children
    assert {(child.run_id, child.status) for child in children} == {
        (f"{RUN}::part/kid", "completed"),
        (f"{RUN}::part/kid::2", "completed"),
    }
    assert [event.key for event in await store.read(f"run/{RUN}::part/kid")] == ["status", "work#1", "status"]


async def test_a_childs_failure_is_the_parents_to_handle(kernel: Kernel, store: Store) -> None:
    """It is a recorded failure of the parent's step; the child's run has failed."""

    async def inner(_: WorkflowContext) -> None:
        raise ValueError("too small")

    async def workflow(ctx: WorkflowContext) -> str:
        try:
            return await ctx.child(name="kid", workflow=inner)
        except StepFailed as error:
            return str(error)

    first, second = await run(kernel, workflow), await again(store, workflow)

    assert first.output == second.output
    assert "the child run 'run-1::kid' failed: ValueError: too small" in first.output
    assert (await kernel.get_run_status(run_id=f"{RUN}::kid")).status == "failed"


async def test_a_paused_child_lets_its_parent_wait(kernel: Kernel) -> None:
    """The result names the run to resume; asking again writes nothing."""

    async def inner(ctx: WorkflowContext) -> Any:
        return await ctx.pause("go?")

    async def workflow(ctx: WorkflowContext) -> Any:
        return await ctx.child(name="kid", workflow=inner)

    result = await run(kernel, workflow)
    before = await types(kernel)
    assert (await run(kernel, workflow)).pause == result.pause
    assert await types(kernel) == before
    assert result.status == "paused"
    assert result.pause is not None
    await kernel.resume(run_id=result.pause.run_id, human_input="go")

    assert (await run(kernel, workflow)).output == "go"


async def test_cancelling_a_parent_cancels_a_child_at_work(kernel: Kernel, store: Store) -> None:
    """A child that waits for its parent's sake does not outlive it."""

    async def inner(ctx: WorkflowContext) -> None:
        await ctx.sleep(86_400)

    async def workflow(ctx: WorkflowContext) -> None:
        await ctx.child(name="kid", workflow=inner)

    running = asyncio.ensure_future(run(kernel, workflow))
    await recorded(store, "step.started", f"{RUN}::kid")
    await kernel.cancel_run(run_id=RUN)

    assert (await running).status == "cancelled"
    assert (await kernel.get_run_status(run_id=f"{RUN}::kid")).status == "cancelled"


async def test_personal_data_stays_out_of_the_ledger(store: Store) -> None:
    """Results, failures and reasons of a workflow are scrubbed like those of tools, also on the first pass."""
    from harness.middleware import PIIScrubberMiddleware

    action = Calls({"to": "ann@example.com"}, ValueError("no ann@example.com"))

    async def workflow(ctx: WorkflowContext) -> Any:
        sent = await ctx.step(name="send", action=action)
        try:
            await ctx.step(name="again", action=action, retry=RetryPolicy(max_attempts=2, base_seconds=0))
        except StepFailed:
            await ctx.pause("ask ann@example.com?", context={"who": "ann@example.com"})
        return sent

    async with Kernel(store=store, middleware=[PIIScrubberMiddleware()]) as kernel:
        await run(kernel, workflow)
        await kernel.resume(run_id=RUN, human_input="write to ann@example.com")
        result = await run(kernel, workflow)

    assert "ann@" not in str(result)
    assert all(b"ann@" not in (event.data or b"") for event in await store.read(f"run/{RUN}"))


# Who calls


async def test_two_calls_at_once_execute_each_step_once(kernel: Kernel, store: Store) -> None:
    """In one kernel one waits for the other, in two kernels they share the steps."""
    action = Calls("x")

    async def workflow(ctx: WorkflowContext) -> Any:
        return [await ctx.step(name="one", action=action), await ctx.step(name="one", action=action)]

    async with Kernel(store=store) as other:
        results = await asyncio.gather(run(kernel, workflow), run(kernel, workflow), run(other, workflow))

    assert [result.output for result in results] == [["x", "x"]] * 3
    assert action.count == 2


async def test_cancelling_the_call_leaves_the_run_to_be_gone_on_with(kernel: Kernel, store: Store) -> None:
    """A process that is told to stop has failed nobody: the step is interrupted, and the run is active."""

    async def never() -> None:
        await asyncio.Event().wait()

    async def workflow(ctx: WorkflowContext) -> Any:
        return await ctx.step(name="long", action=action)

    action: Callable[[], Awaitable[Any]] = never
    running = asyncio.ensure_future(run(kernel, workflow))
    await recorded(store, "step.started")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert (await kernel.get_run_status(run_id=RUN)).active
    action = Calls("done")

    assert (await again(store, workflow)).output == "done"
    assert (await types(kernel)).count("step.interrupted") == 1


async def test_a_run_without_an_id_gets_one(kernel: Kernel) -> None:
    """And the result names it."""

    async def workflow(ctx: WorkflowContext) -> str:
        return ctx.run_id

    result = await kernel.run_workflow(tenant=TENANT, workflow=workflow)

    assert result.output == result.run_id
    assert (await kernel.get_run_status(run_id=result.run_id)).status == "completed"


async def workflow_of_nothing(_: WorkflowContext) -> None:
    """Does nothing."""


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"workflow": None}, "a workflow is an async function"),
        ({"workflow": lambda ctx: 1}, "a workflow is an async function"),
        ({"steps": "abc"}, "steps are different names"),
        ({"steps": ["a", "a"]}, "steps are different names"),
        ({"steps": [1]}, "steps are different names"),
        ({"steps": None}, "steps are different names"),
        ({"tenant": "t"}, "tenant is a TenantContext"),
        ({"run_id": 5}, "run_id"),
        ({"longest_sleep_seconds": float("nan")}, "longest_sleep_seconds"),
        ({"longest_sleep_seconds": -1}, "longest_sleep_seconds"),
        ({"run_id": "a b"}, "a run's id"),
    ],
)
async def test_a_call_that_makes_no_sense_is_refused(kernel: Kernel, given: dict[str, Any], told: str) -> None:
    """In one line, and nothing is begun."""
    options = {"run_id": RUN, "tenant": TENANT, "workflow": workflow_of_nothing, **given}

    with pytest.raises(UsageError, match=told):
        await kernel.run_workflow(**options)

    assert await kernel.list_active_runs() == ()


async def test_a_call_already_made_is_refused(kernel: Kernel) -> None:
    """A coroutine instead of a function is a usual slip."""
    with pytest.raises(UsageError, match="give the function itself"):
        await kernel.run_workflow(run_id=RUN, tenant=TENANT, workflow=workflow_of_nothing(None))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"action": 5}, "is a function without arguments, not int"),
        ({"name": ""}, "a step's name"),
        ({"name": 7}, "a step's name"),
        ({"retry": 3}, "is a RetryPolicy, not int"),
        ({"timeout": 0}, "the timeout of step"),
        ({"inputs": object()}, "the inputs of step"),
        ({"serializer": object(), "result_type": int}, "not both"),
    ],
)
async def test_a_step_that_makes_no_sense_is_refused(kernel: Kernel, given: dict[str, Any], told: str) -> None:
    """In one line that names the step, and the run stays active."""

    async def workflow(ctx: WorkflowContext) -> None:
        await ctx.step(**{"name": "s", "action": lambda: 1, **given})

    with pytest.raises(UsageError, match=told):
        await run(kernel, workflow)

    assert (await kernel.get_run_status(run_id=RUN)).active


@pytest.mark.parametrize(
    "given",
    [{"max_attempts": 0}, {"max_attempts": 1.5}, {"base_seconds": -1}, {"factor": float("nan")}, {"max_seconds": "1"},
     {"non_retryable": ValueError}],
)  # fmt: skip
def test_a_policy_that_makes_no_sense_is_refused(given: dict[str, Any]) -> None:
    """When it is made, not when it is needed."""
    with pytest.raises(UsageError):
        RetryPolicy(**given)


async def test_only_its_tenant_runs_a_workflow(kernel: Kernel) -> None:
    """Another tenant is refused."""
    await run(kernel, workflow_of_nothing)

    with pytest.raises(PolicyDenied):
        await kernel.run_workflow(run_id=RUN, tenant=TenantContext(tenant_id="other"), workflow=workflow_of_nothing)


async def test_a_workflow_inside_itself_is_refused(kernel: Kernel) -> None:
    """It would wait for itself for ever; so would a pause or a sleep inside of an action."""

    async def workflow(ctx: WorkflowContext) -> None:
        await kernel.run_workflow(run_id=ctx.run_id, tenant=TENANT, workflow=workflow_of_nothing)

    async def pausing(ctx: WorkflowContext) -> None:
        async def action() -> None:
            await ctx.pause("?")

        await ctx.step(name="s", action=action)

    async def plain(ctx: WorkflowContext) -> None:
        await ctx.child(name="kid", workflow=lambda _: 3)  # type: ignore[arg-type, return-value]

    with pytest.raises(UsageError, match="a workflow is an async function"):
        await run(kernel, plain)
    with pytest.raises(UsageError, match="cannot run itself"):
        await run(kernel, workflow)
    with pytest.raises(UsageError, match="cannot pause inside of an action"):
        await run(kernel, pausing)


async def test_a_fork_in_the_middle_of_a_pause_asks_its_own_question(kernel: Kernel, clock: VirtualClock) -> None:
    """What was recorded before the fork is not done again; each run waits for its own answer."""
    action = Calls("a")

    async def workflow(ctx: WorkflowContext) -> Any:
        return [await ctx.step(name="a", action=action), await ctx.pause("well?"), await ctx.sleep(10)]

    await run(kernel, workflow)
    await kernel.fork_run(run_id=RUN, at_seq=(await kernel.get_run_status(run_id=RUN)).last_seq, new_run_id="fork")
    assert (await run(kernel, workflow, "fork")).status == "paused"
    outputs: list[Any] = []
    for run_id in (RUN, "fork"):
        await kernel.resume(run_id=run_id, human_input=run_id)
        await run(kernel, workflow, run_id, longest_sleep_seconds=0)
    clock.advance(10)
    for run_id in (RUN, "fork"):
        outputs.append((await run(kernel, workflow, run_id)).output)

    assert outputs == [["a", RUN, None], ["a", "fork", None]]
    assert action.count == 1
