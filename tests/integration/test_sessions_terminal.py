"""Programs at a terminal of ours: shells and other line programs, and one with a composer, dialogs and a status of its own."""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.terminal_running import PATIENCE_SECONDS, Running

from harness.errors import NotFound, ProcessError, UsageError
from harness.processes import Exit, LogReader, RotatingLog, Size
from harness.sessions import facts
from harness.sessions.dialects.screens import load_rules
from harness.sessions.facts import Placing, Source, State
from harness.sessions.reports import ApprovalAsked, ApprovalSettled, Decision, Progress, Reading, Receipt
from harness.sessions.transports import process_table
from harness.sessions.transports.profiles import CLAUDE, CODEX, PLAIN, TerminalProfile, profile_of
from harness.sessions.transports.screen_watch import ScreenWatch
from harness.sessions.transports.terminal import TerminalSpec, TerminalTransport

PROGRAM = Path(__file__).with_name("terminal_program.py")
RULES = r"""
[composer]
kind = "box"
glyph = '\u276f ?'

[[titles]]
match = '^busy'
state = "busy"

[[rules]]
name = "permission"
region = "below"
all = ['Do you want to proceed', 'Esc to cancel']
state = "blocked"
detail = "permission"
confidence = 0.95
[rules.ask]
tool = "run"
subject = '^ (Run .*)$'
allow = "y"
deny = "n"

[[rules]]
name = "works"
region = "above:3"
all = ['^✻ Working…$']
state = "busy"
confidence = 0.9

[[rules]]
name = "composer"
region = "composer"
composer = true
state = "prompt"
confidence = 0.85
""".replace(r"'\u276f ?'", r'"\u276f ?"')

needs_system_calls = pytest.mark.skipif(
    not process_table.readable(), reason="this system does not tell what a process waits for"
)


Run = Callable[..., Awaitable[Running]]


@pytest.fixture
async def run(tmp_path: Path) -> AsyncIterator[Run]:
    """Starts a program at a terminal; all of them are ended with the test."""
    running: list[Running] = []

    async def start(*argv: str, profile: TerminalProfile = PLAIN, size: Size | None = None, **env: str) -> Running:
        folder = tmp_path / f"session-{len(running)}"
        folder.mkdir()
        spec = TerminalSpec(
            argv=argv, env={"PATH": os.environ["PATH"], "PS1": "$ ", "HOME": str(tmp_path), "TERM": "xterm-256color", **env},
            cwd=tmp_path, tag="test/terminal", size=size or Size(), folder=folder, profile=profile, home=tmp_path,
        )  # fmt: skip
        each = Running(TerminalTransport(spec, transcript=RotatingLog(folder / "transcript.log", max_bytes=64 << 20)), folder)
        await each.start()
        running.append(each)
        return each

    yield start
    for each in running:
        await each.process.stop(grace_seconds=0)
        await each.transport.close()
        await each.transport.close()


@pytest.fixture
def agent(run: Run, tmp_path: Path) -> Run:
    """Starts the program with a composer."""
    (tmp_path / "screens").mkdir()
    (tmp_path / "screens" / "fake.toml").write_text(RULES)

    async def start(*options: str, **how: Any) -> Running:
        journal = tmp_path / f"session-{how.pop('number', 0)}" / "journal"
        profile = how.pop("profile", None) or profile_of("fake", tmp_path)
        return await run(sys.executable, str(PROGRAM), str(journal), *options, profile=profile, **how)

    return start


# Line programs


@needs_system_calls
@pytest.mark.parametrize("shell", [("bash", "--norc"), ("sh",)], ids=["bash", "sh"])
async def test_a_shell_is_at_its_prompt_and_works_and_is_back(run: Run, shell: tuple[str, ...]) -> None:
    """What it works on is over when it waits for a line again."""
    program = await run(*shell)
    await program.prompt()

    await program.send("echo $((6 * 7)); sleep 0.3")
    await program.shows(b"42")
    await program.until(lambda: program.state(Source.PROCESS) is State.BUSY)
    await program.prompt()

    assert program.stages() == ["accepted"]
    states = [reading.state for reading in program.all(Reading)]
    assert all(before is not after for before, after in itertools.pairwise(states))


