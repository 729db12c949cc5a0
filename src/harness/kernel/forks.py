"""Forks: runs that begin with another one's steps, by reference, and go on by themselves.

A fork and the note of it in its parent are one append, so there is never one without the other, and never a second one.
"""

from __future__ import annotations

import copy
import secrets
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import msgspec

from harness.errors import Conflict, NotFound, RunExists, RunNotActive, Unproven, UsageError
from harness.kernel import matching, records, replay
from harness.kernel.checking import MAX_RUN_ID_BYTES, check_run_id
from harness.kernel.model_step import Drifted
from harness.kernel.records import RunForked, RunStarted
from harness.kernel.results import StepModelResult
from harness.kernel.runs import STATUS_OF, RunState, stream_of
from harness.ledger import Draft, Event, Expect, Store, Write, fork_key

if TYPE_CHECKING:
    from harness.kernel.model_call import Ask
    from harness.kernel.steps import Steps
    from harness.kernel.tenant import TenantContext

_MARK = "::fork::"
_HEX_DIGITS = 12
_MAY_FORK_ON_DRIFT = frozenset({"active", "completed", "failed"})

TakeStep = Callable[[RunState, "Ask"], Awaitable[StepModelResult]]


def fork_id(run_id: str, suffix: str) -> str:
    """The id of a run's fork."""
    return marked(run_id, _MARK, suffix)


def marked(run_id: str, mark: str, suffix: str) -> str:
    """The id of a run beside a run, whose own is shortened if there is no room for the rest."""
    room = MAX_RUN_ID_BYTES - len(mark) - len(suffix)
    return f"{run_id.encode()[:room].decode(errors='ignore')}{mark}{suffix}"


def drifted_suffix(run_id: str, step: str, input_hash: str, tools: list[tuple[str, str]]) -> str:
    """Twelve hex digits that stand for one step of one run asked with these inputs, wherever and however often."""
    return matching.digest_of(("fork", run_id, step, input_hash, tools))[:_HEX_DIGITS]


