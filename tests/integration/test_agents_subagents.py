"""Agents that give tasks to agents: runs of their own, one tree, one budget, resumable."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import anyio
import pytest
from pydantic import BaseModel

from harness.agents import AgentResult, AutonomousAgent, SubAgent
from harness.errors import BudgetExceeded, ModelUnavailable, OutcomeUnknown, PolicyDenied, RunNotActive, UsageError
from harness.kernel import Kernel, KernelMiddleware, KernelPolicy, TenantContext, ToolRegistry
from harness.kernel.ports import Line, ModelRequest, ModelResult, ScriptedModelPort, ToolCall, Usage
from harness.ledger import MemoryStore

TENANT = TenantContext(tenant_id="t")


class Found(BaseModel):
    fact: str


def call(name: str, id: str = "", **arguments: Any) -> ToolCall:
    return ToolCall(id=id or f"{name}-id", name=name, arguments_json=json.dumps(arguments))


class Cast:
    """A model that plays every agent by a script of its own, found by its system prompt."""

    def __init__(self, **scripts: Sequence[Line]) -> None:
        self.scripts = {name: ScriptedModelPort(script, by_history=True) for name, script in scripts.items()}
        self.requests: list[ModelRequest] = []

    async def complete(self, request: ModelRequest) -> ModelResult:
        self.requests.append(request)
        return await self.scripts[request.messages[0].text].complete(request)

    def asked(self, name: str) -> list[ModelRequest]:
        return self.scripts[name].requests


class Bench:
    def __init__(self, *, store: MemoryStore | None = None, middleware: Sequence[Any] = (), **scripts: Sequence[Line]) -> None:
        self.store = store or MemoryStore()
        self.port = Cast(**scripts)
        self.kernel = Kernel(
            store=self.store, model_port=self.port, policy=KernelPolicy(model_attempts=1), middleware=middleware
        )

    async def run(self, *subagents: SubAgent, tenant: TenantContext = TENANT, **options: Any) -> AgentResult:
        agent = AutonomousAgent(self.kernel, subagents=subagents, **options)
        return await agent.run(run_id="r", tenant=tenant, model="m", system_prompt="boss", prompt="Find out.")

    async def runs(self) -> list[str]:
        return sorted(head.stream.partition("/")[2] for head in await self.store.heads("run/"))

    async def sizes(self) -> dict[str, int]:
        return {head.stream: head.seq for head in await self.store.heads("run/")}


def researcher(**fields: Any) -> SubAgent:
    return SubAgent(name="researcher", description="Finds facts.", system_prompt="researcher", **fields)


def told(result: AgentResult) -> list[tuple[str, bool]]:
    return [(message.text, message.is_error) for message in result.messages if message.role == "tool"]


async def test_a_task_is_given_and_its_answer_read() -> None:
    """The child works on the task in a run of its own below the parent's, and its answer is the tool's result."""
    bench = Bench(
        boss=[call("researcher", task="When was it?"), "In 1969."],
        researcher=[ModelResult(text="It was in 1969.", usage=Usage(input_tokens=5, cost_usd=0.5))],
    )

    result = await bench.run(researcher())

    assert (result.output, told(result)) == ("In 1969.", [("It was in 1969.", False)])
    (asked,) = bench.port.asked("researcher")
    assert (asked.prompt, asked.model) == ("When was it?", "m")
    parent, child = await bench.runs()
    handle = await bench.kernel.load_run(run_id=child)
    assert child.startswith("r::researcher::")
    assert (handle.parent_run, handle.root_run) == (parent, "r")
    assert (await bench.kernel.get_run_status(run_id=child)).status == "completed"
    assert (await bench.store.latest("run/r", f"child::{child}")) is not None
    assert result.subagent_usage == Usage(input_tokens=5, cost_usd=0.5)
    assert result.total_usage.cost_usd == pytest.approx(0.5)


async def test_run_again_it_asks_nobody_and_writes_nothing() -> None:
    """A replay of the parent does not even read its children."""
    bench = Bench(boss=[call("researcher", task="a"), "Done."], researcher=["fact"])
    result = await bench.run(researcher())
    before = await bench.sizes()
    second = Bench(store=bench.store)

    assert await second.run(researcher()) == result
    assert await bench.sizes() == before
    assert second.port.requests == []


async def test_a_structured_answer_and_a_model_of_its_own() -> None:
    """What the child was asked for in a schema reaches the parent as JSON."""
    bench = Bench(boss=[call("researcher", task="a"), "Done."], researcher=['{"fact": "round"}'])

    result = await bench.run(researcher(output_schema=Found, model="small"))

    assert told(result) == [('{"fact":"round"}', False)]
    assert bench.port.asked("researcher")[0].model == "small"


async def test_two_calls_of_one_sub_agent_are_two_runs() -> None:
    """Each step has its own child."""
    asked = ModelResult(tool_calls=(call("researcher", "1", task="a"), call("researcher", "2", task="b")))
    bench = Bench(boss=[asked, "Done."], researcher=[lambda request: f"about {request.prompt}"])

    result = await bench.run(researcher())

    assert told(result) == [("about a", False), ("about b", False)]
    assert len(await bench.runs()) == 3


async def test_sub_agents_may_work_at_once() -> None:
    """With `at_once` the calls of one answer run together, and their results stand in the order of the calls."""
    both, arrived = anyio.Event(), 0

    async def meet(request: ModelRequest) -> str:
        nonlocal arrived
        arrived += 1
        if arrived == 2:
            both.set()
        with anyio.fail_after(20):
            await both.wait()
        return request.prompt

    asked = ModelResult(tool_calls=(call("researcher", "1", task="a"), call("researcher", "2", task="b")))
    bench = Bench(boss=[asked, "Done."], researcher=[meet])

    result = await bench.run(researcher(at_once=True))

    assert told(result) == [("a", False), ("b", False)]


@pytest.mark.parametrize(
    ("script", "fields", "words"),
    [
        (["no", "no", "no"], {"output_schema": Found}, "researcher failed"),
        ([call("query_event_history")] * 3, {"max_iterations": 2}, "iteration_limit"),
        ([ModelResult(text="I won't.", stop_reason="refusal")], {}, "it wrote last: I won't."),
        ([RuntimeError("broken port")], {}, "broken port"),
    ],
)
async def test_a_failure_of_the_child_is_the_parents_to_handle(script: list[Line], fields: dict[str, Any], words: str) -> None:
    """It is the tool's result, recorded, and the parent goes on; the child's run is over."""
    bench = Bench(boss=[call("researcher", task="a"), "Without it, then."], researcher=script)

    result = await bench.run(researcher(**fields))
    again = await bench.run(researcher(**fields))

    ((text, is_error),) = told(result)
    assert is_error
    assert words in text
    assert result.output == "Without it, then."
    assert again == result
    assert not (await bench.kernel.get_run_status(run_id=(await bench.runs())[1])).active


async def test_a_middleware_that_refuses_the_childs_model_is_its_failure() -> None:
    """The parent reads why, and goes on."""

    class NotForChildren(KernelMiddleware):
        async def before_model(self, **fields: Any) -> None:
            if "::" in fields["run_id"]:
                raise PolicyDenied("no models for children")

    bench = Bench(boss=[call("researcher", task="a"), "Done."], researcher=["fact"], middleware=[NotForChildren()])

    result = await bench.run(researcher())

    assert told(result) == [("error: researcher failed: no models for children", True)]


async def test_a_child_whose_model_is_away_is_asked_again_later() -> None:
    """That is no failure of the child: the parent's run waits, and goes on in the child's."""
    bench = Bench(boss=[call("researcher", task="a"), "Done."], researcher=[ModelUnavailable("away")])
    with pytest.raises(ModelUnavailable, match="away"):
        await bench.run(researcher())
    bench.port.scripts["researcher"].script = ("fact",)

    result = await bench.run(researcher())

    assert told(result) == [("fact", False)]
    assert len(bench.port.asked("boss")) == 2
    assert len(await bench.runs()) == 2


async def test_a_child_shares_the_budget() -> None:
    """What the child spends is the tenant's; when it is used up, nothing is recorded as failed and more money helps."""
    poor = TenantContext(tenant_id="t", budget_usd_limit=1.0)
    dear = ModelResult(tool_calls=(call("query_event_history"),), usage=Usage(cost_usd=0.9))
    bench = Bench(boss=[call("researcher", task="a"), "Done."], researcher=[dear, "fact"])

    with pytest.raises(BudgetExceeded):
        await bench.run(researcher(), tenant=poor)
    assert len(bench.port.asked("boss")) == 1
    assert all(event.type != "step.rejected" for event in await bench.store.read("run/r"))
    result = await bench.run(researcher(), tenant=TenantContext(tenant_id="t", budget_usd_limit=9.0))

    assert told(result) == [("fact", False)]
    assert len(bench.port.asked("researcher")) == 2


