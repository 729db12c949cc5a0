"""The rehearsed agents do what their flags say: each fault really happens, seen from outside through pipes and a terminal."""

# ruff: noqa: RUF001 - the signs are those that the programs show

from __future__ import annotations

import contextlib
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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.sessions import facts
from harness.sessions.dialects.claude_stream import ClaudeStream
from harness.sessions.dialects.codex.options import ThreadOptions
from harness.sessions.dialects.codex.server import CodexServer
from harness.sessions.rehearsal import flags
from harness.sessions.rehearsal.catalogue import REHEARSALS, install
from harness.sessions.reports import ApprovalAsked, Decision, Outgoing, Reading

PATIENCE = 20.0
MEGABYTE = 1 << 20
STREAM = (
    "-p", "--input-format", "stream-json", "--output-format", "stream-json", "--verbose", "--permission-prompt-tool", "stdio",
    "--replay-user-messages",
)  # fmt: skip

Line = dict[str, Any]


def command(program: str, *words: object) -> list[str]:
    return [sys.executable, "-m", f"harness.sessions.rehearsal.{program}", *map(str, words)]


def lines_of(journal: Path, event: str) -> list[Line]:
    """What the journal has of one kind."""
    told = [json.loads(line) for line in journal.read_text().splitlines()] if journal.exists() else []
    return [line for line in told if line["event"] == event]


def until(true: Callable[[], object], what: str) -> Any:
    """Wait for a condition that only another process can make true."""
    deadline = time.monotonic() + PATIENCE
    while not (value := true()):
        assert time.monotonic() < deadline, f"waited {PATIENCE:g} s for {what}"
        time.sleep(0.005)
    return value


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Program:
    """One running agent on pipes that speaks lines of JSON."""

    def __init__(self, program: str, *words: object, env: dict[str, str] | None = None) -> None:
        environment = {**os.environ, "CLAUDE_CODE_EMIT_SESSION_STATE_EVENTS": "1", **(env or {})}
        self.process = subprocess.Popen(
            command(program, *words), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
        )
        self.held = b""

    def say(self, line: Line) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(line).encode() + b"\n")
        self.process.stdin.flush()

    def user(self, text: str, id_: str = "u1") -> None:
        self.say({"type": "user", "uuid": id_, "message": {"role": "user", "content": text}})

    def read(self, seconds: float = PATIENCE) -> bytes:
        """Some output; empty at its end. Fails if there is none in time."""
        assert self.process.stdout is not None
        ready = select.select([self.process.stdout], [], [], seconds)[0]
        assert ready, f"no output for {seconds:g} s, after {self.held[-200:]!r}"
        return os.read(self.process.stdout.fileno(), 1 << 20)

    def silent(self, seconds: float) -> bool:
        """Whether nothing at all comes for so long."""
        return not self.held and not select.select([self.process.stdout], [], [], seconds)[0]

    def lines(self) -> Iterator[Line]:
        """Its lines until its output ends."""
        while True:
            while b"\n" not in self.held:
                data = self.read()
                if not data:
                    return
                self.held += data
            line, _, self.held = self.held.partition(b"\n")
            yield json.loads(line)

    def to(self, wanted: Callable[[Line], bool]) -> list[Line]:
        """The lines up to the first that is wanted."""
        seen: list[Line] = []
        for line in self.lines():
            seen.append(line)
            if wanted(line):
                return seen
        raise AssertionError(f"the output ended before what was waited for, after {seen[-3:]}")

    def end(self) -> int:
        """Close its input and wait; gives the exit code."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.process.wait(PATIENCE)

    def close(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):
                stream.close()


class Screen:
    """One running agent in a terminal of its own."""

    def __init__(self, *words: object, program: str = "terminal") -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        self.process = subprocess.Popen(
            command(program, *words), stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )  # fmt: skip
        os.close(slave)
        self.seen = ""

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def to(self, text: str) -> str:
        """What is printed up to this text, which is taken out of what is seen."""
        deadline = time.monotonic() + PATIENCE
        while text not in self.seen:
            left = deadline - time.monotonic()
            assert left > 0, f"{text!r} did not come, but {self.seen[-500:]!r}"
            assert select.select([self.master], [], [], left)[0], f"{text!r} did not come, but {self.seen[-500:]!r}"
            self.seen += os.read(self.master, 65536).decode("utf-8", "replace")
        before, _, self.seen = self.seen.partition(text)
        return before + text

    def close(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE)
        os.close(self.master)


@pytest.fixture
def start() -> Iterator[Callable[..., Program]]:
    """Starts programs on pipes, which end with the test."""
    programs: list[Program] = []

    def begin(program: str, *words: object, **more: Any) -> Program:
        programs.append(Program(program, *words, **more))
        return programs[-1]

    yield begin
    for program in programs:
        program.close()


@pytest.fixture
def show() -> Iterator[Callable[..., Screen]]:
    """Starts programs in terminals, which end with the test."""
    screens: list[Screen] = []

    def begin(*words: object, **more: Any) -> Screen:
        screens.append(Screen(*words, **more))
        return screens[-1]

    yield begin
    for screen in screens:
        screen.close()


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Path]:
    """A journal; children that it names are ended with the test."""
    path = tmp_path / "journal"
    yield path
    for line in (*lines_of(path, "child"), *lines_of(path, "stray")):
        with contextlib.suppress(ProcessLookupError):
            os.kill(line["child"], signal.SIGKILL)


def idle(line: Line) -> bool:
    return line.get("subtype") == "session_state_changed" and line.get("state") == "idle"


def a_result(line: Line) -> bool:
    return line.get("type") == "result"


def kinds(lines: list[Line]) -> list[str]:
    """The lines' types, as they are told apart."""
    names: list[str] = []
    for line in lines:
        detail = line.get("subtype") if line["type"] != "result" else None
        names.append(" ".join(filter(None, (line["type"], detail, line.get("state")))))
    return names


