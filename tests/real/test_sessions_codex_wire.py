"""The real Codex against a scripted model, spoken to by its dialects over plain pipes: what the dialects claim holds."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import pytest

from harness.processes import Lines
from harness.sessions.dialects.base import LineDialect
from harness.sessions.dialects.codex.server import CodexServer
from harness.sessions.dialects.codex_exec import CodexExec
from harness.sessions.dialects.codex_launch import CommandLine, Wishes, command_line
from harness.sessions.facts import (
    Identified,
    ItemCompleted,
    Limited,
    Mode,
    Noted,
    Placing,
    Retried,
    State,
    TurnCompleted,
    TurnStarted,
    Unrecognised,
)
from harness.sessions.reports import (
    ApprovalAsked,
    ApprovalSettled,
    Cumulative,
    Decision,
    Outgoing,
    Progress,
    Reading,
    Receipt,
    Report,
    Step,
)

CODEX = shutil.which("codex") or os.environ.get("HARNESS_TEST_CODEX", "")
pytestmark = [
    pytest.mark.real,
    pytest.mark.timeout(120),
    pytest.mark.skipif(not CODEX, reason="Codex is missing: npm install @openai/codex, or name it in HARNESS_TEST_CODEX"),
]
WAIT_SECONDS = 20.0
R = TypeVar("R", bound=Report)


class Wire:
    """One program with its dialect; `reports` is all that was told, in order."""

    def __init__(self, process: asyncio.subprocess.Process, dialect: LineDialect) -> None:
        self.process, self.dialect = process, dialect
        self.reports: list[Report] = []
        self.changed = asyncio.Event()
        self.ended = False
        self.reading = asyncio.ensure_future(self._read())

    async def _read(self) -> None:
        lines = Lines(max_bytes=64 << 20)
        assert self.process.stdout is not None
        while data := await self.process.stdout.read(1 << 16):
            for line in lines.feed(data):
                step = self.feed(line)
                self.reports += step.reports
                for reply in step.replies:
                    self.write(reply)
            self.changed.set()
        self.ended = True
        self.changed.set()

    def feed(self, line: bytes) -> Step:
        return self.dialect.feed(line)

    def write(self, data: bytes) -> None:
        if data and self.process.stdin is not None:
            self.process.stdin.write(data)

    def say(self, text: str, *, id_: str = "", placing: Placing = Placing.QUEUE) -> str:
        id_ = id_ or text
        self.write(self.dialect.message(Outgoing(message_id=id_, text=text, placing=placing)))
        return id_

    def decide(self, request: str, decision: Decision) -> None:
        self.write(self.dialect.decide(request, decision))

    def interrupt(self) -> None:
        self.write(self.dialect.interrupt())

    def probe(self) -> None:
        self.write(self.dialect.probe())

    async def until(self, kind: type[R], holds: Callable[[R], bool] = lambda _report: True, *, after: int = 0) -> R:
        """The first such report from place `after` on."""
        async with asyncio.timeout(WAIT_SECONDS):
            while True:
                found = next((each for each in self.reports[after:] if isinstance(each, kind) and holds(each)), None)
                if found is not None:
                    return found
                assert not self.ended, f"it ended before {kind.__name__}: {self.reports[-8:]}"
                self.changed.clear()
                await self.changed.wait()

    async def prompt(self, *, after: int = 0) -> Reading:
        return await self.until(Reading, lambda reading: reading.state is State.PROMPT, after=after)

    async def turn(self, text: str, **named: Any) -> TurnCompleted:
        """Say this, and wait for the end of its turn and the prompt."""
        start = len(self.reports)
        id_ = self.say(text, **named)
        told = await self.until(TurnCompleted, lambda turn: id_ in turn.message_ids, after=start)
        await self.until(
            Reading, lambda reading: reading.state in (State.PROMPT, State.LIMITED), after=self.reports.index(told)
        )
        return told

    def all(self, kind: type[R]) -> list[R]:
        return [each for each in self.reports if isinstance(each, kind)]

    async def leave(self) -> int:
        """End its input, and wait for it."""
        self.write(self.dialect.finish())
        if self.process.stdin is not None:
            self.process.stdin.close()
        async with asyncio.timeout(WAIT_SECONDS):
            await self.reading
            return await self.process.wait()

    async def kill(self) -> None:
        """End the program at once, with the launcher that may stand before it."""
        os.killpg(self.process.pid, signal.SIGKILL)
        await self.leave()


class Codex:
    """A Codex with a home of its own and a model that follows a script."""

    wire = Wire

    def __init__(self, api: Any, root: Path) -> None:
        self.api, self.home, self.cwd = api, root / "home", root / "work"
        for folder in (self.home, self.cwd, root / "tmp"):
            folder.mkdir()
        retries = "request_max_retries=1,stream_max_retries=1"
        provider = f'{{name="fake",base_url="{api.url}/v1",env_key="FAKE_KEY",wire_api="responses",{retries}}}'
        self.settings = (
            "-c", f"model_providers.fake={provider}", "-c", "model_provider=fake", "-c", "analytics.enabled=false",
            "-m", "gpt-5.5-codex",
        )  # fmt: skip
        self.env = {name: value for name, value in os.environ.items() if not name.startswith(("CODEX", "OPENAI", "HARNESS"))}
        self.env |= {"HOME": str(self.home), "CODEX_HOME": str(self.home), "TMPDIR": str(root / "tmp"), "FAKE_KEY": "test-key"}

    def line(self, mode: Mode, *args: str, **wishes: Any) -> CommandLine:
        wishes = {"cwd": str(self.cwd), "sandbox": "danger-full-access", **wishes}
        return command_line(mode, program=CODEX, agent_args=(*self.settings, *args), wishes=Wishes(**wishes))

    async def start(self, line: CommandLine, dialect: LineDialect, *, talks: bool) -> Wire:
        stdin = asyncio.subprocess.PIPE if talks else asyncio.subprocess.DEVNULL
        process = await asyncio.create_subprocess_exec(
            *line.argv, cwd=self.cwd, env=self.env, stdin=stdin, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        wire = self.wire(process, dialect)
        for opening in dialect.opening() if talks else ():
            wire.write(opening)
        return wire

    @asynccontextmanager
    async def server(self, *args: str, **wishes: Any) -> AsyncIterator[Wire]:
        """An app-server at its prompt."""
        wishes = {"approval_policy": "on-request", **wishes}
        line = self.line(Mode.APP_SERVER, *args, **wishes)
        wire = await self.start(line, CodexServer(line.thread), talks=True)
        try:
            await wire.prompt()
            yield wire
        finally:
            await wire.leave()

    async def saved(self, text: str) -> None:
        """Return when this is in the program's own record, which it writes at its own pace."""
        async with asyncio.timeout(WAIT_SECONDS):
            while not any(text in file.read_text() for file in (self.home / "sessions").rglob("*.jsonl")):
                await asyncio.sleep(0.02)

    async def once(self, prompt: str, *args: str, **wishes: Any) -> tuple[Wire, int]:
        """`codex exec` from its start to its end."""
        line = self.line(Mode.ONCE, "--skip-git-repo-check", *args, prompt=prompt, **wishes)
        wire = await self.start(line, CodexExec(message_id="first", model=line.model), talks=False)
        return wire, await wire.leave()


