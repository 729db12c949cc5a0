"""The real Claude Code, spoken to over plain pipes; its model is a scripted one on loopback."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import shutil
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import pytest

from harness.sessions import facts
from harness.sessions.dialects.claude_launch import Wishes, command_line
from harness.sessions.dialects.claude_stream import ClaudeStream
from harness.sessions.facts import Mode, Origin, Placing, State
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
)


def _program() -> str | None:
    """On PATH, named by HARNESS_TEST_CLAUDE, or as it comes with the Python SDK."""
    if found := shutil.which("claude") or os.environ.get("HARNESS_TEST_CLAUDE"):
        return found
    sdk = importlib.util.find_spec("claude_agent_sdk")
    bundled = Path(sdk.origin).parent / "_bundled" / "claude" if sdk is not None and sdk.origin else None
    return str(bundled) if bundled is not None and bundled.exists() else None


CLAUDE = _program()
pytestmark = [
    pytest.mark.real,
    pytest.mark.timeout(180),
    pytest.mark.skipif(CLAUDE is None, reason="Claude Code is missing: npm install @anthropic-ai/claude-code"),
]
WAIT_SECONDS = 40
ALL_TOOLS = ("--allowedTools", "Bash")
Told = TypeVar("Told")


def shell(command: str) -> dict[str, Any]:
    """A scripted call of the agent's shell."""
    return {"tool": "shell", "input": {"command": command}}


def until_there(path: Path) -> dict[str, Any]:
    """A command that runs until the test makes a file; it ends by itself in any case."""
    code = f"import os, time; any(os.path.exists({str(path)!r}) or time.sleep(0.02) for _ in range(1500))"
    return shell(f"{sys.executable} -c {json.dumps(code)}")


def on(prompt: str, *turns: dict[str, Any]) -> dict[str, Any]:
    """What the model answers to a prompt, turn by turn."""
    return {"prompt": prompt, "turns": list(turns)}


class Wire:
    """A running program, its dialect, and everything that was told."""

    def __init__(self, process: asyncio.subprocess.Process, dialect: ClaudeStream) -> None:
        self.process, self.dialect = process, dialect
        self.reports: list[Report] = []
        self.errors = b""
        self._news = asyncio.Event()
        self._tasks = [asyncio.ensure_future(self._read()), asyncio.ensure_future(self._drain())]

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            step = self.dialect.feed(line.rstrip(b"\n"))
            self.reports += step.reports
            for reply in step.replies:
                await self.write(reply)
            self._news.set()

    async def _drain(self) -> None:
        assert self.process.stderr is not None
        self.errors = await self.process.stderr.read()

    async def write(self, data: bytes) -> None:
        assert data.endswith(b"\n")
        assert self.process.stdin is not None
        self.process.stdin.write(data)
        await self.process.stdin.drain()

    async def send(self, text: str, placing: Placing = Placing.QUEUE, origin: Origin = Origin(), id_: str = "") -> str:  # noqa: B008
        id_ = id_ or str(uuid.uuid4())
        await self.write(self.dialect.message(Outgoing(message_id=id_, text=text, placing=placing, origin=origin)))
        return id_

    def told(self, kind: type[Told]) -> list[Told]:
        return [report for report in self.reports if isinstance(report, kind)]

    def stages(self, message_id: str) -> list[str]:
        """What was proven of a message, repetitions left out."""
        return list(dict.fromkeys(receipt.stage for receipt in self.told(Receipt) if receipt.message_id == message_id))

    def state(self) -> State | None:
        readings = self.told(Reading)
        return readings[-1].state if readings else None

    async def until(self, holds: Callable[[], object]) -> None:
        async with asyncio.timeout(WAIT_SECONDS):
            while not holds():
                self._news.clear()
                await self._news.wait()

    async def over(self, turns: int) -> list[facts.TurnCompleted]:
        """When so many turns are over and the program is at its prompt."""
        await self.until(lambda: len(self.told(facts.TurnCompleted)) >= turns and self.state() is State.PROMPT)
        return self.told(facts.TurnCompleted)

    async def asked(self, number: int = 1) -> ApprovalAsked:
        await self.until(lambda: len(self.told(ApprovalAsked)) >= number)
        return self.told(ApprovalAsked)[number - 1]

    async def leave(self) -> int:
        """Close its input and give its exit code."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        return await self.exit()

    async def exit(self) -> int:
        async with asyncio.timeout(WAIT_SECONDS):
            code = await self.process.wait()
            await asyncio.gather(*self._tasks)
        return code

    async def kill(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.exit()


class Lab:
    """A home and a model of the test's own."""

    def __init__(self, root: Path, api: Any) -> None:
        self.root, self.api = root, api
        self.work = root / "w"
        for name in ("h", "t", "w"):
            (root / name).mkdir(exist_ok=True)

    def script(self, *rules: dict[str, Any]) -> None:
        self.api.set_script({"rules": list(rules)})

    def prompts(self) -> list[str]:
        return [str(request.get("prompt")) for request in self.api.requests if request.get("main")]

    def environment(self, added: dict[str, str]) -> dict[str, str]:
        told = {name: value for name, value in os.environ.items() if not name.startswith(("CLAUDE", "ANTHROPIC"))}
        return told | {
            "HOME": str(self.root / "h"), "CLAUDE_CONFIG_DIR": str(self.root / "h" / ".claude"),
            "TMPDIR": str(self.root / "t"), "CLAUDE_CODE_TMPDIR": str(self.root / "t"),
            "ANTHROPIC_BASE_URL": self.api.url, "ANTHROPIC_API_KEY": "test-key", "CLAUDE_CODE_MAX_RETRIES": "1",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "DISABLE_AUTOUPDATER": "1",
        } | added  # fmt: skip

    @asynccontextmanager
    async def run(
        self, *agent_args: str, mode: Mode = Mode.STREAM, env: dict[str, str] | None = None, **wishes: Any
    ) -> AsyncIterator[Wire]:
        """The program, greeted and at its prompt if it can be talked to."""
        assert CLAUDE is not None
        line = command_line(mode, program=CLAUDE, agent_args=agent_args, wishes=Wishes(**wishes))
        process = await asyncio.create_subprocess_exec(
            *line.argv,
            stdin=asyncio.subprocess.PIPE if mode is Mode.STREAM else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=self.work,
            env=self.environment({**line.env, **(env or {})}),
            limit=64 << 20,
        )
        wire = Wire(process, ClaudeStream(mode))
        try:
            for greeting in wire.dialect.opening():
                await wire.write(greeting)
            yield wire
        finally:
            await wire.kill()


