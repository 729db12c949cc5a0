"""Conversations that are too long: summarised, bounded, and the same again on replay."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest

from harness.agents import AgentResult, AutonomousAgent, CompactionStrategy
from harness.errors import BudgetExceeded, ModelUnavailable, PolicyDenied, UsageError
from harness.kernel import Kernel, KernelMiddleware, KernelPolicy, TenantContext, ToolRegistry
from harness.kernel.ports import Line, Message, ModelRequest, ModelResult, ScriptedModelPort, ToolCall, Usage
from harness.ledger import MemoryStore

TENANT = TenantContext(tenant_id="t")
SMALL = CompactionStrategy(trigger_at_tokens=2_000, keep_recent_tokens=400, max_summary_tokens=100)


def asks_for_summary(request: ModelRequest) -> bool:
    return "transcript of an agent's work" in request.messages[0].text


class Worker:
    """A model that notes something in every turn and gives summaries; `summary` answers when it is asked for one."""

    def __init__(self, turns: int, summary: Line = "the gist", *, size: int = 200) -> None:
        self.turns, self.summary, self.size = turns, summary, size
        self.done = 0
        self.sent: list[int] = []  # characters of each turn's request
        self.summaries: list[ModelRequest] = []
        self.turn_requests: list[ModelRequest] = []

    async def complete(self, request: ModelRequest) -> ModelResult:
        if asks_for_summary(request):
            self.summaries.append(request)
            return await ScriptedModelPort([self.summary]).complete(request)
        self.sent.append(sum(len(message.text) for message in request.messages))
        self.turn_requests.append(request)
        if self.done == self.turns:
            return ModelResult(text="Done.")
        self.done += 1
        arguments = json.dumps({"text": f"{self.done}:" + "y" * self.size})
        call = ToolCall(id=f"c{self.done}", name="note", arguments_json=arguments)
        return ModelResult(tool_calls=(call,), usage=Usage(input_tokens=1))


class Bench:
    def __init__(self, port: Any, strategy: CompactionStrategy | None = SMALL, *middleware: Any) -> None:
        self.store = MemoryStore()
        self.port, self.strategy = port, strategy
        self.kernel = Kernel(store=self.store, model_port=port, policy=KernelPolicy(model_attempts=1), middleware=middleware)
        self.notes = 0
        self.tools = ToolRegistry()

        @self.tools.tool
        async def note(text: str) -> str:
            """Take a note."""
            self.notes += 1
            return "noted " + text

    async def run(self, turns: int, *, run_id: str = "r", tenant: TenantContext = TENANT) -> AgentResult:
        agent = AutonomousAgent(self.kernel, tools=self.tools, compaction=self.strategy)
        return await agent.run(
            run_id=run_id, tenant=tenant, model="m", system_prompt="Be brief.", prompt="Work.", max_iterations=turns + 1
        )

    async def recorded(self, run_id: str = "r") -> list[int]:
        return [len(event.data or b"") for event in await self.store.read(f"run/{run_id}")]


async def test_200_turns_record_and_send_an_amount_that_is_linear() -> None:
    """Twice the turns take twice the bytes on the ledger and twice the characters to the model, and no turn grows."""

    async def measured(turns: int) -> tuple[int, int, int, int]:
        worker = Worker(turns)
        bench = Bench(worker)
        result = await bench.run(turns)
        assert result.completed
        assert result.compactions > turns // 20
        sizes = await bench.recorded()
        return sum(sizes), max(sizes), sum(worker.sent), max(worker.sent)

    half, most, sent_half, longest = await measured(100)
    full, most_of_all, sent_full, longest_of_all = await measured(200)

    assert 1.8 * half < full < 2.2 * half
    assert sent_full < 2.2 * sent_half
    assert most_of_all <= 1.1 * most
    assert longest_of_all <= 1.1 * longest < 4 * 2_000 * 1.3


async def test_between_compactions_the_conversation_only_grows_at_its_end() -> None:
    """What was sent is sent again unchanged, and after a compaction the opening and the newest turns stay."""
    worker = Worker(60)
    result = await Bench(worker).run(60)

    shortened = 0
    for before, after in itertools.pairwise(worker.turn_requests):
        if after.messages[: len(before.messages)] != before.messages:
            shortened += 1
            assert after.messages[:2] == before.messages[:2]
            assert after.messages[2].role == "user"
            assert after.messages[2].text.endswith("\nthe gist")
            assert after.messages[-1] not in before.messages
            assert before.messages[-2:] == after.messages[-4:-2]
    assert shortened == result.compactions == len(worker.summaries) > 2


async def test_a_call_and_its_result_are_never_torn_apart() -> None:
    """In every request each result follows its call, and each call of an earlier turn has its result."""
    worker = Worker(60)
    await Bench(worker).run(60)

    for request in worker.turn_requests:
        called = [call.id for message in request.messages for call in message.tool_calls]
        answered = [message.tool_call_id for message in request.messages if message.role == "tool"]
        assert called == answered


async def test_a_summary_is_asked_for_without_tools_and_contains_the_one_before() -> None:
    """The summariser sees the older turns as a transcript, beginning with the earlier summary."""
    worker = Worker(60)
    await Bench(worker).run(60)

    first, second, *_ = worker.summaries
    assert (first.tools, first.options.max_tokens) == ((), 100)
    assert "[agent calls note]" in first.prompt
    assert "[note gave] noted 1:" in first.prompt
    assert "the gist" not in first.prompt
    assert second.prompt.startswith("[Summary of your work so far")
    assert "the gist" in second.prompt


async def test_run_again_it_summarises_nothing_and_writes_nothing() -> None:
    """Summaries are recorded, so another pass builds the same conversation from the ledger."""
    worker = Worker(60)
    bench = Bench(worker)
    result = await bench.run(60)
    before = await bench.recorded()

    again = await bench.run(60)

    assert again == result
    assert await bench.recorded() == before
    assert bench.notes == 60
    assert len(worker.turn_requests) == 61


async def test_another_model_may_summarise_and_what_it_costs_counts() -> None:
    """The summariser is named in the strategy; its usage is part of the result's."""
    costly = ModelResult(text="the gist", usage=Usage(output_tokens=7, cost_usd=0.25))
    worker = Worker(30, costly)
    strategy = CompactionStrategy(trigger_at_tokens=2_000, keep_recent_tokens=400, summarize_with_model="small")
    result = await Bench(worker, strategy).run(30)

    assert {request.model for request in worker.summaries} == {"small"}
    assert {request.model for request in worker.turn_requests} == {"m"}
    assert result.usage.output_tokens == 7 * result.compactions
    assert result.usage.cost_usd == pytest.approx(0.25 * result.compactions)


