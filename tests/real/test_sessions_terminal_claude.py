"""The real Claude Code at a terminal of ours; its model is a scripted one on loopback."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.session_rigs import real_program
from tests.terminal_running import PATIENCE_SECONDS, Running

from harness.errors import NotFound, UsageError
from harness.processes import Exit, RotatingLog, Size
from harness.sessions import facts
from harness.sessions.facts import Placing, Source, State
from harness.sessions.mock_model import MockModel
from harness.sessions.reports import ApprovalAsked, ApprovalSettled, Cumulative, Decision, Reading, Receipt
from harness.sessions.transports.profiles import CLAUDE
from harness.sessions.transports.terminal import TerminalSpec, TerminalTransport

pytestmark = [pytest.mark.real, pytest.mark.timeout(180)]

MANUAL = ("--permission-mode", "manual")
TOOL = [{"text": "I will run it.", "tools": [{"shell": "touch made"}]}, {"text": "It is made."}]
SCRIPT: dict[str, Any] = {
    "rules": [
        {"prompt": "hold it", "turns": [{"text": "It was held.", "hold": "gate"}]},
        {"prompt": "make it", "turns": TOOL},
        {"prompt": "ask me", "turns": [
            {"tools": [{"name": "AskUserQuestion", "input": {"questions": [{
                "question": "Which colour?", "header": "Colour", "multiSelect": False,
                "options": [{"label": "Red", "description": "r"}, {"label": "Blue", "description": "b"}],
            }]}}]},
            {"text": "I went on."},
        ]},
        {"prompt": "fail", "turns": [{"error": {"status": 400, "message": "that is not possible"}, "times": 9}]},
        {"prompt": "in the background", "turns": [
            {"tools": [{"name": "Bash", "input": {
                "command": "python3 -c 'import time; time.sleep(60)'", "run_in_background": True, "description": "later",
            }}]},
            {"text": "It goes on."},
        ]},
        {"prompt": r"delegate it", "turns": [
            {"tools": [{"name": "Agent", "input": {
                "description": "look", "prompt": "look around", "subagent_type": "general-purpose",
            }}], "usage": {"input": 1_000}},
            {"text": "It is looked for.", "usage": {"input": 2_000}},
        ]},
        {"prompt": "look around", "turns": [{"text": "I looked.", "usage": {"input": 40_000}}]},
    ],
    "default": {"text": "Hello."},
}  # fmt: skip


def program() -> str:
    """By its variable, on PATH, or what the Python package brings."""
    found = real_program("claude")
    if found:
        return found
    try:
        import claude_agent_sdk  # pyright: ignore[reportMissingImports]
    except ImportError:
        return ""
    bundled = Path(claude_agent_sdk.__file__).parent / "_bundled" / "claude"
    return str(bundled) if bundled.exists() else ""


@pytest.fixture
def model() -> Iterator[MockModel]:
    with MockModel(SCRIPT) as model:
        yield model


Start = Callable[..., Awaitable[Running]]


@pytest.fixture
async def claude(tmp_path: Path, model: MockModel) -> AsyncIterator[Start]:
    """Starts it in a home of its own, in a folder that it trusts."""
    cli = program()
    if not cli:
        pytest.skip("claude is missing: install it, or name it in HARNESS_TEST_CLAUDE")
    work, home, temporary = (tmp_path / name for name in ("work", "home", "t"))
    for folder in (work, home, temporary):
        folder.mkdir()
    running: list[Running] = []

    async def start(*args: str, trusted: bool = True, approved: bool = True) -> Running:
        seen = {
            "hasCompletedOnboarding": True, "theme": "dark",
            **({"customApiKeyResponses": {"approved": ["test-key"]}} if approved else {}),
            **({"projects": {str(work): {"hasTrustDialogAccepted": True}}} if trusted else {}),
        }  # fmt: skip
        (home / ".claude.json").write_text(json.dumps(seen))
        env = {
            "HOME": str(home), "PATH": os.environ["PATH"], "TMPDIR": str(temporary), "CLAUDE_CODE_TMPDIR": str(temporary),
            "ANTHROPIC_BASE_URL": model.url, "ANTHROPIC_API_KEY": "test-key", "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "DISABLE_AUTOUPDATER": "1", "TERM": "xterm-256color", "LANG": "C.UTF-8", "SHELL": shutil.which("bash") or "/bin/sh",
        }  # fmt: skip
        folder = tmp_path / "session"
        folder.mkdir(exist_ok=True)
        spec = TerminalSpec(
            argv=(cli, *args), env=env, cwd=work, tag="test/terminal", size=Size(), folder=folder, profile=CLAUDE
        )
        each = Running(TerminalTransport(spec, transcript=RotatingLog(folder / "transcript.log")), folder)
        await each.start()
        running.append(each)
        return each

    yield start
    for each in running:
        await each.process.stop(grace_seconds=5)
        await each.transport.close()


def prompts(model: MockModel) -> list[str]:
    return [request.prompt for request in model.requests if request.main]


async def over(agent: Running, number: int = 1) -> facts.TurnCompleted:
    await agent.until(lambda: len(agent.all(facts.TurnCompleted)) >= number)
    return agent.all(facts.TurnCompleted)[number - 1]


async def test_it_is_ready_and_says_who_it_is(claude: Start) -> None:
    """By its own status, its hooks and its screen."""
    agent = await claude(*MANUAL)

    await agent.prompt(Source.PROTOCOL)
    await agent.prompt(Source.SCREEN)

    await agent.until(lambda: len(agent.all(facts.Identified)) == 2)
    (who,) = [told for told in agent.all(facts.Identified) if told.vendor_session]
    (which,) = [told.cli_version for told in agent.all(facts.Identified) if told.cli_version]
    assert who.transcript.endswith(f"{who.vendor_session}.jsonl")
    assert who.model
    assert which in subprocess.run([program(), "--version"], capture_output=True, text=True, check=True).stdout


async def test_a_message_of_many_lines_is_one_prompt(claude: Start, model: MockModel) -> None:
    """It comes to the model whole, and its receipt is the program's own."""
    agent = await claude(*MANUAL)
    await agent.prompt(Source.SCREEN)
    text = "first line\n\tindented\n\n" + "\n".join(f"line {number}" for number in range(60))

    await agent.send(text)
    ended = await over(agent)

    (asked,) = [prompt for prompt in prompts(model) if "first line" in prompt]
    assert " ".join(text.split()) in " ".join(asked.split())
    (receipt,) = agent.all(Receipt)
    assert (receipt.stage, receipt.message_id, receipt.proof) == ("accepted", "m1", "hook UserPromptSubmit")
    assert (ended.outcome, ended.summary, ended.message_ids) == ("success", "Hello.", ("m1",))
    await agent.prompt(Source.HOOK)


