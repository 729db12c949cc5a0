"""How soon an event that is written is seen by another process that follows; the same for every kind of store."""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import time

from benchmarks.measure import Figures, percentile
from harness.ledger import Draft, Store, Write

_FOLLOWER = """
import asyncio, sys, time
from contextlib import aclosing
from harness.ledger import open_store
async def main():
    async with open_store(sys.argv[1], read_only=True) as store, aclosing(store.follow(after=await store.tail())) as events:
        print("ready", flush=True)
        async for event in events:
            print(time.time() - event.payload["at"], flush=True)
            if event.payload["last"]:
                return
asyncio.run(main())
"""


async def follow(figures: Figures, store: Store, place: str) -> None:
    """Write a hundred events to the ledger at `place` and add how late each was seen."""
    await store.append(Write("run/a", (Draft(type="a.b", payload={"at": 0, "last": False}),)))
    follower = subprocess.Popen([sys.executable, "-c", _FOLLOWER, place], stdout=subprocess.PIPE, text=True)
    assert follower.stdout is not None
    follower.stdout.readline()
    await asyncio.sleep(0.2)
    late: list[float] = []
    for index in range(100):
        await asyncio.sleep(0.01)
        await store.append(Write("run/a", (Draft(type="a.b", payload={"at": time.time(), "last": index == 99}),)))
        late.append(float(await asyncio.to_thread(follower.stdout.readline)))
    follower.wait()
    figures.at_most("event written to seen by another process, median", statistics.median(late) * 1e3, 30, "ms")
    figures.at_most("the same, p95", percentile(late, 0.95) * 1e3, 30, "ms")
