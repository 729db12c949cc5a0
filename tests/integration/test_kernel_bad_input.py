"""Whatever a caller gives that cannot be meant: one clear error, nothing run, nothing lost, and the ledger verifies."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from harness import (
    Kernel,
    KernelPolicy,
    MemoryStore,
    MockModelPort,
    ModelCallOptions,
    ModelInput,
    ModelMalformed,
    NotFound,
    RunNotActive,
    StepFailed,
    StepRejected,
    TenantContext,
    UsageError,
)
from harness.middleware import ToolPolicy

TENANT = TenantContext(tenant_id="t")
SURROGATE = "a\udcff"


class Bench:
    """A kernel with one run, and how often its tools were run."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.runs = 0

    def model(self, **given: Any) -> Any:
        asked: dict[str, Any] = {"run_id": "r", "tenant": TENANT, "model": "m", "input": ModelInput.from_prompt("x"), **given}
        return self.kernel.step_model(**asked)

    def tool(self, **given: Any) -> Any:
        asked: dict[str, Any] = {"run_id": "r", "tenant": TENANT, "tool_name": "echo", "arguments": {"value": 1}, **given}
        return self.kernel.step_tool(**asked)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with Kernel(store=MemoryStore(), model_port=MockModelPort(text="x")) as kernel:
        bench = Bench(kernel)

        @kernel.tool()
        def echo(value: object) -> object:
            bench.runs += 1
            return value

        @kernel.tool(side_effect=True)
        def effect(value: object) -> object:
            bench.runs += 1
            return value

        await kernel.start_run(tenant=TENANT, run_id="r")
        yield bench
        assert await kernel.store.verify()


async def done(call: Callable[[], Any]) -> Any:
    value = call()
    return await value if hasattr(value, "__await__") else value


MODEL: dict[str, dict[str, Any]] = {
    "run_id is a text": {"run_id": 5},
    "tenant is a TenantContext": {"tenant": "t"},
    "tenant is a TenantContext.*NoneType": {"tenant": None},
    "model is a text": {"model": 5},
    "model is a text that is not empty": {"model": ""},
    "input is a ModelInput": {"input": "x"},
    "not valid Unicode|no JSON": {"input": ModelInput.from_prompt(SURROGATE)},
    "output_schema": {"output_schema": 5},
    "step_key is a text": {"step_key": 5},
    "step_key is a text that is not empty": {"step_key": ""},
    "step_key is not valid Unicode": {"step_key": SURROGATE},
    "parent_step_key": {"parent_step_key": 5},
    "model_options are": {"model_options": {"temperature": 1}},
    "replay_policy is one of": {"replay_policy": "loose"},
    "visible_tool_names are several": {"visible_tool_names": "echo"},
    "visible_tool_names are names": {"visible_tool_names": [5]},
    "over the limit": {"input": ModelInput.from_prompt("x" * (17 << 20))},
}


@pytest.mark.parametrize(("words", "given"), MODEL.items())
async def test_a_model_step_that_cannot_be_meant_is_refused(bench: Bench, words: str, given: dict[str, Any]) -> None:
    """By a `UsageError` that names what is wrong; no model is asked."""
    with pytest.raises(UsageError, match=words):
        await done(lambda: bench.model(**given))

    assert [event.type for event in await bench.kernel.get_events(run_id="r")] == ["run.started"]


TOOL: dict[str, dict[str, Any]] = {
    "run_id is a text": {"run_id": 5},
    "tool_name is a text": {"tool_name": 5},
    "tool_name is not valid Unicode": {"tool_name": SURROGATE},
    "step_key is a text": {"step_key": 5},
    "timeout is a number": {"timeout": math.nan},
    "timeout is a number of seconds": {"timeout": -1},
    "timeout is a number of seconds above 0": {"timeout": "5"},
}


@pytest.mark.parametrize(("words", "given"), TOOL.items())
async def test_a_tool_step_that_cannot_be_meant_is_refused(bench: Bench, words: str, given: dict[str, Any]) -> None:
    """By a `UsageError` that names what is wrong; no tool is run."""
    with pytest.raises(UsageError, match=words):
        await done(lambda: bench.tool(**given))

    assert bench.runs == 0


def cyclic() -> dict[str, Any]:
    value: dict[str, Any] = {}
    value["value"] = value
    return value


ARGUMENTS: list[Any] = [
    [1], 5, "not json", b'{"value":"\xff"}', {"value": math.nan}, {"value": math.inf}, {"value": SURROGATE}, {5: 1}, cyclic(),
    {"value": {1: object()}}, {"value": "x" * 50_000_000}, {"other": 1}, {}, '{"value":1,"value":2',
]  # fmt: skip


