"""Model and tool steps over both stores: recorded once, replayed without a call, refused with words."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from harness.clock import VirtualClock
from harness.errors import (
    BudgetExceeded,
    CapabilityDenied,
    KernelError,
    ModelMalformed,
    ModelUnavailable,
    NotFound,
    OutcomeUnknown,
    PolicyDenied,
    ReplayConsistencyError,
    RunExists,
    RunNotActive,
    StepFailed,
    StepRejected,
    ToolRejected,
    Unproven,
    UsageError,
)
from harness.kernel import (
    Kernel,
    KernelMiddleware,
    KernelPolicy,
    Message,
    MockModelPort,
    ModelCallOptions,
    ModelInput,
    ModelInvocation,
    ModelRequest,
    ModelResult,
    ScriptedModelPort,
    StepModelResult,
    TenantContext,
    ToolCall,
    ToolExecutionContext,
)
from harness.ledger import MemoryStore, SQLiteStore

Store = MemoryStore | SQLiteStore
TENANT = TenantContext(tenant_id="t", capabilities=frozenset({"pay"}))
RUN = "run-1"


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    made: Store = MemoryStore() if request.param == "memory" else SQLiteStore(tmp_path / "k.db")
    yield made
    await made.close()


class Echo:
    """Answers with the prompt, after a moment; counts."""

    def __init__(self, *, moment: float = 0) -> None:
        self.calls = 0
        self.moment = moment

    async def complete(self, request: ModelRequest) -> ModelResult:
        self.calls += 1
        await asyncio.sleep(self.moment)
        return ModelResult(output={"said": request.prompt}, model="echo")


class Said(BaseModel):
    said: str


def ask(kernel: Kernel, prompt: str, **more: Any) -> Any:
    return kernel.step_model(**{
        "run_id": RUN, "tenant": TENANT, "model": "m", "input": ModelInput.from_prompt(prompt), "output_schema": Said, **more,
    })  # fmt: skip


def use(kernel: Kernel, tool: str, arguments: object = None, **more: Any) -> Any:
    return kernel.step_tool(**{"run_id": RUN, "tenant": TENANT, "tool_name": tool, "arguments": arguments, **more})


async def types(kernel: Kernel) -> list[str]:
    return [event.event_type for event in await kernel.get_events(run_id=RUN)]


async def fresh(store: Store, kernel: Kernel, port: Any = None, prepare: Callable[[Kernel], None] | None = None) -> Kernel:
    """Another kernel on the same ledger, as after a restart."""
    await kernel.close()
    other = Kernel(store=store, model_port=port)
    if prepare:
        prepare(other)
    await other.load_run(run_id=RUN)
    return other


async def test_failure_1_gathered_steps_replay_to_their_own_answers(store: Store) -> None:
    """Two model steps gathered in one run keep their answers on replay, and neither is paid for again."""
    port = Echo(moment=0.001)
    kernel = Kernel(store=store, model_port=port)
    await kernel.start_run(tenant=TENANT, run_id=RUN)
    first = await asyncio.gather(ask(kernel, "a"), ask(kernel, "b"), ask(kernel, "c"))
    before = await types(kernel)

    kernel = await fresh(store, kernel, port)
    again = await asyncio.gather(ask(kernel, "a"), ask(kernel, "b"), ask(kernel, "c"))

    assert [result.output.said for result in again] == ["a", "b", "c"] == [result.output.said for result in first]
    assert [result.seq for result in again] == [result.seq for result in first]
    assert all(result.replayed for result in again)
    assert port.calls == 3
    assert await types(kernel) == before


async def test_identity_is_allotted_when_the_call_is_made(store: Store) -> None:
    """Awaiting calls in another order than they were made changes nothing."""
    kernel = Kernel(store=store, model_port=Echo())
    await kernel.start_run(tenant=TENANT, run_id=RUN)
    first, second = ask(kernel, "a"), ask(kernel, "b")

    later, sooner = await second, await first

    assert (sooner.step, later.step) == ("model#1", "model#2")


async def test_an_instant_step_is_one_event_and_a_waiting_one_is_announced(store: Store) -> None:
    """A call that ends at once carries its announcement; one that waits is known to have begun."""
    kernel = Kernel(store=store, model_port=MockModelPort(output={"said": "x"}))
    await kernel.start_run(tenant=TENANT, run_id=RUN)
    await ask(kernel, "a")
    slow = Kernel(store=store, model_port=Echo(moment=0.001))
    await kernel.close()
    await slow.load_run(run_id=RUN)

    await ask(slow, "b", step_key="slow")

    assert (await types(slow)) == ["run.started", "step.completed", "run.acquired", "step.started", "step.completed"]
    instant, waited = await slow.get_steps(run_id=RUN)
    assert [step.messages[0].text for step in (instant, waited)] == ["a", "b"]
    assert waited.ended_us is not None
    assert waited.ended_us > waited.started_us


async def test_a_typed_answer_is_typed_again_on_replay(store: Store) -> None:
    """The asked type comes back from the record, with text, usage and the rest."""
    kernel = Kernel(store=store, model_port=MockModelPort(output={"said": "x"}))
    await kernel.start_run(tenant=TENANT, run_id=RUN)

    first: StepModelResult = await ask(kernel, "a", step_key="k")
    again: StepModelResult = await ask(kernel, "a", step_key="k")

    assert first.output == again.output == Said(said="x")
    assert (first.text, first.usage, first.model) == (again.text, again.usage, again.model)
    assert (first.replayed, again.replayed) == (False, True)


async def test_a_call_for_tools_is_recorded_and_replayed(store: Store) -> None:
    """An answer that asks for tools comes back with its calls."""
    call = ToolCall(id="c1", name="add", arguments_json='{"a": 1}')
    kernel = Kernel(store=store, model_port=ScriptedModelPort([call]))
    await kernel.start_run(tenant=TENANT, run_id=RUN)
    first = await ask(kernel, "a", step_key="k")

    again = await ask(kernel, "a", step_key="k")

    assert first.tool_calls == again.tool_calls == (call,)
    assert again.message() == Message.assistant(tool_calls=[call])


@pytest.mark.parametrize(
    ("changed", "field", "shown"),
    [
        ({"input": ModelInput.from_prompt("Say hello to Bob")}, "prompt", "at character"),
        ({"model": "n"}, "model", "recorded 'm', now 'n'"),
        ({"model_options": ModelCallOptions(temperature=1)}, "options.temperature", "recorded None, now 1"),
        ({"output_schema": None}, "output_schema", "now ''"),
        ({"visible_tool_names": ("add",)}, "visible_tool_names", "now ('add',)"),
    ],
)
async def test_other_inputs_under_a_recorded_step_are_refused(
    store: Store, changed: dict[str, Any], field: str, shown: str
) -> None:
    """Strict replay names the field that differs and shows the nearest difference; nothing is written or called."""
    port = Echo()
    kernel = Kernel(store=store, model_port=port)
    await kernel.start_run(tenant=TENANT, run_id=RUN)
    await ask(kernel, "Say hello to Ann", step_key="k")
    before = await types(kernel)

    with pytest.raises(ReplayConsistencyError) as caught:
        await ask(kernel, "Say hello to Ann", step_key="k", **changed)

    assert caught.value.fields == (field,)
    assert shown in caught.value.difference
    assert port.calls == 1
    assert await types(kernel) == before


async def test_a_key_belongs_to_one_kind_of_step(store: Store) -> None:
    """A tool step under a model step's key is refused, and the other way round."""
    kernel = Kernel(store=store, model_port=Echo())
    _register(kernel)
    await kernel.start_run(tenant=TENANT, run_id=RUN)
    await ask(kernel, "a", step_key="k")
    await use(kernel, "add", {"a": 1}, step_key="t")

    with pytest.raises(ReplayConsistencyError, match="recorded as a model step"):
        await use(kernel, "add", {"a": 1}, step_key="k")
    with pytest.raises(ReplayConsistencyError, match="recorded as a tool step"):
        await ask(kernel, "a", step_key="t")


