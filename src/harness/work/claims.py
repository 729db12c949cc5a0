"""Who works on what: claiming, keeping and waiting for items. A claim is an append that bumps the fence.

Several claimers are kept apart by choice, not by waiting: the first try takes the most urgent ready item;
a claimer that lost a race takes one further down among those that are *equally* urgent, and goes back
to the first as soon as it is alone again.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Sequence

import anyio
import msgspec
from anyio.abc import TaskGroup

from harness.clock import MICROSECONDS
from harness.errors import Busy, Conflict, IllegalTransition, LeaseHeld, LedgerError
from harness.ledger import Acquire, Draft, Event, Expect, Guard, Lease, Release, Store, Write
from harness.work.dependencies import named
from harness.work.facts import Claimed, Moved
from harness.work.item import Claim, Filter, Item, clean, expiry, lease_of, stream_of, ttl_of
from harness.work.table import Table
from harness.work.transitions import Role, Status, permitted

_MAX_SPREAD = 64
_CALM_AFTER = 16  # claims without a lost race until the spread is halved
_TRIES = 1000
_MAX_REMEMBERED = 1000
_LOOK_AGAIN_SECONDS = 3600.0


class Spread:
    """Among how many equally urgent items a claimer chooses: as few as contention allows."""

    def __init__(self) -> None:
        self.width = 1
        self._won = 0
        self._random = random.Random()  # noqa: S311 - spreads load, guards nothing

    def skip(self) -> int:
        """How many items to pass over."""
        return self._random.randrange(self.width)

    def lost(self) -> None:
        """Somebody else was faster."""
        self.width = min(_MAX_SPREAD, self.width * 4)
        self._won = 0

    def won(self) -> None:
        """Nobody was in the way."""
        self._won += 1
        if self._won >= _CALM_AFTER:
            self.width = max(1, self.width // 2)
            self._won = 0


class Claims:
    """Claims of one process."""

    def __init__(self, store: Store, table: Table) -> None:
        self._store = store
        self._table = table
        self._spread = Spread()
        self._taking: set[str] = set()  # what other tasks of this process are about to take
        self._renewed: dict[str, int] = {}  # items whose lease is known to last longer than their last claim says

    async def claim(self, holder: str, *, ttl_seconds: float, match: Filter, parent: str | None) -> Claim | None:
        """The most urgent ready item, or one whose holder's lease expired. None if there is none."""
        for _ in range(_TRIES):
            item = await self._most_urgent(match)
            if item is None:
                return None
            self._taking.add(item.id)
            try:
                claim = await self._take(item, holder, ttl_seconds, parent)
            except LeaseHeld as error:
                self._renewed[item.id] = error.expires_us
            except Conflict:
                self._spread.lost()
            else:
                self._spread.won()
                return claim
            finally:
                self._taking.discard(item.id)
        raise Conflict(f"{_TRIES} claims in a row were lost to others; try again")

    async def _most_urgent(self, match: Filter) -> Item | None:
        now, skip = self._store.clock.now_us(), self._spread.skip()
        items = await self._table.claimable(match, now, but=self._taking, skip=skip)
        if skip and not any(item.ready for item in items):  # there are not so many equally urgent ones
            items = await self._table.claimable(match, now, but=self._taking, skip=0)
        best: Item | None = None
        for item in items:
            if best is not None and (best.priority, -best.created_us) >= (item.priority, -item.created_us):
                continue
            if item.status is Status.IN_PROGRESS and not await self._expired(item, now):
                continue
            best = item
        return best

    async def _expired(self, item: Item, now_us: int) -> bool:
        """Whether the lease of a claimed item, renewals included, is over."""
        if self._renewed.get(item.id, 0) > now_us:
            return False
        lease = await self._store.lease(lease_of(item.id))
        if lease is None or not lease.held_at(now_us):
            self._renewed.pop(item.id, None)
            return True
        if len(self._renewed) >= _MAX_REMEMBERED:
            self._renewed.clear()
        self._renewed[item.id] = lease.expires_us
        return False

    async def claim_one(self, item_id: str, holder: str, *, ttl_seconds: float, parent: str | None) -> Claim:
        """This item and no other. Raises `NotFound`, `LeaseHeld` or `IllegalTransition`."""
        for _ in range(_TRIES):
            item = await self._table.get(item_id)
            permitted(item.id, item.status, Status.IN_PROGRESS, Role.WORKER, gated=bool(item.gates))
            if item.status is Status.PENDING and not item.ready:
                raise IllegalTransition(f"item {item.id} waits for {await self._waits_for(item)}")
            if item.status is Status.IN_PROGRESS and item.holder != holder:
                lease = await self._store.lease(lease_of(item.id))
                if lease is not None and lease.held_at(self._store.clock.now_us()):
                    raise LeaseHeld(lease.name, holder=str(lease.holder), expires_us=lease.expires_us)
            try:
                return await self._take(item, holder, ttl_seconds, parent)
            except LeaseHeld:
                raise
            except Conflict:
                continue
        raise Conflict(f"item {item_id} changes all the time; try again")

    async def _waits_for(self, item: Item) -> str:
        needed = await self._table.several(item.depends_on)
        return ", ".join(
            f"{named(each)}, which is {each.status}" for each in needed.values() if each.status is not Status.COMPLETED
        )

    async def _take(self, item: Item, holder: str, ttl_seconds: float, parent: str | None) -> Claim:
        """Claim an item as it was read. Raises `Conflict` if it has changed since, `LeaseHeld` if somebody has it."""
        lease, token = lease_of(item.id), item.fence + 1
        while True:
            taken_from = item.holder if item.holder != holder else None
            fact = Claimed(
                holder=clean(holder),
                token=token,
                ttl_seconds=ttl_of(ttl_seconds),
                expires_us=expiry(self._store.clock.now_us(), ttl_seconds),
                attempt=item.attempts + (item.holder != holder),  # the same holder goes on with the same attempt
                taken_from=taken_from,
                reason=f"the lease of {taken_from} expired" if taken_from else "",
            )
            write = Write(stream_of(item.id), (Draft(type="item.claimed", payload=fact, parent=parent),))
            guards = (Expect(write.stream, item.seq), Acquire(lease, holder, token, ttl_seconds))
            try:
                event = await self._append(write, guards, lease, token)
            except Conflict as error:
                if isinstance(error, LeaseHeld) or error.name != lease or error.actual is None or error.actual + 1 == token:
                    raise
                token = error.actual + 1  # the item is as we read it, but its lease is from another ledger's life
                continue
            claimed = _claimed(item, fact, event.seq, event.ts)
            return Claim(item=claimed, lease=lease, token=token, holder=holder, ttl_seconds=ttl_seconds, taken_from=taken_from)

    async def _append(self, write: Write, guards: Sequence[Guard], lease: str, token: int) -> Event:
        try:
            return (await self._store.append(write, guards=guards)).first
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True), contextlib.suppress(LedgerError):
                await self._give_back(write.stream, lease, token)
            raise

    async def _give_back(self, stream: str, lease: str, token: int) -> None:
        """End a claim whose claimer was cancelled. It is written after the claim, and refused if that was."""
        reason = "cancelled while claiming"
        fact = Moved(
            origin=Status.IN_PROGRESS, target=Status.PENDING, role=Role.WORKER, reason=reason, token=token, counted=False
        )
        write = Write(stream, (Draft(type="item.released", payload=fact),))
        await self._store.append(write, guards=(Release(lease, token),))

    async def renew(self, claim: Claim, ttl_seconds: float | None) -> Lease:
        """Lengthen the claim from now on. Raises `Fenced` if it was lost."""
        return await self._store.renew(
            claim.lease, claim.token, ttl_of(claim.ttl_seconds if ttl_seconds is None else ttl_seconds)
        )

    async def heartbeat(self, claim: Claim) -> None:
        """Renew at every third of the lease, for ever. Raises `Fenced` once the claim is lost."""
        while True:
            await self._store.clock.sleep(claim.ttl_seconds / 3)
            with contextlib.suppress(Busy):  # the lease still lasts for two more tries
                await self.renew(claim, None)

    async def wait(self, holder: str, *, ttl_seconds: float, match: Filter, parent: str | None) -> Claim:
        """As `claim`, and waits until there is something: for an event of an item or the end of a lease."""
        while True:
            seen = await self._store.tail()
            claim = await self.claim(holder, ttl_seconds=ttl_seconds, match=match, parent=parent)
            if claim is not None:
                return claim
            async with anyio.create_task_group() as group:
                group.start_soon(self._until_expiry, match, group)
                async with contextlib.aclosing(self._store.follow(after=seen, streams=("item/",))) as events:
                    async for _ in events:
                        group.cancel_scope.cancel()
                        break

    async def _until_expiry(self, match: Filter, group: TaskGroup) -> None:
        now = self._store.clock.now_us()
        ends = [max(end, self._renewed.get(item_id, 0)) for item_id, end in await self._table.expiries(match)]
        await self._store.clock.sleep((max(min(ends), now) - now) / MICROSECONDS if ends else _LOOK_AGAIN_SECONDS)
        group.cancel_scope.cancel()


def _claimed(item: Item, fact: Claimed, seq: int, ts: int) -> Item:
    """The item after the claim, without reading it again."""
    return msgspec.structs.replace(
        item, status=Status.IN_PROGRESS, ready=False, holder=fact.holder, fence=fact.token, expires_us=fact.expires_us,
        attempts=fact.attempt, reason=fact.reason or item.reason, result=None, seq=seq, updated_us=ts,
    )  # fmt: skip
