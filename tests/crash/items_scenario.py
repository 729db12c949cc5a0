"""A day's work on items that any process can go on with, wherever the one before it was killed.

Each step looks at what is there before it acts, as a real worker, verifier or monitor does.
"""

from __future__ import annotations

import contextlib
from typing import Any

from harness.clock import VirtualClock
from harness.errors import ItemExists
from harness.ledger import Event, SQLiteStore
from harness.work import ITEM_VIEW, OPEN, Claim, Item, Items, Role, Status, fingerprint_key

TTL_SECONDS = 60.0

PLAN: tuple[dict[str, Any], ...] = (
    {"id": "plain", "priority": "high", "payload": {"about": "Ada"}},
    {"id": "gated", "gates": ("checks",), "depends_on": ("plain",)},
    {"id": "flaky", "priority": "critical", "fingerprint": "flaky"},
    {"id": "after-flaky", "depends_on": ("flaky", "plain"), "labels": {"part": "last"}},
    {"id": "unwanted", "fingerprint": "unwanted"},
    {"id": "after-unwanted", "depends_on": ("unwanted",)},
    {"id": "parked", "priority": "low"},
    {"id": "limited", "priority": "low"},
    {"id": "stolen"},
    {"id": "again-1", "fingerprint": "again"},
)

EXPECTED = {
    "plain": "completed", "gated": "completed", "flaky": "completed", "after-flaky": "completed", "unwanted": "cancelled",
    "after-unwanted": "completed", "parked": "completed", "limited": "completed", "stolen": "completed",
    "again-1": "cancelled", "again-2": "completed",
}  # fmt: skip


async def run(store: SQLiteStore, clock: VirtualClock) -> None:
    """Bring everything to its end."""
    items = Items(store)
    for wanted in PLAN:
        with contextlib.suppress(ItemExists):
            await items.create(title=f"item {wanted['id']}", **wanted)
    await report_again(items)
    await decide(items)
    await let_bob_vanish(items, clock)
    await forget_ada(store, items)
    while await work_one(items) or await verify_one(items) or await reopen_one(items):
        pass


async def happened(items: Items, item_id: str, type_: str) -> list[Event]:
    return [event for event in await items.history(item_id) if event.type == type_]


async def report_again(items: Items) -> None:
    """Three reports of one fault while it is open, then its end, then a new one."""
    first = await items.get("again-1")
    if first.status in OPEN:
        said = {event.payload["detail"] for event in await happened(items, "again-1", "item.recurred")}
        for number in range(3):
            if f"report {number}" not in said:
                await items.create_or_recur(title="again", fingerprint="again", detail=f"report {number}")
        await items.transition("again-1", "cancelled", reason="healed by itself")
    with contextlib.suppress(ItemExists):
        await items.create(title="again", id="again-2", fingerprint="again")


async def decide(items: Items) -> None:
    """What a person does before the work begins."""
    if (await items.get("unwanted")).status in OPEN:
        await items.transition("unwanted", "cancelled", reason="nobody wants it")
    after = await items.get("after-unwanted")
    if after.depends_on:
        await items.undepend(after.id, "unwanted")
    parked = await items.get("parked")
    if not await happened(items, "parked", "item.parked"):
        await items.edit("parked", priority="medium", title="item parked for a while")
        await items.depend("parked", "limited")
        await items.transition("parked", "parked", reason="later")
    if parked.status is Status.PARKED or (await items.get("parked")).status is Status.PARKED:
        await items.transition("parked", "pending", reason="now")


async def let_bob_vanish(items: Items, clock: VirtualClock) -> None:
    """He claims, gives one sign of life, and is never seen again."""
    if not await happened(items, "stolen", "item.claimed"):
        claim = await items.claim("bob", item_id="stolen", ttl_seconds=TTL_SECONDS)
        assert claim is not None
        clock.advance(TTL_SECONDS / 2)
        await items.renew(claim)
    clock.advance(TTL_SECONDS * 2)


async def forget_ada(store: SQLiteStore, items: Items) -> None:
    """Her name must not stay in the ledger."""
    described = await store.event("item/plain", 2)
    assert described is not None
    recorded = await happened(items, "plain", "ledger.erased")
    if not described.erased or not recorded:
        await store.erase("item/plain", 2, reason="asked for")