async def test_tools_are_inputs_one_by_one(store: Store) -> None:
    """An added tool breaks no older step; a tool whose signature changed does."""

    def one(kernel: Kernel) -> None:
        @kernel.tool()
        def look(what: str) -> str:
            return what

    def added(kernel: Kernel) -> None:
        one(kernel)

        @kernel.tool()
        def another() -> None: ...

    def changed(kernel: Kernel) -> None:
        @kernel.tool()
        def look(what: int) -> int:
            return what

    kernel = Kernel(store=store, model_port=Echo())
    one(kernel)
    await kernel.start_run(tenant=TENANT, run_id=RUN)
    await ask(kernel, "a")

    kernel = await fresh(store, kernel, prepare=added)
    assert (await ask(kernel, "a")).replayed
    kernel = await fresh(store, kernel, prepare=changed)
    with pytest.raises(ReplayConsistencyError) as caught:
        await ask(kernel, "a")
    assert caught.value.fields == ("tools.look",)


async def test_a_changed_prompt_may_be_allowed(store: Store) -> None:
    """With allow_prompt_drift the recorded answer stands, and each distinct drift is one event."""
    port = Echo()
    kernel = Kernel(store=store, model_port=port)
    await kernel.start_run(tenant=TENANT, run_id=RUN)
    await ask(kernel, "a", step_key="k")

    for prompt in ("b", "b", "c"):
        drifted = await ask(kernel, prompt, step_key="k", replay_policy="allow_prompt_drift")
        assert (drifted.output.said, drifted.replayed_with_drift, drifted.drift_fields) == ("a", True, ("prompt",))
    with pytest.raises(ReplayConsistencyError):
        await ask(kernel, "b", step_key="k", model="n", replay_policy="allow_prompt_drift")
    kernel = await fresh(store, kernel, port)
    await ask(kernel, "c", step_key="k", replay_policy="allow_prompt_drift")

    assert port.calls == 1
    assert (await types(kernel)).count("step.drifted") == 2


