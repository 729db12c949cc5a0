"""What every ledger store promises, run against each of them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import anyio
import psycopg
import pytest

from harness.clock import VirtualClock
from harness.errors import Conflict, Fenced, KeyTaken, LeaseHeld, LedgerError, NotFound, Refused
from harness.ledger import (
    START,
    Acquire,
    Draft,
    Event,
    Expect,
    Fence,
    Free,
    MemoryStore,
    PostgresStore,
    Release,
    Reserve,
    SQLiteStore,
    Statement,
    Store,
    Unique,
    Write,
    export_bundle,
    parse_bundle,
)  # fmt: skip


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture(params=["memory", "sqlite", "postgres"])
async def store(request: pytest.FixtureRequest, tmp_path: Path, clock: VirtualClock) -> AsyncIterator[Store]:
    made: Store
    match request.param:
        case "memory":
            made = MemoryStore(clock=clock)
        case "sqlite":
            made = SQLiteStore(tmp_path / "ledger.db", clock=clock)
        case _:
            made = PostgresStore(request.getfixturevalue("postgres_schema"), clock=clock)
    yield made
    await made.close()


def said(stream: str, *texts: str, key: str | None = None) -> Write:
    return Write(stream, tuple(Draft(type="note.taken", payload={"text": text}, key=key) for text in texts))


async def texts(store: Store, stream: str) -> list[str]:
    return [event.payload["text"] for event in await store.read(stream)]


def tamper(store: Store, sql: str) -> None:
    """Do to a view's tables what nobody should."""
    match store:
        case PostgresStore():
            address, _, schema = store.location.partition("?schema=")
            with psycopg.connect(address, options=f"-c search_path={schema}_views", autocommit=True) as connection:
                connection.execute(sql.encode())
        case MemoryStore():
            store._tables.execute(sql)  # pyright: ignore[reportPrivateUsage]
        case _:
            store._writer.connection.execute(sql)  # type: ignore[attr-defined]


class Counts:
    """How many notes each stream has."""

    name = "counts"
    tables = ("counts",)
    ddl = ("CREATE TABLE IF NOT EXISTS counts (stream TEXT PRIMARY KEY, notes INTEGER NOT NULL)",)
    prefixes = ("item/",)

    def fold(self, event: Event) -> Iterable[Statement]:
        if event.type == "note.taken":
            yield (
                "INSERT INTO counts VALUES (?, 1) ON CONFLICT (stream) DO UPDATE SET notes = counts.notes + 1",
                (event.stream,),
            )


async def test_events_get_a_place_in_their_stream_and_in_the_whole(store: Store) -> None:
    """Sequences count within a stream, positions over all."""
    appended = await store.append(said("item/a", "one", "two"), said("item/b", "three"))

    assert [(e.stream, e.seq, e.position) for e in appended.events] == [("item/a", 1, 1), ("item/a", 2, 2), ("item/b", 1, 3)]
    assert await store.read_all() == list(appended.events)


async def test_an_event_is_chained_to_the_one_before(store: Store) -> None:
    """`prev` is the hash of the event before, and 32 zero bytes for the first."""
    first, second = (await store.append(said("item/a", "one", "two"))).events

    assert first.prev == bytes(32)
    assert second.prev == first.hash
    assert (await store.head("item/a")).hash == second.hash  # type: ignore[union-attr]


async def test_what_is_read_is_what_was_written(store: Store) -> None:
    """Every field comes back, whatever letters the payload has."""
    payload = {"text": "ä 漢 \u0000 \u2028 '\"", "n": [1, 2.5, None, True], "deep": {"z": 1, "a": {}}}
    written = await store.append(
        Write("item/a", (Draft(type="a.b", payload=payload, key="k", parent="run/x#1", schema=3, actor="me", tenant="t"),))
    )

    [event] = await store.read("item/a")

    assert event == written.first
    assert event.payload == payload
    assert (event.key, event.parent, event.schema, event.actor, event.tenant) == ("k", "run/x#1", 3, "me", "t")


