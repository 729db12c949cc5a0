"""Tasks that write together: pairs of streams, a counter, unique keys, leases; some without waiting.

Each round is at least one commit, and a fresh process goes on with the first round that is not written.
"""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

from harness.clock import VirtualClock
from harness.ledger import Acquire, Appended, Draft, Expect, Fence, Reserve, SQLiteStore, Unique, Write

TASKS = 5
ROUNDS = 12


async def run(store: SQLiteStore, clock: VirtualClock) -> None:
    acknowledged = os.open(f"{store.location}-acknowledged", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    leases = [await store.lease(f"task/{task}") for task in range(TASKS)]
    tokens = [1 if lease is None else lease.token + 1 for lease in leases]
    heads = [await store.head(f"run/{task}") for task in range(TASKS)]
    done = [0 if head is None else head.seq for head in heads]
    for number in range(min(done) + 1, ROUNDS + 1):
        behind = [task for task in range(TASKS) if done[task] < number]
        await asyncio.gather(*(write(store, task, number, tokens, acknowledged) for task in behind))
    os.close(acknowledged)


async def write(store: SQLiteStore, task: int, number: int, tokens: list[int], acknowledged: int) -> None:
    """One event in each of two streams; both are written or none is."""
    lease, token = f"task/{task}", tokens[task]
    held = await store.lease(lease)
    mine = held is not None and held.token == token
    guards = [
        Expect(f"run/{task}", number - 1),
        Unique(f"step/{task}/{number}"),
        Reserve("spent", 3, 3 * TASKS * ROUNDS),
        Fence(lease, token) if mine else Acquire(lease, f"task {task}", token, 60.0),
    ]
    draft = Draft(type="step.completed", payload={"task": task, "number": number, "fill": "x" * 100})
    writes = (Write(f"run/{task}", (draft,)), Write(f"tenant/{task}", (draft,)))
    appended: Appended
    if (task + number) % 3 == 0:
        appended = await store.submit(*writes, guards=guards)
    else:
        appended = await store.append(*writes, guards=guards)
    os.write(acknowledged, json.dumps([[event.stream, event.seq] for event in appended.events]).encode() + b"\n")


async def look(store: SQLiteStore) -> dict[str, Any]:
    """What a fresh process sees."""
    numbers = {
        head.stream: [event.payload["number"] for event in await store.read(head.stream)] for head in await store.heads()
    }
    path = Path(f"{store.location}-acknowledged")
    lines = path.read_text().splitlines() if path.exists() else []
    acknowledged = [tuple(place) for line in lines for place in json.loads(line)]
    keys = [
        await store.holder_of(f"step/{task}/{number}")
        for task in range(TASKS)
        for number in range(1, len(numbers.get(f"run/{task}", ())) + 2)
    ]
    return {
        "numbers": numbers,
        "acknowledged": acknowledged,
        "spent": await store.reserved("spent"),
        "keys": sum(key is not None for key in keys),
        "leases": {lease.name: lease.token for lease in await store.leases()},
    }
