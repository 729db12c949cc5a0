"""A watched session: what the watcher asks, writes, says and returns, over a ledger in memory and a clock moved by hand."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from harness.clock import VirtualClock
from harness.errors import HarnessError, NotFound
from harness.ledger import Event, MemoryStore, Write
from harness.sessions import facts
from harness.sessions.client import Sessions
from harness.sessions.facts import Mode
from harness.sessions.watch.handoff import LOOK_FIRST
from harness.sessions.watch.policy import Policy
from harness.sessions.watch.watcher import Watcher

PATIENCE_SECONDS = 20.0
HOUR = 3600.0
Pretend = Callable[..., Any]
React = Callable[[Any, Event], Awaitable[object]]


async def settle() -> None:
    """Let every task go as far as it can without time passing."""
    for _ in range(60):
        await asyncio.sleep(0)


class Ledger(MemoryStore):
    """A ledger into whose appends a test may get in between."""

    before: Callable[[Write], Awaitable[object]] | None = None

    async def append(self, *writes: Write, **more: Any) -> Any:
        if self.before is not None and writes[0].events[0].type == facts.STALLED:
            act, self.before = self.before, None
            await act(writes[0])
        return await super().append(*writes, **more)


class World:
    """One watched session, and the host of it that a test plays."""

    def __init__(self, store: Ledger, clock: VirtualClock, home: Path, pretend: Pretend) -> None:
        self.store = store
        self.clock = clock
        self.sessions = Sessions(store, home)
        self.pretend = pretend
        self.said: list[str] = []
        self.reactions: dict[str, React] = {}
        self.runs: dict[str, Any] = {}
        self.relaunched: list[tuple[str, str]] = []
        self.relaunch_fails: list[str] = []
        self.tasks: list[asyncio.Task[Any]] = []

    async def start(self, **values: Any) -> Any:
        """A session that works."""
        session = await self.pretend(self.store, "w1", **{"mode": Mode.STREAM, **values})
        self.runs[session.key] = session
        await session.tell(
            (facts.IDENTIFIED, facts.Identified(vendor_session="5f0f7c1e", model="m")),
            (facts.TURN_STARTED, facts.TurnStarted(turn="t1")),
        )
        await session.state("busy")
        return session

    async def play(self) -> None:
        """Be the host: react to what is asked of any run."""
        async for event in self.store.follow(after=await self.store.tail(), streams=("session/",)):
            react = self.reactions.get(event.type)
            run = self.runs.get(event.stream.removeprefix("session/"))
            if react is not None and run is not None:
                await react(run, event)

    async def relaunch(self, kind: str, text: str) -> str:
        self.relaunched.append((kind, text))
        if kind in self.relaunch_fails:
            raise HarnessError("the program is missing")
        return str((await self.start()).key)

    def watch(self, session: Any, *, relaunch: bool = True, **rules: Any) -> asyncio.Task[int]:
        policy = Policy(**{"stall_after_seconds": 480.0, "max_resumes": 1, **rules})
        watcher = Watcher(
            self.store, self.sessions, session.key, policy, say=self.said.append, relaunch=self.relaunch if relaunch else None
        )
        self.tasks += [asyncio.create_task(self.play()), asyncio.create_task(watcher.run())]
        return self.tasks[-1]

    async def pass_(self, seconds: float, *, step: float = 10.0) -> None:
        """Let time pass in steps, and all that it leads to happen."""
        await settle()
        while seconds > 0:
            self.clock.advance(min(step, seconds))
            seconds -= step
            await settle()

    async def result(self, watching: asyncio.Task[int], *, within: float = 24 * HOUR) -> int:
        """What the watcher returns; time passes meanwhile, in long steps where nothing happens."""
        passed, deadline = 0.0, time.monotonic() + PATIENCE_SECONDS
        while not watching.done():
            assert passed < within, f"no end within {within:g} s of the clock: {self.said}"
            assert time.monotonic() < deadline, f"no end within {PATIENCE_SECONDS:g} s: {self.said}"
            await self.pass_(5)
            await asyncio.sleep(0.001)  # the exit of a real process is told by the loop
            passed += 5
        return watching.result()

    async def events(self, session: Any, *types: str) -> list[msgspec.Struct]:
        """What the session's stream has of these types."""
        found = await self.store.read(facts.stream_of(session.key))
        return [event.load(facts.SHAPES[event.type]) for event in found if event.type in types]

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


