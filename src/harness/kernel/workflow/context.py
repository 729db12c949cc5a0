"""What a workflow's function is given: its steps, waits, pauses and children."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar, overload

from harness.errors import StepFailed, UsageError
from harness.kernel.bounds import check_text
from harness.kernel.identity import current_scope, step_scope
from harness.kernel.results import StepModelResult, StepToolResult
from harness.kernel.runs import RunState
from harness.kernel.tenant import TenantContext
from harness.kernel.workflow.actions import ask_for
from harness.kernel.workflow.results import RetryPolicy, Serializer, WorkflowResult
from harness.kernel.workflow.waiting import Until

if TYPE_CHECKING:
    from harness.kernel.workflow.runner import Runner

T = TypeVar("T")
Workflow = Callable[["WorkflowContext"], Coroutine[Any, Any, Any]]


class WorkflowContext:
    """One pass over a workflow. Code between its steps runs again on every pass, so keep it deterministic.

    A step is known by its name, its number among those of this name, and the scope it is called in. Numbers are given
    when a method is *called*, so calls may be gathered. While the run is paused, blocked or cancelled these methods do
    not return: the pass ends, with `asyncio.CancelledError` in whatever waits for them.
    """

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self.run_id = runner.run_id
        self.tenant: TenantContext = runner.tenant

    @overload
    def step(
        self,
        *,
        name: str,
        action: Callable[[], Any],
        retry: RetryPolicy | None = None,
        result_type: type[T],
        serializer: Serializer | None = None,
        inputs: Any = None,
        timeout: float | None = None,
    ) -> Coroutine[Any, Any, T]: ...

    @overload
    def step(
        self,
        *,
        name: str,
        action: Callable[[], Any],
        retry: RetryPolicy | None = None,
        result_type: Any = None,
        serializer: Serializer | None = None,
        inputs: Any = None,
        timeout: float | None = None,
    ) -> Coroutine[Any, Any, Any]: ...

    def step(
        self,
        *,
        name: str,
        action: Callable[[], Any],
        retry: RetryPolicy | None = None,
        result_type: Any = None,
        serializer: Serializer | None = None,
        inputs: Any = None,
        timeout: float | None = None,
    ) -> Coroutine[Any, Any, Any]:
        """Execute an action once, and give what is recorded of it ever after.

        `action` takes no arguments; a synchronous one runs in a thread. Its result is JSON, or of `result_type` (what
        pydantic can check), or what `serializer` can write; what is given back is what a replay will give. `inputs`, if
        given, are compared on replay. `timeout` is in seconds, of each attempt. An action that was cut short by a crash
        is executed again. Raises `StepFailed` for what the action raises, now and on replay, unless `retry` says to try
        again; `ReplayConsistencyError` for other inputs; `UsageError`.
        """
        step = self._allot(name)
        ask = ask_for(
            step=step, name=name, action=action, retry=retry, result_type=result_type, serializer=serializer, inputs=inputs,
            timeout=timeout,
        )  # fmt: skip
        return self._runner.take(lambda run: self._runner.parts.actions.step(run, ask))

    def sleep(self, until: Until, *, name: str = "sleep") -> Coroutine[Any, Any, None]:
        """Wait until a time (an aware datetime), or for a timedelta or a number of seconds.

        The time is fixed, and recorded, when this is executed first; it survives a restart. What is past is due at once.
        Raises `UsageError` for a naive datetime or what is no time.
        """
        step = self._allot(name)
        self._runner.outside_of_actions("sleep")
        longest = self._runner.longest_sleep_seconds
        return self._runner.take(lambda run: self._runner.parts.timers.sleep(run, step, until, longest_seconds=longest))

    def pause(self, reason: str, *, context: Any = None, name: str = "pause") -> Coroutine[Any, Any, Any]:
        """Pause the run, once, and give what the human said: the `human_input` of `kernel.resume`.

        The pass ends here (`run_workflow` gives a result of the status "paused"), and the next one after the resume
        goes on. `context` is JSON for the human.
        """
        step = self._allot(name)
        self._runner.outside_of_actions("pause")
        if not isinstance(reason, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise UsageError(f"the reason of a pause is a text, not {reason!r}")
        return self._runner.take(lambda run: self._runner.parts.pauses.pause(run, step, reason, context))

    def model(self, *, name: str | None = None, **asked: Any) -> Coroutine[Any, Any, StepModelResult]:
        """`Kernel.step_model` in this run; `name` is the step's key."""
        call = self._runner.kernel.step_model(run_id=self.run_id, tenant=self.tenant, step_key=name, **asked)
        return self._runner.take(lambda _: call, unused=call)

    def tool(
        self, tool_name: str, arguments: object = None, *, name: str | None = None, **asked: Any
    ) -> Coroutine[Any, Any, StepToolResult]:
        """`Kernel.step_tool` in this run; `name` is the step's key."""
        call = self._runner.kernel.step_tool(
            run_id=self.run_id, tenant=self.tenant, tool_name=tool_name, arguments=arguments, step_key=name, **asked
        )
        return self._runner.take(lambda _: call, unused=call)

    def child(
        self, *, name: str, workflow: Workflow, run_id: str | None = None, tenant: TenantContext | None = None
    ) -> Coroutine[Any, Any, Any]:
        """Run another workflow in a run of its own, which this one causes, and give what it returns.

        Its run is `run_id`, or `<this run>::<name>`. It shares the budgets of the tree. Raises `StepFailed` if it fails or
        is cancelled, now and on replay. While it is paused, blocked or sleeps, so is this workflow; cancelling this run
        cancels it too.
        """
        step = self._allot(name)
        own = step.removesuffix("#1").replace("#", "::")
        child = run_id or f"{self.run_id}::{own}"
        if child == self.run_id:
            raise UsageError(f"the run {child!r} cannot be its own child")
        check_workflow(workflow)

        async def take(run: RunState) -> Any:
            entry = run.steps.get(step)
            ended: WorkflowResult | Exception | None = None
            if entry is None or not entry.ended:  # outside of the step, which is only its result
                ended = await self._runner.run_child(child, tenant or self.tenant, workflow)
            ask = ask_for(step=step, name=name, action=lambda: _output(child, ended))
            return await self._runner.parts.actions.step(run, ask)

        return self._runner.take(take)

    def scope(self, name: str) -> Any:
        """Steps called inside have their own numbers, as with `Kernel.scope`."""
        return step_scope(name)

    def _allot(self, name: str) -> str:
        check_text("a step's name", name)
        return self._runner.allot(current_scope(), name)


def check_workflow(workflow: object) -> None:
    """Refuse what is no async function."""
    if inspect.iscoroutine(workflow):
        workflow.close()
        raise UsageError("the workflow is a call already made; give the function itself, not what it returned")
    called: Callable[..., Any] | None = getattr(workflow, "__call__", None)  # noqa: B004
    if not callable(workflow) or not (inspect.iscoroutinefunction(workflow) or inspect.iscoroutinefunction(called)):
        raise UsageError(f"a workflow is an async function of one argument, its context, not {workflow!r}"[:300])


def _output(child: str, ended: WorkflowResult | Exception | None) -> Any:
    if isinstance(ended, Exception):
        raise StepFailed(f"the child run {child!r} failed: {type(ended).__name__}: {ended}") from ended
    assert ended is not None
    if ended.status != "completed":
        raise StepFailed(f"the child run {child!r} is {ended.status}{f': {ended.reason}' if ended.reason else ''}")
    return ended.output
