"""A session's life in which somebody is killed, and the run that continues it; driven by `test_sessions_crash`.

Run as a program: `sessions_scenario.py FOLDER points TWIN VICTIM PHASES [FIRST STEP LAST]` kills at each write in turn until
nobody is hit any more, `sessions_scenario.py FOLDER random COUNT SEED` at any instant. It prints one JSON line for each
point: whether somebody was killed, and what is wrong with what came of it.

Victims: `host`; `guard`; `both` (guard, then host: only a client can bury the session); `disk` (the host's ledger fails
from then on); `burier` (who records the host's end); `client` (who sends, withdraws, approves and stops). `burier` and
`client` are killed at writes of their own, the others at those of the host.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import random
import signal
import sqlite3
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import harness.ledger
import harness.people.questions
import harness.repo
import harness.sessions.dialects.claude_launch
import harness.sessions.dialects.claude_stream
import harness.sessions.dialects.codex.server
import harness.sessions.dialects.codex_launch
import harness.sessions.transports.profiles
import harness.sessions.transports.terminal
import harness.spend.prices
import harness.text
from harness.errors import HarnessError
from harness.ledger import SQLiteStore
from harness.processes import become_subreaper
from harness.sessions import LaunchRequest, facts, guard, launch, starting
from harness.sessions.client import Sessions
from harness.sessions.facts import MessageStatus
from harness.sessions.host import burying  # noqa: F401
from harness.sessions.host import main as host_main
from harness.sessions.record import Message, Session
from harness.sessions.rehearsal.catalogue import REHEARSALS, install
from harness.sessions.starting import Launched

sys.path.insert(0, str(Path(__file__).parent))
from sessions_verdict import WORDS, look, noticed

RUN_SECONDS = 40
REAP_SECONDS = 10.0
BURIED_HOST_AT = 12  # the write at which the host dies when it is its burier that is to be killed
LONGEST_LIFE_SECONDS = 1.2


@dataclass(frozen=True, slots=True)
class Twin:
    """A rehearsed program and how it is talked to."""

    rehearsal: str
    mode: str
    asks: bool = True  # it can be made to ask for leave
    resumes: bool = True
    receipts_last: bool = True  # what it has heard is in its journal before it shows a sign of it


TWINS = {
    "stream": Twin("claude", "stream"),
    "app-server": Twin("codex", "app-server"),
    "pty": Twin("claude", "pty", asks=False, resumes=False),
    "shell": Twin("terminal", "pty", asks=False, resumes=False, receipts_last=False),
}


@dataclass(frozen=True, slots=True)
class Strike:
    """Who is killed, and when: at a write (`at`, `phase`) or so many seconds after it began."""

    victim: str = ""
    at: int = 0
    phase: str = ""
    seconds: float = 0.0


@dataclass(slots=True)
class World:
    """One life: its folder, its program and its fate. The forks read it; nobody changes it."""

    root: Path
    twin: Twin
    strike: Strike
    wrong: list[str] = field(default_factory=list[str])

    @property
    def home(self) -> Path:
        return self.root / "h"

    @property
    def database(self) -> str:
        return str(self.home / "h.db")

    def request(self, **more: Any) -> LaunchRequest:
        if self.twin.rehearsal == "terminal":
            words = ("-m", "harness.sessions.rehearsal.terminal", "--like", "shell", *self._flags())
            return self._request(sys.executable, words, **more)
        program = install(REHEARSALS[self.twin.rehearsal], [*self._flags()], self.root / "bin")
        return self._request(str(program), (), **more)

    def _flags(self) -> tuple[str, ...]:
        return ("--journal", str(self.root / "journal"), "--store", str(self.root / "store"), "--work", "0.01")

    def _request(self, cli: str, words: tuple[str, ...], **more: Any) -> LaunchRequest:
        return LaunchRequest(
            home=str(self.home), database=self.database, cli=cli, agent_args=words, id="w1", mode=self.twin.mode,
            cwd=str(self.root), timeout_seconds=RUN_SECONDS, inbox_ttl_seconds=600.0, **more,
        )  # fmt: skip

    def gate(self, word: str) -> Path:
        """The file that lets this message's turn go on."""
        return self.root / f"gate-{word}"

    def saved(self, vendor: str) -> dict[str, int] | None:
        """What the program keeps of a session of its own; None if there is none to resume."""
        path = self.root / "store" / f"{vendor}.json"
        return json.loads(path.read_text()) if vendor and path.exists() else None

    def killed(self) -> None:
        """It is about to happen."""
        with open(self.root / "killed", "a", encoding="ascii") as file:  # noqa: PTH123 - no more than must be
            file.write(f"{self.strike}\n")

    def heard(self) -> list[str]:
        """The messages that the program has got, in order."""
        path = self.root / "journal"
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [word for line in lines if line["event"] == "message" for word in WORDS.findall(line["text"])[:1]]


