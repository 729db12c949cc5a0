"""`harness send` and `harness inbox`, with a host that a test plays."""

from __future__ import annotations

import asyncio
import io
import signal
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from harness.ledger import SQLiteStore
from harness.sessions import facts
from harness.sessions.client import Sessions
from harness.sessions.facts import MessageStatus
from harness.sessions.record import Message, folded
from harness.text import sanitise

PATIENCE_SECONDS = 20.0
Pretend = Callable[..., Any]


async def messages(session: Any) -> list[Message]:
    return list(folded(session.key, await session.store.read(f"session/{session.key}")).messages.values())


async def plays(session: Any, *parts: Callable[[str], Awaitable[object]]) -> None:
    """Be the host: do this with the next message that is queued, then nothing more."""
    stream = f"session/{session.key}"
    async with asyncio.timeout(PATIENCE_SECONDS):
        async for event in session.store.follow(streams=(stream,), types=(facts.QUEUED,)):
            id_ = event.load(facts.Queued).message_id
            if (await messages(session))[-1].id == id_:
                for part in parts:
                    await part(id_)
                return


def moves(session: Any, type_: str, **values: str) -> Callable[[str], Awaitable[object]]:
    return lambda id_: session.move(type_, id_, **values)


async def test_it_waits_until_the_agent_has_it(command: Any, agents: SQLiteStore, pretend: Pretend) -> None:
    """Words are joined; the receipt ends the wait, and who sent it is on record."""
    session = await pretend(agents)
    host = asyncio.ensure_future(plays(session, moves(session, facts.WRITTEN), moves(session, facts.ACCEPTED, turn="t1")))

    told = await command.json("send", "--id", "w1", "read", "TASK.md")

    await host
    [message] = await messages(session)
    assert told == {"ok": True, "status": "accepted", "message_id": message.id, "turn": "t1"}
    assert (message.text, message.origin.kind, message.placing, message.forced) == ("read TASK.md", "human", "queue", False)


async def test_no_wait_prints_the_documented_line(command: Any, agents: SQLiteStore, pretend: Pretend) -> None:
    """Nobody has to be there; options arrive as they are meant."""
    session = await pretend(agents)

    code, out, err = await command(
        "send", "--id", "w1", "--message", "x", "--no-wait", "--steer", "--force", "--no-submit", "--inbox-ttl", "2m"
    )

    [message] = await messages(session)
    assert (code, err) == (0, "")
    assert out == f'{{"ok":true,"status":"queued","message_id":"{message.id}"}}\n'
    assert (message.placing, message.forced, message.submit) == ("steer", True, False)
    assert message.expires_us - message.queued_us == pytest.approx(120e6, abs=1e6)


