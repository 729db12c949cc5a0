"""Many sessions, many messages, many starts: nothing lost, nothing twice, nothing left. The figures are printed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from harness.processes import Identity, find
from harness.sessions import Launched, facts
from harness.sessions.facts import MessageStatus

if TYPE_CHECKING:
    from tests.conftest import Hosted

WINDOW = 48  # messages of one session under way at once; at most 64 may wait
READER = 'while IFS= read -r line; do printf "%s\\n" "$line" >>"$0"; done'
FINAL = {facts.COMPLETED, facts.FAILED, facts.DROPPED, facts.EXPIRED, facts.LOST}


@contextlib.contextmanager
def timed(what: str, count: int = 0) -> Iterator[None]:
    began = time.monotonic()
    yield
    seconds = time.monotonic() - began
    print(f"{what}: {seconds:.2f} s" + (f", {count / seconds:.0f} a second" if count else ""))


def memory_kb(pid: int) -> int:
    """The process's proportional share of memory."""
    told = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    return int(re.findall(r"^Pss:\s+(\d+)", told, re.M)[0])


def heard(journal: Path) -> list[str]:
    """The texts that an agent got, in order, whichever kind of journal it is."""
    lines = journal.read_text().splitlines()
    if not lines or not lines[0].startswith("{"):
        return lines
    return [line["text"] for line in map(json.loads, lines) if line["event"] == "message"]


class Talk:
    """One session and its messages, followed by one reader."""

    def __init__(self, hosted: Hosted, launched: Launched, journal: Path) -> None:
        self.hosted = hosted
        self.launched = launched
        self.journal = journal
        self.statuses: dict[str, str] = {}
        self._moved = asyncio.Condition()

    async def follow(self) -> None:
        async for event in self.hosted.sessions.follow(self.launched.key):
            if event.type in FINAL:
                async with self._moved:
                    self.statuses[event.payload["message_id"]] = event.type
                    self._moved.notify_all()

    async def say(self, count: int) -> None:
        """Send so many, as fast as they are taken, and wait until all of them are done."""
        following = asyncio.ensure_future(self.follow())
        try:
            for number in range(count):
                await self._until(number - WINDOW)
                await self.hosted.sessions.send(self.launched.key, f"message {number}", ttl_seconds=3600)
            await self._until(count)
        finally:
            following.cancel()
        assert set(self.statuses.values()) == {facts.COMPLETED}
        assert heard(self.journal) == [f"message {number}" for number in range(count)]

    async def _until(self, count: int) -> None:
        async with self._moved:
            await self._moved.wait_for(lambda: len(self.statuses) >= count)


async def begin(hosted: Hosted, kind: str, number: int) -> Talk:
    journal = hosted.root / f"journal-{number}"
    if kind == "reader":
        launched = await hosted.launch("sh", "-c", READER, str(journal), mode="pty", id=f"s{number}")
    else:
        launched = await hosted.rehearse("claude", "--journal", str(journal), "--work", "0", mode="stream", id=f"s{number}")
    return Talk(hosted, launched, journal)


@pytest.mark.parametrize("count", [10, pytest.param(100, marks=[pytest.mark.nightly, pytest.mark.timeout(600)])])
async def test_many_sessions_at_once_are_started_told_something_and_stopped(hosted: Hosted, count: int) -> None:
    """Each gets its own two messages, in order, and all of them end as they were asked to."""
    hosted.PATIENCE_SECONDS = 300.0
    with timed(f"{count} sessions"):
        with timed("started", count):
            talks = await asyncio.gather(*(begin(hosted, "claude", number) for number in range(count)))
        with timed("told two things", 2 * count):
            await asyncio.gather(*(talk.say(2) for talk in talks))
        with timed("stopped", count):
            for talk in talks:
                await hosted.sessions.stop(talk.launched.key, by="test")
            ends = await asyncio.gather(*(hosted.ended(talk.launched) for talk in talks))

    assert {(end.exited.reason, end.exited.needed) for end in ends if end.exited} == {("stopped", "exit")}
    assert await hosted.sessions.list(live=True) == []


