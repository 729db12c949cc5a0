"""Failures that systems of this kind have shown. Each test is named after one, and would catch it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from harness.processes import Identity, find
from harness.sessions import facts
from harness.sessions.facts import ExitReason, MessageStatus, State

if TYPE_CHECKING:
    from tests.conftest import Hosted


async def test_01_a_busy_agent_that_shows_a_prompt_gets_nothing_typed_into_its_turn(hosted: Hosted) -> None:
    """`> quote` and `NORMAL` on the screen of a busy agent are no prompt: three messages wait, and arrive in order after it."""
    journal = hosted.root / "journal"
    program = hosted.twin("claude", "--shows-prompt", "--work", "1.5", "--turn", "1", "--journal", str(journal))
    agent = await hosted.launch(program, mode="pty")
    first = await hosted.sessions.send(agent.key, "work on it")
    await hosted.reached(agent, first, "accepted")

    waiting = [await hosted.sessions.send(agent.key, f"message {number}") for number in range(3)]
    during = [event.type for event in await hosted.events(agent) if event.type == facts.WRITTEN]
    await hosted.reached(agent, waiting[-1], "done")

    assert len(during) == 1
    told = [
        (event.type, event.payload["message_id"])
        for event in await hosted.events(agent)
        if event.type in (facts.WRITTEN, facts.COMPLETED)
    ]
    assert told == [(type_, id_) for id_ in (first, *waiting) for type_ in (facts.WRITTEN, facts.COMPLETED)]
    text = journal.read_text()
    assert [text.count(f"message {number}") >= 1 for number in range(3)] == [True] * 3


async def test_02_waiting_for_idle_returns_when_the_turn_is_over_and_not_before(hosted: Hosted) -> None:
    """A task of one second is waited for as long as it takes, on the turn that the message began."""
    agent = await hosted.rehearse("claude", "--work", "1", mode="stream")
    await hosted.state(agent, "prompt")
    began = time.monotonic()

    code, output, _ = await hosted.command("send", "--id", agent.id, "--wait-for-idle", "--timeout", "30", "task")

    seconds = time.monotonic() - began
    assert (code, json.loads(output)["status"]) == (0, "done")
    assert 1.0 <= seconds < 15.0
    completed = await hosted.until(agent, facts.TURN_COMPLETED)
    assert completed.load(facts.TurnCompleted).message_ids == (json.loads(output)["message_id"],)


async def test_03_a_send_that_timed_out_is_never_delivered(hosted: Hosted) -> None:
    """After 124 the message is withdrawn: the agent does not see it when it is at its prompt again."""
    journal = hosted.root / "journal"
    agent = await hosted.rehearse("claude", "--hangs", "--turn", "1", "--journal", str(journal), mode="stream")
    first = await hosted.sessions.send(agent.key, "work")
    await hosted.state(agent, "busy")

    code, _, errors = await hosted.command("send", "--id", agent.id, "--timeout", "0.3", "too late")
    await hosted.sessions.interrupt(agent.key, by="test")
    await hosted.reached(agent, first, "done", "failed")
    after = await hosted.said(agent, "after")

    assert code == 124
    assert "withdrawn" in errors
    assert after.status is MessageStatus.DONE
    assert "too late" not in journal.read_text()


async def test_04_a_killed_supervisor_is_on_record_and_nobody_hangs(hosted: Hosted) -> None:
    """Followers end, `wait` does not return 0, the agent is no orphan, and the id can be used, all within moments."""
    agent = await hosted.rehearse("claude", id="w1", mode="stream")
    session = await hosted.state(agent, "prompt")
    follower = asyncio.create_task(hosted.command("events", "--id", "w1", "--follow"))
    waiter = asyncio.create_task(hosted.command("wait", "--id", "w1"))
    await asyncio.sleep(1)  # for both to be at it; neither is needed for the outcome
    began = time.monotonic()

    os.kill(agent.host_pid, signal.SIGKILL)
    ended = await hosted.ended(agent)
    seconds = time.monotonic() - began
    events_code, printed, _ = await follower
    wait_code, _, _ = await waiter

    assert ended.state is State.LOST
    assert seconds < 5
    assert wait_code != 0
    assert events_code == 0
    assert json.loads(printed.splitlines()[-1])["reason"] == "lost"
    assert not Identity(pid=agent.pid, started=session.pid_started).alive()
    assert (await hosted.rehearse("claude", id="w1", mode="stream")).key != agent.key


async def test_05_stop_types_nothing_into_a_shell_and_says_what_was_needed(hosted: Hosted) -> None:
    """bash is not sent `/exit`; it ends, its children too, and a second stop finds it ended."""
    agent = await hosted.launch("bash", "--norc", "-i", mode="pty")
    await hosted.state(agent, "prompt")

    code, output, errors = await hosted.command("stop", "--id", agent.id, "--timeout", "10")
    again, _, _ = await hosted.command("stop", "--id", agent.id)

    transcript = (hosted.home / "sessions" / agent.id / "transcript.log").read_bytes()
    assert (code, again) == (0, 0)
    assert b"/exit" not in transcript
    assert "SIG" in output + errors
    assert find(f"session/{agent.key}") == []


async def test_06_64_kilobytes_of_stderr_do_not_deadlock(hosted: Hosted) -> None:
    """Whatever an agent writes to stderr, its messages go on."""
    agent = await hosted.rehearse("claude", "--stderr", "1", mode="stream")

    assert (await hosted.said(agent, "go")).status is MessageStatus.DONE


async def test_07_waiting_for_the_task_matches_no_older_turn_and_no_older_session(hosted: Hosted) -> None:
    """With one turn done in this run and one in an older run of the id, only the last message's turn counts."""
    older = await hosted.rehearse("claude", id="w1", mode="stream")
    await hosted.said(older, "done before")
    await hosted.sessions.stop(older.key, by="test", timeout_seconds=5)
    await hosted.ended(older)
    agent = await hosted.rehearse("claude", "--work", "1", id="w1", mode="stream")
    none, _, _ = await hosted.command("wait", "--id", "w1", "--until", "task_complete", "--timeout", "0.5")
    await hosted.said(agent, "first")
    second = await hosted.sessions.send(agent.key, "second")

    code, _, _ = await hosted.command("wait", "--id", "w1", "--until", "task_complete", "--timeout", "20")

    session = await hosted.sessions.get(agent.key)
    assert none == 124
    assert code == 0
    assert session.messages[second].status is MessageStatus.DONE