@needs_system_calls
async def test_a_fast_command_is_seen_to_work(run: Run) -> None:
    """However fast it is, the shell was busy between two prompts, or nobody would know that the message is done."""
    program = await run("bash", "--norc")
    await program.prompt()
    for number in range(5):
        before = len(program.reports)
        await program.send("true", f"m{number}")
        await program.reads(State.PROMPT, Source.PROCESS, since=before)

        kinds = [
            each.state if isinstance(each, Reading) else "receipt"
            for each in program.reports[before:]
            if not isinstance(each, Progress)
        ]
        assert kinds == ["receipt", State.BUSY, State.PROMPT]


@needs_system_calls
async def test_a_receipt_comes_when_the_program_has_read(run: Run) -> None:
    """Not sooner: one that sleeps has the line before it, and has not read it."""
    program = await run(
        sys.executable, "-c",
        "import os, sys, time\nprint('up', flush=True)\nwhile not os.path.exists('go'): time.sleep(0.01)\n"
        "print('got', sys.stdin.readline())\ntime.sleep(60)",
    )  # fmt: skip
    await program.shows(b"up")

    await program.send("a line")
    await program.shows(b"a line")  # its echo
    await asyncio.sleep(0.1)
    assert program.stages() == []
    assert program.process.input_waiting == len("a line\n")

    (program.folder.parent / "go").touch()
    await program.until(program.stages)
    await program.shows(b"got a line")
    assert program.process.input_waiting == 0


@needs_system_calls
async def test_a_silent_reader_gives_a_receipt_too(run: Run) -> None:
    """Without an echo, nothing but the bytes that wait says so."""
    program = await run("sh", "-c", "stty -echo; echo up; while read -r line; do :; done")
    await program.shows(b"up")

    await program.send("secret")
    await program.until(program.stages)

    assert b"secret" not in program.shown


async def test_several_lines_are_several_lines_to_cat(run: Run) -> None:
    """It knows no pastes: the lines arrive in order, and all of them."""
    program = await run("cat")

    await program.send("one\n\ttwo\nthree")
    await program.until(lambda: program.shown.count(b"three\r\n") == 2)

    assert program.shown.endswith(b"one\r\n\ttwo\r\nthree\r\n")


async def test_several_lines_are_one_paste_where_pastes_are_known(run: Run) -> None:
    """bash takes them into its line and runs them at Enter."""
    program = await run("bash", "--norc")
    await program.shows(b"\x1b[?2004h")
    await program.prompt()

    await program.send("echo a\necho b")
    await program.shows(b"a\r\nb\r\n")
    await program.until(program.stages)

    assert program.stages() == ["accepted"]


@pytest.mark.parametrize("text", ["\x03", "a\x1b[201~b", "\x1b[A", "x\ry", "\x7f", "\x9b31m", "nul\x00", "\x04"])
async def test_keys_are_no_text(run: Run, text: str) -> None:
    """Whoever sends control characters gets them back, and nothing is typed."""
    program = await run("cat")

    with pytest.raises(UsageError, match="control characters"):
        await program.send(text)
    await program.send("clean")
    await program.shows(b"clean\r\nclean")

    assert program.shown == b"clean\r\nclean\r\n"


@needs_system_calls
async def test_a_line_that_the_terminal_would_cut_is_refused(run: Run) -> None:
    """A terminal that hands over lines loses what is longer than 4095 bytes; one that does not takes any length."""
    program = await run("cat")
    with pytest.raises(UsageError, match="at most 4094 bytes"):
        await program.send("x" * 4095)
    await program.send("y" * 4094)
    await program.shows(b"y" * 4094 + b"\r\n" + b"y" * 4094)

    keys = await run(
        sys.executable,
        "-c",
        "import os, time, tty; tty.setraw(0); os.write(1, b'raw'); n = 0\n"
        "while n < 100_001: n += len(os.read(0, 9999))\n"
        "os.write(1, b' all'); time.sleep(60)",
    )
    await keys.shows(b"raw")
    await keys.send("z" * 100_000)
    await keys.shows(b"raw all")
    await keys.until(keys.stages)


