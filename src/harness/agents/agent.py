"""The in-process agent: a loop of recorded steps, ask the model, do what it asks for, until it answers.

Owns the loop and nothing else: what is recorded, replayed, refused and paid for is the kernel's, what the model reads
is `conversation`'s. The agent keeps no state of its own between steps, so a run that was killed anywhere goes on by
being run again: every step that has ended is taken from the ledger, and the first one that has not is executed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from harness.agents.conversation import opening, said, spoken, unusable
from harness.agents.steps import AgentSteps
from harness.errors import ModelMalformed, RunNotActive, UsageError
from harness.kernel.ports import Message, ModelCallOptions, OutputSchema, StopReason, Usage

if TYPE_CHECKING:
    from harness.kernel import Kernel, ReplayPolicy, StepModelResult, TenantContext, ToolRegistry

MAX_RESULT_CHARACTERS = 20_000
MAX_UNUSABLE_ANSWERS = 3  # one after another


class Outcome(StrEnum):
    """How an agent's run ended."""

    COMPLETED = "completed"
    ITERATION_LIMIT = "iteration_limit"  # it still asked for tools after its last iteration
    CUT_OFF = "cut_off"  # the answer is longer than the model may write
    REFUSED = "refused"  # the model declined to answer


_OUTCOMES: dict[StopReason, Outcome] = {"max_tokens": Outcome.CUT_OFF, "refusal": Outcome.REFUSED}


class AgentResult(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent arrived at. `output` is None unless it completed."""

    run_id: str
    outcome: Outcome
    output: Any = None  # an instance of `output_schema`, or the text where none was asked for
    text: str = ""  # the last that the model wrote
    iterations: int = 0
    tool_calls: int = 0
    usage: Usage = Usage()  # of all iterations, replayed ones too; its cost is the kernel's figure
    messages: tuple[Message, ...] = ()  # the whole conversation

    @property
    def completed(self) -> bool:
        return self.outcome is Outcome.COMPLETED


class ToolBundle(Protocol):
    """Something that has tools for an agent: a `ToolRegistry`, or an object that makes one."""

    def registry(self) -> ToolRegistry: ...


class AutonomousAgent:
    """Works on a prompt with tools until it has an answer. One object may work on any number of runs at once.

    `tools` are the agent's own, beside those registered on the kernel: they exist for its steps only, so two agents
    on one kernel never see each other's. `visible_tool_names` limits which tools it may see and call. `name` is the
    scope of its steps, and so tells several agents in one run apart. A tool's result is shown to the model up to
    `max_result_characters`; the ledger has all of it.
    """

    def __init__(
        self,
        kernel: Kernel,
        *,
        name: str = "agent",
        tools: ToolBundle | None = None,
        visible_tool_names: Collection[str] | None = None,
        model_options: ModelCallOptions | None = None,
        replay_policy: ReplayPolicy = "strict",
        max_result_characters: int = MAX_RESULT_CHARACTERS,
    ) -> None:
        self.kernel = kernel
        self.name = name
        self._tools = None if tools is None else tools.registry()
        self._visible = None if visible_tool_names is None else frozenset(visible_tool_names)
        self._options = model_options
        self._replay_policy: ReplayPolicy = replay_policy
        self._limit = max_result_characters

    async def run(
        self,
        *,
        run_id: str,
        tenant: TenantContext,
        model: str,
        system_prompt: str,
        prompt: str,
        output_schema: OutputSchema | None = None,
        max_iterations: int = 15,
        finish: bool = True,
    ) -> AgentResult:
        """Start the run, or go on with it from where it is, and return when the model has answered.

        Run again with the same inputs after a crash it repeats no ended step; run again after its end it gives the
        same result, calls nothing and writes nothing. Errors of tools, bad arguments, unknown and forbidden tools go
        back to the model. With `finish` the kernel's run is over when the agent has a result, whatever its outcome;
        without it the caller may go on in the run.

        Raises what the kernel raises for the run itself: `ModelError` when the model is away (a later call tries
        again), `OutcomeUnknown` for a side effect that must be reconciled first, `BudgetExceeded`, `RunNotActive`,
        `ReplayConsistencyError`. Cancelling it leaves a run that can go on.
        """
        if max_iterations < 1:
            raise UsageError(f"an agent needs at least one iteration, not {max_iterations}")
        await self.kernel.open_run(tenant=tenant, run_id=run_id)
        steps = AgentSteps(
            kernel=self.kernel, run_id=run_id, tenant=tenant, model=model, output_schema=output_schema, tools=self._tools,
            visible=self._visible, options=self._options, replay_policy=self._replay_policy, result_limit=self._limit,
        )  # fmt: skip
        with self.kernel.scope(self.name):
            result = await _work(steps, opening(system_prompt, prompt), max_iterations)
        if finish and (await self.kernel.get_run_status(run_id=run_id)).active:
            with contextlib.suppress(RunNotActive):  # somebody else was faster
                await self.kernel.finish_run(run_id=run_id, tenant=tenant, reason=result.outcome)
        return result


async def _work(steps: AgentSteps, messages: list[Message], max_iterations: int) -> AgentResult:
    """The loop. Everything in it depends on recorded values alone, so it takes the same way each time."""
    progress = _Progress(steps, messages)
    for turn in range(1, max_iterations + 1):
        progress.iterations = turn
        answer = await progress.think(turn)
        if answer is None:
            continue
        if not progress.heard(turn, answer):
            return progress.ended(_OUTCOMES.get(answer.stop_reason, Outcome.COMPLETED), answer)
        await progress.act(turn)
    return progress.ended(Outcome.ITERATION_LIMIT)


class _Progress:
    """One pass over a run: the conversation so far, and what it took."""

    def __init__(self, steps: AgentSteps, messages: list[Message]) -> None:
        self.steps = steps
        self.messages = messages
        self.iterations = 0
        self.tool_calls = 0
        self.usage = Usage(cost_usd=0.0)
        self._unusable = 0  # answers one after another

    async def think(self, turn: int) -> StepModelResult | None:
        """The model's answer; None if it did not fit and the model has been told so."""
        try:
            return await self.steps.think(turn, self.messages)
        except ModelMalformed as error:
            self._unusable += 1
            if self._unusable == MAX_UNUSABLE_ANSWERS:
                raise
            self.messages.append(unusable(error, self.steps.result_limit))
            return None

    def heard(self, turn: int, answer: StepModelResult) -> bool:
        """Take the answer into the conversation. Gives whether it asks for tools."""
        self._unusable = 0
        self.usage = added(self.usage, answer.usage, answer.cost_usd)
        self.messages.append(said(answer.message(), turn))
        return bool(answer.tool_calls)

    async def act(self, turn: int) -> None:
        """Do what the newest answer asks for, in its order."""
        for number, call in enumerate(self.messages[-1].tool_calls, 1):
            self.messages.append(await self.steps.use(turn, number, call))
            self.tool_calls += 1

    def ended(self, outcome: Outcome, answer: StepModelResult | None = None) -> AgentResult:
        output = None
        if answer is not None and outcome is Outcome.COMPLETED:
            output = answer.text if self.steps.output_schema is None else answer.output
        return AgentResult(
            run_id=self.steps.run_id, outcome=outcome, output=output, text=spoken(self.messages), iterations=self.iterations,
            tool_calls=self.tool_calls, usage=self.usage, messages=tuple(self.messages),
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