async def test_a_policy_that_is_not_there_is_refused_clearly(store: Store) -> None:
    """An unknown replay policy is the caller's mistake, told before anything happens."""
    kernel = Kernel(store=store, model_port=Echo())
    await kernel.start_run(tenant=TENANT, run_id=RUN)

    with pytest.raises(UsageError, match="is one of"):
        await ask(kernel, "a", replay_policy="loose")


async def test_a_failed_model_step_stays_failed_unless_asked_again(store: Store) -> None:
    """A recorded failure is raised again without a call; `retry_failed_step` makes another attempt, which then stands."""
    port = ScriptedModelPort([ModelMalformed("nonsense"), '{"said": "sorry"}'])
    kernel = Kernel(store=store, model_port=port)
    await kernel.start_run(tenant=TENANT, run_id=RUN)

    with pytest.raises(ModelMalformed, match="nonsense"):
        await ask(kernel, "a", step_key="k")
    with pytest.raises(ModelMalformed, match="nonsense") as caught:
        await ask(kernel, "a", step_key="k")
    assert caught.value.replayed
    assert len(port.requests) == 1
    again = await ask(kernel, "a", step_key="k", retry_failed_step=True)

    assert (again.output.said, again.attempt) == ("sorry", 2)
    assert (await ask(kernel, "a", step_key="k")).output.said == "sorry"


async def test_an_answer_of_the_wrong_shape_is_a_recorded_failure(store: Store) -> None:
    """What does not fit the schema is malformed, and stays so."""
    kernel = Kernel(store=store, model_port=MockModelPort(output={"done": 1}))
    await kernel.start_run(tenant=TENANT, run_id=RUN)

    for _ in range(2):
        with pytest.raises(ModelMalformed, match="said: Field required"):
            await ask(kernel, "a", step_key="k")

    assert (await types(kernel)) == ["run.started", "step.failed"]


async def test_a_defect_of_the_port_is_a_recorded_failure(store: Store) -> None:
    """An exception that is no ModelError ends the step as failed, with its cause attached."""
    kernel = Kernel(store=store, model_port=MockModelPort(error=RuntimeError("boom")))
    await kernel.start_run(tenant=TENANT, run_id=RUN)

    with pytest.raises(StepFailed, match="RuntimeError: boom") as caught:
        await ask(kernel, "a", step_key="k")

    assert isinstance(caught.value.__cause__, RuntimeError)
    with pytest.raises(StepFailed, match="RuntimeError: boom"):
        await ask(kernel, "a", step_key="k")


async def test_a_failure_that_may_pass_is_tried_again_on_the_record() -> None:
    """Each attempt is an event, the waits double, and the last failure is the step's."""
    clock = VirtualClock()
    store = MemoryStore(clock=clock)
    port = ScriptedModelPort([ModelUnavailable("503"), ModelUnavailable("504", retry_after_seconds=7), '{"said": "ok"}'])
    kernel = Kernel(store=store, model_port=port)
    await kernel.start_run(tenant=TENANT, run_id=RUN)
    step = asyncio.ensure_future(ask(kernel, "a"))
    begun = clock.now_us()
    waits: list[float] = []
    while not step.done():
        await asyncio.sleep(0)
        if len(port.requests) > len(waits) and not step.done():
            for _ in range(20):
                await asyncio.sleep(0)
            clock.advance(0.5 if not waits else 7)
            waits.append((clock.now_us() - begun) / 1e6)

    assert (await step).attempt == 3
    retried = [event for event in await kernel.get_events(run_id=RUN) if event.type == "step.retried"]
    assert [event.payload["next_at_us"] - begun for event in retried] == [500_000, 7_500_000]


async def test_the_time_of_the_next_attempt_survives_a_restart() -> None:
    """After a restart the step waits for the time that was recorded, and counts its attempts on."""
    clock = VirtualClock()
    store = MemoryStore(clock=clock)
    policy = KernelPolicy(retry_base_seconds=100, retry_max_seconds=100)
    kernel = Kernel(store=store, model_port=MockModelPort(error=ModelUnavailable("503")), policy=policy)
    await kernel.start_run(tenant=TENANT, run_id=RUN)
    step = asyncio.ensure_future(ask(kernel, "a"))
    while "step.retried" not in await types(kernel):
        await asyncio.sleep(0)
    step.cancel()
    with pytest.raises(asyncio.CancelledError):
        await step

    kernel = await fresh(store, kernel, Echo())
    step = asyncio.ensure_future(ask(kernel, "a"))
    for _ in range(50):
        await asyncio.sleep(0)
    assert not step.done()
    clock.advance(100)

    assert (await step).attempt == 2


