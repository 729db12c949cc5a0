"""`harness stop`, `wait`, `approve` and `deny`, with a host that a test plays."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from harness.ledger import SQLiteStore
from harness.people import Questions
from harness.sessions import facts

PATIENCE_SECONDS = 20.0
Pretend = Callable[..., Any]


async def when(session: Any, type_: str, nth: int = 1) -> None:
    """Wait until the n-th event of a type is in the session's stream."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        async for event in session.store.follow(streams=(f"session/{session.key}",), types=(type_,)):
            nth -= event.stream == f"session/{session.key}"
            if not nth:
                return


def turn(name: str, *messages: str, outcome: Any = "success", more: bool = False) -> tuple[str, Any]:
    return facts.TURN_COMPLETED, facts.TurnCompleted(turn=name, outcome=outcome, message_ids=messages, more=more, summary="ok")


# Stop


@pytest.mark.parametrize(
    ("needed", "says"),
    [("exit", "ended by its own exit"), ("term", "SIGTERM was needed"), ("kill", "SIGKILL was needed"), ("", "by itself")],
)
async def test_stop_says_what_was_needed(command: Any, agents: SQLiteStore, pretend: Pretend, needed: str, says: str) -> None:
    """And asks for the end within its time; a second stop does no harm."""
    session = await pretend(agents)

    async def host() -> None:
        await when(session, facts.STOP_REQUESTED)
        await session.exit("stopped", 0, needed=needed)

    playing = asyncio.ensure_future(host())
    code, out, err = await command("stop", "--id", "w1", "--timeout", "5s", "--reason", "enough")
    await playing
    again = await command.json("stop", "--id", "w1", "--json")

    asked = (await agents.read(f"session/{session.key}"))[2].load(facts.StopRequested)
    assert (code, err) == (0, "")
    assert out.startswith("w1 ended")
    assert says in out
    assert (asked.timeout_seconds, asked.reason, asked.kill) == (5.0, "enough", False)
    assert (again["ok"], again["status"], again["needed"], again["code"]) == (True, "already_ended", needed, 0)
    assert (await command("stop", "--id", "w1"))[1] == "w1 had ended already (stopped, code 0)\n"


async def test_a_host_that_does_not_stop_is_named(command: Any, agents: SQLiteStore, pretend: Pretend) -> None:
    """124 soon after the time is over, and what a person can do."""
    session = await pretend(agents)

    code, out, err = await command("stop", "--id", "w1", "--timeout", "100ms", "--kill")

    assert (code, out) == (124, "")
    assert f"kill -9 {session.guard.pid}" in err
    assert (await agents.read(f"session/{session.key}"))[2].load(facts.StopRequested).kill is True


async def test_stopping_what_nobody_owns_records_its_end(command: Any, agents: SQLiteStore, pretend: Pretend) -> None:
    """The id is free afterwards."""
    session = await pretend(agents)
    session.kill_guard()

    code, out, _ = await command("stop", "--id", "w1")

    assert (code, out) == (0, "w1 is lost: its host had died\n")
    assert await agents.holder_of(facts.id_lock("w1")) is None


async def test_all_are_stopped_together(command: Any, agents: SQLiteStore, pretend: Pretend) -> None:
    """Each tells its own; without any that is said."""
    assert await command("stop", "--all") == (0, "no session runs\n", "")
    sessions = [await pretend(agents, f"w{number}") for number in range(3)]

    async def host(session: Any) -> None:
        await when(session, facts.STOP_REQUESTED)
        await session.exit("stopped", 0, needed="exit")

    playing = [asyncio.ensure_future(host(session)) for session in sessions]
    told = await command.json("stop", "--all", "--json")
    await asyncio.gather(*playing)

    assert {each["id"]: each["needed"] for each in told} == {"w0": "exit", "w1": "exit", "w2": "exit"}
    for words in ([], ["--all", "--id", "w1"]):
        assert (await command("stop", *words))[0] == 2
    assert (await command("stop", "--id", "nope"))[0] == 1


# Wait for the end