@pytest.mark.parametrize("name", ["echo", "effect"])
@pytest.mark.parametrize("arguments", ARGUMENTS, ids=lambda value: repr(value)[:30])
async def test_arguments_that_cannot_be_are_rejected_and_that_is_recorded(bench: Bench, name: str, arguments: Any) -> None:
    """Also fifty megabytes of them; the tool does not run, and a proper call of the same step goes through afterwards."""
    with pytest.raises(StepRejected, match="arguments"):
        await bench.tool(tool_name=name, arguments=arguments, step_key="s")

    types = [event.type for event in await bench.kernel.get_events(run_id="r")]
    assert (bench.runs, types) == (0, ["run.started", "step.rejected"])
    assert (await bench.tool(tool_name=name, step_key="s")).result == 1


@pytest.mark.parametrize("name", ["echo", "effect"])
async def test_a_result_that_is_too_long_is_a_failure_that_says_the_tool_was_run(bench: Bench, name: str) -> None:
    """Thirty-three megabytes; the run goes on."""
    huge = bench.kernel.tools

    @huge.tool(side_effect=name == "effect")
    def flood() -> str:
        bench.runs += 1
        return "x" * (33 << 20)

    with pytest.raises(StepFailed, match=r"was run, and returned 34,603,010 bytes"):
        await bench.tool(tool_name="flood", arguments={}, step_key="s")
    with pytest.raises(StepFailed, match="was run"):
        await bench.tool(tool_name="flood", arguments={}, step_key="s")

    assert bench.runs == 1
    assert (await bench.tool()).result == 1


async def test_an_answer_that_is_too_long_is_malformed() -> None:
    """Seventeen megabytes of text from a model; the failure is recorded."""
    async with Kernel(store=MemoryStore(), model_port=MockModelPort(text="x" * (17 << 20))) as kernel:
        await kernel.start_run(tenant=TENANT, run_id="r")

        with pytest.raises(ModelMalformed, match="over the limit"):
            await kernel.step_model(run_id="r", tenant=TENANT, model="m", input=ModelInput.from_prompt("x"))

        assert (await kernel.get_events(run_id="r"))[-1].type == "step.failed"


@pytest.mark.parametrize("run_id", [5, "", SURROGATE, "a b", "a\n", "a\0", "x" * 351])
async def test_a_run_has_an_id_that_can_be_written(bench: Bench, run_id: Any) -> None:
    """Refused before anything is written."""
    with pytest.raises(UsageError, match="run"):
        await bench.kernel.start_run(tenant=TENANT, run_id=run_id)


@pytest.mark.parametrize(
    "given",
    [
        {"tenant_id": 5}, {"tenant_id": ""}, {"tenant_id": "a\n"}, {"tenant_id": "t", "capabilities": "abc"},
        *({"tenant_id": "t", "budget_usd_limit": limit} for limit in (-1, math.nan, math.inf, "5", True)),
    ],
)  # fmt: skip
def test_a_tenant_that_cannot_be_is_refused(given: dict[str, Any]) -> None:
    """When it is made."""
    with pytest.raises(UsageError):
        TenantContext(**given)


@pytest.mark.parametrize(
    "given",
    [
        {"temperature": math.nan}, {"temperature": -0.1}, {"temperature": "1"}, {"top_p": -1}, {"max_tokens": 0},
        {"max_tokens": True}, {"timeout": 0}, {"timeout": -1}, {"timeout": math.inf}, {"stop": "END"}, {"stop": (5,)},
    ],
)  # fmt: skip
def test_options_that_cannot_be_are_refused(given: dict[str, Any]) -> None:
    """When they are made; a list of stop texts is as good as a tuple."""
    with pytest.raises(UsageError, match=next(iter(given))):
        ModelCallOptions(**given)
    assert ModelCallOptions(stop=["a"]).stop == ("a",)  # type: ignore[arg-type]


@pytest.mark.parametrize("prompt", [5, None, b"x"])
def test_a_prompt_is_a_text(prompt: Any) -> None:
    """Nothing else is taken for one."""
    with pytest.raises(UsageError, match="a prompt is a text"):
        ModelInput.from_prompt(prompt)


@pytest.mark.parametrize("messages", ["abc", b"abc", {"role": "user"}, [5], [{"role": "nobody", "content": "x"}], []])
def test_messages_are_messages(messages: Any) -> None:
    """A text is not taken for a list of its letters."""
    with pytest.raises(UsageError):
        ModelInput.from_messages(messages)


