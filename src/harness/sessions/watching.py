"""Looking after one session: follows it, applies what the ladder of `watch` decides, records why, and says it.

A client of sessions like any other: it asks the host by events and is not needed by it. If it dies the session goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Literal

import msgspec

from harness.errors import Conflict, HarnessError, Refused
from harness.ledger import Draft, Event, Expect, Store, Write
from harness.sessions import facts
from harness.sessions.analysis import Analysis, analyse
from harness.sessions.client import Sessions
from harness.sessions.facts import ExitReason, Mode, Origin
from harness.sessions.handoff import handoff, resume_text
from harness.sessions.ids import Folder, id_of
from harness.sessions.record import Session
from harness.sessions.watch import Watch
from harness.sessions.watch_actions import (
    Action,
    Continue,
    Finished,
    Fresh,
    Interrupt,
    Limited,
    Means,
    Moment,
    Park,
    Probe,
    Resume,
    Sample,
    Stall,
    Wait,
)  # fmt: skip
from harness.sessions.watch_policy import Policy, in_words

ESCALATED = 3
FAILED = 1
_MOST_SLEEP_SECONDS = 60.0
_CONTINUE_TTL_SECONDS = 3600.0
_END_SECONDS = 60.0
_KNOWN = ("claude", "codex")

Kind = Literal["vendor", "fresh"]
Relaunch = Callable[[Kind, str], Awaitable[str]]
"""Start the session anew: with the vendor's session and a text to go on by, or with a handoff; gives the new run's key."""


def means_of(session: Session, *, relaunch: bool) -> frozenset[Means]:
    """What can be done with this session, as far as is known."""
    known = Path(session.cli).name in _KNOWN
    found: set[Means] = set()
    if session.mode in (Mode.STREAM, Mode.APP_SERVER):
        found |= {"probe", "interrupt", "outcomes", "progress"}
    elif session.mode == Mode.PTY:
        found |= {"interrupt", "outcomes", "progress"} if known else {"interrupt"}
    elif known:
        found |= {"outcomes", "progress"}
    if relaunch and known:
        found |= {"vendor", "fresh"} if session.vendor_session else {"fresh"}
    return frozenset(found)


class Watcher:
    """Looks after a session until it ends or a person has to be told. One use.

    `say` is given each line for the terminal. Without `relaunch` nothing is ever killed.
    """

    def __init__(
        self, store: Store, sessions: Sessions, key: str, policy: Policy, *, say: Callable[[str], object],
        relaunch: Relaunch | None = None,
    ) -> None:  # fmt: skip
        self._store = store
        self._sessions = sessions
        self._key = key
        self._policy = policy
        self._say = lambda line: say(f"harness watch: {line}")
        self._relaunch = relaunch
        self._session = Session(key=key)
        self._events: list[Event] = []  # of this run, for what a successor is told
        self._queue: asyncio.Queue[Event] = asyncio.Queue()
        self._began = self._now()
        self._watch = Watch(policy, self._began)

    async def run(self) -> int:
        """Watch; gives the agent's code when it finished, 3 when a person was told. Raises `HarnessError`."""
        policy = self._policy
        self._say(f"id={id_of(self._key)} stall-after={in_words(policy.stall_after_seconds)} max-resumes={policy.max_resumes}")
        outcome, code = "error", FAILED
        try:
            outcome, code = await self._follow_all()
        finally:
            elapsed = self._now().monotonic - self._began.monotonic
            self._say(
                f"summary id={id_of(self._key)} resumes={self._watch.resumes} final_state={self._session.state} "
                f"outcome={outcome} elapsed_s={elapsed:.1f}"
            )
        return code

    async def _follow_all(self) -> tuple[str, int]:
        """One run after another, until there is an outcome."""
        while True:
            key = self._key
            following = asyncio.ensure_future(self._pump(key))
            try:
                await self._catch_up()
                result = await self._look_after(following)
            finally:
                following.cancel()
                await asyncio.gather(following, return_exceptions=True)
            if result is not None:
                return result

    async def _look_after(self, following: asyncio.Future[None]) -> tuple[str, int] | None:
        """Act until there is an outcome, or another run to follow: None."""
        key = self._key
        while True:
            self._drain()
            self._sample()
            action = self._watch.decide(self._now())
            match action:
                case Wait(until):
                    await self._rest(None if until is None else until - self._now().monotonic, following)
                case Limited(until_us):
                    await self._rest((until_us - self._now().wall_us) / 1_000_000, following)
                case Finished():
                    return await self._finished(action)
                case Park():
                    if await self._record(*_stalled(action.stall, "park"), _draft(facts.Escalated(reason=action.reason))):
                        self._say(f"{action.reason}, escalating")
                        return "escalated", ESCALATED
                case _:
                    done = await self._apply(action)
                    if done is not None or self._key != key:
                        return done

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
            await self._catch_up()
        getting = asyncio.ensure_future(self._queue.get())
        sleeping = asyncio.ensure_future(self._store.clock.sleep(min(seconds or _MOST_SLEEP_SECONDS, _MOST_SLEEP_SECONDS)))
        tasks = {getting, sleeping} | (set() if following.done() else {following})
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if getting.done():
                self._see(getting.result())
        finally:
            for task in (getting, sleeping):
                task.cancel()
            await asyncio.gather(getting, sleeping, return_exceptions=True)

    def _now(self) -> Moment:
        clock = self._store.clock
        return Moment(monotonic=clock.monotonic(), wall_us=clock.now_us())

    # What is done

    async def _apply(self, action: Action) -> tuple[str, int] | None:
        """Carry out one rung, unless the session has moved since it was decided."""
        by = self._store.actor
        match action:
            case Probe(stall):
                if await self._record(*_stalled(stall, "probe")):
                    await self._sessions.probe(self._key, by=by, reason=stall.reason)
                    self._took(action)
            case Interrupt(stall, number):
                resumed = facts.Resumed(number=number, maximum=self._policy.max_resumes, how="interrupt", reason=stall.reason)
                if await self._record(*_stalled(stall, "interrupt"), _draft(resumed)):
                    await self._sessions.interrupt(self._key, by=by, reason=stall.reason)
                    self._took(action)
                    self._tell_resume(stall, number)
            case Continue(why, stall):
                return await self._continue(action, resume_text(why, stall.reason if stall is not None else "", self._told()))
            case Resume(stall, number):
                await self._start_anew(action, "vendor", stall, number)
            case Fresh(stall, number):
                await self._start_anew(action, "fresh", stall, number)
            case _:
                pass
        return None

    async def _continue(self, action: Continue, text: str) -> tuple[str, int] | None:
        try:
            await self._sessions.send(self._key, text, origin=Origin(kind="harness"), ttl_seconds=_CONTINUE_TTL_SECONDS)
        except Refused as refused:  # a full inbox: it has been told enough
            if await self._record(_draft(facts.Escalated(reason=str(refused)))):
                self._say(f"{refused}, escalating")
                return "escalated", ESCALATED
            return None
        self._took(action)
        return None

    async def _start_anew(self, action: Resume | Fresh, kind: Kind, stall: Stall, number: int) -> None:
        """End the tree, and start again with the vendor's session or with a handoff."""
        assert self._relaunch is not None, "nothing is killed that cannot be started again"
        if not await self._record(*_stalled(stall, "resume" if kind == "vendor" else "fresh")):
            return
        decided = self._session.seq
        if self._session.live:
            await self._sessions.stop(self._key, by=self._store.actor, kill=True, reason=stall.reason)
            async with asyncio.timeout(_END_SECONDS):
                await self._sessions.ended(self._key)
            await self._catch_up()
            if not self._ended_by_us():
                return  # it was faster: its end is its own
        told = self._told()
        finished = _finished_since(self._events, decided)
        text = "" if finished else resume_text("ended", stall.reason, told) if kind == "vendor" else handoff(stall.reason, told)
        if finished and kind == "fresh":
            return
        before = self._key
        try:
            key = await self._relaunch(kind, text)
        except HarnessError as error:
            self._say(f"{kind} failed: {error}")
            self._took(action)
            self._watch.observe(facts.Exited(reason=ExitReason.FAILURE, detail=str(error)), self._now())
            return
        how = "vendor" if kind == "vendor" else "fresh"
        resumed = facts.Resumed(number=number, maximum=self._policy.max_resumes, how=how, reason=stall.reason, key=key)
        await self._store.append(*(Write(facts.stream_of(each), (_draft(resumed),)) for each in (before, key)))
        self._took(action)
        self._tell_resume(stall, number)
        self._key, self._session, self._events = key, Session(key=key), []

    def _ended_by_us(self) -> bool:
        exited = self._session.exited
        return exited is not None and exited.reason in (ExitReason.STOPPED, ExitReason.KILLED, ExitReason.LOST)

    async def _finished(self, action: Finished) -> tuple[str, int]:
        """It has ended; one that lingers after its result is ended, and counts as what its result was."""
        if action.lingers:
            reason = "it has given its result and does not end"
            stall = Stall(clock="result", idle_seconds=self._policy.linger_seconds, state=self._session.state, reason=reason)
            await self._record(*_stalled(stall, "stop"))
            await self._sessions.stop(self._key, by=self._store.actor, reason=reason)
            await self._sessions.ended(self._key)
            await self._catch_up()
        return action.outcome, action.code

    def _took(self, action: Action) -> None:
        self._watch.took(action, self._now())

    def _tell_resume(self, stall: Stall, number: int) -> None:
        idle = in_words(stall.idle_seconds)
        self._say(f"resume {number}/{self._policy.max_resumes} (idle={idle}, state={stall.state})")

    def _told(self) -> Analysis:
        return analyse(self._key, self._events, now_us=self._now().wall_us)

    async def _record(self, *drafts: Draft) -> bool:
        """Write down why, if nothing has happened since it was decided; else see what has, and False."""
        stream = facts.stream_of(self._key)
        try:
            appended = await self._store.append(Write(stream, drafts), guards=[Expect(stream, self._session.seq)])
        except Conflict:
            await self._catch_up()
            return False
        for event in appended.events:
            self._see(event)
        return True


def sampled(folder: Folder) -> Sample | None:
    """What the files of a session show: how much has come and when, and what its host says of its progress, if it does."""
    size, newest = 0, 0
    for path in (folder.transcript, folder.errors):
        with contextlib.suppress(OSError):
            found = path.stat()
            size, newest = size + found.st_size, max(newest, found.st_mtime_ns // 1000)
    progress_us, in_tool = _pulse(folder.path / "pulse")
    return Sample(output_bytes=size, output_us=newest, progress_us=progress_us, in_tool=in_tool) if newest else None


def _pulse(path: Path) -> tuple[int | None, bool | None]:
    """`MICROSECONDS 0|1`: when the agent made progress last, and whether it is in a tool."""
    try:
        when, in_tool = path.read_text(encoding="ascii").split()
        return int(when), in_tool == "1"
    except (OSError, ValueError):
        return None, None


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


def _finished_since(events: list[Event], seq: int) -> bool:
    """Whether a turn went well after that event: then there is nothing to go on with."""
    over = [event for event in events if event.seq > seq and event.type == facts.TURN_COMPLETED and not event.erased]
    return any(event.load(facts.TurnCompleted).outcome == "success" for event in over)