async def test_a_message_comes_from_stdin_whole(
    command: Any, agents: SQLiteStore, pretend: Pretend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several lines are one message, without control characters."""
    session = await pretend(agents)
    stdin = io.TextIOWrapper(io.BytesIO("one\r\n\ttwo \x03\x1b[201~ü\n\n".encode()))
    monkeypatch.setattr(sys, "stdin", stdin)

    await command("send", "--id", "w1", "--no-wait", "--interrupt")

    [message] = await messages(session)
    assert (message.text, message.placing) == ("one\n\ttwo ü\n", "interrupt")


async def test_enter_alone_needs_no_text(command: Any, agents: SQLiteStore, pretend: Pretend) -> None:
    """Stdin is not read."""
    session = await pretend(agents)

    assert (await command("send", "--id", "w1", "--submit-only", "--no-wait"))[0] == 0

    [message] = await messages(session)
    assert (message.text, message.only_submit) == ("", True)


async def test_what_cannot_be_typed_without_enter_is_told(command: Any, agents: SQLiteStore, pretend: Pretend) -> None:
    """That it is on its way is not yet that it is there."""
    session = await pretend(agents)

    async def refused(id_: str) -> None:
        await asyncio.sleep(0.3)
        await session.move(facts.FAILED, id_, reason="no input line")

    host = asyncio.ensure_future(plays(session, moves(session, facts.WRITTEN), refused))
    told = await command.json("send", "--id", "w1", "go", "--no-submit", code=1)

    await host
    assert (told["ok"], told["status"], told["error"]) == (False, "failed", "no input line")


async def test_wait_for_idle_ends_with_the_turn_that_it_started(
    command: Any, agents: SQLiteStore, pretend: Pretend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not with the receipt, not with another turn's end."""
    session = await pretend(agents)
    seen: list[str] = []
    received = threading.Event()
    message = Sessions.message

    async def noticed(self: Sessions, *words: Any, **more: Any) -> Message:
        found = await message(self, *words, **more)
        received.set()
        return found

    monkeypatch.setattr(Sessions, "message", noticed)

    async def other_turn(_: str) -> None:
        await session.tell((facts.TURN_COMPLETED, facts.TurnCompleted(turn="t0", outcome="success")))
        seen.append("other turn")

    async def own_turn(id_: str) -> None:
        await asyncio.to_thread(received.wait, PATIENCE_SECONDS)
        seen.append("own turn")
        await session.move(facts.COMPLETED, id_, turn="t1")

    host = asyncio.ensure_future(
        plays(session, moves(session, facts.WRITTEN), moves(session, facts.ACCEPTED), other_turn, own_turn)
    )
    told = await command.json("send", "--id", "w1", "go", "--wait-for-idle")

    await host
    assert (told["status"], told["turn"]) == ("done", "t1")
    assert seen == ["other turn", "own turn"]


async def test_a_wait_that_times_out_takes_the_message_back(command: Any, agents: SQLiteStore, pretend: Pretend) -> None:
    """124; it will never be delivered, and its place is free."""
    session = await pretend(agents)

    told = await command.json("send", "--id", "w1", "x", "--timeout", "50ms", code=124)

    [message] = await messages(session)
    assert (told["ok"], told["status"]) == (False, "withdrawn")
    assert message.status is MessageStatus.WITHDRAWN
    assert await agents.reserved(facts.inbox_counter(session.key)) == 0


@pytest.mark.parametrize(
    ("steps", "words", "says"),
    [
        ([facts.WRITTEN], [], "already written"),
        ([facts.WRITTEN, facts.ACCEPTED], ["--wait-for-idle"], "the turn goes on"),
    ],
)
async def test_a_wait_that_times_out_says_what_cannot_be_taken_back(
    command: Any, agents: SQLiteStore, pretend: Pretend, steps: list[str], words: list[str], says: str
) -> None:
    """124 as well, and no word that it would not be delivered."""
    session = await pretend(agents)
    host = asyncio.ensure_future(plays(session, *(moves(session, step) for step in steps)))

    code, out, err = await command("send", "--id", "w1", "x", "--timeout", "1s", *words)

    await host
    assert code == 124
    assert says in err
    assert f'"status":"{(await messages(session))[0].status}"' in out


async def test_a_wait_that_times_out_says_what_the_agent_waits_for(command: Any, agents: SQLiteStore, pretend: Pretend) -> None:
    """Who can answer is told how: leave by the command, anything else at its terminal."""
    session = await pretend(agents)
    host = asyncio.ensure_future(plays(session, moves(session, facts.WRITTEN), moves(session, facts.ACCEPTED)))
    await session.state("blocked", detail="question")
    words = ("send", "--id", "w1", "x", "--wait-for-idle", "--timeout", "1s")

    _, _, blocked = await command(*words)
    await host
    asked = facts.ApprovalRequested(request="r 1", tool="Bash", summary="rm -rf\nbuild", question="question/q1")
    await session.tell((facts.APPROVAL_REQUESTED, asked))
    code, out, asks = await command(*words)

    shows = "is blocked on question: `harness attach --id w1` shows it\n"
    assert blocked == f"harness: timeout: the agent has the message, and {shows}"
    answers = "`harness approve w1 'r 1'` gives it, `harness deny w1 'r 1'` refuses it"
    said = f"the message was withdrawn and will not be delivered, and the agent waits for leave: Bash: rm -rf build; {answers}"
    assert (code, asks) == (124, f"harness: timeout: {said}\n")
    assert said in out


@pytest.mark.parametrize(("type_", "status"), [(facts.FAILED, "failed"), (facts.EXPIRED, "expired"), (facts.LOST, "unknown")])
async def test_what_went_wrong_is_told_at_once(
    command: Any, agents: SQLiteStore, pretend: Pretend, type_: str, status: str
) -> None:
    """Exit code 1 with the reason, long before any timeout."""
    session = await pretend(agents)
    host = asyncio.ensure_future(plays(session, moves(session, type_, reason="the agent said no")))

    code, out, err = await command("send", "--id", "w1", "x")

    await host
    assert (code, f'"status":"{status}"' in out) == (1, True)
    assert err == f"harness: the message is {status}: the agent said no\n"


async def test_a_session_that_ends_meanwhile_ends_the_wait(command: Any, agents: SQLiteStore, pretend: Pretend) -> None:
    """Also one whose guard is killed: nobody hangs."""
    for number, end in enumerate(("exit", "kill_guard")):
        session = await pretend(agents, f"w{number}")

        async def ends(_: str, session: Any = session, end: str = end) -> None:
            told = getattr(session, end)()
            if told is not None:
                await told

        host = asyncio.ensure_future(plays(session, ends))
        told = await command.json("send", "--id", f"w{number}", "x", code=1)
        await host
        assert told["status"] == "dropped"


async def test_a_message_from_a_session_says_so(
    command: Any, agents: SQLiteStore, pretend: Pretend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, and it can be left out; the origin is on record in any case."""
    session = await pretend(agents)
    for name, value in (("ID", "boss"), ("CLI", "codex"), ("KEY", "boss@00000001")):
        monkeypatch.setenv(f"HARNESS_SESSION_{name}", value)

    for words in (["hello"], ["[harness relay from=a id=b at=c]\nhello"], ["hello", "--no-relay"]):
        assert (await command("send", "--id", "w1", *words, "--no-wait"))[0] == 0

    headed, twice, bare = await messages(session)
    assert headed.text.startswith("[harness relay from=codex id=boss at=2")
    assert headed.text.endswith("]\nhello")
    assert (twice.text, bare.text) == ("[harness relay from=a id=b at=c]\nhello", "hello")
    assert {(each.origin.kind, each.origin.id, each.origin.cli) for each in (headed, twice, bare)} == {
        ("session", "boss", "codex")
    }
    first = (await agents.read(f"session/{session.key}"))[2]
    assert first.actor == "session:boss"


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["--message", "a", "b"], "twice"),
        (["--message", ""], "empty"),
        (["--submit-only", "a"], "no text"),
        (["a", "--steer", "--interrupt"], "one of them"),
        (["a", "--no-wait", "--wait-for-idle"], "--no-wait"),
        (["a", "--timeout", "soon"], "90s"),
        (["a", "--inbox-ttl", "0"], "90s"),
        (["a", "--relay"], "HARNESS_SESSION_ID"),
    ],
)
async def test_a_mistake_is_2_and_sends_nothing(
    command: Any, agents: SQLiteStore, pretend: Pretend, words: list[str], hint: str
) -> None:
    """The message says what would be right."""
    session = await pretend(agents)

    code, out, err = await command("send", "--id", "w1", *words)

    assert (code, out, err.count("\n")) == (2, "", 1)
    assert hint in err
    assert await messages(session) == []


async def test_the_65th_message_is_refused(command: Any, agents: SQLiteStore, pretend: Pretend) -> None:
    """In the documented words."""
    session = await pretend(agents)
    for number in range(64):
        queued = facts.Queued(message_id=str(number), text="x", expires_us=2**60)
        await session.tell((facts.QUEUED, queued), guards=(_reserve(session.key),))

    assert await command("send", "--id", "w1", "x", "--no-wait") == (
        1, "", "harness: inbox full (64 pending messages)\n",
    )  # fmt: skip


def _reserve(key: str) -> Any:
    from harness.ledger import Reserve

    return Reserve(facts.inbox_counter(key), 1, 64)


async def test_an_unknown_or_ended_session_is_an_error(command: Any, agents: SQLiteStore, pretend: Pretend) -> None:
    """One line on stderr that helps; one that nobody owns any more takes nothing either."""
    session = await pretend(agents, "w1")
    await session.exit()
    lost = await pretend(agents, "w2")
    lost.kill_guard()

    for id_, says in (("w1", "has ended"), ("w2", "has ended"), ("w11", "did you mean 'w1'"), ("../x", "no session")):
        code, out, err = await command("send", "--id", id_, "x", "--no-wait")
        assert (code, out, err.count("\n")) == (1, "", 1)
        assert says in err


async def test_interrupting_a_wait_takes_the_message_back(agents: SQLiteStore, pretend: Pretend) -> None:
    """Who presses Ctrl-C does not want it delivered later."""
    session = await pretend(agents)
    words = (sys.executable, "-m", "harness", "send", "--id", "w1", "x")
    sender = await asyncio.create_subprocess_exec(*words, stdout=-1, stderr=-1, cwd=agents.path.parents[1])

    async def interrupt(_: str) -> None:
        await asyncio.sleep(0.2)  # its wait begins after its message is queued, which nobody can see
        sender.send_signal(signal.SIGINT)

    await plays(session, interrupt)
    async with asyncio.timeout(PATIENCE_SECONDS):
        out, err = await sender.communicate()

    assert (sender.returncode, out) == (130, b"")
    assert b"withdrawn" in err
    assert [message.status for message in await messages(session)] == [MessageStatus.WITHDRAWN]


# Inbox


async def test_the_inbox_is_listed_and_emptied(command: Any, agents: SQLiteStore, pretend: Pretend) -> None:
    """What waits and what is under way; dropping takes what still waits."""
    session = await pretend(agents)
    for text in ("one", "two", "three", "four"):
        await command("send", "--id", "w1", text, "--no-wait")
    one, two, three, four = [message.id for message in await messages(session)]
    await session.move(facts.WRITTEN, one)

    listed = await command.json("inbox", "--id", "w1", "list", "--json")
    _, table, _ = await command("inbox", "list", "--id", "w1")
    dropped = await command.json("inbox", "--id", "w1", "drop", two, "--json")
    too_late = await command.json("inbox", "--id", "w1", "drop", one, "--json", code=1)
    refused = await command("inbox", "--id", "w1", "drop", one)
    cleared = await command.json("inbox", "--id", "w1", "clear", "--json")

    assert [(each["msg"], each["status"]) for each in listed] == [
        ("one", "written"), ("two", "queued"), ("three", "queued"), ("four", "queued"),
    ]  # fmt: skip
    assert three in table
    assert dropped == {"ok": True, "dropped": [two], "status": "dropped"}
    assert too_late == {"ok": False, "dropped": [], "status": "written"}
    assert refused == (1, "", f"harness: {one} is written: nothing was dropped\n")
    assert cleared["dropped"] == [three, four]
    assert [each["msg"] for each in await command.json("inbox", "--id", "w1", "list", "--json")] == ["one"]
    assert len(await command.json("inbox", "--id", "w1", "list", "--all", "--json")) == 4


@pytest.mark.parametrize("columns", [60, 100])
async def test_a_messages_id_stays_whole_in_a_narrow_terminal(
    command: Any, agents: SQLiteStore, pretend: Pretend, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    """It is to be copied; the text is shortened instead."""
    session = await pretend(agents)
    await command("send", "--id", "w1", "word " * 40, "--no-wait")
    [message] = await messages(session)
    for name, value in (("COLUMNS", str(columns)), ("TERM", "xterm"), ("NO_COLOR", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)

    _, out, _ = await command("inbox", "--id", "w1", "list")

    [row] = [line.rstrip() for line in sanitise(out).splitlines() if "word" in line]
    assert row.startswith(f"{message.id}   queued   ")
    assert row.endswith("…")
    assert len(row) == max(columns, 77)


async def test_an_inbox_command_without_sense_is_refused(command: Any, agents: SQLiteStore, pretend: Pretend) -> None:
    """Before anything is done."""
    await pretend(agents)

    for words in (["drop"], ["clear", "x"], ["burn"]):
        assert (await command("inbox", "--id", "w1", *words))[0] == 2
    assert (await command("inbox", "--id", "w1", "drop", "nope"))[0] == 1
