"""Sessions from outside, over each kind of ledger: what a client writes, waits for and finds lost."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from harness.errors import Conflict, NotFound, Refused, UsageError
from harness.ledger import MemoryStore, PostgresStore, SQLiteStore, Store
from harness.people import Questions
from harness.processes import Identity
from harness.sessions import facts, ids, session_gone
from harness.sessions.client import Row, Sender, Sessions, Until, sender_of
from harness.sessions.client.messages import MAX_MESSAGE_BYTES, relayed
from harness.sessions.facts import MessageStatus
from harness.sessions.record import Session
from harness.sessions.view import COLUMNS
from harness.wake import Bell

PATIENCE_SECONDS = 20.0
Pretend = Callable[..., Any]


@pytest.fixture(params=["memory", "sqlite", "postgres"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    made: Store
    match request.param:
        case "memory":
            made = MemoryStore(actor="person:test")
        case "sqlite":
            made = SQLiteStore(tmp_path / "ledger.db", actor="person:test", durability="process")
        case _:
            made = PostgresStore(request.getfixturevalue("postgres_schema"), actor="person:test")
    yield made
    await made.close()


@pytest.fixture
def sessions(store: Store, tmp_path: Path) -> Sessions:
    return Sessions(store, tmp_path / "home")


def test_a_row_is_a_row_of_the_table() -> None:
    """The listing without the view's libraries reads the same columns."""
    assert Row._fields == COLUMNS


# Looking


async def test_sessions_are_listed_newest_first(store: Store, sessions: Sessions, pretend: Pretend) -> None:
    """Those that run, those that are over, those of one repository or program."""
    one = await pretend(store, "w1")
    two = await pretend(store, "w2", cli="codex", repo="/work/other")
    over = await pretend(store, "w3")
    await over.exit()

    assert [row.id for row in await sessions.list()] == ["w2", "w1"]
    assert [row.id for row in await sessions.list(live=None)] == ["w3", "w2", "w1"]
    assert [row.key for row in await sessions.list(live=False)] == [over.key]
    assert [row.key for row in await sessions.list(repo="/work/repo")] == [one.key]
    assert [row.key for row in await sessions.list(cli="codex")] == [two.key]


async def test_an_id_means_its_living_run_a_key_that_run(store: Store, sessions: Sessions, pretend: Pretend) -> None:
    """A reused id never mixes two runs; one that is over is still found while no other lives."""
    first = await pretend(store, "w1")
    await first.exit(code=7, reason="failure")
    assert (await sessions.get("w1")).key == first.key
    second = await pretend(store, "w1")

    assert (await sessions.get("w1")).key == second.key
    found = await sessions.get(first.key)
    assert found.exited is not None
    assert found.exited.code == 7


async def test_an_unknown_session_is_told_with_a_hint(store: Store, sessions: Sessions, pretend: Pretend) -> None:
    """What a person may have meant, or where to look."""
    await pretend(store, "worker-1")

    with pytest.raises(NotFound, match="did you mean 'worker-1'"):
        await sessions.get("worker-2")
    with pytest.raises(NotFound, match="harness status"):
        await sessions.get("zzz")
    with pytest.raises(NotFound, match="worker-1@00000000"):
        await sessions.send("worker-1@00000000", "hello")


async def test_a_session_without_its_guard_is_shown_as_lost(store: Store, sessions: Sessions, pretend: Pretend) -> None:
    """Although nobody has recorded it and looking records nothing."""
    session = await pretend(store)
    session.kill_guard()

    [row] = await sessions.list()

    assert (row.state, row.state_source, row.live) == ("lost", "process", True)
    assert (await sessions.get("w1")).live


async def test_a_session_of_another_machine_is_not_judged(store: Store, sessions: Sessions, pretend: Pretend) -> None:
    """Its pids mean nothing here; one of this machine from before it was started again is lost."""
    name = ids.machine().partition("/")[0]
    await pretend(store, "far", machine="elsewhere/boot", guard_pid=1, guard_started=1)
    await pretend(store, "before", machine=f"{name}/earlier", guard_pid=1, guard_started=1)

    states = {row.id: row.state for row in await sessions.list()}

    shared = isinstance(store, PostgresStore)  # there two machines may have one name
    assert states == {"far": "starting", "before": "starting" if shared else "lost"}


