"""The in-process agent: a loop of recorded steps, ask the model, do what it asks for, until it answers.

Owns what an agent is made of; the loop itself is in `loop`, what the model reads in `conversation`. What is recorded,
replayed, refused and paid for is the kernel's. The agent keeps no state of its own between steps, so a run that was
killed anywhere goes on by being run again: every step that has ended is taken from the ledger, and the first one that
has not is executed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from harness.agents.compaction import CompactionStrategy
from harness.agents.context import ContextBuilder, ContextRequest
from harness.agents.loop import AgentResult, Outcome, Progress
from harness.agents.memory import Memory, MemoryScope
from harness.agents.skills import Skill, skills_of
from harness.agents.steps import AgentSteps
from harness.agents.subagents import PRESENT_MODEL, SubAgent
from harness.agents.toolbox import Toolbox
from harness.errors import RunNotActive, UsageError
from harness.kernel import Message, ModelCallOptions, OutputSchema

if TYPE_CHECKING:
    from harness.kernel import Kernel, ReplayPolicy, TenantContext, ToolRegistry

__all__ = ["AgentResult", "AutonomousAgent", "Outcome", "ToolBundle"]

MAX_RESULT_CHARACTERS = 20_000
MAX_CALLS_AT_ONCE = 8


class ToolBundle(Protocol):
    """Something that has tools for an agent: a `ToolRegistry`, or an object that makes one."""

    def registry(self) -> ToolRegistry: ...


class AutonomousAgent:
    """Works on a prompt with tools until it has an answer. One object may work on any number of runs at once.

    `tools` are the agent's own, beside those registered on the kernel: they exist for its steps only, so two agents
    on one kernel never see each other's. `visible_tool_names` limits which tools it may see and call; the tool
    `query_event_history` is always there, and `load_skill` if it has skills. `name` is the scope of its steps, and so
    tells several agents in one run apart. A tool's result is shown to the model up to `max_result_characters`; the
    ledger has all of it.

    `skills` are `Skill`s or directories of them. `memory` is where the tools `remember`, `recall` and `forget` keep what
    they are given: in the "run", or for all runs of the "tenant"; None leaves them out. `context_builder` assembles how the
    conversation begins, `compaction` says when its older turns are summarised (None: never). `subagents` are called like tools.
    Tools without a side effect that one answer asks for run at once, unless `parallel_tool_calls` is False.
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
        context_builder: ContextBuilder | None = None,
        compaction: CompactionStrategy | None = CompactionStrategy(),  # noqa: B008 - frozen
        skills: str | Path | Sequence[Skill | str | Path] | None = None,
        memory: MemoryScope | None = "run",
        subagents: Sequence[SubAgent] = (),
        parallel_tool_calls: bool = True,
        depth: int = 0,
    ) -> None:
        self.kernel = kernel
        self.name = name
        self._skills = None if skills is None else skills_of(skills)
        self._memory = None if memory is None else Memory(kernel, memory)
        self._toolbox = Toolbox(
            kernel, tools=tools, visible=visible_tool_names, skills=self._skills, memory=self._memory, subagents=subagents,
            depth=depth,
        )  # fmt: skip
        self._context = context_builder or ContextBuilder()
        self._collects = context_builder is not None or self._skills is not None or memory == "tenant"
        self._compaction = compaction
        self._options = model_options
        self._replay_policy: ReplayPolicy = replay_policy
        self._limit = max_result_characters
        self._at_once = MAX_CALLS_AT_ONCE if parallel_tool_calls else 1

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
        again), `OutcomeUnknown` for a side effect that must be reconciled first, `ApprovalRequired` for one that a person
        must allow first (a later call goes on with it), `BudgetExceeded`, `RunNotActive`, `ReplayConsistencyError`. Those
        of a sub-agent's run are raised here too. Cancelling it leaves a run that can go on.
        """
        if max_iterations < 1:
            raise UsageError(f"an agent needs at least one iteration, not {max_iterations}")
        for name, text in (("prompt", prompt), ("system_prompt", system_prompt)):
            if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise UsageError(f"{name} is a text, not {type(text).__name__}")
        await self.kernel.open_run(tenant=tenant, run_id=run_id)
        steps = AgentSteps(
            kernel=self.kernel, run_id=run_id, tenant=tenant, model=model, output_schema=output_schema, toolbox=self._toolbox,
            options=self._options, replay_policy=self._replay_policy, result_limit=self._limit,
        )  # fmt: skip
        present = PRESENT_MODEL.set(model)
        try:
            with self.kernel.scope(self.name), self.kernel.agent_span(self.name, run_id):
                opening = await self._opening(steps, system_prompt, prompt)
                result = await Progress(steps, opening, self._compaction, self._at_once).work(max_iterations)
        finally:
            PRESENT_MODEL.reset(present)
        if finish and (await self.kernel.get_run_status(run_id=result.run_id)).active:
            with contextlib.suppress(RunNotActive):  # somebody else was faster
                await self.kernel.finish_run(run_id=result.run_id, tenant=tenant, reason=result.outcome)
        return result

    async def _opening(self, steps: AgentSteps, system_prompt: str, prompt: str) -> list[Message]:
        request = ContextRequest(
            kernel=self.kernel, run_id=steps.run_id, tenant=steps.tenant, model=steps.model, prompt=prompt,
            skills=self._skills, memory=self._memory,
        )  # fmt: skip
        collected = await steps.begin(self._context, request, recorded=self._collects)
        return self._context.build(system_prompt=system_prompt, prompt=prompt, collected=collected)