@needs_system_calls
async def test_a_password_prompt_is_no_prompt(run: Run) -> None:
    """A message would be taken for a password."""
    program = await run("bash", "--norc", "-c", "read -rs password; echo got it")

    reading = await program.reads(State.BLOCKED, Source.PROCESS)

    assert reading.detail == "question"


@needs_system_calls
async def test_a_pager_in_front_of_a_shell_is_a_dialog(run: Run) -> None:
    """Its keys are commands, so no message is for it."""
    program = await run("bash", "--norc")
    await program.prompt()

    program.transport.keys(b"yes | head -500 | less\r")
    reading = await program.reads(State.BLOCKED, Source.PROCESS)
    program.transport.keys(b"q")
    await program.prompt()

    assert reading.detail == "dialog"


@needs_system_calls
async def test_an_interrupt_ends_what_runs_and_nothing_else(run: Run) -> None:
    """At the prompt there is nothing to interrupt."""
    program = await run("bash", "--norc")
    await program.prompt()
    assert not await program.transport.interrupt()

    await program.send("sleep 1000; echo not reached")
    await program.until(lambda: program.state(Source.PROCESS) is State.BUSY)
    await program.until(lambda: program.process.input_waiting == 0)
    await asyncio.sleep(0.1)
    assert await program.transport.interrupt()
    await program.prompt()

    assert b"\nnot reached" not in program.shown


async def test_no_exit_is_typed_into_a_command(run: Run) -> None:
    """`/exit` would be a command to bash: it is ended by a signal."""
    program = await run("bash", "--norc")

    assert not await program.transport.leave()
    assert not await program.transport.probe()
    with pytest.raises(NotFound):
        await program.transport.decide("r1", Decision(allow=True))


async def test_a_person_types_and_looks_on(run: Run) -> None:
    """Keys arrive in order; what is shown is what is in the transcript; the window changes."""
    program = await run("sh", size=Size(columns=90, rows=30))
    await program.shows(b"$ ")

    for key in "stty size\r":
        program.transport.keys(key.encode())
    await program.shows(b"30 90")
    program.transport.resize(Size(columns=70, rows=20))
    program.transport.keys(b"stty size\r")
    await program.shows(b"20 70")

    log = LogReader(program.folder / "transcript.log")
    assert log.read(0, 1 << 20).data == program.shown


async def test_own_keys_are_no_progress(run: Run) -> None:
    """The echo of what was typed is not a sign of life."""
    program = await run("cat")
    program.transport.keys(b"typed\r")
    await program.shows(b"typed\r\ntyped")
    assert program.all(Progress) == []

    other = await run("sh", "-c", "sleep 0.3; echo late; sleep 60")
    await other.shows(b"late")
    assert other.all(Progress) != []


async def test_a_flood_passes_whole(run: Run) -> None:
    """27 MB of it, titles among it, and the exit after it."""
    size, count = 90, 300_000
    program = await run("sh", "-c", f"seq -f %0{size - 2}.0f 1 {count}; printf '\\033]0;end\\007'")

    async with asyncio.timeout(2 * PATIENCE_SECONDS):
        assert await program.process.wait() == Exit(code=0, signal=None)

    assert len(program.shown) == size * count + len("\x1b]0;end\x07")
    log = LogReader(program.folder / "transcript.log")
    assert log.end == len(program.shown)


async def test_a_program_that_cannot_be_started_leaves_nothing(run: Run, tmp_path: Path) -> None:
    """Neither processes nor hooks."""
    with pytest.raises(ProcessError, match="not found"):
        await run("no-such-program", profile=CLAUDE)

    assert list((tmp_path / "session-0" / "hooks").iterdir()) == []