@pytest.fixture
def codex(fake_model_api: ModuleType, tmp_path: Path) -> Iterator[Callable[..., Codex]]:
    """Makes a Codex whose model follows the rules given: a prompt's pattern, and the turns that answer it."""
    apis: list[Any] = []

    def make(**rules: Any) -> Codex:
        listed = [{"prompt": pattern, "turns": turns} for pattern, turns in rules.items()]
        apis.append(fake_model_api.FakeAPI({"rules": listed}))
        return Codex(apis[-1].__enter__(), tmp_path)

    yield make
    for api in apis:
        api.__exit__(None, None, None)


def shell(command: str) -> dict[str, Any]:
    return {"tool": "shell", "input": {"command": command}}


def beyond(command: str) -> dict[str, Any]:
    """A command for which leave is asked."""
    return {
        "tool": "exec_command",
        "input": {"cmd": command, "sandbox_permissions": "require_escalated", "justification": "it must be"},
    }


async def test_a_turn_with_a_tool_is_told_from_its_receipt_to_its_tokens(codex: Callable[..., Codex]) -> None:
    """Receipt, start, tool, words, tokens and end, then the prompt; and the end of its input ends it with code 0."""
    usage = {"input": 100, "output": 10, "cache_read": 40}
    agent = codex(
        **{"^go": [{"thinking": "hm", **shell("echo hi; exit 3"), "usage": usage}, {"text": "All done.", "usage": usage}]}
    )
    async with agent.server() as wire:
        told = await wire.turn("go", id_="m-1")
        code = await wire.leave()

    assert (told.outcome, told.summary, told.error, told.message_ids, told.more) == (
        "success",
        "All done.",
        "",
        ("m-1",),
        False,
    )
    assert [(each.stage, each.message_id, each.turn) for each in wire.all(Receipt)] == [
        ("accepted", "m-1", told.turn), ("done", "m-1", told.turn),
    ]  # fmt: skip
    assert [started.message_ids for started in wire.all(TurnStarted)] == [("m-1",)]
    tool = next(item for item in wire.all(ItemCompleted) if item.kind == "tool")
    assert (tool.name, tool.exit_code, tool.ok, tool.summary.split("\n")[0]) == ("Bash", 3, False, "echo hi; exit 3")
    total = wire.all(Cumulative)[-1]
    assert (total.input_tokens, total.cached_tokens, total.output_tokens, total.before) == (120, 80, 20, False)
    named = {
        name: value
        for each in wire.all(Identified)
        for name in ("vendor_session", "model", "cli_version", "transcript")
        if (value := getattr(each, name))
    }
    assert named.keys() == {"vendor_session", "model", "cli_version", "transcript"}
    assert Path(named["transcript"]).is_file()
    assert wire.all(Unrecognised) == []
    assert code == 0