async def test_an_unknown_outcome_in_a_child_stops_the_parent_too() -> None:
    """Nobody goes on as if it had or had not happened; once it is reconciled, both go on."""
    tools = ToolRegistry()
    paid: list[str] = []

    @tools.tool(side_effect=True)
    async def pay() -> str:
        """Pay, slowly."""
        paid.append("begun")
        await anyio.sleep_forever()
        return "paid"

    bench = Bench(boss=[call("researcher", task="a"), "Done."], researcher=[call("pay"), "It is paid."])
    with anyio.move_on_after(0.3):
        await bench.run(researcher(tools=tools))
    with pytest.raises(OutcomeUnknown):
        await bench.run(researcher(tools=tools))
    await bench.kernel.reconcile_tool(
        run_id=(await bench.runs())[1], tenant=TENANT, tool_name="pay", tools=tools, outcome="completed", result="paid"
    )

    result = await bench.run(researcher(tools=tools))

    assert told(result) == [("It is paid.", False)]
    assert paid == ["begun"]


@pytest.mark.parametrize("ended", ["cancelled", "paused"])
async def test_a_childs_run_that_a_person_stopped(ended: str) -> None:
    """Cancelled, it has failed for its parent; paused, the parent waits until it is resumed."""

    async def stop(request: ModelRequest) -> ToolCall:
        stopped = bench.kernel.cancel_run if ended == "cancelled" else bench.kernel.pause
        await stopped(run_id=request.run_id, reason="a person said so")
        return call("query_event_history")

    bench = Bench(boss=[call("researcher", task="a"), "Done."], researcher=[stop, "fact"])
    if ended == "cancelled":
        result = await bench.run(researcher())
        assert "a person said so" in told(result)[0][0]
        assert told(result)[0][1]
        return
    with pytest.raises(RunNotActive):
        await bench.run(researcher())
    await bench.kernel.resume(run_id=(await bench.runs())[1])

    assert told(await bench.run(researcher())) == [("fact", False)]