async def test_nothing_is_delivered_to_what_has_exited(run: Run) -> None:
    """It says so, and so does whatever else is asked of it."""
    program = await run("true")
    await program.process.wait()

    with pytest.raises(ProcessError):
        await program.send("hello")
    assert not await program.transport.interrupt()
    assert not await program.transport.leave()
    program.transport.keys(b"x")


# A program with a composer


async def test_a_message_arrives_as_one(agent: Run) -> None:
    """All its lines in one prompt, and its turn from beginning to end."""
    program = await agent()
    await program.prompt(Source.SCREEN)

    await program.send("one\n\ttwo\n\nfour ─ \u276f end")
    await program.until(lambda: program.all(facts.TurnCompleted))

    assert program.prompts() == ["one\n    two\n\nfour ─ \u276f end"]
    assert program.stages() == ["accepted"]
    assert program.all(facts.TurnStarted)[0].message_ids == ("m1",)
    assert program.all(facts.TurnCompleted)[0].message_ids == ("m1",)


async def test_without_pastes_a_line_arrives_all_the_same(agent: Run) -> None:
    """What was not asked for is not sent: no brackets."""
    program = await agent("--no-paste")
    await program.prompt(Source.SCREEN)

    await program.send("one line")
    await program.until(program.stages)

    assert program.prompts() == ["one line"]


@pytest.mark.parametrize("status", [(), ("--status",)], ids=["screen", "status"])
async def test_a_swallowed_enter_is_pressed_again(agent: Run, status: tuple[str, ...]) -> None:
    """Enter alone: the text is there once."""
    program = await agent("--swallow", "2", *status)
    await program.prompt(Source.SCREEN)

    await program.send("only once")
    await program.until(program.stages)

    assert program.journal() == [{"swallowed": "only once"}, {"swallowed": "only once"}, {"prompt": "only once"}]


async def test_a_program_that_never_takes_enter_is_reported(agent: Run) -> None:
    """And the text is not typed a second time."""
    program = await agent("--deaf")
    await program.prompt(Source.SCREEN)

    with pytest.raises(ProcessError, match="does not take Enter"):
        await program.send("never")

    assert {each["swallowed"] for each in program.journal()} == {"never"}
    assert program.stages() == []


async def test_nothing_is_typed_into_a_dialog(agent: Run) -> None:
    """Not a letter of it."""
    program = await agent("--ask-first")
    await program.reads(State.BLOCKED, Source.SCREEN)

    with pytest.raises(UsageError, match="asks something now"):
        await program.send("yes please")
    with pytest.raises(UsageError, match="asks something now"):
        await program.send("", only_submit=True)
    assert not await program.transport.leave()

    assert program.journal() == []


async def test_enter_is_not_pressed_into_a_dialog_that_opened_meanwhile(agent: Run) -> None:
    """Between text and Enter the screen is read again."""
    program = await agent("--ask-on", "trigger")
    await program.prompt(Source.SCREEN)

    with pytest.raises(ProcessError, match="Enter was not pressed"):
        await program.send("the trigger")

    assert program.journal() == []
    assert program.stages() == []


async def test_what_was_left_in_the_composer_goes_first(agent: Run) -> None:
    """However many lines it has; the message is not put behind it."""
    program = await agent("--leftover", "left\nover")
    await program.prompt(Source.SCREEN)

    await program.send("mine")
    await program.until(program.stages)

    assert program.prompts() == ["mine"]


async def test_text_is_put_into_the_composer_and_submitted_later(agent: Run) -> None:
    """As two messages."""
    program = await agent()
    await program.prompt(Source.SCREEN)

    await program.send("written", submit=False)
    assert program.stages() == ["done"]
    assert program.prompts() == []

    await program.send("", "m2", only_submit=True)
    await program.until(lambda: program.stages("m2"))
    assert program.prompts() == ["written"]


