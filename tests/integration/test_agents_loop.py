"""The agent's loop on a real kernel and ledger, with scripted models."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from pydantic import BaseModel

from harness.agents import AutonomousAgent, Outcome
from harness.errors import ModelMalformed, ModelUnavailable, OutcomeUnknown, ReplayConsistencyError, RunNotActive, UsageError
from harness.kernel import Kernel, KernelPolicy, TenantContext, ToolRegistry
from harness.kernel.ports import Line, Message, ModelRequest, ModelResult, ScriptedModelPort, ToolCall, Usage
from harness.ledger import MemoryStore, SQLiteStore, Store

TENANT = TenantContext(tenant_id="t")
OF_EVERY_AGENT = {"query_event_history"}
OF_MEMORY = {"forget", "recall", "remember"}


class Verdict(BaseModel):
    healthy: bool


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    store = MemoryStore() if request.param == "memory" else SQLiteStore(tmp_path / "h.db", durability="process")
    yield store
    await store.close()


def call(name: str, id: str = "", **arguments: Any) -> ToolCall:
    return ToolCall(id=id or f"{name}-id", name=name, arguments_json=json.dumps(arguments))


class Bench:
    """A kernel on a store, with a script, a registry of run-time tools and what they did."""

    def __init__(self, store: Store, *script: Line, by_history: bool = False) -> None:
        self.store = store
        self.port = ScriptedModelPort(script, by_history=by_history)
        self.kernel = Kernel(store=store, model_port=self.port, policy=KernelPolicy(model_attempts=1))
        self.done: list[str] = []
        self.tools = ToolRegistry()

        @self.tools.tool
        async def note(text: str) -> str:
            """Take a note."""
            self.done.append(text)
            return f"noted {text}"

        @self.tools.tool
        async def fail() -> None:
            """Always fails."""
            raise RuntimeError("the disk is on fire")

        @self.tools.tool(requires_capability="root")
        async def reboot() -> None:
            """Not for everybody."""
            self.done.append("reboot")

    async def run(
        self, *, run_id: str = "r", prompt: str = "Is it up?", agent: AutonomousAgent | None = None, **fields: Any
    ) -> Any:
        agent = agent or AutonomousAgent(self.kernel, tools=self.tools)
        return await agent.run(run_id=run_id, tenant=TENANT, model="m", system_prompt="Be brief.", prompt=prompt, **fields)

    async def events(self, run_id: str = "r") -> list[str]:
        return [event.type for event in await self.store.read(f"run/{run_id}")]


def results(request: ModelRequest) -> list[tuple[str, bool]]:
    return [(message.text, message.is_error) for message in request.messages if message.role == "tool"]


async def test_an_answer_at_once(store: Store) -> None:
    """Without tool calls the first answer is the result."""
    bench = Bench(store, ModelResult(text="It is up.", usage=Usage(input_tokens=5, output_tokens=2)))

    result = await bench.run()

    assert (result.outcome, result.output, result.text) == (Outcome.COMPLETED, "It is up.", "It is up.")
    assert (result.iterations, result.tool_calls, result.usage.total_tokens) == (1, 0, 7)
    assert bench.port.requests[0].messages == (Message.system("Be brief."), Message.user("Is it up?"))
    assert {tool.name for tool in bench.port.requests[0].tools} == {"fail", "note"} | OF_EVERY_AGENT | OF_MEMORY


async def test_tools_are_called_in_order_and_their_results_are_read(store: Store) -> None:
    """Every call of a turn gets its result, under its id, before the model is asked again."""
    asked = ModelResult(text="Let me see.", tool_calls=(call("note", "a", text="x"), call("note", "b", text="y")))
    bench = Bench(store, asked, "Done.")

    result = await bench.run()

    assert bench.done == ["x", "y"]
    assert result.tool_calls == 2
    assert bench.port.requests[1].messages[2:] == (
        Message(role="assistant", text="Let me see.", tool_calls=asked.tool_calls),
        Message.tool(asked.tool_calls[0], "noted x"),
        Message.tool(asked.tool_calls[1], "noted y"),
    )
    assert result.messages[-1] == Message.assistant("Done.")


async def test_what_goes_wrong_with_a_tool_is_its_result(store: Store) -> None:
    """A tool's error, bad arguments, an unknown tool and a forbidden one go back to the model, and the run goes on."""
    wrong = ModelResult(
        tool_calls=(
            call("fail"),
            call("note", "1", txt="x"),
            ToolCall(id="2", name="note", arguments_json="{not json"),
            call("nothing_like_it"),
            call("reboot"),
        )
    )
    bench = Bench(store, wrong, "I see.")

    result = await bench.run()

    assert result.completed
    told = results(bench.port.requests[1])
    assert all(is_error for _, is_error in told)
    for (text, _), expected in zip(told, ("on fire", "txt", "no JSON object", "nothing_like_it", "root"), strict=True):
        assert expected in text
        assert "\n" not in text
    assert bench.done == []


