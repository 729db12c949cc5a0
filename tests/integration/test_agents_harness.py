"""Harnesses on a real kernel and ledger: stages, sessions, keys, artifacts, and what a session's end means."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from harness import (
    BaseHarness,
    HarnessContext,
    Kernel,
    LeaseHeld,
    MemoryStore,
    ModelUnavailable,
    OutcomeUnknown,
    ReplayConsistencyError,
    RunNotActive,
    SQLiteStore,
    StepFailed,
    TenantContext,
    UsageError,
)
from harness.kernel import KernelPolicy, ModelRequest, ModelResult, ToolExecutionContext
from harness.ledger import Store

TENANT = TenantContext(tenant_id="t")
RUN = "night-1"


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    store = MemoryStore() if request.param == "memory" else SQLiteStore(tmp_path / "h.db", durability="process")
    yield store
    await store.close()


class Port:
    """Answers with a number that grows with each call, so that no answer is mistaken for another one."""

    def __init__(self) -> None:
        self.calls = 0
        self.away = False

    async def complete(self, request: ModelRequest) -> ModelResult:
        if self.away:
            raise ModelUnavailable("the provider is away")
        self.calls += 1
        return ModelResult(text=f"{request.prompt} {self.calls}")


@pytest.fixture
def port() -> Port:
    return Port()


@pytest.fixture
async def kernel(store: Store, port: Port) -> AsyncIterator[Kernel]:
    policy = KernelPolicy(model_attempts=1, lease_wait_seconds=0.1)
    async with Kernel(store=store, model_port=port, policy=policy) as kernel:
        yield kernel


def harness_of(step: Callable[..., Any], **more: Any) -> type[BaseHarness[Any]]:
    """A harness whose `step(self, context)` is this function."""

    async def run_step(self: BaseHarness[Any], *, context: HarnessContext) -> Any:
        return await step(self, context)

    return type("Own", (BaseHarness,), {"step": run_step, **more})


async def types(kernel: Kernel, run_id: str = RUN) -> list[str]:
    return [event.type for event in await kernel.get_events(run_id=run_id)]


async def test_run_takes_the_id_by_position_or_by_name_and_returns_what_step_returns(kernel: Kernel) -> None:
    """Both forms are documented."""

    async def step(self: Any, context: HarnessContext) -> Any:
        return context.run_id, context.tenant, context.model, context.run_created

    harness = harness_of(step)(kernel, TENANT, default_model="m")

    assert await harness.run(RUN) == (RUN, TENANT, "m", True)
    assert await harness.run(run_id=RUN, model="other") == (RUN, TENANT, "other", False)


async def test_the_stages_come_in_their_order(kernel: Kernel) -> None:
    """Initialize once for a run; wake, work and sleep in each session."""
    said: list[Any] = []

    class Staged(BaseHarness[str]):
        async def on_initialize(self, *, context: HarnessContext) -> None:
            said.append("initialize")

        async def on_wake(self, *, context: HarnessContext, reorientation: Any) -> None:
            said.append(("wake", reorientation["session"], reorientation["last_outcome"]))

        async def step(self, *, context: HarnessContext) -> str:
            said.append("work")
            return "done"

        async def on_sleep(self, *, context: HarnessContext, execution_error: Exception | None) -> None:
            said.append(("sleep", execution_error))

    harness = Staged(kernel=kernel, tenant=TENANT)
    for _ in range(2):
        assert await harness.run(RUN) == "done"

    first = ["initialize", ("wake", 1, None), "work", ("sleep", None)]
    assert said == [*first, ("wake", 2, "completed"), "work", ("sleep", None)]


async def test_a_session_asks_anew_and_a_named_step_keeps_its_answer(kernel: Kernel, port: Port) -> None:
    """An automatic key belongs to the session, a given one to the run."""

    async def step(self: Any, context: HarnessContext) -> list[str]:
        steps = [self.run_model(prompt="a"), self.run_model(prompt="b"), self.run_model(prompt="plan", step_key="plan")]
        return [answer.text for answer in await asyncio.gather(*steps)]

    harness = harness_of(step)(kernel, TENANT)

    assert await harness.run(RUN) == ["a 1", "b 2", "plan 3"]
    assert await harness.run(RUN) == ["a 4", "b 5", "plan 3"]


async def test_direct_steps_without_a_key_belong_to_the_session_too(kernel: Kernel) -> None:
    """Not only those of the harness's own methods."""

    @kernel.tool()
    async def clock() -> int:
        nonlocal ticks
        ticks += 1
        return ticks

    async def step(self: Any, context: HarnessContext) -> Any:
        return (await kernel.step_tool(run_id=RUN, tenant=TENANT, tool_name="clock")).result

    ticks = 0
    harness = harness_of(step)(kernel, TENANT)

    assert [await harness.run(RUN), await harness.run(RUN)] == [1, 2]


