"""Looking after one session: follows it, applies what the ladder of `watch` decides, records why, and says it.

A client of sessions like any other: it asks the host by events and is not needed by it. If it dies the session goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Literal

import msgspec

from harness.errors import Conflict, HarnessError, NotFound, Refused
from harness.ledger import Draft, Event, Expect, Store, Write
from harness.sessions import facts
from harness.sessions.analysis import Analysis, analyse
from harness.sessions.client import Sessions
from harness.sessions.facts import ExitReason, Origin
from harness.sessions.ids import id_of
from harness.sessions.record import Session
from harness.sessions.watch.actions import (
    Action,
    Continue,
    Finished,
    Fresh,
    Interrupt,
    Limited,
    Moment,
    Park,
    Probe,
    Resume,
    Stall,
    Wait,
)
from harness.sessions.watch.handoff import handoff, resume_text
from harness.sessions.watch.ladder import Watch
from harness.sessions.watch.last_words import last_words
from harness.sessions.watch.policy import Policy, in_words
from harness.sessions.watch.signs import means_of, sampled

ESCALATED = 3
FAILED = 1
_LOOK_SECONDS = 60.0  # a reset is told by the wall clock, which no timer follows over a sleep of the machine
_CONTINUE_TTL_SECONDS = 3600.0
_END_SECONDS = 60.0
_AFTER_SECONDS = 1.0
_MOST_CONFLICTS = 20

Kind = Literal["vendor", "fresh"]
Relaunch = Callable[[Kind, str], Awaitable[str]]
"""Start the session anew: with the vendor's session and a text to go on by, or with a handoff; gives the new run's key."""

Outcome = tuple[str, int]
"""A word for the summary, and an exit code."""


class Watcher:
    """Looks after a session until it ends or a person has to be told. One use.

    `say` is given each line for the terminal. Without `relaunch` nothing is ever killed.
    """

    def __init__(
        self,
        store: Store,
        sessions: Sessions,
        key: str,
        policy: Policy,
        *,
        say: Callable[[str], object],
        relaunch: Relaunch | None = None,
    ) -> None:
        self._store = store
        self._sessions = sessions
        self._key = key
        self._policy = policy
        self._print = say
        self._relaunch = relaunch
        self._session = Session(key=key)
        self._events: list[Event] = []  # of all its runs, for what a successor is told
        self._queue: asyncio.Queue[Event] = asyncio.Queue()
        self._conflicts = 0
        self._began = self._now()
        self._watch = Watch(policy, self._began)

    async def run(self) -> int:
        """Watch; gives the agent's code when it finished, 3 when a person was told. Raises `HarnessError`."""
        still, resumes = in_words(self._policy.stall_after_seconds), self._policy.max_resumes
        self._say(f"id={id_of(self._key)} stall-after={still} max-resumes={resumes}")
        outcome, code = "error", FAILED
        try:
            outcome, code = await self._follow_all()
        except asyncio.CancelledError:
            outcome = "left"  # the session goes on, unwatched
            raise
        finally:
            if outcome != "success" and self._session.exited is not None:
                for line in last_words(self._session.exited):
                    self._say(line)
            elapsed = self._now().monotonic - self._began.monotonic
            self._say(
                f"summary id={id_of(self._key)} resumes={self._watch.resumes} final_state={self._session.state} "
                f"outcome={outcome} elapsed_s={elapsed:.1f}"
            )
        return code

    async def _follow_all(self) -> Outcome:
        """One run after another, until there is an outcome."""
        while True:
            following = asyncio.ensure_future(self._pump(self._key))
            try:
                await self._catch_up()
                outcome = await self._look_after(following)
            finally:
                following.cancel()
                await asyncio.gather(following, return_exceptions=True)
            if outcome is not None:
                return outcome

    async def _look_after(self, following: asyncio.Future[None]) -> Outcome | None:
        """Act until there is an outcome, or another run to follow: None."""
        key = self._key
        while self._key == key:
            self._drain()
            self._sample()
            action = self._watch.decide(self._now())
            match action:
                case Wait(until):
                    await self._rest(None if until is None else until - self._now().monotonic, following)
                case Limited(until_us):
                    seconds = (until_us - self._now().wall_us) / 1_000_000
                    await self._rest(min(seconds, _LOOK_SECONDS), following)
                case _:
                    outcome = await self._applied(action)
                    if outcome is not None:
                        return outcome
        return None

    # What is seen

    async def _pump(self, key: str) -> None:
        async with contextlib.aclosing(self._sessions.follow(key)) as feed:
            async for event in feed:
                await self._queue.put(event)

    async def _catch_up(self) -> None:
        """See all that is written already, without waiting for the follower."""
        for event in await self._store.read(facts.stream_of(self._key), after=self._session.seq):
            self._see(event)

    def _drain(self) -> None:
        while not self._queue.empty():
            self._see(self._queue.get_nowait())

    def _see(self, event: Event) -> None:
        """Take in one event of the present run, once."""
        if event.stream != facts.stream_of(self._key) or event.seq <= self._session.seq:
            return
        self._events.append(event)
        self._session.fold(event)
        self._watch.mode = self._session.mode
        self._watch.means = means_of(self._session, relaunch=self._relaunch is not None)
        shape = facts.SHAPES.get(event.type)
        if shape is not None and not event.erased:
            self._watch.observe(event.load(shape), self._now())

    def _sample(self) -> None:
        sample = sampled(self._sessions.folder(self._key))
        if sample is not None:
            self._watch.observe(sample, self._now())

    async def _rest(self, seconds: float | None, following: asyncio.Future[None]) -> None:
        """Until something is seen, or the time is over. Raises what ended the follower."""
        if following.done():
            following.result()
            before = self._session.seq
            await self._catch_up()
            if self._session.seq > before:
                return
            seconds = _AFTER_SECONDS  # its end is told, or is about to be
        tasks: set[asyncio.Future[None]] = {asyncio.ensure_future(self._take_one())}
        if seconds is not None:
            tasks.add(asyncio.ensure_future(self._store.clock.sleep(max(0.0, seconds))))
        try:
            await asyncio.wait(tasks if following.done() else {*tasks, following}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _take_one(self) -> None:
        self._see(await self._queue.get())

    def _now(self) -> Moment:
        clock = self._store.clock
        return Moment(monotonic=clock.monotonic(), wall_us=clock.now_us())

    def _told(self) -> Analysis:
        return analyse(self._key, self._events, now_us=self._now().wall_us)

    # What is done

    async def _applied(self, action: Action) -> Outcome | None:
        try:
            return await self._apply(action)
        except NotFound:  # it has ended meanwhile
            await self._catch_up()
            if self._session.live:
                raise
            return None

    async def _apply(self, action: Action) -> Outcome | None:
        """Carry out one action, unless the session has moved since it was decided."""
        match action:
            case Probe(stall):
                if await self._record(*_stalled(stall, "probe")):
                    self._took(action)
                    await self._sessions.probe(self._key, by=self._store.actor, reason=stall.reason)
            case Interrupt(stall, number):
                await self._interrupt(action, stall, number)
            case Continue(why, stall):
                text = resume_text(why, stall.reason if stall is not None else "", self._told())
                return await self._continue(action, text)
            case Resume(stall, number):
                return await self._start_anew(action, "vendor", stall, number)
            case Fresh(stall, number):
                return await self._start_anew(action, "fresh", stall, number)
            case Park(reason, stall):
                return await self._escalate(reason, *_stalled(stall, "park"))
            case Finished():
                return await self._finish(action)
            case _:
                pass
        return None

    async def _interrupt(self, action: Interrupt, stall: Stall, number: int) -> None:
        resumed = facts.Resumed(number=number, maximum=self._policy.max_resumes, how="interrupt", reason=stall.reason)
        if await self._record(*_stalled(stall, "interrupt"), _draft(resumed)):
            self._took(action)  # before anything more is seen: what comes now came after the interrupt was decided
            self._tell_resume(stall, number)
            await self._sessions.interrupt(self._key, by=self._store.actor, reason=stall.reason)

    async def _continue(self, action: Continue, text: str) -> Outcome | None:
        try:
            await self._sessions.send(
                self._key, text, origin=Origin(kind="harness"), ttl_seconds=_CONTINUE_TTL_SECONDS
            )  # fmt: skip
        except Refused as refused:  # a full inbox: it has been told enough
            return await self._escalate(str(refused))
        self._took(action)
        return None

    async def _start_anew(self, action: Resume | Fresh, kind: Kind, stall: Stall, number: int) -> Outcome | None:
        """End the tree, and start again with the vendor's session or with a handoff."""
        assert self._relaunch is not None, "nothing is killed that cannot be started again"
        decided = await self._record(*_stalled(stall, "resume" if kind == "vendor" else "fresh"))
        if not decided:
            return None
        if self._session.live:
            await self._sessions.stop(self._key, by=self._store.actor, kill=True, reason=stall.reason)
            if not await self._ends():
                return await self._escalate(f"it could not be ended within {_END_SECONDS:g} s")
            if not self._ended_by_us():
                return None  # it was faster: its end is its own
        text = ""
        if not self._finished_since(decided):
            text = resume_text("ended", stall.reason, self._told()) if kind == "vendor" else handoff(stall.reason, self._told())
        elif kind == "fresh":
            return "success", 0  # there is nothing to hand over
        try:
            key = await self._relaunch(kind, text)
        except HarnessError as error:
            self._say(f"{kind} failed: {error}")
            self._took(action)
            self._watch.observe(facts.Exited(reason=ExitReason.FAILURE, detail=str(error)), self._now())
            return None
        await self._goes_on_as(key, kind, stall, number)
        self._took(action)
        return None

    async def _ends(self) -> bool:
        """Whether the session has ended within its time."""
        try:
            async with asyncio.timeout(_END_SECONDS):
                await self._sessions.ended(self._key)
        except TimeoutError:
            return False
        await self._catch_up()
        return True

    def _ended_by_us(self) -> bool:
        exited = self._session.exited
        return exited is not None and exited.reason in (ExitReason.STOPPED, ExitReason.KILLED, ExitReason.LOST)

    def _finished_since(self, seq: int) -> bool:
        """Whether a turn of this run went well after that event: then there is nothing to go on with."""
        stream = facts.stream_of(self._key)
        over = [event for event in self._events if event.stream == stream and event.seq > seq and not event.erased]
        told = [event.load(facts.TurnCompleted) for event in over if event.type == facts.TURN_COMPLETED]
        return any(turn.outcome == "success" for turn in told)

    async def _goes_on_as(self, key: str, kind: Kind, stall: Stall, number: int) -> None:
        """Another run takes over; both streams tell it."""
        resumed = facts.Resumed(number=number, maximum=self._policy.max_resumes, how=kind, reason=stall.reason, key=key)
        await self._store.append(*(Write(facts.stream_of(each), (_draft(resumed),)) for each in (self._key, key)))
        self._tell_resume(stall, number)
        self._key, self._session = key, Session(key=key)

    async def _escalate(self, reason: str, *also: Draft) -> Outcome | None:
        """Tell a person; None if the session has moved since that was decided."""
        if not await self._record(*also, _draft(facts.Escalated(reason=reason))):
            return None
        self._say(f"{reason}, escalating")
        return "escalated", ESCALATED

    async def _finish(self, action: Finished) -> Outcome:
        """It has ended; one that lingers after its result is ended, and counts as what its result was."""
        if action.lingers:
            reason = "it has given its result and does not end"
            stall = Stall(clock="result", idle_seconds=self._policy.linger_seconds, state=self._session.state, reason=reason)
            await self._record(*_stalled(stall, "stop"))
            await self._sessions.stop(self._key, by=self._store.actor, reason=reason)
            await self._ends()
        return action.outcome, action.code

    def _took(self, action: Action) -> None:
        self._watch.took(action, self._now())

    # What is said

    async def _record(self, *drafts: Draft) -> int:
        """Write down why, if nothing has happened since it was decided, and give the sequence; else see what has, and 0."""
        stream = facts.stream_of(self._key)
        guards = [Expect(stream, self._session.seq)] if self._conflicts < _MOST_CONFLICTS else []
        try:
            appended = await self._store.append(Write(stream, drafts), guards=guards)
        except Conflict:  # who writes all the time would otherwise never be found to go in circles
            self._conflicts += 1
            await self._catch_up()
            return 0
        self._conflicts = 0
        return appended.last.seq

    def _tell_resume(self, stall: Stall, number: int) -> None:
        idle = in_words(stall.idle_seconds)
        self._say(f"resume {number}/{self._policy.max_resumes} (idle={idle}, state={stall.state})")

    def _say(self, line: str) -> None:
        self._print(f"harness watch: {line}")


def _draft(payload: facts.Stalled | facts.Resumed | facts.Escalated) -> Draft:
    types: dict[type[msgspec.Struct], str] = {
        facts.Stalled: facts.STALLED,
        facts.Resumed: facts.RESUMED,
        facts.Escalated: facts.ESCALATED,
    }
    return Draft(type=types[type(payload)], payload=payload)


def _stalled(stall: Stall | None, rung: str) -> tuple[Draft, ...]:
    if stall is None:
        return ()
    told = facts.Stalled(
        clock=stall.clock, idle_seconds=round(stall.idle_seconds, 3), rung=rung, reason=stall.reason, state=str(stall.state)
    )
    return (_draft(told),)