async def test_expect_refuses_what_others_were_faster_to_write(store: Store) -> None:
    """Compare-and-append: the head must be the one that the decision was made on."""
    await store.append(said("item/a", "one"), guards=[Expect("item/a", 0)])

    with pytest.raises(Conflict, match="item/a is at 1, not at 0"):
        await store.append(said("item/a", "two"), guards=[Expect("item/a", 0)])

    assert await texts(store, "item/a") == ["one"]


async def test_an_append_over_several_streams_is_written_whole_or_not_at_all(store: Store) -> None:
    """One refusing guard keeps every event and every other guard's effect out."""
    await store.append(said("item/a", "one"))

    with pytest.raises(Conflict):
        await store.append(
            said("item/b", "x"),
            said("item/a", "y"),
            guards=[Unique("k"), Reserve("c", 5), Acquire("l", "me", 1, 9), Expect("item/a", 0)],
        )

    assert await store.head("item/b") is None
    assert await texts(store, "item/a") == ["one"]
    assert await store.holder_of("k") is None
    assert await store.reserved("c") == 0
    assert await store.lease("l") is None


async def test_a_unique_key_is_held_by_one_event_until_it_is_freed(store: Store) -> None:
    """The second one is told who holds it."""
    await store.append(said("item/a", "one"), guards=[Unique("open/x")])

    with pytest.raises(KeyTaken) as caught:
        await store.append(said("item/b", "two"), guards=[Unique("open/x")])
    await store.append(said("item/a", "done"), guards=[Free("open/x")])
    await store.append(said("item/b", "two"), guards=[Unique("open/x")])

    assert (caught.value.stream, caught.value.seq) == ("item/a", 1)
    assert await store.holder_of("open/x") == ("item/b", 1)


async def test_the_same_key_twice_in_one_append_is_refused(store: Store) -> None:
    """Guards see what the ones before them in the same append change."""
    with pytest.raises(KeyTaken):
        await store.append(said("item/a", "one"), guards=[Unique("k"), Unique("k")])

    assert await store.head("item/a") is None


async def test_a_lease_has_one_holder_until_it_expires(store: Store, clock: VirtualClock) -> None:
    """Another holder is refused while it lasts, and gets the next token afterwards."""
    await store.append(said("item/a", "claimed"), guards=[Acquire("item/a", "ann", 1, 60)])

    with pytest.raises(LeaseHeld, match="ann"):
        await store.append(said("item/a", "claimed"), guards=[Acquire("item/a", "bob", 2, 60)])
    clock.advance(61)
    await store.append(said("item/a", "taken over"), guards=[Acquire("item/a", "bob", 2, 60)])

    lease = await store.lease("item/a")
    assert lease is not None
    assert (lease.holder, lease.token) == ("bob", 2)


async def test_a_stale_fence_cannot_write(store: Store, clock: VirtualClock) -> None:
    """A holder that lost its lease is told who has it now."""
    await store.append(said("item/a", "claimed"), guards=[Acquire("item/a", "ann", 1, 60)])
    clock.advance(61)
    await store.append(said("item/a", "late but nobody came"), guards=[Fence("item/a", 1)])
    await store.append(said("item/a", "taken over"), guards=[Acquire("item/a", "bob", 2, 60)])

    with pytest.raises(Fenced, match="now held by bob"):
        await store.append(said("item/a", "late"), guards=[Fence("item/a", 1)])
    with pytest.raises(Fenced):
        await store.renew("item/a", 1, 60)


async def test_a_wrong_token_is_a_conflict(store: Store) -> None:
    """Two that want the same lease at once: the second one's token is taken."""
    await store.append(said("item/a", "x"), guards=[Acquire("l", "ann", 1, 60), Release("l", 1)])

    with pytest.raises(Conflict, match="the next is 2"):
        await store.append(said("item/a", "x"), guards=[Acquire("l", "bob", 1, 60)])