@pytest.fixture
async def lab(tmp_path: Path, fake_model_api: ModuleType) -> AsyncIterator[Lab]:
    with fake_model_api.FakeAPI({}) as api:
        yield Lab(tmp_path, api)


def kinds(items: Sequence[facts.ItemCompleted]) -> list[tuple[str, bool]]:
    return [(item.kind, item.ok) for item in items]


async def test_a_turn_with_leave_asked_for_given_and_denied(lab: Lab) -> None:
    """The state, the receipts and the items are told; what was denied did not happen."""
    lab.script(on("first", shell("touch one"), {"text": "Made it."}), on("second", shell("touch two"), {"text": "Not made."}))
    async with lab.run(session=(session := str(uuid.uuid4()))) as wire:
        await wire.until(lambda: wire.state() is State.PROMPT)
        first = await wire.send("first")
        approval = await wire.asked()
        await wire.until(lambda: wire.state() is State.BLOCKED)
        await wire.write(wire.dialect.decide(approval.request, Decision(allow=True)))
        await wire.over(1)

        second = await wire.send("second")
        approval = await wire.asked(2)
        await wire.write(wire.dialect.decide(approval.request, Decision(allow=False, reason="not two")))
        turns = await wire.over(2)

        assert await wire.leave() == 0

    assert [(turn.outcome, turn.summary, turn.message_ids) for turn in turns] == [
        ("success", "Made it.", (first,)), ("success", "Not made.", (second,)),
    ]  # fmt: skip
    assert wire.stages(first) == wire.stages(second) == ["accepted", "done"]
    assert kinds(wire.told(facts.ItemCompleted)) == [("tool", True), ("text", True), ("tool", False), ("text", True)]
    assert [path.name for path in lab.work.iterdir()] == ["one"]
    known = wire.told(facts.Identified)
    assert [each.vendor_session for each in known if each.vendor_session] == [session]
    transcript = next(each.transcript for each in known if each.transcript)
    assert first in Path(transcript).read_text(encoding="utf-8")
    assert [usage.input_tokens for usage in wire.told(Cumulative)] == [200, 400]
    assert not wire.told(facts.Unrecognised)


