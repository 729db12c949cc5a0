"""The real Codex at a terminal of ours; its model is a scripted one on loopback."""

from __future__ import annotations

import asyncio
import os
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
from harness.sessions.reports import ApprovalAsked, ApprovalSettled, Cumulative, Decision, Receipt
from harness.sessions.transports.profiles import CODEX
from harness.sessions.transports.terminal import TerminalSpec, TerminalTransport

pytestmark = [pytest.mark.real, pytest.mark.timeout(180)]

ASKING = ("-c", 'approval_policy="on-request"', "-s", "read-only")
LEAVE = {"sandbox_permissions": "require_escalated", "justification": "it must be"}
SCRIPT: dict[str, Any] = {
    "rules": [
        {"prompt": "hold it", "turns": [{"text": "It was held.", "hold": "gate"}]},
        {"prompt": "make it", "turns": [
            {"tools": [{"name": "exec_command", "input": {"cmd": "touch made\ntouch more", **LEAVE}}]}, {"text": "It is made."},
        ]},
        {"prompt": "take long", "turns": [
            {"tools": [{"shell": "echo long"}], "usage": {"input": 1_000, "cache_read": 200}},
            {"text": "It is over.", "hold": "gate"},
        ]},
        {"prompt": "delegate it", "turns": [
            {"tools": [{"name": "spawn_agent", "input": {"message": "look", "task_name": "look"}}], "usage": {"input": 1_000}},
            {"text": "It is looked for.", "usage": {"input": 20_000}},
        ]},
        {"prompt": "fail", "turns": [{"error": {"status": 400, "message": "that is not possible"}, "times": 9}]},
    ],
    "default": {"text": "Hello."},
}  # fmt: skip


@pytest.fixture
def model() -> Iterator[MockModel]:
    with MockModel(SCRIPT) as model:
        yield model


Start = Callable[..., Awaitable[Running]]