async def test_sub_agents_have_a_depth() -> None:
    """Four levels below the first there is nobody to give a task to; that is an answer, not an end."""
    inner = SubAgent(name="d", description="Deepest.", system_prompt="d")
    for name in ("c", "b", "a"):
        inner = SubAgent(name=name, description="Deeper.", system_prompt=name, subagents=[inner])
    bench = Bench(
        boss=[call("a", task="x"), "Done."], a=[call("b", task="x"), "a says"], b=[call("c", task="x"), "b says"],
        c=[call("d", task="x"), lambda request: request.messages[-1].text], d=["never"],
    )  # fmt: skip

    result = await bench.run(inner)

    assert result.completed
    assert "3 levels deep" in bench.port.asked("c")[1].messages[-1].text
    assert bench.port.asked("d") == []
    assert len(await bench.runs()) == 4
    handles = [await bench.kernel.load_run(run_id=run_id) for run_id in await bench.runs()]
    assert {handle.root_run for handle in handles} == {"r"}


async def test_a_child_that_was_interrupted_goes_on() -> None:
    """Cancelled in the middle of the child, the parent comes back to the same child, and nothing is done twice."""
    tools = ToolRegistry()
    looked: list[str] = []

    @tools.tool(side_effect=True)
    async def look() -> str:
        """Look."""
        looked.append("once")
        return "seen"

    async def never(_: ModelRequest) -> str:
        await anyio.sleep_forever()
        return ""

    bench = Bench(boss=[call("researcher", task="a"), "Done."], researcher=[call("look"), never])
    with anyio.move_on_after(0.3):
        await bench.run(researcher(tools=tools))
    bench.port.scripts["researcher"].script = (call("look"), "fact")

    result = await bench.run(researcher(tools=tools))

    assert told(result) == [("fact", False)]
    assert looked == ["once"]
    assert len(await bench.runs()) == 2


async def test_what_makes_no_sub_agent() -> None:
    """It needs a description and a name of its own."""
    with pytest.raises(UsageError, match="description"):
        SubAgent(name="a", description=" ")
    with pytest.raises(UsageError, match="iteration"):
        researcher(max_iterations=0)
    tools = ToolRegistry()

    @tools.tool(name="researcher")
    async def taken() -> None:
        """Has the name."""

    bench = Bench()
    with pytest.raises(UsageError, match=r"'researcher'.*rename"):
        AutonomousAgent(bench.kernel, tools=tools, subagents=[researcher()])
