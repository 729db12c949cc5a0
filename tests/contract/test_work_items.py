"""What items promise, over each kind of store."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import anyio
import pytest

from harness.clock import VirtualClock
from harness.errors import (
    DependencyCycle,
    Duplicate,
    Fenced,
    IllegalTransition,
    ItemExists,
    LeaseHeld,
    NotFound,
    UsageError,
)  # fmt: skip
from harness.ledger import Appended, Draft, Expect, Guard, MemoryStore, PostgresStore, SQLiteStore, Store, Write
from harness.work import ITEM_VIEW, Claim, Filter, Item, Items, Role, Status

MINUTE = 60.0


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


class CrowdedStore(MemoryStore):
    """Lets every other task run between a decision and its append, as other processes do."""

    async def append(self, *writes: Write, guards: Sequence[Guard] = ()) -> Appended:
        await anyio.lowlevel.checkpoint()
        return await super().append(*writes, guards=guards)


@pytest.fixture(params=["memory", "sqlite", "crowded", "postgres"])
async def store(request: pytest.FixtureRequest, tmp_path: Path, clock: VirtualClock) -> AsyncIterator[Store]:
    made: Store
    match request.param:
        case "memory":
            made = MemoryStore(clock=clock)
        case "sqlite":
            made = SQLiteStore(tmp_path / "ledger.db", clock=clock)
        case "postgres":
            made = PostgresStore(request.getfixturevalue("postgres_schema"), clock=clock)
        case _:
            made = CrowdedStore(clock=clock)
    yield made
    assert await made.check(ITEM_VIEW) == []
    await made.close()


@pytest.fixture
def items(store: Store) -> Items:
    return Items(store)


async def claimed(items: Items, holder: str = "w", **options: object) -> Claim:
    claim = await items.claim(holder, ttl_seconds=MINUTE, **options)  # type: ignore[arg-type]
    assert claim is not None
    return claim


async def types(items: Items, item: Item) -> list[str]:
    return [event.type for event in await items.history(item.id)]


# Creating and finding


async def test_an_item_keeps_everything_it_was_made_with(items: Items, clock: VirtualClock) -> None:
    """What was given is read back, and the rest has its defaults."""
    made = await items.create(
        title="Limiter down", description="503", priority="high", source_type="invariant", source_id="7", fingerprint="f",
        gates=("checks",), labels={"target": "limiter"}, payload={"objective": ["up"]}, id="t1",
    )  # fmt: skip

    assert made == Item(
        id="t1", title="Limiter down", description="503", status=Status.PENDING, ready=True, priority=10,
        source_type="invariant", source_id="7", fingerprint="f", gates=("checks",), labels={"target": "limiter"},
        payload={"objective": ["up"]}, created_us=clock.now_us(), updated_us=clock.now_us(), seq=2,
    )  # fmt: skip
    assert await items.get("t1") == made


async def test_a_made_up_id_is_new_every_time(items: Items) -> None:
    """Nobody has to think of names."""
    made = {(await items.create(title="x")).id for _ in range(20)}

    assert len(made) == 20


async def test_a_taken_id_is_refused(items: Items) -> None:
    """Merging a source never overwrites what is there."""
    await items.create(title="first", id="t1")

    with pytest.raises(ItemExists, match="item t1 exists"):
        await items.create(title="second", id="t1")

    assert (await items.get("t1")).title == "first"


@pytest.mark.parametrize(
    "wrong", [{"title": " "}, {"title": "x", "priority": "soon"}, {"title": "x", "id": "a b"}, {"title": "\0"}]
)
async def test_what_makes_no_sense_is_refused_before_anything_is_written(items: Items, wrong: dict[str, str]) -> None:
    """And as the caller's mistake."""
    with pytest.raises(UsageError):
        await items.create(**wrong)  # type: ignore[arg-type]

    assert await items.list() == []


async def test_an_unknown_item_is_named(items: Items) -> None:
    """In every door."""
    for asked in (
        items.get("no"),
        items.history("no"),
        items.note("no", "x"),
        items.recur("no"),
        items.claim("w", item_id="no"),
    ):
        with pytest.raises(NotFound, match="no item 'no'"):
            await asked
    with pytest.raises(NotFound, match="no item 'no'"):
        await items.create(title="x", depends_on=["no"])


