"""An action step: a function of the user's, executed once, its result or failure recorded, each attempt on the ledger.

A crash in the middle of an action is followed by another attempt. What must not happen twice is a tool with a side
effect, not an action.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import msgspec

from harness.errors import (
    HarnessError,
    LedgerError,
    OutcomeUnknown,
    ReplayConsistencyError,
    RunNotActive,
    StepFailed,
    StepRejected,
    UsageError,
)
from harness.kernel import matching, records, replay
from harness.kernel.bounds import check_seconds
from harness.kernel.encoding import to_plain_json
from harness.kernel.identity import step_scope
from harness.kernel.outputs import OutputType, output_type
from harness.kernel.records import StepEnded, StepStarted
from harness.kernel.runs import Entry, RunState
from harness.kernel.steps import Announcement, Steps
from harness.kernel.threads import in_thread
from harness.kernel.workflow.results import ONCE, RetryPolicy, Serializer
from harness.kernel.workflow.waiting import wait_until
from harness.ledger import Draft

_PATIENCE_SECONDS = 0.005  # a synchronous action that ends within this needs no announcement

# What says nothing of the action itself: it is not recorded as its failure, and the step is decided anew.
PASSING = (LedgerError, RunNotActive, OutcomeUnknown, ReplayConsistencyError, StepRejected, UsageError)


class _Done(msgspec.Struct, frozen=True):
    value: Any


class _Again(Exception):
    """There is another attempt to come, not before `due_us`."""

    def __init__(self, due_us: int) -> None:
        super().__init__(due_us)
        self.due_us = due_us


@dataclass(slots=True, kw_only=True)
class ActionAsk:
    """One call of `ctx.step`."""

    step: str
    name: str
    action: Callable[[], Any]
    retry: RetryPolicy = ONCE
    result_type: OutputType | None = None
    serializer: Serializer | None = None
    input: str = ""
    timeout: float | None = None
    parent: str | None = None

    @property
    def is_async(self) -> bool:
        return inspect.iscoroutinefunction(self.action) or inspect.iscoroutinefunction(
            getattr(self.action, "__call__", None)  # noqa: B004
        )

    def dump(self, value: Any) -> bytes:
        """The result as JSON. Raises `TypeError` or `ValueError`."""
        if self.serializer is not None:
            text = self.serializer.dumps(value)
            return msgspec.json.encode(text.decode() if isinstance(text, bytes) else text)
        return to_plain_json(value) if self.result_type is None else self.result_type.check(value)[1]

    def restore(self, data: bytes) -> Any:
        """What a recorded result is to the caller."""
        if self.serializer is not None:
            return self.serializer.loads(msgspec.json.decode(data, type=str))
        return msgspec.json.decode(data) if self.result_type is None else self.result_type.restore(data)


def ask_for(
    *, step: str, name: str, action: object, retry: object = None, result_type: Any = None,
    serializer: Serializer | None = None, inputs: Any = None, timeout: float | None = None, parent: str | None = None,
) -> ActionAsk:  # fmt: skip
    """The call, checked. Raises `UsageError`."""
    if inspect.iscoroutine(action):
        action.close()
        raise UsageError(f"the action of step {name!r} is a call already made; give the function itself, not what it returned")
    if not callable(action):
        raise UsageError(f"the action of step {name!r} is a function without arguments, not {type(action).__name__}")
    if retry is not None and not isinstance(retry, RetryPolicy):
        raise UsageError(f"the retry of step {name!r} is a RetryPolicy, not {type(retry).__name__}")
    if serializer is not None and result_type is not None:
        raise UsageError(f"step {name!r} takes a result_type or a serializer, not both")
    if timeout is not None:
        check_seconds(f"the timeout of step {name!r}", timeout)
    try:
        digest = "" if inputs is None else matching.digest_of(msgspec.Raw(to_plain_json(inputs)))
    except TypeError as error:
        raise UsageError(f"the inputs of step {name!r} are no JSON: {error}") from error
    return ActionAsk(
        step=step, name=name, action=action, retry=retry or ONCE, serializer=serializer, input=digest, timeout=timeout,
        result_type=None if result_type is None else output_type(result_type), parent=parent,
    )  # fmt: skip


class Actions:
    """The action steps of one kernel."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps

    async def step(self, run: RunState, ask: ActionAsk) -> Any:
        """The recorded result, or that of executing the action now. Raises `StepFailed`, recorded or not."""

        async def recall(entry: Entry) -> _Done | None:
            return self._recall(run, ask, entry)

        async def execute(entry: Entry | None) -> _Done:
            return await _Execution(self._steps, run, ask, entry).run()

        while True:
            try:
                return (await self._steps.once(run, ask.step, recall, execute)).value
            except _Again as again:  # waited for outside, so that nobody is kept from the run
                await wait_until(self._steps, run, again.due_us)

    def _recall(self, run: RunState, ask: ActionAsk, entry: Entry) -> _Done | None:
        if entry.type == records.STEP_RETRIED and entry.data is not None:
            due = msgspec.json.decode(entry.data, type=records.StepRetried).next_at_us
            if due > self._steps.store.clock.now_us():
                raise _Again(due)
        if entry.type not in (records.STEP_COMPLETED, records.STEP_FAILED):
            return None
        ended = checked_end(run, ask.step, entry, "action")
        if ask.input != ended.input:
            raise ReplayConsistencyError(
                f"step {ask.step!r} of run {run.run_id!r} was recorded with other inputs;"
                " give it another name, or undo the change",
                fields=("inputs",),
                difference="inputs",
            )
        if entry.type == records.STEP_FAILED:
            if ask.retry.retry_failed:
                return None
            replay.raise_failure(ended)
        return _Done(ask.restore(bytes(ended.result)))


