"""Work in tasks, one for each session, that are kept in the run and never lost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from harness.agents.calling import call
from harness.agents.harness import BaseHarness
from harness.agents.passes import HarnessContext, Pass, pass_of
from harness.agents.tasks import Tasks, TaskUnit, defined, from_summary, marked, merged, next_of, to_summary
from harness.errors import UsageError

if TYPE_CHECKING:
    from harness.kernel import Session

TASK_PROGRESS = "task_progress"


class IncrementalTaskHarness(BaseHarness[tuple[TaskUnit, ...]]):
    """Does one pending task in each session, and returns all tasks. Override `define_tasks` and `work_on`.

    A task that was begun and not ended, by whatever cause, is the first one that the next session takes up. Tasks are
    never forgotten: one that is no longer defined keeps its state, one that is newly defined is taken up. A task is done
    when `work_on` has returned and the session has ended cleanly; both are recorded by one append, with the summary
    `task_progress`. Inside `work_on` a step's key belongs to the task, so every task may have a step of the same key. When
    all tasks are done the run is completed; a new task reopens it.
    """

    async def define_tasks(self) -> Sequence[TaskUnit]:
        """What is to be done, in its order. Called for each session; its steps are the run's, so a plan is made once."""
        raise UsageError(f"{type(self).__name__} has no tasks: override `define_tasks(self)`")

    async def work_on(self, task: TaskUnit) -> object:
        """Do one task; may have `context` as another parameter. What it raises leaves the task to be done again."""
        raise UsageError(f"{type(self).__name__} cannot work: override `work_on(self, task)`")

    async def get_task_progress(self, *, run_id: str | None = None) -> tuple[TaskUnit, ...]:
        """All tasks of the run as they were recorded last."""
        run_id = run_id or self._run_of(pass_of(self))
        return from_summary(await self.read_summary(TASK_PROGRESS, run_id=run_id), run_id)

    async def step(self, *, context: HarnessContext) -> tuple[TaskUnit, ...]:
        """Take up one task and do it."""
        place = pass_of(self)
        if place is None or place.session is None:
            raise UsageError(f"{type(self).__name__}.step belongs into a session; call run(run_id)")
        if place.session.replays:
            return from_summary(place.session.summaries.get(TASK_PROGRESS), context.run_id)
        recorded = await self.get_task_progress()
        units = merged(recorded, _definition(place))
        task = next_of(units)
        if task is None:
            place.session.at_end("completed", **{TASK_PROGRESS: to_summary(units)})
            return units
        return await self._do(task, units, recorded, context, place.session)

    async def _do(
        self, task: TaskUnit, units: Tasks, recorded: Tasks, context: HarnessContext, session: Session
    ) -> tuple[TaskUnit, ...]:
        begun = marked(units, task.id, "in_progress")
        if begun != recorded:
            await session.record_summary(TASK_PROGRESS, to_summary(begun))
        session.at_end("failed", **{TASK_PROGRESS: to_summary(marked(units, task.id, "pending"))})
        with self._kernel.scope(f"task:{task.id}"):
            done = await self._done(next(unit for unit in begun if unit.id == task.id), context)
        units = marked(units, task.id, "done" if done else "pending")
        session.at_end("completed", **{TASK_PROGRESS: to_summary(units)})
        return units

    async def _done(self, task: TaskUnit, context: HarnessContext) -> bool:
        """Do the task. Gives whether that is the end of it."""
        await call(self.work_on, task, in_thread=True, context=context, run_id=context.run_id, tenant=context.tenant)
        return True

    # Around a session

    async def _prepare(self, context: HarnessContext) -> object:
        with self._kernel.own_scope("define_tasks"):
            given = await call(self.define_tasks, context=context, run_id=context.run_id, tenant=context.tenant)
        units = defined(given, f"{type(self).__name__}.define_tasks")
        kept = await self._kernel.as_recorded(tenant=context.tenant, value=[unit.id for unit in units])
        for unit, id_ in zip(units, kept, strict=True):
            if unit.id != id_:
                raise UsageError(
                    f"task {unit.id!r} would be recorded as {id_!r}, since its id has personal data; choose another id"
                )
        return units

    async def _at_rest(self, before: Pass, *, finish: bool) -> tuple[TaskUnit, ...] | None:
        """All tasks, if every one is done and no hook wants to be called. That costs one event."""
        recorded = await self.get_task_progress()
        units = merged(recorded, _definition(before))
        if next_of(units) is not None or self._has_hooks(before.context):
            return None
        run_id, tenant = before.context.run_id, before.context.tenant
        await self._kernel.append_run_summary(
            run_id=run_id, tenant=tenant, summary_type=TASK_PROGRESS, summary=to_summary(units)
        )
        if finish and (await self._kernel.get_run_status(run_id=run_id)).active:
            await self._kernel.finish_run(run_id=run_id, tenant=tenant, reason="all tasks are done")
        return units

    def _has_hooks(self, context: HarnessContext) -> bool:
        hooks = ("on_wake", "on_sleep", *(("on_initialize",) if context.run_created else ()))
        return any(getattr(type(self), hook) is not getattr(BaseHarness, hook) for hook in hooks)

    def _nothing_left(self, result: tuple[TaskUnit, ...]) -> bool:
        return next_of(result) is None


def _definition(place: Pass) -> Tasks:
    return cast("Tasks", place.prepared)