# Messages


async def test_a_message_is_queued_and_the_host_is_rung(store: Store, sessions: Sessions, pretend: Pretend) -> None:
    """It is durable, whole, and the session's bell has been rung when `send` returns."""
    session = await pretend(store)
    folder = sessions.folder(session.key).take()
    bell = Bell(folder / "bell")
    bell.hang()
    with bell.listen() as listener:
        id_ = await sessions.send(session.key, "line one\n\tline two\n", placing=facts.Placing.STEER, forced=True, submit=False)
        assert await listener.wait(PATIENCE_SECONDS)
    bell.close()

    message = (await sessions.get("w1")).messages[id_]
    assert (message.text, message.status, message.placing) == ("line one\n\tline two\n", "queued", "steer")
    assert (message.forced, message.submit, message.origin.kind) == (True, False, "human")
    assert message.expires_us - message.queued_us == pytest.approx(120e6, abs=5e6)
    assert await store.reserved(facts.inbox_counter(session.key)) == 1


@pytest.mark.parametrize(
    ("text", "arrives"),
    [
        ("stop\x03 it\x04", "stop it"),
        ("paste\x1b[201~\rrm -rf /\r", "paste\nrm -rf /\n"),
        ("\x1b\x1b[201~[201~x", "[201~x"),
        ("\x9b201~x\x00\x7f", "x"),
        ("a\r\nb\tc", "a\nb\tc"),
        ("ä 漢 \U0001f600", "ä 漢 \U0001f600"),
    ],
)
async def test_control_bytes_do_not_arrive(store: Store, sessions: Sessions, pretend: Pretend, text: str, arrives: str) -> None:
    """No message can press a key, end a paste or hide anything; tabs and line ends stay."""
    session = await pretend(store)

    id_ = await sessions.send(session.key, text)

    assert (await sessions.get("w1")).messages[id_].text == arrives


async def test_what_is_no_message_is_refused(store: Store, sessions: Sessions, pretend: Pretend) -> None:
    """Nothing, too much, no time to live; Enter alone is one."""
    session = await pretend(store)

    for text, ttl in (("", None), ("\x03\x1b[A", None), ("x" * (MAX_MESSAGE_BYTES + 1), None), ("x", 0.0), ("x", float("nan"))):
        with pytest.raises(UsageError):
            await sessions.send(session.key, text, ttl_seconds=ttl)
    assert await store.reserved(facts.inbox_counter(session.key)) == 0

    id_ = await sessions.send(session.key, "", only_submit=True)
    assert (await sessions.get("w1")).messages[id_].only_submit
    await sessions.send(session.key, "x" * MAX_MESSAGE_BYTES)


async def test_the_inbox_holds_64(store: Store, sessions: Sessions, pretend: Pretend) -> None:
    """One more is refused in the documented words, until one has left; each stays in order."""
    session = await pretend(store)
    sent = [await sessions.send(session.key, f"m{number}") for number in range(64)]

    with pytest.raises(Refused, match=r"^inbox full \(64 pending messages\)$"):
        await sessions.send(session.key, "m64")
    await session.move(facts.WRITTEN, sent[0])
    await sessions.send(session.key, "m64")

    assert [message.text for message in (await sessions.get("w1")).pending] == [f"m{number}" for number in range(1, 65)]


async def test_nothing_is_asked_of_a_session_that_is_over(store: Store, sessions: Sessions, pretend: Pretend) -> None:
    """A message, an interrupt, a probe are refused; to stop it again does no harm and writes nothing."""
    session = await pretend(store)
    await session.exit()
    head = await store.head(f"session/{session.key}")

    for asked in (
        sessions.send(session.key, "x"),
        sessions.interrupt(session.key, by="me"),
        sessions.probe(session.key, by="me"),
    ):
        with pytest.raises(NotFound, match="w1 has ended"):
            await asked
    await sessions.stop(session.key, by="me")

    assert await store.head(f"session/{session.key}") == head


