"""Tasks that are done when their tests pass, and not before."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

import msgspec

from harness.agents.incremental import IncrementalTaskHarness
from harness.agents.passes import HarnessContext, pass_of
from harness.agents.tasks import TaskUnit
from harness.errors import UsageError

if TYPE_CHECKING:
    from harness.kernel import Kernel, ReplayPolicy, TenantContext

TEST_TOOL = "run_tests"


class TestRun(msgspec.Struct, frozen=True, kw_only=True):
    """How a run of the tests ended."""

    __test__ = False

    passed: bool
    exit_code: int | None = None
    output: str = ""


class TestDrivenHarness(IncrementalTaskHarness):
    """An incremental harness in which a task is done only when its tests have passed in the session at hand.

    The tests are run by the kernel's tool `test_tool`, which takes `argv` and gives `passed`, `exit_code` and `output`;
    `CodingHarnessTools` has such a one. They are run anew in every session, so a fixed bug passes in the next. Which
    tests those of a task are says `tests_of`; `work_on` may do the work first, and is optional. What the newest run of
    a task's tests said is `last_test_run`.
    """

    __test__ = False

    def __init__(
        self,
        kernel: Kernel,
        tenant: TenantContext | None = None,
        *,
        test_argv: Sequence[str] | None = None,
        test_tool: str = TEST_TOOL,
        default_model: str = "default",
        replay_policy: ReplayPolicy = "strict",
    ) -> None:
        super().__init__(kernel, tenant, default_model=default_model, replay_policy=replay_policy)
        if isinstance(test_argv, str):
            raise UsageError(f"test_argv is a list of words, not the text {test_argv!r}; split it with shlex.split")
        self._test_argv = None if test_argv is None else list(test_argv)
        self._test_tool = test_tool

    async def work_on(self, task: TaskUnit) -> object:
        """Work on a task before its tests are run. Nothing, unless it is overridden."""

    def tests_of(self, task: TaskUnit) -> Sequence[str] | None:
        """The command that runs a task's tests; None leaves it to the tool."""
        return self._test_argv

    async def last_test_run(self, task_id: str, *, run_id: str | None = None) -> TestRun | None:
        """How the newest run of a task's tests ended, in this session or an earlier one; None if there was none."""
        kept = await self.get_artifact(key=f"tests::{task_id}", run_id=run_id)
        return None if kept is None else msgspec.convert(kept, TestRun)

    async def run_tests(self, argv: Sequence[str] | None = None, *, task_id: str = "") -> TestRun:
        """Run tests now, as a step of this session. What they say is kept for `last_test_run` of the task.

        Raises `UsageError` if the tool's result does not say whether they passed, and what the tool's step raises.
        """
        arguments = {} if argv is None else {"argv": list(argv)}
        done = await self.run_tool(tool_name=self._test_tool, arguments=arguments)
        run = _test_run(done.result, self._test_tool)
        if task_id:
            await self.set_artifact(key=f"tests::{task_id}", value=msgspec.to_builtins(run))
        return run

    async def verify_and_commit(self, *, task_id: str, test_command: str | Sequence[str] | None = None) -> bool:
        """Run a task's tests from within `work_on`, and say whether it is done; the session runs no others for it then."""
        place = pass_of(self)
        if place is None or place.session is None:
            raise UsageError("verify_and_commit belongs into work_on; call run(run_id)")
        argv = shlex.split(test_command) if isinstance(test_command, str) else test_command
        run = await self.run_tests(argv if argv is not None else self._test_argv, task_id=task_id)
        place.verdicts[task_id] = run.passed
        return run.passed

    async def _done(self, task: TaskUnit, context: HarnessContext) -> bool:
        await super()._done(task, context)
        place = pass_of(self)
        if place is not None and task.id in place.verdicts:
            return place.verdicts[task.id]
        return (await self.run_tests(self.tests_of(task), task_id=task.id)).passed


def _test_run(result: object, tool: str) -> TestRun:
    """The tool's result as far as it is understood; only an explicit yes is one."""
    said = cast("Mapping[str, object]", result if isinstance(result, Mapping) else {})
    passed = said.get("passed")
    if not isinstance(passed, bool):
        raise UsageError(f"the tool {tool!r} does not say whether the tests passed: {result!r}"[:500])
    exit_code, output = said.get("exit_code"), said.get("output")
    return TestRun(
        passed=passed and exit_code in (0, None), exit_code=exit_code if isinstance(exit_code, int) else None,
        output=output if isinstance(output, str) else "",
    )  # fmt: skip