async def test_an_agent_sees_and_calls_only_what_is_visible(store: Store) -> None:
    """A tool that is not visible is neither shown nor callable."""
    bench = Bench(store, call("note", text="x"), "Done.")
    agent = AutonomousAgent(bench.kernel, tools=bench.tools, visible_tool_names=["fail"])

    await bench.run(agent=agent)

    assert {tool.name for tool in bench.port.requests[0].tools} == {"fail"} | OF_EVERY_AGENT
    assert results(bench.port.requests[1])[0][1]
    assert bench.done == []


async def test_a_structured_answer_is_checked(store: Store) -> None:
    """The final answer is an instance of the asked type; tool calls before it need not be."""
    bench = Bench(store, call("note", text="x"), '{"healthy": true}')

    result = await bench.run(output_schema=Verdict)

    assert result.output == Verdict(healthy=True)
    assert bench.port.requests[0].output_schema is Verdict


async def test_an_answer_that_does_not_fit_is_sent_back(store: Store) -> None:
    """The model is told what is wrong and may answer again; on replay the same happens without asking."""
    bench = Bench(store, '{"healthy": "perhaps"}', '{"healthy": false}')

    result = await bench.run(output_schema=Verdict)
    again = await bench.run(output_schema=Verdict)

    assert result.output == Verdict(healthy=False)
    assert result.iterations == 2
    assert "healthy" in bench.port.requests[1].prompt
    assert again == result
    assert len(bench.port.requests) == 2


async def test_answers_that_never_fit_end_the_run(store: Store) -> None:
    """Three unusable answers in a row are the model's failure."""
    bench = Bench(store, "no", "no", "no", '{"healthy": true}')

    with pytest.raises(ModelMalformed):
        await bench.run(output_schema=Verdict)

    assert len(bench.port.requests) == 3


async def test_only_unusable_answers_in_a_row_count(store: Store) -> None:
    """A model that came to its senses in between has its chances again."""
    bench = Bench(store, "no", "no", call("note", text="x"), "no", "no", '{"healthy": true}')

    result = await bench.run(output_schema=Verdict)

    assert result.output == Verdict(healthy=True)
    assert result.iterations == 6


async def test_the_iteration_limit_is_an_outcome(store: Store) -> None:
    """An agent that goes on asking stops after its last iteration, with what it did done."""
    bench = Bench(store, *(call("note", f"c{n}", text=str(n)) for n in range(9)))

    result = await bench.run(max_iterations=4)

    assert (result.outcome, result.output, result.iterations) == (Outcome.ITERATION_LIMIT, None, 4)
    assert bench.done == ["0", "1", "2", "3"]
    with pytest.raises(UsageError):
        await bench.run(run_id="other", max_iterations=0)