async def test_a_model_that_hangs_is_unavailable(store: Store) -> None:
    """The call ends within its timeout even if the port does not."""
    kernel = Kernel(store=store, model_port=Echo(moment=60), policy=KernelPolicy(model_attempts=1))
    await kernel.start_run(tenant=TENANT, run_id=RUN)

    with pytest.raises(ModelUnavailable, match=r"no answer within 0\.01 s"):
        await ask(kernel, "a", model_options=ModelCallOptions(timeout=0.01))


def _register(kernel: Kernel) -> list[Any]:
    """A pure tool, one that needs a capability, one that fails; gives the calls that were really made."""
    made: list[Any] = []

    @kernel.tool()
    def add(a: int, b: int = 1) -> int:
        """Add."""
        made.append(("add", a, b))
        return a + b

    @kernel.tool(requires_capability="pay", side_effect=True)
    async def pay(amount: int, context: ToolExecutionContext) -> dict[str, Any]:
        """Pay."""
        made.append(("pay", amount, context.idempotency_key, context.attempt))
        return {"paid": amount}

    @kernel.tool()
    async def fails() -> None:
        """Fail."""
        made.append(("fails",))
        raise ValueError("no luck")

    return made


async def test_a_tool_step_runs_once(store: Store) -> None:
    """A recorded result is given back, also by another kernel, with or without a key."""
    kernel = Kernel(store=store)
    made = _register(kernel)
    await kernel.start_run(tenant=TENANT, run_id=RUN)
    first = (
        await use(kernel, "add", {"a": 1}, step_key="k"),
        await use(kernel, "add", {"a": 2}),
        await use(kernel, "pay", {"amount": 3}),
    )
    before = await types(kernel)

    kernel = await fresh(store, kernel, prepare=lambda k: made.extend(_register(k)))
    again = (
        await use(kernel, "add", {"a": 1}, step_key="k"),
        await use(kernel, "add", {"a": 2}),
        await use(kernel, "pay", {"amount": 3}),
    )

    assert [result.result_json for result in again] == ["2", "3", '{"paid":3}'] == [result.result_json for result in first]
    assert [result.replayed for result in again] == [True, True, True]
    assert len(made) == 3
    assert await types(kernel) == before


async def test_a_side_effect_has_a_durable_intent_and_a_stable_key(store: Store) -> None:
    """The intent is on the ledger before the tool runs, with the key that the tool gets."""
    kernel = Kernel(store=store)
    seen: list[Any] = []

    @kernel.tool(side_effect=True)
    async def send(context: ToolExecutionContext) -> None:
        newest = (await store.read(f"run/{RUN}"))[-1]
        seen.append((newest.type, newest.payload["idempotency_key"] == context.idempotency_key))

    await kernel.start_run(tenant=TENANT, run_id=RUN)
    await use(kernel, "send")

    assert seen == [("step.started", True)]


async def test_a_failing_tool_is_recorded_and_replayed_as_failing(store: Store) -> None:
    """What a tool raises becomes StepFailed with the cause, the first time and on replay."""
    kernel = Kernel(store=store)
    made = _register(kernel)
    await kernel.start_run(tenant=TENANT, run_id=RUN)

    with pytest.raises(StepFailed, match="fails failed: ValueError: no luck") as caught:
        await use(kernel, "fails", step_key="k")
    assert isinstance(caught.value.__cause__, ValueError)
    with pytest.raises(StepFailed, match="fails failed: ValueError: no luck"):
        await use(kernel, "fails", step_key="k")

    assert len(made) == 1


@pytest.mark.parametrize(
    ("tool", "arguments", "error", "reason"),
    [
        ("add", {"a": "x"}, StepRejected, "arguments"),
        ("add", {"a": 1, "extra": 1}, StepRejected, "arguments"),
        ("add", "[1]", StepRejected, "arguments"),
        ("nothing", {}, StepRejected, "unknown_tool"),
        ("pay", {"amount": 1}, CapabilityDenied, "capability"),
    ],
)
async def test_a_rejection_is_recorded_once_and_is_never_unknown(
    store: Store, tool: str, arguments: object, error: type[Exception], reason: str
) -> None:
    """Bad arguments, unknown tools and missing capabilities are rejected before anything happens, and recorded once."""
    kernel = Kernel(store=store)
    made = _register(kernel)
    poor = TenantContext(tenant_id="t")
    await kernel.start_run(tenant=poor, run_id=RUN)

    for _ in range(2):
        with pytest.raises(error):
            await use(kernel, tool, arguments, tenant=poor, step_key="k")

    events = await kernel.get_events(run_id=RUN)
    assert [(event.type, event.payload.get("reason")) for event in events[1:]] == [("step.rejected", reason)]
    assert made == []