async def test_the_tool_is_running_while_it_runs(codex: Callable[..., Codex]) -> None:
    """Between a tool's start and end the watch knows that it is in a tool."""
    agent = codex(**{"^go": [shell("true"), {"text": "ok"}]})
    async with agent.server() as wire:
        await wire.turn("go")

    states = [each.in_tool for each in wire.all(Progress) if each.in_tool is not None]
    assert states == [True, False]


async def test_leave_is_asked_and_a_yes_lets_the_command_run(codex: Callable[..., Codex]) -> None:
    """The command is shown without the shell around it; the state is blocked until the answer."""
    agent = codex(**{"^go": [beyond("echo yes > yes.txt"), {"text": "ok"}]})
    async with agent.server(sandbox="read-only") as wire:
        wire.say("go")
        asked = await wire.until(ApprovalAsked)
        wire.decide(asked.request, Decision(allow=True))
        await wire.until(TurnCompleted)

    assert asked.tool == "Bash"
    assert asked.arguments["command"] == "echo yes > yes.txt"
    assert (agent.cwd / "yes.txt").read_text() == "yes\n"
    assert [(each.state, each.detail) for each in wire.all(Reading) if each.state is State.BLOCKED] == [
        (State.BLOCKED, "permission")
    ]
    assert wire.all(ApprovalSettled) == []


async def test_a_no_reaches_the_model_with_its_reason(codex: Callable[..., Codex]) -> None:
    """The command does not run, the turn goes on, and the model reads why."""
    agent = codex(**{"^go": [beyond("echo no > no.txt"), {"text": "lost"}], "declined: not on a Friday": [{"text": "I see"}]})
    async with agent.server(sandbox="read-only") as wire:
        wire.say("go")
        asked = await wire.until(ApprovalAsked)
        wire.decide(asked.request, Decision(allow=False, reason="not on a Friday"))
        told = await wire.until(TurnCompleted)

    assert (told.outcome, told.summary) == ("success", "I see")
    assert not (agent.cwd / "no.txt").exists()
    assert [item.summary for item in wire.all(ItemCompleted) if item.kind == "tool"] == ["echo no > no.txt\ndeclined"]


