"""The agent process is killed with -9 at each of its writes in an incident: no action is done twice, none is lost."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from harness.ledger import Event, SQLiteStore
from harness.recovery import Declarations, Service, Supervisor
from harness.recovery.analyst import fallback
from harness.recovery.declarations import Envelope, Limits, TargetEnvelope
from harness.recovery.facts import ActionKind, Level, ServiceExited, ServiceStarted, service_stream
from harness.recovery.failures import Failure, Severity
from harness.recovery.tickets import Tickets
from harness.settings import prepare_home
from harness.work import Item, Role, Status

PATIENCE_SECONDS = 30.0

AGENTS = '''
"""Forks an agent for each line `DIE_AT`: it dies with -9 at that write, or ends once its ticket is handed over."""
import asyncio, os, signal, sys
from pathlib import Path
import anyio
from harness.ledger import SQLiteStore
from harness.recovery.declarations import Declarations, Envelope, Limits, Service, TargetEnvelope
from harness.recovery.facts import ActionKind, Level
from harness.recovery.responder import run_responder

class Mortal(SQLiteStore):
    left = 0

    def count(self):
        type(self).left -= 1
        return type(self).left == 0

    async def append(self, *writes, guards=()):
        last = self.count()
        done = await super().append(*writes, guards=guards)
        if last:
            os.kill(os.getpid(), signal.SIGKILL)
        return done

    def submit(self, *writes, guards=()):
        if self.count():
            os.kill(os.getpid(), signal.SIGKILL)
        return super().submit(*writes, guards=guards)

async def work(root):
    levels = {ActionKind.RESTART_SERVICE: Level.AUTO}
    many = Limits(actions_per_target_hour=10_000, recurrences=10_000, breaker_failures=10_000)
    declared = Declarations(
        services=(Service(name="web", command=("sleep", "1000")),),
        envelope=Envelope(targets={"web": TargetEnvelope(levels=levels, limits=many)}), root=str(root),
    )
    home = root / ".harness"
    store = await Mortal.open(home / "harness.db", actor="agent", durability="process")
    async with anyio.create_task_group() as group:
        seen = await store.tail()
        group.start_soon(run_responder, store, declared, home)
        async for event in store.follow(after=seen, streams=("item/",), types=("item.submitted", "item.blocked")):
            break
        group.cancel_scope.cancel()
    await store.close()

for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        Mortal.left = int(line)
        asyncio.run(work(Path(sys.argv[1])))
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
'''


class Home:
    """A ledger, a real supervisor of one service, and agents that are processes."""

    def __init__(self, root: Path, store: SQLiteStore, agents: asyncio.subprocess.Process) -> None:
        self.root = root
        self.store = store
        self._agents = agents

    async def agent(self, die_at: int) -> int:
        """Run an agent until it has died at its n-th write or has handed the ticket over; its exit code."""
        assert self._agents.stdin is not None
        assert self._agents.stdout is not None
        self._agents.stdin.write(f"{die_at}\n".encode())
        async with asyncio.timeout(PATIENCE_SECONDS):
            return int(await self._agents.stdout.readline())

    async def break_it(self) -> Item:
        """Kill the service's process; its ticket."""
        started = await self._newest(ServiceStarted.TYPE)
        os.kill(started.load(ServiceStarted).pid, signal.SIGKILL)
        exited = await self._newest(ServiceExited.TYPE, after=started.seq)
        failure = Failure(
            subject="web", target="web", severity=Severity.DOWN, root="process:web", kind="process",
            observed="killed", detected_us=exited.ts, ref=exited.ref,
        )  # fmt: skip
        item, _ = await Tickets(self.store).report(failure, fallback(failure, "test"))
        return item

    async def _newest(self, type_: str, after: int = 0) -> Event:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                events = await self.store.read(service_stream("web"), after=after)
                found = [event for event in events if event.type == type_]
                if found:
                    return found[-1]
                await asyncio.sleep(0.005)

    async def about(self, ticket: str) -> list[Event]:
        """Everything that was written about a ticket."""
        events = await self.store.read_all(limit=100_000)
        return [event for event in events if ticket in event.stream or event.payload.get("ticket") == ticket]


@pytest.fixture
async def home(tmp_path: Path) -> AsyncGenerator[Home]:
    """Everything ends with the test."""
    folder = prepare_home(tmp_path / ".harness")
    async with (
        SQLiteStore(folder / "harness.db", actor="supervisor", durability="process") as store,
        _agents(tmp_path) as agents,
    ):
        limits = Limits(actions_per_target_hour=10_000, recurrences=10_000, breaker_failures=10_000)
        envelope = Envelope(targets={"web": TargetEnvelope(levels={ActionKind.RESTART_SERVICE: Level.AUTO}, limits=limits)})
        service = Service(name="web", command=("sleep", "1000"), stop_timeout_seconds=1.0)
        supervisor = Supervisor(store, Declarations(services=(service,), envelope=envelope, root=str(tmp_path)), folder)
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(supervisor.run())
            async with asyncio.timeout(PATIENCE_SECONDS):
                await supervisor.settled.wait()
            try:
                yield Home(tmp_path, store, agents)
            finally:
                supervisor.stop()
                await asyncio.wait({running}, timeout=PATIENCE_SECONDS)


@asynccontextmanager
async def _agents(root: Path) -> AsyncGenerator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", AGENTS, str(root), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    try:
        yield process
    finally:
        assert process.stdin is not None
        process.stdin.close()
        async with asyncio.timeout(PATIENCE_SECONDS):
            await process.wait()


async def test_killed_at_each_write_an_incident_is_repaired_once(home: Home) -> None:
    """Whoever is started next goes on with the same attempt: one action begun, one ended, one hand-over, no step twice."""
    items = Tickets(home.store).items
    points = 0
    for die_at in range(1, 100):
        ticket = await home.break_it()
        code = await home.agent(die_at)
        if code == -signal.SIGKILL:
            points += 1
            handed_over = (await items.get(ticket.id)).status is Status.VERIFYING  # the write was its last
            assert handed_over or await home.agent(0) == 0
        events = await home.about(ticket.id)
        types = Counter(event.type for event in events)
        where = f"killed at write {die_at}: {dict(types)}"
        assert types["action.started"] == types["action.completed"] == types["item.submitted"] == 1, where
        assert types["incident.engaged"] == 1, where
        steps = Counter(event.key for event in events if event.type == "step.completed")
        assert set(steps.values()) == {1}, where
        await items.transition(ticket.id, Status.COMPLETED, reason="test", role=Role.VERIFIER)
        if code == 0:
            break

    assert points > 15
    assert await home.store.verify()