@pytest.fixture
async def world(tmp_path: Path, pretend: Pretend) -> AsyncIterator[World]:
    clock = VirtualClock()
    store = Ledger(actor="watch:test", clock=clock)
    made = World(store, clock, tmp_path / "home", pretend)
    yield made
    await made.close()
    await store.close()


# What a host does when it is asked


async def answers_a_probe(run: Any, _event: Event) -> None:
    await run.tell((facts.UNRECOGNISED, facts.Unrecognised(kind="usage")))


async def cuts_its_turn(run: Any, _event: Event) -> None:
    await run.tell((facts.TURN_COMPLETED, facts.TurnCompleted(turn="t1", outcome="interrupted")))
    await run.state("prompt")


async def finishes_its_turn(run: Any, _event: Event) -> None:
    await run.tell((facts.TURN_COMPLETED, facts.TurnCompleted(turn="t1", outcome="success")))
    await run.state("prompt")


async def is_killed(run: Any, _event: Event) -> None:
    await run.exit(reason="stopped", code=None, signal=9)


async def takes_the_message(run: Any, event: Event) -> None:
    message = event.load(facts.Queued)
    await run.move(facts.WRITTEN, message.message_id)
    await run.tell((facts.TURN_STARTED, facts.TurnStarted(turn="t2", message_ids=(message.message_id,))))
    await run.state("busy")


async def takes_the_message_and_is_done(run: Any, event: Event) -> None:
    await takes_the_message(run, event)
    await run.tell((facts.ITEM_COMPLETED, facts.ItemCompleted(kind="text", summary="done")))
    await run.exit()


def rungs(told: list[msgspec.Struct]) -> list[str]:
    return [each.rung for each in told if isinstance(each, facts.Stalled)]


# Helping


async def test_a_stalled_turn_is_interrupted_and_continued(world: World) -> None:
    """Probe, interrupt, and once it is cut one message that says what was cut and to look first; then it ends by itself."""
    session = await world.start()
    world.reactions = {
        facts.PROBE_REQUESTED: answers_a_probe,
        facts.INTERRUPT_REQUESTED: cuts_its_turn,
        facts.QUEUED: takes_the_message_and_is_done,
    }

    code = await world.result(world.watch(session), within=600)

    assert code == 0
    assert world.said == [
        "harness watch: id=w1 stall-after=8.0m max-resumes=1",
        "harness watch: resume 1/1 (idle=8.5m, state=busy)",
        world.said[-1],
    ]
    assert world.said[-1].startswith("harness watch: summary id=w1 resumes=1 final_state=exited outcome=success elapsed_s=51")
    stalls = await world.events(session, facts.STALLED)
    assert rungs(stalls) == ["probe", "interrupt"]
    assert stalls[0].reason == "nothing has come from it for 8.0m"  # type: ignore[attr-defined]
    (resumed,) = await world.events(session, facts.RESUMED)
    assert (resumed.number, resumed.maximum, resumed.how) == (1, 1, "interrupt")  # type: ignore[attr-defined]
    (message,) = await world.events(session, facts.QUEUED)
    assert isinstance(message, facts.Queued)
    assert message.origin == facts.Origin(kind="harness")
    assert "nothing has come from it for 8.0m" in message.text
    assert LOOK_FIRST in message.text