async def test_a_steering_message_joins_the_turn_and_a_queued_one_waits(lab: Lab) -> None:
    """Also when both come while a command runs."""
    lab.script(on("first", until_there(lab.work / "go"), {"text": "Done."}), on("later", {"text": "Later."}))
    async with lab.run(*ALL_TOOLS) as wire:
        first = await wire.send("first")
        await wire.until(lambda: any(progress.in_tool for progress in wire.told(Progress)))
        later = await wire.send("later")
        steering = await wire.send("mind the gap", Placing.STEER)
        await wire.until(lambda: wire.stages(later) and wire.stages(steering))
        (lab.work / "go").touch()
        turns = await wire.over(2)

    assert [(set(turn.message_ids), turn.outcome, turn.more) for turn in turns] == [
        ({first, steering}, "success", True), ({later}, "success", False),
    ]  # fmt: skip
    assert wire.stages(steering) == wire.stages(later) == ["accepted", "done"]
    assert "mind the gap" in json.dumps(lab.api.requests[1]["body"]["messages"])


async def test_an_interruption_ends_the_turn_and_the_program_goes_on(lab: Lab) -> None:
    """The exit code is that of the last turn."""
    lab.script(on("first", {"text": "Never.", "hold": "gate"}), on("second", {"text": "Fine."}))
    async with lab.run() as wire:
        first = await wire.send("first")
        await wire.until(lambda: wire.told(facts.TurnStarted))
        await wire.write(wire.dialect.interrupt())
        await wire.over(1)
        assert wire.dialect.interrupt() == b""

        await wire.send("second")
        turns = await wire.over(2)
        assert await wire.leave() == 0

    assert [turn.outcome for turn in turns] == ["interrupted", "success"]
    assert wire.stages(first) == ["accepted", "cancelled"]


async def test_an_interruption_withdraws_what_was_asked(lab: Lab) -> None:
    """Whoever is asked is told; a program whose last turn was interrupted exits with 1."""
    lab.script(on("first", shell("touch one"), {"text": "Made it."}))
    async with lab.run() as wire:
        await wire.send("first")
        approval = await wire.asked()
        await wire.write(wire.dialect.interrupt())
        (turn,) = await wire.over(1)
        assert await wire.leave() == 1

    assert [settled.request for settled in wire.told(ApprovalSettled)] == [approval.request]
    assert turn.outcome == "interrupted"
    assert list(lab.work.iterdir()) == []


async def test_a_denial_can_end_the_turn(lab: Lab) -> None:
    """The agent does not get to try another way."""
    lab.script(on("first", shell("touch one"), {"text": "Another way."}))
    async with lab.run() as wire:
        await wire.send("first")
        approval = await wire.asked()
        await wire.write(wire.dialect.decide(approval.request, Decision(allow=False, reason="stop", interrupt=True)))
        (turn,) = await wire.over(1)

    assert turn.outcome == "interrupted"
    assert len(lab.prompts()) == 1


async def test_a_question_gets_its_answer(lab: Lab) -> None:
    """The agent reads what the person said."""
    options = [{"label": label, "description": label} for label in ("Red", "Blue")]
    question = {"question": "Which colour?", "header": "Colour", "multiSelect": False, "options": options}
    lab.script(on("first", {"tool": "AskUserQuestion", "input": {"questions": [question]}}, {"text": "Thanks."}))
    async with lab.run() as wire:
        await wire.send("first")
        approval = await wire.asked()
        await wire.until(lambda: wire.told(Reading)[-1].detail == "question")
        await wire.write(wire.dialect.decide(approval.request, Decision(allow=True, reason="Green")))
        await wire.over(1)

    assert approval.summary == "Which colour?"
    assert '"Which colour?"="Green"' in json.dumps(lab.api.requests[1]["body"]["messages"]).replace('\\"', '"')


async def test_failures_of_the_provider_are_retried_and_then_told(lab: Lab) -> None:
    """Overload is tried again, a refused request is not."""
    lab.api.set_script({"turns": [{"error": 529}, {"text": "Recovered."}, {"error": 400, "message": "bad thing", "times": 9}]})
    async with lab.run() as wire:
        first = await wire.send("first")
        await wire.over(1)
        second = await wire.send("second")
        turns = await wire.over(2)
        assert await wire.leave() == 1

    assert [turn.outcome for turn in turns] == ["success", "error"]
    assert "bad thing" in turns[1].error
    assert [(retry.attempt, retry.error) for retry in wire.told(facts.Retried)] == [(1, "529 overloaded")]
    assert wire.stages(first) == ["accepted", "done"]
    assert wire.stages(second) == ["accepted", "failed"]