async def test_listing_combines_conditions_and_pages(items: Items) -> None:
    """The most urgent first; the oldest first among equals."""
    for number in range(6):
        await items.create(
            title=str(number),
            id=str(number),
            priority=number % 2,
            source_type="slo" if number < 4 else "human",
            labels={"n": str(number)},
        )
    claim = await claimed(items, item_id="1")

    assert [item.id for item in await items.list()] == ["1", "3", "5", "0", "2", "4"]
    assert [item.id for item in await items.list(status=[Status.PENDING, Status.IN_PROGRESS], limit=2, offset=1)] == ["3", "5"]
    assert [item.id for item in await items.list(source_type="slo", ready=True)] == ["3", "0", "2"]
    assert [item.id for item in await items.list(status="in_progress")] == ["1"]
    assert [item.id for item in await items.list(holder=claim.holder)] == ["1"]
    assert [item.id for item in await items.list(labels={"n": "5"})] == ["5"]
    assert [item.id for item in await items.list(order="newest", limit=1)] == ["5"]
    assert await items.list(status="completed", ready=True) == []
    assert (await items.counts())["ready"] == 5


async def test_words_and_urgency_can_be_edited(items: Items) -> None:
    """Each change is an event, and no change is none."""
    made = await items.create(title="a", priority="low", payload={"k": 1})

    edited = await items.edit(made.id, title="b", priority="critical")
    again = await items.edit(made.id, title="b", priority="critical")

    assert (edited.title, edited.priority, edited.payload) == ("b", 20, {"k": 1})
    assert again.seq == edited.seq
    assert await types(items, made) == ["item.created", "item.described", "item.described", "item.prioritised"]


async def test_notes_are_history(items: Items) -> None:
    """With their author; the item itself is as before."""
    made = await items.create(title="a")

    note = await items.note(made.id, "looked at the log", author="person:ada", data={"lines": 3})

    assert (note.type, note.actor, note.payload) == (
        "item.noted",
        "person:ada",
        {"text": "looked at the log", "data": {"lines": 3}},
    )
    assert (await items.history(made.id))[-1].ref == note.ref
    assert (await items.get(made.id)).status is Status.PENDING


# Fingerprints


async def test_an_open_fingerprint_is_refused_and_named(items: Items) -> None:
    """The caller learns which item to look at."""
    made = await items.create(title="a", fingerprint="f")

    with pytest.raises(Duplicate, match=f"open already as {made.id}") as refused:
        await items.create(title="b", fingerprint="f")

    assert refused.value.item_id == made.id
    assert await items.find("f") == made


@pytest.mark.parametrize("held", [Status.BLOCKED, Status.PARKED, Status.VERIFYING, Status.IN_PROGRESS])
async def test_an_item_keeps_its_fingerprint_while_it_is_open(items: Items, held: Status) -> None:
    """Blocked counts as open, or the same would be asked every five seconds."""
    made = await items.create(title="a", fingerprint="f")
    if held is Status.IN_PROGRESS:
        await claimed(items)
    else:
        await items.transition(made.id, held, reason="so")

    with pytest.raises(Duplicate):
        await items.create(title="b", fingerprint="f")


@pytest.mark.parametrize("closed", [Status.COMPLETED, Status.FAILED, Status.CANCELLED])
async def test_closing_frees_the_fingerprint(items: Items, closed: Status) -> None:
    """What comes again is a new item."""
    made = await items.create(title="a", fingerprint="f")

    await items.transition(made.id, closed, reason="over")
    again = await items.create(title="b", fingerprint="f")

    assert again.id != made.id
    assert await items.find("f") == again


async def test_reopening_needs_the_fingerprint_back(items: Items) -> None:
    """Two open items with one fingerprint would be two tickets for one fault."""
    made = await items.create(title="a", fingerprint="f")
    await items.transition(made.id, "failed", reason="over")
    again = await items.create(title="b", fingerprint="f")

    with pytest.raises(Duplicate, match=again.id):
        await items.transition(made.id, "pending", reason="once more")
    await items.transition(again.id, "cancelled", reason="the other one")
    reopened = await items.transition(made.id, "pending", reason="once more")

    assert reopened.status is Status.PENDING
    assert await items.find("f") == reopened


async def test_recurrences_are_counted_exactly(items: Items) -> None:
    """Many reporters at once: one item, and every report is on it."""
    new: list[bool] = []

    async def report(number: int) -> None:
        _, is_new = await items.create_or_recur(title="down", fingerprint="f", detail=f"report {number}")
        new.append(is_new)

    async with anyio.create_task_group() as group:
        for number in range(20):
            group.start_soon(report, number)

    (only,) = await items.list()
    assert only.occurrences == 20
    assert sorted(new) == [False] * 19 + [True]


async def test_a_closed_item_does_not_recur(items: Items) -> None:
    """The report would be lost on it."""
    made = await items.create(title="a", fingerprint="f")
    await items.transition(made.id, "cancelled", reason="over")

    with pytest.raises(IllegalTransition, match="what recurs now is a new item"):
        await items.recur(made.id)
    item, is_new = await items.create_or_recur(title="a", fingerprint="f")

    assert is_new
    assert item.id != made.id


# Claims