async def test_a_no_can_end_the_turn(codex: Callable[..., Codex]) -> None:
    """A denial that interrupts leaves the agent at its prompt."""
    agent = codex(**{"^go": [beyond("echo no > no.txt"), {"text": "never"}]})
    async with agent.server(sandbox="read-only") as wire:
        wire.say("go")
        asked = await wire.until(ApprovalAsked)
        wire.decide(asked.request, Decision(allow=False, interrupt=True))
        told = await wire.until(TurnCompleted)
        await wire.prompt(after=wire.reports.index(told))

    assert told.outcome == "interrupted"


async def test_a_patch_is_asked_for_with_what_it_changes(codex: Callable[..., Codex]) -> None:
    """The program's request names no file; the item that it announced before does."""
    patch = "*** Begin Patch\n*** Add File: new.txt\n+hello\n*** End Patch\n"
    agent = codex(**{"^go": [{"tool": "apply_patch", "input": patch}, {"text": "ok"}]})
    async with agent.server(sandbox="read-only") as wire:
        wire.say("go")
        asked = await wire.until(ApprovalAsked)
        wire.decide(asked.request, Decision(allow=True))
        await wire.until(TurnCompleted)

    assert (asked.tool, asked.arguments["path"]) == ("apply_patch", str(agent.cwd / "new.txt"))
    assert asked.arguments["changes"][0]["diff"] == "hello\n"
    changed = next(item for item in wire.all(ItemCompleted) if item.kind == "file")
    assert (changed.paths, changed.ok) == ((str(agent.cwd / "new.txt"),), True)


async def test_a_question_is_answered_with_the_reason_of_a_yes(codex: Callable[..., Codex]) -> None:
    """A question to the user blocks as a question, and words of a yes are its answer."""
    question = {"id": "q", "header": "h", "question": "Which?", "options": [{"label": "A", "description": "a"}]}
    agent = codex(**{"^go": [{"tool": "request_user_input", "input": {"questions": [question]}}, {"text": "ok"}]})
    async with agent.server("-c", "features.default_mode_request_user_input=true") as wire:
        wire.say("go")
        asked = await wire.until(ApprovalAsked)
        wire.decide(asked.request, Decision(allow=True, reason="neither of them"))
        await wire.until(TurnCompleted)

    assert (asked.tool, asked.summary) == ("question", "Which?")
    assert any(each.detail == "question" for each in wire.all(Reading) if each.state is State.BLOCKED)
    assert "neither of them" in str(agent.api.requests[-1]["body"]["input"][-1])


async def test_an_interrupt_withdraws_what_was_asked(codex: Callable[..., Codex]) -> None:
    """Nobody is left to decide about a command of a turn that is over."""
    agent = codex(**{"^go": [beyond("echo no > no.txt"), {"text": "never"}]})
    async with agent.server(sandbox="read-only") as wire:
        wire.say("go")
        asked = await wire.until(ApprovalAsked)
        wire.interrupt()
        settled = await wire.until(ApprovalSettled)
        await wire.prompt(after=wire.reports.index(settled))

    assert (settled.request, settled.decision) == (asked.request, "withdrawn")
    assert [turn.more for turn in wire.all(TurnCompleted)] == [False]


async def test_an_interrupt_ends_the_turn_and_its_commands(codex: Callable[..., Codex]) -> None:
    """The program itself would leave the command running."""
    agent = codex(**{"^go": [shell("echo $$ > pid; sleep 60; true"), {"text": "never"}]})
    async with agent.server() as wire:
        wire.say("go")
        pid = await number_in(agent.cwd / "pid")
        await wire.until(Progress, lambda each: each.in_tool is True)
        wire.interrupt()
        told = await wire.until(TurnCompleted)
        await wire.prompt(after=wire.reports.index(told))
        ended = await wire.until(ItemCompleted, lambda item: item.kind == "tool")
        await gone(pid)

    assert (told.outcome, told.message_ids, told.more) == ("interrupted", ("go",), False)
    assert not ended.ok


