"""A real host, with rehearsed agents that speak the protocols, and with commands that speak none."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.errors import HarnessError
from harness.processes import Identity, find
from harness.processes.identity import read_environment
from harness.sessions import facts, ids, starting
from harness.sessions.facts import ExitReason, MessageStatus, Placing, State
from harness.sessions.starting import AgentDied, IdTaken

if TYPE_CHECKING:
    from tests.conftest import Hosted

CLAUDE = {"mode": "stream"}


def agents(hosted: Hosted, id_: str) -> int:
    """How many agents run under this id in this home; other tests use the same ids in theirs."""
    homes = [read_environment(found.identity.pid).get("HARNESS_HOME") for found in find(f"session/{id_}@")]
    return homes.count(str(hosted.home))


async def test_a_message_is_written_accepted_and_done_in_that_order(hosted: Hosted) -> None:
    """Each stage is on record once, and the turn that the message started names it."""
    agent = await hosted.rehearse("claude", **CLAUDE)

    message = await hosted.said(agent, "hello")

    assert message.status is MessageStatus.DONE
    told = [event.type for event in await hosted.events(agent) if event.type.startswith(("message.", "turn."))]
    assert told == [facts.QUEUED, facts.WRITTEN, facts.ACCEPTED, facts.TURN_STARTED, facts.TURN_COMPLETED, facts.COMPLETED] or (
        sorted(told)
        == sorted([facts.QUEUED, facts.WRITTEN, facts.ACCEPTED, facts.TURN_STARTED, facts.TURN_COMPLETED, facts.COMPLETED])
        and told[:2] == [facts.QUEUED, facts.WRITTEN]
    )
    session = await hosted.sessions.get(agent.key)
    assert session.totals.turns == 1
    assert session.totals.input_tokens > 0


async def test_the_exit_code_is_the_agents_own_and_the_id_is_free_again(hosted: Hosted) -> None:
    """A command that exits 7 is a failure with code 7, whatever it leaves behind; its id can be used at once."""
    script = "sleep 1000 & echo started; sleep 0.3; exit 7"
    agent = await hosted.launch("sh", "-c", script, mode="once", id="w1")

    ended = await hosted.ended(agent)
    again = await hosted.launch("sh", "-c", "sleep 0.3", mode="once", id="w1")

    assert ended.exited is not None
    assert (ended.exited.code, ended.exited.reason) == (7, ExitReason.FAILURE)
    assert "started" in ended.exited.tail
    assert find(f"session/{agent.key}") == []
    assert again.key != agent.key


async def test_a_live_id_is_refused_naming_its_pid(hosted: Hosted) -> None:
    """The second start says who has the id; nothing of it is left."""
    first = await hosted.launch("sleep", "1000", mode="once", id="w1")

    with pytest.raises(IdTaken, match=f"'w1' is in use .pid {first.pid}"):
        await hosted.launch("sleep", "1000", mode="once", id="w1")

    assert agents(hosted, "w1") == 1


async def test_two_that_draw_the_same_id_are_both_started(hosted: Hosted, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has asked for that id, so whoever comes second draws again."""
    read, taken = starting._read, [starting.IdTaken("session 'calm-heron' is in use")]
    monkeypatch.setattr(starting, "_read", lambda line: (_ for _ in ()).throw(taken.pop()) if taken else read(line))

    again = await hosted.launch("sleep", "1000", mode="once", id=None)

    assert taken == []
    assert (await hosted.sessions.get(again.key)).live
    for row in await hosted.sessions.list():  # one was started before it was made to say that it was not
        await hosted.sessions.stop(row.key, by="test", kill=True)