async def test_the_most_urgent_ready_item_is_claimed_first(items: Items) -> None:
    """By priority, then by age."""
    for name, priority in (("a", "low"), ("b", "high"), ("c", "high"), ("d", "critical")):
        await items.create(title=name, id=name, priority=priority)

    order = [(await claimed(items)).item.id for _ in range(4)]

    assert order == ["d", "b", "c", "a"]
    assert await items.claim("w") is None


async def test_a_claim_says_what_the_item_is_now(items: Items) -> None:
    """As if it had been read again."""
    await items.create(title="a")

    claim = await claimed(items, "worker 1")

    assert claim.item == await items.get(claim.item.id)
    assert (claim.item.status, claim.item.holder, claim.item.fence, claim.token, claim.attempt) == (
        "in_progress",
        "worker 1",
        1,
        1,
        1,
    )


async def test_a_filter_chooses_what_is_claimed(items: Items) -> None:
    """By source, label and priority, all together."""
    await items.create(title="a", id="a", priority="critical", source_type="human")
    await items.create(title="b", id="b", source_type="slo", labels={"target": "x"})
    await items.create(title="c", id="c", source_type="invariant", labels={"target": "y"}, source_id="7")

    assert await items.claim("w", match=Filter(source_types=("webhook",))) is None
    assert await items.claim("w", match=Filter(source_types=("slo",), labels={"target": "y"})) is None
    assert await items.claim("w", match=Filter(source_types=("slo", "invariant"), min_priority=6)) is None
    assert (await claimed(items, match=Filter(source_types=("slo", "invariant"), labels={"target": "y"}))).item.id == "c"
    assert (await claimed(items, match=Filter(labels={"target": "x"}))).item.id == "b"
    assert (await claimed(items, match=Filter(min_priority=20))).item.id == "a"


async def test_ten_claimers_have_one_winner(items: Items) -> None:
    """Always, and the others hear who it is."""
    made = await items.create(title="a")
    won: list[Claim | None] = []
    lost: list[str] = []

    async def claim(name: str) -> None:
        try:
            won.append(await items.claim(name, item_id=made.id))
        except LeaseHeld as error:
            lost.append(error.holder)

    async with anyio.create_task_group() as group:
        for number in range(10):
            group.start_soon(claim, f"w{number}")

    assert len(won) == 1
    assert won[0] is not None
    assert lost == [won[0].holder] * 9


async def test_tasks_of_one_process_claim_different_items(items: Items) -> None:
    """Each item once, however many ask at the same time."""
    for number in range(30):
        await items.create(title=str(number))
    taken: list[str] = []

    async def work(name: str) -> None:
        while (claim := await items.claim(name)) is not None:
            taken.append(claim.item.id)

    async with anyio.create_task_group() as group:
        for number in range(5):
            group.start_soon(work, f"w{number}")

    assert len(taken) == len(set(taken)) == 30


async def test_an_expired_claim_is_taken_over(items: Items, clock: VirtualClock) -> None:
    """With the next fence; the history says from whom."""
    await items.create(title="a")
    first = await claimed(items, "a")
    clock.advance(MINUTE - 1)
    assert await items.claim("b") is None
    clock.advance(2)

    second = await claimed(items, "b")

    assert (second.token, second.taken_from, second.attempt) == (first.token + 1, "a", 2)
    assert (await items.get(first.item.id)).reason == "the lease of a expired"


async def test_an_expired_claim_is_as_urgent_as_its_item(items: Items, clock: VirtualClock) -> None:
    """A crashed worker's critical item does not wait behind everything else."""
    urgent = await items.create(title="a", priority="critical")
    await claimed(items, "a")
    await items.create(title="b", priority="low")
    clock.advance(2 * MINUTE)

    assert (await claimed(items, "b")).item.id == urgent.id


async def test_an_expired_claim_does_not_jump_the_queue(items: Items, clock: VirtualClock) -> None:
    """What is ready and more urgent comes first."""
    await items.create(title="a", priority="low")
    await claimed(items, "a")
    urgent = await items.create(title="b", priority="critical")
    clock.advance(2 * MINUTE)

    assert (await claimed(items, "b")).item.id == urgent.id
    assert (await claimed(items, "b")).taken_from == "a"


async def test_a_renewed_claim_is_not_taken_over(items: Items, clock: VirtualClock) -> None:
    """A slow worker that gives signs of life keeps its item."""
    await items.create(title="a")
    claim = await claimed(items, "a")

    for _ in range(5):
        clock.advance(MINUTE / 2)
        await items.renew(claim)
        assert await items.claim("b") is None
    clock.advance(2 * MINUTE)

    assert (await claimed(items, "b")).taken_from == "a"


