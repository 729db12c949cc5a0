"""The lease of a run: one kernel executes a run's steps at a time, the others wait, and a dead one is taken over.

The lease is taken with the first step that is executed, lasts a while, and is lengthened while steps run. Acquiring
is an event, lengthening is not. Who waits is woken by the run's own events, and sees results the moment they are
recorded. After a take-over everything the former holder wrote is folded before anything is decided.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping

import anyio

from harness.errors import Conflict, Fenced, LeaseHeld
from harness.kernel import records
from harness.kernel.holders import may_take_over, name_of
from harness.kernel.runs import RunState
from harness.ledger import Acquire, Draft, Lease, Store, Write

_LOOK_AGAIN_SECONDS = 0.25  # a holder that dies tells nobody
_MARGIN = 0.25  # of the lease's time is left to one who begins a step


class Leases:
    """The leases of one kernel object."""

    def __init__(self, store: Store, runs: Mapping[str, RunState], *, lease_seconds: float, wait_seconds: float) -> None:
        self._store = store
        self._runs = runs
        self._seconds = lease_seconds
        self._wait_seconds = wait_seconds
        self._margin_us = round(lease_seconds * _MARGIN * 1_000_000)
        self._keeping: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.name = name_of(self)

    def lets_go(self, run_id: str) -> bool:
        """See `Holder`. A kernel whose event loop is over cannot come back."""
        loop = self._loop
        if loop is not None and not loop.is_closed() and loop is not asyncio.get_running_loop():
            return False
        run = self._runs.get(run_id)
        if run is not None and run.held:
            if run.inflight and not (loop is not None and loop.is_closed()):
                return False
            run.let_go()
        return True

    def sure(self, run: RunState) -> bool:
        """Whether the lease is held for long enough to begin a step."""
        return run.held and self._store.clock.now_us() < run.expires_us - self._margin_us

    def taking(self, run: RunState, token: int) -> Acquire:
        """The guard that takes the lease."""
        return Acquire(run.lease, self.name, token, self._seconds)

    def taken(self, run: RunState, token: int) -> None:
        """The guard has passed."""
        run.hold(token, self._store.clock.now_us() + round(self._seconds * 1_000_000))
        self._keep()

    async def hold(self, run: RunState, step: str) -> None:
        """Return with the lease, or without it as soon as another holder has recorded the step's end.

        Raises `LeaseHeld` when it takes too long.
        """
        async with run.turn:
            if self.sure(run) or (run.held and await self._lengthen(run)):
                return
            deadline = self._store.clock.monotonic() + self._wait_seconds
            known = run.steps.get(step)  # an end that does not stand, such as a rejection: or nobody would ask
            while True:
                await self.catch_up(run)
                entry = run.steps.get(step)
                if entry is not None and entry.ended and entry is not known:
                    return
                lease = await self._store.lease(run.lease)
                if lease is None or not lease.held_at(self._store.clock.now_us()) or lease.holder == self.name:
                    if await self._acquire(run, lease):
                        return
                    continue
                assert lease.holder is not None
                if may_take_over(lease.holder, run.run_id):
                    with contextlib.suppress(Fenced):
                        await self._store.renew(run.lease, lease.token, 0)
                    continue
                if self._store.clock.monotonic() >= deadline:
                    raise LeaseHeld(run.lease, holder=lease.holder, expires_us=lease.expires_us)
                await self._wait(run)

    async def hold_if_free(self, run: RunState) -> bool:
        """Take the lease unless somebody at work has it. Gives whether it is held."""
        async with run.turn:
            if self.sure(run) or (run.held and await self._lengthen(run)):
                return True
            lease = await self._store.lease(run.lease)
            if lease is not None and lease.held_at(self._store.clock.now_us()) and lease.holder != self.name:
                assert lease.holder is not None
                if not may_take_over(lease.holder, run.run_id):
                    return False
                with contextlib.suppress(Fenced):
                    await self._store.renew(run.lease, lease.token, 0)
            return await self._acquire(run, lease)

    async def _lengthen(self, run: RunState) -> bool:
        try:
            run.expires_us = (await self._store.renew(run.lease, run.token, self._seconds)).expires_us
        except Fenced:
            run.let_go()
            return False
        self._keep()
        return True

    async def _acquire(self, run: RunState, lease: Lease | None) -> bool:
        token = lease.token + 1 if lease else 1
        acquired = records.RunAcquired(holder=self.name, token=token, before=lease.holder if lease else None)
        event = Draft(type=records.RUN_ACQUIRED, payload=acquired, tenant=run.tenant_id or None)
        try:
            appended = await self._store.append(Write(run.stream, (event,)), guards=[self.taking(run, token)])
        except Conflict:  # somebody else was faster
            return False
        await self.catch_up(run, appended.first.seq)
        self.taken(run, token)
        return True

    async def catch_up(self, run: RunState, upto: int | None = None) -> None:
        """Fold what others wrote since."""
        if upto is not None and upto == run.seen + 1:
            run.seen = upto
            return
        for event in await self._store.read(run.stream, after=run.seen):
            run.fold(event)

    async def _wait(self, run: RunState) -> None:
        """Until the run has news, or it is time to look whether its holder still lives."""
        async with contextlib.aclosing(self._store.follow(after=await self._store.tail(), streams=(run.stream,))) as news:
            await self.catch_up(run)
            with anyio.move_on_after(_LOOK_AGAIN_SECONDS):
                await anext(news)

    def _keep(self) -> None:
        """Lengthen leases of runs at work, from a task that ends by itself when there are none."""
        loop = asyncio.get_running_loop()
        if self._keeping is not None and not self._keeping.done() and self._loop is loop:
            return
        self._loop = loop
        self._keeping = loop.create_task(self._lengthen_those_at_work(), name="harness kernel leases")

    async def _lengthen_those_at_work(self) -> None:
        while True:
            await asyncio.sleep(self._seconds / 3)
            working = [run for run in list(self._runs.values()) if run.held and run.inflight]
            if not working:
                return
            for run in working:
                with contextlib.suppress(Exception):  # the step itself will meet the error when it writes
                    await self._lengthen(run)

    def rest(self) -> None:
        """No more lengthening."""
        if self._keeping is not None and self._loop is not None and not self._loop.is_closed():
            self._keeping.cancel()
        self._keeping = None

    async def give_back(self, run: RunState) -> None:
        """Let the next kernel have the run at once."""
        if run.held:
            run.let_go()
            with contextlib.suppress(Fenced):
                await self._store.renew(run.lease, run.token, 0)
