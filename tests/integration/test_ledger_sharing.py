"""What writers of one ledger do to each other: event loops, closing, bad neighbours, failing jobs, views."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import anyio
import msgspec
import pytest

from harness.errors import Busy, Conflict, Fenced, LedgerError, NotFound, StoreUnavailable
from harness.ledger import (
    Acquire,
    Appended,
    Draft,
    Event,
    Free,
    Guard,
    MemoryStore,
    Reserve,
    SQLiteStore,
    Statement,
    Store,
    Unique,
    Write,
)  # fmt: skip
from harness.ledger.gate import Gate
from harness.ledger.transaction import Writer


def note(stream: str, text: str = "x") -> Write:
    return Write(stream, (Draft(type="note.taken", payload={"text": text}),))


class Counts:
    """How many notes each stream has; folds only while it is `well`."""

    prefixes = ("item/",)

    def __init__(self, name: str = "counts") -> None:
        self.name = name
        self.tables = (name,)
        self.ddl = (f"CREATE TABLE IF NOT EXISTS {name} (stream TEXT PRIMARY KEY, notes INTEGER NOT NULL)",)
        self.well = True

    def fold(self, event: Event) -> Iterable[Statement]:
        if not self.well:
            raise ValueError("cannot fold now")
        yield (
            f"INSERT INTO {self.name} VALUES (?, 1) ON CONFLICT (stream) DO UPDATE SET notes = {self.name}.notes + 1",
            (event.stream,),
        )


NOTES = "SELECT stream, notes FROM counts ORDER BY stream"


def open_files(path: Path) -> list[str]:
    """Which files of this ledger the process has open."""
    found: list[str] = []
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found.append(str(link.readlink()))
    return sorted(name for name in found if name.startswith(str(path)))


# Event loops


def test_a_store_is_used_by_one_event_loop_after_another(tmp_path: Path) -> None:
    """What an ended loop left behind, a flush it never did or a timer, holds up nobody in the next one."""
    store = SQLiteStore(tmp_path / "l.db", busy_seconds=0.5)
    gate = Gate(tmp_path / "l.db")

    async def forgetful() -> None:
        assert gate.try_enter()
        waiting = asyncio.create_task(store.append(note("item/a", "1")))
        await asyncio.sleep(0.05)
        gate.leave()
        await waiting

    async def patient() -> None:
        assert gate.try_enter()
        with pytest.raises(Busy):
            await asyncio.wait_for(store.append(note("item/a", "never")), 5)
        gate.leave()

    async def submitting() -> Appended:
        return await asyncio.wait_for(store.submit(note("item/a", "3")), 5)  # type: ignore[arg-type]

    asyncio.run(forgetful())
    asyncio.run(patient())
    loop = asyncio.new_event_loop()
    loop.call_soon(lambda: (store.submit(note("item/a", "2")), loop.stop()))
    loop.run_forever()
    loop.close()
    last = asyncio.run(submitting()).last
    asyncio.run(store.close())
    gate.close()

    assert last.seq == 3


# Closing


async def test_closing_at_a_closed_gate_lets_go_of_the_files(tmp_path: Path) -> None:
    """Whoever keeps the gate keeps neither the store open nor the event loop; the thread at the gate writes nothing."""
    store = SQLiteStore(tmp_path / "l.db", busy_seconds=0.2)
    await store.append(note("item/a"))
    gate = Gate(tmp_path / "l.db")
    assert gate.try_enter()

    began = time.monotonic()
    with pytest.raises(Busy):
        await store.append(note("item/a", "too late"))
    await store.close()
    took = time.monotonic() - began
    gate.leave()
    gate.close()

    assert took < 5
    with anyio.fail_after(10):
        while open_files(tmp_path / "l.db"):
            await anyio.sleep(0.01)
    async with SQLiteStore(tmp_path / "l.db") as again:
        assert len(await again.read("item/a")) == 1


async def test_closing_among_appends_writes_or_refuses_each(tmp_path: Path) -> None:
    """What was called before `close` is written, what comes after is refused at once, and nobody waits for ever."""
    for threaded in (False, True):
        path = tmp_path / f"{threaded}.db"
        store = SQLiteStore(path, busy_seconds=5)
        gate = Gate(path)
        if threaded:
            assert gate.try_enter()
            asyncio.get_running_loop().call_later(0.1, gate.leave)
        outcomes: list[str] = []

        async def late(ticks: int, store: SQLiteStore = store, outcomes: list[str] = outcomes) -> None:
            for _ in range(ticks):
                await asyncio.sleep(0)
            try:
                await store.append(note("item/late"))
                outcomes.append("written")
            except LedgerError as error:
                outcomes.append(str(error).rpartition(" ")[2])

        with anyio.fail_after(20):
            async with anyio.create_task_group() as group:
                for _ in range(5):
                    group.start_soon(store.append, note("item/a"))
                group.start_soon(store.close)
                for ticks in range(10):
                    group.start_soon(late, ticks)
        gate.close()

        assert len(outcomes) == outcomes.count("written") + outcomes.count("closed") == 10
        async with SQLiteStore(path) as again:
            assert len(await again.read("item/a")) == 5
            assert len(await again.read("item/late")) == outcomes.count("written")
            assert await again.verify()


async def test_closing_in_a_cancelled_scope_closes(tmp_path: Path) -> None:
    """Also while the writer thread is at work."""
    with anyio.CancelScope() as scope:
        async with SQLiteStore(tmp_path / "l.db") as store:
            for number in range(20):
                store.submit(note(f"item/{number}"))
            scope.cancel()
            await anyio.sleep(1)

    with pytest.raises(LedgerError, match="closed"):
        await store.read("item/1")
    assert open_files(tmp_path / "l.db") == []
    async with SQLiteStore(tmp_path / "l.db", read_only=True) as again:
        assert len(await again.heads()) == 20


# Neighbours in one transaction

UNWRITABLE: list[tuple[Write, list[Guard]]] = [
    (Write("item/bad", (Draft(type="a.b", ts=2**70),)), []),
    (Write("item/bad", (Draft(type="a.b", schema="one"),)), []),  # type: ignore[arg-type]
    (note("item/bad"), [Reserve("counter", 2**70)]),
    (note("item/bad"), [Acquire("lease", "me", 1, float("inf"))]),
    (note("item/bad"), [Acquire("lease", "me", 1, float("nan"))]),
    (note("item/bad"), [Free("\ud800")]),
    (note("item/bad"), [Unique(object())]),  # type: ignore[arg-type]
]


@pytest.mark.parametrize("case", range(len(UNWRITABLE)))
async def test_an_append_that_cannot_be_written_fails_alone(tmp_path: Path, case: int) -> None:
    """Its neighbours in the same transaction are written, in order, and it leaves nothing behind."""
    write, guards = UNWRITABLE[case]
    async with SQLiteStore(tmp_path / "l.db") as store:
        first = store.submit(note("item/a", "1"), guards=[Unique("one")])
        bad = store.submit(write, guards=guards)
        await store.append(note("item/a", "2"), note("item/b"))

        assert (await first).last.seq == 1
        with pytest.raises(LedgerError):
            await bad
        assert [e.payload["text"] for e in await store.read("item/a")] == ["1", "2"]
        assert await store.holder_of("one") == ("item/a", 1)
        assert await store.head("item/bad") is None
        assert await store.lease("lease") is None
        assert await store.verify()


async def test_a_broken_view_fails_for_its_reader_only(tmp_path: Path) -> None:
    """Its SQL error is not the neighbours' error."""

    class Nowhere(Counts):
        def fold(self, event: Event) -> Iterable[Statement]:
            yield ("INSERT INTO nowhere VALUES (1)", ())

    path = tmp_path / "l.db"
    gate = Gate(path)
    async with SQLiteStore(path) as store:
        await store.append(note("item/a"))
        assert gate.try_enter()  # so that all go to the thread together
        before = asyncio.ensure_future(store.append(note("item/a", "2")))
        query = asyncio.ensure_future(store.query(Nowhere(), "SELECT 1"))
        after = asyncio.ensure_future(store.append(note("item/a", "3")))
        await asyncio.sleep(0.05)
        gate.leave()

        with pytest.raises(StoreUnavailable, match="nowhere"):
            await query
        assert [(await before).last.seq, (await after).last.seq] == [2, 3]
    gate.close()


