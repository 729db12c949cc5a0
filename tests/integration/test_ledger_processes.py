"""The SQLite ledger under several processes, full disks, foreign files and sudden ends."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import anyio
import pytest

from harness.errors import Busy, LedgerError, StoreUnavailable
from harness.ledger import Draft, Event, SQLiteStore, Statement, Unique, Write


def note(stream: str, text: str = "x") -> Write:
    return Write(stream, (Draft(type="note.taken", payload={"text": text}),))


class Counts:
    """How many notes each stream has."""

    name = "counts"
    tables = ("counts",)
    ddl = ("CREATE TABLE IF NOT EXISTS counts (stream TEXT PRIMARY KEY, notes INTEGER NOT NULL)",)
    prefixes = ("item/",)

    def fold(self, event: Event) -> Iterable[Statement]:
        yield (
            "INSERT INTO counts VALUES (?, 1) ON CONFLICT (stream) DO UPDATE SET notes = counts.notes + 1",
            (event.stream,),
        )


def start(script: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return output


WRITER = """
import asyncio, sys, time
from harness.ledger import SQLiteStore, Draft, Write, Expect
from harness.errors import Conflict
async def main(path, name, count):
    worst = 0.0
    async with SQLiteStore(path) as store:
        for n in range(int(count)):
            began = time.perf_counter()
            await store.append(Write(f"item/{name}", (Draft(type="note.taken", payload={"n": n}),)))
            worst = max(worst, time.perf_counter() - began)
            while True:
                head = await store.head("item/shared")
                seq = head.seq if head else 0
                try:
                    mine = Write("item/shared", (Draft(type="note.taken", payload={"by": name}),))
                    await store.append(mine, guards=[Expect("item/shared", seq)])
                    break
                except Conflict:
                    pass
    print(worst)
asyncio.run(main(*sys.argv[1:]))
"""


async def test_four_processes_write_one_file_without_an_error(tmp_path: Path) -> None:
    """Own streams and one that all fight for: nothing lost, nothing twice, every chain good."""
    path = tmp_path / "l.db"

    writers = [start(WRITER, path, name, 100) for name in "abcd"]
    for writer in writers:
        finish(writer)

    async with SQLiteStore(path, create=False) as store:
        assert [len(await store.read(f"item/{name}")) for name in "abcd"] == [100] * 4
        assert len(await store.read("item/shared")) == 400
        assert await store.verify()


async def test_one_unique_key_has_one_winner_over_processes(tmp_path: Path) -> None:
    """Eight processes want the same fifty keys at once."""
    script = """
import asyncio, sys
from harness.ledger import SQLiteStore, Draft, Write, Unique
from harness.errors import KeyTaken
async def main(path, name):
    won = 0
    async with SQLiteStore(path) as store:
        sys.stdin.readline()
        for n in range(50):
            try:
                await store.append(Write(f"item/{name}", (Draft(type="note.taken"),)), guards=[Unique(f"k{n}")])
                won += 1
            except KeyTaken:
                pass
    print(won)
asyncio.run(main(*sys.argv[1:]))
"""
    processes = [start(script, tmp_path / "l.db", index) for index in range(8)]

    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()

    assert sum(int(finish(process)) for process in processes) == 50


async def test_a_follower_in_another_process_is_woken(tmp_path: Path) -> None:
    """Pushed by the bell, far below the once-a-second look."""
    script = """
import asyncio, sys, time
from contextlib import aclosing
from harness.ledger import SQLiteStore
async def main(path):
    async with SQLiteStore(path, read_only=True) as store, aclosing(store.follow()) as events:
        print("ready", flush=True)
        async for event in events:
            print(time.time() * 1e6 - event.payload["at"], flush=True)
            if event.seq == 20:
                return
asyncio.run(main(sys.argv[1]))
"""
    async with SQLiteStore(tmp_path / "l.db") as store:
        follower = start(script, tmp_path / "l.db")
        assert follower.stdout is not None
        assert follower.stdout.readline() == "ready\n"
        late: list[float] = []
        for _ in range(20):
            await anyio.sleep(0.02)
            await store.append(Write("item/a", (Draft(type="note.taken", payload={"at": time.time() * 1e6}),)))
            late.append(float(follower.stdout.readline()))
        finish(follower)

    assert sorted(late)[10] < 500_000  # microseconds; without a push the median is half a second and more


async def test_a_writer_that_holds_the_gate_is_named(tmp_path: Path) -> None:
    """A frozen writer makes others `Busy` after their patience, and nothing is written late."""
    script = """