class Never(KernelMiddleware):
    async def prepare_model(self, invocation: ModelInvocation) -> ModelInvocation:
        raise PolicyDenied("never")


@pytest.mark.parametrize("over", [True, False])
async def test_a_program_that_was_refused_something_is_replayed_without_a_word(store: Store, over: bool) -> None:
    """The same refusals again, from another kernel, also when the run is over; and nothing is written for them."""

    async def program() -> list[str]:
        async with Kernel(store=store, model_port=Echo(), middleware=[Never()]) as kernel:

            @kernel.tool
            async def pay(amount: int) -> None: ...

            @kernel.tool(requires_capability="root")
            async def reboot() -> None: ...

            @kernel.tool
            async def look() -> None:
                raise ToolRejected("nothing to see")

            await kernel.open_run(tenant=TENANT, run_id=RUN)
            calls = [
                use(kernel, "pay", {"amount": "x"}, step_key="a"), use(kernel, "pay", "[]", step_key="b"),
                use(kernel, "nope", {}, step_key="c"), use(kernel, "reboot", {}, step_key="d"),
                *([use(kernel, "look", {}, step_key="e")] if over else []),  # it decides itself, so it is asked again
                kernel.step_model(run_id=RUN, tenant=TENANT, model="m", input=ModelInput.from_prompt("?"), step_key="f"),
            ]  # fmt: skip
            told: list[str] = []
            for each in calls:
                with pytest.raises(StepRejected) as caught:
                    await each
                told.append(f"{type(caught.value).__name__}: {caught.value}")
            if over and (await kernel.get_run_status(run_id=RUN)).active:
                await kernel.finish_run(run_id=RUN)
            return told

    first = await program()
    size = len(await store.read(f"run/{RUN}"))

    assert await program() == first
    assert len(await store.read(f"run/{RUN}")) == size


async def test_what_was_never_asked_of_a_run_that_is_over_is_refused(store: Store) -> None:
    """A recorded rejection of other inputs says nothing about these; and no lease is taken to say so."""
    async with Kernel(store=store) as kernel:
        await kernel.start_run(tenant=TENANT, run_id=RUN)
        with pytest.raises(StepRejected):
            await use(kernel, "nope", {}, step_key="a")
        await kernel.finish_run(run_id=RUN)
    async with Kernel(store=store) as kernel:
        kernel.tool(name="nope")(lambda: "done")
        size = len(await store.read(f"run/{RUN}"))
        with pytest.raises(StepRejected, match="no tool is named"):
            await use(kernel, "nope", {}, step_key="a")
        with pytest.raises(RunNotActive, match="it is over"):
            await use(kernel, "nope", {"other": 1}, step_key="a")
        with pytest.raises(RunNotActive, match="it is over"):
            await use(kernel, "nope", {}, step_key="b")

        assert len(await store.read(f"run/{RUN}")) == size


async def test_a_rejection_is_decided_anew_when_things_have_changed(store: Store) -> None:
    """A capability that was granted since lets the same step run; or the recorded rejection is asked for."""
    kernel = Kernel(store=store)
    made = _register(kernel)
    await kernel.start_run(tenant=TENANT, run_id=RUN)
    with pytest.raises(CapabilityDenied):
        await use(kernel, "pay", {"amount": 1}, tenant=TenantContext(tenant_id="t"), step_key="k")

    with pytest.raises(CapabilityDenied):
        await use(kernel, "pay", {"amount": 1}, step_key="k", replay_rejections=True)
    result = await use(kernel, "pay", {"amount": 1}, step_key="k")

    assert result.result == {"paid": 1}
    assert len(made) == 1


async def test_other_arguments_and_versions_under_a_recorded_tool_step_are_refused(store: Store) -> None:
    """The argument that differs is named; a tool of another version is another tool."""
    kernel = Kernel(store=store)
    _register(kernel)
    await kernel.start_run(tenant=TENANT, run_id=RUN)
    await use(kernel, "add", {"a": 1, "b": 2}, step_key="k")

    with pytest.raises(ReplayConsistencyError, match=r"arguments\.b: recorded 2, now 3"):
        await use(kernel, "add", {"a": 1, "b": 3}, step_key="k")
    with pytest.raises(ReplayConsistencyError, match="tool_name: recorded 'add', now 'fails'"):
        await use(kernel, "fails", {"a": 1, "b": 2}, step_key="k")

    def newer(kernel: Kernel) -> None:
        @kernel.tool(tool_version="2.0.0")
        def add(a: int, b: int) -> int:
            return a + b

    kernel = await fresh(store, kernel, prepare=newer)
    with pytest.raises(ReplayConsistencyError, match="another version"):
        await use(kernel, "add", {"a": 1, "b": 2}, step_key="k")