# Jobs that fail


async def test_a_restore_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    """Neither a stream without events nor a number that the next stream cannot take."""
    async with SQLiteStore(tmp_path / "l.db") as store:
        event = (await store.append(note("item/a"))).first
        bad = msgspec.structs.replace(event, stream="item/b", ts=2**70)

        with pytest.raises(OverflowError):
            await store.restore([bad])
        await store.append(note("item/c"))

        assert [head.stream for head in await store.heads()] == ["item/a", "item/c"]
        assert await store.verify()


async def test_streams_are_restored_all_or_none(tmp_path: Path) -> None:
    """A stream that exists keeps out the others of its bundle, so that the import can be repeated."""
    stores: list[Store] = [SQLiteStore(tmp_path / "l.db"), MemoryStore()]
    async with SQLiteStore(tmp_path / "from.db") as source:
        await source.append(note("item/a"), note("item/b"), note("item/a"))
        events = [*await source.read("item/a"), *await source.read("item/b")]

    for store in stores:
        await store.append(note("item/b"))
        with pytest.raises(Conflict, match="item/b exists already"):
            await store.restore(events)
        assert await store.head("item/a") is None
        await store.append(note("item/c"))
        assert await store.verify()
        await store.close()


async def test_heads_are_listed_at_closing_also_after_a_failed_job(tmp_path: Path) -> None:
    """A lost lease, say, must not hide that a tail was cut."""
    path = tmp_path / "l.db"
    async with SQLiteStore(path) as store:
        for number in range(5):
            await store.append(note("item/a", str(number)))
        with pytest.raises(Fenced):
            await store.renew("lease", 1, 10)

    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT seq FROM streams").fetchall() == [(5,)]
    connection.close()