async def test_the_heartbeat_renews_until_the_claim_is_lost(items: Items, clock: VirtualClock) -> None:
    """It ends the work beside it, by raising."""
    await items.create(title="a")
    claim = await claimed(items, "a")
    beaten = anyio.Event()

    async def beat() -> None:
        with pytest.raises(Fenced):
            await items.heartbeat(claim)
        beaten.set()

    async with anyio.create_task_group() as group:
        group.start_soon(beat)
        for _ in range(9):
            await anyio.wait_all_tasks_blocked()
            clock.advance(MINUTE / 3)
        await anyio.wait_all_tasks_blocked()
        assert await items.claim("b") is None
        await items.transition(claim.item.id, "cancelled", reason="not needed")
        clock.advance(MINUTE / 3)
        with anyio.fail_after(30):
            await beaten.wait()


async def test_a_lost_claim_writes_nothing(items: Items, clock: VirtualClock) -> None:
    """Neither result nor note nor renewal of a holder that was given up."""
    await items.create(title="a")
    old = await claimed(items, "a")
    clock.advance(2 * MINUTE)
    await claimed(items, "b")
    before = await items.get(old.item.id)

    with pytest.raises(Fenced, match="now held by b"):
        await items.transition(old.item.id, "completed", reason="late", claim=old)
    with pytest.raises(Fenced):
        await items.note(old.item.id, "late", claim=old)
    with pytest.raises(Fenced):
        await items.renew(old)
    with pytest.raises(Fenced):
        await items.release(old, "late")

    assert await items.get(old.item.id) == before


async def test_a_claim_that_expired_unnoticed_may_still_finish(items: Items, clock: VirtualClock) -> None:
    """Nobody took over, so nothing is done twice."""
    await items.create(title="a")
    claim = await claimed(items)
    clock.advance(10 * MINUTE)

    done = await items.transition(claim.item.id, "completed", reason="done", claim=claim, result={"ok": True})

    assert (done.status, done.result, done.verified) == ("completed", {"ok": True}, False)


async def test_a_holder_takes_its_own_item_again(items: Items) -> None:
    """After a crash it goes on at once, with the same attempt and a new fence."""
    await items.create(title="a")
    before = await claimed(items, "agent")

    after = await claimed(items, "agent", item_id=before.item.id)

    assert (after.token, after.attempt, after.taken_from) == (2, 1, None)
    with pytest.raises(Fenced):
        await items.note(before.item.id, "from before the crash", claim=before)


async def test_a_released_item_is_ready_again(items: Items) -> None:
    """The attempt counts, unless it was nobody's failure."""
    made = await items.create(title="a")

    released = await items.release(await claimed(items), "could not")
    again = await items.release(await claimed(items), "usage limit", counted=False)

    assert (released.ready, released.attempts, released.reason, released.holder) == (True, 1, "could not", None)
    assert again.attempts == 1
    assert await types(items, made) == ["item.created", "item.described"] + ["item.claimed", "item.released"] * 2


@pytest.mark.parametrize("to", ["pending", "verifying", "completed", "failed", "blocked", "parked"])
async def test_a_claim_ends_with_the_work(items: Items, store: Store, to: str) -> None:
    """The lease is given back in the same append, so that the next holder need not wait for it."""
    await items.create(title="a")
    claim = await claimed(items)

    await items.transition(claim.item.id, to, reason="so", claim=claim)

    lease = await store.lease(claim.lease)
    assert lease is not None
    assert (lease.holder, lease.token) == (None, 1)
    with pytest.raises(Fenced, match="released"):
        await items.renew(claim)


async def test_claiming_one_that_is_not_ready_says_why(items: Items) -> None:
    """Waiting for something, or over."""
    needed = await items.create(title="first", id="a")
    await items.create(title="second", id="b", depends_on=["a"])

    with pytest.raises(IllegalTransition, match=r"waits for a \(first\), which is pending"):
        await items.claim("w", item_id="b")
    await items.transition(needed.id, "cancelled", reason="no")
    with pytest.raises(IllegalTransition, match="item a: cancelled does not lead to in_progress"):
        await items.claim("w", item_id="a")


async def test_waiting_ends_with_a_new_item(items: Items) -> None:
    """Noticed by its event."""
    got: list[Claim] = []

    async def wait() -> None:
        got.append(await items.wait_claim("w"))

    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            made = await items.create(title="a")

    assert [claim.item.id for claim in got] == [made.id]


async def test_waiting_ends_with_a_lease(items: Items, clock: VirtualClock) -> None:
    """Which no event announces, renewals included."""
    await items.create(title="a")
    first = await claimed(items, "a")
    got: list[Claim] = []

    async def wait() -> None:
        got.append(await items.wait_claim("b", ttl_seconds=MINUTE))

    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            clock.advance(MINUTE / 2)
            await items.renew(first)
            clock.advance(MINUTE / 2 + 1)
            await anyio.wait_all_tasks_blocked()
            assert got == []
            clock.advance(MINUTE)

    assert [claim.taken_from for claim in got] == ["a"]