async def test_renewing_lengthens_a_lease_without_an_event(store: Store, clock: VirtualClock) -> None:
    """Renewals update a row; released leases cannot be renewed."""
    await store.append(said("item/a", "x"), guards=[Acquire("l", "ann", 1, 60)])
    clock.advance(59)
    await store.renew("l", 1, 60)
    clock.advance(59)

    with pytest.raises(LeaseHeld):
        await store.append(said("item/a", "y"), guards=[Acquire("l", "bob", 2, 60)])
    await store.append(said("item/a", "released"), guards=[Release("l", 1)])
    with pytest.raises(Fenced, match="released"):
        await store.renew("l", 1, 60)

    assert len(await store.read("item/a")) == 2
    assert [lease.name for lease in await store.leases("l")] == ["l"]


async def test_reservations_never_pass_their_limit(store: Store) -> None:
    """However many reserve at once, the sum stays within the limit."""

    async def reserve(name: str) -> bool:
        try:
            await store.append(said(f"item/{name}", "x"), guards=[Reserve("budget", 30, 100)])
        except Refused:
            return False
        return True

    results: list[bool] = []
    async with anyio.create_task_group() as group:
        for index in range(10):

            async def run(name: str = str(index)) -> None:
                results.append(await reserve(name))

            group.start_soon(run)

    assert sorted(results) == [False] * 7 + [True] * 3
    assert await store.reserved("budget") == 90
    await store.append(said("item/z", "settled"), guards=[Reserve("budget", -50)])
    assert await store.reserved("budget") == 40


async def test_submitted_appends_are_written_in_order_and_not_later_than_the_next(store: Store) -> None:
    """What is submitted before an append is there when that append returns."""
    first = store.submit(said("item/a", "one"))
    store.submit(said("item/b", "two"))
    await store.append(said("item/a", "three"))

    assert await texts(store, "item/a") == ["one", "three"]
    assert await texts(store, "item/b") == ["two"]
    assert (await first).first.seq == 1


async def test_a_submitted_append_that_is_refused_breaks_nothing(store: Store) -> None:
    """Its waiter gets the error; the appends around it are written."""
    refused = store.submit(said("item/a", "no"), guards=[Expect("item/a", 7)])
    await store.append(said("item/a", "yes"))

    with pytest.raises(Conflict):
        await refused
    assert await texts(store, "item/a") == ["yes"]


async def test_a_cancelled_append_is_written_all_the_same(store: Store) -> None:
    """Once queued it cannot be taken back, and nothing hangs."""
    async with anyio.create_task_group() as group:
        group.start_soon(store.append, said("item/a", "one"))
        await anyio.lowlevel.checkpoint()
        group.cancel_scope.cancel()
    await store.append(said("item/a", "two"))

    assert await texts(store, "item/a") == ["one", "two"]


async def test_many_at_once_are_all_written_in_their_order(store: Store) -> None:
    """64 writers with 20 events each: nothing lost, nothing doubled, every chain good."""

    async def write(name: str) -> None:
        for index in range(20):
            await store.append(said(f"item/{name}", str(index)))

    async with anyio.create_task_group() as group:
        for index in range(64):
            group.start_soon(write, str(index))

    for index in range(64):
        assert await texts(store, f"item/{index}") == [str(number) for number in range(20)]
    assert await store.verify()


async def test_latest_finds_the_newest_event_with_a_key(store: Store) -> None:
    """Keys are looked up within their stream."""
    await store.append(said("item/a", "1", "2", key="k"), said("item/a", "other", key="j"), said("item/b", "3", key="k"))

    found = await store.latest("item/a", "k")

    assert found is not None
    assert found.payload == {"text": "2"}
    assert await store.latest("item/a", "nobody") is None
    assert await store.latest("item/nobody", "k") is None