# -- Claude Code


@pytest.mark.parametrize("program", ["terminal", "claude", "codex"])
def test_starting_loads_little(program: str) -> None:
    """None of them loads what would cost more than the interpreter's own start."""
    code = f"import sys, harness.sessions.rehearsal.{program}; print(*sys.modules)"
    loaded = set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())
    dear = {"argparse", "asyncio", "dataclasses", "inspect", "msgspec", "pathlib", "uuid"}

    assert not loaded & (dear - {"pathlib"})
    assert "harness.errors" not in loaded


def test_a_turn_of_claude_has_the_order_of_the_wire(start: Callable[..., Program], journal: Path) -> None:
    """A message with a tool that needs permission goes through the states that the real program shows."""
    claude = start("claude", *STREAM, "--asks", "Bash", "--journal", journal)
    claude.say({"type": "control_request", "request_id": "r1", "request": {"subtype": "initialize", "hooks": None}})
    assert claude.to(lambda line: line["type"] == "control_response")[-1]["response"]["request_id"] == "r1"

    claude.user("fix it", "u-1")
    asked = claude.to(lambda line: line["type"] == "control_request")
    claude.say({
        "type": "control_response",
        "response": {"subtype": "success", "request_id": asked[-1]["request_id"], "response": {"behavior": "allow"}},
    })  # fmt: skip
    rest = claude.to(idle)

    assert kinds(asked) == [
        "system session_state_changed running", "command_lifecycle queued", "command_lifecycle started", "system init", "user",
        "assistant", "system session_state_changed requires_action", "control_request",
    ]  # fmt: skip
    assert kinds(rest) == [
        "control_response", "system session_state_changed running", "user", "assistant", "result",
        "command_lifecycle completed", "system session_state_changed idle",
    ]  # fmt: skip
    assert asked[4]["isReplay"]
    assert rest[4]["user_message_uuids"] == ["u-1"]
    assert claude.end() == 0
    assert [(line["id"], line["text"]) for line in lines_of(journal, "message")] == [("u-1", "fix it")]


def test_claude_denied_goes_on_without_the_tool(start: Callable[..., Program]) -> None:
    """A denial with its reason is the tool's result, and the turn has its end."""
    claude = start("claude", *STREAM, "--asks", "Bash")
    claude.user("fix it")
    asked = claude.to(lambda line: line["type"] == "control_request")[-1]
    answer = {"behavior": "deny", "message": "not on this branch"}
    claude.say({
        "type": "control_response",
        "response": {"subtype": "success", "request_id": asked["request_id"], "response": answer},
    })  # fmt: skip

    lines = claude.to(a_result)

    results = [line["message"]["content"][0] for line in lines if line["type"] == "user"]
    assert [(each["content"], each["is_error"]) for each in results] == [("not on this branch", True)]


def test_a_permission_is_asked_for_and_never_withdrawn(start: Callable[..., Program]) -> None:
    """Nothing comes after the request, and an answer to another one changes nothing."""
    claude = start("claude", *STREAM, "--asks", "Bash")
    claude.user("fix it")
    claude.to(lambda line: line["type"] == "control_request")

    claude.say({"type": "control_response", "response": {"subtype": "success", "request_id": "other", "response": {}}})

    assert claude.silent(0.3)


def test_a_permission_is_withdrawn_after_its_time(start: Callable[..., Program]) -> None:
    """The request is cancelled by its id, and the turn ends."""
    claude = start("claude", *STREAM, "--asks", "Bash", "--withdraws", 0.05)
    claude.user("fix it")

    asked = claude.to(lambda line: line["type"] == "control_request")[-1]
    lines = claude.to(a_result)

    cancelled = [line["request_id"] for line in lines if line["type"] == "control_cancel_request"]
    assert cancelled == [asked["request_id"]]


def test_claude_interrupted_says_so_and_takes_the_next_message(start: Callable[..., Program]) -> None:
    """A turn that would never end is ended by an interrupt; the message that waited comes next."""
    claude = start("claude", *STREAM, "--hangs")
    claude.user("first", "u1")
    claude.to(lambda line: line.get("subtype") == "init")
    claude.user("second", "u2")
    claude.say({"type": "control_request", "request_id": "r2", "request": {"subtype": "interrupt"}})

    lines = claude.to(idle)

    answer = next(line for line in lines if line["type"] == "control_response")
    assert answer["response"]["response"]["still_queued"] == ["u2"]
    assert [(line["subtype"], line["terminal_reason"]) for line in lines if a_result(line)] == [
        ("error_during_execution", "aborted_streaming"), ("success", "completed"),
    ]  # fmt: skip
    moves = [(line["command_uuid"], line["state"]) for line in lines if line["type"] == "command_lifecycle"]
    assert moves[-3:] == [("u1", "cancelled"), ("u2", "started"), ("u2", "completed")]


def test_claude_takes_a_queued_message_back(start: Callable[..., Program], journal: Path) -> None:
    """A message that is cancelled while it waits is never answered."""
    claude = start("claude", *STREAM, "--hangs", "--journal", journal)
    claude.user("first", "u1")
    claude.user("second", "u2")
    claude.say(
        {"type": "control_request", "request_id": "r1", "request": {"subtype": "cancel_async_message", "message_uuid": "u2"}}
    )
    answer = claude.to(lambda line: line["type"] == "control_response")[-1]
    claude.say({"type": "control_request", "request_id": "r2", "request": {"subtype": "interrupt"}})

    lines = claude.to(idle)

    assert answer["response"]["response"] == {"cancelled": True}
    assert len([line for line in lines if a_result(line)]) == 1