async def test_a_recorded_tool_step_replays_without_the_tool(store: Store) -> None:
    """A kernel that does not know the tool any more still gives its recorded result."""
    kernel = Kernel(store=store)
    _register(kernel)
    await kernel.start_run(tenant=TENANT, run_id=RUN)
    await use(kernel, "add", {"a": 1}, step_key="k")

    kernel = await fresh(store, kernel)

    assert (await use(kernel, "add", {"a": 1}, step_key="k")).result == 2


async def test_listing_describing_and_calling_agree(store: Store) -> None:
    """The three ways to ask about a tool have one answer."""
    kernel = Kernel(store=store)
    _register(kernel)
    poor = TenantContext(tenant_id="t")

    listed = [tool.name for tool in kernel.list_tools_for_tenant(tenant=poor)]
    described = await kernel.describe_capabilities(tenant=poor)

    assert listed == described["final_allowed_tools"] == ["add", "fails"]
    assert described["decisions"][2] == {
        "tool_name": "pay", "required_capability": "pay", "decision": "filtered", "reason": "capability_missing",
    }  # fmt: skip
    assert [tool.name for tool in kernel.list_tools_for_tenant(tenant=TENANT, visible_tool_names=["pay", "ghost"])] == ["pay"]


async def test_a_model_sees_only_what_its_tenant_may_call(store: Store) -> None:
    """The request holds the allowed tools, and no more."""
    port = ScriptedModelPort(['{"said": "x"}'])
    kernel = Kernel(store=store, model_port=port)
    _register(kernel)
    await kernel.start_run(tenant=TENANT, run_id=RUN)

    await ask(kernel, "a", visible_tool_names={"pay", "add"})

    assert [tool.name for tool in port.requests[0].allowed_tools] == ["add", "pay"]


class _Blocks(KernelMiddleware):
    async def prepare_model(self, invocation: ModelInvocation) -> ModelInvocation:
        if "forbidden" in invocation.prompt:
            raise ValueError("blocked keyword")
        return invocation

    async def before_model(self, **kwargs: Any) -> None:
        if kwargs["model"] == "dear":
            raise PolicyDenied("too dear")

    async def prepare_tool_request(self, **kwargs: Any) -> str:
        return str(kwargs["arguments_json"]).replace("13", "12")

    async def prepare_tool_result(self, **kwargs: Any) -> str:
        return str(kwargs["result_json"]).replace("secret", "******")


async def test_a_refusal_by_middleware_is_recorded_before_it_leaves(store: Store) -> None:
    """The exception is the middleware's own, and the refusal is an event already."""
    port = Echo()
    kernel = Kernel(store=store, model_port=port, middleware=[_Blocks()])
    await kernel.start_run(tenant=TENANT, run_id=RUN)

    with pytest.raises(ValueError, match="blocked keyword"):
        await ask(kernel, "something forbidden")
    with pytest.raises(PolicyDenied, match="too dear"):
        await ask(kernel, "fine", model="dear")

    events = await kernel.get_events(run_id=RUN)
    assert [(e.type, e.payload["reason"], e.payload["error"]) for e in events[1:]] == [
        ("step.rejected", "middleware", "ValueError"),
        ("step.rejected", "middleware", "PolicyDenied"),
    ]
    assert port.calls == 0


async def test_middleware_changes_arguments_and_results(store: Store) -> None:
    """What hooks make of arguments is executed, and what they make of results is recorded."""
    kernel = Kernel(store=store, middleware=[_Blocks()])

    @kernel.tool()
    def tell(number: int) -> str:
        return f"secret {number}"

    await kernel.start_run(tenant=TENANT, run_id=RUN)

    assert (await use(kernel, "tell", {"number": 13}, step_key="k")).result == "****** 12"
    assert (await use(kernel, "tell", {"number": 13}, step_key="k")).replayed


async def test_one_key_asked_twice_at_once_is_one_step(store: Store) -> None:
    """Two tasks that ask for the same step get one execution and the same result."""
    kernel = Kernel(store=store, model_port=Echo(moment=0.01))
    await kernel.start_run(tenant=TENANT, run_id=RUN)

    one, two = await asyncio.gather(ask(kernel, "a", step_key="k"), ask(kernel, "a", step_key="k"))

    assert (one.seq, one.replayed, two.replayed) == (two.seq, False, True)