@pytest.mark.parametrize(
    ("reason", "code", "signal", "gives"),
    [("success", 0, None, 0), ("failure", 7, None, 7), ("killed", None, 9, 137), ("stopped", 0, None, 0)],
)
async def test_wait_gives_the_agents_code(
    command: Any, agents: SQLiteStore, pretend: Pretend, reason: str, code: int | None, signal: int | None, gives: int
) -> None:
    """While it runs and afterwards; the record is printed."""
    session = await pretend(agents)
    waiting = asyncio.ensure_future(command("wait", "--id", "w1"))
    await session.exit(reason, code, signal=signal)

    during, out, _ = await waiting
    record = await command.json("wait", "--id", "w1", code=gives)

    assert during == gives
    assert json.loads(out)["reason"] == reason
    assert (record["ok"], record["code"], record["signal"], record["session"]) == (gives == 0, gives, signal, session.key)


async def test_wait_is_never_0_for_a_session_that_is_lost(command: Any, agents: SQLiteStore, pretend: Pretend) -> None:
    """Its guard is killed while somebody waits: the end is recorded, and the wait ends with 1."""
    session = await pretend(agents)
    waiting = asyncio.ensure_future(command.json("wait", "--id", "w1", code=1))
    session.kill_guard()

    record = await waiting

    assert (record["ok"], record["reason"], record["code"], record["state"]) == (False, "lost", None, "lost")


async def test_a_wait_that_takes_too_long_is_124(command: Any, agents: SQLiteStore, pretend: Pretend) -> None:
    """And changes nothing."""
    session = await pretend(agents)
    await session.state("busy")

    told = await command.json("wait", "--id", "w1", "--timeout", "50ms", code=124)

    assert (told["ok"], told["status"], told["state"]) == (False, "timeout", "busy")
    assert (await command("wait", "--id", "nope"))[0] == 1
    assert (await command("wait", "--id", "w1", "--until", "someday"))[0] == 2


# Wait for what it does


async def test_wait_for_a_state_looks_at_the_present(command: Any, agents: SQLiteStore, pretend: Pretend) -> None:
    """What it was before does not count; what it is now does, and what it becomes."""
    session = await pretend(agents)
    await session.state("busy")
    await session.state("prompt")
    told = await command.json("wait", "--id", "w1", "--until", "prompt")
    assert (told["ok"], told["state"]) == (True, "prompt")

    waiting = asyncio.ensure_future(command.json("wait", "--id", "w1", "--until", "busy"))
    await asyncio.sleep(0)
    assert not waiting.done()
    await session.state("busy")

    assert (await waiting)["state"] == "busy"


async def test_prompt_is_not_reached_while_a_message_is_on_its_way(command: Any, agents: SQLiteStore, pretend: Pretend) -> None:
    """Who sends and then waits for the prompt waits for the one after."""
    session = await pretend(agents)
    await session.state("prompt")
    id_ = json.loads((await command("send", "--id", "w1", "x", "--no-wait"))[1])["message_id"]

    waiting = asyncio.ensure_future(command.json("wait", "--id", "w1", "--until", "prompt"))
    await session.move(facts.WRITTEN, id_)
    await session.move(facts.ACCEPTED, id_)
    await session.state("busy")
    await session.state("prompt")

    assert (await waiting)["ok"] is True


async def test_only_the_last_messages_turn_completes_the_task(command: Any, agents: SQLiteStore, pretend: Pretend) -> None:
    """Not an older run of the id, an older turn, the turn under way, another message's, or one after which work goes on."""
    old = await pretend(agents)
    await old.tell(turn("old"))
    await old.exit()
    session = await pretend(agents)
    await session.tell(turn("t1"))
    id_ = json.loads((await command("send", "--id", "w1", "x", "--no-wait"))[1])["message_id"]

    waiting = asyncio.ensure_future(command.json("wait", "--id", "w1", "--until", "task_complete"))
    await session.tell(turn("t2"))
    await session.move(facts.WRITTEN, id_)
    await session.tell(turn("t3", "another"))
    await session.tell(turn("t4", id_, more=True))
    await session.tell(turn("t5", id_))

    told = await waiting
    assert (told["ok"], told["event"], told["turn"], told["summary"]) == (True, "task_complete", "t5", "ok")
    assert (await command.json("wait", "--id", "w1", "--until", "task_complete"))["turn"] == "t5"