def test_claude_counts_over_all_its_processes(start: Callable[..., Program], tmp_path: Path) -> None:
    """Tokens and money are cumulative within a session and go on after a resume; other sessions are unknown."""
    session = "5f0f7c1e-0000-4000-a000-000000000001"
    store = ("--store", tmp_path / "store", "--usage", "100,10")
    first = start("claude", *STREAM, *store, "--session-id", session)
    totals: list[int] = []
    for id_ in ("u1", "u2"):
        first.user("go", id_)
        totals.append(first.to(a_result)[-1]["modelUsage"]["claude-rehearsal"]["inputTokens"])
    assert first.end() == 0

    again = start("claude", *STREAM, *store, "--resume", session)
    again.user("go", "u3")
    result = again.to(a_result)[-1]
    taken = start("claude", *STREAM, *store, "--session-id", session)
    unknown = start("claude", *STREAM, *store, "--resume", "5f0f7c1e-0000-4000-a000-00000000ffff")

    assert totals == [100, 200]
    assert (result["session_id"], result["modelUsage"]["claude-rehearsal"]["inputTokens"]) == (session, 300)
    assert result["total_cost_usd"] == pytest.approx(300 * 3e-6 + 30 * 15e-6)
    assert (taken.process.wait(PATIENCE), unknown.process.wait(PATIENCE)) == (1, 1)
    assert unknown.to(a_result)[-1]["errors"] == ["No conversation found with session ID: 5f0f7c1e-0000-4000-a000-00000000ffff"]


def test_it_crashes_when_it_is_resumed(start: Callable[..., Program]) -> None:
    """Only a resume fails, at once and with code 1."""
    resumed = start("claude", *STREAM, "--crashes-on-resume", "--resume", "s1")
    fresh = start("claude", *STREAM, "--crashes-on-resume", "--session-id", "s1")
    fresh.user("hello")

    assert resumed.process.wait(PATIENCE) == 1
    assert fresh.to(a_result)[-1]["subtype"] == "success"


@pytest.mark.parametrize(
    ("program", "words"),
    [("claude", ("-p", "say it", "--output-format", "stream-json")), ("codex", ("exec", "--json", "say it"))],
)
def test_one_shot_answers_and_ends(program: str, words: tuple[str, ...]) -> None:
    """One prompt as an argument, one answer, code 0."""
    done = subprocess.run(
        command(program, *words), stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE, check=False
    )

    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0
    assert "echo: say it" in json.dumps(told)
    assert told[-1]["type"] in ("turn.completed", "result")


def test_one_shot_with_a_result_does_not_end(start: Callable[..., Program]) -> None:
    """With `--lingers` the result is there, the input is over, and the process stays."""
    claude = start("claude", "-p", "go", "--output-format", "stream-json", "--lingers")
    claude.to(a_result)
    assert claude.process.stdin is not None
    claude.process.stdin.close()

    with pytest.raises(subprocess.TimeoutExpired):
        claude.process.wait(0.3)


# -- Codex


class Thread:
    """A codex with a thread."""

    def __init__(self, program: Program, *, resume: str = "") -> None:
        self.program = program
        self.number = 0
        self.request("initialize", clientInfo={"name": "test", "version": "1"})
        program.say({"method": "initialized"})
        opened = self.request("thread/resume", threadId=resume) if resume else self.request("thread/start", cwd="/")
        self.opened = opened
        self.id = opened["result"]["thread"]["id"] if "result" in opened else ""

    def request(self, method: str, **params: Any) -> Line:
        self.number += 1
        self.program.say({"id": self.number, "method": method, "params": params})
        return self.program.to(lambda line: line.get("id") == self.number and "method" not in line)[-1]

    def turn(self, text: str, id_: str = "m1") -> str:
        input_ = [{"type": "text", "text": text}]
        answer = self.request("turn/start", threadId=self.id, clientUserMessageId=id_, input=input_)
        return str(answer["result"]["turn"]["id"])


def turn_over(line: Line) -> bool:
    return line.get("method") == "turn/completed"


def test_a_turn_of_codex_has_the_order_of_the_wire(start: Callable[..., Program], journal: Path) -> None:
    """The receipt is the user's message with its client id; the thread is idle before the turn is over."""
    codex = Thread(start("codex", "app-server", "--journal", journal))
    turn = codex.turn("hello", "m-17")

    lines = codex.program.to(turn_over)

    assert [line["method"] for line in lines] == [
        "thread/started", "thread/status/changed", "turn/started", "item/started", "item/completed", "item/started",
        "item/agentMessage/delta", "item/completed", "thread/tokenUsage/updated", "thread/status/changed", "turn/completed",
    ]  # fmt: skip
    assert lines[4]["params"]["item"]["clientId"] == "m-17"
    assert lines[-1]["params"]["turn"]["id"] == turn
    assert codex.program.end() == 0
    assert [(line["id"], line["text"]) for line in lines_of(journal, "message")] == [("m-17", "hello")]