async def test_reading_goes_on_after_a_place(store: Store) -> None:
    """By sequence in a stream, by cursor over all; prefixes and types choose."""
    await store.append(said("item/a", "1", "2", "3"), Write("run/x", (Draft(type="run.started"),)), said("item/b", "4"))

    assert [e.seq for e in await store.read("item/a", after=1, limit=1)] == [2]
    assert await store.read("item/nobody") == []
    first, *_ = await store.read_all(limit=1)
    assert [e.position for e in await store.read_all(after=first.cursor, streams=["item/"])] == [2, 3, 5]
    assert [e.type for e in await store.read_all(types=["run.started"])] == ["run.started"]
    assert await store.read_all(after=await store.tail()) == []
    event = await store.event("item/a", 2)
    assert event is not None
    assert event.payload == {"text": "2"}
    assert await store.event("item/a", 9) is None
    assert [head.stream for head in await store.heads("item/")] == ["item/a", "item/b"]


async def test_a_foreign_cursor_is_refused(store: Store) -> None:
    """A cursor is only good for the kind of store that made it."""
    with pytest.raises(LedgerError, match="no cursor"):
        await store.read_all(after=START.__class__("12-34x"))  # type: ignore[arg-type]


async def test_following_shows_what_was_and_what_comes(store: Store) -> None:
    """From the given place on, without loss or repeat."""
    await store.append(said("item/a", "0"), said("run/a", "not for us"))
    seen: list[str] = []

    async def follow() -> None:
        async with contextlib.aclosing(store.follow(streams=["item/"])) as events:
            async for event in events:
                seen.append(event.payload["text"])
                if len(seen) == 50:
                    return

    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            group.start_soon(follow)
            for index in range(1, 50):
                await store.append(said("item/a", str(index)), said("run/a", "not for us"))

    assert seen == [str(index) for index in range(50)]


async def test_a_subscriber_that_appends_does_not_deadlock(store: Store) -> None:
    """A follower may write what it concludes from what it sees."""
    with anyio.fail_after(20):
        await store.append(said("item/a", "x"))
        async with contextlib.aclosing(store.follow(streams=["item/"])) as events:
            async for event in events:
                if event.seq == 30:
                    break
                await store.append(said("item/a", "x"))

    assert len(await store.read("item/a")) == 30


async def test_names_that_break_the_rules_are_refused(store: Store) -> None:
    """Streams are noun/id, types are noun.past_tense."""
    for stream in ("item", "Item/a", "item/", "item/a b", "item/\n", "item/" + "x" * 500):
        with pytest.raises(LedgerError, match="stream"):
            await store.append(said(stream, "x"))
    for type_ in ("created", "Item.created", "item.", "item created"):
        with pytest.raises(LedgerError, match="type"):
            await store.append(Write("item/a", (Draft(type=type_),)))
    with pytest.raises(LedgerError, match="at least one event"):
        await store.append(Write("item/a", ()))
    with pytest.raises(LedgerError, match="NUL"):
        await store.append(Write("item/a", (Draft(type="a.b", key="\0"),)))

    assert await store.read_all() == []


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), "\ud800", {1, 2, object()}])
async def test_payloads_that_are_not_json_are_refused(store: Store, value: object) -> None:
    """One clear error, and nothing written."""
    with pytest.raises(LedgerError, match="payload is not JSON"):
        await store.append(Write("item/a", (Draft(type="a.b", payload={"deep": [value]}),)))

    assert await store.head("item/a") is None


async def test_verify_knows_an_unknown_stream_from_a_good_one(store: Store) -> None:
    """An unknown stream is an error, never "valid"."""
    await store.append(said("item/a", "x"))

    assert (await store.verify("item/a")).events == 1
    with pytest.raises(NotFound, match="item/b"):
        await store.verify("item/b")


