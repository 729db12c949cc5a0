"""What model steps and tool steps share: the right to execute, announcing, ending, rejecting.

Everything a step writes passes through here, under the run's lease. Knows nothing of models or tools.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import anyio

from harness.errors import Fenced, HarnessError, PolicyDenied, RunNotActive
from harness.kernel import records, replay
from harness.kernel.identity import Ordinals, Scope, step_id
from harness.kernel.leases import Leases
from harness.kernel.money import Purse
from harness.kernel.policy import KernelPolicy
from harness.kernel.quotas import Quotas
from harness.kernel.records import Kind, Reason
from harness.kernel.runs import FINAL, STATUS_OF, Entry, RunState
from harness.kernel.tenant import TenantContext
from harness.ledger import Appended, Draft, Event, Guard, Store, Write

if TYPE_CHECKING:
    from harness.kernel.awaited_answers import Waiting
    from harness.kernel.middleware.scrubbing import Scrubbing

T = TypeVar("T")

_MAX_RUNS = 256


class Steps:
    """The runs of one kernel object, and their steps."""

    def __init__(self, store: Store, policy: KernelPolicy) -> None:
        self.store = store
        self.policy = policy
        self.runs: dict[str, RunState] = {}
        self.passes: dict[str, Ordinals] = {}  # they outlive a run that is forgotten or read anew
        self.leases = Leases(store, self.runs, lease_seconds=policy.lease_seconds, wait_seconds=policy.lease_wait_seconds)
        self.purse = Purse(store, lambda run, drafts, guards: self.write(run, *drafts, guards=guards), self._release_others)
        self.scrubbing: Scrubbing | None = None  # what must be asked before a text of others is recorded
        self.quotas = Quotas(self)
        self.waiting: Waiting | None = None  # what a paused run may wait for
        self._opening: dict[str, anyio.Lock] = {}

    # Opening

    async def open(self, run_id: str) -> RunState:
        """The run, read and verified once. Raises `NotFound`, or `Unproven` if its chain does not verify."""
        run = self.runs.get(run_id)
        if run is None:
            try:
                async with self._opening.setdefault(run_id, anyio.Lock()):
                    run = self.runs.get(run_id)
                    if run is None:
                        run = await replay.load(self.store, run_id)
                        self.keep(run)
            finally:
                self._opening.pop(run_id, None)
        return run

    def keep(self, run: RunState) -> None:
        """Know a run from now on. When there are too many, an idle one that owes nothing is forgotten."""
        if len(self.runs) >= _MAX_RUNS:
            for old in list(self.runs.values()):
                if old.idle and not self.leases.sure(old) and not old.slice.unspent:
                    del self.runs[old.run_id]
                    break
        self.runs[run.run_id] = run

    def allot(self, run_id: str, scope: Scope, name: str, step_key: str | None) -> str:
        """The id of a step that is called now."""
        if step_key is not None:
            return step_id(scope, step_key)
        ordinals = self.passes.get(run_id)
        if ordinals is None:
            ordinals = self.passes[run_id] = Ordinals()
        return ordinals.allot(scope, name, step_key)

    def check_tenant(self, run: RunState, tenant: TenantContext) -> None:
        """Refuse a run of another tenant."""
        if run.tenant_id != tenant.tenant_id:
            raise PolicyDenied(f"run {run.run_id!r} belongs to tenant {run.tenant_id!r}, not to {tenant.tenant_id!r}")

    async def release(self, run: RunState) -> None:
        """Give back what an idle run holds: unspent money, then the lease. Not if another kernel is at work on it."""
        with contextlib.suppress(Fenced):
            if run.slice.unspent and await self.leases.hold_if_free(run):
                await self.purse.give_back(run)
            await self.leases.give_back(run)

    async def _release_others(self, run: RunState, active: Sequence[str]) -> None:
        """Give back what other runs of the tenant hold and nobody is at work on, be they of processes that died."""
        for other_id in dict.fromkeys((*self.runs, *active[:_MAX_RUNS])):
            if other_id != run.run_id:
                other = await self.open(other_id)
                if other.tenant_id == run.tenant_id and other.idle:
                    await self.release(other)

    # The right to execute

    async def once(
        self,
        run: RunState,
        step: str,
        recall: Callable[[Entry], Awaitable[T | None]],
        execute: Callable[[Entry | None], Awaitable[T]],
    ) -> T:
        """The recorded end of a step, or execute it: never twice at once, here or in another kernel.

        `recall` gives what is recorded, raises what is recorded, or gives None if the step is still to be executed.
        """
        while True:
            if step in run.inflight:
                await self._over(run, step)
                continue
            entry = run.steps.get(step)
            if entry is not None:
                recorded = await recall(entry)
                if recorded is not None:
                    return recorded
                if step in run.inflight or run.steps.get(step) is not entry:
                    continue
            run.inflight[step] = None
            try:
                if not self.leases.sure(run):
                    if not run.held and await self._is_over(run):  # nothing is executed, so the lease is nobody's
                        await self.leases.catch_up(run)
                        if run.steps.get(step) is not entry:
                            continue
                        await self.check_active(run)
                    await self.leases.hold(run, step)
                    if not run.held or run.steps.get(step) is not entry:
                        continue
                if run.status != "active" or run.status_upto != self.store.surely_at(run.stream):
                    await self.check_active(run)
                return await execute(entry)
            except Fenced:
                run.let_go()
                self.runs.pop(run.run_id, None)
                raise
            finally:
                waiting = run.inflight.pop(step, None)
                if waiting is not None:
                    waiting.set()

    async def _over(self, run: RunState, step: str) -> None:
        """Until the same step, which is being executed by another task here, has ended."""
        waiting = run.inflight[step]
        if waiting is None:
            waiting = run.inflight[step] = asyncio.Event()
        await waiting.wait()

    async def _is_over(self, run: RunState) -> bool:
        event = await self.store.latest(run.stream, records.STATUS_KEY)
        return event is not None and STATUS_OF.get(event.type) in FINAL

    async def check_active(self, run: RunState) -> None:
        """Raise `RunNotActive` unless the run is active by its newest status."""
        at = self.store.surely_at(run.stream)
        event = await self.store.latest(run.stream, records.STATUS_KEY)
        if event is not None and event.seq != run.status_seq:
            run.status = STATUS_OF.get(event.type, run.status)
            run.status_seq = event.seq
        if at is not None:
            run.status_upto = at
        if run.status == "paused" and self.waiting is not None and event is not None and await self.waiting.over(event):
            event = await self.store.latest(run.stream, records.STATUS_KEY)
            run.status = "active" if event is None else STATUS_OF.get(event.type, run.status)
            run.status_seq = run.status_seq if event is None else event.seq
        if run.status != "active":
            reason = event.load(records.RunChanged).reason if event is not None and not event.erased else ""
            after = "it is over" if run.status in FINAL else "resume or unblock it first"
            refused = RunNotActive(f"run {run.run_id!r} is {run.status}{f' ({reason})' if reason else ''}; {after}")
            refused.run_id = run.run_id
            raise refused

    # Writing

    async def write(self, run: RunState, *drafts: Draft, guards: Sequence[Guard] = ()) -> Appended:
        """Append to the run, under its lease.

        What is queued will be written, so this cannot be cancelled: a cancellation is delivered right after it.
        """
        fenced = (run.fence, *guards) if guards else (run.fence,)
        future: asyncio.Future[Appended] = self.store.submit(Write(run.stream, drafts), guards=fenced)  # type: ignore[assignment]
        if not future.done():
            await _resolved(future)
        appended = future.result()
        for event in appended.events:
            run.wrote(event)
        return appended

    def submit(self, run: RunState, *drafts: Draft, guards: Sequence[Guard] = ()) -> Awaitable[Appended]:
        """Append to the run without waiting, for one who is being cancelled or who has more to do."""
        fenced = (run.fence, *guards)
        future: asyncio.Future[Appended] = self.store.submit(Write(run.stream, drafts), guards=fenced)  # type: ignore[assignment]
        future.add_done_callback(functools.partial(_wrote, run))
        return future

    def draft(self, run: RunState, type_: str, payload: records.Record, step: str | None, parent: str | None = None) -> Draft:
        """An event of a step."""
        return Draft(type=type_, payload=payload, key=step, parent=parent, tenant=run.tenant_id)

    def end(self, run: RunState, step: str, event: Event) -> None:
        """A step has ended by this event."""
        run.steps[step] = Entry(event.type, event.seq, event.data)

    def parent_of(self, run: RunState, scope: Scope, parent: str | None) -> str | None:
        """The newest event of the step that led to those in this scope, as `stream#seq`."""
        entry = None if parent is None else run.steps.get(step_id(scope[:-1], parent))
        return None if entry is None else f"{entry.stream or run.stream}#{entry.seq}"

    async def reject(
        self, run: RunState, step: str, *, kind: Kind, name: str, input_hash: str, reason: Reason, error: Exception,
        arguments: bytes | None = None, tool_version: str = "",
    ) -> None:  # fmt: skip
        """Record that a step was refused before it was executed, unless just that is recorded."""
        if await self.is_rejected(run, step, input_hash, reason, error):
            return
        rejected = records.StepRejected(
            kind=kind, name=name, input=input_hash, reason=reason, error=type(error).__name__,
            message=await self._words(run, error), tool_version=tool_version, arguments=records.raw(arguments),
        )  # fmt: skip
        appended = await self.write(run, self.draft(run, records.STEP_REJECTED, rejected, step))
        self.end(run, step, appended.last)

    async def is_rejected(self, run: RunState, step: str, input_hash: str, reason: Reason, error: Exception) -> bool:
        """Whether just this refusal is the newest thing that is recorded of a step."""
        before = replay.rejection_of(run.steps.get(step))
        if before is None or (before.input, before.reason) != (input_hash, reason):
            return False
        return before.message == await self._words(run, error)

    async def _words(self, run: RunState, error: Exception) -> str:
        """What may be recorded of an error."""
        return str(error) if self.scrubbing is None else await self.scrubbing.text(run.tenant_id, str(error))


def _wrote(run: RunState, done: asyncio.Future[Appended]) -> None:
    if not done.cancelled() and done.exception() is None:
        for event in done.result().events:
            run.wrote(event)


async def _resolved(future: asyncio.Future[Appended]) -> None:
    """Return when it is written, or raise what refused it; a cancellation is delivered after that."""
    cancelled = False
    keep = getattr(future, "keep", None)
    if keep is not None:
        keep()
    try:
        while True:
            try:
                await (asyncio.shield(future) if keep is None else future)
            except asyncio.CancelledError:
                cancelled = True
                if future.done():
                    return
            else:
                return
    finally:
        task = asyncio.current_task()
        if cancelled and task is not None:
            task.uncancel()
            task.cancel()


class Announcement:
    """`step.started` of a call without a side effect: written only if the call waits for something.

    Nobody waits for it to be written. A call that ends before that carries it in its end; so who makes a call begins it
    by hand, with `call.send(None)`, and announces only one that gives something to wait for.
    """

    __slots__ = ("_drafts", "_handle", "_patience", "_run", "_steps", "written")

    def __init__(
        self, steps: Steps, run: RunState, drafts: Callable[[], Sequence[Draft]], *, patience_seconds: float = 0
    ) -> None:
        self._steps = steps
        self._run = run
        self._drafts = drafts
        self._patience = patience_seconds
        self._handle: asyncio.TimerHandle | None = None
        self.written: Awaitable[Appended] | None = None

    @types.coroutine
    def during(self, call: Coroutine[Any, Any, T], awaited: Any) -> Generator[Any, Any, T]:
        """What the call gives or raises, which was begun and waits for `awaited`."""
        self._waits()
        while True:
            try:
                given = yield awaited
            except GeneratorExit:
                call.close()
                raise
            except BaseException as error:  # noqa: BLE001 - it is the call's
                advance = functools.partial(call.throw, error)
            else:
                advance = functools.partial(call.send, given)
            try:
                awaited = advance()
            except StopIteration as end:
                return end.value

    def _waits(self) -> None:
        if self._patience:
            self._handle = asyncio.get_running_loop().call_later(self._patience, self._write)
        else:
            self._write()

    def _write(self) -> None:
        try:
            self.written = self._steps.submit(self._run, *self._drafts())
        except HarnessError:  # the end of the step will meet the same
            return

    def close(self) -> bool:
        """The call is over. Gives whether the announcement was written."""
        if self._handle is not None:
            self._handle.cancel()
        return self.written is not None
