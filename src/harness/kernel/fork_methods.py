"""The part of the kernel's face that is about runs beside a run: forks, replays, differences."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from harness.errors import HarnessError, RunNotActive, UsageError
from harness.kernel.face import Face
from harness.kernel.forks import Forks
from harness.kernel.lifecycle import handle_of
from harness.kernel.policy import KernelPolicy
from harness.kernel.ports import ModelPort, OutputSchema
from harness.kernel.results import RunHandle
from harness.kernel.tenant import TenantContext
from harness.kernel.tools import ToolRegistry

if TYPE_CHECKING:
    from harness.kernel.diffing import ReplayDiff, RunDiff
    from harness.kernel.middleware import Stack
    from harness.kernel.rerun import Policies, Program
    from harness.kernel.rewording import Models, Prompt


class ForkMethods(Face):
    """Methods of `Kernel`."""

    _forks: Forks
    _port: ModelPort | None
    _stack: Stack
    tools: ToolRegistry
    policy: KernelPolicy

    async def fork_run(self, *, run_id: str, at_seq: int, new_run_id: str | None = None) -> RunHandle:
        """Begin a run that has the steps which `run_id` had ended after its event `at_seq`, and goes on by itself.

        The steps are referred to, not copied, and cost nothing again. A side effect that was begun by then and had no end
        stays unknown in the fork, whatever its tool's policy: it is settled by a person's answer or `reconcile_tool`.
        Artifacts are as they were then. Summaries, status and money are not inherited; budget and quotas are those of the
        same tenant and tree of runs. The fork is active, whatever the run's status. Raises `NotFound`, `RunExists`,
        `UsageError` for a place that the run does not have, `Unproven` if the run does not verify up to there.
        """
        self._open()
        return handle_of(await self._forks.fork(run_id, at_seq, new_run_id))

    async def replay_run(
        self,
        run_id: str,
        *,
        model: Models | None = None,
        prompt: Prompt | None = None,
        policy: Policies | None = None,
        model_port: ModelPort | None = None,
        tenant: TenantContext | None = None,
        output_schema: OutputSchema | None = None,
        program: Program | None = None,
        new_run_id: str | None = None,
    ) -> ReplayDiff:
        """Make the decisions of a run again and say what is different. The run itself is left as it is.

        Every model step that ended is asked again with the very input it had then, but for the changes: `model` (one for
        all, or a mapping from recorded ones), `prompt` (a text in place of the first user message, a `PromptChange`, a
        mapping from patterns of step ids to these, or a function of the recorded step), `model_port`, and `policy` (a
        `KernelPolicy`, or middleware in place of the kernel's of the same classes). With `policy` or `tenant` the recorded
        tool calls are checked too. No tool runs: a tool call that an answer asks for and the run did not make is listed as
        `unrecorded`. With `program` that is run instead, in a run and on a kernel of its own whose tools give the recorded
        results, so a conversation may take another way.

        All of it is recorded in a run of its own (`new_run_id`; one that was begun before is gone on with), paid from the
        tenant's budget. Raises `NotFound`, `Unproven`, `BudgetExceeded`, `UsageError`, `ReplayConsistencyError` for other
        changes than those that `new_run_id` was begun with, and `ModelUnavailable` when the model is away: no answer is
        no decision.
        """
        self._open()
        if program is not None and (model is not None or prompt is not None):
            raise UsageError("a program says itself which model it asks and what; give program, or model and prompt")
        from harness.kernel.rerun import Changes, ReplayKernel, policies
        from harness.kernel.story import story_of

        changes = Changes(model=model, prompt=prompt, output_schema=output_schema)
        await self._steps.open(run_id)
        holds, middleware = policies(policy, self.policy, self._stack.items)
        checks = tenant is not None or not (policy is None or isinstance(policy, KernelPolicy))
        kernel = ReplayKernel(
            await story_of(self._store, run_id), store=self._store, model_port=model_port or self._port, tools=self.tools,
            policy=holds, middleware=middleware, checks_tools=checks,
        )  # fmt: skip
        async with kernel:
            if program is None:
                kernel.check(changes)
            run, tenant = await kernel.begin(tenant, new_run_id)
            status = await kernel.get_run_status(run_id=run.run_id)
            if status.status == "completed" and program is None:  # what was asked then must be what is asked now
                await kernel.decide(run, tenant, changes)
            elif status.active:
                try:
                    if program is None:
                        await kernel.decide(run, tenant, changes)
                    else:
                        await program(kernel, run.run_id)
                except HarnessError as error:
                    if new_run_id is None:  # nobody can go on with it
                        await kernel.finish_run(run_id=run.run_id, failed=True, reason=str(error))
                    raise
                with contextlib.suppress(RunNotActive):  # the program may have said so
                    await kernel.finish_run(run_id=run.run_id, reason=f"replayed {run_id}")
            return await kernel.diff(run, program=program is not None)

    async def diff_runs(self, a: str, b: str) -> RunDiff:
        """Two runs beside each other, step by step: what was asked, what came of it, what it cost. Raises `NotFound`."""
        from harness.kernel.diffing import RunDiff, diff_steps
        from harness.kernel.story import story_of

        before, after = await story_of(self._store, a), await story_of(self._store, b)
        return RunDiff(before_run=a, after_run=b, steps=diff_steps(before.steps, after.steps))