async def test_a_command_of_its_own_is_done_without_a_turn(agent: Run) -> None:
    """Nobody waits for a turn that never begins."""
    program = await agent()
    await program.prompt(Source.SCREEN)

    await program.send("/clear")

    assert program.stages() == ["accepted", "done"]
    assert program.all(facts.TurnStarted) == []


async def test_a_dialog_is_answered_by_keys_once(agent: Run) -> None:
    """Where there is nothing better; a second answer finds nobody."""
    program = await agent("--asks")
    await program.prompt(Source.SCREEN)
    await program.send("do it")
    await program.until(lambda: program.all(ApprovalAsked))
    (asked,) = program.all(ApprovalAsked)

    await program.transport.decide(asked.request, Decision(allow=True))
    await program.until(lambda: {"key": "y"} in program.journal())

    assert (asked.tool, asked.arguments) == ("run", {"command": "Run this?"})
    with pytest.raises(NotFound):
        await program.transport.decide(asked.request, Decision(allow=False))
    assert program.all(ApprovalSettled) == []


async def test_a_dialog_that_a_person_answered_is_settled(agent: Run) -> None:
    """And keys for it are pressed no more."""
    program = await agent("--asks")
    await program.prompt(Source.SCREEN)
    await program.send("do it")
    await program.until(lambda: program.all(ApprovalAsked))
    (asked,) = program.all(ApprovalAsked)

    program.transport.keys(b"n")
    await program.until(lambda: program.all(ApprovalSettled))

    with pytest.raises(NotFound):
        await program.transport.decide(asked.request, Decision(allow=True))
    assert [each["key"] for each in program.journal() if "key" in each] == ["n"]


async def test_a_dialog_that_has_just_gone_is_not_answered(agent: Run) -> None:
    """It is read again right before the key is typed, which would be a letter of a message now."""
    program = await agent("--asks")
    await program.prompt(Source.SCREEN)
    await program.send("do it")
    await program.until(lambda: program.all(ApprovalAsked))

    program.transport.keys(b"n")
    await program.until(lambda: {"key": "n"} in program.journal())
    with pytest.raises(NotFound):
        await program.transport.decide(program.all(ApprovalAsked)[0].request, Decision(allow=True))


async def test_a_status_is_asked_for_and_believed(agent: Run) -> None:
    """The question is answered, and what the program says of itself is a protocol's word."""
    program = await agent("--status", "--works", "0.5")
    await program.prompt(Source.PROTOCOL)

    await program.send("work")
    await program.reads(State.BUSY, Source.PROTOCOL)
    await program.until(lambda: program.all(facts.TurnCompleted))
    await program.prompt(Source.PROTOCOL)

    assert program.all(Receipt)[0].proof == "status: working"
    assert program.all(facts.TurnCompleted)[0].outcome == "success"


async def test_a_dialog_without_a_status_is_seen_on_the_screen(agent: Run) -> None:
    """The program calls itself idle, and there is a dialog: it is not at its prompt."""
    program = await agent("--status", "--ask-on", "open")
    await program.prompt(Source.PROTOCOL)

    program.transport.keys(b"open")
    reading = await program.reads(State.BLOCKED, Source.PROTOCOL)

    assert reading.detail == "permission"


async def test_a_turn_is_interrupted_and_then_there_is_none(agent: Run) -> None:
    """Esc ends it; at the prompt Esc is not pressed, since it means something else there."""
    program = await agent("--status", "--works", "1000")
    await program.prompt(Source.PROTOCOL)
    assert not await program.transport.interrupt()
    await program.send("work")
    await program.reads(State.BUSY, Source.SCREEN)

    assert await program.transport.interrupt()
    await program.until(lambda: program.all(facts.TurnCompleted))

    (ended,) = program.all(facts.TurnCompleted)
    assert (ended.outcome, ended.message_ids) == ("interrupted", ("m1",))