# Views


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return MemoryStore() if request.param == "memory" else SQLiteStore(tmp_path / "l.db")


async def test_a_view_that_failed_for_a_while_is_complete_afterwards(store: Store) -> None:
    """Also if its tables were made in the transaction that failed."""
    view = Counts()
    view.well = False
    store.register(view)
    await store.append(note("item/a"))
    with pytest.raises(ValueError, match="cannot fold"):
        await store.query(view, NOTES)
    view.well = True
    await store.append(note("item/a"))
    view.well = False
    await store.append(note("item/a"))
    view.well = True

    assert await store.query(view, NOTES) == [("item/a", 3)]
    assert await store.check(view) == []
    await store.close()


async def test_a_rebuild_that_fails_for_one_view_spoils_no_other(store: Store) -> None:
    """What was undone of the first is not taken for done."""
    view, broken = Counts(), Counts("broken")
    broken.well = False
    await store.append(note("item/a"))
    await store.query(view, NOTES)
    await store.append(note("item/a"))

    with pytest.raises(ValueError, match="cannot fold"):
        await store.rebuild(view, broken)

    assert await store.query(view, NOTES) == [("item/a", 2)]
    await store.close()


async def test_a_check_that_fails_hides_no_table(store: Store) -> None:
    """The copy that it was folding does not stand before the real table for ever."""
    view = Counts()
    store.register(view)
    await store.append(note("item/a"))
    view.well = False
    with pytest.raises(ValueError, match="cannot fold"):
        await store.check(view)
    view.well = True

    assert await store.query(view, NOTES) == [("item/a", 1)]
    await store.append(note("item/a"))
    assert await store.query(view, NOTES) == [("item/a", 2)]
    await store.close()


@pytest.mark.parametrize("lost", ["DELETE FROM views", "DELETE FROM views; DROP TABLE counts"])
async def test_a_view_that_was_lost_is_folded_anew(tmp_path: Path, lost: str) -> None:
    """Views can be lost without losing history, also under a writer that had them."""
    path = tmp_path / "l.db"
    view = Counts()
    async with SQLiteStore(path, views=[view]) as store:
        await store.append(note("item/a"))
        await store.query(view, NOTES)
        other = sqlite3.connect(path)
        other.executescript(lost)
        other.close()

        await store.append(note("run/a"))
        assert await store.query(view, NOTES) == [("item/a", 1)]
        await store.append(note("item/a"))
        assert await store.query(view, NOTES) == [("item/a", 2)]