async def work_one(items: Items) -> bool:
    """Go on with what is held already, else with the next; False if there is nothing to do."""
    for held in await items.list(status="in_progress", holder="worker"):
        claim = await items.claim("worker", item_id=held.id, ttl_seconds=TTL_SECONDS)
        assert claim is not None
        await work(items, claim)
        return True
    claim = await items.claim("worker", ttl_seconds=TTL_SECONDS)
    if claim is not None:
        await work(items, claim)
    return claim is not None


async def work(items: Items, claim: Claim) -> None:
    item = claim.item
    if item.id == "flaky" and not await happened(items, item.id, "item.failed"):
        await items.transition(item.id, "failed", reason="did not work", claim=claim)
        return
    if item.id == "limited" and not await happened(items, item.id, "item.released"):
        await items.release(claim, "usage limit", counted=False)
        return
    said = {event.payload["text"] for event in await happened(items, item.id, "item.noted")}
    for step in ("looked", "did it"):
        if step not in said:
            await items.note(item.id, step, claim=claim)
    to = Status.VERIFYING if item.gates else Status.COMPLETED
    await items.transition(item.id, to, reason="done", claim=claim, result={"by": claim.holder})


async def verify_one(items: Items) -> bool:
    for item in await items.list(status="verifying"):
        if not await happened(items, item.id, "item.rejected"):
            await items.transition(item.id, "pending", reason="check 2 fails", role=Role.VERIFIER)
        else:
            await items.transition(item.id, "completed", reason="all checks pass", role=Role.VERIFIER)
        return True
    return False


async def reopen_one(items: Items) -> bool:
    for item in await items.list(status="failed"):
        await items.transition(item.id, "pending", reason="once more")
        return True
    return False


async def look(store: SQLiteStore) -> dict[str, Any]:
    """What a fresh process sees."""
    items = Items(store)
    everything = await items.list(limit=None)
    counts = await items.counts()
    return {
        "view": await store.check(ITEM_VIEW),
        "items": {item.id: item.status for item in everything},
        "counted": sum(counts.values()) - counts["ready"],
        "contradictions": [what for item in everything for what in await contradictions(store, items, item)],
        "occurrences": {item.id: item.occurrences for item in everything if item.occurrences > 1},
        "notes": {item.id: [e.payload["text"] for e in await happened(items, item.id, "item.noted")] for item in everything},
        "secret": any(b"Ada" in event.data for event in await store.read("item/plain") if event.data is not None),
    }


async def contradictions(store: SQLiteStore, items: Items, item: Item) -> list[str]:
    """Where events, leases, keys and the item's row do not say the same."""
    found: list[str] = []
    events = await items.history(item.id)
    lease = await store.lease(f"claim/{item.id}")
    held = lease is not None and lease.holder is not None
    if held is not (item.status is Status.IN_PROGRESS):
        found.append(f"{item.id} is {item.status}, its lease {lease}")
    tokens = [event.payload["token"] for event in events if event.type == "item.claimed"]
    if tokens != list(range(1, len(tokens) + 1)) or (lease.token if lease else 0) != len(tokens):
        found.append(f"{item.id} was claimed with {tokens}, its lease is {lease}")
    if item.fingerprint:
        holder = await store.holder_of(fingerprint_key(item.fingerprint))
        if (holder is not None and holder[0] == f"item/{item.id}") is not item.open:
            found.append(f"{item.id} is {item.status}, its fingerprint is held by {holder}")
    if (
        sum(event.type == "item.created" for event in events) != 1
        or sum(event.type == "item.completed" for event in events) > 1
    ):
        found.append(f"{item.id} was created or completed more than once")
    needed = [await items.get(each) for each in item.depends_on]
    if item.waiting != sum(each.status is not Status.COMPLETED for each in needed):
        found.append(f"{item.id} waits for {item.waiting}")
    if item.status is Status.PENDING and any(each.status in (Status.FAILED, Status.CANCELLED) for each in needed):
        found.append(f"{item.id} is pending behind something broken")
    return found