@pytest.mark.parametrize("steps", range(4))
async def test_who_is_cancelled_while_claiming_holds_nothing(items: Items, steps: int) -> None:
    """An append cannot be taken back, so the claim is given back, or the item would be held by nobody."""
    await items.create(title="a")
    got: list[Claim | None] = []

    async def claim() -> None:
        got.append(await items.claim("w"))

    async with anyio.create_task_group() as group:
        group.start_soon(claim)
        for _ in range(steps):
            await asyncio.sleep(0)
        group.cancel_scope.cancel()

    (item,) = await items.list()
    assert item.status is (Status.IN_PROGRESS if got else Status.PENDING)
    assert got or item.attempts == 0


# What others wrote


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        ("item.created", {"priority": "no"}),
        ("item.created", {"priority": 2**70}),
        ("item.described", {"title": 7}),
        ("item.claimed", {"holder": "x", "token": 2**70, "ttl_seconds": 1, "expires_us": 1, "attempt": 1}),
        ("item.parked", {"origin": "nowhere"}),
        ("item.dependencies_changed", {"depends_on": 7}),
        ("item.prioritised", {"priority": 2**70}),
        ("ledger.erased", {"seq": 2**70}),
    ],
)
async def test_an_event_that_nobody_can_read_keeps_no_item_from_anybody(
    store: Store, items: Items, kind: str, payload: dict[str, object]
) -> None:
    """It counts as erased, in the tables of those who write and of those who fold anew."""
    good = await items.create(title="good")
    await items.create(title="odd", id="odd")

    await store.append(Write("item/odd", (Draft(type=kind, payload=payload),)))
    await store.append(Write("item/odder", (Draft(type=kind, payload=payload),)))

    assert (await items.get(good.id)).title == "good"
    assert (await items.get("odd")).seq == 3
    assert await store.check(ITEM_VIEW) == []


# Changing


async def test_work_is_verified_by_somebody_else(items: Items) -> None:
    """The worker's word is verifying, the verifier's is completed; both are kept."""
    made = await items.create(title="a", gates=("checks",))
    claim = await claimed(items)

    with pytest.raises(IllegalTransition, match="hand it to verifying"):
        await items.transition(made.id, "completed", reason="done", claim=claim)
    handed = await items.transition(made.id, "verifying", reason="restarted it", claim=claim, result={"action": "restart"})
    with pytest.raises(IllegalTransition, match="takes verifier, not person"):
        await items.transition(made.id, "completed", reason="looks fine")
    done = await items.transition(made.id, "completed", reason="all checks pass", role=Role.VERIFIER)

    assert (handed.holder, handed.verified) == (None, False)
    assert (done.status, done.verified, done.result, done.reason) == (
        "completed",
        True,
        {"action": "restart"},
        "all checks pass",
    )
    assert done.closed_us == done.updated_us


async def test_a_rejected_result_is_worked_again(items: Items) -> None:
    """As the next attempt, which knows why."""
    made = await items.create(title="a", gates=("checks",))
    await items.transition(made.id, "verifying", reason="done", claim=await claimed(items), result=1)
    await items.transition(made.id, "pending", reason="check 2 fails", role=Role.VERIFIER)

    claim = await claimed(items)

    assert (claim.attempt, claim.item.reason, claim.item.result) == (2, "check 2 fails", None)


async def test_a_person_ends_what_a_worker_has(items: Items) -> None:
    """The worker hears of it with its next write."""
    await items.create(title="a")
    claim = await claimed(items)

    await items.transition(claim.item.id, "parked", reason="not today")

    with pytest.raises(Fenced, match="released"):
        await items.transition(claim.item.id, "completed", reason="done", claim=claim)
    assert (await items.transition(claim.item.id, "pending", reason="today")).ready


async def test_a_worker_needs_its_claim(items: Items) -> None:
    """Roles are not a matter of saying so."""
    made = await items.create(title="a")
    claim = await claimed(items)
    other = await items.create(title="b")

    with pytest.raises(UsageError, match="with its claim"):
        await items.transition(made.id, "failed", reason="x", role=Role.WORKER)
    with pytest.raises(UsageError, match="the claim is for item"):
        await items.transition(other.id, "failed", reason="x", claim=claim)
    with pytest.raises(IllegalTransition, match="claim it"):
        await items.transition(other.id, "in_progress", reason="x")
    with pytest.raises(UsageError, match="status 'done'"):
        await items.transition(other.id, "done", reason="x")