async def test_a_reader_does_not_trust_what_is_not_committed(tmp_path: Path) -> None:
    """A view that a writer thread has folded, but not committed, is not up to date for those who read."""
    path = tmp_path / "l.db"
    view = Counts()
    async with SQLiteStore(path, views=[view]) as store, SQLiteStore(path) as ignorant:
        await store.append(note("item/a"))
        await ignorant.append(note("item/a"))
        writer = store._writer
        assert writer is not None
        writer.connection.execute("BEGIN IMMEDIATE")
        store._folding.catch_up(writer.connection, view, 2)

        assert store._folding.behind(store._reader, view, 2)

        writer.connection.execute("ROLLBACK")
        store._folding.forget()
        assert await store.query(view, NOTES) == [("item/a", 2)]


async def test_a_check_among_writers_finds_nothing_wrong(tmp_path: Path) -> None:
    """The tables and the copy are compared as of one moment."""
    path = tmp_path / "l.db"

    class Meddled(Counts):
        """Another process writes while the copy is made."""

        meddle = False

        def fold(self, event: Event) -> Iterable[Statement]:
            if self.meddle:
                self.meddle = False
                other = sqlite3.connect(path)
                other.execute("UPDATE counts SET notes = notes + 1")
                other.execute("UPDATE views SET position = position + 1")
                other.commit()
                other.close()
            return super().fold(event)

    view = Meddled()
    async with SQLiteStore(path, views=[view]) as store:
        await store.append(note("item/a"))
        view.meddle = True

        assert await store.check(view) == []


# Erasing and following


async def test_erasing_waits_for_readers_of_the_old_log(tmp_path: Path) -> None:
    """Who says that a payload is gone must not leave it in the write-ahead log; while a reader holds it, that is told."""
    path = tmp_path / "l.db"
    async with SQLiteStore(path, busy_seconds=0.3) as store:
        await store.append(note("item/a", "correct horse"))
        await store.append(note("item/a", "battery staple"))
        reader = sqlite3.connect(path, isolation_level=None)
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM events").fetchall()

        with pytest.raises(StoreUnavailable, match=r"l\.db-wal"):
            await store.erase("item/a", 1, reason="x")
        asyncio.get_running_loop().call_later(0.1, reader.close)
        await store.erase("item/a", 2, reason="x")

        kept = b"".join(file.read_bytes() for file in tmp_path.glob("l.db*"))
        assert b"correct horse" not in kept
        assert b"battery staple" not in kept
        with pytest.raises(NotFound):
            await store.erase("item/a", 2**70, reason="x")


async def test_a_follower_with_much_to_read_lets_others_run(store: Store) -> None:
    """A consumer that never waits itself must not starve heartbeats."""
    for _ in range(4):
        await store.append(Write("item/a", tuple(Draft(type="a.b") for _ in range(500))))
    ran: list[int] = []
    seen = 0

    async def other() -> None:
        while True:
            ran.append(seen)
            await asyncio.sleep(0)

    async with anyio.create_task_group() as group:
        group.start_soon(other)
        await asyncio.sleep(0)
        ran.clear()
        events = store.follow()
        async for _ in events:
            seen += 1
            if seen == 2000:
                if isinstance(store, SQLiteStore):
                    assert len(set(ran)) >= 3
                break
        await events.aclose()
        group.cancel_scope.cancel()
    await store.close()


async def test_where_a_stream_is_is_sure_only_while_nobody_else_wrote(tmp_path: Path) -> None:
    """What this store wrote last is known without a query, until another one has been inside the gate."""
    path = tmp_path / "h.db"
    async with SQLiteStore(path) as one, SQLiteStore(path) as two:
        assert one.surely_at("item/a") is None
        await one.append(note("item/a"))
        await one.append(note("item/a"))
        assert one.surely_at("item/a") == 2
        await two.append(note("item/b"))
        assert one.surely_at("item/a") is None
        await one.append(note("item/c"))
        assert one.surely_at("item/a") is None
        await one.append(note("item/a"))
        assert one.surely_at("item/a") == 3