@pytest.fixture
async def codex(tmp_path: Path, model: MockModel) -> AsyncIterator[Start]:
    """Starts it in a home of its own, in a folder that it trusts, without a daemon of its own."""
    cli = real_program("codex")
    if not cli:
        pytest.skip("codex is missing: install it, or name it in HARNESS_TEST_CODEX")
    work, home = tmp_path / "work", tmp_path / "home"
    for folder in (work, home):
        folder.mkdir()
    subprocess.run(["git", "init", "-q", str(work)], check=True)
    running: list[Running] = []

    async def start(*args: str, trusted: bool = True) -> Running:
        (home / "config.toml").write_text(f"""
model = "gpt-5.5-codex"
model_provider = "scripted"
analytics.enabled = false
features.daemon_auto_start = false
[model_providers.scripted]
name = "scripted"
base_url = "{model.url}/v1"
env_key = "SCRIPTED_KEY"
wire_api = "responses"
request_max_retries = 1
{f'[projects."{work}"]' if trusted else ""}
{'trust_level = "trusted"' if trusted else ""}
""")
        env = {
            "HOME": str(home), "CODEX_HOME": str(home), "PATH": os.environ["PATH"], "TMPDIR": str(tmp_path),
            "SCRIPTED_KEY": "test-key", "TERM": "xterm-256color", "LANG": "C.UTF-8",
        }  # fmt: skip
        folder = tmp_path / "session"
        folder.mkdir(exist_ok=True)
        spec = TerminalSpec(
            argv=(cli, *args), env=env, cwd=work, tag="test/terminal", size=Size(), folder=folder, profile=CODEX
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


async def test_a_message_of_many_lines_is_one_prompt(codex: Start, model: MockModel) -> None:
    """It comes to the model whole; the program's status is its receipt, and `notify` brings its last words."""
    agent = await codex(*ASKING)
    await agent.prompt(Source.PROTOCOL)
    await agent.prompt(Source.SCREEN)
    text = "first line\n\tindented\n\n" + "\n".join(f"line {number}" for number in range(60))

    await agent.send(text)
    ended = await over(agent)

    assert prompts(model) == [text]
    (receipt,) = agent.all(Receipt)
    assert (receipt.stage, receipt.message_id) == ("accepted", "m1")
    assert (ended.outcome, ended.summary, ended.message_ids) == ("success", "Hello.", ("m1",))
    told = agent.all(facts.Identified)
    assert any(each.vendor_session for each in told)
    assert {each.model for each in told} - {""} == {"gpt-5.5-codex"}
    assert any(each.cli_version for each in told)


async def test_it_is_busy_and_takes_what_steers_it(codex: Start, model: MockModel) -> None:
    """Both messages are done with the one turn."""
    agent = await codex(*ASKING)
    await agent.prompt(Source.SCREEN)
    await agent.send("please hold it")
    await asyncio.to_thread(model.wait_held, "gate")
    await agent.reads(State.BUSY, Source.PROTOCOL)
    await agent.reads(State.BUSY, Source.SCREEN)

    await agent.send("and think of this", "m2", placing=Placing.STEER)
    model.release("gate")
    ended = await over(agent)

    assert ended.message_ids == ("m1", "m2")
    assert "and think of this" in prompts(model)


async def test_leave_is_given_by_keys(codex: Start, tmp_path: Path) -> None:
    """Its dialog is read, and answered only as long as it is the same."""
    agent = await codex(*ASKING)
    await agent.prompt(Source.SCREEN)
    await agent.send("please make it")
    await agent.until(lambda: agent.all(ApprovalAsked))
    (asked,) = agent.all(ApprovalAsked)
    reading = await agent.reads(State.BLOCKED, Source.PROTOCOL)
    with pytest.raises(UsageError, match="asks something now"):
        await agent.send("not into a dialog", "m2")

    await agent.transport.decide(asked.request, Decision(allow=True))
    ended = await over(agent)

    assert reading.detail == "permission"
    assert (asked.tool, asked.arguments) == ("exec_command", {"command": "touch made\ntouch more"})
    assert (tmp_path / "work" / "more").exists()
    assert ended.summary == "It is made."
    with pytest.raises(NotFound):
        await agent.transport.decide(asked.request, Decision(allow=True))


async def test_leave_is_denied_by_keys(codex: Start, tmp_path: Path) -> None:
    """Which ends the turn: Codex then waits to be told what to do instead."""
    agent = await codex(*ASKING)
    await agent.prompt(Source.SCREEN)
    await agent.send("please make it")
    await agent.until(lambda: agent.all(ApprovalAsked))

    await agent.transport.decide(agent.all(ApprovalAsked)[0].request, Decision(allow=False, reason="no"))
    ended = await over(agent)

    assert ended.outcome == "interrupted"
    assert not (tmp_path / "work" / "made").exists()


async def test_a_person_at_the_terminal_answers_first(codex: Start) -> None:
    """The approval is settled."""
    agent = await codex(*ASKING)
    await agent.prompt(Source.SCREEN)
    await agent.send("please make it")
    await agent.until(lambda: agent.all(ApprovalAsked))

    agent.transport.keys(b"y")
    await agent.until(lambda: agent.all(ApprovalSettled))
    ended = await over(agent)

    assert ended.outcome == "success"


async def test_esc_ends_the_turn(codex: Start, model: MockModel) -> None:
    """And at the prompt it is not pressed."""
    agent = await codex(*ASKING)
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


async def test_a_failed_turn_says_so(codex: Start) -> None:
    """An error of the provider's ends it."""
    agent = await codex(*ASKING)
    await agent.prompt(Source.SCREEN)

    await agent.send("please fail")

    assert (await over(agent)).outcome == "error"


async def test_what_it_uses_is_counted_before_its_first_turn_is_over(codex: Start, model: MockModel) -> None:
    """Though nothing has named its record yet; the title that it gives itself is not in it."""
    agent = await codex("take long")
    await asyncio.to_thread(model.wait_held, "gate")

    await agent.until(lambda: any(used.input_tokens for used in agent.all(Cumulative)))
    assert not any(told.vendor_session for told in agent.all(facts.Identified))
    model.release("gate")
    await agent.until(lambda: any(told.vendor_session for told in agent.all(facts.Identified)))
    await agent.until(lambda: agent.all(Cumulative)[-1].input_tokens == 1_100)

    assert {(used.model, used.cached_tokens) for used in agent.all(Cumulative) if not used.before} == {("gpt-5.5-codex", 200)}


async def test_what_its_sub_agents_use_is_counted(codex: Start) -> None:
    """They have records of their own, and to the same conversation the model gives them the same answer."""
    agent = await codex("-c", "features.multi_agent_v2=true", "delegate it")

    await agent.until(lambda: any(used.input_tokens >= 41_000 for used in agent.all(Cumulative)))

    assert agent.all(Cumulative)[-1].input_tokens == 41_000


async def test_it_is_left_in_its_own_way(codex: Start) -> None:
    """From its idle prompt, with exit code 0."""
    agent = await codex(*ASKING)
    await agent.prompt(Source.SCREEN)
    await agent.send("a draft", submit=False)

    assert await agent.transport.leave()

    async with asyncio.timeout(PATIENCE_SECONDS):
        assert await agent.process.wait() == Exit(code=0, signal=None)


async def test_the_trust_dialog_is_left_to_a_person(codex: Start, model: MockModel) -> None:
    """Its default is to trust: nothing is typed."""
    agent = await codex(trusted=False)
    reading = await agent.reads(State.BLOCKED, Source.SCREEN)

    with pytest.raises(UsageError, match=r"asks something now \(trust\)"):
        await agent.send("hello")
    with pytest.raises(UsageError, match="asks something now"):
        await agent.send("", only_submit=True)
    assert not await agent.transport.leave()
    await asyncio.sleep(0.3)

    assert reading.detail == "trust"
    assert agent.process.exit is None
    assert prompts(model) == []