async def test_a_change_that_was_overtaken_is_decided_anew(items: Items, store: Store) -> None:
    """Notes of others do not refuse it."""
    made = await items.create(title="a")

    async with anyio.create_task_group() as group:
        for number in range(10):
            group.start_soon(items.note, made.id, str(number))
        group.start_soon(lambda: items.transition(made.id, "parked", reason="x"))

    assert (await items.get(made.id)).status is Status.PARKED
    assert len(await items.history(made.id)) == 13


async def test_changes_at_the_same_instant_have_one_order(items: Items) -> None:
    """One of two contradicting changes is refused; the item is in one state."""
    made = await items.create(title="a")
    refused: list[str] = []

    async def change(to: str) -> None:
        try:
            await items.transition(made.id, to, reason=to)
        except IllegalTransition as error:
            refused.append(str(error))

    async with anyio.create_task_group() as group:
        for to in ("completed", "failed"):
            group.start_soon(change, to)

    assert len(refused) == 1
    assert (await items.get(made.id)).seq == 3


# Dependencies


async def test_an_item_is_ready_once_everything_it_needs_is_completed(items: Items) -> None:
    """Derived, so no event is needed for it."""
    a, b = await items.create(title="a"), await items.create(title="b")
    both = await items.create(title="c", depends_on=[a.id, b.id], priority="critical")

    await items.transition(a.id, "completed", reason="x")
    waiting = await items.get(both.id)
    await items.transition(b.id, "completed", reason="x")
    ready = await items.get(both.id)

    assert (both.ready, both.waiting, waiting.ready, waiting.waiting, ready.ready, ready.waiting) == (
        False,
        2,
        False,
        1,
        True,
        0,
    )
    assert (await claimed(items)).item.id == both.id
    assert [item.id for item in await items.dependents(a.id)] == [both.id]


async def test_what_depends_on_something_completed_is_ready_at_once(items: Items) -> None:
    """There is nothing to wait for."""
    a = await items.create(title="a")
    await items.transition(a.id, "completed", reason="x")

    assert (await items.create(title="b", depends_on=[a.id])).ready


@pytest.mark.parametrize("end", ["failed", "cancelled"])
async def test_a_broken_dependency_blocks_its_dependents_by_name(items: Items, end: str) -> None:
    """In the same append; what depends on those waits."""
    a = await items.create(title="Build", id="a")
    b = await items.create(title="Test", id="b", depends_on=["a"])
    c = await items.create(title="Ship", id="c", depends_on=["b"])

    failed = await items.transition(a.id, end, reason="no compiler")

    blocked = await items.get(b.id)
    assert (blocked.status, blocked.reason, blocked.blocked_on) == ("blocked", f"dependency a (Build) {end}: no compiler", "a")
    assert (await items.history(b.id))[-1].parent == f"item/a#{failed.seq}"
    assert (await items.get(c.id)).status is Status.PENDING


async def test_what_depends_on_something_broken_is_blocked_from_the_start(items: Items) -> None:
    """Whether it is new or linked later."""
    a = await items.create(title="Build", id="a")
    await items.transition(a.id, "failed", reason="x")
    b = await items.create(title="Test", depends_on=["a"])
    c = await items.create(title="Ship")

    linked = await items.depend(c.id, "a")

    assert [b.status, linked.status] == [Status.BLOCKED, Status.BLOCKED]


async def test_reopening_unblocks_what_was_blocked_by_it(items: Items) -> None:
    """But nothing that is blocked for another reason."""
    a, b = await items.create(title="a", id="a"), await items.create(title="b", id="b")
    both = await items.create(title="both", depends_on=[a.id, b.id])
    one = await items.create(title="one", depends_on=[a.id])
    other = await items.create(title="other", depends_on=[a.id])
    await items.transition(other.id, "blocked", reason="waiting for a key")
    await items.transition(a.id, "failed", reason="x")
    await items.transition(b.id, "failed", reason="x")

    await items.transition(a.id, "pending", reason="again")
    after_a = [(await items.get(each.id)).status for each in (both, one, other)]
    named_then = ((await items.get(both.id)).blocked_on, (await items.get(both.id)).reason)
    await items.transition(b.id, "pending", reason="again")
    after_b = await items.get(both.id)

    assert after_a == [Status.BLOCKED, Status.PENDING, Status.BLOCKED]
    assert named_then == ("b", "dependency b (b) failed: x")
    assert (after_b.status, after_b.ready, after_b.blocked_on) == (Status.PENDING, False, None)


async def test_nothing_goes_on_past_a_broken_dependency(items: Items) -> None:
    """Unless it is reopened or dropped, which the message says."""
    a = await items.create(title="Build", id="a")
    b = await items.create(title="Test", id="b", depends_on=["a"])
    await items.transition(b.id, "parked", reason="later")
    await items.transition(a.id, "failed", reason="x")

    with pytest.raises(
        IllegalTransition, match=r"item b: dependency a \(Build\) failed: x; reopen it, or remove the dependency"
    ):
        await items.transition(b.id, "pending", reason="now")
    await items.undepend(b.id, "a")

    assert (await items.transition(b.id, "pending", reason="now")).ready