async def test_a_message_that_was_taken_back_is_not_waited_for(command: Any, agents: SQLiteStore, pretend: Pretend) -> None:
    """The one before it is the last one then; without any, the session's first task is."""
    session = await pretend(agents)
    await session.tell(turn("t1"))
    await command("send", "--id", "w1", "x", "--timeout", "10ms")

    assert (await command.json("wait", "--id", "w1", "--until", "task_complete"))["turn"] == "t1"


async def test_a_task_that_failed_is_complete_but_not_well(command: Any, agents: SQLiteStore, pretend: Pretend) -> None:
    """1 and the outcome; a session that ends without completing anything gives its own code, and never 0."""
    session = await pretend(agents)
    await session.tell(turn("t1", outcome="error"))
    told = await command.json("wait", "--id", "w1", "--until", "task_complete", code=1)
    assert (told["ok"], told["outcome"]) == (False, "error")

    other = await pretend(agents, "w2")
    await other.exit(code=0)
    ended = await command.json("wait", "--id", "w2", "--until", "task_complete", code=1)
    assert (ended["ok"], ended["status"], ended["code"]) == (False, "exited", 0)


# Approvals


async def ask(session: Any, request: str) -> str:
    question = await Questions(session.store).ask("approval", f"session/{session.key}#{request}", digest="d", text="?")
    asked = facts.ApprovalRequested(request=request, tool="Bash", summary="rm -rf build", question=question.id)
    await session.tell((facts.APPROVAL_REQUESTED, asked))
    return question.id


async def test_a_person_answers_what_an_agent_asks(command: Any, agents: SQLiteStore, pretend: Pretend) -> None:
    """Once; the answer and the reason are on record."""
    session = await pretend(agents)
    first, second = await ask(session, "r1"), await ask(session, "r2")

    code, out, _ = await command("approve", "w1", "r1")
    told = await command.json("deny", "w1", "r2", "--reason", "no", "--json")

    assert (code, out) == (0, "allow: rm -rf build\n")
    assert (told["ok"], told["decision"]) == (True, "deny")
    answers = [await Questions(agents).get(id_) for id_ in (first, second)]
    assert [(each.answer, each.note) for each in answers] == [("approve", ""), ("deny", "no")]
    for words in (["approve", "w1", "r1"], ["approve", "w1", "r9"], ["deny", "w9", "r1"]):
        code, out, err = await command(*words)
        assert (code, out, err.count("\n")) == (1, "", 1)


async def test_no_session_decides_for_itself(
    command: Any, agents: SQLiteStore, pretend: Pretend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An agent that runs the command line is told so."""
    session = await pretend(agents)
    question = await ask(session, "r1")
    monkeypatch.setenv("HARNESS_SESSION_ID", "w1")

    code, _, err = await command("approve", "w1", "r1")

    assert (code, "itself" in err) == (1, True)
    assert (await Questions(agents).get(question)).answer is None


async def test_a_wait_that_times_out_says_what_the_agent_waits_for(command: Any, agents: SQLiteStore, pretend: Pretend) -> None:
    """A turn that waits for leave will not end by waiting."""
    session = await pretend(agents)
    await session.state("blocked", detail="permission")
    asked = facts.ApprovalRequested(request="r1", tool="Bash", summary="rm -rf build", question="question/q1")
    await session.tell((facts.APPROVAL_REQUESTED, asked))

    code, _, err = await command("wait", "--id", "w1", "--until", "task_complete", "--timeout", "0.3s")

    assert code == 124
    assert err == (
        "harness: timeout: task_complete has not come within 0.3 s; the agent waits for leave: Bash: rm -rf build; "
        "`harness approve w1 r1` gives it, `harness deny w1 r1` refuses it\n"
    )
