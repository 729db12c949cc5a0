"""Agents of Pydantic AI under the kernel: recorded, replayed, limited, and told about by events."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Callable
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("pydantic_ai")

from pydantic import BaseModel
from pydantic_ai import Agent, FunctionToolset, ModelRetry, RunContext
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models import Model
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.usage import RequestUsage

from harness.errors import (
    BudgetExceeded,
    ModelError,
    ModelUnavailable,
    OutcomeUnknown,
    PolicyDenied,
    ReplayConsistencyError,
    UsageError,
)
from harness.kernel import Kernel, KernelPolicy, TenantContext
from harness.ledger import MemoryStore
from harness.middleware import PIIScrubberMiddleware
from harness.middleware.base import KernelMiddleware, ModelInvocation
from harness.pydantic_ai import HarnessDurability, ToolTraits, tool_context
from harness.spend import Price

TENANT = TenantContext(tenant_id="t")
Answer = Callable[[list[ModelMessage], AgentInfo], ModelResponse]


class Bench:
    """An agent on a kernel, whose model follows a script."""

    def __init__(self, *answers: Any, tenant: TenantContext = TENANT, middleware: Any = None, **options: Any) -> None:
        self.store = MemoryStore()
        self.policy = KernelPolicy(retry_base_seconds=0.001, prices={"function:m": Price(input=1, output=1)})
        self.tenant = tenant
        self.middleware = middleware
        self.options = options
        self.answers = answers
        self.asked: list[list[ModelMessage]] = []
        self.ran: list[str] = []

    def model(self) -> Model:
        def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
            turn = sum(isinstance(m, ModelResponse) for m in messages)
            self.asked.append(messages)
            said = self.answers[turn]
            if isinstance(said, Exception):
                raise said
            return said if isinstance(said, ModelResponse) else ModelResponse([said] if not isinstance(said, list) else said)

        async def stream(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str]:
            self.asked.append(messages)
            for word in self.answers[0]:
                yield word

        return FunctionModel(answer, stream_function=stream, model_name="m")

    async def run(
        self, prompt: str = "go", *, output_type: Any = str, toolsets: Any = (), run_id: str = "r", **more: Any
    ) -> Any:
        """One pass in a kernel of its own, as after a restart."""
        async with Kernel(store=self.store, middleware=self.middleware, policy=self.policy) as kernel:
            durability = HarnessDurability(kernel, tenant=self.tenant, **self.options)
            agent = Agent(self.model(), name="ops", output_type=output_type, capabilities=[durability], toolsets=list(toolsets))
            self.register(agent)
            async with agent, durability.run("r", **more):
                return await agent.run(prompt)

    def register(self, agent: Agent[Any, Any]) -> None:
        @agent.tool_plain
        def look(path: str) -> dict[str, Any]:
            """Look at a file."""
            self.ran.append(f"look {path}")
            return {"path": path, "percent": 97}

        @agent.tool_plain
        async def rotate(path: str) -> str:
            """Rotate logs."""
            self.ran.append(f"rotate {path} {tool_context().idempotency_key}")
            return f"rotated {path}"

    async def types(self, run_id: str = "r") -> list[str]:
        return [event.type for event in await self.store.read(f"run/{run_id}")]


def call(name: str, id_: str = "c1", **arguments: Any) -> ToolCallPart:
    return ToolCallPart(name, arguments, id_)


async def test_a_finished_run_replays_without_a_call_or_an_event() -> None:
    """Models and tools are asked once; the second pass gets everything from the ledger and writes nothing."""
    bench = Bench([call("look", path="/var"), call("rotate", "c2", path="/var")], TextPart("done"))

    first = await bench.run()
    events = await bench.types()
    again = await bench.run()

    assert (first.output, again.output) == ("done", "done")
    assert sorted(ran.split()[0] for ran in bench.ran) == ["look", "rotate"]
    assert len(bench.asked) == 2
    assert await bench.types() == events
    assert events[0] == "run.started"
    assert events[-1] == "run.completed"
    assert again.all_messages()[1].parts == first.all_messages()[1].parts
    assert await bench.store.verify_run_chain("r")


async def test_events_tell_what_was_asked_answered_called_and_spent() -> None:
    """A model step has its prompt, usage and price, a tool step its arguments and result."""
    said = ModelResponse([TextPart("I look."), call("look", path="/var")], usage=RequestUsage(input_tokens=30, output_tokens=7))
    bench = Bench(said, TextPart("done"))
    await bench.run("how full is /var?")

    async with Kernel(store=bench.store) as kernel:
        steps = await kernel.get_steps(run_id="r")

    assert [(step.kind, step.step) for step in steps] == [
        ("model", "ops/model#1"), ("tool", "ops/call-1-c1"), ("model", "ops/model#2"),
    ]  # fmt: skip
    assert steps[0].messages[-1].text == "how full is /var?"
    assert (steps[0].text, steps[0].tool_calls[0].name, steps[0].usage.input_tokens) == ("I look.", "look", 30)
    assert steps[0].cost_usd == pytest.approx(37e-6)
    assert steps[1].arguments == {"path": "/var"}
    assert "97" in str(steps[1].result)


async def test_a_side_effect_that_was_cut_off_is_unknown_and_not_repeated() -> None:
    """Cancelled in the middle, the tool is not run again, until a person says what happened."""
    bench = Bench(call("stop", path="/var"), TextPart("done"))
    ran: list[int] = []

    def register(agent: Agent[Any, Any]) -> None:
        @agent.tool_plain
        async def stop(path: str) -> str:
            ran.append(1)
            raise OutcomeUnknown("the line went dead")

    bench.register = register  # type: ignore[method-assign]
    for _ in range(2):
        with pytest.raises(OutcomeUnknown):
            await bench.run()
    async with Kernel(store=bench.store) as kernel:
        result = {"kind": "tool-content", "result": "stopped"}
        await kernel.reconcile_tool(run_id="r", tenant=TENANT, tool_name="stop", outcome="failed", message=str(result))

    assert ran == [1]


async def test_a_read_only_tool_needs_no_intent() -> None:
    """Only a tool that may have an effect writes what it is about to do."""
    bench = Bench([call("look", path="/"), call("rotate", "c2", path="/")], TextPart("done"), read_only=["look"])
    await bench.run()

    async with Kernel(store=bench.store) as kernel:
        events = [event for event in await kernel.get_events(run_id="r") if event.type == "step.started"]
    intents = {event.key for event in events if b'"side_effect":true' in (event.data or b"")}

    assert intents == {"ops/call-1-c2"}


async def test_a_changed_prompt_is_an_error_that_names_it() -> None:
    """Strict replay tells the nearest difference; allow_prompt_drift gives the recorded answer."""
    bench = Bench(TextPart("done"))
    await bench.run("df says 97 %", finish=False)

    with pytest.raises(ReplayConsistencyError, match=r"prompt.*97") as refused:
        await bench.run("df says 99 %", finish=False)
    bench.options["replay_policy"] = "allow_prompt_drift"
    drifted = await bench.run("df says 99 %", finish=False)

    assert refused.value.fields == ("prompt",)
    assert drifted.output == "done"
    assert len(bench.asked) == 1


async def test_a_changed_output_type_is_drift_and_an_added_tool_is_none() -> None:
    """What the answer must look like is an input; tools are compared one by one."""

    class Report(BaseModel):
        cause: str

    extra = FunctionToolset(id="more")

    @extra.tool_plain
    def unrelated() -> str:
        """Nothing to do with it."""
        return ""

    bench = Bench(TextPart("done"))
    await bench.run(finish=False)

    again = await bench.run(finish=False, toolsets=[extra])
    with pytest.raises(ReplayConsistencyError, match="output_schema"):
        await bench.run(finish=False, output_type=Report)

    assert again.output == "done"


async def test_a_budget_stops_the_run_before_the_call() -> None:
    """The reservation is the kernel's; the refusal is recorded."""
    bench = Bench(TextPart("done"), tenant=TenantContext(tenant_id="t", budget_usd_limit=0.000001))

    with pytest.raises(BudgetExceeded):
        await bench.run()

    assert bench.asked == []
    assert (await bench.types())[-1] == "step.rejected"


