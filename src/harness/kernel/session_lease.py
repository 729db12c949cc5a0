"""The lease of a run's sessions: one pass at a time, in whichever process; who died is taken over, the others wait.

It is taken with the event that begins a pass, lengthened while the pass lasts, and given back with the event that ends
it. Steps have a lease of their own (`leases`); this one keeps a second program from working on the same task.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence

import anyio

from harness.errors import Conflict, Fenced, LeaseHeld
from harness.kernel.holders import may_take_over, name_of
from harness.ledger import Acquire, Draft, Event, Fence, Guard, Lease, Release, Store, Write

_LOOK_AGAIN_SECONDS = 0.25  # a holder that dies tells nobody


class SessionLease:
    """One pass's right to a run."""

    def __init__(self, store: Store, run_id: str, *, lease_seconds: float, wait_seconds: float) -> None:
        self._store = store
        self._run_id = run_id
        self._stream = f"run/{run_id}"
        self._lease = f"session/{run_id}"
        self._seconds = lease_seconds
        self._wait_seconds = wait_seconds
        self._token = 0
        self._keeping: asyncio.Task[None] | None = None
        self.name = name_of(self)

    def lets_go(self, run_id: str) -> bool:
        """See `Holder`. A pass whose event loop is over cannot come back."""
        return self._keeping is not None and self._keeping.get_loop().is_closed()

    async def take(self, beginning: Callable[[], Awaitable[Draft | None]]) -> Event | None:
        """Take the lease with the event that `beginning` gives for the newest state; without one, leave it.

        Raises `LeaseHeld` when another holder keeps it for too long.
        """
        deadline = self._store.clock.monotonic() + self._wait_seconds
        while True:
            lease = await self._store.lease(self._lease)
            if lease is not None and lease.held_at(self._store.clock.now_us()):
                await self._meet(lease, deadline)
                continue
            draft = await beginning()
            if draft is None:
                return None
            token = lease.token + 1 if lease else 1
            try:
                event = await self._append(draft, Acquire(self._lease, self.name, token, self._seconds))
            except Conflict:  # somebody else was faster
                continue
            self._token = token
            self._keeping = asyncio.get_running_loop().create_task(self._keep(), name=f"harness session of {self._run_id}")
            return event

    async def _meet(self, lease: Lease, deadline: float) -> None:
        """Take the lease away from a holder that is gone, or wait for one that is not."""
        assert lease.holder is not None
        if may_take_over(lease.holder, self._run_id):
            with contextlib.suppress(Fenced):
                await self._store.renew(self._lease, lease.token, 0)
        elif self._store.clock.monotonic() >= deadline:
            raise LeaseHeld(self._lease, holder=lease.holder, expires_us=lease.expires_us)
        else:
            await self._wait()

    async def _wait(self) -> None:
        """Until the run has news, or it is time to look whether the holder still lives."""
        tail = await self._store.tail()
        async with contextlib.aclosing(self._store.follow(after=tail, streams=(self._stream,))) as news:
            with anyio.move_on_after(_LOOK_AGAIN_SECONDS):
                await anext(news)

    async def _append(self, draft: Draft, *guards: Acquire) -> Event:
        return (await self._store.append(Write(self._stream, (draft,)), guards=guards)).first

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(self._seconds / 3)
            with contextlib.suppress(Exception):  # whoever writes next will meet the error
                await self._store.renew(self._lease, self._token, self._seconds)

    async def write(self, *drafts: Draft) -> None:
        """Record something as the holder. Raises `Fenced` if another one has taken over."""
        await self._store.append(Write(self._stream, drafts), guards=[Fence(self._lease, self._token)])

    async def leave(self, *drafts: Draft, guards: Sequence[Guard] = ()) -> None:
        """Record the end of the pass, and let the next one begin. Raises `Fenced` if it has begun already."""
        self.rest()
        await self._store.append(Write(self._stream, drafts), guards=[Release(self._lease, self._token), *guards])

    def rest(self) -> None:
        """No more lengthening."""
        if self._keeping is not None:
            self._keeping.cancel()