async def test_a_usage_limit_parks_the_session_until_it_ends(lab: Lab) -> None:
    """As the provider says it to who has a plan rather than a key."""
    resets = int(time.time()) + 3600
    headers = {
        "anthropic-ratelimit-unified-status": "rejected", "anthropic-ratelimit-unified-reset": str(resets),
        "anthropic-ratelimit-unified-representative-claim": "five_hour", "x-should-retry": "false",
    }  # fmt: skip
    lab.script(on("first", {"error": 429, "headers": headers, "times": 9}))
    async with lab.run(env={"ANTHROPIC_API_KEY": "", "CLAUDE_CODE_OAUTH_TOKEN": "sk-ant-oat01-test"}) as wire:
        await wire.send("first")
        await wire.until(lambda: wire.told(facts.TurnCompleted) and wire.told(Receipt)[-1].stage == "failed")
        await wire.leave()

    assert wire.told(facts.Limited) == [facts.Limited(kind="five_hour", until_us=resets * 1_000_000)]
    assert wire.told(facts.TurnCompleted)[0].outcome == "limit"
    assert wire.state() is State.LIMITED


async def test_its_own_limits_end_a_turn(lab: Lab) -> None:
    """Rounds of the model are counted anew for each message; money is not."""
    lab.script(on("first", shell("echo 1"), shell("echo 2"), shell("echo 3"), {"text": "Done."}))
    async with lab.run(*ALL_TOOLS, max_turns=2) as wire:
        await wire.send("first")
        (turn,) = await wire.over(1)
        assert await wire.leave() == 1
    assert (turn.outcome, turn.error) == ("limit", "Reached maximum number of turns (2)")

    async with lab.run(*ALL_TOOLS, max_budget_usd=0.0001) as wire:
        await wire.send("first")
        await wire.over(1)
        await wire.send("first again")
        turns = await wire.over(2)
    assert [turn.outcome for turn in turns] == ["limit", "limit"]


async def test_a_killed_session_goes_on_and_takes_no_message_twice(lab: Lab) -> None:
    """The id is kept. Sent again, a message that was answered is not begun again; one that nobody had answered is."""
    lab.script(on("cut", {"text": "Never.", "hold": "gate"}), on("first", {"text": "One."}))
    async with lab.run(session=(session := str(uuid.uuid4()))) as wire:
        first = await wire.send("first")
        await wire.over(1)
        cut = await wire.send("cut this")
        await wire.until(lambda: len(wire.told(facts.TurnStarted)) == 2)
        await wire.kill()
    lab.script(on("cut", {"text": "Went on."}), on("first", {"text": "Again!"}))

    async with lab.run(resume=session) as wire:
        await wire.send("first", id_=first)
        await wire.until(lambda: wire.stages(first) == ["accepted", "done"])
        assert wire.told(facts.TurnStarted) == []

        await wire.send("cut this", id_=cut)
        (turn,) = await wire.over(1)

    assert (turn.message_ids, turn.summary) == ((cut,), "Went on.")
    assert [each.vendor_session for each in wire.told(facts.Identified) if each.vendor_session] == [session]


async def test_a_session_that_ended_well_counts_on(lab: Lab) -> None:
    """What it had used before is told as such; so it is known what this process has used."""
    lab.script(on("first", {"text": "One."}), on("more", {"text": "Two."}))
    session = str(uuid.uuid4())
    async with lab.run(session=session) as wire:
        await wire.send("first")
        await wire.over(1)
        assert await wire.leave() == 0

    async with lab.run(resume=session) as wire:
        await wire.send("more")
        await wire.over(1)

    assert [(usage.before, usage.input_tokens) for usage in wire.told(Cumulative)] == [(True, 100), (False, 200)]


async def test_a_session_that_is_not_there_is_said_to_be_missing(lab: Lab) -> None:
    """The program exits; the words are on the stream and on stderr."""
    async with lab.run(resume=str(uuid.uuid4())) as wire:
        assert await wire.exit() == 1

    assert b"No conversation found" in wire.errors
    assert [item.kind for item in wire.told(facts.ItemCompleted)] == ["error"]
    assert wire.told(facts.TurnCompleted) == []


async def test_background_work_is_waited_for(lab: Lab) -> None:
    """The agent is at its prompt while its command runs, and wakes when that has ended; only then nothing more is to come."""
    command = until_there(lab.work / "go")["input"]["command"]
    call = {"tool": "Bash", "input": {"command": command, "run_in_background": True}}
    lab.api.set_script({"rules": [on("first", call, {"text": "Started."})], "default": {"text": "Noticed."}})
    async with lab.run(*ALL_TOOLS) as wire:
        await wire.send("first")
        (turn,) = await wire.over(1)
        assert turn.more

        (lab.work / "go").touch()
        turns = await wire.over(2)

    assert [turn.more for turn in turns] == [True, False]
    assert ("notice", True) in kinds(wire.told(facts.ItemCompleted))