async def test_it_is_busy_and_takes_what_steers_it(claude: Start, model: MockModel) -> None:
    """Both messages are done with the one turn."""
    agent = await claude(*MANUAL)
    await agent.prompt(Source.SCREEN)
    await agent.send("please hold it")
    await asyncio.to_thread(model.wait_held, "gate")
    await agent.reads(State.BUSY, Source.PROTOCOL)
    await agent.reads(State.BUSY, Source.SCREEN)

    await agent.send("and think of this", "m2", placing=Placing.STEER)
    model.release("gate")
    ended = await over(agent)

    assert ended.message_ids == ("m1", "m2")
    assert any("and think of this" in prompt for prompt in prompts(model))


async def test_leave_is_asked_by_a_hook_and_given(claude: Start, tmp_path: Path) -> None:
    """No key is typed: the dialog goes by itself."""
    agent = await claude(*MANUAL)
    await agent.prompt(Source.SCREEN)
    await agent.send("please make it")
    await agent.until(lambda: agent.all(ApprovalAsked))
    (asked,) = agent.all(ApprovalAsked)
    blocked = [reading for reading in agent.all(Reading) if reading.state is State.BLOCKED]

    await agent.transport.decide(asked.request, Decision(allow=True))
    ended = await over(agent)

    assert (asked.tool, asked.arguments) == ("Bash", {"command": "touch made"})
    assert {reading.detail for reading in blocked} == {"permission"}
    assert (tmp_path / "work" / "made").exists()
    assert ended.summary == "It is made."
    (item,) = agent.all(facts.ItemCompleted)
    assert (item.name, item.summary, item.ok) == ("Bash", "touch made", True)
    with pytest.raises(NotFound):
        await agent.transport.decide(asked.request, Decision(allow=True))


async def test_leave_is_denied_with_a_reason(claude: Start, model: MockModel, tmp_path: Path) -> None:
    """The model is told why, and goes on."""
    agent = await claude(*MANUAL)
    await agent.prompt(Source.SCREEN)
    await agent.send("please make it")
    await agent.until(lambda: agent.all(ApprovalAsked))

    await agent.transport.decide(agent.all(ApprovalAsked)[0].request, Decision(allow=False, reason="not on this branch"))
    ended = await over(agent)

    assert not (tmp_path / "work" / "made").exists()
    assert "not on this branch" in json.dumps(model.requests[-1].body)
    assert ended.outcome == "success"


async def test_a_person_at_the_terminal_answers_first(claude: Start) -> None:
    """The approval is settled, and the hook goes."""
    agent = await claude(*MANUAL)
    await agent.prompt(Source.SCREEN)
    await agent.send("please make it")
    await agent.until(lambda: agent.all(ApprovalAsked))
    await agent.reads(State.BLOCKED, Source.SCREEN)
    with pytest.raises(UsageError, match=r"asks something now \(permission\)"):
        await agent.send("not into a dialog", "m2")

    await press(agent, b"\r", lambda: agent.all(ApprovalSettled))
    await over(agent)

    assert agent.all(ApprovalSettled)[0].request == agent.all(ApprovalAsked)[0].request
    with pytest.raises(NotFound):
        await agent.transport.decide(agent.all(ApprovalAsked)[0].request, Decision(allow=False))