# The deaths


class Connection:
    """A writer's connection that has somebody killed at one of its commits."""

    def __init__(self, connection: Any, at: int, phase: str, kill: Callable[[], None], *, lasts: bool = False) -> None:
        self._connection = connection
        self._lasts = lasts  # who is not dead strikes again
        self._at = at
        self._phase = phase
        self._kill = kill
        self._count = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, sql: str, *values: Any) -> Any:
        if sql == "BEGIN IMMEDIATE":
            self._count += 1
            self._strike("before")
        if sql == "COMMIT":
            self._strike("inside")
        result = self._connection.execute(sql, *values)
        if sql == "COMMIT":
            self._strike("after")
        return result

    def _strike(self, phase: str) -> None:
        if phase == self._phase and (self._count == self._at or (self._lasts and self._count > self._at)):
            self._kill()


def open_mortal(world: World, roles: Sequence[str]) -> Callable[..., SQLiteStore]:
    """What opens the ledger in a process of these roles."""
    strike = world.strike

    def kill() -> None:
        world.killed()
        if strike.victim == "disk":
            raise sqlite3.OperationalError("disk I/O error")
        if strike.victim in ("guard", "both"):
            os.kill(os.getppid(), signal.SIGKILL)
        if strike.victim != "guard":
            os.kill(os.getpid(), signal.SIGKILL)

    def opened(place: str, *, actor: str = "test", create: bool = True) -> SQLiteStore:
        store = SQLiteStore(place, actor=actor, create=create, durability="process")
        at = BURIED_HOST_AT if strike.victim == "burier" and "host" in roles else strike.at
        phase = "after" if at != strike.at else strike.phase
        if at and (strike.victim in roles or at != strike.at):
            writer: Any = store._writer
            writer.connection = Connection(writer.connection, at, phase, kill, lasts=strike.victim == "disk")
        return store

    return opened


def in_seconds(world: World, role: str) -> None:
    """Have the system end this process without a word at its time."""
    if world.strike.victim == role and world.strike.seconds:
        signal.setitimer(signal.ITIMER_REAL, world.strike.seconds)


class ForkedGuard:
    """What `subprocess.Popen` gives, for a guard that is forked from here: all that it imports is there already."""

    world: World

    def __init__(self, _argv: Sequence[str], *, env: dict[str, str], **_: Any) -> None:
        request, asking = os.pipe()
        telling, answer = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            self._become(request, answer, env)
        os.close(request)
        os.close(answer)
        self.stdin = os.fdopen(asking, "wb")
        self.stdout = os.fdopen(telling, "rb")

    def _become(self, request: int, answer: int, env: dict[str, str]) -> NoReturn:
        code = 1
        try:
            os.setsid()
            os.dup2(request, 0)
            os.dup2(answer, 1)
            os.closerange(3, 1024)
            os.environ.clear()
            os.environ.update(env)
            signal.setitimer(signal.ITIMER_REAL, 0)
            mortal(self.world)
            code = guard.main()
        except BaseException:  # noqa: BLE001 - nobody is above it
            traceback.print_exc()
        finally:
            os._exit(code)

    def wait(self) -> None:
        os.waitpid(self.pid, 0)


def mortal(world: World) -> None:
    """In a guard-to-be: it, its host and who buries the session meet their fate."""
    being, running = guard._become_subreaper, guard._run_host

    def guarding() -> None:
        in_seconds(world, "guard")
        being()

    def hosting(*given: Any) -> None:
        in_seconds(world, "host")
        running(*given)

    guard._become_subreaper = guarding
    guard._run_host = hosting
    host_main.open_store = open_mortal(world, ("host", "guard", "both", "disk"))  # type: ignore[assignment]
    harness.ledger.open_store = open_mortal(world, ("burier",))  # type: ignore[assignment]


