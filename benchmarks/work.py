"""Items: making them, and claims by four processes on one file. The floor is one plain durable commit at a time."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.measure import Figures, Floor, scratch
from harness.ledger import SQLiteStore
from harness.work import Items

PROCESSES = 4
ITEMS = 2_000

_CLAIMER = """
import asyncio, json, sys, time
from harness.ledger import SQLiteStore
from harness.work import Items
async def main(path, name, workers):
    taken, times = [], []
    async with SQLiteStore(path, actor=name) as store:
        items = Items(store)
        await items.counts()
        print("ready", flush=True)
        sys.stdin.readline()
        async def work(holder):
            while (claim := await items.claim(holder)) is not None:
                taken.append(claim.item.id)
                times.append(time.time())
        await asyncio.gather(*[work(f"{name}-{number}") for number in range(int(workers))])
    print(json.dumps({"taken": taken, "last": max(times, default=0.0)}))
asyncio.run(main(*sys.argv[1:]))
"""


async def run(figures: Figures) -> None:
    with scratch() as folder:
        for workers in (1, 8):
            await _claims(figures, folder, workers)


async def _claims(figures: Figures, folder: Path, workers: int) -> None:
    floor = Floor(folder / f"floor-{workers}.db")
    floor.run(500)
    path = folder / f"claims-{workers}.db"
    async with SQLiteStore(path) as store:
        items = Items(store)
        began = time.perf_counter()
        for start in range(0, ITEMS, 100):
            await asyncio.gather(*[items.create(title=f"item {start + number}") for number in range(100)])
        created = ITEMS / (time.perf_counter() - began)
    seconds, taken = _race(path, workers)
    floor.run(500)
    if workers == 1:
        figures.add("items made by 100 tasks", f"{created:,.0f}/s")
    rate = len(taken) / seconds
    name = f"claims by {PROCESSES} processes of {workers} worker{'s' * (workers > 1)}, {ITEMS:,} items"
    figures.at_least(name, rate, 2_000, "/s")
    figures.add("  of the floor's commits", f"{rate / floor.rate:.2f} x")
    figures.add("  every item once", "yes" if len(taken) == len(set(taken)) == ITEMS else "NO", "yes", len(set(taken)) == ITEMS)
    floor.close()


def _race(path: Path, workers: int) -> tuple[float, list[str]]:
    """Seconds from the start to the last claim, and what was claimed."""
    claimers = [
        subprocess.Popen(
            [sys.executable, "-c", _CLAIMER, str(path), f"p{number}", str(workers)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for number in range(PROCESSES)
    ]  # fmt: skip
    for claimer in claimers:
        assert claimer.stdout is not None
        claimer.stdout.readline()
    began = time.time()
    for claimer in claimers:
        assert claimer.stdin is not None
        claimer.stdin.write("go\n")
        claimer.stdin.flush()
    told = [json.loads(claimer.communicate(timeout=120)[0]) for claimer in claimers]
    return max(each["last"] for each in told) - began, [item for each in told for item in each["taken"]]
