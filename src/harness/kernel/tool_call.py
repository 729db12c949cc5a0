"""Running a tool and recording how it ended: at once for pure ones, after a durable intent for side effects."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import anyio
import msgspec

from harness.errors import (
    ApprovalRequired,
    BudgetExceeded,
    CapabilityDenied,
    HarnessError,
    OutcomeUnknown,
    PolicyDenied,
    StepFailed,
    StepRejected,
    ToolRejected,
)
from harness.kernel import matching, records, replay
from harness.kernel.encoding import to_json
from harness.kernel.middleware import Stack
from harness.kernel.quotas import Held
from harness.kernel.records import Reason, Recorded, StepEnded, StepStarted, StepUnknown
from harness.kernel.results import StepToolResult
from harness.kernel.runs import Entry, RunState
from harness.kernel.steps import Announcement, Steps
from harness.kernel.tenant import TenantContext
from harness.kernel.tools import Tool, ToolExecutionContext, result_bytes
from harness.kernel.toolsets import Toolsets
from harness.ledger import Draft

if TYPE_CHECKING:
    from harness.kernel.admission import Safety

_THREAD_GRACE_SECONDS = 0.005  # a synchronous tool that ends within this needs no announcement

Why = Literal["crash", "cancelled", "timeout", "tool", "probe"]


@dataclass(slots=True, kw_only=True)
class ToolAsk:
    """One call of `step_tool`."""

    tenant: TenantContext
    step: str
    name: str
    tool: Tool | None
    timeout: float | None = None
    parent: str | None = None
    replay_rejections: bool = False
    retry_failed: bool = False
    arguments_json: bytes = b"{}"  # as they are recorded
    given: bytes | None = None  # as the tool gets them, if that differs
    input: str = ""
    held: Held | None = None  # of quotas
    exempt: bool = False  # from the safety policy, as its own critic is

    def take(self, arguments_json: bytes, given: bytes | None = None) -> None:
        """These are the arguments; `given` are those with what must not be recorded."""
        self.arguments_json = arguments_json
        self.given = given
        self.input = matching.tool_input_hash(self.name, arguments_json)


class _Unknown(Exception):
    """The call ended so that nobody knows whether its effect happened."""

    def __init__(self, why: Why, message: str) -> None:
        super().__init__(message)
        self.why: Why = why


class ToolCalls:
    """The tool calls of one kernel."""

    def __init__(self, steps: Steps, toolsets: Toolsets, stack: Stack) -> None:
        self.steps = steps
        self.toolsets = toolsets
        self.stack = stack
        self.safety: Safety | None = None

    # Before

    async def admit(self, run: RunState, ask: ToolAsk) -> tuple[Tool, dict[str, Any]]:
        """The tool and its bound arguments. Raises, and records, a rejection."""
        reason, error = self.refusal(ask)
        if error is None:
            assert ask.tool is not None
            try:
                bound = self.bound(run, ask, ask.tool)
                if self.steps.quotas.concern(ask.tenant):
                    seconds = ask.timeout if ask.timeout is not None else ask.tool.timeout
                    ask.held = await self.steps.quotas.reserve(run, ask.tenant, ask.step, seconds=seconds)
                if self.safety is not None:
                    await self.safety.admit(run, ask, ask.tool, self.real(run, ask))
                return ask.tool, bound
            except StepRejected as refused:
                reason, error = _reason(refused), refused
        await self.reject(run, ask, reason, error)
        if self.safety is not None and isinstance(error, ApprovalRequired):
            await self.safety.pause(run, ask, error.question_id)
        raise error

    def refused(self, run: RunState, ask: ToolAsk) -> tuple[Reason, StepRejected | None]:
        """What refuses this call whenever it is made: there is no such tool, the tenant may not, the arguments are wrong."""
        reason, error = self.refusal(ask)
        if error is None and ask.tool is not None:
            try:
                self.bound(run, ask, ask.tool)
            except StepRejected as refused:
                return _reason(refused), refused
        return reason, error

    def bound(self, run: RunState, ask: ToolAsk, tool: Tool) -> dict[str, Any]:
        """The arguments to call the tool with. Raises `StepRejected` for what is wrong with them."""
        return tool.bind(self.real(run, ask))

    def real(self, run: RunState, ask: ToolAsk) -> bytes:
        """The arguments as the tool gets them."""
        arguments_json = ask.arguments_json if ask.given is None else ask.given
        if self.stack.scrubbing is not None:
            arguments_json = self.stack.scrubbing.real(run.tenant_id, ask.name, arguments_json)
        return arguments_json

    def refusal(self, ask: ToolAsk) -> tuple[Reason, StepRejected | None]:
        """Why the tenant may not call this tool."""
        if ask.tool is None:
            names = ", ".join(tool.name for tool in self.toolsets.all()) or "none"
            return "unknown_tool", StepRejected(f"no tool is named {ask.name!r}; there are: {names}")
        if ask.tool.requires_capability is not None or self.toolsets.requires:
            decision = self.toolsets.decide(ask.tool, ask.tenant)
            if not decision.allowed:
                needs = decision.required_capability
                return "capability", CapabilityDenied(
                    f"{ask.name} needs the capability {needs!r}, which {ask.tenant.tenant_id!r} lacks"
                )
        return "arguments", None

    async def reject(self, run: RunState, ask: ToolAsk, reason: Reason, error: Exception) -> None:
        """Record a refusal."""
        await self.steps.quotas.free(run, ask.held)
        arguments = ask.arguments_json
        if self.stack.scrubbing is not None:
            arguments = await self.stack.scrubbing.json(run.tenant_id, arguments)
        await self.steps.reject(
            run, ask.step, kind="tool", name=ask.name, input_hash=ask.input, reason=reason, error=error,
            arguments=arguments, tool_version=ask.tool.version if ask.tool else "",
        )  # fmt: skip

    # The call

    async def run(
        self, run: RunState, ask: ToolAsk, tool: Tool, bound: Mapping[str, Any], *, context: ToolExecutionContext
    ) -> bytes:
        """Call the function; gives its result as JSON. Raises what it raises, or `_Unknown`."""
        seconds = ask.timeout if ask.timeout is not None else tool.timeout
        try:
            if seconds is None:
                value = await tool.call(bound, context)
            else:
                with anyio.move_on_after(seconds) as scope:
                    value = await tool.call(bound, context)
                if scope.cancelled_caught:
                    raise _Unknown("timeout", f"no end within {seconds:g} s")
        except OutcomeUnknown as error:
            raise _Unknown("tool", str(error)) from error
        data = result_bytes(tool.name, value)  # pyright: ignore[reportPossiblyUnboundVariable]
        if not self.stack.prepares_results:
            return data
        try:
            changed = await self.stack.prepare_tool_result(
                run_id=run.run_id, tenant=ask.tenant, tool_name=tool.name, step=ask.step, result_json=data.decode()
            )
            return data if changed.encode() == data else to_json(msgspec.json.decode(changed))
        except Exception as error:
            if not tool.side_effect:
                raise
            told = f"it ran, but middleware did not take its result: {type(error).__name__}: {error}"
            raise _Unknown("tool", told) from error

    def context(self, run: RunState, ask: ToolAsk, key: str, attempt: int) -> ToolExecutionContext:
        """What the tool may know."""
        return ToolExecutionContext(
            run_id=run.run_id, tenant=ask.tenant, tool_name=ask.name, step=ask.step, idempotency_key=key, attempt=attempt
        )

    def started(self, run: RunState, ask: ToolAsk, tool: Tool, attempt: int, key: str) -> StepStarted:
        """The announcement or intent."""
        return StepStarted(
            kind="tool", name=ask.name, input=ask.input, attempt=attempt, arguments=msgspec.Raw(ask.arguments_json),
            tool_version=tool.version, side_effect=tool.side_effect, idempotency_key=key if tool.side_effect else "",
        )  # fmt: skip

    async def pure(
        self, run: RunState, ask: ToolAsk, tool: Tool, bound: Mapping[str, Any], attempt: int, before: Sequence[Draft]
    ) -> StepToolResult:
        """Run a tool without a side effect: one event, if it ends at once."""
        key = matching.idempotency_key(run.run_id, ask.step, ask.input)
        started = self.started(run, ask, tool, attempt, key)

        def drafts() -> Sequence[Draft]:
            return (*before, self._draft(run, ask, records.STEP_STARTED, started))

        announcement = Announcement(self.steps, run, drafts, patience_seconds=0 if tool.is_async else _THREAD_GRACE_SECONDS)
        try:
            call = self.run(run, ask, tool, bound, context=self.context(run, ask, key, attempt))
            try:
                awaited = call.send(None)
            except StopIteration as end:
                result: bytes = end.value
            else:
                result = await announcement.during(call, awaited)
        except ToolRejected as error:
            announcement.close()
            await self.reject(run, ask, "tool", error)
            raise
        except Exception as error:
            announced = announcement.close()
            await self._fail(
                run, ask, attempt, error, before=() if announced else before, started=None if announced else started
            )
            raise self._failure(ask, error) from error
        except BaseException:
            announced = announcement.close()
            interrupted = records.StepInterrupted(attempt=attempt, reason="cancelled")
            run.steps[ask.step] = Entry(records.STEP_INTERRUPTED, run.seen, None, None, attempt)
            self._submit(run, *(() if announced else drafts()), self._draft(run, ask, records.STEP_INTERRUPTED, interrupted))
            raise
        announced = announcement.close()
        ended = self.ended(ask, attempt, result=result, started=None if announced else started)
        return await self.complete(run, ask, ended, before=() if announced else before)

    async def effect(
        self,
        run: RunState,
        ask: ToolAsk,
        tool: Tool,
        bound: Mapping[str, Any],
        *,
        attempt: int,
        key: str,
        before: Sequence[Draft] = (),
    ) -> StepToolResult:
        """Run a tool with a side effect, after its intent is durable."""
        started = self.started(run, ask, tool, attempt, key)
        try:
            appended = await self.steps.write(run, *before, self._draft(run, ask, records.STEP_STARTED, started))
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                await asyncio.sleep(0)  # a cancellation that waited for the intent is delivered before the tool begins
        except BaseException as error:
            if not isinstance(error, Exception):  # cancelled, and the intent may be written: but nothing has happened
                interrupted = records.StepInterrupted(attempt=attempt, reason="cancelled")
                run.steps[ask.step] = Entry(records.STEP_INTERRUPTED, run.seen, None, None, attempt)
                self._submit(run, self._draft(run, ask, records.STEP_INTERRUPTED, interrupted))
            raise
        intent = appended.last
        run.steps[ask.step] = Entry(intent.type, intent.seq, intent.data, intent.data, attempt)
        try:
            result = await self.run(run, ask, tool, bound, context=self.context(run, ask, key, attempt))
        except _Unknown as error:
            await self.unknown(run, ask, attempt, error.why, str(error))
            raise OutcomeUnknown(f"{ask.name}: {error}; whether it happened is unknown, reconcile step {ask.step!r}") from error
        except ToolRejected as error:
            await self.reject(run, ask, "tool", error)
            raise
        except Exception as error:
            await self._fail(run, ask, attempt, error)
            raise self._failure(ask, error) from error
        except BaseException:
            unknown = StepUnknown(name=ask.name, input=ask.input, attempt=attempt, reason="cancelled")
            self._submit(run, self._draft(run, ask, records.STEP_UNKNOWN, unknown))
            raise
        return await self.complete(run, ask, self.ended(ask, attempt, result=result))

    # After

    def ended(
        self,
        ask: ToolAsk,
        attempt: int,
        *,
        result: bytes | None = None,
        error: str = "",
        message: str = "",
        started: StepStarted | None = None,
        reconciled: str = "",
    ) -> StepEnded:
        """How the step ended; an announcement that was not written goes with it."""
        if started is not None:
            started = msgspec.structs.replace(started, input="", tool_version="", attempt=1)
        return StepEnded(
            kind="tool", name=ask.name, input=ask.input, attempt=attempt, tool_version=ask.tool.version if ask.tool else "",
            result=records.raw(result), error=error, message=message, started=started,
            reconciled=reconciled,
        )  # fmt: skip

    async def complete(self, run: RunState, ask: ToolAsk, ended: StepEnded, *, before: Sequence[Draft] = ()) -> StepToolResult:
        """Record a result."""
        if self.stack.scrubbing is not None:
            ended = await self.stack.scrubbing.ended(run.tenant_id, ended)
        settled, guards = self.steps.quotas.settle(run, ask.held)
        draft = self._draft(run, ask, records.STEP_COMPLETED, ended)
        appended = await self.steps.write(run, *before, *settled, draft, guards=guards)
        self.steps.end(run, ask.step, appended.last)
        return result_of(run, ask, appended.last.seq, ended, replayed=False)

    async def _fail(
        self,
        run: RunState,
        ask: ToolAsk,
        attempt: int,
        error: Exception,
        *,
        before: Sequence[Draft] = (),
        started: StepStarted | None = None,
    ) -> None:
        name = "TimeoutError" if isinstance(error, _Unknown) else type(error).__name__
        await self.fail(run, ask, self.ended(ask, attempt, error=name, message=str(error), started=started), before=before)

    async def fail(self, run: RunState, ask: ToolAsk, ended: StepEnded, *, before: Sequence[Draft] = ()) -> None:
        """Record a failure."""
        if self.stack.scrubbing is not None:
            ended = await self.stack.scrubbing.ended(run.tenant_id, ended)
        settled, guards = self.steps.quotas.settle(run, ask.held)
        draft = self._draft(run, ask, records.STEP_FAILED, ended)
        appended = await self.steps.write(run, *before, *settled, draft, guards=guards)
        self.steps.end(run, ask.step, appended.last)

    def _failure(self, ask: ToolAsk, error: Exception) -> StepFailed:
        name = "TimeoutError" if isinstance(error, _Unknown) else type(error).__name__
        return StepFailed(replay.failure_text(ask.name, name, str(error)))

    async def unknown(self, run: RunState, ask: ToolAsk, attempt: int, why: Why, message: str = "", question: str = "") -> None:
        """Record that nobody knows whether the effect happened."""
        if message and self.stack.scrubbing is not None:
            message = await self.stack.scrubbing.text(run.tenant_id, message)
        unknown = StepUnknown(name=ask.name, input=ask.input, attempt=attempt, reason=why, message=message, question=question)
        appended = await self.steps.write(run, self._draft(run, ask, records.STEP_UNKNOWN, unknown))
        event, entry = appended.last, run.steps[ask.step]
        run.steps[ask.step] = Entry(event.type, event.seq, event.data, entry.started, attempt)

    def _draft(self, run: RunState, ask: ToolAsk, type_: str, payload: records.Record) -> Draft:
        return self.steps.draft(run, type_, payload, ask.step, ask.parent)

    def _submit(self, run: RunState, *drafts: Draft) -> None:
        with contextlib.suppress(HarnessError):
            self.steps.submit(run, *drafts)


def _reason(error: StepRejected) -> Reason:
    match error:
        case BudgetExceeded():
            return "budget"
        case ApprovalRequired():
            return "approval"
        case PolicyDenied():
            return "policy"
        case _:
            return "arguments"


def result_of(run: RunState, ask: ToolAsk, seq: int, ended: Recorded, *, replayed: bool) -> StepToolResult:
    """What the caller gets."""
    result = bytes(ended.result).decode() or "null"
    return StepToolResult(
        run_id=run.run_id, seq=seq, tool_name=ask.name, result_json=result, step=ask.step, attempt=ended.attempt,
        replayed=replayed,
    )  # fmt: skip