async def test_what_the_kernel_refused_is_gone_on_with(kernel: Kernel, port: Port) -> None:
    """The model was away: the next run repeats no finished step, and asks again what had failed."""
    sessions: list[tuple[int, bool]] = []

    async def step(self: Any, context: HarnessContext) -> list[str]:
        sessions.append((context.session, context.resumed))
        first = await self.run_model(prompt="a")
        port.away = not context.resumed
        return [first.text, (await self.run_model(prompt="b")).text]

    harness = harness_of(step)(kernel, TENANT)
    with pytest.raises(ModelUnavailable):
        await harness.run(RUN)
    result = await harness.run(RUN)

    assert result == ["a 1", "b 2"]
    assert sessions == [(1, False), (1, True)]


async def test_an_error_of_its_own_ends_the_session(kernel: Kernel) -> None:
    """The next one asks anew, since the same answers would only fail again."""

    async def step(self: Any, context: HarnessContext) -> str:
        answer = (await self.run_model(prompt="a")).text
        if answer == "a 1":
            raise ValueError("a bad answer")
        return answer

    harness = harness_of(step)(kernel, TENANT)
    with pytest.raises(ValueError, match="a bad answer"):
        await harness.run(RUN)

    assert await harness.run(RUN) == "a 2"
    assert [type_ for type_ in await types(kernel) if type_.startswith("session")] == ["session.started", "session.ended"] * 2


async def test_a_failed_tool_is_tried_again_with_the_same_idempotency_key(kernel: Kernel) -> None:
    """A side effect that failed for good in one pass is the same effect in the next."""
    keys: list[str] = []

    @kernel.tool(side_effect=True)
    async def pay(context: ToolExecutionContext) -> str:
        keys.append(context.idempotency_key)
        if len(keys) == 1:
            raise OSError("the bank is closed")
        return "paid"

    async def step(self: Any, context: HarnessContext) -> str:
        return (await self.run_tool(tool_name="pay", step_key="pay")).result

    harness = harness_of(step)(kernel, TENANT)
    with pytest.raises(StepFailed, match="the bank is closed"):
        await harness.run(RUN)

    assert [await harness.run(RUN), await harness.run(RUN)] == ["paid", "paid"]
    assert len(keys) == 2
    assert len(set(keys)) == 1


async def test_a_failure_that_step_handles_is_replayed_after_a_cancellation(kernel: Kernel) -> None:
    """Nothing failed in the end, so the same way is taken again."""
    calls = 0

    @kernel.tool()
    async def fragile() -> None:
        nonlocal calls
        calls += 1
        raise OSError("broken")

    async def step(self: Any, context: HarnessContext) -> str:
        with pytest.raises(StepFailed):
            await self.run_tool(tool_name="fragile")
        if not context.resumed:
            raise asyncio.CancelledError
        return "went round it"

    harness = harness_of(step)(kernel, TENANT)
    with pytest.raises(asyncio.CancelledError):
        await harness.run(RUN)

    assert await harness.run(RUN) == "went round it"
    assert calls == 1