class Forks:
    """Making forks, and going on in them."""

    def __init__(self, store: Store, steps: Steps) -> None:
        self._store = store
        self._steps = steps

    async def fork(self, run_id: str, at_seq: object, new_run_id: str | None) -> RunState:
        """Fork a run after one of its events. Raises `NotFound`, `UsageError` for a bad place, `RunExists`, `Unproven`."""
        if isinstance(at_seq, bool) or not isinstance(at_seq, int) or at_seq < 1:
            raise UsageError(f"at_seq is the number of an event of run {run_id!r}, from 1 on, not {at_seq!r}")
        stream = stream_of(run_id)
        head = await self._store.head(stream)
        if head is None:
            raise NotFound(f"no run {run_id!r} in {self._store.location}")
        if at_seq > head.seq:
            raise UsageError(f"run {run_id!r} has {head.seq} events, so it cannot be forked at {at_seq}")
        name = fork_id(run_id, secrets.token_hex(_HEX_DIGITS // 2)) if new_run_id is None else new_run_id
        check_run_id(name)
        return await self._make(run_id, RunForked(fork=name, at=at_seq))

    async def begin_replay(self, run_id: str, at: Event, tenant: TenantContext, new_run_id: str | None) -> RunState:
        """The run in which the decisions of another one, as it is now, are made again. Raises `RunExists`.

        A replay of the same run that was begun before is gone on with.
        """
        name = marked(run_id, "::replay::", secrets.token_hex(_HEX_DIGITS // 2)) if new_run_id is None else new_run_id
        check_run_id(name)
        if new_run_id is not None and await self._store.head(stream_of(name)) is not None:
            run = await self._steps.open(name)
            if run.replay_of != run_id:
                raise RunExists(f"run {name!r} exists already and is no replay of {run_id!r}; choose another id")
            return run
        known = await self._steps.open(run_id)
        run = RunState(name)
        lease = await self._store.lease(run.lease)
        token = lease.token + 1 if lease else 1
        started = RunStarted(
            tenant_id=tenant.tenant_id, holder=self._steps.leases.name, token=token, root_run=known.root_run,
            capabilities=tuple(sorted(tenant.capabilities)), budget_usd_limit=tenant.budget_usd_limit, replay_of=run_id,
        )  # fmt: skip
        begun = Draft(type=records.RUN_STARTED, payload=started, key=records.STATUS_KEY, tenant=tenant.tenant_id, parent=at.ref)
        guards = [Expect(run.stream, 0), self._steps.leases.taking(run, token)]
        try:
            appended = await self._store.append(Write(run.stream, (begun,)), guards=guards)
        except Conflict as error:
            raise RunExists(f"run {name!r} exists already; choose another id") from error
        run.fold(appended.first)
        self._steps.leases.taken(run, token)
        self._steps.keep(run)
        return run

    async def _make(self, run_id: str, note: RunForked) -> RunState:
        """Write the fork's beginning and the parent's note. Raises `RunExists`."""
        stream = stream_of(run_id)
        at, first = await self._event(stream, note.at), await self._event(stream, 1)
        before = await replay.prefix(self._store, run_id, at)
        run = RunState(note.fork)
        lease = await self._store.lease(run.lease)
        token = lease.token + 1 if lease else 1
        parent = None if first.erased else first.load(RunStarted)
        started = RunStarted(
            tenant_id=first.tenant, holder=self._steps.leases.name, token=token, root_run=before.root_run,
            capabilities=parent.capabilities if parent else (), budget_usd_limit=parent.budget_usd_limit if parent else None,
            fork_of=run_id, fork_at=note.at, fork_hash=at.hash.hex(),
        )  # fmt: skip
        begun = Draft(type=records.RUN_STARTED, payload=started, key=records.STATUS_KEY, tenant=first.tenant, parent=at.ref)
        noted = Draft(type=records.RUN_FORKED, payload=note, key=fork_key(note.fork), tenant=first.tenant, parent=at.ref)
        guards = [Expect(run.stream, 0), self._steps.leases.taking(run, token)]
        try:
            appended = await self._store.append(Write(run.stream, (begun,)), Write(stream, (noted,)), guards=guards)
        except Conflict as error:
            raise RunExists(f"run {note.fork!r} exists already; load it with load_run, or choose another id") from error
        run.inherit(before)
        run.fold(appended.first)
        self._steps.leases.taken(run, token)
        self._steps.keep(run)
        return run

    async def _event(self, stream: str, seq: int) -> Event:
        event = await self._store.event(stream, seq)
        if event is None:
            raise Unproven(f"{stream}#{seq} is missing", stream=stream, seq=seq, kind="gap")
        return event

    async def go_on(self, run: RunState, ask: Ask, drifted: Drifted, take: TakeStep) -> StepModelResult:
        """Take a step that was recorded with other inputs in the fork that belongs to the present ones.

        If the run inherited the step, the run that recorded it is forked: up to there the two are the same.
        """
        origin = drifted.stream.partition("/")[2]
        tools = [(name, ask.toolset.signatures.get(name.removeprefix("tools."), "")) for name in drifted.tools]
        name = fork_id(origin, drifted_suffix(origin, ask.step, drifted.input, tools))
        note = await self._noted(origin, name) or await self._begin(run, origin, ask, drifted, name)
        fork = await self._steps.open(name)
        self._go_on_counting(run.run_id, name)
        try:
            result = await take(fork, copy.copy(ask))
        except Drifted as again:  # by a tool that the run did not have
            return await self.go_on(fork, ask, again, take)
        return msgspec.structs.replace(result, forked_from_run_id=origin, drift_fields=note.fields)

    async def _begin(self, run: RunState, origin: str, ask: Ask, drifted: Drifted, name: str) -> RunForked:
        event = await self._store.latest(run.stream, records.STATUS_KEY)
        status = STATUS_OF[event.type] if event is not None else "active"
        if status not in _MAY_FORK_ON_DRIFT:
            raise RunNotActive(f"run {run.run_id!r} is {status}, so no step of it is executed, not even in a fork")
        fields, difference = await drifted.told()
        note = RunForked(
            fork=name, at=drifted.seq - 1, step=ask.step, input=drifted.input, fields=fields, difference=difference
        )
        try:
            await self._make(origin, note)
        except RunExists:
            found = await self._noted(origin, name)  # another process was faster
            if found is None:
                raise
            return found
        return note

    async def _noted(self, run_id: str, name: str) -> RunForked | None:
        """The note of a fork that exists."""
        event = await self._store.latest(stream_of(run_id), fork_key(name))
        if event is None:
            return None
        return RunForked(fork=name, at=0) if event.erased else event.load(RunForked)

    def _go_on_counting(self, run_id: str, fork: str) -> None:
        """Steps without a key that are called in the fork are counted from where this pass over its parent has come."""
        passes = self._steps.passes
        counted, before = passes.get(run_id), passes.get(fork)
        if counted is not None and (before is None or before.origin is not counted):
            passes[fork] = counted.going_on()