@pytest.mark.parametrize(
    ("stop_reason", "outcome"),
    [("max_tokens", Outcome.CUT_OFF), ("refusal", Outcome.REFUSED), ("stop_sequence", Outcome.COMPLETED)],
)
async def test_an_answer_that_is_none_says_so(store: Store, stop_reason: Any, outcome: Outcome) -> None:
    """Half an answer and a refusal are not taken for an answer."""
    result = await Bench(store, ModelResult(text="I am", stop_reason=stop_reason)).run()

    assert result.outcome is outcome
    assert result.output == ("I am" if outcome is Outcome.COMPLETED else None)
    assert result.text == "I am"


async def test_run_again_it_calls_nothing_and_writes_nothing(store: Store) -> None:
    """After its end the same run gives the same result from the ledger, in another kernel too."""
    first = Bench(store, call("note", text="x"), "Done.")
    result = await first.run()
    await first.kernel.close() if isinstance(store, SQLiteStore) else None
    before = await first.events()

    second = Bench(store if isinstance(store, MemoryStore) else SQLiteStore(store.path, durability="process"))
    again = await second.run()

    assert again == result
    assert second.port.requests == []
    assert second.done == []
    assert await second.events() == before
    await second.kernel.close()


async def test_other_inputs_under_the_same_run_are_refused(store: Store) -> None:
    """A run is what it was: another prompt needs another run."""
    bench = Bench(store, "Done.")
    await bench.run()

    with pytest.raises(ReplayConsistencyError):
        await bench.run(prompt="Is it down?")


async def test_other_inputs_may_go_on_in_a_fork(store: Store) -> None:
    """Under `fork_on_drift` everything after the other question happens in the fork, and again the same."""
    bench = Bench(store, call("note", text="x"), "It is up.", by_history=True)
    before = await bench.run()
    size = len(await bench.events())
    agent = AutonomousAgent(bench.kernel, tools=bench.tools, replay_policy="fork_on_drift")

    forked = await bench.run(agent=agent, prompt="Is it down?")
    again = await bench.run(agent=agent, prompt="Is it down?")

    assert forked.run_id.startswith("r::fork::")
    assert (forked.output, bench.done) == ("It is up.", ["x", "x"])
    assert again == forked
    assert (await bench.kernel.get_run_status(run_id=forked.run_id)).status == "completed"
    assert (await bench.events())[size:] == ["run.forked"]
    assert await bench.run(agent=agent) == before


async def test_a_provider_that_was_away_is_asked_again(store: Store) -> None:
    """A failure of the provider ends this attempt; the next one goes on from there and repeats nothing."""
    bench = Bench(store, call("note", text="x"), ModelUnavailable("away"), ModelUnavailable("still away"), "Done.")

    with pytest.raises(ModelUnavailable, match=r"^away"):
        await bench.run()
    with pytest.raises(ModelUnavailable, match="still away"):
        await bench.run()
    result = await bench.run()

    assert result.output == "Done."
    assert bench.done == ["x"]
    assert len(bench.port.requests) == 4


async def test_cancelled_in_a_model_call_it_can_go_on(store: Store) -> None:
    """Cancelling leaves a run in which everything that ended stays ended."""

    async def never(_: ModelRequest) -> str:
        await anyio.sleep_forever()
        return ""

    bench = Bench(store, call("note", text="x"), never, "Done.")

    with anyio.move_on_after(0.2) as scope:
        await bench.run()
    result = await bench.run()

    assert scope.cancelled_caught
    assert result.output == "Done."
    assert bench.done == ["x"]


async def test_cancelled_in_a_side_effect_it_must_be_reconciled(store: Store) -> None:
    """Nobody knows whether the effect happened, so the agent does not go on as if it had or had not."""
    bench = Bench(store, call("pay"), "Done.")

    @bench.tools.tool(side_effect=True)
    async def pay() -> str:
        """Pay, slowly."""
        bench.done.append("paying")
        await anyio.sleep_forever()
        return "paid"

    with anyio.move_on_after(0.2):
        await bench.run()
    with pytest.raises(OutcomeUnknown):
        await bench.run()

    assert bench.done == ["paying"]