def test_codex_steers_into_its_turn_only(start: Callable[..., Program]) -> None:
    """A steer that expects another turn is refused; the right one joins, and an interrupt ends both."""
    codex = Thread(start("codex", "app-server", "--hangs"))
    turn = codex.turn("hello")
    steer = {"threadId": codex.id, "input": [{"type": "text", "text": "more"}], "clientUserMessageId": "m2"}

    wrong = codex.request("turn/steer", expectedTurnId="nope", **steer)
    right = codex.request("turn/steer", expectedTurnId=turn, **steer)
    joined = codex.program.to(lambda line: line.get("method") == "item/completed")
    ended = codex.request("turn/interrupt", threadId=codex.id, turnId=turn)
    over = codex.program.to(turn_over)[-1]
    late = codex.request("turn/interrupt", threadId=codex.id, turnId=turn)

    assert wrong["error"]["message"] == f"expected active turn id `nope` but found `{turn}`"
    assert right["result"] == {"turnId": turn}
    assert joined[-1]["params"]["item"]["clientId"] == "m2"
    assert (ended["result"], over["params"]["turn"]["status"]) == ({}, "interrupted")
    assert late["error"]["message"] == "no active turn to interrupt"


@pytest.mark.parametrize(("decision", "status"), [("accept", "completed"), ("decline", "declined")])
def test_codex_asks_for_approval(start: Callable[..., Program], decision: str, status: str) -> None:
    """It waits on the approval, which it says, and does what was decided."""
    codex = Thread(start("codex", "app-server", "--asks", "Bash"))
    codex.turn("hello")
    asked = codex.program.to(lambda line: "requestApproval" in str(line.get("method")))
    codex.program.say({"id": asked[-1]["id"], "result": {"decision": decision}})

    lines = codex.program.to(turn_over)

    flags_of = [line["params"]["status"].get("activeFlags") for line in asked if line["method"] == "thread/status/changed"]
    items = [line["params"]["item"] for line in lines if line["method"] == "item/completed"]
    assert flags_of[-1] == ["waitingOnApproval"]
    assert [item["status"] for item in items if item["type"] == "commandExecution"] == [status]


def test_codex_counts_over_all_its_processes(start: Callable[..., Program], tmp_path: Path) -> None:
    """A resumed thread goes on from its totals; an unknown one is refused."""
    store = ("--store", tmp_path / "store")
    first = Thread(start("codex", "app-server", *store))
    first.turn("go")
    first.program.to(turn_over)
    first.program.end()

    again = Thread(start("codex", "app-server", *store), resume=first.id)
    again.turn("go")
    lines = again.program.to(turn_over)
    unknown = Thread(start("codex", "app-server", *store), resume="01a1aaaa-0000-7000-8000-000000000000")

    usage = next(line["params"]["tokenUsage"] for line in lines if line["method"] == "thread/tokenUsage/updated")
    assert (usage["total"]["inputTokens"], usage["last"]["inputTokens"]) == (200, 100)
    assert "no rollout found" in unknown.opened["error"]["message"]


def spoken_with(program: Program, dialect: Any, text: str) -> list[Any]:
    """Have one turn with it by the dialect of the real program; gives all that the dialect reports."""
    reports: list[Any] = []

    def write(*lines: bytes) -> None:
        assert program.process.stdin is not None
        for line in lines:
            program.process.stdin.write(line)
        program.process.stdin.flush()

    write(*dialect.opening())
    sent = False
    for line in program.lines():
        step = dialect.feed(json.dumps(line).encode())
        write(*step.replies)
        reports += step.reports
        for report in step.reports:
            if isinstance(report, ApprovalAsked):
                write(dialect.decide(report.request, Decision(allow=True)))
        ready_ = any(isinstance(report, Reading) and report.state is facts.State.PROMPT for report in reports)
        if ready_ and not sent:
            sent = True
            write(dialect.message(Outgoing(message_id="5f0f7c1e-0000-4000-a000-000000000001", text=text)))
        if any(isinstance(report, facts.TurnCompleted) for report in step.reports):
            return reports
    raise AssertionError(f"the turn never ended, after {reports[-5:]}")


@pytest.mark.parametrize("kind", ["claude", "codex"])
def test_the_dialects_of_the_real_programs_understand_all_of_it(start: Callable[..., Program], kind: str) -> None:
    """Every line means something to who speaks with the real ones, and the whole turn is told."""
    dialect: Any = ClaudeStream() if kind == "claude" else CodexServer(ThreadOptions(cwd="/"))
    program = started(start, kind, "--asks", "Bash", "--tool", 0.05, "--heartbeat", 0.02, "--retries", 1)

    reports = spoken_with(program, dialect, "hello")

    kinds_ = {type(report).__name__ for report in reports}
    assert "Unrecognised" not in kinds_
    assert {
        "Identified", "Reading", "Receipt", "TurnStarted", "Retried", "ApprovalAsked", "ItemCompleted", "Cumulative",
        "TurnCompleted",
    } <= kinds_  # fmt: skip
    over = next(report for report in reports if isinstance(report, facts.TurnCompleted))
    assert (over.outcome, over.summary) == ("success", "echo: hello")


# -- faults that both protocols have


def ask(program: Program, kind: str, text: str = "go") -> None:
    """Give it one message in its own way, so that its turn begins."""
    if kind == "claude":
        program.user(text)
    else:
        Thread(program).turn(text)


def started(start: Callable[..., Program], kind: str, *words: object) -> Program:
    return start(kind, *(STREAM if kind == "claude" else ("app-server",)), *words)


def is_over(line: Line) -> bool:
    return a_result(line) or turn_over(line)


BOTH = pytest.mark.parametrize("kind", ["claude", "codex"])


@BOTH
def test_it_dies_without_a_word_in_mid_turn(start: Callable[..., Program], kind: str) -> None:
    """The output ends before the turn does, and the code is the one that was chosen."""
    program = started(start, kind, "--dies", "--code", 3)
    ask(program, kind)

    lines = list(program.lines())

    assert not any(is_over(line) for line in lines)
    assert program.process.wait(PATIENCE) == 3