def test_a_random_id_is_one_that_nobody_has_or_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where many are taken it gets longer."""
    drawn = iter(["calm-heron", "calm-heron", "swift-lark", *["calm-heron"] * 20])
    monkeypatch.setattr(ids, "new_id", lambda: next(drawn))
    assert ids.free_id(tmp_path) == "calm-heron"
    (tmp_path / "sessions" / "calm-heron").mkdir(parents=True)

    assert ids.free_id(tmp_path) == "swift-lark"
    assert re.fullmatch(r"calm-heron-[0-9a-f]{6}", ids.free_id(tmp_path))


async def test_eight_starts_of_one_id_at_once_give_one_session(hosted: Hosted) -> None:
    """However close they are, the ledger's key is taken once."""
    starts = [hosted.launch("sleep", "1000", mode="once", id="w1") for _ in range(8)]

    outcomes: list[Any] = await asyncio.gather(*starts, return_exceptions=True)

    started = [each for each in outcomes if not isinstance(each, BaseException)]
    assert len(started) == 1
    assert all(isinstance(each, HarnessError) for each in outcomes if each is not started[0])
    assert agents(hosted, "w1") == 1


async def test_a_missing_program_and_one_that_dies_at_once_are_told_at_once(hosted: Hosted) -> None:
    """The error is that of the program, with its code and last words; the id is free afterwards."""
    with pytest.raises(HarnessError, match='"no-such-program" not found — is it installed and on your PATH'):
        await hosted.launch("no-such-program", mode="once", id="w1")
    with pytest.raises(AgentDied, match="exit code 3: bad flag") as died:
        await hosted.launch("sh", "-c", "echo bad flag >&2; exit 3", mode="once", id="w1")

    assert died.value.code == 3
    assert await hosted.sessions.list(live=True) == []


async def test_a_stop_is_the_agents_own_exit_where_it_has_one(hosted: Hosted) -> None:
    """A program on pipes ends when its input does; that is `stopped`, not a failure, and a second stop does no harm."""
    agent = await hosted.rehearse("claude", **CLAUDE)
    await hosted.state(agent, "prompt")

    await hosted.sessions.stop(agent.key, by="test", timeout_seconds=10)
    ended = await hosted.ended(agent)
    await hosted.sessions.stop(agent.key, by="test")

    assert ended.exited is not None
    assert (ended.exited.reason, ended.exited.needed, ended.exited.code) == (ExitReason.STOPPED, "exit", 0)


async def test_who_ignores_everything_is_killed_within_the_budget(hosted: Hosted) -> None:
    """TERM and the end of its input mean nothing to it, and its child lives in a session of its own: both are gone."""
    agent = await hosted.rehearse("claude", "--ignores", "TERM,INT", "--lingers", "--stray", "1000", **CLAUDE)
    await hosted.said(agent, "start a child", "done")

    await hosted.sessions.stop(agent.key, by="test", timeout_seconds=2)
    ended = await hosted.ended(agent)

    assert ended.exited is not None
    assert (ended.exited.reason, ended.exited.needed) == (ExitReason.STOPPED, "kill")
    assert find(f"session/{agent.key}") == []


@pytest.mark.parametrize("victim", ["host", "guard", "both"])
async def test_a_killed_host_is_noticed_and_a_killed_guard_ends_nothing(hosted: Hosted, victim: str) -> None:
    """After the host's death the agent is ended, the end is on record and the id is free; the guard's death changes nothing."""
    agent = await hosted.rehearse("claude", id="w1", **CLAUDE)
    await hosted.state(agent, "prompt")

    for pid in {"host": [agent.host_pid], "guard": [agent.guard_pid], "both": [agent.guard_pid, agent.host_pid]}[victim]:
        os.kill(pid, signal.SIGKILL)

    if victim == "guard":
        await hosted.until(agent, facts.GUARD_LOST)
        assert (await hosted.said(agent, "still there?")).status is MessageStatus.DONE
        return
    async with asyncio.timeout(5):
        ended = await hosted.sessions.ended(agent.key)
    assert ended.state is State.LOST
    again = await hosted.rehearse("claude", id="w1", **CLAUDE)
    assert again.key != agent.key
    if victim == "host":
        assert not Identity(pid=agent.pid, started=ended.pid_started).alive()