def start(world: World, **more: Any) -> Launched:
    """Start a run of the session."""
    ForkedGuard.world = world
    starting.subprocess = SimpleNamespace(Popen=ForkedGuard, PIPE=None, DEVNULL=None)  # type: ignore[attr-defined]
    return launch(world.request(**more))


# The life


class Client:
    """Sends, withdraws, approves and stops, and tells through a pipe what it was promised."""

    def __init__(self, world: World, store: SQLiteStore, key: str, told: int) -> None:
        self.world = world
        self.sessions = Sessions(store, world.home)
        self.key = key
        self._told = told

    async def send(self, word: str, flags: str = "", **how: Any) -> str:
        text = f"rehearse: --answer {word} {flags}" if flags else word
        id_ = await self.sessions.send(self.key, text, **how)
        os.write(self._told, f"sent {word} {id_}\n".encode())
        return id_

    async def reached(self, id_: str, *statuses: MessageStatus) -> Message:
        return await self.sessions.message(self.key, id_, until=statuses or facts.FINAL_STATUSES)

    async def live(self) -> None:
        """Until it has stopped; whoever is killed meanwhile."""
        gate = self.world.gate("m2")
        asks = self.world.twin.asks
        await self.reached(await self.send("m1"))
        second = await self.send("m2", "--asks Bash" if asks else f"--holds {gate}")
        await self.reached(second, MessageStatus.ACCEPTED, *facts.FINAL_STATUSES)
        await self.send("m3")
        expiring = await self.send("m4", ttl_seconds=0.03)
        withdrawn = await self.send("m5")
        if await self.sessions.withdraw(self.key, withdrawn) is MessageStatus.WITHDRAWN:
            os.write(self._told, b"withdrew m5\n")
        sixth = await self.send("m6")
        await self.reached(expiring)
        await self.approve() if asks else gate.touch()
        await self.reached(sixth)
        seventh = await self.send("m7", f"--holds {self.world.gate('m7')}")
        await self.reached(seventh, MessageStatus.ACCEPTED, *facts.FINAL_STATUSES)
        await self.send("m8")
        await self.stop()

    async def approve(self) -> None:
        """Say yes to what is asked, once it is asked."""
        session = Session(key=self.key)
        async for event in self.sessions.follow(self.key):
            session.fold(event)
            if session.open_approvals:
                await self.sessions.decide(self.key, session.open_approvals[0].request, allow=True, by="test")
                return

    async def stop(self) -> None:
        await self.sessions.stop(self.key, by="test", timeout_seconds=4)
        await self.sessions.ended(self.key)


def live(world: World, told: int) -> None:
    """Start the session and live with it."""
    in_seconds(world, "client")
    try:
        launched = start(world)
    except HarnessError:  # its host died before it could say a word
        return

    async def living() -> None:
        async with open_mortal(world, ("client",))(world.database, actor="client") as store:
            with suppress(HarnessError):  # the session has ended, or cannot be asked any more
                await Client(world, store, launched.key, told).live()

    asyncio.run(living())


def resume(world: World, told: int) -> None:
    """Continue it in another run, where whatever was left is seen to; then everything is looked at."""
    key, vendor = asyncio.run(settle(world, told))
    resumed = vendor if world.twin.resumes and world.saved(vendor) is not None else ""
    for word in ("m2", "m7"):
        world.gate(word).touch()
    unharmed = World(world.root, world.twin, Strike())
    launched = start(unharmed, follows=key, vendor_session=resumed, approvals={"allow": ["Bash"]})

    async def going_on() -> None:
        async with SQLiteStore(world.database, actor="second", durability="process") as store:
            client = Client(world, store, launched.key, told)
            last = await client.send("m9")  # comes after all that is carried over
            await client.reached(last)
            await client.stop()

    asyncio.run(going_on())


async def settle(world: World, told: int) -> tuple[str, str]:
    """Stop a session whose client was killed, and wait for its end, as anybody can; gives its key and the vendor's id."""
    world.home.mkdir(exist_ok=True)
    async with SQLiteStore(world.database, actor="second", durability="process") as store:
        heads = await store.heads("session/")
        if not heads:
            return "", ""
        client = Client(world, store, heads[0].stream.partition("/")[2], told)
        await client.stop()
        session = await client.sessions.get(client.key)
        return session.key, session.vendor_session