async def press(agent: Running, keys: bytes, until: Callable[[], object]) -> None:
    """Keys that a dialog takes only when it has been open for a moment."""
    for _ in range(10):
        agent.transport.keys(keys)
        try:
            async with asyncio.timeout(2):
                await agent.until(until)
        except TimeoutError:
            continue
        return
    raise AssertionError(f"the dialog did not take {keys!r}")


async def test_a_question_cannot_be_allowed_but_denied(claude: Start) -> None:
    """It waits for a person; who is not there may say so."""
    agent = await claude(*MANUAL)
    await agent.prompt(Source.SCREEN)
    await agent.send("please ask me")
    await agent.until(lambda: agent.all(ApprovalAsked))
    reading = await agent.reads(State.BLOCKED, Source.SCREEN)

    await agent.transport.decide(agent.all(ApprovalAsked)[0].request, Decision(allow=False, reason="nobody is here"))
    ended = await over(agent)

    assert reading.detail == "question"
    assert ended.summary == "I went on."


async def test_esc_ends_the_turn_without_a_hook(claude: Start, model: MockModel) -> None:
    """Its status says so; and the next message is not put behind the one that came back into the composer."""
    agent = await claude(*MANUAL)
    await agent.prompt(Source.SCREEN)
    await agent.send("please hold it")
    await asyncio.to_thread(model.wait_held, "gate")
    await agent.reads(State.BUSY, Source.SCREEN)

    assert await agent.transport.interrupt()
    ended = await over(agent)
    await agent.prompt(Source.SCREEN)
    model.release("gate")
    assert not await agent.transport.interrupt()
    await agent.send("something else", "m2")
    after = await over(agent, 2)

    assert (ended.outcome, ended.message_ids) == ("interrupted", ("m1",))
    assert (after.outcome, after.message_ids) == ("success", ("m2",))
    assert prompts(model)[-1].endswith("something else")


async def test_a_failed_turn_says_so(claude: Start) -> None:
    """An error of the provider's ends it."""
    agent = await claude(*MANUAL)
    await agent.prompt(Source.SCREEN)

    await agent.send("please fail")
    ended = await over(agent)

    assert ended.outcome == "error"
    assert "that is not possible" in ended.error


async def test_work_in_the_background_does_not_keep_it_busy(claude: Start) -> None:
    """It calls itself working, and takes messages: it is at its prompt."""
    agent = await claude("--allowedTools", "Bash", *MANUAL)
    await agent.prompt(Source.SCREEN)

    await agent.send("run it in the background")
    ended = await over(agent)
    await agent.until(
        lambda: agent.all(Reading)[-1].detail == "background work goes on" and agent.state(Source.PROTOCOL) is State.PROMPT
    )
    await agent.send("and now this", "m2")
    after = await over(agent, 2)

    assert ended.more
    assert after.message_ids == ("m2",)


async def test_what_it_uses_is_counted(claude: Start) -> None:
    """By the turn, with what its sub-agents use, and on after `/clear`, which begins another record."""
    agent = await claude(*MANUAL, "--allowedTools", "Agent")
    await agent.prompt(Source.PROTOCOL)

    await agent.send("hello")
    first = await over(agent)
    await agent.until(lambda: counted(agent) == 100)
    assert {used.turn for used in agent.all(Cumulative)} == {first.turn}
    await agent.send("delegate it", "m2")
    await agent.until(lambda: counted(agent) >= 43_100)
    await agent.prompt(Source.PROTOCOL)
    before = counted(agent)
    await agent.send("/clear", "m3")
    await agent.until(lambda: len([told for told in agent.all(facts.Identified) if told.vendor_session]) == 2)
    await agent.send("hello again", "m4")
    await agent.until(lambda: counted(agent) > before)

    assert counted(agent) - before == 100


def counted(agent: Running) -> int:
    return sum({used.model: used.input_tokens for used in agent.all(Cumulative)}.values())


async def test_it_is_left_in_its_own_way(claude: Start) -> None:
    """From its idle prompt, with exit code 0; what was typed there is no part of it."""
    agent = await claude(*MANUAL)
    await agent.prompt(Source.SCREEN)
    await agent.send("a draft", submit=False)

    assert await agent.transport.leave()

    async with asyncio.timeout(PATIENCE_SECONDS):
        assert await agent.process.wait() == Exit(code=0, signal=None)


@pytest.mark.parametrize(
    ("seed", "detail"), [({"trusted": False}, "trust"), ({"approved": False}, "dialog")], ids=["trust", "key"]
)
async def test_a_dialog_at_the_start_is_left_to_a_person(
    claude: Start, model: MockModel, seed: dict[str, bool], detail: str
) -> None:
    """Nothing is typed: its default is to exit, or to refuse the key."""
    agent = await claude(**seed)
    reading = await agent.reads(State.BLOCKED, Source.SCREEN)
    shown = len(agent.shown)

    with pytest.raises(UsageError, match="asks something now"):
        await agent.send("hello")
    with pytest.raises(UsageError, match="asks something now"):
        await agent.send("", only_submit=True)
    assert not await agent.transport.leave()
    await asyncio.sleep(0.3)

    assert reading.detail == detail
    assert agent.process.exit is None
    assert len(agent.shown) - shown < 2000
    assert prompts(model) == []