async def test_a_kept_submission_cannot_be_cancelled_while_somebody_waits(tmp_path: Path) -> None:
    """Whoever waits for it is cancelled after it is written, and its result is not lost."""
    async with SQLiteStore(tmp_path / "h.db") as store:
        gate = Gate(store.path)
        gate.enter()
        future = store.submit(note("item/a"))
        future.keep()  # type: ignore[attr-defined]

        async def wait() -> None:
            await future

        waiter = asyncio.ensure_future(wait())
        await asyncio.sleep(0)
        waiter.cancel()
        await asyncio.sleep(0)
        assert not waiter.done()
        gate.leave()

        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(waiter, 30)
        assert (await future).last.seq == 1
        gate.close()


async def test_where_a_stream_is_is_not_sure_from_the_moment_of_entering(tmp_path: Path) -> None:
    """Who enters signs the gate, and from then on it does not show any more that others were inside before."""
    path = tmp_path / "h.db"
    async with SQLiteStore(path) as one, SQLiteStore(path) as two:
        await one.append(note("item/a"))
        seen: list[int | None] = []

        class Looking(Gate):
            def _sign(self) -> None:
                super()._sign()
                seen.append(one.surely_at("item/a"))

        one._gate.__class__ = Looking  # pyright: ignore[reportPrivateUsage]
        await two.append(note("item/a"))
        await one.append(note("item/b"))
        gate = Gate(path)
        gate.enter()
        waiting = asyncio.create_task(one.append(note("item/c")))  # the thread takes this one
        await asyncio.sleep(0.01)
        gate.leave()
        gate.close()
        await waiting
        assert seen == [None] * len(seen)
        assert len(seen) == 2


async def test_event_loops_of_several_threads_share_a_store(tmp_path: Path) -> None:
    """Nothing is lost or written twice, nobody is refused, and everybody is told in their own loop."""
    store = SQLiteStore(tmp_path / "h.db")
    written: list[str] = []

    async def write(name: str) -> None:
        for round_ in range(100):
            texts = [f"{name} {round_} {index}" for index in range(3)]
            await asyncio.gather(
                *(store.append(note("item/shared", text)) for text in texts[:2]), store.submit(note("item/shared", texts[2]))
            )
            written.extend(texts)

    async with asyncio.timeout(60):
        await asyncio.gather(*(asyncio.to_thread(asyncio.run, write(name)) for name in "abcd"))
    events = await store.read("item/shared")
    assert sorted(event.payload["text"] for event in events) == sorted(written)
    assert await store.verify()
    await store.close()


async def test_where_a_stream_is_is_not_sure_when_our_thread_was_inside_while_we_asked(tmp_path: Path) -> None:
    """Its turn makes the gate ours again, but what was read before that is from before what others wrote."""
    path = tmp_path / "h.db"
    async with SQLiteStore(path) as one, SQLiteStore(path) as two:
        await one.append(note("item/a"))
        writer = one._writer  # pyright: ignore[reportPrivateUsage]
        assert writer is not None

        class Late(Writer):
            def known_seq(self, stream: str) -> int:
                seq = super().known_seq(stream)
                thread = threading.Thread(target=lambda: asyncio.run(one.append(note("item/b"))))  # type: ignore[arg-type]
                thread.start()
                thread.join(30)
                return seq

        writer.__class__ = Late
        await two.append(note("item/a"))
        assert one.surely_at("item/a") is None


async def test_a_reader_in_another_thread_holds_nobody_in_the_past(tmp_path: Path) -> None:
    """What was written is read, also while another thread is in the middle of reading."""
    store = SQLiteStore(tmp_path / "h.db", durability="process")
    await store.append(Write("item/long", tuple(Draft(type="note.taken", payload={"n": n}) for n in range(3000))))
    over = False

    async def read() -> None:
        while not over:
            await store.read("item/long")
            await store.read_all(streams=("item/l",), limit=3000)

    async def write() -> list[int]:
        seen: list[int] = []
        for _ in range(100):
            written = (await store.append(note("item/a"))).last.seq
            head = await store.head("item/a")
            seen.append(written - (head.seq if head else 0))
        return seen

    reading = asyncio.create_task(asyncio.to_thread(asyncio.run, read()))
    try:
        seen = await asyncio.wait_for(asyncio.to_thread(asyncio.run, write()), 60)
    finally:
        over = True
        await reading
    assert set(seen) == {0}
    await store.close()
