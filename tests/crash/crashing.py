"""A zygote for crash tests: it imports once, forks a child for each run, and can kill a child at a commit of its ledger.

Run as a script, `crashing.py SCENARIO_MODULE`. It reads one JSON order a line and answers with one JSON line. The
scenario module sits beside this file and has `async def run(store, clock)` and `async def look(store) -> dict`.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import json
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.clock import VirtualClock
from harness.errors import StoreUnavailable
from harness.ledger import SQLiteStore

DAY_SECONDS = 86_400.0
RUN_SECONDS = 30


class Connection:
    """A writer's connection that ends its process at one commit: `before` it begins, `inside`, or `after` it."""

    def __init__(self, connection: Any, at: int, phase: str, committed: Callable[[], None]) -> None:
        self._connection = connection
        self._at = at
        self._phase = phase
        self._committed = committed
        self._count = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, sql: str, *values: Any) -> Any:
        if sql == "BEGIN IMMEDIATE":
            self._count += 1
            self._die("before")
        if sql == "COMMIT":
            self._die("inside")
        result = self._connection.execute(sql, *values)
        if sql == "COMMIT":
            self._committed()
            self._die("after")
        return result

    def _die(self, phase: str) -> None:
        if self._count == self._at and phase == self._phase:
            os.kill(os.getpid(), signal.SIGKILL)


def forked(child: Callable[[], dict[str, Any]]) -> tuple[int | None, dict[str, Any]]:
    """Run a function in a fork; gives the signal that ended it, and what it returned."""
    with tempfile.TemporaryFile() as answer:
        pid = os.fork()
        if pid == 0:
            signal.alarm(RUN_SECONDS)
            try:
                os.write(answer.fileno(), json.dumps(child()).encode())
            except BaseException:  # noqa: BLE001 - the parent is told
                os.write(answer.fileno(), json.dumps({"error": traceback.format_exc()}).encode())
            finally:
                os._exit(0)
        _, status = os.waitpid(pid, 0)
        answer.seek(0)
        text = answer.read()
    return (os.WTERMSIG(status) if os.WIFSIGNALED(status) else None), json.loads(text or b"{}")


def serve(scenario: Any) -> None:
    """Answer orders until there are none."""
    gc.freeze()  # so that forks share what was imported
    for line in sys.stdin:
        order = json.loads(line)
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(obey(scenario, order, Path(folder) / "ledger.db")), flush=True)


def obey(scenario: Any, order: dict[str, Any], path: Path) -> dict[str, Any]:
    """One run that is killed, and a fresh process that looks at what it left, ends what was begun, and looks again."""
    options = {"durability": order.get("durability", "process")}

    async def resume() -> dict[str, Any]:
        left = await _look(scenario, path, read_only=True, **options)
        run = await _run(scenario, path, options, 0, "", start_days=1)
        return {"left": left, "run": run, "final": await _look(scenario, path, **options)}

    killed, first = forked(lambda: asyncio.run(_run(scenario, path, options, order["at"], order["phase"], start_days=0)))
    _, second = forked(lambda: asyncio.run(resume()))
    return {"signal": killed, "first": first, **second}


async def _run(scenario: Any, path: Path, options: dict[str, Any], at: int, phase: str, *, start_days: int) -> dict[str, Any]:
    clock = VirtualClock()
    clock.advance(start_days * DAY_SECONDS)
    store = SQLiteStore(path, clock=clock, actor="scenario", **options)
    events: list[int] = []  # how many there were after each commit

    def committed() -> None:
        events.append(writer.connection.execute("SELECT count(*) FROM events").fetchone()[0])

    writer: Any = store._writer
    writer.connection = Connection(writer.connection, at, phase, committed)
    await scenario.run(store, clock)
    await store.close()
    return {"events_after": events}


async def _look(scenario: Any, path: Path, **options: Any) -> dict[str, Any]:
    try:
        store = SQLiteStore(path, **options)
    except StoreUnavailable:  # killed before there was anything to read
        return {"events": [], "problems": []}
    async with store:
        verified = await store.verify()
        events = await store.read_all(limit=100_000)
        return {
            "events": [[event.stream, event.seq, event.type] for event in events],
            "problems": [problem.detail for problem in verified.problems],
            **(await scenario.look(store)),
        }


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    serve(importlib.import_module(sys.argv[1]))
