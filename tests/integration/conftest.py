"""A world with one home, for tests of the supervisor: real processes, a real ledger, every wait bounded."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest

from harness.clock import Clock, SystemClock, VirtualClock
from harness.kernel.providers import port_from
from harness.ledger import Draft, Event, Guard, Reserve, SQLiteStore, Store, Unique, Write
from harness.processes import Identity
from harness.recovery import Declarations, Service, Supervisor, facts
from harness.recovery.declarations import Envelope, TargetEnvelope
from harness.recovery.facts import ActionKind, Level
from harness.recovery.supervisor.launch import home_tag
from harness.sessions import facts as session_facts
from harness.sessions import ids as session_ids
from harness.sessions.closing import last_events
from harness.sessions.record import folded
from harness.sessions.view import SESSIONS_VIEW
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


class Pretended:
    """A run of a session that only the ledger knows: what its host would have written, written by a test."""

    def __init__(self, store: Store, key: str, guard: subprocess.Popen[bytes]) -> None:
        self.store = store
        self.key = key
        self.guard = guard

    @property
    def id(self) -> str:
        return self.key.partition("@")[0]

    async def tell(self, *told: tuple[str, msgspec.Struct], guards: tuple[Guard, ...] = ()) -> list[Event]:
        """Write events of these types to its stream."""
        drafts = tuple(Draft(type=type_, payload=payload) for type_, payload in told)
        return list((await self.store.append(Write(f"session/{self.key}", drafts), guards=guards)).events)

    async def move(self, type_: str, message_id: str, **values: str) -> list[Event]:
        """Move a message on, as the host does: what leaves the queue gives its place back."""
        leaves = type_ in (session_facts.WRITTEN, session_facts.EXPIRED, session_facts.DROPPED)
        room = (Reserve(session_facts.inbox_counter(self.key), -1),) if leaves else ()
        return await self.tell((type_, session_facts.Moved(message_id=message_id, **values)), guards=room)

    async def state(self, state: str, source: str = "hook", detail: str = "", confidence: float = 0.9) -> list[Event]:
        """Change its state."""
        told = session_facts.StateChanged(
            state=session_facts.State(state), source=session_facts.Source(source), confidence=confidence, detail=detail
        )
        return await self.tell((session_facts.STATE_CHANGED, told))

    async def exit(self, reason: str = "success", code: int | None = 0, **values: Any) -> list[Event]:
        """End it in good order."""
        exited = session_facts.Exited(reason=session_facts.ExitReason(reason), code=code, **values)
        stream = session_facts.stream_of(self.key)
        known = folded(self.key, await self.store.read(stream))
        drafts, guards = last_events(known, exited, self.store.clock.now_us())
        return list((await self.store.append(Write(stream, drafts), guards=guards)).events)

    def kill_guard(self) -> None:
        """As if somebody had killed its guard and its host."""
        self.guard.kill()
        self.guard.wait(PATIENCE_SECONDS)


@pytest.fixture
def pretend() -> Iterator[Callable[..., Any]]:
    """Makes sessions that only the ledger knows; each has a real process as its guard, which ends with the test."""
    guards: list[subprocess.Popen[bytes]] = []

    async def start(store: Store, id_: str = "w1", *, cli: str = "claude", **values: Any) -> Pretended:
        guards.append(subprocess.Popen(["sleep", "1000"], stdin=subprocess.DEVNULL))
        guard = Identity.of(guards[-1].pid)
        session = Pretended(store, session_ids.new_key(id_), guards[-1])
        given = {
            "mode": session_facts.Mode.PTY, "argv": (cli,), "cwd": "/work/repo", "repo": "/work/repo",
            "machine": session_ids.machine(), "guard_pid": guard.pid, "guard_started": guard.started,
            "host_pid": guard.pid, "host_started": guard.started, **values,
        }  # fmt: skip
        claimed = session_facts.Claimed(id=id_, cli=cli, **given)
        started = session_facts.Started(pid=guard.pid, started=guard.started)
        events = ((session_facts.CLAIMED, claimed), (session_facts.STARTED, started))
        await session.tell(*events, guards=(Unique(session_facts.id_lock(id_)),))
        return session

    yield start
    for guard in guards:
        guard.kill()
        guard.wait(PATIENCE_SECONDS)


class Command:
    """Runs a command line in another thread, since it has a loop of its own."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    async def __call__(self, *words: str) -> tuple[int, str, str]:
        """Its exit code, stdout and stderr."""
        from harness.cli import main

        self._capsys.readouterr()
        async with asyncio.timeout(PATIENCE_SECONDS):
            code = await asyncio.to_thread(main, words)
        out, err = self._capsys.readouterr()
        return code, out, err

    async def json(self, *words: str, code: int = 0) -> Any:
        """What it prints with this exit code; stdout holds JSON and nothing else."""
        found, out, err = await self(*words)
        assert found == code, (found, out, err)
        return json.loads(out)


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs command lines."""
    return Command(capsys)


@pytest.fixture
async def agents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SQLiteStore]:
    """A repository with a home and its ledger; this process stands in it and in no session."""
    root = tmp_path / "repo"
    (root / ".git").mkdir(parents=True)
    prepare_home(root / ".harness")
    monkeypatch.chdir(root)
    for name in [name for name in os.environ if name.startswith("HARNESS_")]:
        monkeypatch.delenv(name)
    store = SQLiteStore(root / ".harness" / "harness.db", actor="host", durability="process", views=[SESSIONS_VIEW])
    yield store
    await store.close()