def checked_end(run: RunState, step: str, entry: Entry, kind: records.Kind) -> StepEnded:
    """The recorded end of a step of this kind. Raises `ReplayConsistencyError` if it is of another one."""
    ended = replay.recorded_end(run, step, entry)
    if ended.kind != kind:
        raise replay.other_kind(run, step, ended.kind, kind)
    return ended


class _Execution:
    """One attempt at an action."""

    def __init__(self, steps: Steps, run: RunState, ask: ActionAsk, entry: Entry | None) -> None:
        self._steps = steps
        self._run = run
        self._ask = ask
        self._attempt = 1 + _attempts(run, ask, entry)
        self._fresh = entry is None or entry.type == records.STEP_FAILED  # of a series of attempts
        self._before: tuple[Draft, ...] = ()
        if entry is not None and entry.type == records.STEP_STARTED:
            intent = entry.intent()
            if intent is not None and intent.kind != "action":
                raise replay.other_kind(run, ask.step, intent.kind, "action")
            lost = records.StepInterrupted(attempt=entry.attempt, reason="crash")
            self._before = (self._draft(records.STEP_INTERRUPTED, lost),)
        self._started = StepStarted(kind="action", name=ask.name, input=ask.input, attempt=self._attempt)

    async def run(self) -> _Done:
        ask = self._ask
        announcement = Announcement(
            self._steps, self._run, self._announced, patience_seconds=0 if ask.is_async else _PATIENCE_SECONDS
        )
        try:
            value = await self._announcing(announcement)
        except PASSING:
            self._interrupt(announcement.close(), "suspended")
            raise
        except Exception as error:
            raise await self._failed(announcement.close(), error, final=isinstance(error, HarnessError)) from error
        except BaseException:
            self._interrupt(announcement.close(), "cancelled")
            raise
        announced = announcement.close()
        try:
            data = await self._scrubbed(ask.dump(value))
            restored = ask.restore(data)
        except Exception as error:  # the result cannot be recorded, however often the action is repeated
            raise await self._failed(announced, error, final=True) from error
        await self._end(announced, records.STEP_COMPLETED, self._ended(announced, result=data))
        return _Done(restored)

    async def _announcing(self, announcement: Announcement) -> Any:
        """What the action gives or raises; it is announced when it first waits."""
        call = self._call()
        try:
            awaited = call.send(None)
        except StopIteration as end:
            return end.value
        return await announcement.during(call, awaited)

    async def _call(self) -> Any:
        async with asyncio.timeout(self._ask.timeout):
            with step_scope(self._ask.step.rpartition("/")[2]):  # steps taken inside are this action's own
                return await self._function()

    async def _function(self) -> Any:
        if self._ask.is_async:
            return await cast("Awaitable[Any]", self._ask.action())
        value = await in_thread(self._ask.action)
        return await value if inspect.isawaitable(value) else value

    async def _failed(self, announced: bool, error: Exception, *, final: bool) -> Exception:
        """Record a failure. Gives what to raise for it."""
        ask = self._ask
        message = await self._told(error)
        more = self._attempt < ask.retry.max_attempts or (ask.retry.retry_failed and self._fresh and ask.retry.max_attempts > 1)
        if more and not final and not ask.retry.is_final(error):
            due = self._steps.store.clock.now_us() + round(ask.retry.wait_seconds(self._attempt) * 1_000_000)
            retried = records.StepRetried(attempt=self._attempt, error=type(error).__name__, message=message, next_at_us=due)
            started = () if announced else (self._draft(records.STEP_STARTED, self._started),)
            await self._write(announced, *started, self._draft(records.STEP_RETRIED, retried))
            return _Again(due)
        ended = self._ended(announced, error=type(error).__name__, message=message)
        await self._end(announced, records.STEP_FAILED, ended)
        return StepFailed(replay.failure_text(ask.name, type(error).__name__, message))

    # What is written

    async def _scrubbed(self, data: bytes) -> bytes:
        scrubbing = self._steps.scrubbing
        return data if scrubbing is None else await scrubbing.json(self._run.tenant_id, data)

    async def _told(self, error: Exception) -> str:
        scrubbing = self._steps.scrubbing
        return str(error) if scrubbing is None else await scrubbing.text(self._run.tenant_id, str(error))

    def _draft(self, type_: str, payload: records.Record) -> Draft:
        return self._steps.draft(self._run, type_, payload, self._ask.step, self._ask.parent)

    def _announced(self) -> Sequence[Draft]:
        return (*self._before, self._draft(records.STEP_STARTED, self._started))

    def _ended(self, announced: bool, *, result: bytes | None = None, error: str = "", message: str = "") -> StepEnded:
        return StepEnded(
            kind="action", name=self._ask.name, input=self._ask.input, attempt=self._attempt, result=records.raw(result),
            error=error, message=message,
            started=None if announced else StepStarted(kind="action", name=self._ask.name),
        )  # fmt: skip

    async def _end(self, announced: bool, type_: str, ended: StepEnded) -> None:
        await self._write(announced, self._draft(type_, ended))

    async def _write(self, announced: bool, *drafts: Draft) -> None:
        appended = await self._steps.write(self._run, *(() if announced else self._before), *drafts)
        event = appended.last
        self._run.steps[self._ask.step] = Entry(event.type, event.seq, event.data, None, self._attempt)

    def _interrupt(self, announced: bool, reason: Any) -> None:
        """The action did not end: say so without waiting. Nothing is said of one that has not begun to wait."""
        interrupted = records.StepInterrupted(attempt=self._attempt, reason=reason)
        if not announced and reason == "suspended":
            return
        drafts = () if announced else self._announced()
        self._run.steps[self._ask.step] = Entry(records.STEP_INTERRUPTED, self._run.seen, None, None, self._attempt)
        with contextlib.suppress(HarnessError):
            self._steps.submit(self._run, *drafts, self._draft(records.STEP_INTERRUPTED, interrupted))


def _attempts(run: RunState, ask: ActionAsk, entry: Entry | None) -> int:
    """How many attempts were made before."""
    if entry is None or entry.data is None:
        return entry.attempt if entry else 0
    match entry.type:
        case records.STEP_RETRIED:
            return msgspec.json.decode(entry.data, type=records.StepRetried).attempt
        case records.STEP_FAILED:
            return replay.recorded_end(run, ask.step, entry).attempt
        case _:
            return entry.attempt