async def test_messages_wait_for_the_prompt_and_keep_their_order(hosted: Hosted) -> None:
    """Sent while it works, they are not typed into the turn, and each starts a turn of its own, in order."""
    journal = hosted.root / "journal"
    agent = await hosted.rehearse("claude", "--journal", str(journal), "--work", "0.2", **CLAUDE)
    ids = [await hosted.sessions.send(agent.key, f"message {number}") for number in range(4)]

    async with asyncio.timeout(30):
        for id_ in ids:
            await hosted.reached(agent, id_, "done")

    read = [line for line in journal.read_text().splitlines() if '"message ' in line]
    assert [number for line in read for number in range(4) if f"message {number}" in line] == [0, 1, 2, 3]
    session = await hosted.sessions.get(agent.key)
    assert session.totals.turns == 4


async def test_an_interrupting_message_ends_the_turn_and_a_steering_one_joins_it(hosted: Hosted) -> None:
    """Both are delivered while the agent would work for a long time."""
    agent = await hosted.rehearse("claude", "--work", "100", **CLAUDE)
    first = await hosted.sessions.send(agent.key, "work")
    await hosted.state(agent, "busy")

    steered = await hosted.said(agent, "and this", "accepted", "done", placing=Placing.STEER)
    await hosted.sessions.interrupt(agent.key, by="test")
    over = await hosted.reached(agent, first, "done", "failed")

    assert steered.status in (MessageStatus.ACCEPTED, MessageStatus.DONE)
    assert not over.open
    assert (await hosted.state(agent, "prompt")).state is State.PROMPT


async def test_an_approval_is_asked_and_given_and_denied_after_its_deadline(hosted: Hosted) -> None:
    """A person's yes reaches the agent; without one it is denied with the reason, and the agent goes on."""
    agent = await hosted.rehearse("claude", "--asks", "Bash", "--turn", "0", approvals={"deadline_seconds": 30.0}, **CLAUDE)
    allowed = await hosted.sessions.send(agent.key, "first")
    asked = (await hosted.until(agent, facts.APPROVAL_REQUESTED)).load(facts.ApprovalRequested)
    blocked = await hosted.state(agent, "blocked")

    await hosted.sessions.decide(agent.key, asked.request, allow=True, by="anna")
    await hosted.reached(agent, allowed, "done")

    decided = (await hosted.until(agent, facts.APPROVAL_DECIDED)).load(facts.ApprovalDecided)
    assert (decided.decision, decided.by) == ("allow", "anna")
    assert blocked.state_detail == "permission"
    assert await hosted.store.head(f"question/{asked.question}") is not None


async def test_an_approval_that_nobody_answers_is_denied_with_its_reason(hosted: Hosted) -> None:
    """Never a silent wait: the deadline is an answer."""
    agent = await hosted.rehearse("claude", "--asks", "Bash", approvals={"deadline_seconds": 0.3}, **CLAUDE)

    message = await hosted.said(agent, "first")

    decided = (await hosted.until(agent, facts.APPROVAL_DECIDED)).load(facts.ApprovalDecided)
    assert message.status is MessageStatus.DONE
    assert (decided.decision, decided.by) == ("deny", "deadline")
    assert "nobody answered" in decided.reason


async def test_policy_decides_without_a_person(hosted: Hosted) -> None:
    """A rule that names the tool answers at once, and the record names the rule."""
    rules = {"allow": ["Bash"], "deadline_seconds": 30.0}
    agent = await hosted.rehearse("claude", "--asks", "Bash", approvals=rules, **CLAUDE)

    await hosted.said(agent, "first")

    decided = (await hosted.until(agent, facts.APPROVAL_DECIDED)).load(facts.ApprovalDecided)
    assert (decided.decision, decided.by, decided.reason) == ("allow", "policy", "rule Bash")


async def test_limits_are_kept_whatever_the_agent_does(hosted: Hosted) -> None:
    """The second turn is the last, and the reason is on record."""
    agent = await hosted.rehearse("claude", max_turns=2, **CLAUDE)
    for number in range(2):
        await hosted.said(agent, f"turn {number}", "done", "failed")

    ended = await hosted.ended(agent)

    assert ended.exited is not None
    assert (ended.exited.reason, ended.exited.detail) == (ExitReason.TIMEOUT, "the limit of 2 turns is reached")


