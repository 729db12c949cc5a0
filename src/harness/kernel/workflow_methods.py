"""The part of the kernel's face that is about workflows and durable timers."""

from __future__ import annotations

import math
from collections.abc import Collection, Coroutine, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast

from harness.errors import UsageError
from harness.kernel.checking import check_tool_step
from harness.kernel.face import Face
from harness.kernel.identity import current_scope
from harness.kernel.tenant import TenantContext

if TYPE_CHECKING:
    from harness.kernel.kernel import Kernel
    from harness.kernel.workflow.context import Workflow
    from harness.kernel.workflow.results import Timer, WorkflowResult
    from harness.kernel.workflow.runner import Parts
    from harness.kernel.workflow.waiting import Until


class WorkflowMethods(Face):
    """Methods of `Kernel`."""

    _workflow_parts: Parts | None = None

    @property
    def _workflows(self) -> Parts:
        if self._workflow_parts is None:
            from harness.kernel.workflow.runner import Parts

            self._workflow_parts = Parts.of(self._steps, self._lifecycle)
        return self._workflow_parts

    async def run_workflow(
        self,
        *,
        tenant: TenantContext,
        workflow: Workflow,
        run_id: str | None = None,
        steps: Sequence[str] = (),
        longest_sleep_seconds: float | None = None,
    ) -> WorkflowResult:
        """Run a function whose steps are recorded, from its first line; what is recorded is not executed again.

        The run is started if it does not exist (without an id it gets one), and is completed when the function returns. An
        exception that leaves it fails the run and is raised; what passes (`LedgerError`, `BudgetExceeded`, …) or waits for
        a person (`OutcomeUnknown`) leaves the run active. `steps` are names of steps to come, for `get_run_progress`.
        When the run is paused, blocked or cancelled, or would sleep for longer than `longest_sleep_seconds` (None: wait for
        any time), the result says so; call this again when it may go on. One call works on a run at a time; others wait.
        """
        self._open()
        from harness.kernel.workflow.context import check_workflow
        from harness.kernel.workflow.runner import Runner

        check_workflow(workflow)
        _check(steps, longest_sleep_seconds)

        kernel = cast("Kernel", self)
        if run_id is None:
            run_id = (await kernel.start_run(tenant=tenant)).run_id
        else:
            await kernel.open_run(tenant=tenant, run_id=run_id)
        await self._declare(run_id, tenant, steps)
        runner = Runner(
            kernel,
            self._workflows,
            run_id=run_id,
            tenant=tenant,
            workflow=workflow,
            longest_sleep_seconds=longest_sleep_seconds,
        )
        return await runner.run()

    async def _declare(self, run_id: str, tenant: TenantContext, steps: Collection[str]) -> None:
        """Record what steps there are to come, unless just that is recorded."""
        from harness.kernel.insight import DECLARED_STEPS

        if steps and await self._artifacts.latest_summary(run_id, DECLARED_STEPS) != list(steps):
            await self._artifacts.append_summary(run_id, tenant, DECLARED_STEPS, list(steps), None)

    def sleep(
        self, *, run_id: str, tenant: TenantContext, until: Until, step_key: str | None = None
    ) -> Coroutine[Any, Any, None]:
        """A step that waits until a time: an aware datetime, or a timedelta or seconds from when it is executed first.

        The time is recorded before the wait and survives a restart. Raises `RunNotActive` as soon as the run is paused,
        blocked or over, `UsageError` for what is no time, `NotFound`, `PolicyDenied`.
        """
        self._open()
        check_tool_step(run_id, tenant, "sleep", step_key, None, None)
        step = self._steps.allot(run_id, current_scope(), "sleep", step_key)

        async def take() -> None:
            run = await self._steps.open(run_id)
            self._steps.check_tenant(run, tenant)
            await self._workflows.timers.sleep(run, step, until)

        return take()

    async def list_timers(
        self, *, due_before: datetime | None = None, tenant_id: str | None = None, limit: int = 1000
    ) -> tuple[Timer, ...]:
        """What active runs wait for (sleeps, and next attempts at steps), the earliest first, by index.

        `due_before` leaves out what is due later. Who wakes runs (calls `run_workflow` again) asks for what is due now.
        """
        from harness.kernel.workflow.timers import listed
        from harness.kernel.workflow.waiting import due_of

        due_us = None if due_before is None else due_of(due_before, self._store.clock.now_us())
        return await listed(self._store, due_us=due_us, tenant_id=tenant_id, limit=limit)


def _check(steps: object, longest_sleep_seconds: object) -> None:
    names = cast("Sequence[object]", steps) if isinstance(steps, list | tuple) else None
    if names is None or not all(isinstance(name, str) and name for name in names) or len({*names}) != len(names):
        raise UsageError(f"steps are different names of steps to come, such as ['fetch'], not {steps!r}"[:300])
    longest = longest_sleep_seconds
    if longest is not None and (
        isinstance(longest, bool) or not isinstance(longest, int | float) or math.isnan(longest) or longest < 0
    ):
        raise UsageError(f"longest_sleep_seconds is a number from 0 on, or None, not {longest!r}")