async def test_an_interrupt_that_comes_too_early_is_said_again(codex: Callable[..., Codex]) -> None:
    """The program refuses to interrupt a turn that it has accepted and not begun."""
    agent = codex(**{"^go": [{"hold": "never", "text": "never"}]})
    async with agent.server() as wire:
        wire.say("go")
        wire.interrupt()
        told = await wire.until(TurnCompleted)

    assert told.outcome == "interrupted"
    assert all(
        reading.state is not State.PROMPT
        for reading in wire.reports[wire.reports.index(wire.all(Receipt)[0]) : wire.reports.index(told)]
        if isinstance(reading, Reading)
    )


async def test_a_background_command_outlives_its_turn_and_says_so(codex: Callable[..., Codex]) -> None:
    """The turn is over, more goes on, and the command's end is told when it comes."""
    left = {"tool": "exec_command", "input": {"cmd": "until [ -e stop ]; do sleep 0.05; done", "yield_time_ms": 250}}
    agent = codex(**{"^go": [left, {"text": "left it"}]})
    async with agent.server() as wire:
        told = await wire.turn("go")
        (agent.cwd / "stop").touch()
        ended = await wire.until(ItemCompleted, lambda item: item.kind == "tool", after=wire.reports.index(told))

    assert (told.outcome, told.more) == ("success", True)
    assert (ended.turn, ended.exit_code) == (told.turn, 0)


async def test_a_steering_message_is_read_within_the_turn(codex: Callable[..., Codex]) -> None:
    """It is accepted at once, read when the tool is done, and done with its turn."""
    agent = codex(
        **{"^go": [shell("until [ -e stop ]; do sleep 0.05; done"), {"text": "lost"}], "^steer": [{"text": "steered"}]}
    )
    async with agent.server() as wire:
        wire.say("go", id_="m-1")
        await wire.until(Progress, lambda each: each.in_tool is True)
        wire.say("steer there", id_="m-2", placing=Placing.STEER)
        accepted = await wire.until(Receipt, lambda each: each.message_id == "m-2")
        (agent.cwd / "stop").touch()
        told = await wire.until(TurnCompleted)
        await wire.prompt(after=wire.reports.index(told))

    assert (accepted.stage, accepted.proof) == ("accepted", "turn/steer")
    assert (told.summary, told.message_ids) == ("steered", ("m-1", "m-2"))
    assert ("done", "m-2") in [(each.stage, each.message_id) for each in wire.all(Receipt)]


async def test_a_steering_message_that_nobody_read_has_failed(codex: Callable[..., Codex]) -> None:
    """The program takes it and then loses it with the turn: it is not in the next one either."""
    agent = codex(**{"^go": [{"hold": "never", "text": "never"}], "^next": [{"text": "hello"}]})
    async with agent.server() as wire:
        wire.say("go", id_="m-1")
        await wire.until(TurnStarted)
        wire.say("lost words", id_="m-2", placing=Placing.STEER)
        await wire.until(Receipt, lambda each: each.message_id == "m-2")
        wire.interrupt()
        failed = await wire.until(Receipt, lambda each: each.stage == "failed")
        await wire.prompt(after=wire.reports.index(failed))
        await wire.turn("next")

    assert (failed.message_id, failed.proof) == ("m-2", "the turn ended before it was read")
    assert "lost words" not in str(agent.api.requests[-1]["body"]["input"])


