"""A world with one home, for tests of the supervisor: real processes, a real ledger, every wait bounded."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from harness.clock import Clock, SystemClock, VirtualClock
from harness.kernel.providers import port_from
from harness.ledger import Event, SQLiteStore, Write
from harness.recovery import Declarations, Service, Supervisor, facts
from harness.recovery.declarations import Envelope, TargetEnvelope
from harness.recovery.facts import ActionKind, Level
from harness.recovery.supervisor.launch import home_tag
from harness.settings import prepare_home

PATIENCE_SECONDS = 20.0


@dataclass
class World:
    """One home, its ledger, and a supervisor for as long as `supervised` lasts."""

    root: Path
    store: SQLiteStore
    said: list[tuple[str, bytes]] = field(default_factory=list)

    @property
    def home(self) -> Path:
        return self.root / ".harness"

    @staticmethod
    def service(name: str, *command: str, **values: Any) -> Service:
        """A service that ends quickly when it is asked to."""
        return Service(name=name, command=command or ("sleep", "1000"), **{"stop_timeout_seconds": 1.0, **values})

    @staticmethod
    def automatic(*names: str) -> Envelope:
        """Everything is allowed to agents on these."""
        levels = dict.fromkeys(ActionKind, Level.AUTO)
        return Envelope(targets={name: TargetEnvelope(levels=levels) for name in names})

    @staticmethod
    def free_port() -> int:
        """A port that nobody listens on at the moment."""
        with socket.create_server(("127.0.0.1", 0)) as server:
            return int(server.getsockname()[1])

    @staticmethod
    def alive(pid: int) -> bool:
        """Whether a process runs; a zombie does not."""
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
        except OSError:
            return False

    def declared(self, *services: Service, envelope: Envelope | None = None) -> Declarations:
        """These services in this world's folder."""
        return Declarations(services=services, envelope=envelope or Envelope(), root=str(self.root))

    @asynccontextmanager
    async def supervised(
        self, *services: Service, own: tuple[Service, ...] = (), envelope: Envelope | None = None
    ) -> AsyncIterator[Supervisor]:
        """A supervisor that has settled; everything is stopped at the end."""
        declared = self.declared(*services, envelope=envelope)
        supervisor = Supervisor(
            self.store, declared, self.home, own=own, on_output=lambda name, data: self.said.append((name, data))
        )
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(supervisor.run())
            try:
                settling = asyncio.ensure_future(supervisor.settled.wait())
                await asyncio.wait({running, settling}, timeout=PATIENCE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                settling.cancel()
                if not running.done():
                    assert supervisor.settled.is_set(), [(unit.name, unit.state, unit.problem) for unit in supervisor.units]
                    yield supervisor
            finally:
                supervisor.stop()
                await asyncio.wait({running}, timeout=PATIENCE_SECONDS)

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait for something of which no event tells: what a process has written or in which state it is."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not holds():
                await asyncio.sleep(0.01)

    async def events(self, name: str) -> list[Event]:
        return await self.store.read(facts.service_stream(name))

    async def types(self, name: str) -> list[str]:
        return [event.type for event in await self.events(name)]

    async def wait_for(self, name: str, kind: str, *, where: Callable[[Event], bool] = lambda _: True, nth: int = 1) -> Event:
        """The n-th event of a kind in a service's stream, once it is there."""
        seen = 0
        async with asyncio.timeout(PATIENCE_SECONDS):
            async for event in self.store.follow(streams=(facts.service_stream(name),), types=(kind,)):
                if event.stream == facts.service_stream(name) and where(event):
                    seen += 1
                    if seen == nth:
                        return event
        raise AssertionError

    async def request(self, kind: str, target: str, action_id: str = "a1", **values: Any) -> Event:
        """Ask for an action, as a person unless told otherwise."""
        given = {"origin": facts.Origin.PERSON, "requested_by": "test", **values}
        asked = facts.ActionRequested(action_id=action_id, kind=ActionKind(kind), target=target, **given)
        return (await self.store.append(Write(facts.service_stream(target), (facts.draft(asked),)))).first

    async def ended(self, target: str, action_id: str = "a1") -> facts.ActionCompleted | facts.ActionRefused:
        """How an action ended, once it has."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            async for event in self.store.follow(streams=(facts.service_stream(target),)):
                fact = facts.fact_of(event)
                if isinstance(fact, facts.ActionCompleted | facts.ActionRefused) and fact.action_id == action_id:
                    return fact
        raise AssertionError

    async def act(
        self, kind: str, target: str, action_id: str = "a1", **values: Any
    ) -> facts.ActionCompleted | facts.ActionRefused:
        """Ask for an action and wait for its end."""
        await self.request(kind, target, action_id, **values)
        return await self.ended(target, action_id)

    async def chaos(self, kind: str, target: str, chaos_id: str = "c1", heal_after_seconds: float | None = None) -> Event:
        """Ask for a fault and wait for the answer."""
        asked = facts.ChaosRequested(chaos_id=chaos_id, kind=facts.ChaosKind(kind), heal_after_seconds=heal_after_seconds)
        await self.store.append(Write(facts.service_stream(target), (facts.draft(asked),)))
        async with asyncio.timeout(PATIENCE_SECONDS):
            async for event in self.store.follow(streams=(facts.service_stream(target),)):
                fact = facts.fact_of(event)
                if isinstance(fact, facts.ChaosInjected | facts.ChaosRefused) and fact.chaos_id == chaos_id:
                    return event
        raise AssertionError

    def left(self) -> list[int]:
        """Pids of everything of this home that still runs."""
        from harness.processes import find

        return [one.identity.pid for one in find(home_tag(self.home))]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """A home without anything in it; nothing of it may run when the test is over."""
    async with _opened(tmp_path, SystemClock()) as opened:
        yield opened


@pytest.fixture
async def timed(tmp_path: Path) -> AsyncIterator[tuple[World, VirtualClock]]:
    """The same, with a clock that moves only when told to."""
    clock = VirtualClock()
    async with _opened(tmp_path, clock) as opened:
        yield opened, clock


@asynccontextmanager
async def _opened(root: Path, clock: Clock) -> AsyncIterator[World]:
    home = prepare_home(root / ".harness")
    store = SQLiteStore(home / "harness.db", actor="supervisor", durability="process", clock=clock)
    world = World(root, store)
    try:
        yield world
        verified = await store.verify()
        assert verified, verified.problems
        assert world.left() == []
    finally:
        await store.close()


PROVIDER_KEY = "sk-test-very-secret-0123456789"


@pytest.fixture
def api(fake_model_api: ModuleType) -> Iterator[Any]:
    with fake_model_api.FakeAPI({"side": "main"}) as api:
        yield api


@pytest.fixture(params=("anthropic", "openai", "openai-chat"))
def kind(request: pytest.FixtureRequest) -> str:
    pytest.importorskip(request.param.split("-")[0])
    return request.param


@pytest.fixture
async def connect(kind: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Callable[[str], Any]]:
    """Makes the port of this kind for an address; all are closed at the end."""
    monkeypatch.setenv("ANTHROPIC_API_KEY", PROVIDER_KEY)
    monkeypatch.setenv("OPENAI_API_KEY", PROVIDER_KEY)
    made: list[Any] = []

    def connect(url: str) -> Any:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", url)
        monkeypatch.setenv("OPENAI_BASE_URL", f"{url}/v1")
        made.append(port_from(f"{kind}:some-model"))
        return made[-1]

    yield connect
    for port in made:
        await port.close()