async def test_08_exit_0_is_success_and_a_stop_is_no_failure(hosted: Hosted) -> None:
    """An agent that ended by itself with 0 succeeded; one that was stopped was stopped, whatever its code."""
    done = await hosted.launch("sh", "-c", "sleep 0.3; exit 0", mode="once")
    stopped = await hosted.launch("sleep", "1000", mode="once")
    await hosted.sessions.stop(stopped.key, by="test", timeout_seconds=5)

    first, second = await hosted.ended(done), await hosted.ended(stopped)

    assert first.exited is not None
    assert second.exited is not None
    assert (first.exited.reason, first.exited.code) == (ExitReason.SUCCESS, 0)
    assert (second.exited.reason, second.exited.signal) == (ExitReason.STOPPED, signal.SIGTERM)


async def test_09_an_exit_of_7_is_7_although_a_child_holds_the_terminal(hosted: Hosted) -> None:
    """`wait` returns the agent's code, and the child that it left is gone."""
    agent = await hosted.launch("sh", "-c", "sleep 1000 & sleep 0.5; exit 7", mode="pty")

    code, output, _ = await hosted.command("wait", "--id", agent.id)

    assert code == 7
    assert json.loads(output)["code"] == 7
    assert find(f"session/{agent.key}") == []


async def test_10_nothing_is_injected_into_an_agent_that_has_finished(hosted: Hosted) -> None:
    """The watch sees it finish and ends with its code; it sends nothing, however short its patience."""
    journal = hosted.root / "journal"
    program = hosted.twin("claude", "--exit", "0", "--turn", "1", "--journal", str(journal))

    code, output, errors = await hosted.command(
        "run", program, "--mode", "stream", "--watch", "--stall-after", "2s", "--max-resumes", "3", "--id", "w1",
        "--context", "do it",
    )  # fmt: skip

    assert code == 0, output + errors
    assert "resume" not in output.replace("max-resumes", "").replace("resumes=0", "")
    session = await hosted.sessions.get("w1")
    assert [message.text for message in session.messages.values()] == ["[harness session id=w1] do it"]