@pytest.mark.parametrize("answer", [ModelUnavailable("away"), "   ", RuntimeError("broken port")])
async def test_a_summary_that_cannot_be_had_does_not_end_the_run(answer: Line) -> None:
    """The conversation goes on, is not asked about in every turn, and stays bounded; run again it is the same."""
    worker = Worker(80, answer)
    bench = Bench(worker)

    result = await bench.run(80)
    asked, before = len(worker.summaries), await bench.recorded()
    again = await bench.run(80)

    assert result.completed
    assert max(worker.sent) < 4 * 2_000 * 2.5
    assert any("earlier messages are left out here" in message.text for message in result.messages)
    assert result.compactions < asked < 40
    assert again == result
    assert (len(worker.summaries), await bench.recorded()) == (asked, before)


async def test_a_refused_summary_stays_refused_on_replay() -> None:
    """A middleware that would allow it by now does not change what the conversation was."""

    class NoSummaries(KernelMiddleware):
        refuses = True

        async def before_model(self, **fields: Any) -> None:
            if self.refuses and fields["model"] == "small":
                raise PolicyDenied("no summaries today")

    middleware = NoSummaries()
    strategy = CompactionStrategy(trigger_at_tokens=2_000, keep_recent_tokens=400, summarize_with_model="small")
    worker = Worker(20)
    bench = Bench(worker, strategy, middleware)
    result = await bench.run(20)
    middleware.refuses = False

    again = await bench.run(20)

    assert (result.completed, result.compactions, worker.summaries) == (True, 0, [])
    assert again == result


async def test_a_summary_that_the_budget_does_not_allow_is_made_later() -> None:
    """The run waits for money as it does in a turn, and goes on where it was."""
    worker = Worker(24, ModelResult(text="the gist", usage=Usage(cost_usd=0.01)))

    class Poor(KernelMiddleware):
        poor = True

        async def before_model(self, **fields: Any) -> None:
            if self.poor and fields["step"].endswith("/summary"):
                raise BudgetExceeded("no money left")

    poor = Poor()
    bench = Bench(worker, SMALL, poor)
    with pytest.raises(BudgetExceeded, match="no money left"):
        await bench.run(24)
    poor.poor = False

    result = await bench.run(24)

    assert result.completed
    assert result.compactions > 0
    assert bench.notes == 24


async def test_without_a_strategy_nothing_is_summarised() -> None:
    """None switches compaction off; the default is far above a short run."""
    worker = Worker(30)

    result = await Bench(worker, None).run(30)

    assert (result.compactions, worker.summaries) == (0, [])
    assert len(result.messages) == 2 + 60 + 1


async def test_a_limit_of_messages() -> None:
    """A strategy may count messages instead of tokens."""
    strategy = CompactionStrategy(trigger_at_messages=12, keep_recent_messages=4)
    worker = Worker(30)

    await Bench(worker, strategy).run(30)

    assert max(len(request.messages) for request in worker.turn_requests) <= 13
    assert len(worker.summaries) > 4


def test_what_makes_no_strategy() -> None:
    """A limit that could never be kept is refused with the reason."""
    for wrong in (
        {"trigger_at_tokens": 0},
        {"trigger_at_tokens": 100, "keep_recent_tokens": 60},
        {"trigger_at_messages": 2},
        {"trigger_at_messages": 10, "keep_recent_messages": 8},
        {"max_summary_tokens": 0},
    ):
        with pytest.raises(UsageError, match=r"at (least|most)"):
            CompactionStrategy(**wrong)


def test_where_a_conversation_is_cut() -> None:
    """Before a turn, never before a result; not at all if little would be gained; the newest turn always stays."""
    call = ToolCall(id="a", name="note")
    long = "y" * 4_000
    turns = [Message.assistant("", tool_calls=[call]), Message.tool(call, long)]
    messages = [Message.user("task"), *turns, *turns, *turns]

    assert CompactionStrategy(trigger_at_tokens=2_500, keep_recent_tokens=1_100).cut(messages, 1) == 5
    assert CompactionStrategy(trigger_at_tokens=2_500, keep_recent_tokens=0).cut(messages, 1) == 5
    assert CompactionStrategy(trigger_at_tokens=90_000).cut(messages, 1) == 1
    assert CompactionStrategy(trigger_at_tokens=2_500, keep_recent_tokens=0).cut(messages[:3], 1) == 1