async def test_an_agent_that_nothing_helps_is_for_a_person(world: World) -> None:
    """Exit code 3, the lines that say so, an event with the reason; the session is left as it is."""
    session = await world.start()
    world.reactions = {facts.PROBE_REQUESTED: answers_a_probe, facts.INTERRUPT_REQUESTED: cuts_its_turn}
    world.reactions[facts.QUEUED] = takes_the_message

    code = await world.result(world.watch(session))

    assert code == 3
    assert world.said[1:3] == [
        "harness watch: resume 1/1 (idle=8.5m, state=busy)",
        "harness watch: max resumes reached, escalating",
    ]
    assert "final_state=busy outcome=escalated" in world.said[-1]
    assert rungs(await world.events(session, facts.STALLED)) == ["probe", "interrupt", "park"]
    assert await world.events(session, facts.ESCALATED) == [facts.Escalated(reason="max resumes reached")]
    assert (await world.sessions.get(session.key)).live


async def test_who_does_not_answer_is_ended_and_resumed(world: World) -> None:
    """The tree is ended at once, the vendor's session goes on with a text, both streams tell it, and the new run is watched."""
    session = await world.start()
    world.reactions = {facts.STOP_REQUESTED: is_killed}
    watching = world.watch(session)
    await world.pass_(520)
    (resumed_key,) = set(world.runs) - {session.key}
    new = world.runs[resumed_key]
    await new.exit(code=5, reason="failure")
    await new.tell((facts.SUMMARIZED, facts.Summarized()))

    code = await world.result(watching, within=60)

    # the new run ended before it had made any progress, and the budget is used up
    assert code == 3
    ((kind, text),) = world.relaunched
    assert kind == "vendor"
    assert text.startswith("Your program was ended in the midst of a turn and started anew, because nothing has come from it")
    assert LOOK_FIRST in text
    (stop,) = await world.events(session, facts.STOP_REQUESTED)
    assert isinstance(stop, facts.StopRequested)
    assert stop.kill
    told = [(await world.events(run, facts.RESUMED))[0] for run in (session, new)]
    assert told[0] == told[1]
    assert (told[0].how, told[0].key) == ("vendor", new.key)  # type: ignore[attr-defined]
    assert await world.events(session, facts.INTERRUPT_REQUESTED) == []


async def test_a_resumed_session_gives_its_own_code(world: World) -> None:
    """After progress its end counts as any other."""
    session = await world.start()
    world.reactions = {facts.STOP_REQUESTED: is_killed}
    watching = world.watch(session)
    await world.pass_(520)
    new = next(run for key, run in world.runs.items() if key != session.key)
    await new.tell((facts.ITEM_COMPLETED, facts.ItemCompleted(kind="text", summary="on it")))
    await new.exit(code=5, reason="failure")

    assert await world.result(watching, within=60) == 5
    assert "resumes=1 final_state=exited outcome=failure" in world.said[-1]


async def test_where_a_session_cannot_be_resumed_another_takes_over(world: World) -> None:
    """The handoff has the task, what was done and where it was cut."""
    session = await world.start()
    await world.sessions.send(session.key, "Port the parser to Rust.")
    await session.tell(
        (facts.ITEM_COMPLETED, facts.ItemCompleted(kind="file", paths=("src/parser.rs",), summary="src/parser.rs")),
        (facts.ITEM_COMPLETED, facts.ItemCompleted(kind="text", summary="Half of the grammar is done.")),
        (facts.ITEM_COMPLETED, facts.ItemCompleted(kind="tool", name="Bash", summary="cargo test", call="c1")),
    )
    world.reactions = {facts.STOP_REQUESTED: is_killed}
    world.relaunch_fails = ["vendor"]

    watching = world.watch(session, max_resumes=2)
    await world.pass_(600)

    assert [kind for kind, _ in world.relaunched] == ["vendor", "fresh"]
    text = world.relaunched[1][1]
    for part in ("Port the parser to Rust.", "src/parser.rs", "Half of the grammar is done.", "cargo test", LOOK_FIRST):
        assert part in text
    assert "harness watch: vendor failed: the program is missing" in world.said
    assert "harness watch: resume 2/2 (idle=0.0s, state=starting)" in world.said
    watching.cancel()