async def test_dropping_the_broken_dependency_unblocks(items: Items) -> None:
    """There is nothing left that it waits for."""
    a = await items.create(title="Build", id="a")
    b = await items.create(title="Test", id="b", depends_on=["a"])
    await items.transition(a.id, "failed", reason="x")

    freed = await items.undepend(b.id, "a")

    assert (freed.ready, freed.depends_on) == (True, ())
    assert await items.dependents("a") == []


async def test_circles_are_refused_and_printed(items: Items) -> None:
    """However long they are."""
    await items.create(title="a", id="a")
    await items.create(title="b", id="b", depends_on=["a"])
    await items.create(title="c", id="c", depends_on=["b"])

    with pytest.raises(DependencyCycle, match="a -> c -> b -> a"):
        await items.depend("a", "c")
    with pytest.raises(DependencyCycle, match="d -> d"):
        await items.create(title="d", id="d", depends_on=["d"])

    assert (await items.get("a")).depends_on == ()


async def test_a_circle_cannot_be_closed_from_two_sides_at_once(items: Items) -> None:
    """Each link alone is fine; together they are not, so one of them is refused."""
    for name in "abcd":
        await items.create(title=name, id=name)
    await items.depend("b", "c")
    await items.depend("d", "a")
    refused: list[str] = []

    async def link(item: str, on: str) -> None:
        try:
            await items.depend(item, on)
        except DependencyCycle as error:
            refused.append(str(error))

    async with anyio.create_task_group() as group:
        group.start_soon(link, "a", "b")
        group.start_soon(link, "c", "d")

    assert len(refused) == 1


async def test_an_item_that_was_begun_keeps_its_dependencies(items: Items) -> None:
    """What it was claimed with is what it is judged by."""
    made, other = await items.create(title="a"), await items.create(title="b")
    await claimed(items, item_id=made.id)

    with pytest.raises(IllegalTransition, match="before it is begun"):
        await items.depend(made.id, other.id)


@pytest.mark.parametrize("first", ["unpark", "fail"])
async def test_taking_up_and_failing_at_the_same_instant_leaves_nothing_pending(items: Items, first: str) -> None:
    """An item that is unparked while what it needs fails is blocked, or stays parked."""
    a = await items.create(title="a")
    b = await items.create(title="b", depends_on=[a.id])
    await items.transition(b.id, "parked", reason="later")

    async def unpark() -> None:
        with contextlib.suppress(IllegalTransition):
            await items.transition(b.id, "pending", reason="now")

    async def fail() -> None:
        await items.transition(a.id, "failed", reason="x")

    async with anyio.create_task_group() as group:
        for change in (unpark, fail) if first == "unpark" else (fail, unpark):
            group.start_soon(change)

    assert (await items.get(b.id)).status in {Status.BLOCKED, Status.PARKED}


async def test_two_that_broke_are_reopened_at_the_same_instant(items: Items) -> None:
    """What waited for both goes on: neither leaves it to the other."""
    a, b = await items.create(title="a"), await items.create(title="b")
    both = await items.create(title="both", depends_on=[a.id, b.id])
    for each in (a, b):
        await items.transition(each.id, "failed", reason="x")

    async with anyio.create_task_group() as group:
        for each in (a, b):
            group.start_soon(lambda each=each: items.transition(each.id, "pending", reason="again"))

    assert (await items.get(both.id)).status is Status.PENDING


async def test_what_is_closed_at_the_same_instant_does_not_recur(items: Items) -> None:
    """Each report is on an item that was open when it was counted."""
    await items.create(title="a", fingerprint="f", id="a")

    async with anyio.create_task_group() as group:
        group.start_soon(lambda: items.transition("a", "cancelled", reason="x"))
        group.start_soon(lambda: items.create_or_recur(title="a", fingerprint="f"))

    kinds = await types(items, await items.get("a"))
    assert "item.recurred" not in kinds[kinds.index("item.cancelled") :]
    assert sum(item.occurrences for item in await items.list()) == 2


@pytest.mark.parametrize("how", ["create", "depend"])
@pytest.mark.parametrize("first", ["link", "fail"])
async def test_linking_and_failing_at_the_same_instant_blocks(items: Items, how: str, first: str) -> None:
    """Whichever comes first, the dependent ends up blocked."""
    a = await items.create(title="a", id="a")
    if how == "depend":
        await items.create(title="b", id="b")

    async def link() -> None:
        if how == "depend":
            await items.depend("b", "a")
        else:
            await items.create(title="b", id="b", depends_on=["a"])

    async def fail() -> None:
        await items.transition(a.id, "failed", reason="x")

    async with anyio.create_task_group() as group:
        for change in (link, fail) if first == "link" else (fail, link):
            group.start_soon(change)

    assert (await items.get("b")).status is Status.BLOCKED