async def test_a_cancelled_run_is_over(store: Store) -> None:
    """After cancel_run the agent neither thinks nor acts."""
    bench = Bench(store, "never said")
    await bench.kernel.start_run(tenant=TENANT, run_id="r")
    await bench.kernel.cancel_run(run_id="r", reason="enough")

    with pytest.raises(RunNotActive):
        await bench.run()

    assert bench.port.requests == []


async def test_two_agents_on_one_kernel_share_no_tools(store: Store) -> None:
    """Each sees its own tools only, also of one name, also at once; the kernel keeps none of them."""
    seen: list[str] = []

    def registry(whose: str) -> ToolRegistry:
        tools = ToolRegistry()

        @tools.tool(name="write")
        async def write() -> str:
            """Write down whose it is."""
            seen.append(whose)
            return whose

        @tools.tool(name=f"only_{whose}")
        async def only() -> str:
            """Only one of them has it."""
            return whose

        return tools

    script: list[Line] = [call("write"), call("only_b"), "Done."]
    bench = Bench(store, *script, by_history=True)
    requests = bench.port.requests

    async def work(whose: str) -> Any:
        agent = AutonomousAgent(bench.kernel, tools=registry(whose))
        return await bench.run(run_id=f"run-{whose}", prompt=whose, agent=agent)

    found: dict[str, Any] = {}

    async def keep(whose: str) -> None:
        found[whose] = await work(whose)

    async with anyio.create_task_group() as group:
        group.start_soon(keep, "a")
        group.start_soon(keep, "b")

    assert sorted(seen) == ["a", "b"]
    for whose in ("a", "b"):
        shown = [{tool.name for tool in r.tools} for r in requests if r.messages[1].text == whose]
        assert shown == [{f"only_{whose}", "write"} | OF_EVERY_AGENT | OF_MEMORY] * 3
        told = [(m.text, m.is_error) for m in found[whose].messages if m.role == "tool"]
        assert told[0] == (whose, False)
        assert told[1][1] is (whose == "a")
    assert bench.kernel.list_tools_for_tenant(tenant=TENANT) == ()


async def test_two_agents_in_one_run_have_names(store: Store) -> None:
    """Steps of agents with different names never meet; the one that may end the run ends it."""
    bench = Bench(store, "first", "second")

    first = await bench.run(agent=AutonomousAgent(bench.kernel, name="drafter"), finish=False)
    between = await bench.kernel.get_run_status(run_id="r")
    second = await bench.run(agent=AutonomousAgent(bench.kernel, name="reviewer"))
    after = await bench.kernel.get_run_status(run_id="r")

    assert (first.output, second.output) == ("first", "second")
    assert (between.status, after.status, after.reason) == ("active", "completed", "completed")


async def test_a_flood_of_text_is_shortened(store: Store) -> None:
    """A result that would fill the context loses its middle, for the model only; the ledger has all of it."""
    bench = Bench(store, call("flood"), "Done.")

    @bench.tools.tool
    async def flood() -> str:
        """Very much."""
        return "x" * 100_000

    await bench.run()

    ((text, _),) = results(bench.port.requests[1])
    assert len(text) < 21_000
    assert "80000 of 100000 characters left out" in text


async def test_the_conversation_only_grows_at_its_end_and_the_ledger_with_it(store: Store) -> None:
    """Each request begins with the one before, and twice the turns take about twice the bytes, not four times."""

    async def size(turns: int) -> int:
        run_id = f"r{turns}"
        bench = Bench(store, *(call("note", f"c{n}", text="y" * 400) for n in range(turns)), "Done.")
        await bench.run(run_id=run_id, max_iterations=turns + 1)
        requests = bench.port.requests
        for before, after in itertools.pairwise(requests):
            assert after.messages[: len(before.messages)] == before.messages
        return sum(len(event.data or b"") for event in await store.read(f"run/{run_id}"))

    short, long = await size(20), await size(40)

    assert long < 2.3 * short