async def test_a_usage_limit_is_waited_for_and_then_continued(world: World) -> None:
    """Five hours later, and not one second before, the cut turn is continued; it costs none of the budget."""
    session = await world.start()
    until = world.clock.now_us() + round(5 * HOUR * 1e6)
    await session.tell(
        (facts.LIMITED, facts.Limited(kind="five_hour", until_us=until)),
        (facts.TURN_COMPLETED, facts.TurnCompleted(turn="t1", outcome="limit")),
        (facts.STATE_CHANGED, facts.StateChanged(
            state=facts.State.LIMITED, source=facts.Source.PROTOCOL, confidence=1.0, until_us=until,
        )),
    )  # fmt: skip
    world.reactions = {facts.QUEUED: takes_the_message_and_is_done}
    watching = world.watch(session)

    await world.pass_(5 * HOUR - 20, step=60)
    assert await world.events(session, facts.QUEUED) == []
    code = await world.result(watching, within=120)

    assert code == 0
    (message,) = await world.events(session, facts.QUEUED)
    assert isinstance(message, facts.Queued)
    assert message.text.startswith("A usage limit ended your last turn. It is over now.")
    assert "resumes=0" in world.said[-1]


class Laptop(VirtualClock):
    """A clock whose wall time goes on while the machine sleeps, and whose other does not."""

    slept_us = 0

    def now_us(self) -> int:
        return super().now_us() + self.slept_us


async def test_a_limit_that_resets_while_the_machine_sleeps_is_found_soon(tmp_path: Path, pretend: Pretend) -> None:
    """No timer runs while it sleeps, so the watcher looks at the time once a minute."""
    clock = Laptop()
    world = World(Ledger(actor="watch:test", clock=clock), clock, tmp_path / "home", pretend)
    session = await world.start()
    until = clock.now_us() + round(5 * HOUR * 1e6)
    await session.tell(
        (facts.LIMITED, facts.Limited(kind="five_hour", until_us=until)),
        (facts.TURN_COMPLETED, facts.TurnCompleted(turn="t1", outcome="limit")),
    )
    world.watch(session)
    await world.pass_(30)

    clock.slept_us = round(6 * HOUR * 1e6)
    await world.pass_(61)

    assert len(await world.events(session, facts.QUEUED)) == 1
    await world.close()
    await world.store.close()


# Leaving alone


async def test_an_agent_that_has_finished_is_left_alone_for_a_day(world: World) -> None:
    """At its prompt after a good turn: nothing is asked, nothing is written, nothing is said."""
    session = await world.start()
    await finishes_its_turn(session, Event)  # type: ignore[arg-type]
    before = await world.store.head(facts.stream_of(session.key))
    watching = world.watch(session)

    await world.pass_(24 * HOUR, step=600)

    assert not watching.done()
    assert await world.store.head(facts.stream_of(session.key)) == before
    assert len(world.said) == 1


async def test_no_text_is_put_before_an_agent_that_finishes_after_the_interrupt(world: World) -> None:
    """It was faster than the interrupt: its turn ended well, so there is nothing to continue."""
    session = await world.start()
    world.reactions = {facts.PROBE_REQUESTED: answers_a_probe, facts.INTERRUPT_REQUESTED: finishes_its_turn}
    watching = world.watch(session)

    await world.pass_(2 * HOUR, step=60)

    assert await world.events(session, facts.QUEUED) == []
    assert rungs(await world.events(session, facts.STALLED)) == ["probe", "interrupt"]
    assert not watching.done()


async def test_nothing_is_done_to_an_agent_that_finishes_as_it_is_decided(world: World) -> None:
    """Between the decision and its record the agent finishes: the record is refused, and nothing is asked."""
    session = await world.start()

    async def meanwhile(_write: Write) -> None:
        await finishes_its_turn(session, Event)  # type: ignore[arg-type]

    world.store.before = meanwhile
    world.watch(session)

    await world.pass_(2 * HOUR, step=60)

    assert world.store.before is None, "the test did not get in between"
    assert await world.events(session, facts.STALLED, facts.PROBE_REQUESTED, facts.QUEUED) == []