@pytest.mark.parametrize("first", ["drop", "fail"])
async def test_dropping_one_while_another_fails_stays_blocked(items: Items, first: str) -> None:
    """The last broken dependency is not the last one any more."""
    a, c = await items.create(title="a"), await items.create(title="c")
    b = await items.create(title="b", depends_on=[a.id, c.id])
    await items.transition(a.id, "failed", reason="x")

    async def drop() -> None:
        await items.undepend(b.id, a.id)

    async def fail() -> None:
        await items.transition(c.id, "failed", reason="x")

    async with anyio.create_task_group() as group:
        for change in (drop, fail) if first == "drop" else (fail, drop):
            group.start_soon(change)

    after = await items.get(b.id)
    assert (after.status, after.blocked_on) == (Status.BLOCKED, c.id)


async def test_edits_at_the_same_instant_are_both_kept(items: Items) -> None:
    """Neither writes over what the other changed."""
    made = await items.create(title="a")

    async with anyio.create_task_group() as group:
        group.start_soon(lambda: items.edit(made.id, title="b"))
        group.start_soon(lambda: items.edit(made.id, description="c"))

    edited = await items.get(made.id)
    assert (edited.title, edited.description) == ("b", "c")


# The record


async def test_the_view_is_what_the_events_say(items: Items, store: Store) -> None:
    """Built anew it is the same, and the chain holds."""
    a = await items.create(title="a", labels={"x": "y"}, fingerprint="f")
    await items.create(title="b", depends_on=[a.id])
    claim = await claimed(items)
    await items.note(a.id, "x", claim=claim)
    await items.transition(a.id, "verifying", reason="x", claim=claim)
    await items.transition(a.id, "completed", reason="x", role=Role.VERIFIER)
    before = await items.list()

    await store.rebuild(ITEM_VIEW)

    assert await items.list() == before
    assert await store.verify()


async def test_erased_words_leave_the_item_workable(items: Items, store: Store) -> None:
    """Title, description and payload are gone everywhere; state, gates and dependencies stay."""
    made = await items.create(title="Ada's data", description="secret", payload={"name": "Ada"}, gates=("checks",), id="a")
    await items.create(title="b", depends_on=["a"])

    await store.erase("item/a", 2, reason="asked for")
    erased = await items.get(made.id)
    await store.rebuild(ITEM_VIEW)

    assert await items.get(made.id) == erased
    assert (erased.title, erased.description, erased.payload, erased.gates) == ("(erased)", "", {}, ("checks",))
    assert (await claimed(items)).item.id == "a"


async def test_an_erased_change_is_still_a_change(items: Items, store: Store) -> None:
    """The state is told by the event's type, the claim by its place; reason and result are gone."""
    made = await items.create(title="a", fingerprint="f", priority="high", gates=("checks",), labels={"k": "v"})
    claim = await claimed(items, "Ada")
    await items.transition(made.id, "verifying", reason="said Ada", claim=claim, result={"by": "Ada"})

    for seq in (4, 3, 1):
        await store.erase(f"item/{made.id}", seq, reason="asked for")
    await store.rebuild(ITEM_VIEW)
    erased = await items.get(made.id)

    assert (erased.status, erased.reason, erased.result, erased.fence) == ("verifying", "(erased)", None, 1)
    assert (erased.fingerprint, erased.gates, erased.labels) == ("f", ("erased",), {})
    assert (await items.transition(made.id, "completed", reason="x", role=Role.VERIFIER)).verified
    assert await items.find("f") is None


async def test_a_lease_that_the_ledger_does_not_know_is_made_anew(items: Items, store: Store) -> None:
    """An imported item's claims were another ledger's."""
    made = await items.create(title="a")
    await items.release(await claimed(items), "x")
    await items.release(await claimed(items), "x")
    elsewhere = MemoryStore(clock=store.clock)
    await elsewhere.restore(await store.read(f"item/{made.id}"))
    imported = Items(elsewhere)

    claim = await claimed(imported)

    assert claim.item.id == made.id
    assert (await imported.transition(made.id, "completed", reason="x", claim=claim)).status is Status.COMPLETED


async def test_a_foreign_event_moves_only_the_head(items: Items, store: Store) -> None:
    """Other packages may write to an item's stream; decisions still see that it changed."""
    made = await items.create(title="a")
    await store.append(Write(f"item/{made.id}", (Draft(type="action.linked"),)), guards=[Expect(f"item/{made.id}", made.seq)])

    assert (await items.get(made.id)).seq == made.seq + 1
    assert (await claimed(items)).item.id == made.id