async def test_a_busy_program_is_steered(agent: Run) -> None:
    """What is sent into a turn belongs to it."""
    program = await agent("--works", "2")
    await program.prompt(Source.SCREEN)
    await program.send("first")
    await program.reads(State.BUSY, Source.SCREEN)

    await program.send("second", "m2", placing=Placing.STEER)
    await program.until(lambda: program.all(facts.TurnCompleted))

    assert program.prompts() == ["first", "second"]
    assert program.all(facts.TurnCompleted)[0].message_ids == ("m1", "m2")


async def test_a_program_is_left_in_its_own_way(agent: Run) -> None:
    """Only from its idle prompt."""
    profile = TerminalProfile(name="fake", rules="fake", leave=(b"/exit", b"\r"), clear=b"\x15", can=CODEX.can)
    program = await agent("--works", "1000", profile=profile)
    await program.prompt(Source.SCREEN)
    await program.send("work")
    await program.reads(State.BUSY, Source.SCREEN)
    assert not await program.transport.leave()

    idle = await agent("--leftover", "text", profile=profile, number=1)
    await idle.prompt(Source.SCREEN)
    assert await idle.transport.leave()

    async with asyncio.timeout(PATIENCE_SECONDS):
        assert await idle.process.wait() == Exit(code=0, signal=None)


async def test_a_title_is_read(agent: Run) -> None:
    """It says busy as long as it says so."""
    program = await agent("--leftover", "\x1b]0;busy\x07")
    await program.reads(State.BUSY, Source.TITLE)


async def test_a_flood_on_the_screen_is_survived(run: Run, agent: Run, tmp_path: Path) -> None:
    """Megabytes of text, and then the program paints its window anew: what it shows then is believed."""
    await agent()
    flood = "import sys; [print('x' * 100) for _ in range(40_000)]; sys.argv = ['x', 'journal']; import runpy; "
    script = f"{flood}runpy.run_path({str(PROGRAM)!r}, run_name='__main__')"
    program = await run(sys.executable, "-c", script, profile=profile_of("fake", tmp_path))

    await program.prompt(Source.SCREEN)
    reading = next(each for each in reversed(program.all(Reading)) if each.source is Source.SCREEN)

    assert reading.confidence == 0.85


async def test_the_end_of_a_flood_is_seen_and_not_quite_believed(tmp_path: Path) -> None:
    """What stood there before it is lost, so that nobody is sure before all is painted anew."""
    (tmp_path / "screens").mkdir()
    (tmp_path / "screens" / "fake.toml").write_text(RULES)
    watch = ScreenWatch(load_rules("fake", tmp_path), Size(columns=40, rows=6), lambda _look: None)
    box = f"\x1b[3;1H{'─' * 40}\x1b[4;1H\u276f text\x1b[5;1H{'─' * 40}\x1b[4;7H".encode()
    try:
        watch.feed(b"\x1b[1;1Hflood" * 30_000 + box)
        half = await watch.look()
        watch.feed(b"\x1b[2J" + box)
        whole = await watch.look()
    finally:
        watch.close()

    assert [look.reading.state for look in (half, whole)] == [State.PROMPT, State.PROMPT]
    assert half.reading.confidence == 0.3
    assert whole.reading.confidence == 0.85


async def test_a_probe_makes_it_paint(agent: Run) -> None:
    """A living program answers a window that changes its size; this one is asked at least."""
    program = await agent()
    await program.prompt(Source.SCREEN)

    assert await program.transport.probe()


def test_profiles_are_found_by_name(tmp_path: Path) -> None:
    """A user's rules make a program known; anything else is a command."""
    (tmp_path / "screens").mkdir()
    (tmp_path / "screens" / "gemini.toml").write_text(RULES)

    assert profile_of("claude") is CLAUDE
    assert profile_of("codex") is CODEX
    assert profile_of("gemini", tmp_path).rules == "gemini"
    assert profile_of("gemini").rules == profile_of("bash").rules
    assert profile_of("shell").rules == profile_of("bash").rules
