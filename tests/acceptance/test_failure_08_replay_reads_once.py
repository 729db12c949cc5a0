"""Failure 8: every step rereads and rehashes the run, so that 1,000 events replay in 33 s and 10,000 in about an hour.

Counted, not timed: rows that are read and bytes that are hashed, which must grow with the run and not with its square.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from harness import Kernel, MockModelPort, ModelInput, SQLiteStore, TenantContext
from harness.ledger import Event

TENANT = TenantContext(tenant_id="t")


class Counting(SQLiteStore):
    """Counts the events that are read from the file, and how often somebody asks."""

    read_events = 0
    questions = 0

    async def read(self, *args: Any, **more: Any) -> list[Event]:
        events = await super().read(*args, **more)
        Counting.questions += 1
        Counting.read_events += len(events)
        return events

    async def latest(self, stream: str, key: str) -> Event | None:
        Counting.questions += 1
        return await super().latest(stream, key)


class Hashes:
    """Counts how often SHA-256 is computed meanwhile, by whichever module."""

    def __init__(self) -> None:
        self.count = 0

    def __enter__(self) -> Hashes:
        sys.setprofile(self._seen)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _seen(self, frame: FrameType, event: str, argument: Any) -> None:
        if event == "c_call" and argument is hashlib.sha256:
            self.count += 1


async def steps(kernel: Kernel, count: int) -> bool:
    """Take the first so many steps of the run; gives whether all of them were recorded before."""
    recorded = True
    for number in range(count):
        result = await kernel.step_model(
            run_id="r", tenant=TENANT, model="m", input=ModelInput.from_prompt(f"question {number}"), step_key=f"s{number}"
        )
        recorded &= result.replayed
    return recorded


async def replayed(path: Path, count: int) -> tuple[int, int, int]:
    """Events read, questions asked and hashes computed while a run of so many steps is loaded and replayed."""
    port = MockModelPort(text="an answer")
    async with SQLiteStore(path, durability="process") as store, Kernel(store=store, model_port=port) as kernel:
        await kernel.start_run(tenant=TENANT, run_id="r")
        await steps(kernel, count)
    Counting.read_events = Counting.questions = 0
    async with Counting(path) as store, Kernel(store=store, model_port=MockModelPort(error=AssertionError())) as kernel:
        before = await store.head("run/r")
        with Hashes() as hashes:
            await kernel.load_run(run_id="r")
            assert await steps(kernel, count)
        assert await store.head("run/r") == before
    return Counting.read_events, Counting.questions, hashes.count


@pytest.mark.parametrize("count", [100, 400, 1600])
async def test_a_replay_reads_and_hashes_each_event_once(tmp_path: Path, count: int) -> None:
    """Two hashes to verify an event, one to compare a step's inputs, and no question to the ledger for a step."""
    events, questions, hashes = await replayed(tmp_path / "h.db", count)

    assert events <= count + 5
    assert questions <= 3 + count // 1000
    assert hashes <= 3 * count + 20


async def test_going_on_after_a_replay_reads_nothing_either(tmp_path: Path) -> None:
    """Executing steps behind a long history asks the ledger no more than at its beginning."""
    await replayed(tmp_path / "h.db", 300)
    port = MockModelPort(text="an answer")
    async with Counting(tmp_path / "h.db") as store, Kernel(store=store, model_port=port) as kernel:
        await kernel.load_run(run_id="r")
        await steps(kernel, 301)
        Counting.read_events = Counting.questions = 0
        await steps(kernel, 400)

    assert (Counting.read_events, Counting.questions) == (0, 0)