# Points


def forked(child: Callable[[int], object], *, seconds: float = RUN_SECONDS) -> tuple[int, list[str]]:
    """Run a function in a fork; gives its exit code (negative: the signal that ended it) and the lines that it told."""
    telling, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(telling)
            signal.setitimer(signal.ITIMER_REAL, seconds)
            child(told)
            code = 0
        except BaseException:  # noqa: BLE001 - it ends here, whatever it is
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(told)
    with os.fdopen(telling, encoding="utf-8") as file:
        lines = file.read().splitlines()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), lines


def reaped() -> list[str]:
    """Wait for the guards, which are handed to us when their starters end; gives what is wrong."""
    deadline = time.monotonic() + REAP_SECONDS
    while time.monotonic() < deadline:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return []
        if not pid:
            time.sleep(0.002)
    left = len(children())
    while pids := children():  # those of the ones that are killed are handed to us
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    return [f"{left} processes were left"]


def children() -> list[int]:
    return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text(encoding="ascii").split()]


def begun(world: World) -> None:
    """Wait until a session whose client was killed while it was started is claimed, or its guard has ended."""
    deadline = time.monotonic() + REAP_SECONDS
    while children() and time.monotonic() < deadline:
        with suppress(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)
        with suppress(sqlite3.OperationalError), closing(sqlite3.connect(f"file:{world.database}?mode=ro", uri=True)) as ledger:
            if ledger.execute("SELECT 1 FROM keys WHERE name = 'session-id/w1'").fetchone():
                return
        time.sleep(0.005)


def point(root: Path, name: str, twin: str, strike: Strike) -> bool:
    """One life and what came of it; prints it and gives whether somebody was killed."""
    world = World(root / name, TWINS[twin], strike)
    world.home.mkdir(parents=True, mode=0o700)
    code, told = forked(lambda descriptor: live(world, descriptor))
    killed = code < 0
    expected = (0, -signal.SIGKILL, -signal.SIGALRM) if strike.victim == "client" else (0,)
    wrong = [] if code in expected else [f"the life ended with {code}"]
    if strike.victim != "client" or code == 0:
        wrong += reaped()
    else:
        begun(world)
    code, more = forked(lambda descriptor: resume(world, descriptor))
    wrong += [] if code == 0 else [f"the continuation ended with {code}"]
    wrong += reaped()

    def looking(descriptor: int) -> None:
        what = look(
            world.database, told=[*told, *more], heard=world.heard(), saved=world.saved, receipts_last=world.twin.receipts_last
        )
        wrong = asyncio.run(what)
        by = asyncio.run(noticed(world.database))
        if strike.victim == "host" and by - {"guard"}:
            wrong.append(f"that the host was killed is noticed by {by}, not by its guard")
        os.write(descriptor, "\n".join(wrong).encode())
        if by:
            world.killed()

    code, seen = forked(looking)
    wrong += seen if code == 0 else [f"looking ended with {code}"]
    killed = killed or (world.root / "killed").exists()
    print(json.dumps({"point": name, "killed": killed, "wrong": wrong, "heard": world.heard()}), flush=True)
    return killed


def main(folder: str, mode: str, *words: str) -> None:
    become_subreaper()
    gc.freeze()  # so that forks share what was imported
    root = Path(folder)
    if mode == "points":
        twin, victim, phases = words[:3]
        first, step, last = (int(word) for word in words[3:] or ("1", "1", "1000"))
        for phase in phases.split(","):
            for at in range(first, last + 1, step):
                if not point(root, f"{twin}-{victim}-{phase}-{at}", twin, Strike(victim, at, phase)):
                    break
        return
    count, dice = int(words[0]), random.Random(int(words[1]))
    for number in range(count):
        twin, victim = dice.choice(sorted(TWINS)), dice.choice(["host", "host", "guard", "client"])
        seconds = dice.uniform(0.001, LONGEST_LIFE_SECONDS)
        point(root, f"random-{number}-{twin}-{victim}", twin, Strike(victim, seconds=seconds))


if __name__ == "__main__":
    main(*sys.argv[1:])