@pytest.mark.parametrize("kind", ["reader", "claude"])
@pytest.mark.parametrize("count", [20, pytest.param(1000, marks=[pytest.mark.nightly, pytest.mark.timeout(3600)])])
async def test_messages_through_ten_sessions_come_once_and_in_order(hosted: Hosted, kind: str, count: int) -> None:
    """As many as are taken are under way at once, in all of them; a host does not grow with what it has seen."""
    talks = [await begin(hosted, kind, number) for number in range(10)]
    for talk in talks:
        await hosted.state(talk.launched, "prompt")
    before = [memory_kb(talk.launched.host_pid) for talk in talks]

    with timed(f"{10 * count} messages to {kind}", 10 * count):
        await asyncio.gather(*(talk.say(count) for talk in talks))

    after = [memory_kb(talk.launched.host_pid) for talk in talks]
    print(f"memory of a host: {max(before)} kB before, {max(after)} kB after")
    assert max(after) < max(before) + 6000
    for talk in talks:
        assert await hosted.store.reserved(facts.inbox_counter(talk.launched.key)) == 0


async def one_cycle(hosted: Hosted, number: int) -> None:
    """Start a session, talk to it if it talks, and stop it."""
    match number % 3:
        case 0:
            launched = await hosted.launch("sleep", "1000", mode="once", id="w1")
        case 1:
            launched = await hosted.launch("cat", mode="pty", id="w1")
        case _:
            launched = await hosted.rehearse("claude", "--work", "0", mode="stream", id="w1")
            assert (await hosted.said(launched, "hello")).status is MessageStatus.DONE
    hosted.launched.clear()
    processes = [Identity.of(pid) for pid in (launched.host_pid, launched.guard_pid)]
    await hosted.sessions.stop(launched.key, by="test")
    await hosted.ended(launched)
    assert find(f"session/{launched.key}") == []
    async with asyncio.timeout(10):  # host and guard end right after the end is on record
        while any(process.alive() for process in processes):
            await asyncio.sleep(0.005)


def held() -> dict[str, int]:
    """What this process and this machine's terminals hold."""
    return {"descriptors": len([*Path("/proc/self/fd").iterdir()]), "terminals": len([*Path("/dev/pts").iterdir()])}


@pytest.mark.parametrize("count", [20, pytest.param(1000, marks=[pytest.mark.nightly, pytest.mark.timeout(3600)])])
async def test_starts_and_stops_leave_nothing_behind(hosted: Hosted, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """No process, descriptor, terminal, socket, key or file but the folders of the runs."""
    temporary = hosted.root / "tmp"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    await one_cycle(hosted, 2)
    before = held()

    with timed(f"{count} starts and stops", count):
        for number in range(count):
            await one_cycle(hosted, number)

    after = held()
    folders = sorted(path.name for path in (hosted.home / "sessions").iterdir())
    assert after["descriptors"] <= before["descriptors"]
    assert after["terminals"] <= before["terminals"] + 20  # others have some as well
    assert list(temporary.iterdir()) == []
    assert str(hosted.home) not in Path("/proc/net/unix").read_text()
    assert list(hosted.home.rglob("host.sock")) == []
    assert {path.name.partition("-")[0] for path in hosted.home.iterdir()} == {"harness.db", "sessions"}
    assert len(folders) == count + 1
    assert all(name.partition("@")[0] == "w1" for name in folders)
    with contextlib.closing(sqlite3.connect(f"file:{hosted.database}?mode=ro", uri=True)) as connection:
        assert connection.execute("SELECT count(*) FROM keys WHERE name NOT LIKE 'session-end/%'").fetchone() == (0,)
        assert connection.execute("SELECT count(*) FROM counters WHERE amount <> 0").fetchone() == (0,)
    assert await hosted.store.verify()