async def test_a_wall_clock_limit_ends_a_busy_agent(hosted: Hosted) -> None:
    """Time is over while it works."""
    agent = await hosted.launch("sleep", "1000", mode="once", max_wall_seconds=0.5)

    ended = await hosted.ended(agent)

    assert ended.exited is not None
    assert ended.exited.reason is ExitReason.TIMEOUT


async def test_27_megabytes_on_stderr_stall_nothing(hosted: Hosted) -> None:
    """stderr has a pipe and a log of its own, which are drained while messages go on."""
    agent = await hosted.rehearse("claude", "--stderr", "27", **CLAUDE)

    message = await hosted.said(agent, "go")

    assert message.status is MessageStatus.DONE
    assert sum(file.stat().st_size for file in (hosted.home / "sessions" / agent.id).glob("stderr.log*")) >= 27_000_000


async def test_garbage_and_a_line_of_16_megabytes_are_kept_and_do_no_harm(hosted: Hosted) -> None:
    """The session goes on, and what was not understood is in the transcript."""
    agent = await hosted.rehearse("claude", "--garbage", "--huge", "16", **CLAUDE)

    first = await hosted.said(agent, "go")
    second = await hosted.said(agent, "and on")

    assert (first.status, second.status) == (MessageStatus.DONE, MessageStatus.DONE)


async def test_what_the_agent_is_told_of_its_session(hosted: Hosted) -> None:
    """It knows its id, the session's key, where it is, and the home in which its own commands find it."""
    told = hosted.root / "told"
    script = f"import os, json; open({str(told)!r}, 'w').write(json.dumps(dict(os.environ)))"
    agent = await hosted.launch(sys.executable, "-c", script, mode="once", id="w1", description="d", repo="/r")
    await hosted.ended(agent)

    import json

    environment = json.loads(told.read_text())
    names = {name: environment.get(name) for name in ("HARNESS_ID", "HARNESS_SESSION_ID", "HARNESS_HOME")}
    assert names == {"HARNESS_ID": "w1", "HARNESS_SESSION_ID": agent.key, "HARNESS_HOME": str(hosted.home)}
    assert (environment["HARNESS_SESSION_REPO_ROOT"], environment["HARNESS_DESCRIPTION"]) == ("/r", "d")
    assert "PYTHONPATH" not in environment or environment["PYTHONPATH"] == os.environ.get("PYTHONPATH")


async def test_everything_in_the_folder_is_its_owners_alone(hosted: Hosted) -> None:
    """Whatever the umask, nobody else can read a transcript or reach the terminal."""
    before = os.umask(0)
    try:
        agent = await hosted.launch("sleep", "1000", mode="once")
    finally:
        os.umask(before)

    folder = hosted.home / "sessions" / agent.id
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {file.name: oct(file.stat().st_mode & 0o777) for file in folder.iterdir()} == {
        file.name: "0o600" for file in folder.iterdir()
    }


async def test_a_message_that_waits_too_long_expires(hosted: Hosted) -> None:
    """Its time is over while the agent works, and its sender is told at once."""
    agent = await hosted.rehearse("claude", "--work", "100", **CLAUDE)
    await hosted.sessions.send(agent.key, "work")
    await hosted.state(agent, "busy")

    late = await hosted.said(agent, "later", "expired", ttl_seconds=0.3)

    assert late.status is MessageStatus.EXPIRED


async def test_messages_that_never_arrived_go_on_with_the_session(hosted: Hosted) -> None:
    """What waited when the host was killed is sent by the run that continues it, once."""
    journal = hosted.root / "journal"
    agent = await hosted.rehearse("claude", "--work", "100", "--store", str(hosted.root / "store"), **CLAUDE)
    await hosted.sessions.send(agent.key, "work")
    await hosted.state(agent, "busy")
    waiting = await hosted.sessions.send(agent.key, "waiting one", ttl_seconds=600)
    os.kill(agent.host_pid, signal.SIGKILL)
    await hosted.ended(agent)

    again = await hosted.rehearse("claude", "--journal", str(journal), follows=agent.key, **CLAUDE)
    message = await hosted.reached(again, waiting, "done")

    assert message.status is MessageStatus.DONE
    assert journal.read_text().count("waiting one") >= 1