import sys
from pathlib import Path
from harness.ledger.gate import Gate
gate = Gate(Path(sys.argv[1]))
assert gate.try_enter()
print("inside", flush=True)
sys.stdin.readline()
"""
    path = tmp_path / "l.db"
    async with SQLiteStore(path, busy_seconds=0.3) as store:
        await store.append(note("item/a"))
        holder = start(script, path)
        assert holder.stdout is not None
        assert holder.stdout.readline() == "inside\n"

        with anyio.fail_after(20), pytest.raises(Busy, match=f"process {holder.pid}"):
            await store.append(note("item/a", "too late"))
        holder.communicate("\n", timeout=20)
        await store.append(note("item/a", "again"))

        assert [e.payload["text"] for e in await store.read("item/a")] == ["x", "again"]


async def test_a_killed_gate_holder_lets_the_next_one_in(tmp_path: Path) -> None:
    """The kernel lets go of a dead process's locks, so nobody waits for it."""
    script = """
import sys, time
from pathlib import Path
from harness.ledger.gate import Gate
gate = Gate(Path(sys.argv[1]))
assert gate.try_enter()
print("inside", flush=True)
time.sleep(60)
"""
    path = tmp_path / "l.db"
    async with SQLiteStore(path, busy_seconds=30) as store:
        holder = start(script, path)
        assert holder.stdout is not None
        assert holder.stdout.readline() == "inside\n"

        async with anyio.create_task_group() as group:
            group.start_soon(store.append, note("item/a"))
            await anyio.sleep(0.05)
            os.kill(holder.pid, signal.SIGKILL)
            with anyio.fail_after(10):
                while not await store.read("item/a"):
                    await anyio.sleep(0.01)
        holder.communicate(timeout=20)


async def test_a_forked_child_is_told_to_open_its_own(tmp_path: Path) -> None:
    """SQLite connections do not survive a fork; using one would break the file."""
    async with SQLiteStore(tmp_path / "l.db") as store:
        store._pid = -1

        with pytest.raises(LedgerError, match="after a fork"):
            await store.append(note("item/a"))

        store._pid = os.getpid()