async def test_what_may_pass_is_tried_again_and_each_attempt_is_recorded() -> None:
    """503 twice, then an answer."""
    bench = Bench(TextPart("done"))
    failures = [ModelHTTPError(503, "function:m"), ModelHTTPError(503, "function:m")]
    model = bench.model

    def flaky() -> Model:
        inner = model()
        assert isinstance(inner, FunctionModel)
        answer = inner.function

        def function(messages: list[ModelMessage], info: AgentInfo) -> Any:
            if failures:
                raise failures.pop()
            return answer(messages, info)  # type: ignore[misc]

        return FunctionModel(function, model_name="m")

    bench.model = flaky  # type: ignore[method-assign]
    result = await bench.run()

    assert result.output == "done"
    assert (await bench.types()).count("step.retried") == 2


async def test_a_model_that_was_away_is_asked_again_by_the_next_pass() -> None:
    """A failure that ended the run is no answer."""
    bench = Bench(ModelHTTPError(400, "function:m", "bad"))
    with pytest.raises(ModelError, match="400"):
        await bench.run()

    bench.answers = (TextPart("done"),)
    result = await bench.run()

    assert result.output == "done"


async def test_tool_retries_and_output_validation_are_steps_of_their_own() -> None:
    """A tool that asks for another try and an answer that does not fit go back to the model; all of it replays."""

    class Report(BaseModel):
        percent: int

    bench = Bench(
        call("fussy", "a", n=0),
        call("fussy", "b", n=1),
        call("final_result", "c", percent="much"),
        call("final_result", "d", percent=97),
    )
    tried: list[int] = []

    def register(agent: Agent[Any, Any]) -> None:
        @agent.tool_plain
        def fussy(n: int) -> str:
            tried.append(n)
            if n == 0:
                raise ModelRetry("not 0")
            return "ok"

    bench.register = register  # type: ignore[method-assign]
    first = await bench.run(output_type=Report)
    again = await bench.run(output_type=Report)

    assert first.output == again.output == Report(percent=97)
    assert tried == [0, 1]
    assert len(bench.asked) == 4


