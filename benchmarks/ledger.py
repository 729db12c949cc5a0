"""The ledger: appends against the floor, concurrent writers, verification, followers, two processes on one file."""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.following import follow
from benchmarks.measure import PAYLOAD, Figures, Floor, scratch
from harness.ledger import Draft, SQLiteStore, Write


def _event(stream: str) -> Write:
    return Write(stream, (Draft(type="step.completed", payload=PAYLOAD),))


async def run(figures: Figures) -> None:
    with scratch() as folder:
        await _single(figures, folder)
        await _concurrent(figures, folder)
        await _verify(figures, folder)
        await _two_processes(figures, folder)
        await _follow(figures, folder)


async def _single(figures: Figures, folder: Path) -> None:
    floor = Floor(folder / "floor.db")
    seconds: list[float] = []
    async with SQLiteStore(folder / "single.db") as store:
        for _ in range(40):  # in turns, so that both meet the same weather
            floor.run(50)
            for _ in range(50):
                began = time.perf_counter()
                await store.append(_event("run/a"))
                seconds.append(time.perf_counter() - began)
    figures.add("floor, p50", f"{floor.p50 * 1e6:.0f} µs")
    figures.at_most("one durable append of 1 KB, p50", statistics.median(seconds) / floor.p50, 1.5, "x floor")
    size = (folder / "single.db").stat().st_size / len(seconds)
    figures.add("bytes on disk per 1 KB event", f"{size:.0f}")
    floor.close()


async def _concurrent(figures: Figures, folder: Path) -> None:
    for writers, target in ((8, 2.5), (64, 6.0)):
        floor = Floor(folder / f"floor-{writers}.db")
        rates: list[float] = []
        async with SQLiteStore(folder / f"concurrent-{writers}.db") as store:

            async def write(name: int, store: SQLiteStore = store) -> None:
                for _ in range(12):
                    await store.append(_event(f"run/{name}"))

            for _ in range(6):
                floor.run(300)
                began = time.perf_counter()
                await asyncio.gather(*[write(name) for name in range(writers)])
                rates.append(writers * 12 / (time.perf_counter() - began))
        ratio = statistics.median(rates) / floor.rate
        figures.at_least(f"{writers} concurrent writers, events per second", ratio, target, "x floor")
        floor.close()


async def _verify(figures: Figures, folder: Path) -> None:
    async with SQLiteStore(folder / "verify.db", durability="process") as store:
        for index in range(200):
            drafts = tuple(Draft(type="step.completed", payload={"index": n, "text": "a" * 80}) for n in range(500))
            await store.append(Write(f"run/{index % 20}", drafts))
        began = time.perf_counter()
        result = await store.verify()
        seconds = time.perf_counter() - began
    assert result
    figures.at_least("verify 100,000 events of 100 bytes", result.events / seconds, 200_000, "events/s")


_OTHER = """
import asyncio, sys, time
from harness.ledger import SQLiteStore, Draft, Write
async def main():
    worst = []
    async with SQLiteStore(sys.argv[1]) as store:
        print("ready", flush=True)
        end = time.monotonic() + 3
        while time.monotonic() < end:
            began = time.perf_counter()
            await store.append(Write("run/other", (Draft(type="step.completed", payload={"text": "a" * 980}),)))
            worst.append(time.perf_counter() - began)
    print(max(worst), len(worst))
asyncio.run(main())
"""


async def _two_processes(figures: Figures, folder: Path) -> None:
    path = folder / "two.db"
    async with SQLiteStore(path) as store:
        await store.append(_event("run/a"))
        other = subprocess.Popen([sys.executable, "-c", _OTHER, str(path)], stdout=subprocess.PIPE, text=True)
        assert other.stdout is not None
        other.stdout.readline()
        stalls: list[float] = []
        while other.poll() is None and len(stalls) < 100_000:
            began = time.perf_counter()
            await store.append(_event("run/a"))
            stalls.append(time.perf_counter() - began)
        theirs, count = other.stdout.read().split()
    worst = max(float(theirs), max(stalls))
    figures.at_most("worst stall of two processes on one file", worst * 1e3, 50, "ms")
    figures.add("appends of the two in those 3 seconds", f"{len(stalls)} and {count}")


async def _follow(figures: Figures, folder: Path) -> None:
    path = folder / "follow.db"
    async with SQLiteStore(path) as store:
        await follow(figures, store, str(path))
