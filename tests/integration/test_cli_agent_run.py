"""`harness run <agent>` as a person or a script types it: what is printed, exit codes, the foreground, mistakes."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from harness.sessions import facts

if TYPE_CHECKING:
    from tests.conftest import Hosted

SOURCE = str(Path(facts.__file__).parents[2])


@pytest.fixture
async def world(hosted: Hosted) -> AsyncIterator[Hosted]:
    """A home whose sessions are ended afterwards, whoever has started them."""
    yield hosted
    for row in await hosted.sessions.list():
        await hosted.sessions.stop(row.key, by="test", kill=True)
        async with asyncio.timeout(hosted.PATIENCE_SECONDS):
            await hosted.sessions.ended(row.key)


class Terminal:
    """`harness run …` at a terminal of its own."""

    def __init__(self, world: Hosted, *words: str, rows: int = 33, columns: int = 101) -> None:
        argv = [sys.executable, "-m", "harness", "run", *words]
        environment = {**os.environ, "HARNESS_HOME": str(world.home), "PYTHONPATH": SOURCE, "TERM": "xterm"}
        ours, theirs = pty.openpty()
        fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.process = subprocess.Popen(
            ["setsid", "-c", *argv], env=environment, cwd=world.root, stdin=theirs, stdout=theirs, stderr=theirs
        )
        os.close(theirs)
        self.ours, self.seen = ours, b""

    async def sees(self, text: bytes) -> None:
        """Wait until this was shown."""
        await asyncio.to_thread(self._read, text)
        assert text in self.seen

    def _read(self, until: bytes | None) -> None:
        deadline = time.monotonic() + 30
        while (until is None or until not in self.seen) and time.monotonic() < deadline:
            if not select.select([self.ours], [], [], 0.5)[0]:
                continue
            try:
                data = os.read(self.ours, 65536)
            except OSError:  # nobody holds the other side any more
                return
            if not data:
                return
            self.seen += data

    def type(self, keys: bytes) -> None:
        os.write(self.ours, keys)

    async def code(self) -> int:
        """Its exit code, once it has ended."""
        await asyncio.to_thread(self._read, None)
        code = await asyncio.to_thread(self.process.wait, 30)
        os.close(self.ours)
        return code


# -- in the background


async def test_a_detached_start_prints_one_json_line(world: Hosted) -> None:
    """All that a script needs to go on, on stdout, and nothing else; the session is registered by then."""
    code, out, err = await world.command("run", "--id", "w1", "sleep", "--detach", "--", "1000")

    told = json.loads(out)
    assert (code, err, out.count("\n")) == (0, "", 1)
    assert {"ok", "id", "cli", "pid", "host_pid", "mode", "log", "output_log_path"} <= told.keys()
    assert (told["ok"], told["id"], told["cli"], told["mode"]) == (True, "w1", "sleep", "headless")
    assert Path(told["log"]).exists()
    assert (await world.sessions.row("w1")).pid == told["pid"]


async def test_an_agent_started_in_the_background_of_a_script_hears_all_signals(world: Hosted) -> None:
    """A shell without job control lets what it starts there ignore Ctrl-C, and nothing would end by it ever after."""
    script = 'trap "" INT QUIT HUP; exec "$0" -m harness run --detach --id w1 --mode once -- sleep 1000'
    done = subprocess.run(
        ["sh", "-c", script, sys.executable], env={**os.environ, "HARNESS_HOME": str(world.home)}, capture_output=True,
        timeout=60, check=True,
    )  # fmt: skip
    status = Path(f"/proc/{json.loads(done.stdout)['pid']}/status").read_text().splitlines()

    ignored = next(int(line.split()[1], 16) for line in status if line.startswith("SigIgn"))
    assert [name for name in ("SIGINT", "SIGQUIT", "SIGHUP", "SIGTERM") if ignored >> (getattr(signal, name) - 1) & 1] == []


async def test_the_home_may_be_named_before_the_command(world: Hosted) -> None:
    """As with every other command."""
    code, out, err = await world.command("--home", str(world.home), "run", "sleep", "--id", "w1", "--detach", "--", "1000")

    assert (code, err) == (0, "")
    assert json.loads(out)["id"] == "w1"


async def test_a_missing_program_is_said_in_one_line(world: Hosted) -> None:
    """In the words that name it, with exit code 1, in the foreground and in the background."""
    for how in ((), ("--detach",)):
        told = await world.command("run", "no-such-program", *how)
        assert told == (1, "", 'harness: "no-such-program" not found — is it installed and on your PATH?\n')


async def test_a_live_id_is_refused_naming_its_pid(world: Hosted) -> None:
    """The first one goes on."""
    _, out, _ = await world.command("run", "sleep", "--id", "w1", "--detach", "--", "1000")

    code, again, err = await world.command("run", "sleep", "--id", "w1", "--detach", "--", "1000")

    assert (code, again, err.count("\n")) == (1, "", 1)
    assert f"pid {json.loads(out)['pid']}" in err
    assert [row.id for row in await world.sessions.list()] == ["w1"]


async def test_an_agent_that_dies_at_once_is_told_with_its_code_and_last_words(world: Hosted) -> None:
    """A script finds them in the JSON line, a person on stderr; nothing is left under the id."""
    code, out, err = await world.command("run", "sh", "--id", "w1", "--detach", "--", "-c", "echo no key; exit 5")

    told = json.loads(out)
    assert code == 1
    assert (told["ok"], told["code"], told["tail"]) == (False, 5, "no key")
    assert err == "harness: sh ended at once with exit code 5: no key\n"
    assert await world.sessions.list() == []


async def test_a_start_that_takes_too_long_is_124_and_leaves_nothing(world: Hosted) -> None:
    """A script can tell a slow machine from a broken agent."""
    code, out, err = await world.command("run", "sleep", "--id", "w1", "--timeout", "0.001s", "--detach", "--", "1000")

    assert (code, out) == (124, "")
    assert err == "harness: no session was registered within 0.001 s; what was started is ended\n"
    assert await world.sessions.list() == []


# -- in the foreground


async def test_at_a_terminal_the_agent_has_it_with_its_size_and_its_code(world: Hosted) -> None:
    """What is typed reaches it, and the exit code is its own."""
    terminal = Terminal(world, "sh", "--id", "w1", "--", "-c", "stty size; read line; echo got $line; exit 7")

    await terminal.sees(b"33 101")
    terminal.type(b"hello\r")

    await terminal.sees(b"got hello")
    assert await terminal.code() == 7


async def test_ctrl_c_is_the_agents_and_two_ctrl_brackets_are_ours(world: Hosted) -> None:
    """The first is a key like any other; the others leave a session that goes on."""
    script = "trap 'echo interrupted' INT; echo ready; while :; do sleep 0.1; done"
    terminal = Terminal(world, "sh", "--id", "w1", "--", "-c", script)
    await terminal.sees(b"ready")

    terminal.type(b"\x03")
    await terminal.sees(b"interrupted")
    terminal.type(b"\x1d\x1d")

    assert await terminal.code() == 0
    assert b"harness attach --id w1" in terminal.seen
    assert (await world.sessions.row("w1")).live


async def test_a_session_outlives_its_terminal(world: Hosted) -> None:
    """A window that is closed ends what shows the agent, not the agent."""
    terminal = Terminal(world, "cat", "--id", "w1")
    terminal.type(b"hello\r")
    await terminal.sees(b"hello\r\nhello")

    os.close(terminal.ours)
    await asyncio.to_thread(terminal.process.wait, 30)

    row = await world.sessions.row("w1")
    assert (row.live, row.state != "lost") == (True, True)


async def test_a_signal_is_told_as_a_shell_does_and_leftovers_hold_nothing_up(world: Hosted) -> None:
    """128 and its number; a child that holds the terminal changes neither the code nor its time."""
    killed = await Terminal(world, "sh", "--id", "w1", "--", "-c", "sleep 0.3; kill -9 $$").code()
    began = time.monotonic()
    held = await Terminal(world, "sh", "--id", "w1", "--", "-c", "sleep 100 & sleep 0.3; exit 7").code()

    assert (killed, held) == (137, 7)
    assert time.monotonic() - began < 30


async def test_a_lost_session_is_said(world: Hosted) -> None:
    """Whoever looks on when the host is killed is told so, and gets 1."""
    terminal = Terminal(world, "cat", "--id", "w1")
    terminal.type(b"hello\r")
    await terminal.sees(b"hello\r\nhello")
    claimed = (await world.sessions.get("w1")).claimed
    assert claimed is not None

    os.kill(claimed.host_pid, signal.SIGKILL)

    assert await terminal.code() == 1
    assert b"harness: session 'w1' is lost" in terminal.seen


async def test_without_a_terminal_its_output_and_input_are_ours(world: Hosted) -> None:
    """As in a pipe."""
    code, out, err = await world.command("run", "cat", stdin=b"hello\n\x04")

    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == "hello"


@pytest.mark.parametrize("code", [0, 3])
async def test_all_of_a_quick_commands_output_is_ours(world: Hosted, code: int) -> None:
    """However much it wrote before anybody could look, and however it ended."""
    _, out, _ = await world.command("run", "sh", "--", "-c", f"seq 20000; exit {code}", stdin=b"")

    assert out.split() == [str(number) for number in range(1, 20001)]


async def start_in_a_pipe(world: Hosted, *words: str) -> asyncio.subprocess.Process:
    """`harness run …` whose output nobody reads yet."""
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "harness", "run", *words, env={**os.environ, "HARNESS_HOME": str(world.home)}, cwd=world.root,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, limit=4096,
    )  # fmt: skip


async def test_a_slow_reader_gets_everything(world: Hosted) -> None:
    """It holds up neither the command nor its host, and reads on when both have gone."""
    run = await start_in_a_pipe(world, "--id", "w1", "sh", "--", "-c", "sleep 0.3; seq 300000; exit 3")
    async with asyncio.timeout(60):
        while not (rows := await world.sessions.list(live=False)):
            await asyncio.sleep(0.05)
        while Path(f"/proc/{(await world.sessions.get(rows[0].key)).claimed.host_pid}").exists():  # pyright: ignore[reportOptionalMemberAccess]
            await asyncio.sleep(0.05)
        out, err = await run.communicate()

    assert (run.returncode, err) == (3, b"")
    assert out.split() == [b"%d" % number for number in range(1, 300_001)]


async def test_what_was_rotated_away_before_it_was_read_is_said(world: Hosted) -> None:
    """Bytes that are kept nowhere cannot be shown; how many there are can."""
    (world.root / "harness.toml").write_text("[sessions]\ntranscript_megabytes = 1\ntranscript_files = 1\n")
    run = await start_in_a_pipe(world, "--id", "w1", "sh", "--", "-c", "sleep 0.3; seq 1000000")
    async with asyncio.timeout(60):
        while not await world.sessions.list(live=False):
            await asyncio.sleep(0.05)
        out, err = await run.communicate()

    skipped = int(err.split()[1])
    assert skipped > 1 << 20
    assert err.decode() == f"harness: {skipped} bytes were not shown: they were rotated away before they were read\n"
    assert skipped + len(out) == sum(len(f"{number}\r\n") for number in range(1, 1_000_001))
    assert out.endswith(b"\r\n1000000\r\n")


@pytest.mark.parametrize(("given", "lines"), [(b"one\ntwo\n", ["one", "two"]), (b"one\ntwo", ["one", "two"]), (b"", [])])
async def test_the_end_of_the_input_is_the_end_of_the_commands(world: Hosted, given: bytes, lines: list[str]) -> None:
    """As in a pipe, or from a file; also in the middle of a line."""
    file = world.root / "input"
    file.write_bytes(given)
    script = "sed 's/^/got /'; exit 4"
    words = [sys.executable, "-m", "harness", "run", "sh", "--", "-c", script]
    environment = {**os.environ, "HARNESS_HOME": str(world.home)}
    with file.open("rb") as stdin:
        from_file = await asyncio.to_thread(
            subprocess.run, words, stdin=stdin, env=environment, cwd=world.root, capture_output=True, timeout=30
        )
    in_pipe = await world.command(*words[3:], stdin=given)

    for code, out in ((from_file.returncode, from_file.stdout.decode()), in_pipe[:2]):
        assert code == 4
        assert [line.split("got ")[1] for line in out.splitlines() if "got " in line] == lines


@pytest.mark.parametrize("script", ["stty -echo; wc -c", "stty -echo; sleep 1; wc -c"])
async def test_however_much_is_typed_all_of_it_comes(world: Hosted, script: str) -> None:
    """More than anything between us holds, to a program that reads at once or later; then its input ends."""
    line = b"x" * 99 + b"\n"
    code, out, err = await world.command("run", "sh", "--", "-c", script, stdin=line * 40_000)

    assert (code, err) == (0, "")
    assert int(out.split()[-1]) == 4_000_000


@pytest.mark.parametrize("end", [b"\n", b""])
@pytest.mark.parametrize(
    ("words", "given"),
    [
        (("bash", "--", "--norc"), b"echo hi-$((40+2))"),
        ((sys.executable,), b"print('hi-%d' % 42)"),
        (("bash", "--", "--norc"), b"cat"),
    ],
)
async def test_what_was_typed_ahead_is_done_before_the_input_ends(
    world: Hosted, words: tuple[str, ...], given: bytes, end: bytes
) -> None:
    """Also by programs that edit lines, and by what they start: whoever reads on is told that there is no more."""
    code, out, err = await world.command("run", *words, stdin=given + end)

    assert (code, err) == (0, "")
    assert given == b"cat" or "hi-42" in out


async def test_a_run_without_standard_input_or_output_is_one_without_a_terminal(world: Hosted) -> None:
    """Closed by whoever starts it, as daemons do."""
    script = 'exec "$0" -m harness run --id w1 sh -- -c "echo said; exit 3" <&- >&-'
    done = subprocess.run(
        ["sh", "-c", script, sys.executable], env={**os.environ, "HARNESS_HOME": str(world.home)}, capture_output=True,
        timeout=60, check=False,
    )  # fmt: skip

    assert (done.returncode, done.stderr) == (3, b"")


# -- mistakes


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["sleep", "--id", "../../x", "--detach"], "letters, digits"),
        (["sleep", "--id", "", "--detach"], "--id needs a value"),
        (["sleep", "1000", "--id"], "--id needs a value"),
        (["--id", "w1", "--detach"], "none is named"),
        (["sleep", "--watch", "--detach"], "cannot be combined with --detach"),
        (["sleep", "--preset", "impl"], "belongs to --watch"),
        (["sleep", "--stall-after", "8m"], "belongs to --watch"),
        (["sleep", "--max-resumes", "1"], "belongs to --watch"),
        (["sleep", "--watch", "--preset", "nope"], "impl, plan, gate"),
        (["sleep", "--watch", "--stall-after", "soon"], "--stall-after takes a time"),
        (["sleep", "--watch", "--max-resumes", "-1"], "--max-resumes takes a whole number"),
        (["sleep", "--meta", "{bad"], "--meta takes JSON"),
        (["sleep", "--mode", "nope"], "pty, stream, app-server, once"),
        (["sleep", "--max-turns", "0"], "--max-turns takes a whole number from 1"),
        (["sleep", "--max-budget-usd", "nan"], "--max-budget-usd takes a number above 0"),
        (["sleep", "--max-wall", "0"], "--max-wall takes a time"),
        (["sleep", "--timeout", "-5"], "--timeout takes a time"),
        (["sleep", "--inbox-ttl", "0"], "--inbox-ttl takes a time"),
        (["sleep", "--port", "99999"], "--port takes a whole number"),
        (["sleep", "--host", "127.0.0.1"], "needs a --port"),
        (["sleep", "--watch-file", "/no/such/folder/x"], "there is no folder"),
    ],
)
async def test_a_mistake_is_2_says_what_would_be_right_and_starts_nothing(world: Hosted, words: list[str], says: str) -> None:
    """One line on stderr, nothing on stdout."""
    code, out, err = await world.command("run", *words)

    assert (code, out, err.count("\n")) == (2, "", 1)
    assert says in err
    assert err.endswith("Try: harness run --help\n")
    assert await world.sessions.list(live=None) == []


@pytest.mark.parametrize("text", ["[web\n", "[sesions]\n", "[sessions]\nkeep = 1\n"])
async def test_a_broken_settings_file_is_said_without_a_hint_at_the_command(world: Hosted, text: str) -> None:
    """The words were right, and no help of theirs would help."""
    file = world.home.parent / "harness.toml"
    file.write_text(text)

    code, out, err = await world.command("run", "sleep", "--detach", "--", "1000")

    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"harness: {file}:")
    assert "Try:" not in err
    assert await world.sessions.list(live=None) == []