@BOTH
def test_it_dies_of_sigkill(start: Callable[..., Program], kind: str) -> None:
    """The turn is cut and the process was killed."""
    program = started(start, kind, "--killed")
    ask(program, kind)

    assert not any(is_over(line) for line in program.lines())
    assert program.process.wait(PATIENCE) == -signal.SIGKILL


@BOTH
def test_it_dies_so_long_after_its_start(start: Callable[..., Program], kind: str) -> None:
    """Without any message it is gone after its time, with nothing said."""
    program = started(start, kind, "--dies-after", 0.1)

    assert list(program.lines()) == []
    assert program.process.wait(PATIENCE) == 1


@BOTH
def test_it_starts_slowly(start: Callable[..., Program], kind: str) -> None:
    """It answers nothing before its time, and everything after it."""
    program = started(start, kind, "--starts-after", 0.5)
    if kind == "claude":
        program.user("go")
    else:
        program.say({"id": 1, "method": "initialize", "params": {}})

    assert program.silent(0.3)
    assert next(program.lines())


@BOTH
def test_stderr_is_flooded(start: Callable[..., Program], kind: str) -> None:
    """All 27 MB come on stderr, and the turn ends only when somebody reads them."""
    program = started(start, kind, "--stderr", 27)
    ask(program, kind)
    assert program.process.stderr is not None

    size = 0
    while size < 27 * MEGABYTE:
        size += len(os.read(program.process.stderr.fileno(), 1 << 20))

    assert size == 27 * MEGABYTE
    assert program.to(is_over)


@BOTH
@pytest.mark.parametrize(("flag", "longest"), [("--huge", 16 * MEGABYTE), ("--flood", 99)])
def test_stdout_is_flooded(start: Callable[..., Program], kind: str, flag: str, longest: int) -> None:
    """Sixteen megabytes come in one line, or in many."""
    program = started(start, kind, flag, 16)
    ask(program, kind)

    output = bytearray(program.held)
    while b'"result"' not in output[-4096:] and b"turn/completed" not in output[-4096:]:
        data = program.read()
        assert data
        output += data

    junk = [line for line in bytes(output).split(b"\n") if line and not line.startswith(b"{")]
    assert max(map(len, junk)) == longest
    assert abs(sum(len(line) + 1 for line in junk) - 16 * MEGABYTE) <= 1


@BOTH
def test_garbage_is_no_utf8_and_no_json(start: Callable[..., Program], kind: str) -> None:
    """Between the lines stand bytes that no decoder takes, and the turn still ends."""
    program = started(start, kind, "--garbage")
    ask(program, kind)

    output = program.held
    while b'"type": "result"' not in output and b"turn/completed" not in output:
        data = program.read()
        assert data
        output += data

    with pytest.raises(UnicodeDecodeError):
        output.decode()
    assert b"\x1b]52;c;" in output


@BOTH
def test_the_same_call_is_made_again_and_again(start: Callable[..., Program], kind: str) -> None:
    """With 0 there is no end of it, and every call is the same."""
    program = started(start, kind, "--repeats", 0, "--pause", 0.001)
    ask(program, kind)

    calls: list[object] = []
    for line in program.lines():
        assert not is_over(line)
        if kind == "claude" and line["type"] == "assistant":
            calls.append(line["message"]["content"][0]["input"])
        elif kind == "codex" and line.get("method") == "item/completed":
            calls += [line["params"]["item"]["command"]] if line["params"]["item"]["type"] == "commandExecution" else []
        if len(calls) == 50:
            break

    assert calls == [calls[0]] * 50


@BOTH
def test_retries_are_announced(start: Callable[..., Program], kind: str) -> None:
    """Each retry is told with its number before the turn goes well."""
    program = started(start, kind, "--retries", 3, "--retry-delay", 0.001)
    ask(program, kind)

    lines = program.to(is_over)

    if kind == "claude":
        assert [line["attempt"] for line in lines if line.get("subtype") == "api_retry"] == [1, 2, 3]
    else:
        errors = [line["params"] for line in lines if line.get("method") == "error"]
        assert [error["error"]["message"] for error in errors] == [f"Reconnecting... {number}/5" for number in (1, 2, 3)]
        assert all(error["willRetry"] for error in errors)


def test_a_usage_limit_holds_until_it_resets(start: Callable[..., Program]) -> None:
    """Turns fail with the time of the reset, and go well after it."""
    claude = started(start, "claude", "--limit", 0.3)
    claude.user("go", "u0")
    lines = claude.to(a_result)
    limit = next(line["rate_limit_info"] for line in lines if line["type"] == "rate_limit_event")
    assert lines[-1]["is_error"]

    answers: list[tuple[float, bool]] = []
    deadline = time.monotonic() + PATIENCE
    while not (answers and answers[-1][1]):
        assert time.monotonic() < deadline
        claude.user("go", f"u{len(answers) + 1}")
        result = claude.to(a_result)[-1]
        answers.append((time.time(), not result["is_error"]))

    assert answers[-1][0] >= limit["resetsAt"]


def test_codex_tells_its_limit(start: Callable[..., Program]) -> None:
    """The turn fails, the window is full, and the time of the reset is told."""
    codex = started(start, "codex", "--limit", 60)
    ask(codex, "codex")

    lines = codex.to(turn_over)

    limits = [line["params"]["rateLimits"] for line in lines if line["method"] == "account/rateLimits/updated"]
    assert limits[-1]["primary"]["resetsAt"] > time.time()
    assert lines[-1]["params"]["turn"]["error"]["codexErrorInfo"] == "usageLimitExceeded"