async def test_a_message_that_comes_after_the_end_is_taken_back(
    store: Store, sessions: Sessions, pretend: Pretend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between looking and queueing the session may end: the sender is told, and nothing waits for ever."""
    session = await pretend(store)
    claimed = sessions._claimed  # pyright: ignore[reportPrivateUsage]

    async def late(key: str) -> facts.Claimed:
        known = await claimed(key)
        await session.exit()
        return known

    monkeypatch.setattr(sessions, "_claimed", late)
    with pytest.raises(NotFound, match="has ended"):
        await sessions.send(session.key, "x")

    [message] = (await sessions.get("w1")).messages.values()
    assert message.status is MessageStatus.WITHDRAWN
    assert await store.reserved(facts.inbox_counter(session.key)) == 0


async def test_a_queued_message_can_be_withdrawn_a_written_one_cannot(
    store: Store, sessions: Sessions, pretend: Pretend
) -> None:
    """What it is afterwards is told; its place is free again."""
    session = await pretend(store)
    one, two = [await sessions.send(session.key, text) for text in ("one", "two")]
    await session.move(facts.WRITTEN, one)

    assert await sessions.withdraw(session.key, one, reason="too late") is MessageStatus.WRITTEN
    assert await sessions.withdraw(session.key, two, reason="in time") is MessageStatus.WITHDRAWN
    assert await sessions.withdraw(session.key, two) is MessageStatus.WITHDRAWN
    assert await store.reserved(facts.inbox_counter(session.key)) == 0
    with pytest.raises(NotFound, match="no message 'nope'"):
        await sessions.withdraw(session.key, "nope")


async def test_withdrawing_and_writing_at_once_has_one_winner(store: Store, sessions: Sessions, pretend: Pretend) -> None:
    """Whoever comes second sees it: the message is withdrawn or written, never both."""
    from harness.ledger import Draft, Expect, Reserve, Write

    session = await pretend(store)
    stream, room = f"session/{session.key}", Reserve(facts.inbox_counter(session.key), -1)
    sent = [await sessions.send(session.key, f"m{number}") for number in range(20)]
    wrote: list[str] = []

    async def host() -> None:
        for id_ in sent:
            while True:
                known = await sessions.get(session.key)
                if known.messages[id_].status is not MessageStatus.QUEUED:
                    break
                try:
                    draft = Draft(type=facts.WRITTEN, payload=facts.Moved(message_id=id_))
                    await store.append(Write(stream, (draft,)), guards=[Expect(stream, known.seq), room])
                except Conflict:
                    continue
                wrote.append(id_)

    async with asyncio.timeout(PATIENCE_SECONDS), asyncio.TaskGroup() as tasks:
        tasks.create_task(host())
        withdrawing = [tasks.create_task(sessions.withdraw(session.key, id_)) for id_ in reversed(sent)]

    told = dict(zip(reversed(sent), (task.result() for task in withdrawing), strict=True))
    final = {id_: message.status for id_, message in (await sessions.get("w1")).messages.items()}
    assert {id_ for id_, status in final.items() if status == "written"} == set(wrote)
    assert {id_ for id_, status in told.items() if status == "written"} == set(wrote)
    assert set(final.values()) <= {MessageStatus.WRITTEN, MessageStatus.WITHDRAWN}
    assert await store.reserved(facts.inbox_counter(session.key)) == 0


async def test_the_inbox_can_be_emptied(store: Store, sessions: Sessions, pretend: Pretend) -> None:
    """One message or all that wait; what is written stays."""
    session = await pretend(store)
    one, two, three, four = [await sessions.send(session.key, text) for text in ("1", "2", "3", "4")]
    await session.move(facts.WRITTEN, one)

    assert await sessions.drop(session.key, two, by="me") == [two]
    assert await sessions.drop(session.key, one, by="me") == []
    assert await sessions.drop(session.key, None, by="me") == [three, four]
    assert await sessions.drop(session.key, None, by="me") == []

    statuses = [message.status for message in (await sessions.get("w1")).messages.values()]
    assert statuses == ["written", "dropped", "dropped", "dropped"]


async def test_a_sender_waits_for_what_becomes_of_a_message(store: Store, sessions: Sessions, pretend: Pretend) -> None:
    """It is woken by the event, and by the session's end."""
    session = await pretend(store)
    one, two = [await sessions.send(session.key, text) for text in ("one", "two")]

    async with asyncio.timeout(PATIENCE_SECONDS), asyncio.TaskGroup() as tasks:
        first = tasks.create_task(sessions.message(session.key, one, until={MessageStatus.ACCEPTED}))
        second = tasks.create_task(sessions.message(session.key, two, until={MessageStatus.DONE}))
        await asyncio.sleep(0)
        await session.move(facts.WRITTEN, one)
        assert not first.done()
        await session.move(facts.ACCEPTED, one, turn="t1")
        assert (await first).status == "accepted"
        await session.exit()

    assert second.result().status == "dropped"
    assert (await sessions.message(session.key, one, until={MessageStatus.DONE})).turn == "t1"


def test_a_message_between_sessions_says_so_once() -> None:
    """The header names the sender; a text that has one keeps it."""
    sender = sender_of({"HARNESS_SESSION_ID": "w1", "HARNESS_ID": "w1", "HARNESS_SESSION_CLI": "codex"})
    assert sender == Sender(id="w1", cli="codex")

    text = relayed("hello", sender, 1_750_000_000_123_456)

    assert text == "[harness relay from=codex id=w1 at=2025-06-15T15:06:40Z]\nhello"
    assert relayed(text, sender, 1) == text
    assert (sender.origin.kind, sender.origin.cli, sender.origin.id) == ("session", "codex", "w1")


@pytest.mark.parametrize(
    "environment", [{}, {"HARNESS_ID": "w1"}, {"HARNESS_SESSION_ID": "w 1"}, {"HARNESS_SESSION_ID": "../x"}]
)
def test_who_is_no_session_sends_as_a_person(environment: dict[str, str]) -> None:
    """Also with a variable that no session sets."""
    assert sender_of(environment) is None


# Asking the host


async def test_what_is_asked_of_the_host_is_an_event(store: Store, sessions: Sessions, pretend: Pretend) -> None:
    """Stop, interrupt and probe, with who asked and why."""
    session = await pretend(store)

    await sessions.interrupt(session.key, by="me", reason="loops")
    await sessions.probe(session.key, by="watch")
    await sessions.stop(session.key, by="me", timeout_seconds=5.0, kill=True, reason="done")

    events = (await store.read(f"session/{session.key}"))[2:]
    assert [event.type for event in events] == [facts.INTERRUPT_REQUESTED, facts.PROBE_REQUESTED, facts.STOP_REQUESTED]
    assert events[2].load(facts.StopRequested) == facts.StopRequested(by="me", timeout_seconds=5.0, kill=True, reason="done")


async def test_an_approval_is_answered_through_its_question(store: Store, sessions: Sessions, pretend: Pretend) -> None:
    """A person's word is bound to what was asked; what nobody asks cannot be answered."""
    session = await pretend(store)
    question = await Questions(store).ask("approval", f"session/{session.key}#r1", digest="d", text="rm -rf build")
    asked = facts.ApprovalRequested(request="r1", tool="Bash", question=f"question/{question.id}")
    ruled = facts.ApprovalRequested(request="r2", tool="Read")
    done = facts.ApprovalDecided(request="r3", decision="deny", by="deadline")
    await session.tell((facts.APPROVAL_REQUESTED, asked), (facts.APPROVAL_REQUESTED, ruled))
    await session.tell(
        (facts.APPROVAL_REQUESTED, facts.ApprovalRequested(request="r3", tool="X")), (facts.APPROVAL_DECIDED, done)
    )

    with pytest.raises(NotFound, match="no approval 'r9'"):
        await sessions.decide(session.key, "r9", allow=True, by="me")
    with pytest.raises(Conflict, match="decided by a rule"):
        await sessions.decide(session.key, "r2", allow=True, by="me")
    with pytest.raises(Conflict, match="decided already: deny by deadline"):
        await sessions.decide(session.key, "r3", allow=True, by="me")
    await sessions.decide(session.key, "r1", allow=False, by="me", reason="not today")

    answered = await Questions(store).get(question.id)
    assert (answered.answer, answered.answered_by, answered.note) == ("deny", "me", "not today")
    with pytest.raises(Conflict, match="answered already"):
        await sessions.decide(session.key, "r1", allow=True, by="me")


# Waiting


async def test_a_follower_sees_all_and_ends_with_the_session(store: Store, sessions: Sessions, pretend: Pretend) -> None:
    """What was, what comes, the summary and the end; each once and in order."""
    session = await pretend(store)
    other = await pretend(store, "w2")
    seen: list[str] = []

    async def follow() -> None:
        async for event in sessions.follow(session.key):
            seen.append(event.type)

    async with asyncio.timeout(PATIENCE_SECONDS), asyncio.TaskGroup() as tasks:
        tasks.create_task(follow())
        await asyncio.sleep(0)
        await session.state("prompt")
        await other.state("busy")
        await session.exit()

    assert seen == [facts.CLAIMED, facts.STARTED, facts.STATE_CHANGED, facts.SUMMARIZED, facts.EXITED]
    again = [event.seq async for event in sessions.follow(session.key, after=3)]
    assert again == [4, 5]
    assert [event.seq async for event in sessions.follow(session.key, after=5)] == []


async def test_a_follower_that_stops_early_leaves_nothing_behind(store: Store, sessions: Sessions, pretend: Pretend) -> None:
    """Its tasks end with it."""
    session = await pretend(store)

    def ours() -> list[Any]:
        return [task for task in asyncio.all_tasks() if task.get_coro().__name__ in ("_pump", "_watch")]

    async def write() -> None:
        while len(ours()) < 2:
            await asyncio.sleep(0)
        await session.state("prompt")

    async with asyncio.timeout(PATIENCE_SECONDS), asyncio.TaskGroup() as tasks:
        tasks.create_task(write())
        async with aclosing(sessions.follow(session.key)) as feed:
            async for event in feed:
                if event.seq == 3:
                    break

    assert ours() == []


async def test_who_waits_is_told_how_it_ended(store: Store, sessions: Sessions, pretend: Pretend) -> None:
    """At once if it has ended, by the event if it has not."""
    session = await pretend(store)
    async with asyncio.timeout(PATIENCE_SECONDS), asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(sessions.ended(session.key))
        await asyncio.sleep(0)
        await session.exit(code=7, reason="failure")

    assert waiting.result().exited == facts.Exited(reason=facts.ExitReason.FAILURE, code=7)
    assert (await sessions.ended(session.key)).exited == facts.Exited(reason=facts.ExitReason.FAILURE, code=7)


async def test_who_waits_for_a_state_is_told_by_the_event(store: Store, sessions: Sessions, pretend: Pretend) -> None:
    """And at the session's end that it will not come."""
    session = await pretend(store)

    async with asyncio.timeout(PATIENCE_SECONDS), asyncio.TaskGroup() as tasks:
        busy = tasks.create_task(sessions.until(session.key, Until.BUSY))
        prompt = tasks.create_task(sessions.until(session.key, Until.PROMPT))
        await asyncio.sleep(0)
        await session.state("busy")
        assert (await busy).come
        assert not prompt.done()
        await session.exit()

    assert not prompt.result().come
    assert not prompt.result().session.live


async def test_who_waits_for_a_session_whose_guard_dies_buries_it(store: Store, sessions: Sessions, pretend: Pretend) -> None:
    """Once, although several wait: the end is recorded, the locks are free, the messages are accounted for."""
    vendor = facts.vendor_lock("claude", "v-1")
    session = await pretend(store)
    await session.tell((facts.IDENTIFIED, facts.Identified(vendor_session="v-1")), guards=(_unique(vendor),))
    written, queued = [await sessions.send(session.key, text) for text in ("written", "queued")]
    await session.move(facts.WRITTEN, written)

    types: list[str] = []
    watching = asyncio.Event()

    async def follow() -> None:
        async for event in sessions.follow(session.key):
            types.append(event.type)
            if event.type == facts.PROBE_REQUESTED:
                watching.set()

    async with asyncio.timeout(PATIENCE_SECONDS), asyncio.TaskGroup() as tasks:
        waiting = [tasks.create_task(sessions.ended(session.key)) for _ in range(3)]
        message = tasks.create_task(sessions.message(session.key, queued, until={MessageStatus.DONE}))
        tasks.create_task(follow())
        await asyncio.sleep(0)
        await sessions.probe(session.key, by="me")
        await watching.wait()
        session.kill_guard()

    for task in waiting:
        assert task.result().state == "lost"
    assert message.result().status is MessageStatus.DROPPED
    assert types[-4:] == [facts.LOST, facts.DROPPED, facts.SUMMARIZED, facts.EXITED]
    known = await sessions.get(session.key)
    assert known.exited is not None
    assert (known.exited.reason, known.exited.by, known.exited.code) == ("lost", "person:test", None)
    assert known.messages[written].status is MessageStatus.UNKNOWN
    assert [await store.holder_of(key) for key in (facts.id_lock("w1"), vendor)] == [None, None]
    assert await store.reserved(facts.inbox_counter(session.key)) == 0
    assert [event.type for event in await store.read(f"session/{session.key}")].count(facts.EXITED) == 1


async def test_a_host_that_outlives_its_guard_keeps_the_session(store: Store, sessions: Sessions, pretend: Pretend) -> None:
    """Nobody is buried alive: the end that the host records later is the one that counts."""
    me = Identity.of(os.getpid())
    session = await pretend(store, host_pid=me.pid, host_started=me.started)
    seen = asyncio.Event()

    async def follow() -> None:
        async for event in sessions.follow(session.key):
            if event.type == facts.GUARD_LOST:
                seen.set()

    async with asyncio.timeout(PATIENCE_SECONDS), asyncio.TaskGroup() as tasks:
        tasks.create_task(follow())
        waiting = tasks.create_task(sessions.ended(session.key))
        await asyncio.sleep(0)
        session.kill_guard()
        await session.tell((facts.GUARD_LOST, facts.GuardLost(pid=me.pid, started=me.started)))
        await seen.wait()
        await session.exit()

    assert waiting.result().state == "exited"
    assert [event.type for event in await store.read(f"session/{session.key}")][-1] == facts.EXITED


async def test_a_host_that_dies_after_its_guard_is_missed_as_well(store: Store, sessions: Sessions, pretend: Pretend) -> None:
    """Without a word of it on record, both are watched."""
    other = await pretend(store, "host")
    host = Identity.of(other.guard.pid)
    session = await pretend(store, host_pid=host.pid, host_started=host.started)
    session.kill_guard()
    watching = asyncio.Event()

    async def follow() -> str:
        last = ""
        async for event in sessions.follow(session.key):
            last = event.type
            if last == facts.PROBE_REQUESTED:
                watching.set()
        return last

    async with asyncio.timeout(PATIENCE_SECONDS), asyncio.TaskGroup() as tasks:
        following = tasks.create_task(follow())
        await asyncio.sleep(0)
        await session.tell((facts.PROBE_REQUESTED, facts.ProbeRequested(by="me")))
        await watching.wait()
        other.kill_guard()

    assert following.result() == facts.EXITED
    assert (await sessions.get(session.key)).state == "lost"


async def test_a_session_whose_owners_die_between_two_looks_is_buried(
    store: Store, sessions: Sessions, pretend: Pretend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They live when it is asked whether they do, and are gone when they are to be watched."""
    from harness.sessions.client import waiting

    session = await pretend(store)
    looks: list[bool] = []

    def gone(store: Store, known: Session) -> bool:
        looks.append(session_gone(store, known))
        if len(looks) == 1:
            session.kill_guard()
        return looks[-1]

    monkeypatch.setattr(waiting, "session_gone", gone)

    async with asyncio.timeout(PATIENCE_SECONDS):
        ended = await sessions.ended(session.key)

    assert ended.state == "lost"
    assert looks == [False, True]


async def test_a_session_is_not_buried_under_the_next_run(store: Store, sessions: Sessions, pretend: Pretend) -> None:
    """Who finds an ended session's guard gone leaves the id to whoever has it now."""
    from harness.sessions.burying import bury

    first = await pretend(store)
    await first.exit()
    first.kill_guard()
    second = await pretend(store)

    await bury(store, first.key)
    await sessions.ended(first.key)

    held = await store.holder_of(facts.id_lock("w1"))
    assert held is not None
    assert held[0] == f"session/{second.key}"
    assert (await sessions.get("w1")).key == second.key


def _unique(key: str) -> Any:
    from harness.ledger import Unique

    return Unique(key)