@pytest.mark.parametrize(
    "given",
    [{"store": "x.db"}, {"store": None}, {"store": MemoryStore}, {"model_port": "x"}, {"tool_port": "x"}, {"policy": {}}],
)
def test_a_kernel_is_made_of_parts_that_fit(given: dict[str, Any]) -> None:
    """A class instead of an object is the commonest slip."""
    with pytest.raises(UsageError, match=next(iter(given))):
        Kernel(**{"store": MemoryStore(), **given})


async def test_unknown_runs_are_not_found_whatever_is_asked(bench: Bench) -> None:
    """Never an empty answer that looks like a true one."""
    kernel = bench.kernel
    calls: list[Callable[[], Any]] = [
        lambda: kernel.load_run(run_id="q"),
        lambda: kernel.get_events(run_id="q"),
        lambda: kernel.get_steps(run_id="q"),
        lambda: kernel.get_run_status(run_id="q"),
        lambda: kernel.get_artifact(run_id="q", key="k"),
        lambda: kernel.list_artifacts(run_id="q"),
        lambda: kernel.set_artifact(run_id="q", tenant=TENANT, key="k", value=1),
        lambda: kernel.get_latest_run_summary(run_id="q", summary_type="s"),
        lambda: kernel.append_run_summary(run_id="q", tenant=TENANT, summary_type="s", summary=1),
        lambda: kernel.pause(run_id="q"),
        lambda: kernel.resume(run_id="q"),
        lambda: kernel.cancel_run(run_id="q"),
        lambda: bench.model(run_id="q"),
        lambda: bench.tool(run_id="q"),
        lambda: kernel.reconcile_tool(run_id="q", tenant=TENANT, tool_name="effect"),
    ]
    for call in calls:
        with pytest.raises(NotFound, match="no run 'q'"):
            await call()


@pytest.mark.parametrize("key", [5, "", None, SURROGATE])
async def test_artifacts_have_names_and_values_that_can_be_written(bench: Bench, key: Any) -> None:
    """What is no JSON is a `TypeError`, as documented."""
    with pytest.raises(UsageError, match="key is"):
        await bench.kernel.set_artifact(run_id="r", tenant=TENANT, key=key, value=1)
    for value in (math.nan, {1, 2}, object(), b"x"):
        with pytest.raises(TypeError, match="no JSON"):
            await bench.kernel.set_artifact(run_id="r", tenant=TENANT, key="k", value=value)


@pytest.mark.parametrize(
    "given",
    [
        {"lease_seconds": 0}, {"lease_seconds": "5"}, {"lease_wait_seconds": -1}, {"model_attempts": 0},
        {"model_attempts": 1.5}, {"retry_base_seconds": math.nan}, {"retry_max_seconds": math.inf},
        {"estimated_output_tokens": 0},
    ],
)  # fmt: skip
def test_a_policy_has_times_and_counts_that_can_be(given: dict[str, Any]) -> None:
    """When it is made; the error names the field."""
    with pytest.raises(UsageError, match=next(iter(given))):
        KernelPolicy(**given)


async def test_what_a_person_is_told_and_says_is_json(bench: Bench) -> None:
    """A `TypeError` names which of both is none; nothing was changed then."""
    kernel = bench.kernel
    with pytest.raises(TypeError, match="context: object is no JSON"):
        await kernel.pause(run_id="r", context=object())
    await kernel.pause(run_id="r", context=(1, 2))
    with pytest.raises(TypeError, match="human_input: float is no JSON"):
        await kernel.resume(run_id="r", human_input=math.nan)

    assert (await kernel.get_run_status(run_id="r")).status == "paused"


def test_a_policy_of_a_tool_that_nobody_can_approve_is_refused_when_it_is_made() -> None:
    """Not at the first call."""
    with pytest.raises(UsageError, match="an approval is by 'human'"):
        ToolPolicy(approval="maybe")  # type: ignore[arg-type]


async def test_transitions_that_are_not_allowed_say_what_would_be(bench: Bench) -> None:
    """The present status, and from which one it can be done."""
    kernel = bench.kernel
    for call, words in (
        (kernel.resume, "is active; only one that is paused can be resumed"),
        (kernel.unblock_run, "is active; only one that is blocked can be unblocked"),
    ):
        with pytest.raises(RunNotActive, match=words):
            await call(run_id="r")
    await kernel.cancel_run(run_id="r")
    for call in (kernel.pause, kernel.resume, kernel.block_run, kernel.cancel_run, kernel.finish_run):
        with pytest.raises(RunNotActive, match="is cancelled; only one that is"):
            await call(run_id="r")