async def test_a_direct_step_that_failed_does_not_wedge_the_run(kernel: Kernel, port: Port) -> None:
    """A recorded failure that is only raised again ends the session, and the next one asks anew."""
    from harness.kernel import ModelInput

    async def step(self: Any, context: HarnessContext) -> str:
        asked = ModelInput.from_prompt("a")
        return (await kernel.step_model(run_id=RUN, tenant=TENANT, model="m", input=asked)).text

    harness, port.away = harness_of(step)(kernel, TENANT), True
    with pytest.raises(ModelUnavailable):
        await harness.run(RUN)
    port.away = False
    with pytest.raises(ModelUnavailable):
        await harness.run(RUN)

    assert await harness.run(RUN) == "a 1"


async def test_a_changed_prompt_in_a_session_that_is_gone_on_with_is_told(kernel: Kernel) -> None:
    """By default; `allow_prompt_drift` gives the recorded answer, and `new_session` is the way out."""
    prompt = "one"

    async def step(self: Any, context: HarnessContext) -> str:
        answer = await self.run_model(prompt=prompt)
        if prompt == "one":
            raise asyncio.CancelledError
        return answer.text

    own = harness_of(step)
    with pytest.raises(asyncio.CancelledError):
        await own(kernel, TENANT).run(RUN)
    prompt = "two"
    with pytest.raises(ReplayConsistencyError, match="prompt"):
        await own(kernel, TENANT).run(RUN)

    assert await own(kernel, TENANT, replay_policy="allow_prompt_drift").run(RUN) == "one 1"
    prompt = "one"
    with pytest.raises(asyncio.CancelledError):
        await own(kernel, TENANT).run(RUN)
    prompt = "two"
    assert await own(kernel, TENANT).run(RUN, new_session=True) == "two 3"


async def test_artifacts_are_recorded_once_over_all_passes_of_a_session(kernel: Kernel) -> None:
    """A pass that goes on does not write versions that are there."""

    async def step(self: Any, context: HarnessContext) -> Any:
        for value in (1, 2):
            await self.set_artifact(key="plan", value=value)
        await self.write_summary("note", {"at": 2})
        if not context.resumed:
            raise asyncio.CancelledError
        return await self.get_artifact(key="plan"), await self.read_summary("note"), await self.list_artifacts()

    harness = harness_of(step)(kernel, TENANT)
    with pytest.raises(asyncio.CancelledError):
        await harness.run(RUN)

    assert await harness.run(RUN) == (2, {"at": 2}, ("plan",))
    assert [type_ for type_ in await types(kernel) if type_ in ("artifact.set", "summary.appended")] == [
        *("artifact.set", "artifact.set", "summary.appended")
    ]


async def test_outside_a_session_artifacts_are_those_of_the_last_run(kernel: Kernel) -> None:
    """Or of the one that is named."""

    async def step(self: Any, context: HarnessContext) -> None:
        await self.set_artifact(key="schema_version", value={"v": context.run_id})

    harness = harness_of(step)(kernel, TENANT)
    with pytest.raises(UsageError, match="worked on no run yet; say which one by run_id="):
        await harness.get_artifact(key="schema_version")
    await harness.run("one")
    await harness.run("two")

    assert await harness.get_artifact(key="schema_version") == {"v": "two"}
    assert await harness.get_artifact(key="schema_version", run_id="one") == {"v": "one"}
    assert await harness.get_artifact(key="nothing") is None
    await harness.set_artifact(key="schema_version", value={"v": 2})
    assert await harness.get_artifact(key="schema_version") == {"v": 2}


async def test_a_run_is_completed_when_nothing_is_left_and_reopened_when_there_is(kernel: Kernel) -> None:
    """An active run is one that somebody has yet to work on."""

    async def step(self: Any, context: HarnessContext) -> str:
        assert (await kernel.get_run_status(run_id=context.run_id)).active
        return (await self.run_model(prompt="a")).text

    harness = harness_of(step)(kernel, TENANT)
    for _ in range(2):
        await harness.run(RUN)
        assert (await kernel.get_run_status(run_id=RUN)).status == "completed"
    await harness.run("other", finish=False)

    assert [status.run_id for status in await kernel.list_active_runs()] == ["other"]