async def test_an_agent_that_ends_by_itself_as_it_is_to_be_ended_has_finished(world: World) -> None:
    """Its own exit came first: its code counts, and nothing is started again."""
    session = await world.start()

    async def ends_by_itself(run: Any, _event: Event) -> None:
        await run.exit(code=7, reason="failure")

    world.reactions = {facts.STOP_REQUESTED: ends_by_itself}

    assert await world.result(world.watch(session), within=600) == 7
    assert world.relaunched == []


async def test_an_agent_that_finishes_its_turn_while_it_is_ended_is_resumed_without_a_word(world: World) -> None:
    """The session goes on where it was: at its prompt, with nothing to continue."""
    session = await world.start()

    async def finishes_and_is_killed(run: Any, event: Event) -> None:
        await finishes_its_turn(run, event)
        await is_killed(run, event)

    world.reactions = {facts.STOP_REQUESTED: finishes_and_is_killed}
    watching = world.watch(session)
    await world.pass_(520)

    assert world.relaunched == [("vendor", "")]
    watching.cancel()


@pytest.mark.parametrize("state", ["blocked", "prompt"])
async def test_an_agent_that_waits_is_not_stalled(world: World, state: str) -> None:
    """For a person or for us: a day of it is no stall."""
    session = await world.start()
    await session.state(state, detail="permission" if state == "blocked" else "")
    watching = world.watch(session)

    await world.pass_(24 * HOUR, step=600)

    assert not watching.done()
    assert await world.events(session, facts.STALLED) == []


async def test_of_an_unknown_state_a_person_is_told_and_nothing_is_killed(world: World) -> None:
    """It is probed, and that is all."""
    session = await world.start()
    await session.state("unknown")

    code = await world.result(world.watch(session, max_resumes=9), within=600)

    assert code == 3
    assert rungs(await world.events(session, facts.STALLED)) == ["probe", "park"]
    asked = await world.events(session, facts.STOP_REQUESTED, facts.INTERRUPT_REQUESTED, facts.QUEUED)
    assert asked == []
    assert world.relaunched == []


async def test_output_of_a_plain_command_is_its_sign_of_life(world: World) -> None:
    """As long as its transcript grows it is at work; afterwards it is silent since its last byte, not since the last look."""
    session = await world.start(cli="make", mode=Mode.PTY)
    transcript = world.sessions.folder(session.key).transcript
    transcript.parent.mkdir(parents=True)
    watching = world.watch(session)
    for _ in range(20):
        with transcript.open("a") as file:
            file.write("another line\n")
        os.utime(transcript, ns=(world.clock.now_us() * 1000, world.clock.now_us() * 1000))
        await world.pass_(400)
    assert await world.events(session, facts.STALLED) == []

    await world.pass_(90)

    assert rungs(await world.events(session, facts.STALLED)) == ["probe"]
    assert world.relaunched == []
    watching.cancel()


async def test_a_plain_command_is_never_started_again(world: World) -> None:
    """What it did it would do twice: it is interrupted, then a person is told."""
    session = await world.start(cli="make", mode=Mode.PTY)

    code = await world.result(world.watch(session, max_resumes=5), within=1200)

    assert code == 3
    assert rungs(await world.events(session, facts.STALLED)) == ["probe", "interrupt", "park"]
    assert world.relaunched == []
    assert await world.events(session, facts.STOP_REQUESTED) == []


# The end


