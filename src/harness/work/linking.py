"""What depends on what: adding and removing dependencies while nobody has begun the item."""

from __future__ import annotations

from harness.errors import IllegalTransition
from harness.ledger import Draft, Expect, Guard, Store, Write
from harness.work.deciding import blocked, decided, expected, linked, unblocked
from harness.work.dependencies import SETTLED, broken, named, refuse_circle
from harness.work.facts import DependenciesChanged
from harness.work.item import Item, stream_of
from harness.work.table import Table
from harness.work.transitions import BROKEN, Status


async def depend(store: Store, table: Table, item_id: str, on: str, actor: str | None) -> Item:
    """The item, which depends on another one from now on. Raises `NotFound`, `DependencyCycle`, `IllegalTransition`."""
    await decided(lambda: _depend(store, table, item_id, on, actor))
    return await table.get(item_id)


async def _depend(store: Store, table: Table, item_id: str, on: str, actor: str | None) -> None:
    item, needed = await table.get(item_id), await table.get(on)
    if on in item.depends_on:
        return
    _refuse_settled(item)
    beyond = await table.reachable([on])
    needed = next(each for each in beyond if each.id == on)  # as it is expected to be, not as it was a moment before
    refuse_circle(item.id, [on], {each.id: each.depends_on for each in beyond})
    depends_on = (*item.depends_on, on)
    drafts = [
        Draft(type="item.dependencies_changed", payload=DependenciesChanged(depends_on=depends_on, added=(on,)), actor=actor)
    ]
    if needed.status in BROKEN and item.status is Status.PENDING:
        drafts.append(blocked(item.status, needed, actor))
    writes = [Write(stream_of(item.id), tuple(drafts))]
    if needed.status is not Status.COMPLETED:
        writes.append(linked(needed, item.id, "item.dependent_added", actor))
    # A circle can only be closed by writing to one of the streams that were looked at, so their heads keep it open.
    await store.append(*writes, guards=[Expect(stream_of(item.id), item.seq), *expected(beyond)])


async def undepend(store: Store, table: Table, item_id: str, on: str, actor: str | None) -> Item:
    """The item, which does not depend on another one any more. Raises `NotFound`, `IllegalTransition`."""
    await decided(lambda: _undepend(store, table, item_id, on, actor))
    return await table.get(item_id)


async def _undepend(store: Store, table: Table, item_id: str, on: str, actor: str | None) -> None:
    item, needed = await table.get(item_id), await table.get(on)
    if on not in item.depends_on:
        return
    _refuse_settled(item)
    depends_on = tuple(each for each in item.depends_on if each != on)
    others = list((await table.several(depends_on)).values())
    drafts = [
        Draft(type="item.dependencies_changed", payload=DependenciesChanged(depends_on=depends_on, removed=(on,)), actor=actor)
    ]
    guards: list[Guard] = [Expect(stream_of(item.id), item.seq), *expected([needed, *others])]
    if item.status is Status.BLOCKED and item.blocked_on is not None:
        lost = broken(others)
        if not lost:
            drafts.append(unblocked(f"it does not depend on {named(needed)} any more", on, actor))
        elif item.blocked_on == on:  # what it is blocked by has another name now
            drafts.append(blocked(item.status, lost[0], actor))
    writes = [Write(stream_of(item.id), tuple(drafts))]
    if needed.status is not Status.COMPLETED:
        writes.append(linked(needed, item.id, "item.dependent_removed", actor))
    await store.append(*writes, guards=guards)


def _refuse_settled(item: Item) -> None:
    if item.status in SETTLED:
        raise IllegalTransition(f"item {item.id} is {item.status}: dependencies are changed before it is begun")