@pytest.mark.parametrize("change", ["pause", "block_run", "cancel_run"])
async def test_a_run_that_must_not_go_on_is_told_and_nothing_is_written(kernel: Kernel, change: str) -> None:
    """Before there is a session."""
    harness = harness_of(lambda self, context: asyncio.sleep(0, "done"))(kernel, TENANT)
    await kernel.start_run(tenant=TENANT, run_id=RUN)
    await getattr(kernel, change)(run_id=RUN, reason="maintenance")
    before = await types(kernel)

    with pytest.raises(RunNotActive, match="maintenance"):
        await harness.run(RUN)

    assert await types(kernel) == before


async def test_a_pause_in_a_session_is_gone_on_with(kernel: Kernel) -> None:
    """The session waits with its run."""

    async def step(self: Any, context: HarnessContext) -> str:
        answer = (await self.run_model(prompt="a")).text
        if not context.resumed:
            await kernel.pause(run_id=RUN, reason="may I?")
        return answer + (await self.run_model(prompt="b")).text

    harness = harness_of(step)(kernel, TENANT)
    with pytest.raises(RunNotActive, match="may I"):
        await harness.run(RUN)
    await kernel.resume(run_id=RUN)

    assert await harness.run(RUN) == "a 1b 2"


async def test_a_side_effect_without_a_known_end_is_not_slept_over(kernel: Kernel) -> None:
    """Though `step` looks away; once it is settled, the same session ends."""

    @kernel.tool(side_effect=True)
    async def pay() -> None:
        raise OutcomeUnknown("the line went dead")

    async def step(self: Any, context: HarnessContext) -> str:
        try:
            return str((await self.run_tool(tool_name="pay")).result)
        except OutcomeUnknown:
            return "whatever"

    harness = harness_of(step)(kernel, TENANT)
    with pytest.raises(OutcomeUnknown, match="cannot sleep: session-1/pay#1 has no known end"):
        await harness.run(RUN)
    await kernel.reconcile_tool(run_id=RUN, tenant=TENANT, tool_name="pay", outcome="completed", result="paid")

    assert await harness.run(RUN) == "paid"


async def test_a_step_that_is_still_under_way_is_not_slept_over(kernel: Kernel) -> None:
    """It would end in the next session, or never."""
    go_on = asyncio.Event()

    @kernel.tool()
    async def slow() -> None:
        await go_on.wait()

    background: list[asyncio.Task[Any]] = []

    async def step(self: Any, context: HarnessContext) -> None:
        background.append(asyncio.ensure_future(self.run_tool(tool_name="slow")))
        await asyncio.sleep(0.01)

    harness = harness_of(step)(kernel, TENANT)
    with pytest.raises(OutcomeUnknown, match="await what is under way"):
        await harness.run(RUN)
    go_on.set()
    await asyncio.gather(*background)


async def test_one_run_has_one_session_at_a_time(kernel: Kernel, store: Store) -> None:
    """Another kernel waits, and is told by whom it is kept if that takes too long."""
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def step(self: Any, context: HarnessContext) -> int:
        begun.set()
        await go_on.wait()
        return context.session

    other = Kernel(store=store, policy=KernelPolicy(lease_wait_seconds=0.05))
    first = asyncio.ensure_future(harness_of(step)(kernel, TENANT).run(RUN))
    await asyncio.wait_for(begun.wait(), 10)
    with pytest.raises(LeaseHeld, match=r"session/night-1.*is held by"):
        await harness_of(step)(other, TENANT).run(RUN)
    patient = Kernel(store=store)
    second = asyncio.ensure_future(harness_of(step)(patient, TENANT).run(RUN))
    await asyncio.sleep(0)
    go_on.set()

    assert await asyncio.wait_for(asyncio.gather(first, second), 20) == [1, 2]
    for each in (other, patient):
        await each.close()


async def test_a_session_cannot_be_begun_inside_itself(kernel: Kernel) -> None:
    """It would wait for itself."""

    async def step(self: Any, context: HarnessContext) -> None:
        await self.run(RUN)

    with pytest.raises(UsageError, match="in a session of this very task"):
        await harness_of(step)(kernel, TENANT).run(RUN)


