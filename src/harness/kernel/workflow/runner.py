"""Running a workflow's function over a run, pass by pass, until it is over or has to wait.

A pass is a task of its own. When the run may not go on (it is paused, blocked, cancelled, or sleeps for longer than this
process waits), what asks for a step is left waiting, what is being executed ends and is recorded, and then the task is
cancelled: no exception that the function could mistake for its own, nothing half done.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from harness.errors import ModelError, RunNotActive, StepFailed, UsageError
from harness.kernel import records
from harness.kernel.identity import Scope, root_scope
from harness.kernel.lifecycle import Lifecycle
from harness.kernel.records import RunChanged
from harness.kernel.results import RunStatus
from harness.kernel.runs import FINAL, RunState, stream_of
from harness.kernel.steps import Steps
from harness.kernel.tenant import TenantContext
from harness.kernel.workflow.actions import PASSING, Actions
from harness.kernel.workflow.context import Workflow, WorkflowContext
from harness.kernel.workflow.pauses import Pauses
from harness.kernel.workflow.results import WorkflowPause, WorkflowResult, WorkflowStatus
from harness.kernel.workflow.timers import Sleeping, Timers
from harness.kernel.workflow.waiting import watch_status

if TYPE_CHECKING:
    from harness.kernel.kernel import Kernel

_SETTLING_SECONDS = 0.005
_CANCEL_AGAIN_SECONDS = 1.0  # a function may swallow a cancellation and go on


class _Call:
    """A method of the context that is being executed."""

    __slots__ = ("around", "runner")

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.around = tuple(call for call in _around.get() if call.runner is runner)


_around: ContextVar[tuple[_Call, ...]] = ContextVar("harness_workflow_calls", default=())
_runs: ContextVar[tuple[str, ...]] = ContextVar("harness_workflow_runs", default=())


class _ChildWaits(RunNotActive):
    """A child is not over, and cannot go on."""

    def __init__(self, result: WorkflowResult) -> None:
        super().__init__(f"the child run {result.run_id!r} is {result.status}")
        self.result = result


@dataclass(slots=True)
class Parts:
    """What the workflows of one kernel share."""

    steps: Steps
    lifecycle: Lifecycle
    actions: Actions
    timers: Timers
    pauses: Pauses
    turns: dict[str, asyncio.Lock]

    @classmethod
    def of(cls, steps: Steps, lifecycle: Lifecycle) -> Parts:
        return cls(steps, lifecycle, Actions(steps), Timers(steps), Pauses(steps), {})


@dataclass(slots=True)
class _Outcome:
    """How a pass ended: with a value, with an error, or not at all."""

    value: Any = None
    error: BaseException | None = None
    ended: bool = False


class Runner:
    """One call of `run_workflow`."""

    def __init__(
        self,
        kernel: Kernel,
        parts: Parts,
        *,
        run_id: str,
        tenant: TenantContext,
        workflow: Workflow,
        longest_sleep_seconds: float | None = None,
    ) -> None:
        self.kernel = kernel
        self.parts = parts
        self.run_id = run_id
        self.tenant = tenant
        self.longest_sleep_seconds = longest_sleep_seconds
        self._workflow = workflow
        self._begin_pass()

    def _begin_pass(self) -> None:
        self._calls: set[_Call] = set()
        self._parked: set[_Call] = set()
        self._stuck = asyncio.Event()  # nothing of the pass can go on
        self._due_us: int | None = None
        self._child: WorkflowResult | None = None

    # The whole

    async def run(self) -> WorkflowResult:
        """Pass after pass, until the workflow is over or has to wait."""
        if self.run_id in _runs.get():
            raise UsageError(f"the workflow of run {self.run_id!r} cannot run itself; give the inner one a run of its own")
        token = _runs.set((*_runs.get(), self.run_id))
        turn = self.parts.turns.setdefault(self.run_id, asyncio.Lock())
        try:
            async with turn:
                with root_scope():
                    return await self._passes()
        finally:
            _runs.reset(token)
            if not turn.locked() and self.parts.turns.get(self.run_id) is turn:
                del self.parts.turns[self.run_id]

    async def _passes(self) -> WorkflowResult:
        while True:
            status = await self.parts.lifecycle.status(self.run_id)
            if status.status in ("paused", "blocked", "cancelled"):
                return await self._stopped(status)
            await self.kernel.load_run(run_id=self.run_id)
            self._begin_pass()
            outcome = await self._pass()
            result = await self._after(outcome, was_over=status.status in FINAL)
            if result is not None:
                return result

    async def _after(self, outcome: _Outcome, *, was_over: bool) -> WorkflowResult | None:
        """The result of a pass; None if there is another one to make."""
        if outcome.error is not None:
            return await self._failed(outcome.error)
        if outcome.ended:
            return await self._completed(outcome.value, was_over)
        status = await self.parts.lifecycle.status(self.run_id)
        if not status.active:
            return await self._stopped(status)
        if self._child is not None:
            return WorkflowResult(
                run_id=self.run_id, status=self._child.status, reason=self._child.reason, pause=self._child.pause,
                due_us=self._child.due_us,
            )  # fmt: skip
        if self._due_us is not None:
            return WorkflowResult(run_id=self.run_id, status="sleeping", due_us=self._due_us)
        return None  # it was paused, and is resumed already

    async def _stopped(self, status: RunStatus) -> WorkflowResult:
        pause = None
        if status.status == "paused":
            event = await self.parts.steps.store.latest(stream_of(self.run_id), records.STATUS_KEY)
            known = event is not None and not event.erased and event.type == records.RUN_PAUSED
            context = event.load(RunChanged).context if known and event is not None else None
            pause = WorkflowPause(run_id=self.run_id, reason=status.reason, context=context, since_us=status.changed_us)
        return WorkflowResult(
            run_id=self.run_id, status=cast("WorkflowStatus", status.status), reason=status.reason, pause=pause
        )

    async def _completed(self, value: Any, was_over: bool) -> WorkflowResult | None:
        if not was_over:
            with contextlib.suppress(RunNotActive):
                await self.parts.lifecycle.change(self.run_id, records.RUN_COMPLETED, by=self.parts.steps.store.actor)
        status = await self.parts.lifecycle.status(self.run_id)
        if status.status in ("paused", "blocked", "cancelled"):  # somebody was faster than its end
            return await self._stopped(status)
        return WorkflowResult(
            run_id=self.run_id, status=cast("WorkflowStatus", status.status), reason=status.reason, output=value,
            replayed=was_over,
        )  # fmt: skip

    async def _failed(self, error: BaseException) -> WorkflowResult | None:
        status = await self.parts.lifecycle.status(self.run_id)
        if _is(error, RunNotActive) and status.status in ("paused", "blocked", "cancelled"):
            return await self._stopped(status)
        if status.status not in FINAL and _ends_a_run(error):
            with contextlib.suppress(RunNotActive):
                reason = f"{type(error).__name__}: {error}"
                await self.parts.lifecycle.change(
                    self.run_id, records.RUN_FAILED, reason=reason, by=self.parts.steps.store.actor
                )
        raise error

    # One pass

    async def _pass(self) -> _Outcome:
        outcome = _Outcome()

        async def body() -> None:
            try:
                outcome.value = await self._workflow(WorkflowContext(self))
            except Exception as error:  # noqa: BLE001 - it is judged, recorded and raised after the pass
                outcome.error = error
            outcome.ended = not self._stuck.is_set()

        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(body(), name=f"harness workflow {self.run_id}")
            stuck = tasks.create_task(self._stuck.wait(), name=f"harness workflow {self.run_id} waits")
            await asyncio.wait({task, stuck}, return_when=asyncio.FIRST_COMPLETED)
            stuck.cancel()
            while not task.done():
                task.cancel()
                await asyncio.wait({task}, timeout=_CANCEL_AGAIN_SECONDS)
        if self._stuck.is_set():
            return _Outcome()
        if task.cancelled():  # by itself, as a process does that is told to stop
            raise asyncio.CancelledError
        return outcome

    def allot(self, scope: Scope, name: str) -> str:
        """The id of a step that is called now."""
        return self.parts.steps.allot(self.run_id, scope, name, None)

    def outside_of_actions(self, what: str) -> None:
        """Refuse what cannot be done while an action is being executed."""
        if any(call.runner is self for call in _around.get()):
            raise UsageError(f"a workflow cannot {what} inside of an action; do it between the steps")

    async def take(self, call: Callable[[RunState], Awaitable[Any]], *, unused: Coroutine[Any, Any, Any] | None = None) -> Any:
        """What the call gives or raises. Does not return while the run may not go on; `unused` is closed then."""
        mine = _Call(self)
        self._calls.add(mine)
        token = _around.set((*_around.get(), mine))
        try:
            if self._stuck.is_set():
                await self._park(mine)
            run = await self.parts.steps.open(self.run_id)
            return await call(run)
        except Sleeping as sleeping:
            self._due_us = sleeping.due_us if self._due_us is None else min(self._due_us, sleeping.due_us)
            return await self._park(mine)
        except _ChildWaits as waits:
            self._child = waits.result
            return await self._park(mine)
        except RunNotActive as error:
            if error.run_id != self.run_id or (await self.parts.lifecycle.status(self.run_id)).status in (
                "completed",
                "failed",
            ):
                raise
            return await self._park(mine)
        finally:
            if unused is not None:
                unused.close()
            _around.reset(token)
            self._calls.discard(mine)
            self._parked.discard(mine)
            self._look()

    async def _park(self, call: _Call) -> None:
        """Wait for the end of the pass."""
        self._parked.update((call, *call.around))
        self._look()
        await asyncio.Event().wait()

    def _look(self) -> None:
        """Find out, as soon as the function had time for its next calls, whether nothing can go on."""
        if self._parked:
            asyncio.get_running_loop().call_later(_SETTLING_SECONDS, self._settled, self._stuck)

    def _settled(self, stuck: asyncio.Event) -> None:
        if stuck is self._stuck and self._parked and self._calls <= self._parked:
            stuck.set()

    # Children

    async def run_child(self, run_id: str, tenant: TenantContext, workflow: Workflow) -> WorkflowResult | Exception:
        """Run a child's workflow; cancel it when this run is cancelled. Gives how it failed, if it did."""
        await self.kernel.open_run(tenant=tenant, run_id=run_id, parent_run=self.run_id)
        runner = Runner(
            self.kernel, self.parts, run_id=run_id, tenant=tenant, workflow=workflow,
            longest_sleep_seconds=self.longest_sleep_seconds,
        )  # fmt: skip
        result: WorkflowResult | Exception
        async with watch_status(self.parts.steps, self.run_id, lambda status: self._cancelled(run_id, status)):
            try:
                result = await runner.run()
            except Exception as error:  # noqa: BLE001 - it is the parent's to handle
                result = error
        if isinstance(result, Exception):
            if not _ends_a_run(result):
                raise result
            return result
        if result.status in ("paused", "blocked", "sleeping"):
            raise _ChildWaits(result)
        return result

    async def _cancelled(self, child: str, status: str) -> None:
        if status == "cancelled":
            with contextlib.suppress(RunNotActive):
                await self.kernel.cancel_run(run_id=child, reason=f"run {self.run_id} was cancelled")


def _is(error: BaseException, kind: type[BaseException]) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return any(_is(inner, kind) for inner in cast("BaseExceptionGroup[BaseException]", error).exceptions)
    return isinstance(error, kind)


def _ends_a_run(error: BaseException) -> bool:
    """Whether the run has failed by this: not by what passes, or what a person can put right."""
    if isinstance(error, BaseExceptionGroup):
        return all(_ends_a_run(inner) for inner in cast("BaseExceptionGroup[BaseException]", error).exceptions)
    return isinstance(error, StepFailed | ModelError) or not isinstance(error, PASSING)