async def test_a_steering_message_for_a_turn_that_is_over_has_failed(codex: Callable[..., Codex]) -> None:
    """The program refuses it, in words that are kept."""
    agent = codex(**{"^go": [{"hold": "gate", "text": "done"}]})
    async with agent.server() as wire:
        wire.say("go")
        await wire.until(TurnStarted)
        late = wire.dialect.message(Outgoing(message_id="late", text="too late", placing=Placing.STEER))
        agent.api.release("gate")
        await wire.until(TurnCompleted)
        wire.write(late)
        failed = await wire.until(Receipt, lambda each: each.message_id == "late")

    assert (failed.stage, failed.proof) == ("failed", "no active turn to steer")


async def test_an_error_of_the_provider_ends_the_turn_and_not_the_session(codex: Callable[..., Codex]) -> None:
    """The program tries again, gives up, and takes the next message though its status speaks of an error."""
    agent = codex(**{"^bad": [{"error": 500, "message": "boom"}] * 9, "^good": [{"text": "fine"}]})
    async with agent.server() as wire:
        failed = await wire.turn("bad")
        good = await wire.turn("good")

    assert failed.outcome == "error"
    assert "internalServerError" in failed.error
    assert [(each.attempt, each.maximum) for each in wire.all(Retried)] == [(1, 1)]
    assert good.outcome == "success"
    assert State.UNKNOWN not in [each.state for each in wire.all(Reading)]


async def test_a_usage_limit_tells_when_it_is_over(codex: Callable[..., Codex]) -> None:
    """The window that is used up says when; the state is limited until then."""
    used = {
        "x-codex-primary-used-percent": "100.0",
        "x-codex-primary-window-minutes": "300",
        "x-codex-primary-reset-at": "4102444800",
    }
    agent = codex(**{"^go": [{"error": 429, "error_type": "usage_limit_reached", "message": "limit", "headers": used}]})
    async with agent.server() as wire:
        told = await wire.turn("go")
        wire.probe()
        again = await wire.until(Reading, lambda each: each.evidence == "thread/read")

    until = 4102444800 * 1_000_000
    assert told.outcome == "limit"
    assert [(each.kind, each.until_us) for each in wire.all(Limited)] == [("usage_limit", until)]
    assert (again.state, again.until_us) == (State.LIMITED, until)


async def test_a_connection_that_breaks_is_tried_again(codex: Callable[..., Codex]) -> None:
    """A stream that is cut in the middle is taken up again by the program itself."""
    agent = codex(**{"^go": [{"text": "one two three four", "disconnect": True}, {"text": "whole"}]})
    async with agent.server() as wire:
        told = await wire.turn("go")

    assert told.outcome == "error" or told.summary == "whole"
    assert wire.all(Retried)


async def test_a_probe_is_answered_in_the_middle_of_a_turn(codex: Callable[..., Codex]) -> None:
    """A sign of life that disturbs nothing."""
    agent = codex(**{"^go": [{"hold": "gate", "text": "done"}]})
    async with agent.server() as wire:
        wire.say("go")
        await wire.until(TurnStarted)
        wire.probe()
        reading = await wire.until(Reading, lambda each: each.evidence == "thread/read")
        agent.api.release("gate")
        told = await wire.until(TurnCompleted)

    assert reading.state is State.BUSY
    assert told.outcome == "success"


async def test_a_thread_is_continued_after_a_kill(codex: Callable[..., Codex]) -> None:
    """The turn that was cut comes back as interrupted; tokens of before are told as such; the thread goes on."""
    agent = codex(**{"^first": [{"text": "one"}], "^cut": [{"hold": "never", "text": "never"}], "^again": [{"text": "two"}]})
    async with agent.server() as wire:
        await wire.turn("first")
        wire.say("cut off by a kill", id_="m-cut")
        cut = await wire.until(TurnStarted, lambda each: each.message_ids == ("m-cut",))
        await agent.saved("cut off by a kill")
        await wire.kill()
    thread = next(each.vendor_session for each in wire.all(Identified) if each.vendor_session)

    async with agent.server(resume=thread) as resumed:
        told = await resumed.turn("again")

    assert next(each.vendor_session for each in resumed.all(Identified) if each.vendor_session) == thread
    back = resumed.all(TurnCompleted)[0]
    assert (back.turn, back.outcome, back.message_ids) == (cut.turn, "interrupted", ("m-cut",))
    assert told.summary == "two"
    assert [(each.input_tokens, each.before) for each in resumed.all(Cumulative)] == [(100, True), (200, False)]