@BOTH
def test_a_spinner_turns_for_ever(start: Callable[..., Program], kind: str) -> None:
    """Lines go on that mean nothing, and there is no progress among them."""
    program = started(start, kind, "--spins")
    ask(program, kind)
    noise = {"claude": ("type", "keep_alive"), "codex": ("method", "account/rateLimits/updated")}[kind]
    program.to(lambda line: line.get(noise[0]) == noise[1])

    assert [next(program.lines()).get(noise[0]) for _ in range(3)] == [noise[1]] * 3


@BOTH
def test_a_frozen_program_reads_nothing(start: Callable[..., Program], kind: str, journal: Path) -> None:
    """It does not even answer what its protocol answers at any time."""
    program = started(start, kind, "--freezes", "--journal", journal)
    ask(program, kind)
    until(lambda: lines_of(journal, "frozen"), "the freeze")
    asked: Line = {"type": "control_request", "request_id": "r", "request": {"subtype": "get_context_usage"}}
    program.say(asked if kind == "claude" else {"id": 9, "method": "thread/loaded/list", "params": {}})

    while select.select([program.process.stdout], [], [], 0.3)[0]:
        program.held += program.read()

    assert b'"request_id": "r"' not in program.held
    assert b'"id": 9' not in program.held


@BOTH
def test_a_tool_says_that_it_lives(start: Callable[..., Program], kind: str) -> None:
    """A long tool call has its heartbeats."""
    program = started(start, kind, "--tool", 0.2, "--heartbeat", 0.02)
    ask(program, kind)

    lines = program.to(is_over)

    beats = [line for line in lines if line.get("type") == "tool_progress" or "outputDelta" in str(line.get("method"))]
    assert len(beats) >= 3


@BOTH
def test_a_stray_child_survives_in_a_session_of_its_own(start: Callable[..., Program], kind: str, journal: Path) -> None:
    """Ending the program's group does not reach the child, and neither does TERM."""
    program = started(start, kind, "--stray", 60, "--journal", journal)
    ask(program, kind)
    program.to(is_over)
    child = lines_of(journal, "stray")[0]["child"]

    assert os.getsid(child) == child
    os.kill(child, signal.SIGTERM)
    program.close()
    assert alive(child)


@BOTH
def test_it_exits_while_a_child_holds_its_output(start: Callable[..., Program], kind: str, journal: Path) -> None:
    """The exit code is there at once, the end of the output is not."""
    program = started(start, kind, "--exit", 7, "--child", 60, "--journal", journal)
    ask(program, kind)

    assert program.process.wait(PATIENCE) == 7
    program.to(is_over)
    while select.select([program.process.stdout], [], [], 0.2)[0]:
        assert program.read(), "the output ended"
    assert alive(lines_of(journal, "child")[0]["child"])


@BOTH
def test_it_ignores_signals(start: Callable[..., Program], kind: str) -> None:
    """After TERM and INT it answers as before."""
    program = started(start, kind, "--ignores", "TERM,INT", "--turn", 99, "--hangs")
    if kind == "codex":
        thread = Thread(program)
    else:
        program.user("go", "u0")
        program.to(a_result)
    program.process.send_signal(signal.SIGTERM)
    program.process.send_signal(signal.SIGINT)

    if kind == "codex":
        thread.turn("go")
    else:
        program.user("go", "u1")

    assert program.to(is_over)


def test_claude_ends_on_sigterm_with_143(start: Callable[..., Program]) -> None:
    """As the real one: no result, code 143."""
    claude = started(start, "claude", "--hangs")
    claude.user("go")
    claude.to(lambda line: line.get("subtype") == "init")
    claude.process.terminate()

    assert not any(a_result(line) for line in claude.lines())
    assert claude.process.wait(PATIENCE) == 143


@BOTH
def test_the_journal_has_every_message_once_and_in_order(start: Callable[..., Program], kind: str, journal: Path) -> None:
    """What was received can be proved afterwards, even of a program that was killed."""
    program = started(start, kind, "--work", 0, "--journal", journal)
    ids = [f"m{number}" for number in range(20)]
    if kind == "claude":
        for id_ in ids:
            program.user(f"message {id_}", id_)
            program.to(idle)
    else:
        thread = Thread(program)
        for id_ in ids:
            thread.turn(f"message {id_}", id_)
            program.to(turn_over)
    program.process.kill()
    program.process.wait(PATIENCE)

    told = lines_of(journal, "message")

    assert [(line["id"], line["text"]) for line in told] == [(id_, f"message {id_}") for id_ in ids]
    assert len(lines_of(journal, "turn-over")) == 20


@BOTH
def test_a_message_brings_its_own_flags(start: Callable[..., Program], kind: str) -> None:
    """One line of a message decides for its turn alone."""
    program = started(start, kind)
    ask(program, kind, "please\nrehearse: --answer 'as you like' --exit 5")

    lines = program.to(is_over)

    assert "as you like" in json.dumps(lines)
    assert program.process.wait(PATIENCE) == 5


def test_flags_come_by_the_environment_as_well(start: Callable[..., Program]) -> None:
    """A program that somebody else starts can be told what to do."""
    claude = start("claude", *STREAM, env={flags.VARIABLE: "--answer 'from outside'"})
    claude.user("go")

    assert claude.to(a_result)[-1]["result"] == "from outside"


# -- in a terminal


def ready(screen: Screen, glyph: str = "❯") -> None:
    screen.to(f"{glyph} ")