@pytest.mark.parametrize(
    "end", ["pass", "raise SystemExit(3)", "1 / 0", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"]
)
def test_forgetting_to_close_neither_hangs_nor_loses(tmp_path: Path, end: str) -> None:
    """What was committed is there after any kind of end, also with the writer thread at work."""
    script = f"""
import asyncio, sys
from harness.ledger import SQLiteStore, Draft, Write
store = SQLiteStore(sys.argv[1])
async def one(n):
    await store.append(Write(f"item/{{n}}", (Draft(type="note.taken"),)))
async def main():
    await asyncio.gather(*[one(n) for n in range(20)])
    {end}
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "l.db")], timeout=30, capture_output=True, check=False)

    assert (done.returncode == 0) == (end == "pass")
    with sqlite3.connect(tmp_path / "l.db") as connection:
        assert connection.execute("SELECT count(*) FROM events").fetchone() == (20,)
    connection.close()


async def test_the_write_ahead_log_stays_bounded(tmp_path: Path) -> None:
    """30 MB of events leave a log of a few MB while open, and none after closing."""
    path = tmp_path / "l.db"
    async with SQLiteStore(path, durability="process") as store:
        for _ in range(300):
            await store.append(note("item/a", "x" * 100_000))
        assert Path(f"{path}-wal").stat().st_size < 10_000_000

    wal = Path(f"{path}-wal")
    assert not wal.exists() or wal.stat().st_size == 0


def foreign(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE cats (name)")
    connection.close()


def newer(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA application_id = {0x48524E53}")
        connection.execute("PRAGMA user_version = 99")
        connection.execute("CREATE TABLE events (x)")
    connection.close()


@pytest.mark.parametrize(
    ("make", "reason", "message"),
    [
        (lambda path: None, "missing", "there is no ledger here"),
        (lambda path: path.write_bytes(b"garbage" * 1000), "foreign", "not a Harness ledger"),
        (foreign, "foreign", "database of another program"),
        (newer, "newer", "upgrade Harness"),
        (lambda path: path.mkdir(), "foreign", "is a folder"),
    ],
)
@pytest.mark.parametrize("read_only", [True, False])
def test_an_unusable_file_is_told_in_one_line(tmp_path: Path, make: object, reason: str, message: str, read_only: bool) -> None:
    """Each has its reason, and the file is left as it was."""
    path = tmp_path / "l.db"
    make(path)  # type: ignore[operator]
    before = path.read_bytes() if path.is_file() else None

    with pytest.raises(StoreUnavailable, match=message) as caught:
        SQLiteStore(path, create=False, read_only=read_only)

    assert caught.value.reason == reason
    assert "\n" not in str(caught.value)
    assert (path.read_bytes() if path.is_file() else None) == before


def test_an_empty_file_is_no_ledger_to_read(tmp_path: Path) -> None:
    """Opened for writing it becomes one."""
    path = tmp_path / "l.db"
    path.touch()

    with pytest.raises(StoreUnavailable, match="empty"):
        SQLiteStore(path, read_only=True)


def test_a_missing_folder_is_told(tmp_path: Path) -> None:
    """Creating a ledger does not create folders."""
    with pytest.raises(StoreUnavailable, match=r"cannot be created: there is no folder .*nowhere; make it first"):
        SQLiteStore(tmp_path / "nowhere" / "l.db")


@pytest.mark.parametrize("more", [{}, {"create": False}, {"read_only": True}])
def test_a_folder_that_may_not_be_entered_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: dict[str, bool]
) -> None:
    """An error of ours that says what to look at, not a bare one of the system."""

    def denied(*args: Any, **kwargs: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", denied)
    monkeypatch.setattr(Path, "is_dir", denied)
    with pytest.raises(StoreUnavailable, match="Permission denied; look at the owner and mode of the folder") as caught:
        SQLiteStore(tmp_path / "l.db", **more)

    assert caught.value.reason == "read-only"


async def test_a_damaged_page_is_told(tmp_path: Path) -> None:
    """Bytes overwritten in the middle of the file: an error that says broken, or a chain that does not verify."""
    path = tmp_path / "l.db"
    async with SQLiteStore(path) as store:
        for _ in range(200):
            await store.append(note("item/a", "y" * 500))
    data = bytearray(path.read_bytes())
    for at in range(12 * 4096, len(data) - 4096, 4096):
        data[at : at + 64] = os.urandom(64)
    path.write_bytes(data)

    async with SQLiteStore(path, read_only=True) as store:
        try:
            assert not await store.verify()
        except StoreUnavailable as error:
            assert error.reason == "broken"  # noqa: PT017


async def test_a_new_ledger_is_for_its_owner_only(tmp_path: Path) -> None:
    """Prompts and outputs are private, whatever the umask."""
    old = os.umask(0)
    try:
        async with SQLiteStore(tmp_path / "l.db") as store:
            await store.append(note("item/a"))
            modes = {file.name: file.stat().st_mode & 0o077 for file in tmp_path.iterdir()}
    finally:
        os.umask(old)

    assert modes.keys() >= {"l.db", "l.db-wal", "l.db-bell", "l.db-door", "l.db-gate"}
    assert set(modes.values()) == {0}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)], capture_output=True, check=False)
    if mounted.returncode != 0:
        pytest.skip("mounting a small file system needs root")
    yield place
    subprocess.run(["umount", str(place)], check=True)


async def test_a_full_disk_is_told_and_leaves_nothing_half_written(small_disk: Path) -> None:
    """The append that does not fit is refused whole, the ledger verifies, and goes on when there is room again."""
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"0" * 300_000)
    async with SQLiteStore(small_disk / "l.db") as store:
        written = 0
        with pytest.raises(StoreUnavailable, match="disk is full") as caught:  # noqa: PT012
            while True:
                await store.append(note("item/a", "x" * 10_000), note("item/b"), guards=[Unique(f"k{written}")])
                written += 1

        assert caught.value.reason == "full"
        assert len(await store.read("item/a")) == len(await store.read("item/b")) == written
        assert await store.holder_of(f"k{written}") is None
        assert await store.verify()
        ballast.unlink()
        await store.append(note("item/a", "room again"))
        assert len(await store.read("item/a")) == written + 1
        assert await store.verify()


async def test_a_read_only_store_answers_views_and_writes_nothing(tmp_path: Path) -> None:
    """A view that is behind is completed in memory."""
    path = tmp_path / "l.db"
    async with SQLiteStore(path) as store:
        await store.append(note("item/a"))
        await store.append(note("item/a"))
    before = path.read_bytes()

    async with SQLiteStore(path, read_only=True, views=[Counts()]) as store:
        assert await store.query(Counts(), "SELECT notes FROM counts") == [(2,)]
        assert await store.query(Counts(), "SELECT notes FROM counts") == [(2,)]
        with pytest.raises(LedgerError, match="reading only"):
            await store.append(note("item/a"))

    assert path.read_bytes() == before


async def test_a_view_written_by_two_processes_counts_each_event_once(tmp_path: Path) -> None:
    """One process knows the view and one does not; each leaves what the other needs."""
    path = tmp_path / "l.db"
    view = Counts()
    async with SQLiteStore(path, views=[view]) as one, SQLiteStore(path) as other, SQLiteStore(path, views=[Counts()]) as third:
        for _ in range(10):
            await one.append(note("item/a"))
            await other.append(note("item/a"))
            await third.append(note("item/a"))
            await other.append(note("item/b"))

        assert await one.query(view, "SELECT stream, notes FROM counts ORDER BY stream") == [("item/a", 30), ("item/b", 10)]
        assert await third.check(view) == []


async def test_two_stores_in_one_process_take_turns(tmp_path: Path) -> None:
    """The gate is between store objects too, inline and threaded."""
    async with (
        SQLiteStore(tmp_path / "l.db") as one,
        SQLiteStore(tmp_path / "l.db") as other,
        anyio.create_task_group() as group,
    ):
        for index in range(40):
            group.start_soon(one.append, note(f"item/{index % 4}"))
            group.start_soon(other.append, note(f"item/{index % 4}"))

    async with SQLiteStore(tmp_path / "l.db", read_only=True) as store, aclosing(store.follow()) as events:
        seen = 0
        async for event in events:
            seen += 1
            assert event.position == seen
            if seen == 80:
                break
        assert await store.verify()


async def test_a_follower_misses_nothing_that_was_written_while_it_read(tmp_path: Path) -> None:
    """History longer than a page, with a fast writer at work."""
    async with SQLiteStore(tmp_path / "l.db", durability="process") as store:
        await store.append(Write("item/a", tuple(Draft(type="note.taken", payload={"n": n}) for n in range(2000))))
        seen: list[int] = []

        async def follow() -> None:
            async with aclosing(store.follow(streams=["item/a"])) as events:
                async for event in events:
                    seen.append(event.seq)
                    if event.seq == 2300:
                        return

        with anyio.fail_after(30):
            async with anyio.create_task_group() as group:
                group.start_soon(follow)
                for _ in range(300):
                    await store.append(note("item/a"), note("item/b"))

    assert seen == list(range(1, 2301))


async def test_an_older_ledger_is_brought_forward_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Migrations run once, in order and in one transaction; readers of the old version are told to upgrade."""
    from harness.ledger import database

    path = tmp_path / "l.db"
    async with SQLiteStore(path) as store:
        await store.append(note("item/a"))
    monkeypatch.setattr(database, "SCHEMA_VERSION", 3)
    monkeypatch.setattr(
        database,
        "MIGRATIONS",
        {1: ("CREATE TABLE more (x INTEGER)",), 2: ("ALTER TABLE more ADD COLUMN y INTEGER", "INSERT INTO more VALUES (1, 2)")},
    )

    with pytest.raises(StoreUnavailable, match="older version"):
        SQLiteStore(path, read_only=True)
    for _ in range(2):
        async with SQLiteStore(path) as store:
            await store.append(note("item/a"))
            assert await store.verify()

    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT * FROM more").fetchall() == [(1, 2)]
        assert connection.execute("PRAGMA user_version").fetchone() == (3,)
    connection.close()
    monkeypatch.undo()
    with pytest.raises(StoreUnavailable, match="newer Harness"):
        SQLiteStore(path)


async def test_a_failing_migration_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a migration would be neither version."""
    from harness.ledger import database

    path = tmp_path / "l.db"
    async with SQLiteStore(path) as store:
        await store.append(note("item/a"))
    with monkeypatch.context() as patch:
        patch.setattr(database, "SCHEMA_VERSION", 2)
        patch.setattr(database, "MIGRATIONS", {1: ("CREATE TABLE more (x INTEGER)", "INSERT INTO nowhere VALUES (1)")})
        with pytest.raises(StoreUnavailable, match="nowhere"):
            SQLiteStore(path)

    async with SQLiteStore(path) as store:
        assert len(await store.read("item/a")) == 1