async def test_a_sub_agent_keeps_the_session_busy(lab: Lab) -> None:
    """Its doings are told as its own, and the agent hears of them in a turn that nobody asked for."""
    task = {"tool": "Agent", "input": {"description": "look", "prompt": "sub please", "subagent_type": "general-purpose"}}
    lab.script(on("sub please", shell("echo sub"), {"text": "Looked."}), on("first", task, {"text": "Sent."}))
    async with lab.run(*ALL_TOOLS) as wire:
        await wire.send("first")
        turns = await wire.over(2)

    assert [turn.more for turn in turns] == [True, False]
    items = wire.told(facts.ItemCompleted)
    assert {item.summary for item in items if item.agent and item.kind != "notice"} == {"echo sub", "Looked."}
    assert State.PROMPT not in [reading.state for reading in wire.told(Reading)[1:-1]]


async def test_a_probe_is_answered_while_a_command_runs(lab: Lab) -> None:
    """And costs nothing at the provider."""
    lab.script(on("first", until_there(lab.work / "go"), {"text": "Done."}))
    async with lab.run(*ALL_TOOLS) as wire:
        await wire.send("first")
        await wire.until(lambda: any(progress.in_tool for progress in wire.told(Progress)))
        before, asked = len(wire.reports), len(lab.api.requests)

        await wire.write(wire.dialect.probe())
        await wire.until(lambda: Progress(what="heartbeat") in wire.reports[before:])
        assert len(lab.api.requests) == asked

        (lab.work / "go").touch()
        await wire.over(1)


async def test_any_text_arrives_whole_as_one_message(lab: Lab) -> None:
    """Many lines, odd line ends, a quarter of a megabyte; a peer's text is not searched for file names."""
    lab.script(on("strange", {"text": "Read."}))
    text = "strange\n\ttext\u2028and\u2029more\x85\r\n\U0001f600 @/etc/hostname " + "word " * 50_000 + "end"
    async with lab.run() as wire:
        message = await wire.send(text, origin=Origin(kind="session", cli="codex", id="w2"))
        (turn,) = await wire.over(1)

    assert turn.message_ids == (message,)
    messages = lab.api.requests[-1]["body"]["messages"]
    assert text in [block.get("text") for block in messages[0]["content"]]
    assert "Result of calling the Read tool" not in json.dumps(messages)


async def test_closing_the_input_lets_the_turn_under_way_end(lab: Lab) -> None:
    """And what waits in the program is still done; what it asks then is refused."""
    lab.script(on("first", until_there(lab.work / "go"), shell("touch one"), {"text": "Done."}), on("second", {"text": "Too."}))
    async with lab.run("--allowedTools", f"Bash({sys.executable}:*)") as wire:
        await wire.send("first")
        await wire.until(lambda: any(progress.in_tool for progress in wire.told(Progress)))
        second = await wire.send("second")
        await wire.until(lambda: wire.stages(second))
        assert wire.process.stdin is not None
        wire.process.stdin.close()
        (lab.work / "go").touch()
        assert await wire.exit() == 0

    turns = wire.told(facts.TurnCompleted)
    assert [turn.outcome for turn in turns] == ["success", "success"]
    assert turns[1].message_ids == (second,)
    assert not (lab.work / "one").exists()


async def test_one_prompt_is_one_turn(lab: Lab) -> None:
    """The same output is read of a program that takes no messages; what would have to be asked is denied by itself."""
    lab.script(on("first", shell("touch one"), {"text": "Not allowed."}))
    async with lab.run(*("--allowedTools", "Read"), mode=Mode.ONCE, prompt="first") as wire:
        assert await wire.exit() == 0

    assert [receipt.stage for receipt in wire.told(Receipt)] == ["accepted", "done"]
    assert [turn.summary for turn in wire.told(facts.TurnCompleted)] == ["Not allowed."]
    assert [noted.kind for noted in wire.told(facts.Noted)] == ["permission_denied"]
    assert list(lab.work.iterdir()) == []


async def test_a_program_that_dies_at_once_says_why_on_stderr(lab: Lab) -> None:
    """Nothing is on the stream."""
    async with lab.run("--no-such-flag") as wire:
        assert await wire.exit() == 1

    assert b"unknown option" in wire.errors
    assert wire.reports == []