def test_a_pasted_message_of_many_lines_is_one(show: Callable[..., Screen], journal: Path) -> None:
    """A bracketed paste arrives whole, with the Enter that comes after it."""
    screen = show("--journal", journal)
    ready(screen)
    screen.type("\x1b[200~one\ntwo\nthree\x1b[201~")
    screen.to("[Pasted text #1 +2 lines]")
    screen.type("\r")
    screen.to("● echo: one")

    assert [line["text"] for line in lines_of(journal, "message")] == ["one\ntwo\nthree"]


def test_enters_are_swallowed(show: Callable[..., Screen], journal: Path) -> None:
    """The first two Enters do nothing; the text stays where it is and is sent once by the third."""
    screen = show("--swallows", 2, "--journal", journal)
    ready(screen)
    screen.type("hello")
    for number in (1, 2):
        screen.type("\r")
        until(lambda number=number: len(lines_of(journal, "enter-swallowed")) == number, "the swallowed Enter")
    assert lines_of(journal, "message") == []

    screen.type("\r")
    screen.to("● echo: hello")

    assert [line["text"] for line in lines_of(journal, "message")] == ["hello"]


def test_codex_takes_an_early_enter_for_a_line_end(show: Callable[..., Screen], journal: Path) -> None:
    """Enter in the same breath as the text is part of a paste; a later one sends."""
    screen = show("--like", "codex", "--journal", journal)
    ready(screen, "›")
    screen.type("hello\r")
    until(lambda: lines_of(journal, "enter-as-line-end"), "the early Enter")
    time.sleep(0.35)  # what is tested: an Enter that comes later than the gap
    screen.type("\r")
    screen.to("● echo: hello")

    assert [line["text"] for line in lines_of(journal, "message")] == ["hello\n"]


def test_a_prompt_is_shown_while_it_is_busy(show: Callable[..., Screen], journal: Path) -> None:
    """`> `, a quoted line and `NORMAL` stand on the screen before the turn is over."""
    screen = show("--shows-prompt", "--work", 60, "--journal", journal)
    ready(screen)
    screen.type("hello\r")

    screen.to("> a line that somebody quoted")
    screen.to("NORMAL")
    screen.to("> \r\n")

    assert lines_of(journal, "turn-over") == []


@pytest.mark.parametrize(
    ("like", "glyph", "idle_title", "busy_text"),
    [
        ("claude", "❯", "✳ Claude Code", "esc to interrupt"),
        ("codex", "›", "", "esc to interrupt"),
        ("gemini", ">", "◇  Ready", "esc to cancel"),
    ],
)
def test_titles_and_footers_are_those_of_the_program(
    show: Callable[..., Screen], like: str, glyph: str, idle_title: str, busy_text: str
) -> None:
    """Idle and busy look as in the real ones."""
    screen = show("--like", like)
    first = screen.to(f"\x1b]0;{idle_title}")
    assert f"{glyph} " in first

    screen.type("hello")
    screen.to("hello")
    time.sleep(0.35 if like == "codex" else 0)  # an Enter sooner is a line end
    screen.type("\r")
    screen.to(busy_text)
    screen.to("● echo: hello")
    screen.to("\x1b]0;")


def test_a_spinner_in_a_terminal_moves_and_never_ends(show: Callable[..., Screen]) -> None:
    """Its title changes again and again."""
    screen = show("--spins")
    ready(screen)
    screen.type("hello\r")

    for title in ("◐", "◓", "◑", "◒") * 2:
        screen.to(title)


def test_a_permission_is_decided_by_keys(show: Callable[..., Screen], journal: Path) -> None:
    """At the dialog the title is the idle one; `2` denies."""
    screen = show("--asks", "Bash", "--journal", journal)
    ready(screen)
    screen.type("hello\r")
    screen.to("Do you want to proceed?")
    assert "✳ Claude Code" in screen.to("✳ Claude Code")
    screen.type("2")
    screen.to("not allowed")

    assert [line["behavior"] for line in lines_of(journal, "decision")] == ["deny"]


def test_hooks_tell_of_a_turn_and_decide(show: Callable[..., Screen], journal: Path, tmp_path: Path) -> None:
    """Hooks of `--settings` run in the order of the real ones, and the one for permissions answers without a key."""
    out = tmp_path / "hooks"
    answer = json.dumps({"hookSpecificOutput": {"hookEventName": "PermissionRequest", "decision": {"behavior": "allow"}}})
    tells = {"type": "command", "command": f"cat >> {out}; echo >> {out}"}
    decides = {"type": "command", "command": f"cat >> {out}; echo >> {out}; echo '{answer}'"}
    events = ("SessionStart", "UserPromptSubmit", "PreToolUse", "PostToolUse", "Stop", "SessionEnd")
    hooks: Line = {event: [{"matcher": "", "hooks": [tells]}] for event in events}
    hooks["PermissionRequest"] = [{"matcher": "", "hooks": [decides]}]
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps({"hooks": hooks}))
    screen = show("--settings", settings, "--asks", "Bash", "--tool", 0.01, "--journal", journal)
    ready(screen)

    screen.type("hello\r")
    screen.to("● echo: hello")
    until(lambda: any(line["hook"] == "Stop" for line in lines_of(journal, "hook")), "the Stop hook")
    screen.type("/exit\r")

    assert screen.process.wait(PATIENCE) == 0
    told = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["hook_event_name"] for line in told] == [
        "SessionStart", "UserPromptSubmit", "PreToolUse", "PostToolUse", "PermissionRequest", "Stop", "SessionEnd",
    ]  # fmt: skip
    assert told[1]["prompt"] == "hello"
    assert [line["how"] for line in lines_of(journal, "decision")] == ["hook"]