@pytest.mark.parametrize(
    ("reason", "code", "signal", "returned"),
    [("success", 0, None, 0), ("failure", 7, None, 7), ("killed", None, 9, 137), ("stopped", 143, None, 143)],
)
async def test_the_agents_code_is_returned(
    world: World, reason: str, code: int | None, signal: int | None, returned: int
) -> None:
    """Its own, or 128 and the signal; the summary names the reason."""
    session = await world.start()
    watching = world.watch(session)
    await world.pass_(5)
    await session.exit(reason=reason, code=code, signal=signal)

    assert await world.result(watching, within=60) == returned
    assert world.said[-1] == f"harness watch: summary id=w1 resumes=0 final_state=exited outcome={reason} elapsed_s=5.0"


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"reason": "success"}, []),
        (
            {"reason": "failure", "code": 7, "tail": "one\ntwo\n\n\x1b[31mno key\x1b[0m\r\nset it\nand again\n"},
            ["it has ended: failure, exit code 7", "| no key", "| set it", "| and again"],
        ),
        (
            {"reason": "killed", "code": None, "signal": 9, "detail": "signal 9, which\nHarness did not send"},
            ["it has ended: killed: signal 9, which Harness did not send"],
        ),
        ({"reason": "failure", "code": 1, "tail": "x" * 5000}, ["it has ended: failure, exit code 1", f"| {'x' * 199}…"]),
    ],
)
async def test_why_an_agent_died_is_said_before_the_summary(world: World, how: dict[str, Any], says: list[str]) -> None:
    """Its code or signal and its last lines, cleaned and clipped; nothing of one that has finished."""
    session = await world.start()
    watching = world.watch(session)
    await world.pass_(5)
    await session.exit(**how)

    await world.result(watching, within=60)
    assert world.said[1:-1] == [f"harness watch: {line}" for line in says]


async def test_a_session_that_is_over_already_is_told_at_once(world: World) -> None:
    """Nothing is waited for."""
    session = await world.start()
    await session.exit(code=4, reason="failure")

    assert await world.result(world.watch(session), within=10) == 4


async def test_a_session_whose_host_dies_is_lost(world: World) -> None:
    """The watcher finds it, records it, and returns 1."""
    session = await world.start()
    watching = world.watch(session)
    await world.pass_(5)
    session.kill_guard()

    assert await world.result(watching, within=HOUR) == 1
    assert "final_state=lost outcome=lost" in world.said[-1]


async def test_a_program_that_stays_after_its_one_result_is_ended(world: World) -> None:
    """What counts is its result, not the signal that ended it."""
    session = await world.start(mode=Mode.ONCE)
    await session.tell((facts.TURN_COMPLETED, facts.TurnCompleted(turn="t1", outcome="success")))
    world.reactions = {facts.STOP_REQUESTED: is_killed}

    assert await world.result(world.watch(session), within=120) == 0
    assert rungs(await world.events(session, facts.STALLED)) == ["stop"]
    assert "outcome=success" in world.said[-1]


async def test_a_full_inbox_is_for_a_person(world: World) -> None:
    """The agent was cut and cannot be told to go on."""
    session = await world.start()
    for number in range(64):
        await world.sessions.send(session.key, f"message {number}", ttl_seconds=24 * HOUR)
    world.reactions = {facts.PROBE_REQUESTED: answers_a_probe, facts.INTERRUPT_REQUESTED: cuts_its_turn}

    assert await world.result(world.watch(session), within=600) == 3
    assert "harness watch: inbox full (64 pending messages), escalating" in world.said


async def test_an_unknown_session_is_an_error(world: World) -> None:
    """It says so in the summary and raises."""
    session = await world.start()
    session.key = "w1@ffffffff"

    with pytest.raises(NotFound, match="no session 'w1@ffffffff'"):
        await world.result(world.watch(session), within=60)
    assert "outcome=error" in world.said[-1]


async def test_whoever_stops_watching_leaves_the_session_running(world: World) -> None:
    """The summary says that it was left."""
    session = await world.start()
    watching = world.watch(session)
    await world.pass_(5)

    watching.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watching

    assert "outcome=left" in world.said[-1]
    assert (await world.sessions.get(session.key)).live