async def test_parallel_calls_never_swap_their_results() -> None:
    """Each is known by the model's own id for it, whichever ends first."""
    bench = Bench([call("look", "a", path="/a"), call("look", "b", path="/b")], TextPart("done"))

    for _ in range(2):
        result = await bench.run()
    parts = [part.content for part in result.all_messages()[2].parts]

    assert sorted(bench.ran) == ["look /a", "look /b"]
    assert [part["path"] for part in parts] == ["/a", "/b"]


async def test_a_forbidden_tool_is_not_shown_and_a_refusal_is_the_tools_result() -> None:
    """Capabilities and middleware hold for the framework's tools as for the kernel's."""

    class NoRoot(KernelMiddleware):
        async def prepare_tool_request(self, **call: Any) -> str:
            if '"/"' in call["arguments_json"]:
                raise PolicyDenied("not the root")
            return call["arguments_json"]

    shown: list[list[str]] = []
    bench = Bench(
        call("look", path="/"),
        TextPart("done"),
        middleware=[NoRoot()],
        tools={"rotate": ToolTraits(requires_capability="disk")},
    )
    model = bench.model

    def watching() -> Model:
        inner = model()
        assert isinstance(inner, FunctionModel)
        answer = inner.function

        def function(messages: list[ModelMessage], info: AgentInfo) -> Any:
            shown.append([tool.name for tool in info.function_tools])
            return answer(messages, info)  # type: ignore[misc]

        return FunctionModel(function, model_name="m")

    bench.model = watching  # type: ignore[method-assign]
    result = await bench.run()

    assert shown == [["look"], ["look"]]
    assert bench.ran == []
    assert "not the root" in str(result.all_messages()[2].parts[0].content)
    assert result.output == "done"