async def test_a_thread_that_is_not_there_is_no_session(codex: Callable[..., Codex]) -> None:
    """The program's words are kept, the state is unknown, and messages are refused."""
    agent = codex(**{"^go": [{"text": "never"}]})
    line = agent.line(Mode.APP_SERVER, resume="01a22912-6562-75e1-9023-f3c8ec7105d4")
    dialect = CodexServer(line.thread)
    wire = await agent.start(line, dialect, talks=True)
    reading = await wire.until(Reading, lambda each: each.state is not State.STARTING)
    code = await wire.leave()

    assert (reading.state, reading.detail) == (State.UNKNOWN, "no thread")
    assert "no rollout found" in dialect.failed
    assert code == 0


async def test_exec_tells_its_one_turn(codex: Callable[..., Codex]) -> None:
    """Identity, receipt, items, tokens and end; it never comes to a prompt."""
    agent = codex(**{"^go": [{"thinking": "hm", **shell("echo hi; exit 3")}, {"text": "All done."}]})
    wire, code = await agent.once("go")

    told = wire.all(TurnCompleted)[0]
    assert (code, told.outcome, told.summary, told.message_ids) == (0, "success", "All done.", ("first",))
    assert [(each.stage, each.message_id) for each in wire.all(Receipt)] == [("accepted", "first"), ("done", "first")]
    tool = next(item for item in wire.all(ItemCompleted) if item.kind == "tool")
    assert (tool.name, tool.exit_code, tool.summary.split("\n")[0]) == ("Bash", 3, "echo hi; exit 3")
    assert (wire.all(Cumulative)[0].input_tokens, wire.all(Cumulative)[0].model) == (200, "gpt-5.5-codex")
    assert {each.state for each in wire.all(Reading)} == {State.BUSY}
    assert wire.all(Unrecognised) == wire.all(Noted) == []


async def test_exec_continues_a_thread_and_counts_on(codex: Callable[..., Codex]) -> None:
    """The thread is the same, whatever the prompt begins with, and its tokens are those of all its turns."""
    agent = codex(**{"go": [{"text": "one"}], "-again": [{"text": "two"}]})
    first, _ = await agent.once("go")
    thread = first.all(Identified)[0].vendor_session
    second, code = await agent.once("-again", resume=thread)

    assert (code, second.all(Identified)[0].vendor_session, second.all(TurnCompleted)[0].summary) == (0, thread, "two")
    assert [first.all(Cumulative)[0].input_tokens, second.all(Cumulative)[0].input_tokens] == [100, 200]


async def test_exec_tells_a_limit_from_an_error(codex: Callable[..., Codex]) -> None:
    """It has only words for both."""
    agent = codex(**{
        "^bad": [{"error": 500, "message": "boom"}] * 9,
        "^limit": [{"error": 429, "error_type": "usage_limit_reached", "message": "limit"}],
    })  # fmt: skip
    bad, bad_code = await agent.once("bad")
    limited, limited_code = await agent.once("limit")

    assert (bad_code, bad.all(TurnCompleted)[0].outcome, len(bad.all(Retried))) == (1, "error", 1)
    assert (limited_code, limited.all(TurnCompleted)[0].outcome) == (1, "limit")
    assert [each.kind for each in limited.all(Limited)] == ["usage_limit"]


async def number_in(path: Path) -> int:
    """What a file says once it says anything."""
    async with asyncio.timeout(WAIT_SECONDS):
        while not (path.exists() and path.read_text().strip()):
            await asyncio.sleep(0.02)
    return int(path.read_text())


async def gone(pid: int) -> None:
    """Wait until a process is no more."""
    async with asyncio.timeout(WAIT_SECONDS):
        while Path(f"/proc/{pid}").exists():
            await asyncio.sleep(0.02)