async def test_steps_of_a_parent_have_keys_of_their_own(store: Store) -> None:
    """The same key under another parent or in another scope is another step; the event names its parent."""
    kernel = Kernel(store=store, model_port=Echo())
    await kernel.start_run(tenant=TENANT, run_id=RUN)
    parent = await ask(kernel, "p", step_key="parent")

    child = await ask(kernel, "c", step_key="k", parent_step_key="parent")
    other = await ask(kernel, "d", step_key="k")
    with kernel.scope("session 2"):
        third = await ask(kernel, "e", step_key="k")

    assert [child.step, other.step, third.step] == ["parent/k", "k", "session 2/k"]
    event = await store.latest(f"run/{RUN}", "parent/k")
    assert event is not None
    assert event.parent == f"run/{RUN}#{parent.seq}"


async def test_an_erased_result_is_over_and_cannot_be_replayed(store: Store) -> None:
    """A step whose payload was erased is not executed again; replaying it says why."""
    kernel = Kernel(store=store)
    made = _register(kernel)
    await kernel.start_run(tenant=TENANT, run_id=RUN)
    result = await use(kernel, "pay", {"amount": 1}, step_key="k")
    await store.erase(f"run/{RUN}", result.seq, reason="private")

    kernel = await fresh(store, kernel, prepare=lambda k: made.extend(_register(k)))
    with pytest.raises(StepFailed, match="was erased"):
        await use(kernel, "pay", {"amount": 1}, step_key="k")

    assert len(made) == 1


async def test_runs_are_started_once_and_known_by_name(store: Store) -> None:
    """A taken id and an unknown id are named errors; a run belongs to its tenant."""
    kernel = Kernel(store=store, model_port=Echo())
    handle = await kernel.start_run(tenant=TENANT, run_id=RUN)
    generated = await kernel.start_run(tenant=TENANT, parent_run=RUN)

    assert (handle.run_id, generated.parent_run) == (RUN, RUN)
    with pytest.raises(RunExists, match=RUN):
        await kernel.start_run(tenant=TENANT, run_id=RUN)
    with pytest.raises(NotFound, match="ghost"):
        await kernel.load_run(run_id="ghost")
    with pytest.raises(NotFound, match="ghost"):
        await ask(kernel, "a", run_id="ghost")
    with pytest.raises(PolicyDenied, match="belongs to tenant 't'"):
        await ask(kernel, "a", tenant=TenantContext(tenant_id="other"))
    with pytest.raises(UsageError, match="a run's id"):
        await kernel.start_run(tenant=TENANT, run_id="two words")
    assert (await kernel.open_run(tenant=TENANT, run_id=RUN)).run_id == RUN


async def test_a_closed_kernel_takes_no_steps(store: Store) -> None:
    """Closing is final and may be done twice; the store stays open."""
    kernel = Kernel(store=store, model_port=Echo())
    await kernel.start_run(tenant=TENANT, run_id=RUN)
    await kernel.close()
    await kernel.close()

    with pytest.raises(KernelError, match="closed"):
        await kernel.start_run(tenant=TENANT)
    assert await store.verify_run_chain(RUN)


async def test_a_kernel_without_a_model_port_says_so(store: Store) -> None:
    """Asking a model without a port is refused in words."""
    kernel = Kernel(store=store)
    await kernel.start_run(tenant=TENANT, run_id=RUN)

    with pytest.raises(UsageError, match="no model port"):
        await ask(kernel, "a")


async def test_long_conversations_are_stored_once(store: Store) -> None:
    """Each turn records what is new in the conversation; the whole is still told, also after a restart."""
    kernel = Kernel(store=store, model_port=Echo())
    await kernel.start_run(tenant=TENANT, run_id=RUN)
    messages = [Message.system("s" * 1000)]
    sizes: list[int] = []
    for turn in range(6):
        if turn == 3:
            kernel = await fresh(store, kernel, Echo())
        messages.append(Message.user(f"question {turn} " + "x" * 500))
        result = await ask(kernel, "", input=ModelInput.from_messages(messages), step_key=f"turn-{turn}", output_schema=None)
        messages.append(result.message())
        events = [event for event in await kernel.get_events(run_id=RUN) if event.key == f"turn-{turn}"]
        sizes.append(sum(len(event.data or b"") for event in events))

    assert all(size > 2000 for size in (sizes[0], sizes[3]))
    assert all(size < 1950 for size in (*sizes[1:3], *sizes[4:]))
    told = await kernel.get_steps(run_id=RUN)
    assert list(told[-1].messages) == messages[:-1]
    changed = [messages[0], Message.user("other"), *messages[2:-1]]
    with pytest.raises(ReplayConsistencyError, match="message 2 "):
        await ask(kernel, "", input=ModelInput.from_messages(changed), step_key="turn-5", output_schema=None)


