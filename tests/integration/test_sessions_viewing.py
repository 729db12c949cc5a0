"""`harness attach` at a real terminal, with a host that a test plays."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import pty
import signal
import struct
import sys
import termios
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from harness.ledger import SQLiteStore
from harness.sessions import facts
from harness.sessions.client.viewing import Keys
from harness.sessions.ids import Folder

PATIENCE_SECONDS = 20.0
Pretend = Callable[..., Any]
ATTACH = (sys.executable, "-m", "harness", "attach", "--id", "w1")
VIEW = (
    sys.executable,
    "-c",
    "import sys; from harness.settings import load_settings; from harness.sessions.client.viewing import view;"
    "sys.exit(view(load_settings(), sys.argv[1]))",
)


class Host:
    """The host's side of one attached terminal."""

    def __init__(self) -> None:
        self.frames: asyncio.Queue[tuple[bytes, bytes]] = asyncio.Queue()
        self.attached = asyncio.Event()
        self.gone = asyncio.Event()
        self._writer: asyncio.StreamWriter | None = None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take one viewer."""
        self._writer = writer
        self.attached.set()
        try:
            while True:
                kind, length = struct.unpack(">cI", await reader.readexactly(5))
                self.frames.put_nowait((kind, await reader.readexactly(length)))
        except (asyncio.IncompleteReadError, ConnectionError):
            self.frames.put_nowait((b"", b""))
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            self.gone.set()

    def say(self, kind: bytes, payload: bytes) -> None:
        assert self._writer is not None
        self._writer.write(struct.pack(">cI", kind, len(payload)) + payload)

    def hang_up(self) -> None:
        assert self._writer is not None
        self._writer.close()

    async def heard(self) -> tuple[bytes, bytes]:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await self.frames.get()


class Terminal:
    """A terminal with a program at it."""

    def __init__(self, columns: int = 100, rows: int = 30) -> None:
        self.master, self.slave = pty.openpty()
        os.set_blocking(self.master, False)
        self.resize(columns, rows)
        self.shown = b""

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    async def run(self, *words: str, cwd: Path) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *words, cwd=cwd, stdin=self.slave, stdout=self.slave, stderr=self.slave, start_new_session=True
        )

    def type(self, data: bytes) -> None:
        os.write(self.master, data)

    async def until(self, wanted: bytes) -> None:
        """Wait until this is shown."""
        readable = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(self.master, readable.set)
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while wanted not in self.shown:
                    await readable.wait()
                    readable.clear()
                    self.shown += os.read(self.master, 65536)
        finally:
            loop.remove_reader(self.master)

    @property
    def settings(self) -> list[Any]:
        return termios.tcgetattr(self.slave)

    def close(self) -> None:
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def terminal() -> Any:
    made = Terminal()
    yield made
    made.close()


@pytest.fixture
async def session(agents: SQLiteStore, pretend: Pretend) -> Any:
    """A session with a folder."""
    made = await pretend(agents)
    folder = Folder(home=agents.path.parent, key=made.key).take()
    (folder / "transcript.log").write_bytes(b"what it wrote\r\n")
    return made


@pytest.fixture
async def host(session: Any, agents: SQLiteStore) -> AsyncIterator[Host]:
    """Its socket, with a host behind it."""
    made = Host()
    folder = Folder(home=agents.path.parent, key=session.key)
    here = Path.cwd()
    os.chdir(folder.path)
    try:
        server = await asyncio.start_unix_server(made.serve, "host.sock")
    finally:
        os.chdir(here)
    async with server:
        yield made
        if made.attached.is_set():
            made.hang_up()
            async with asyncio.timeout(PATIENCE_SECONDS):
                await made.gone.wait()


async def ended(process: asyncio.subprocess.Process) -> int:
    async with asyncio.timeout(PATIENCE_SECONDS):
        return await process.wait()


async def test_it_relays_both_ways(agents: SQLiteStore, host: Host, terminal: Terminal) -> None:
    """The size first, keys as they are typed, output as it comes; the end gives the agent's code."""
    before = terminal.settings
    viewer = await terminal.run(*ATTACH, cwd=agents.path.parents[1])

    assert await host.heard() == (b"R", struct.pack(">HH", 30, 100))
    host.say(b"O", b"hello\r\n\x1b[?1049h\x1b[?2004h")
    await terminal.until(b"hello\r\n")
    assert terminal.settings != before
    terminal.type(b"\x03")
    assert await host.heard() == (b"I", b"\x03")
    terminal.type("ü\r".encode())
    assert await host.heard() == (b"I", "ü\r".encode())
    host.say(b"X", json.dumps({"code": None, "signal": 9, "reason": "killed"}).encode())

    assert await ended(viewer) == 137
    await terminal.until(b"\x1b[?2004l")
    assert b"\x1b[?1049l" in terminal.shown
    assert terminal.settings == before


async def test_ctrl_bracket_twice_detaches(agents: SQLiteStore, host: Host, terminal: Terminal, session: Any) -> None:
    """The session goes on; one alone goes to the agent."""
    before = terminal.settings
    viewer = await terminal.run(*ATTACH, cwd=agents.path.parents[1])
    await host.heard()

    terminal.type(b"\x1d")
    assert await host.heard() == (b"I", b"\x1d")  # once it was clear that no second one comes
    terminal.type(b"a\x1d\x1d")

    assert await host.heard() == (b"I", b"a")
    assert await host.heard() == (b"D", b"")
    assert await ended(viewer) == 0
    await terminal.until(b"detached from w1")
    assert b"\x1b[?1049l" not in terminal.shown
    assert terminal.settings == before
    assert (await agents.head(f"session/{session.key}")).seq == 2  # type: ignore[union-attr]


