"""The monitor is killed with -9 in the middle of an incident: no second ticket, no lost one, no false completion."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import anyio
import pytest

from harness.ledger import SQLiteStore, Write
from harness.processes import Identity
from harness.recovery.facts import (
    ActionCompleted,
    ActionKind,
    Fact,
    Outcome,
    ServiceDeclared,
    ServiceExited,
    ServiceReady,
    ServiceStarted,
    draft,
    service_stream,
)
from harness.work import Item, Items, Status

T = TypeVar("T")

MONITOR = '''
import asyncio, os, signal, sys
from pathlib import Path
from harness.kernel.ports import MockModelPort
from harness.ledger import SQLiteStore
from harness.recovery.declarations import Declarations, Invariant, Service
from harness.recovery.monitor import MonitorSettings, run_monitor

class Mortal(SQLiteStore):
    """Dies with -9 right before or right after its nth append."""

    left = int(os.environ["DIE_AT"])

    async def append(self, *writes, guards=()):
        type(self).left -= 1
        if self.left == 0 and os.environ["DIE"] == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        done = await super().append(*writes, guards=guards)
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return done

async def main(home, url):
    store = await Mortal.open(home / "harness.db", actor="monitor")
    declared = Declarations(
        services=(Service(name="api", command=("true",), ready=url),),
        invariants=(Invariant(name="api_healthy", query=url, target="api", interval_seconds=0.2, timeout_seconds=1),),
        root=str(home),
    )
    answer = {"ticket": "yes", "objective": "o", "context": "c", "priority": "high", "reason": "r"}
    settings = MonitorSettings(stabilisation_seconds=0.3, verification_seconds=10)
    await run_monitor(store, declared, home, settings, port=MockModelPort(output=answer))

asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
'''


async def until(look: Callable[[], Awaitable[T | None]], seconds: float = 20.0) -> T:
    with anyio.fail_after(seconds):
        while True:
            if (found := await look()) is not None:
                return found
            await asyncio.sleep(0.01)


class Home:
    """A ledger, a target, and monitors that are processes."""

    def __init__(self, path: Path, store: SQLiteStore) -> None:
        self.path = path
        self.store = store
        self.items = Items(store)
        self.port = 0
        self.server: asyncio.Server | None = None
        self.monitors: list[asyncio.subprocess.Process] = []

    async def up(self) -> None:
        self.server = await asyncio.start_server(self._answer, "127.0.0.1", self.port)
        self.port = self.server.sockets[0].getsockname()[1]

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    async def watch(self, *, die_at: int = 0, die: str = "after") -> asyncio.subprocess.Process:
        environment = {**os.environ, "DIE_AT": str(die_at), "DIE": die}
        url = f"http://127.0.0.1:{self.port}/health"
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", MONITOR, str(self.path), url, env=environment
        )  # fmt: skip
        self.monitors.append(process)
        return process

    async def say(self, fact: Fact) -> None:
        await self.store.append(Write(service_stream("api"), (draft(fact, actor="supervisor"),)))

    async def running(self, epoch: int) -> None:
        me = Identity.of(os.getpid())
        await self.say(ServiceStarted(epoch=epoch, pid=me.pid, started=me.started, tag="t"))
        await self.say(ServiceReady(epoch=epoch, pid=me.pid, seconds=0.1))

    async def types(self, stream: str) -> Sequence[str]:
        return [event.type for event in await self.store.read(stream)]

    async def passing(self) -> bool | None:
        return "check.changed" in await self.types("check/api_healthy") or None

    async def ticket(self) -> Item | None:
        items = await self.items.list(limit=None)
        assert len(items) <= 1, items
        return items[0] if items else None

    async def opened(self) -> Item | None:
        item = await self.ticket()
        return item if item and "incident.opened" in await self.types(f"incident/{item.id}") else None

    async def completed(self) -> Item | None:
        item = await self.ticket()
        return item if item and "incident.closed" in await self.types(f"incident/{item.id}") else None


@pytest.fixture
async def home(tmp_path: Path) -> AsyncGenerator[Home]:
    store = await SQLiteStore.open(tmp_path / "harness.db", actor="test")
    home = Home(tmp_path, store)
    await home.up()
    await home.say(ServiceDeclared(name="api", command=("true",), ready="http"))
    await home.running(1)
    yield home
    for process in home.monitors:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if home.server:
        home.server.close()
    await store.close()


async def an_incident_with_a_death(home: Home, **death: Any) -> None:
    """Kill the service while a monitor watches that will die, go on with another one, repair, and look at what is left."""
    mortal = await home.watch(**death)
    first = await until(lambda: either(home.passing, mortal))
    if first:
        assert home.server is not None
        home.server.close()
        await home.say(ServiceExited(epoch=1, pid=1, code=None, signal=9, ran_seconds=1))
        await until(lambda: either(home.opened, mortal))
        if mortal.returncode is None and (item := await home.opened()):
            await repaired(home, item)
            await until(lambda: either(home.completed, mortal))
    if mortal.returncode is None:  # it had fewer appends to make than it was to survive
        mortal.kill()
    await mortal.wait()

    await home.watch()
    if home.server is not None and home.server.is_serving() and not await home.ticket():
        await until(home.passing)
        home.server.close()
        await home.say(ServiceExited(epoch=1, pid=1, code=None, signal=9, ran_seconds=1))
    item = await until(home.opened)
    if item.status in (Status.PENDING, Status.IN_PROGRESS):
        await repaired(home, item)
    item = await until(home.completed)

    types = await home.types(f"incident/{item.id}")
    assert item.status is Status.COMPLETED
    assert item.occurrences == 1
    assert [types.count(f"incident.{type_}") for type_ in ("opened", "analysed", "recurred", "verified", "closed")] == [
        1,
        1,
        0,
        1,
        1,
    ]
    assert (await home.store.verify()).ok


async def either(look: Callable[[], Awaitable[Any]], process: asyncio.subprocess.Process) -> Any:
    """What `look` finds, or False once the process is dead."""
    return await look() or (False if process.returncode is not None else None)


async def repaired(home: Home, item: Item) -> None:
    """An agent restarts the service and says so."""
    claim = await home.items.claim("agent", item_id=item.id)
    assert claim is not None
    await home.up()
    await home.running(2)
    done = ActionCompleted(
        action_id=f"a-{item.id}", kind=ActionKind.RESTART_SERVICE, target="api", outcome=Outcome.SUCCEEDED, detail="ready",
        epoch=2, ticket=item.id,
    )  # fmt: skip
    await home.say(done)
    await home.items.transition(item.id, Status.VERIFYING, reason="restarted", claim=claim)


@pytest.mark.parametrize("die_at", [4, 5, 6, 7, 8, 9])
async def test_a_monitor_that_dies_after_an_append_loses_nothing_and_repeats_nothing(home: Home, die_at: int) -> None:
    """Killed right after an append in the middle of an incident, the next monitor goes on with what is recorded."""
    await an_incident_with_a_death(home, die_at=die_at, die="after")


@pytest.mark.nightly
@pytest.mark.parametrize("die", ["before", "after"])
@pytest.mark.parametrize("die_at", range(1, 20))
async def test_a_monitor_may_die_at_every_append(home: Home, die_at: int, die: str) -> None:
    """Every append of the scenario, from taking the home to closing the incident, is survived."""
    await an_incident_with_a_death(home, die_at=die_at, die=die)