async def test_erasing_takes_the_payload_and_leaves_the_chain(store: Store) -> None:
    """The erased value is defined, the erasure is an event, everything verifies."""
    await store.append(said("item/a", "my card is 4111", "fine"))

    record = await store.erase("item/a", 1, reason="asked for")

    event = await store.event("item/a", 1)
    assert event is not None
    assert event.erased
    assert event.payload == {}
    assert record.type == "ledger.erased"
    assert record.payload == {"seq": 1, "reason": "asked for"}
    assert await store.verify()
    with pytest.raises(LedgerError, match="erased"):
        event.load(dict)
    with pytest.raises(NotFound):
        await store.erase("item/a", 99, reason="x")
    assert len(await store.read("item/a")) == 3


async def test_a_view_is_advanced_by_writers_that_know_it(store: Store) -> None:
    """A query sees every event before it, whoever wrote it."""
    view = Counts()
    await store.append(said("item/a", "before it was registered"))
    store.register(view)
    await store.append(said("item/a", "1", "2"), said("run/a", "not counted"))
    await store.append(said("item/b", "3"))

    assert await store.query(view, "SELECT stream, notes FROM counts ORDER BY stream") == [("item/a", 3), ("item/b", 1)]
    assert await store.check(view) == []


async def test_a_view_that_was_tampered_with_is_found_and_rebuilt(store: Store) -> None:
    """Checking compares with the events; rebuilding folds them anew."""
    view = Counts()
    store.register(view)
    await store.append(said("item/a", "1", "2"))
    await store.query(view, "SELECT * FROM counts")
    tamper(store, "UPDATE counts SET notes = 77")

    assert await store.check(view) == ["counts"]
    assert await store.rebuild(view) == 2
    assert await store.check(view) == []
    assert await store.query(view, "SELECT notes FROM counts") == [(2,)]


async def test_a_view_that_fails_stops_no_write(store: Store) -> None:
    """Its reader meets the error, the ledger goes on."""

    class Broken(Counts):
        name = "broken"
        tables = ("broken",)
        ddl = ("CREATE TABLE IF NOT EXISTS broken (stream TEXT PRIMARY KEY)",)

        def fold(self, event: Event) -> Iterable[Statement]:
            if event.seq == 2:
                raise ValueError("cannot fold this")
            yield ("INSERT INTO broken VALUES (?)", (f"{event.stream}{event.seq}",))

    view = Broken()
    store.register(view)
    await store.append(said("item/a", "1"))
    await store.append(said("item/a", "2"))

    assert await texts(store, "item/a") == ["1", "2"]
    with pytest.raises(ValueError, match="cannot fold"):
        await store.query(view, "SELECT * FROM broken")


async def test_a_bundle_verifies_and_is_restored_elsewhere(store: Store, tmp_path: Path) -> None:
    """Export, parse, import: the same events with the same hashes, erased ones too."""
    await store.append(said("item/a", "one", "ä two"), said("item/b", "three"))
    await store.erase("item/a", 1, reason="private")
    lines = [line async for line in export_bundle(store, ["item/a", "item/b"])]

    streams = parse_bundle("\n".join(lines))
    async with SQLiteStore(tmp_path / "other.db") as other:
        await other.append(said("run/x", "something was here before"))
        for events in streams.values():
            await other.restore(events)

        assert [e.hash for e in await other.read("item/a")] == [e.hash for e in await store.read("item/a")]
        assert await other.verify()
        await other.append(said("item/b", "and goes on"))
        assert await other.verify()
        with pytest.raises(Conflict, match="exists already"):
            await other.restore(streams["item/a"])
        with pytest.raises(NotFound):
            _ = [line async for line in export_bundle(store, ["item/nobody"])]


async def test_a_closed_store_says_so(store: Store) -> None:
    """Closing twice is fine, using it afterwards is not."""
    await store.append(said("item/a", "x"))
    await store.close()
    await store.close()

    with pytest.raises(LedgerError, match="closed"):
        await store.append(said("item/a", "y"))
    with pytest.raises(LedgerError, match="closed"):
        await store.read("item/a")