async def test_what_the_host_has_left_is_shown_before_the_terminal_is_put_back(
    agents: SQLiteStore, host: Host, terminal: Terminal
) -> None:
    """A host waits for no slow viewer: the rest is in the transcript, and whatever it switches on is taken back as well."""
    viewer = await terminal.run(*ATTACH, cwd=agents.path.parents[1])
    await host.heard()

    host.say(b"P", struct.pack(">Q", 5))
    host.say(b"X", b'{"code":0}')

    assert await ended(viewer) == 0
    await terminal.until(b"\x1b[?2004l")
    assert terminal.shown.index(b"it wrote") < terminal.shown.index(b"\x1b[?2004l")
    assert b"what" not in terminal.shown


async def test_a_changed_window_is_told(agents: SQLiteStore, host: Host, terminal: Terminal) -> None:
    """As soon as it changes."""
    viewer = await terminal.run(*ATTACH, cwd=agents.path.parents[1])
    await host.heard()

    terminal.resize(80, 24)
    os.kill(viewer.pid, signal.SIGWINCH)  # it has no controlling terminal here, which would do this

    assert await host.heard() == (b"R", struct.pack(">HH", 24, 80))
    host.say(b"X", b'{"code":0}')
    assert await ended(viewer) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
async def test_a_signal_leaves_the_terminal_as_it_was(
    agents: SQLiteStore, host: Host, terminal: Terminal, number: signal.Signals
) -> None:
    """Whoever ends the viewer does not end the session."""
    before = terminal.settings
    viewer = await terminal.run(*ATTACH, cwd=agents.path.parents[1])
    await host.heard()
    host.say(b"O", b"hello")
    await terminal.until(b"hello")

    viewer.send_signal(number)

    assert await ended(viewer) == 128 + number
    assert terminal.settings == before
    assert await host.heard() == (b"", b"")


async def test_a_host_that_goes_without_a_word(agents: SQLiteStore, host: Host, terminal: Terminal, session: Any) -> None:
    """The end that is recorded counts, whoever records it."""
    viewer = await terminal.run(*ATTACH, cwd=agents.path.parents[1])
    await host.heard()

    host.hang_up()
    await session.exit("failure", 7)

    assert await ended(viewer) == 7


async def test_without_a_terminal_bytes_are_passed_on(agents: SQLiteStore, host: Host, session: Any) -> None:
    """A file as input is typed, and its end is not the session's."""
    script = agents.path.parent / "input"
    script.write_bytes(b"do it\r")
    with script.open("rb") as stdin:
        viewer = await asyncio.create_subprocess_exec(
            *VIEW, session.key, stdin=stdin, stdout=asyncio.subprocess.PIPE, cwd=agents.path.parents[1]
        )
    assert await host.heard() == (b"I", b"do it\r")
    big = os.urandom(1 << 20)
    for part in range(0, len(big), 65536):
        host.say(b"O", big[part : part + 65536])
    host.say(b"X", b'{"code":3}')

    async with asyncio.timeout(PATIENCE_SECONDS):
        out, _ = await viewer.communicate()
    assert (viewer.returncode, out == big) == (3, True)


async def test_what_ended_before_it_was_looked_at_is_shown(agents: SQLiteStore, session: Any) -> None:
    """A quick command's output and code are not lost because it was quick; to attach to it is an error."""
    await session.exit("failure", 5)
    told: list[tuple[int | None, bytes]] = []

    for words in ((*VIEW, session.key), ATTACH):
        viewer = await asyncio.create_subprocess_exec(
            *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL, cwd=agents.path.parents[1]
        )
        async with asyncio.timeout(PATIENCE_SECONDS):
            out, _ = await viewer.communicate()
        told.append((viewer.returncode, out))

    assert told == [(5, b"what it wrote\r\n"), (1, b"")]


async def test_what_has_no_terminal_cannot_be_attached_to(
    command: Any, agents: SQLiteStore, pretend: Pretend, session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that speaks a protocol, one that is unknown, one's own."""
    await pretend(agents, "w2", mode=facts.Mode.STREAM)
    monkeypatch.setenv("HARNESS_SESSION_ID", session.key)

    for id_, says in (("w1", "itself"), ("w2", "no terminal"), ("w9", "no session")):
        code, out, err = await command("attach", "--id", id_)
        assert (code, out, err.count("\n")) == (1, "", 1)
        assert says in err


@pytest.mark.parametrize("key", [b"\x1d", b"\x1b[93;5u", b"\x1b[27;5;93~"])
def test_every_terminals_ctrl_bracket_is_known(key: bytes) -> None:
    """Also with a keyboard protocol on, and in pieces."""
    keys = Keys()
    assert keys.take(b"x" + key) == (b"x", False)
    assert keys.take(key + b"y") == (b"", True)

    again = Keys()
    assert again.take(key) == (b"", False)
    assert again.take(b"z" + key) == (key + b"z", False)
    assert again.late() == b""
