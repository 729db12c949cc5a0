"""Items under many processes on one real file."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import anyio
import pytest

from harness.errors import Fenced
from harness.ledger import SQLiteStore
from harness.work import ITEM_VIEW, Items

_HEAD = """
import asyncio, json, sys
from harness.ledger import SQLiteStore
from harness.work import Items, Role
from harness.errors import HarnessError, IllegalTransition

def begin():
    print("ready", flush=True)
    sys.stdin.readline()
"""

CLAIMER = (
    _HEAD
    + """
async def main(path, name):
    taken = []
    async with SQLiteStore(path, actor=name) as store:
        items = Items(store)
        begin()
        while (claim := await items.claim(name)) is not None:
            taken.append(claim.item.id)
    print(json.dumps(taken))
asyncio.run(main(*sys.argv[1:]))
"""
)

REPORTER = (
    _HEAD
    + """
async def main(path, name):
    new = 0
    async with SQLiteStore(path, actor=name) as store:
        items = Items(store)
        begin()
        for number in range(50):
            _, is_new = await items.create_or_recur(title="down", fingerprint=f"f{number % 5}", detail=name)
            new += is_new
    print(json.dumps(new))
asyncio.run(main(*sys.argv[1:]))
"""
)

WORKER = (
    _HEAD
    + """
async def main(path, name):
    done = []
    async with SQLiteStore(path, actor=name) as store:
        items = Items(store)
        begin()
        while (claim := await items.claim(name)) is not None:
            await items.note(claim.item.id, "at it", claim=claim)
            await items.transition(claim.item.id, "completed", reason="done", claim=claim, result=name)
            done.append(claim.item.id)
    print(json.dumps(done))
asyncio.run(main(*sys.argv[1:]))
"""
)


def run_together(script: str, path: Path, count: int) -> list[object]:
    """Start so many processes, let them go at the same instant, and give what each one printed."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(path), f"p{number}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for number in range(count)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        outputs = [process.communicate(timeout=100)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert [process.returncode for process in processes] == [0] * count
    return [json.loads(output) for output in outputs]


async def make(items: Items, count: int) -> None:
    async def some(start: int) -> None:
        for number in range(start, start + 10):
            await items.create(title=f"item {number}", id=f"i{number}")

    async with anyio.create_task_group() as group:
        for start in range(0, count, 10):
            group.start_soon(some, start)


def once(taken: Sequence[object]) -> list[str]:
    return [item for each in taken for item in each]  # type: ignore[attr-defined]


async def test_ten_processes_claim_a_thousand_items_each_once(tmp_path: Path) -> None:
    """Nobody gets what another has, and nothing is left."""
    path = tmp_path / "l.db"
    async with SQLiteStore(path) as store:
        await make(Items(store), 1000)

    taken = await anyio.to_thread.run_sync(run_together, CLAIMER, path, 10)

    assert Counter(once(taken)) == Counter(f"i{number}" for number in range(1000))
    async with SQLiteStore(path) as store:
        held = await Items(store).list(status="in_progress", limit=None)
        assert {item.id: item.holder for item in held} == {
            item: f"p{number}" for number, each in enumerate(taken) for item in each  # type: ignore[attr-defined]
        }  # fmt: skip
        assert all(item.fence == 1 for item in held)
        assert await store.verify()
        assert await store.check(ITEM_VIEW) == []


async def test_processes_that_work_and_finish_do_each_item_once(tmp_path: Path) -> None:
    """Claim, note and result of one item are one holder's."""
    path = tmp_path / "l.db"
    async with SQLiteStore(path) as store:
        await make(Items(store), 200)

    done = await anyio.to_thread.run_sync(run_together, WORKER, path, 4)

    assert Counter(once(done)) == Counter(f"i{number}" for number in range(200))
    async with SQLiteStore(path) as store:
        items = Items(store)
        assert (await items.counts())["completed"] == 200
        for item in await items.list(status="completed", limit=None):
            events = (await items.history(item.id))[2:]
            assert [event.type for event in events] == ["item.claimed", "item.noted", "item.completed"]
            assert {event.actor for event in events} == {item.result}
        assert await store.verify()


async def test_sixteen_processes_open_eight_hundred_failures_as_five_items(tmp_path: Path) -> None:
    """One open item for each fingerprint, and every report is counted."""
    path = tmp_path / "l.db"
    new = await anyio.to_thread.run_sync(run_together, REPORTER, path, 16)

    async with SQLiteStore(path) as store:
        opened = await Items(store).list(limit=None)
        assert sorted((item.fingerprint, item.occurrences) for item in opened) == [(f"f{number}", 160) for number in range(5)]
        assert sum(new) == 5  # type: ignore[arg-type]
        assert await store.verify()


async def test_a_worker_that_stalls_is_taken_over_and_then_refused(tmp_path: Path) -> None:
    """Two store objects, one item, one result."""
    path = tmp_path / "l.db"
    async with SQLiteStore(path, actor="a") as one, SQLiteStore(path, actor="b") as two:
        slow, quick = Items(one), Items(two)
        made = await slow.create(title="x")
        first = await slow.claim("a", ttl_seconds=0.05)
        assert first is not None

        with anyio.fail_after(30):
            second = await quick.wait_claim("b")
        await quick.transition(made.id, "completed", reason="done", claim=second, result="b")
        with pytest.raises(Fenced):
            await slow.transition(made.id, "completed", reason="done", claim=first, result="a")

        assert (await slow.get(made.id)).result == "b"
        assert (second.taken_from, second.token) == ("a", first.token + 1)