async def test_middleware_changes_what_the_model_is_sent() -> None:
    """Personal data reaches neither the model nor the ledger, and the tool gets what it needs."""
    bench = Bench(
        call("look", path="ann@example.com"), TextPart("wrote to ann@example.com"), middleware=[PIIScrubberMiddleware()]
    )

    result = await bench.run("Write to ann@example.com")
    again = await bench.run("Write to ann@example.com")
    sent = "".join(str(part) for messages in bench.asked for m in messages for part in m.parts)
    recorded = b"".join(event.data or b"" for event in await bench.store.read("run/r"))

    assert "ann@example.com" not in sent
    assert b"ann@example.com" not in recorded
    assert bench.ran == ["look ann@example.com"]
    assert result.output == again.output


async def test_a_middleware_that_adds_messages_is_told_so() -> None:
    """Texts may be changed, the shape of the conversation may not."""

    class More(KernelMiddleware):
        async def prepare_model(self, invocation: ModelInvocation) -> ModelInvocation:
            from harness.kernel import Message

            return dataclasses.replace(invocation, messages=(*invocation.messages, Message.user("and more")))

    bench = Bench(TextPart("done"), middleware=[More()])

    with pytest.raises(UsageError, match="may change their texts only"):
        await bench.run()


async def test_an_agent_called_by_a_tool_is_recorded_below_it() -> None:
    """Its steps have their own scope; cut off after them, they are not repeated."""
    bench = Bench(call("delegate", topic="disks"), TextPart("done"), read_only=["delegate"])
    inner = Bench(TextPart("inner answer"))
    failing = [True]

    async def pass_() -> Any:
        async with Kernel(store=bench.store, policy=bench.policy) as kernel:
            durability = HarnessDurability(kernel, tenant=TENANT, read_only=["delegate"])
            helper = Agent(inner.model(), name="helper", capabilities=[HarnessDurability(kernel, tenant=TENANT)])
            agent = Agent(bench.model(), name="ops", capabilities=[durability])

            @agent.tool_plain
            async def delegate(topic: str) -> str:
                result = await helper.run(f"tell of {topic}")
                if failing.pop() if failing else False:
                    raise RuntimeError("power cut")
                return result.output

            async with durability.run("r", retry_failed=True):
                return await agent.run("go")

    with pytest.raises(Exception, match="power cut"):
        await pass_()
    result = await pass_()
    async with Kernel(store=bench.store) as kernel:
        steps = [step.step for step in await kernel.get_steps(run_id="r")]

    assert result.output == "done"
    assert len(inner.asked) == 1
    assert "ops/call-1-c1/helper/model#1" in steps


async def test_a_stream_is_recorded_once_and_replayed_whole() -> None:
    """Its reader gets the text both times, the model is asked once."""
    bench = Bench(["one ", "two ", "three"])

    async def pass_() -> str:
        async with Kernel(store=bench.store) as kernel:
            durability = HarnessDurability(kernel, tenant=TENANT)
            agent = Agent(bench.model(), name="ops", capabilities=[durability])
            async with durability.run("r"), agent.run_stream("go") as stream:
                return await stream.get_output()

    texts = [await pass_(), await pass_()]

    assert texts == ["one two three"] * 2
    assert len(bench.asked) == 1


async def test_outside_of_a_run_the_agent_is_a_plain_one() -> None:
    """Nothing is recorded, and a tool has no recorded call."""
    bench = Bench(call("look", path="/"), TextPart("done"))
    async with Kernel(store=bench.store) as kernel:
        agent = Agent(bench.model(), name="ops", capabilities=[HarnessDurability(kernel, tenant=TENANT)])
        bench.register(agent)
        result = await agent.run("go")

    assert result.output == "done"
    with pytest.raises(UsageError, match="no recorded tool call"):
        tool_context()


async def test_bad_policy_in_metadata_is_named() -> None:
    """A typing error in a tool's metadata is one clear line."""
    bench = Bench(call("odd"), TextPart("done"))

    def register(agent: Agent[Any, Any]) -> None:
        @agent.tool_plain(metadata={"harness": {"sideeffect": False}})
        def odd() -> str:
            return ""

    bench.register = register  # type: ignore[method-assign]

    with pytest.raises(UsageError, match="'odd' makes no ToolTraits"):
        await bench.run()