async def test_a_budget_is_reserved_settled_and_shared_by_the_tenants_runs(store: Store) -> None:
    """No sum of runs of a tenant passes its limit; what a call really cost is what counts."""
    port = MockModelPort(output={"said": "x"}, usage=None)
    port.result = ModelResult(output={"said": "x"}, usage=port.result.usage.__class__(cost_usd=0.4))
    tenant = TenantContext(tenant_id="t", budget_usd_limit=1.0)
    kernel = Kernel(store=store, model_port=port)
    for run in (RUN, "other"):
        await kernel.start_run(tenant=tenant, run_id=run)
    await ask(kernel, "a", tenant=tenant)
    await ask(kernel, "b", tenant=tenant, run_id="other")

    with pytest.raises(BudgetExceeded, match=r"budget of tenant 't' is \$1\.00"):
        await ask(kernel, "c", tenant=tenant)
    richer = TenantContext(tenant_id="t", budget_usd_limit=2.0)
    assert (await ask(kernel, "c", tenant=richer, step_key="model#3")).cost_usd == pytest.approx(0.4)
    await kernel.close()

    assert await store.reserved("spend/t") == 1_200_000
    assert port.calls == 3


async def test_a_budget_rejection_is_recorded_and_decided_anew(store: Store) -> None:
    """A run that stopped for want of money goes on when there is more."""
    tenant = TenantContext(tenant_id="t", budget_usd_limit=0.0)
    kernel = Kernel(store=store, model_port=Echo())
    await kernel.start_run(tenant=tenant, run_id=RUN)
    for _ in range(2):
        with pytest.raises(BudgetExceeded):
            await ask(kernel, "a", tenant=tenant, step_key="k")

    assert (await types(kernel)) == ["run.started", "step.rejected"]
    assert (await ask(kernel, "a", step_key="k")).output.said == "a"


async def test_a_price_is_reserved_before_the_call(store: Store) -> None:
    """A model with a price may not even be asked when the longest answer does not fit the budget."""
    port = Echo()
    tenant = TenantContext(tenant_id="t", budget_usd_limit=0.01)
    kernel = Kernel(store=store, model_port=port)
    await kernel.start_run(tenant=tenant, run_id=RUN)

    with pytest.raises(BudgetExceeded):
        await ask(kernel, "a", tenant=tenant, model="claude-sonnet-4-5")
    await ask(
        kernel, "a", tenant=tenant, model="claude-sonnet-4-5", model_options=ModelCallOptions(max_tokens=100), step_key="k"
    )

    assert port.calls == 1


async def test_a_run_that_was_tampered_with_is_not_replayed(tmp_path: Path) -> None:
    """Loading a run verifies its chain and says where it breaks."""
    import sqlite3

    path = tmp_path / "k.db"
    store = SQLiteStore(path)
    kernel = Kernel(store=store, model_port=Echo())
    await kernel.start_run(tenant=TENANT, run_id=RUN)
    await ask(kernel, "a")
    await kernel.close()
    await store.close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE events SET data = replace(data, 'said', 'sued') WHERE seq = 3")
    connection.close()

    async with SQLiteStore(path) as store:
        with pytest.raises(Unproven, match="does not verify at 3: changed"):
            await Kernel(store=store).load_run(run_id=RUN)


@pytest.mark.parametrize("ticks", range(8))
async def test_a_cancellation_at_any_moment_repeats_nothing(store: Store, ticks: int) -> None:
    """What is queued will be written: a step whose end was on its way has ended, and no effect happens twice."""
    port = MockModelPort(output={"said": "x"})
    kernel = Kernel(store=store, model_port=port)
    made = _register(kernel)
    await kernel.start_run(tenant=TENANT, run_id=RUN)

    for make in (lambda: ask(kernel, "a", step_key="m"), lambda: use(kernel, "pay", {"amount": 1}, step_key="t")):
        step = asyncio.ensure_future(make())
        for _ in range(ticks):
            await asyncio.sleep(0)
        step.cancel()
        await asyncio.gather(step, return_exceptions=True)
    events = [(event.type, event.key) for event in await kernel.get_events(run_id=RUN)]
    await ask(kernel, "a", step_key="m")
    with contextlib.suppress(OutcomeUnknown):
        await use(kernel, "pay", {"amount": 1}, step_key="t")

    assert port.calls == 1 + (("step.interrupted", "m") in events)
    assert len(made) <= 1


async def test_a_busy_call_can_be_cancelled(store: Store) -> None:
    """A cancellation reaches a call that only gives way, and waits for nothing."""

    class Busy:
        turns = 0

        async def complete(self, request: ModelRequest) -> ModelResult:
            while self.turns < 10_000:
                self.turns += 1
                await asyncio.sleep(0)
            raise AssertionError("nobody stopped it")

    port = Busy()
    kernel = Kernel(store=store, model_port=port)
    await kernel.start_run(tenant=TENANT, run_id=RUN)
    step = asyncio.ensure_future(ask(kernel, "a"))
    while port.turns < 5:
        await asyncio.sleep(0)
    step.cancel()

    with pytest.raises(asyncio.CancelledError):
        await step
    assert port.turns < 100
