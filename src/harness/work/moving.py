"""From one state into another, with everything that follows from it, in one append."""

from __future__ import annotations

from typing import Any

import msgspec

from harness.errors import Fenced, IllegalTransition, KeyTaken, UsageError
from harness.ledger import Draft, Expect, Free, Guard, Release, Store, Unique, Write
from harness.work.deciding import blocked, decided, duplicate, expected, unblocked
from harness.work.dependencies import broken, broken_by, named
from harness.work.facts import Moved
from harness.work.item import Claim, Item, clean, fingerprint_key, lease_of, stream_of
from harness.work.table import Table
from harness.work.transitions import BROKEN, TERMINAL, Role, Status, permitted


class Move(msgspec.Struct, frozen=True, kw_only=True):
    """A change of state that somebody asks for."""

    item_id: str
    to: Status
    reason: str
    role: Role
    claim: Claim | None = None
    result: Any = None
    counted: bool = True
    parent: str | None = None
    actor: str | None = None


async def move(store: Store, table: Table, asked: Move) -> Item:
    """The item afterwards. Raises `NotFound`, `Fenced`, `IllegalTransition`, `Duplicate`."""
    if asked.claim is None and asked.role is Role.WORKER:
        raise UsageError(f"item {asked.item_id}: a worker changes it with its claim")
    if asked.claim is not None and asked.claim.item.id != asked.item_id:
        raise UsageError(f"the claim is for item {asked.claim.item.id}, not for {asked.item_id}")
    if asked.to is Status.IN_PROGRESS:
        raise IllegalTransition(f"item {asked.item_id}: claim it, that is the only way to {asked.to}")
    await decided(lambda: _move(store, table, asked))
    return await table.get(asked.item_id)


async def _move(store: Store, table: Table, asked: Move) -> None:
    item = await table.get(asked.item_id)
    guards = await _ending(store, item, asked.claim)
    rule = permitted(item.id, item.status, asked.to, asked.role, gated=bool(item.gates))
    fact = Moved(
        origin=item.status,
        target=asked.to,
        role=asked.role,
        reason=clean(asked.reason),
        token=item.fence if item.status is Status.IN_PROGRESS else None,
        result=asked.result,
        verified=asked.to is Status.COMPLETED and asked.role is Role.VERIFIER,
        counted=asked.counted,
    )
    writes = [Write(stream_of(item.id), (Draft(type=rule.event, payload=fact, parent=asked.parent, actor=asked.actor),))]
    if item.fingerprint is not None and asked.to in TERMINAL:
        guards.append(Free(fingerprint_key(item.fingerprint)))
    if item.fingerprint is not None and item.status in TERMINAL:
        guards.append(Unique(fingerprint_key(item.fingerprint)))
    if asked.to is Status.PENDING:
        guards += await _whole(table, item)
    after = msgspec.structs.replace(item, status=asked.to, reason=fact.reason, seq=item.seq + 1)
    if asked.to in BROKEN:
        dependents = await table.dependents(item.id, *Status)
        guards += expected(dependents)  # those that are not pending must not become it unseen
        for dependent in dependents:
            if dependent.status is Status.PENDING:
                writes.append(Write(stream_of(dependent.id), (blocked(dependent.status, after, asked.actor),)))
    if item.status in BROKEN:
        await _free_dependents(table, after, asked.actor, writes, guards)
    try:
        await store.append(*writes, guards=guards)
    except KeyTaken as error:
        raise duplicate(item.fingerprint, error) from error


async def _ending(store: Store, item: Item, claim: Claim | None) -> list[Guard]:
    """What has to hold, and the claim that ends with the change. Raises `Fenced` if it is not the caller's."""
    head = Expect(stream_of(item.id), item.seq)
    if claim is not None:
        if item.status is not Status.IN_PROGRESS or item.fence != claim.token:
            raise Fenced(claim.lease, token=claim.token, current=item.fence, holder=item.holder)
        return [Release(claim.lease, claim.token), head]
    if item.status is Status.IN_PROGRESS:
        lease = await store.lease(lease_of(item.id))
        if lease is not None and lease.holder is not None:
            return [head, Release(lease.name, lease.token)]
    return [head]


async def _whole(table: Table, item: Item) -> list[Expect]:
    """That what it depends on is not broken, and stays so. Raises `IllegalTransition`, which names what is."""
    dependencies = (await table.several(item.depends_on)).values()
    if lost := broken(dependencies):
        names = "; ".join(broken_by(each) for each in lost)
        raise IllegalTransition(f"item {item.id}: {names}; reopen it, or remove the dependency first")
    return expected(dependencies)


async def _free_dependents(table: Table, after: Item, actor: str | None, writes: list[Write], guards: list[Guard]) -> None:
    """Unblock what waited for nothing but this item to be reopened."""
    for dependent in await table.dependents(after.id, Status.BLOCKED):
        if dependent.blocked_on is None:
            continue
        others = [each for each in (await table.several(dependent.depends_on)).values() if each.id != after.id]
        guards += expected([dependent, *others])
        lost = broken(others)
        if lost and dependent.blocked_on == after.id:  # what it is blocked by has another name now
            writes.append(Write(stream_of(dependent.id), (blocked(dependent.status, lost[0], actor),)))
        if not lost:
            writes.append(Write(stream_of(dependent.id), (unblocked(f"{named(after)} was reopened", after.id, actor),)))