async def test_11_files_are_private_ids_stay_inside_and_control_bytes_do_no_harm(hosted: Hosted) -> None:
    """No id leads out of the state's folder, and Ctrl-C in a message does not reach the agent's terminal."""
    outside, _, told = await hosted.command("run", "--id", "../../x", "--detach", "cat")
    agent = await hosted.launch("cat", mode="pty")
    code, _, _ = await hosted.command("send", "--id", agent.id, "--message", "a\x03\x1b[201~\x04b")

    assert outside == 2
    assert "--id" in told or "id" in told
    assert code in (0, 1, 2)
    assert (await hosted.said(agent, "still here")).status is MessageStatus.DONE
    assert (hosted.home / "sessions").stat().st_mode & 0o077 == 0
    assert all(file.stat().st_mode & 0o077 == 0 for file in (hosted.home / "sessions" / agent.id).iterdir())


async def test_11_200_idle_connections_cost_no_threads(hosted: Hosted) -> None:
    """Viewers are served by one loop; more than there is room for are turned away."""
    agent = await hosted.launch("cat", mode="pty")
    await hosted.state(agent, "prompt")
    folder = hosted.home / "sessions" / agent.id
    threads = len(list(Path(f"/proc/{agent.host_pid}/task").iterdir()))
    back = Path.cwd()
    os.chdir(folder)
    try:
        sockets = [socket.socket(socket.AF_UNIX) for _ in range(200)]
        for each in sockets:
            each.connect("host.sock")
    finally:
        os.chdir(back)

    message = await hosted.said(agent, "hello")

    assert message.status is MessageStatus.DONE
    assert len(list(Path(f"/proc/{agent.host_pid}/task").iterdir())) == threads
    for each in sockets:
        each.close()


async def test_12_frozen_hosts_do_not_slow_status(hosted: Hosted) -> None:
    """`status` asks no host: with all of them stopped it still lists them, and no slower than one connection's timeout."""
    agents = [await hosted.launch("cat", mode="pty") for _ in range(3)]
    for each in agents:
        os.kill(each.host_pid, signal.SIGSTOP)
    try:
        code, output, _ = await hosted.command("status", "--all", "--json")
    finally:
        for each in agents:
            os.kill(each.host_pid, signal.SIGCONT)

    assert code == 0
    assert {row["id"] for row in json.loads(output)} == {each.id for each in agents}


async def test_13_a_tool_in_a_session_of_its_own_does_not_outlive_a_killed_agent(hosted: Hosted) -> None:
    """SIGKILL of the agent leaves its running tool, which the host finds by its mark and ends."""
    script = (
        "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(1000)'],"
        " start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL); print('tool', flush=True);"
        " time.sleep(1000)"
    )
    agent = await hosted.launch(sys.executable, "-c", script, mode="once")
    async with asyncio.timeout(20):
        while len(find(f"session/{agent.key}")) < 2:
            await asyncio.sleep(0.01)

    os.kill(agent.pid, signal.SIGKILL)
    ended = await hosted.ended(agent)

    assert ended.exited is not None
    assert (ended.exited.reason, ended.exited.signal) == (ExitReason.KILLED, signal.SIGKILL)
    assert find(f"session/{agent.key}") == []


@pytest.mark.parametrize("word", ["\x1b[201~", "\x03", "\x00", "\x1b]0;x\x07"])
async def test_11_no_control_bytes_reach_a_terminal(hosted: Hosted, word: str) -> None:
    """Whoever sends them, they are taken out or refused before anything is typed."""
    journal = hosted.root / "journal"
    agent = await hosted.launch(hosted.twin("claude", "--journal", str(journal)), mode="pty")
    await hosted.state(agent, "prompt")

    message = await hosted.said(agent, f"before{word}after", "done", "failed")

    assert message.status is MessageStatus.DONE
    assert word not in message.text
    assert Identity.of(agent.pid).alive()