async def test_one_object_works_on_several_runs_at_once(kernel: Kernel) -> None:
    """Each task has its own run, and its own steps."""

    async def step(self: Any, context: HarnessContext) -> str:
        await self.set_artifact(key="mine", value=context.run_id)
        answer = await self.run_model(prompt=context.run_id)
        assert await self.get_artifact(key="mine") == context.run_id
        return answer.run_id

    harness = harness_of(step)(kernel, TENANT)
    runs = [f"r{n}" for n in range(5)]

    assert await asyncio.gather(*(harness.run(run) for run in runs)) == runs


async def test_an_agent_works_in_the_run_of_the_session(kernel: Kernel, port: Port) -> None:
    """Two in one session do not meet, and the next session asks anew."""

    async def step(self: Any, context: HarnessContext) -> list[str]:
        return [(await self.run_autonomous_agent(prompt=prompt)).text for prompt in ("a", "b")]

    harness = harness_of(step)(kernel, TENANT)

    assert await harness.run(RUN) == ["a 1", "b 2"]
    assert await harness.run(RUN) == ["a 3", "b 4"]


async def test_an_error_while_sleeping_fails_the_session(kernel: Kernel) -> None:
    """And one after an error of the work is told with it."""

    class Restless(BaseHarness[None]):
        fails = False

        async def step(self, *, context: HarnessContext) -> None:
            if self.fails:
                raise ValueError("bad work")

        async def on_sleep(self, *, context: HarnessContext, execution_error: Exception | None) -> None:
            raise RuntimeError("bad dreams")

    harness = Restless(kernel, TENANT)
    with pytest.raises(RuntimeError, match="bad dreams"):
        await harness.run(RUN)
    harness.fails = True
    with pytest.raises(ValueError, match="bad work") as caught:
        await harness.run(RUN)

    assert caught.value.__notes__ == ["Restless.on_sleep raised as well: RuntimeError: bad dreams"]


@pytest.mark.parametrize("run_id", [None, 3, b"run", ["r"]])
async def test_a_run_id_that_is_no_text_is_refused(kernel: Kernel, run_id: Any) -> None:
    """With what was given."""
    with pytest.raises(UsageError, match="a run's id is a text, not"):
        await harness_of(lambda self, context: None)(kernel, TENANT).run(run_id)


@pytest.mark.parametrize("run_id", ["", "a b", "x" * 351, "nul\0"])
async def test_a_run_id_that_cannot_be_one_is_refused(kernel: Kernel, run_id: str) -> None:
    """As everywhere in the kernel."""
    with pytest.raises(UsageError, match="run"):
        await harness_of(lambda self, context: None)(kernel, TENANT).run(run_id)


async def test_what_is_missing_is_named(kernel: Kernel) -> None:
    """No tenant, no kernel, no step, no question."""
    with pytest.raises(UsageError, match="BaseHarness has no tenant"):
        await BaseHarness(kernel).run(RUN)
    with pytest.raises(UsageError, match="a tenant is a TenantContext, not str 't'"):
        BaseHarness(kernel, "t")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="needs a Kernel, not NoneType"):
        BaseHarness(None)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="BaseHarness does no work: override"):
        await BaseHarness(kernel, TENANT).run(RUN)
    with pytest.raises(UsageError, match="exactly one of prompt=, messages= and input="):
        await harness_of(lambda self, context: self.run_model())(kernel, TENANT).run(RUN)


async def test_a_run_of_another_tenant_is_refused(kernel: Kernel) -> None:
    """Before anything is written."""
    from harness import PolicyDenied

    harness = harness_of(lambda self, context: asyncio.sleep(0, 1))(kernel, TENANT)
    await harness.run(RUN)
    before = await types(kernel)

    with pytest.raises(PolicyDenied, match="belongs to tenant 't'"):
        await harness.run(RUN, tenant=TenantContext(tenant_id="other"))

    assert await types(kernel) == before
