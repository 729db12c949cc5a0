"""Programs on a pseudo-terminal."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
from pathlib import Path

import anyio
import pytest

from harness.errors import ProcessError
from harness.processes import Exit, Process, Size, Spec, adopt, become_subreaper, pty, spawn


class Screen:
    """Collects what a program prints and waits for words in it."""

    def __init__(self) -> None:
        self.seen = b""
        self._changed = anyio.Event()

    def __call__(self, data: bytes) -> None:
        self.seen += data
        self._changed.set()

    async def shows(self, word: bytes) -> None:
        with anyio.fail_after(20):
            while word not in self.seen:
                await self._changed.wait()
                self._changed = anyio.Event()


@pytest.fixture(autouse=True)
def not_a_subreaper() -> None:
    """Another test of this process may have left it one; then it would reap what these tests reap themselves."""
    become_subreaper(enabled=False)


@pytest.fixture(params=["setsid", "fork"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With setsid(1), and as on a system that has none."""
    if request.param == "fork":
        monkeypatch.setattr(pty, "find_setsid", lambda: None)
    return request.param


async def start(screen: Screen, *argv: str, **options: object) -> Process:
    spec = Spec(argv=argv, tag="test/pty", **{"pty": Size(), **options})  # type: ignore[arg-type]
    return await spawn(spec, on_output=screen)


async def test_a_program_gets_a_terminal_of_its_own(way: str, tmp_path: Path) -> None:
    """It is the controlling one, 120 x 40, has a type, and the program leads its session in the foreground."""
    screen = Screen()
    script = (
        "stty size; test -t 0 && test -t 1 && test -t 2 && echo tty; echo $TERM; pwd; echo hi >/dev/tty;"
        "ps -o pid=,sid=,tpgid= -p $$"
    )

    process = await start(screen, "sh", "-c", script, cwd=tmp_path)
    with anyio.fail_after(20):
        found = await process.wait()

    size, tty, term, folder, hello, numbers = screen.seen.decode().split("\r\n")[:-1]
    assert found == Exit(code=0, signal=None)
    assert (size, tty, term, folder, hello) == ("40 120", "tty", "xterm-256color", str(tmp_path), "hi")
    assert set(map(int, numbers.split())) == {process.pid}
    assert process.terminal is None


async def test_its_size_can_be_chosen_and_changed(way: str) -> None:
    """A resize reaches the program as SIGWINCH."""
    screen = Screen()
    script = "trap 'stty size' WINCH; stty size; while :; do sleep 0.01; done"
    process = await start(screen, "sh", "-c", script, pty=Size(columns=80, rows=24))

    await screen.shows(b"24 80")
    process.resize(Size(columns=132, rows=50))
    await screen.shows(b"50 132")

    with anyio.fail_after(20):
        await process.stop(grace_seconds=5)
    process.resize(Size())


async def test_keys_reach_the_program(way: str) -> None:
    """Lines, the end of the file, and Ctrl-C as a signal to the foreground."""
    screen = Screen()
    script = "read x; echo got:$x; cat; echo eof; trap 'echo int; exit 3' INT; echo ready; while :; do sleep 0.01; done"
    process = await start(screen, "sh", "-c", script)

    await process.write(b"hello\n")
    await screen.shows(b"got:hello")
    await process.write(b"\x04")
    await screen.shows(b"ready")
    await process.write(b"\x03")

    with anyio.fail_after(20):
        assert (await process.wait()).code == 3
    assert b"int" in screen.seen


async def test_every_byte_of_a_fast_program_arrives(way: str, tmp_path: Path) -> None:
    """Several megabytes in raw mode, complete when `wait` returns although the program exits at once."""
    code = (
        "import os, tty, hashlib, sys\n"
        "tty.setraw(1)\n"
        "data = os.urandom(3_000_000)\n"
        "left = data\n"
        "while left: left = left[os.write(1, left):]\n"
        "open(sys.argv[1], 'w').write(hashlib.sha256(data).hexdigest())\n"
    )
    screen = Screen()
    digest = tmp_path / "digest"

    process = await start(screen, sys.executable, "-S", "-c", code, str(digest))
    with anyio.fail_after(60):
        await process.wait()

    assert hashlib.sha256(screen.seen).hexdigest() == digest.read_text()


async def test_the_last_words_of_a_short_program_arrive(way: str) -> None:
    """Output right before the exit is never lost, 100 times."""
    for number in range(100):
        screen = Screen()
        process = await start(screen, "echo", str(number))
        with anyio.fail_after(20):
            await process.wait()
        assert screen.seen.decode() == f"{number}\r\n"


async def test_a_background_child_does_not_keep_the_terminal(way: str) -> None:
    """The exit is told although a child holds the terminal, and stop ends that one too."""
    screen = Screen()
    process = await start(screen, "sh", "-c", "trap '' HUP; (trap '' HUP TERM; sleep 300) & echo up; exit 7")

    with anyio.fail_after(20):
        assert (await process.wait()).code == 7
        stopped = await process.stop(grace_seconds=0.2)

    assert stopped.ended >= 1


async def test_a_program_that_closes_its_terminal_for_a_moment_goes_on(way: str) -> None:
    """Nothing ends because nobody has the terminal open between two moments."""
    screen = Screen()
    code = (
        "import os, time; name = os.ttyname(0)\n"
        "for fd in (0, 1, 2): os.close(fd)\n"
        "time.sleep(0.1)\n"
        "fd = os.open(name, os.O_RDWR); os.write(fd, b'back'); time.sleep(300)\n"
    )
    process = await start(screen, sys.executable, "-S", "-c", code)

    await screen.shows(b"back")

    with anyio.fail_after(20):
        await process.stop(grace_seconds=5)


async def test_a_terminal_can_be_handed_over(way: str) -> None:
    """Who gets the descriptor adopts the program, reads on, types on, and ends it."""
    first, second = Screen(), Screen()
    process = await start(first, "sh", "-c", "echo up; while read x; do echo got:$x; done")
    await first.shows(b"up")
    assert process.terminal is not None
    terminal = os.dup(process.terminal)
    process.release()

    adopted = await adopt(process.identity, tag="test/pty", output=terminal, on_output=second)
    await adopted.write(b"more\n")
    await second.shows(b"got:more")
    adopted.resize(Size(columns=90, rows=30))

    with anyio.fail_after(20):
        assert (await adopted.stop(grace_seconds=5)).needed == "term"
    assert not process.identity.alive()
    os.waitpid(process.pid, 0)


async def test_a_missing_program_is_said_before_a_terminal_is_opened(way: str) -> None:
    """As without a terminal."""
    with pytest.raises(ProcessError, match='"no-such-x" not found'):
        await spawn(Spec(argv=("no-such-x",), tag="test/pty", pty=Size()))
    with pytest.raises(ProcessError, match="not both"):
        await spawn(Spec(argv=("true",), tag="test/pty", pty=Size(), output=Path("/tmp/x")))


async def test_a_hung_up_terminal_ends_its_program() -> None:
    """An owner that lets go hangs up, as the end of a connection does."""
    screen = Screen()
    process = await start(screen, "sh", "-c", "echo up; exec sleep 300")
    await screen.shows(b"up")

    process.release()

    with anyio.fail_after(20):
        _, status = await anyio.to_thread.run_sync(os.waitpid, process.pid, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGHUP
