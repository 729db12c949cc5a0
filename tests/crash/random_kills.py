"""Two processes work one queue of items and are killed at random; `random_kills.py FOLDER KILLS SEED` prints what is wrong.

Every acknowledged write is told to the parent through a pipe, which keeps what was told when its writer is killed.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from items_scenario import contradictions

from harness.errors import Duplicate, Fenced, HarnessError
from harness.ledger import SQLiteStore
from harness.work import ITEM_VIEW, Items, Role

OPEN_ITEMS = 12
TTL_SECONDS = 0.15
LONGEST_LIFE_SECONDS = 0.25
VERIFY_EVERY = 100


async def toil(path: Path, name: str, told: int) -> None:
    """Work until killed."""

    def acknowledged(stream: str, seq: int, type_: str) -> None:
        os.write(told, f"{stream} {seq} {type_}\n".encode())

    dice = random.Random(name)
    async with SQLiteStore(path, actor=name, durability="process") as store:
        items = Items(store)
        while True:
            if len(await items.list(ready=True)) < OPEN_ITEMS:
                needs = [item.id for item in (await items.list(status="pending"))[:1] if dice.random() < 0.3]
                try:
                    made = await items.create(
                        title=name, fingerprint=f"f{dice.randrange(200)}", depends_on=needs, priority=dice.randrange(20),
                        gates=("g",) if dice.random() < 0.3 else (),
                    )  # fmt: skip
                    acknowledged(f"item/{made.id}", 1, "item.created")
                except Duplicate as error:
                    await store_quietly(items.recur(error.item_id, name))
            for item in await items.list(status="verifying"):
                await store_quietly(items.transition(item.id, "completed", reason=name, role=Role.VERIFIER))
            for item in await items.list(status="failed"):
                if dice.random() < 0.5:
                    await store_quietly(items.transition(item.id, "pending", reason=name))
            await work_one(items, name, dice, acknowledged)


async def store_quietly(asked: Any) -> None:
    """The other process may have done it first."""
    try:
        await asked
    except HarnessError:
        return


async def work_one(items: Items, name: str, dice: random.Random, acknowledged: Any) -> None:
    claim = await items.claim(name, ttl_seconds=TTL_SECONDS)
    if claim is None:
        return
    stream = f"item/{claim.item.id}"
    acknowledged(stream, claim.item.seq, "item.claimed")
    try:
        note = await items.note(claim.item.id, f"token {claim.token}", claim=claim)
        acknowledged(stream, note.seq, "item.noted")
        await items.renew(claim)
        to = (
            dice.choice(["verifying", "verifying", "failed"])
            if claim.item.gates
            else dice.choice(["completed"] * 4 + ["failed"])
        )
        done = await items.transition(claim.item.id, to, reason="done", claim=claim, result=claim.token)
        if done.status == to and done.holder is None:
            acknowledged(stream, done.seq if done.reason == "done" else claim.item.seq, "")
    except Fenced:
        return


def start(path: Path, name: str) -> tuple[int, int]:
    """A process at work; gives its pid and what it tells."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        try:
            asyncio.run(toil(path, name, writing))
        except BaseException as error:  # noqa: BLE001 - the parent is told
            os.write(writing, f"! {type(error).__name__}: {error}\n".encode())
        os._exit(1)
    os.close(writing)
    return pid, reading


def drain(reading: int) -> str:
    """Everything that a dead process told."""
    parts: list[bytes] = []
    while part := os.read(reading, 65536):
        parts.append(part)
    os.close(reading)
    return b"".join(parts).decode()


def look(path: Path, acknowledged: set[tuple[str, int, str]], *, closely: bool) -> dict[str, Any]:
    """What is wrong, seen by a fresh process."""

    async def looking() -> dict[str, Any]:
        async with SQLiteStore(path) as store:
            verified = await store.verify()
            events = await store.read_all(limit=10_000_000)
            types = {(event.stream, event.seq): event.type for event in events}
            lost = [ack for ack in acknowledged if (kind := types.get(ack[:2])) is None or (ack[2] and kind != ack[2])]
            told: dict[str, Any] = {"problems": [problem.detail for problem in verified.problems], "lost": lost[:10]}
            if closely:
                items = Items(store)
                everything = await items.list(limit=None)
                done = Counter(event.stream for event in events if event.type == "item.completed")
                told |= {
                    "view": await store.check(ITEM_VIEW),
                    "completed": len(done),
                    "twice": [stream for stream, count in done.items() if count > 1],
                    "contradictions": [what for item in everything for what in await contradictions(store, items, item)][:10],
                }
            return told

    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writing, json.dumps(asyncio.run(looking())).encode())
        os._exit(0)
    os.close(writing)
    told = json.loads(drain(reading))
    os.waitpid(pid, 0)
    return told


def main(folder: str, kills: str, seed: str) -> None:
    path = Path(folder) / "ledger.db"
    dice = random.Random(int(seed))
    acknowledged: set[tuple[str, int, str]] = set()
    working: list[tuple[float, int, int]] = []
    errors: list[str] = []
    for number in range(int(kills)):
        while len(working) < 2:
            pid, reading = start(path, f"worker-{number}-{len(working)}")
            working.append((time.monotonic() + dice.random() * LONGEST_LIFE_SECONDS, pid, reading))
        working.sort()
        until, pid, reading = working.pop(0)
        time.sleep(max(0.0, until - time.monotonic()))
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        if not os.WIFSIGNALED(status):
            errors.append(f"worker ended by itself with {os.WEXITSTATUS(status)}")
        for line in drain(reading).splitlines():
            if line.startswith("!"):
                errors.append(line)
                continue
            stream, seq, type_ = line.split(" ")
            acknowledged.add((stream, int(seq), type_))
        if (number + 1) % VERIFY_EVERY == 0:
            seen = look(path, acknowledged, closely=False)
            errors += [str(what) for what in (*seen["problems"], *seen["lost"])]
            print(f"{number + 1} kills, {len(acknowledged)} writes acknowledged", file=sys.stderr)
    for _, pid, reading in working:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reading)
    told = look(path, acknowledged, closely=True)
    told["problems"] += errors
    print(json.dumps({"kills": int(kills), "acknowledged": len(acknowledged), **told}))


if __name__ == "__main__":
    main(*sys.argv[1:])
