"""One pass of an agent over its run: ask the model, do what it asks for, make room, until it answers.

Owns what of the run the agent knows while it works, and the result it arrives at. Takes its steps by `steps.AgentSteps`.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import anyio
import msgspec

from harness.agents.compaction import Compacted, CompactionStrategy, replaced, tokens_of
from harness.agents.conversation import said, spoken, unusable
from harness.agents.skills import LOAD_SKILL
from harness.agents.steps import AgentSteps, Used
from harness.errors import ModelMalformed
from harness.kernel import Message, StopReason, ToolCall, Usage

if TYPE_CHECKING:
    from harness.kernel import StepModelResult

MAX_UNUSABLE_ANSWERS = 3  # one after another
_GROWN = 4  # a summary that could not be had is asked for again once the conversation has grown by a quarter


class Outcome(StrEnum):
    """How an agent's run ended."""

    COMPLETED = "completed"
    ITERATION_LIMIT = "iteration_limit"  # it still asked for tools after its last iteration
    CUT_OFF = "cut_off"  # the answer is longer than the model may write
    REFUSED = "refused"  # the model declined to answer


_OUTCOMES: dict[StopReason, Outcome] = {"max_tokens": Outcome.CUT_OFF, "refusal": Outcome.REFUSED}


class AgentResult(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent arrived at. `output` is None unless it completed."""

    run_id: str  # that of a fork, if the replay policy let it go on in one
    outcome: Outcome
    output: Any = None  # an instance of `output_schema`, or the text where none was asked for
    text: str = ""  # the last that the model wrote
    iterations: int = 0
    tool_calls: int = 0
    compactions: int = 0  # how often older turns were replaced by a summary
    usage: Usage = Usage()  # of all iterations and summaries, replayed ones too; its cost is the kernel's figure
    subagent_usage: Usage = Usage(cost_usd=0.0)  # of all sub-agents, and theirs
    messages: tuple[Message, ...] = ()  # the conversation as the model knows it

    @property
    def total_usage(self) -> Usage:
        """With what the sub-agents took."""
        return added(self.usage, self.subagent_usage, self.subagent_usage.cost_usd or 0.0)

    @property
    def completed(self) -> bool:
        return self.outcome is Outcome.COMPLETED


class Progress:
    """One pass over a run: the conversation so far, and what it took.

    Everything in it depends on recorded values alone, so it takes the same way each time.
    """

    def __init__(
        self, steps: AgentSteps, opening: Sequence[Message], compaction: CompactionStrategy | None, at_once: int
    ) -> None:
        self.steps = steps
        self.messages: list[Message] = []
        self.tokens = 0  # estimated, of all messages
        self.iterations = 0
        self.tool_calls = 0
        self.compactions = 0
        self.usage = Usage(cost_usd=0.0)
        self.subagent_usage = Usage(cost_usd=0.0)
        self.loaded: frozenset[str] = frozenset()  # skills
        self._head = len(opening)
        self._compaction = compaction
        self._summaries = 0  # asked for
        self._patient_upto = 0  # tokens, until which no summary is asked for again
        self._at_once = at_once
        self._unusable = 0  # answers one after another
        for message in opening:
            self._add(message)

    def _add(self, message: Message) -> None:
        self.messages.append(message)
        self.tokens += tokens_of(message)

    async def work(self, max_iterations: int) -> AgentResult:
        """The loop."""
        for turn in range(1, max_iterations + 1):
            self.iterations = turn
            await self._make_room()
            answer = await self._think(turn)
            if answer is None:
                continue
            if not self._heard(turn, answer):
                return self._ended(_OUTCOMES.get(answer.stop_reason, Outcome.COMPLETED), answer)
            await self._act(turn)
        return self._ended(Outcome.ITERATION_LIMIT)

    async def _think(self, turn: int) -> StepModelResult | None:
        """The model's answer; None if it did not fit and the model has been told so."""
        try:
            return await self.steps.think(turn, self.messages, self.loaded)
        except ModelMalformed as error:
            self._unusable += 1
            if self._unusable == MAX_UNUSABLE_ANSWERS:
                raise
            self._add(unusable(error, self.steps.result_limit))
            return None

    def _heard(self, turn: int, answer: StepModelResult) -> bool:
        """Take the answer into the conversation. Gives whether it asks for tools."""
        self._unusable = 0
        if answer.run_id != self.steps.run_id:  # asked with other inputs than were recorded, it goes on as a fork
            self.steps = dataclasses.replace(self.steps, run_id=answer.run_id)
        self.usage = added(self.usage, answer.usage, answer.cost_usd)
        self._add(said(answer.message(), turn))
        return bool(answer.tool_calls)

    # Tools

    async def _act(self, turn: int) -> None:
        """Do what the newest answer asks for: side effects in its order, what changes nothing beside its neighbours."""
        calls = list(enumerate(self.messages[-1].tool_calls, 1))
        loaded = self.loaded
        for together, group in itertools.groupby(calls, lambda each: self.steps.toolbox.may_overlap(each[1].name, loaded)):
            if together and self._at_once > 1:
                await self._at_the_same_time(turn, list(group), loaded)
            else:
                for number, call in group:
                    self._took(call, await self.steps.use(turn, number, call, loaded))

    async def _at_the_same_time(self, turn: int, calls: list[tuple[int, ToolCall]], loaded: frozenset[str]) -> None:
        """Calls in a task group. Each comes to its end, also if another one keeps the agent waiting."""
        if len(calls) == 1:
            self._took(calls[0][1], await self.steps.use(turn, *calls[0], loaded))
            return
        used: dict[int, Used | Exception] = {}
        limit = anyio.CapacityLimiter(self._at_once)

        async def use(number: int, call: ToolCall) -> None:
            async with limit:
                try:
                    used[number] = await self.steps.use(turn, number, call, loaded)
                except Exception as error:  # noqa: BLE001 - raised below, the first in the order of the calls
                    used[number] = error

        async with anyio.create_task_group() as group:
            for number, call in calls:
                group.start_soon(use, number, call)
        for number, call in calls:
            one = used[number]
            if isinstance(one, Exception):
                raise one
            self._took(call, one)

    def _took(self, call: ToolCall, used: Used) -> None:
        self._add(used.message)
        self.tool_calls += 1
        if used.delegated is not None:
            usage = used.delegated.usage
            self.subagent_usage = added(self.subagent_usage, usage, usage.cost_usd or 0.0)
        if call.name == LOAD_SKILL and not used.message.is_error:
            self.loaded |= {str(call.arguments().get("name"))}

    # Room

    async def _make_room(self) -> None:
        """Replace older turns by a summary, if the conversation is over its budget."""
        strategy, size = self._compaction, len(self.messages)
        if strategy is None or self.tokens <= self._patient_upto or not strategy.due(tokens=self.tokens, messages=size):
            return
        at = strategy.cut(self.messages, self._head)
        if at == self._head:
            return
        self._summaries += 1
        compacted = await self.steps.compact(self._summaries, strategy, self.messages[self._head : at])
        self.usage = added(self.usage, compacted.usage, compacted.cost_usd)
        if compacted.summary or strategy.hopeless(tokens=self.tokens, messages=size):
            self._replace(at, compacted)
        else:
            self._patient_upto = self.tokens + max(1, self.tokens // _GROWN)

    def _replace(self, at: int, compacted: Compacted) -> None:
        messages = replaced(self.messages, self._head, at, compacted)
        self.messages, self.tokens, self._patient_upto = [], 0, 0
        self.compactions += 1
        for message in messages:
            self._add(message)

    def _ended(self, outcome: Outcome, answer: StepModelResult | None = None) -> AgentResult:
        output = None
        if answer is not None and outcome is Outcome.COMPLETED:
            output = answer.text if self.steps.output_schema is None else answer.output
        return AgentResult(
            run_id=self.steps.run_id, outcome=outcome, output=output, text=spoken(self.messages), iterations=self.iterations,
            tool_calls=self.tool_calls, compactions=self.compactions, usage=self.usage, subagent_usage=self.subagent_usage,
            messages=tuple(self.messages),
        )  # fmt: skip


def added(sum_: Usage, one: Usage, cost_usd: float) -> Usage:
    """The sum with one more."""
    return Usage(
        input_tokens=sum_.input_tokens + one.input_tokens,
        output_tokens=sum_.output_tokens + one.output_tokens,
        cache_read_tokens=sum_.cache_read_tokens + one.cache_read_tokens,
        cache_write_tokens=sum_.cache_write_tokens + one.cache_write_tokens,
        cost_usd=(sum_.cost_usd or 0.0) + cost_usd,
    )