def test_escape_ends_a_turn_without_a_stop_hook(show: Callable[..., Screen], journal: Path) -> None:
    """After ESC it is at its prompt again."""
    screen = show("--hangs", "--journal", journal)
    ready(screen)
    screen.type("hello\r")
    screen.to("esc to interrupt")
    screen.type("\x1b")
    screen.to("Interrupted")

    assert len(lines_of(journal, "interrupt")) == 1


@pytest.mark.parametrize(("key", "code"), [("\r", 1), ("1", None)])
def test_the_question_of_trust_defaults_to_no(show: Callable[..., Screen], key: str, code: int | None) -> None:
    """A blind Enter ends the program; `1` leads to the prompt."""
    screen = show("--asks-trust")
    screen.to("❯ 2. No, exit")
    screen.type(key)

    if code is None:
        ready(screen)
    else:
        assert screen.process.wait(PATIENCE) == code


def test_a_deaf_terminal_program_does_not_go(show: Callable[..., Screen], journal: Path) -> None:
    """Neither its exit command nor TERM, INT and HUP end it."""
    screen = show("--ignores", "TERM,INT,HUP", "--lingers", "--journal", journal)
    ready(screen)
    screen.type("/exit\r")
    until(lambda: lines_of(journal, "asked-to-leave"), "the exit command")
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        screen.process.send_signal(number)
    screen.type("hello\r")

    screen.to("● echo: hello")


def test_a_child_holds_the_terminal_after_code_7(show: Callable[..., Screen], journal: Path) -> None:
    """The program is gone with 7, and the terminal still has somebody at it."""
    screen = show("--exit", 7, "--child", 60, "--journal", journal)
    ready(screen)
    screen.type("hello\r")

    assert screen.process.wait(PATIENCE) == 7
    child = lines_of(journal, "child")[0]["child"]
    while select.select([screen.master], [], [], 0.2)[0]:
        assert os.read(screen.master, 65536), "the terminal was let go"
    assert alive(child)


def test_it_learns_of_another_window(show: Callable[..., Screen], journal: Path) -> None:
    """A new size is noted and all is painted again."""
    screen = show("--journal", journal)
    ready(screen)
    fcntl.ioctl(screen.master, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 132, 0, 0))
    screen.to("\x1b[2J")

    told = until(lambda: lines_of(journal, "resized"), "the new size")
    assert (told[-1]["columns"], told[-1]["rows"]) == (132, 50)


@pytest.mark.parametrize("program", ["claude", "codex"])
def test_without_its_headless_words_a_program_is_a_terminal_one(show: Callable[..., Screen], program: str) -> None:
    """`claude` and `codex` alone show their terminal, with the prompt that they were given."""
    screen = show("hello", program=program)

    screen.to("● echo: hello")


# -- by name


@pytest.mark.parametrize("name", REHEARSALS)
def test_every_rehearsal_has_flags_that_are_known(name: str) -> None:
    """The catalogue says nothing that the programs do not understand."""
    _, others = flags.parse(REHEARSALS[name].flags)

    assert others == []


def test_every_flag_has_an_attribute_and_a_default() -> None:
    """The table of flags and the plan are one thing."""
    assert {flag.attribute for flag in flags.FLAGS} == set(flags.Plan.__annotations__)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--swallows", "x"], "--swallows takes N, not 'x'"),
        (["--ignores", "KILL"], "--ignores takes TERM,INT,HUP, not 'KILL'"),
        (["--flood"], "--flood takes MB"),
        (["--like", "vim"], r"--like takes claude\|codex\|gemini\|shell, not 'vim'"),
    ],
)
def test_a_wrong_flag_is_named(words: list[str], message: str) -> None:
    """What is wrong with it is said."""
    with pytest.raises(flags.BadFlag, match=message):
        flags.parse(words)


def test_an_installed_rehearsal_is_found_by_its_real_name(tmp_path: Path) -> None:
    """What is written is a program that behaves as the rehearsal, with more words than its own."""
    path = install(REHEARSALS["silent-death"], ["--code", "9"], tmp_path / "bin")

    done = subprocess.run([path, "-p", "hello"], stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE, check=False)

    assert path.name == "claude"
    assert (done.returncode, done.stdout) == (9, b"")


# -- from the command line


def harness(*words: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "harness", "rehearse", *words]
    return subprocess.run(
        argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE, check=False
    )  # fmt: skip


def test_a_rehearsal_is_run_by_its_name() -> None:
    """The process becomes the program, with its own options, and its exit code."""
    done = harness("silent-death", "-p", "hello", "--code", "4")

    assert (done.returncode, done.stdout, done.stderr) == (4, "", "")


def test_an_option_that_we_have_too_is_the_programs_own() -> None:
    """`codex exec --json` is written as it is elsewhere."""
    done = harness("codex", "exec", "--json", "hello")

    assert json.loads(done.stdout.splitlines()[0])["type"] == "thread.started"


def test_rehearsals_are_listed() -> None:
    """All of them, for people and for machines."""
    listed, told = harness("--list"), harness("--list", "--json")

    assert all(name in listed.stdout for name in REHEARSALS)
    assert [each["name"] for each in json.loads(told.stdout)] == list(REHEARSALS)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ((), 2, "which one?"),
        (("silent-deth",), 1, "no rehearsal 'silent-deth'; did you mean 'silent-death'?"),
        (("claude", "--flood", "much"), 2, "--flood takes MB, not 'much'"),
    ],
)
def test_what_is_wrong_with_a_command_is_said_in_one_line(words: tuple[str, ...], code: int, message: str) -> None:
    """Nothing is started."""
    done = harness(*words)

    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
