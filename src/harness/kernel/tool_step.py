"""A tool step: recall it if it is the one that was recorded, settle it if its outcome is unknown, else execute it."""

from __future__ import annotations

from collections.abc import Awaitable

import msgspec

from harness.errors import ApprovalRequired, ReplayConsistencyError, RunNotActive, StepRejected
from harness.kernel import matching, records, replay
from harness.kernel.records import Reason, Recorded, StepEnded, StepStarted
from harness.kernel.results import StepToolResult, decoded
from harness.kernel.runs import Entry, RunState
from harness.kernel.tool_call import ToolAsk, ToolCalls, result_of
from harness.kernel.tools import canonical_arguments
from harness.kernel.unknown import Unknowns
from harness.ledger import Draft

_decode = msgspec.json.Decoder(Recorded).decode


class ToolSteps:
    """Tool steps of one kernel."""

    def __init__(self, calls: ToolCalls, unknowns: Unknowns) -> None:
        self._calls = calls
        self._steps = calls.steps
        self._stack = calls.stack
        self._unknowns = unknowns

    async def step(self, run: RunState, ask: ToolAsk, arguments: object) -> StepToolResult:
        """Recall or execute the step."""
        await self._take(run, ask, arguments)

        entry = run.steps.get(ask.step)
        if entry is not None and entry.type == records.STEP_COMPLETED and entry.data is not None:
            ended = _decode(entry.data)
            if ended.input == ask.input and (ask.tool is None or ended.tool_version == ask.tool.version):
                return result_of(run, ask, entry.seq, ended, replayed=True)

        def recall(entry: Entry) -> Awaitable[StepToolResult | None]:
            return self._recall(run, ask, entry)

        def execute(entry: Entry | None) -> Awaitable[StepToolResult]:
            return self._execute(run, ask, entry)

        try:
            return await self._steps.once(run, ask.step, recall, execute)
        except RunNotActive:
            replay.raise_if_over(run, ask.step, ask.input)
            raise

    async def _take(self, run: RunState, ask: ToolAsk, arguments: object) -> None:
        try:
            ask.take(canonical_arguments(arguments))
        except StepRejected as error:
            await self._refuse(run, ask, "arguments", error)
            raise
        if self._stack.prepares_tools:
            try:
                prepared = await self._stack.prepare_tool_request(
                    run_id=run.run_id, tenant=ask.tenant, tool_name=ask.name, step=ask.step,
                    arguments_json=ask.arguments_json.decode(),
                )  # fmt: skip
                ask.take(canonical_arguments(prepared))
            except Exception as error:
                await self._refuse(run, ask, "approval" if isinstance(error, ApprovalRequired) else "middleware", error)
                raise
        if self._stack.scrubbing is not None:
            given = ask.arguments_json
            ask.take(await self._stack.scrubbing.json(run.tenant_id, given), given)

    async def check(self, run: RunState, ask: ToolAsk, arguments: object) -> None:
        """Raise, and record, what would refuse this call now. Nothing runs, and arguments are not held against a schema."""
        await self._take(run, ask, arguments)
        reason, error = self._calls.refusal(ask)
        if ask.tool is not None and error is not None:
            await self._refuse(run, ask, reason, error)
            raise error

    async def _refuse(self, run: RunState, ask: ToolAsk, reason: Reason, error: Exception) -> None:
        if await self._steps.is_rejected(run, ask.step, ask.input, reason, error):
            return

        async def over(entry: Entry) -> bool | None:
            return True if entry.type != records.STEP_REJECTED else None

        async def record(_: Entry | None) -> bool:
            await self._calls.reject(run, ask, reason, error)
            return True

        await self._steps.once(run, ask.step, over, record)

    # Recalling

    async def _recall(self, run: RunState, ask: ToolAsk, entry: Entry) -> StepToolResult | None:
        if entry.type == records.STEP_REJECTED:
            if ask.replay_rejections:
                replay.raise_rejection(entry, ask.input)
            reason, error = self._calls.refused(run, ask)
            if error is not None and await self._steps.is_rejected(run, ask.step, ask.input, reason, error):
                raise error
            return None
        if not entry.ended:
            intent = entry.intent()
            if intent is not None and intent.side_effect and intent.input != ask.input:
                raise await self._inconsistent(run, ask, None, intent)
            return None
        ended = replay.recorded_end(run, ask.step, entry)
        if ended.kind != "tool":
            raise replay.other_kind(run, ask.step, ended.kind, "tool")
        if ask.retry_failed and entry.type == records.STEP_FAILED:
            return None
        if ended.input != ask.input:
            raise await self._inconsistent(run, ask, ended, None)
        if ask.tool is not None and ended.tool_version and ended.tool_version != ask.tool.version:
            raise self._other_version(run, ask, ended)
        if entry.type == records.STEP_FAILED:
            replay.raise_failure(ended)
        return result_of(run, ask, entry.seq, ended, replayed=True)

    async def _inconsistent(
        self, run: RunState, ask: ToolAsk, ended: StepEnded | None, started: StepStarted | None
    ) -> ReplayConsistencyError:
        if started is None:
            from harness.kernel import history

            started = await history.started(self._steps.store, *run.place_of(ask.step), ask.step, ended)
        fields, where = ["arguments"], "the recorded arguments were erased"
        if started is not None and started.name != ask.name:
            fields, where = ["tool_name"], f"tool_name: recorded {started.name!r}, now {ask.name!r}"
        elif started is not None and bytes(started.arguments):
            fields, where = matching.json_difference(decoded(started.arguments), msgspec.json.decode(ask.arguments_json))
        return ReplayConsistencyError(
            f"step {ask.step!r} of run {run.run_id!r} was recorded with other inputs ({', '.join(fields)}); {where}."
            " Give it another step_key, or undo the change",
            fields=tuple(fields),
            difference=where,
        )

    def _other_version(self, run: RunState, ask: ToolAsk, ended: StepEnded) -> ReplayConsistencyError:
        assert ask.tool is not None
        where = f"tool_version: recorded {ended.tool_version!r}, now {ask.tool.version!r}"
        return ReplayConsistencyError(
            f"step {ask.step!r} of run {run.run_id!r} was recorded with another version of {ask.name}; {where}."
            " Give it another step_key",
            fields=("tool_version",),
            difference=where,
        )

    # Executing

    async def _execute(self, run: RunState, ask: ToolAsk, entry: Entry | None) -> StepToolResult:
        intent = entry.intent() if entry is not None else None
        if entry is not None and (entry.type == records.STEP_UNKNOWN or _open(entry, intent, ask)):
            return await self._unknowns.settle(run, ask, entry, intent)
        attempt = 1 + _attempts(entry)
        tool, bound = await self._calls.admit(run, ask)
        if tool.side_effect:
            key = matching.idempotency_key(run.run_id, ask.step, ask.input)
            return await self._calls.effect(run, ask, tool, bound, attempt=attempt, key=key)
        return await self._calls.pure(run, ask, tool, bound, attempt, self._lost(run, ask, entry))

    def _lost(self, run: RunState, ask: ToolAsk, entry: Entry | None) -> tuple[Draft, ...]:
        if entry is None or entry.type != records.STEP_STARTED:
            return ()
        interrupted = records.StepInterrupted(attempt=entry.attempt, reason="crash")
        return (self._steps.draft(run, records.STEP_INTERRUPTED, interrupted, ask.step),)


def _attempts(entry: Entry | None) -> int:
    """How many attempts a step has had that is to be executed now."""
    if entry is None:
        return 0
    if entry.type == records.STEP_FAILED and entry.data is not None:
        return _decode(entry.data).attempt
    return entry.attempt


def _open(entry: Entry, intent: StepStarted | None, ask: ToolAsk) -> bool:
    """Whether an intent has no result: whoever wrote it is gone, since the run's lease is here.

    Of an erased one only the tool says whether it may have had a side effect.
    """
    if entry.type != records.STEP_STARTED:
        return False
    return intent.side_effect if intent is not None else ask.tool is None or ask.tool.side_effect