@pytest.mark.parametrize("kind", ["anthropic", "openai", "openai-chat"])
async def test_a_real_provider_is_asked_once(kind: str, fake_model_api: ModuleType) -> None:
    """The official SDKs against the scripted API: tools, an answer, and a replay that asks nobody."""
    turns = [{"text": "I look.", "tools": [{"tool": "look", "input": {"path": "/var"}}]}, {"text": "rotated"}]
    bench = Bench()
    with fake_model_api.FakeAPI({"side": "main", "turns": turns}) as api:
        bench.model = lambda: real_model(kind, api.url)  # type: ignore[method-assign]
        results = [await bench.run(), await bench.run()]

        assert [result.output for result in results] == ["rotated"] * 2
        assert len([request for request in api.requests if request.get("method", "POST") == "POST"]) == 2
    assert bench.ran == ["look /var"]


def real_model(kind: str, url: str) -> Model:
    match kind:
        case "anthropic":
            from pydantic_ai.models.anthropic import AnthropicModel
            from pydantic_ai.providers.anthropic import AnthropicProvider

            return AnthropicModel("m-1", provider=AnthropicProvider(api_key="sk-test", base_url=url))
        case "openai":
            from pydantic_ai.models.openai import OpenAIResponsesModel
            from pydantic_ai.providers.openai import OpenAIProvider

            return OpenAIResponsesModel("gpt-5", provider=OpenAIProvider(api_key="sk-test", base_url=f"{url}/v1"))
        case _:
            from pydantic_ai.models.openai import OpenAIChatModel
            from pydantic_ai.providers.openai import OpenAIProvider

            return OpenAIChatModel("gpt-5", provider=OpenAIProvider(api_key="sk-test", base_url=f"{url}/v1"))


async def test_dependencies_and_context_reach_the_tool() -> None:
    """What the framework injects is there as ever."""
    bench = Bench(call("who"), TextPart("done"))
    seen: list[str] = []
    async with Kernel(store=bench.store) as kernel:
        durability = HarnessDurability(kernel, tenant=TENANT)
        agent: Agent[str, str] = Agent(bench.model(), name="ops", deps_type=str, capabilities=[durability])

        @agent.tool
        def who(ctx: RunContext[str]) -> str:
            seen.append(ctx.deps)
            return ctx.deps

        async with durability.run("r"):
            await agent.run("go", deps="ann")

    assert seen == ["ann"]


def test_model_unavailable_is_what_the_kernel_raises() -> None:
    """Callers need to know one tree of errors only."""
    assert issubclass(ModelUnavailable, ModelError)


async def test_a_call_that_a_person_must_allow_ends_the_pass_and_goes_on_after_the_answer() -> None:
    """A waiting approval is no result for the model: the next pass, after a yes, runs the tool once."""
    from harness.errors import ApprovalRequired
    from harness.middleware import SafetyPolicyMiddleware
    from harness.middleware import ToolPolicy as SafetyPolicy
    from harness.people import Questions

    rules = {"rotate": SafetyPolicy(approval="human")}
    bench = Bench(call("rotate", path="/var"), TextPart("done"), middleware=[SafetyPolicyMiddleware(rules)])
    with pytest.raises(ApprovalRequired) as waiting:
        await bench.run()
    questions = Questions(bench.store)
    (question,) = await questions.pending()
    assert question.id == waiting.value.question_id
    assert bench.ran == []
    await questions.answer(question.id, "approve", by="person:bob", digest=question.digest)

    result = await bench.run()

    assert result.output == "done"
    assert [ran.split()[0] for ran in bench.ran] == ["rotate"]
    assert len(bench.asked) == 2


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the framework the door says what to install."""
    import sys

    from harness.agents import pydantic_ai

    monkeypatch.setitem(sys.modules, "pydantic_ai", None)
    for module in list(sys.modules):
        if module.startswith(("harness.agents.pydantic_ai.", "pydantic_ai.")):
            monkeypatch.delitem(sys.modules, module)

    with pytest.raises(UsageError, match=r"agentharness\[pydantic-ai\]"):
        _ = pydantic_ai.HarnessDurability
