"""One session's host: claims the id, owns the agent, and goes on until it and all its descendants are gone.

One task, the pump, does everything that decides: it writes what was reported, folds what others have written, and sees
to what follows. What may take long (delivering, ending, asking a person) runs beside it and wakes it when done.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import Conflict, HarnessError, KeyTaken, LedgerError, ProcessError, Refused, StoreUnavailable
from harness.ledger import Draft, Event, Expect, Guard, Store, Unique, Write
from harness.processes import Exit, Identity, Process, Watch
from harness.sessions import facts, ids
from harness.sessions.burying import held_locks, withdraw_questions
from harness.sessions.closing import last_events
from harness.sessions.facts import ExitReason, Mode, State
from harness.sessions.host import burying, carrying
from harness.sessions.host.approvals import Approvals
from harness.sessions.host.beside import Beside
from harness.sessions.host.delivery import Delivery
from harness.sessions.host.digest import Digest
from harness.sessions.host.ending import Ending, Needed
from harness.sessions.host.file_watch import FileWatch
from harness.sessions.host.recorder import Recorder, draft, patiently
from harness.sessions.host.repository import Repository
from harness.sessions.host.viewers import Viewers
from harness.sessions.limits import Limits
from harness.sessions.reports import Decision, Progress, Report
from harness.wake import Listener

if TYPE_CHECKING:
    from harness.sessions.host.setup import Setup

_LOOK_SECONDS = 20.0  # a writer may have died before it rang
_FOLLOW_AGAIN_SECONDS = 1.0
_TAIL_BYTES = 4096
_PULSE_US = 5_000_000
_END_SECONDS = 3600.0  # for a ledger that is away to come back once the agent is gone; its end is unknown then
_GIT_SECONDS = 0.5  # for a last look at the repository: a git that hangs delays no end
_REST_GRACE_SECONDS = 2.0  # for what an agent that has exited by itself leaves behind


class Host:
    """See the module. `run` returns when the end is on record."""

    def __init__(self, setup: Setup, store: Store) -> None:
        self._setup = setup
        self._store = store
        self.recorder = Recorder(store, setup.folder)
        self.recorder.seen = self._on_event
        self.digest = Digest(self.recorder.session, price=setup.price)
        self.limits = Limits(setup.limits, began=store.clock.monotonic())
        self._wake = asyncio.Event()
        self._reports: list[Report] = []
        self._beside = Beside(complain=setup.complain, wake=self._wake.set)
        self._ending: Ending | None = None
        self._claimed = False
        self._begun = 0.0  # when the agent was started, in the loop's time
        self._over = False
        self._pulsed = (0, False)
        self._watches: list[Watch | FileWatch] = []
        self._listener: Listener | None = None
        self._process: Process | None = None
        self._approvals = Approvals(
            self.recorder, setup.rules, answer=self._answer, record=self.record, complain=setup.complain
        )
        self._viewers = Viewers(setup.folder, wake=self._wake.set, attended=setup.request.attended)
        self._repository = Repository(setup.cwd)

    # From the claim to the end

    async def run(self) -> None:
        """Be the host. Raises `HarnessError` if the session cannot be had; nothing is left running then."""
        await self.claim()
        setup = self._setup
        try:
            setup.prepare()
            self.recorder.open_files()
            await self.recorder.catch_up()
            self._take_transport()
            process = self._process = await self.transport.start(self.tell)
            self._begun = asyncio.get_running_loop().time()
        except (HarnessError, OSError) as error:
            await self._finish(Exit(code=None, signal=None), ExitReason.FAILURE, detail=str(error), tail="")
            raise
        self._signals()
        claimed, size = setup.claimed, setup.size
        started = facts.Started(
            pid=process.pid, started=process.identity.started, columns=size.columns, rows=size.rows, cli=claimed.cli,
            mode=claimed.mode, host_pid=claimed.host_pid, cwd=claimed.cwd, repo=claimed.repo, description=claimed.description,
            meta=claimed.meta, follows=claimed.follows,
        )  # fmt: skip
        await self.record(draft(facts.STARTED, started))
        await self._live(process)

    def _take_transport(self) -> None:
        """Make what speaks to the agent, and what takes its messages to it."""
        self.transport = self._setup.make_transport()
        self.digest.own_turns = "turns" not in self.transport.can
        self.delivery = Delivery(
            self.recorder, self.transport, self._beside, typing=self._viewers.typing, interrupt=self._interrupt,
            wake=self._wake.set,
        )  # fmt: skip

    async def claim(self) -> None:
        """Take the id, and the vendor's session if one is continued. Raises `HarnessError` naming who has it.

        What is to be said first, and what a run that is continued had not done, is queued at once: whoever dies from here
        on leaves it in the record of this run.
        """
        setup = self._setup
        guards: list[Guard] = [Unique(facts.id_lock(setup.id))]
        if setup.claimed.vendor_session:
            guards.append(Unique(facts.vendor_lock(setup.claimed.cli, setup.claimed.vendor_session)))
        for _ in range(3):
            queued, more = await self._first_messages()
            write = Write(self.recorder.stream, (draft(facts.CLAIMED, setup.claimed), *queued))
            try:
                await self._store.append(write, guards=[*guards, *more])
                self._claimed = True
                return
            except KeyTaken as taken:
                if taken.name != carrying.carried_lock(setup.claimed.follows):
                    await burying.make_room(self._store, taken, setup.id)
        raise HarnessError(f"session {setup.id!r} is being started and ended by others all the time; choose another --id")

    @property
    def owes_its_end(self) -> bool:
        """Whether it has claimed the session and not recorded its end, so that its guard has to."""
        return self._claimed and self.recorder.session.live

    async def _live(self, process: Process) -> None:
        loop = asyncio.get_running_loop()
        self._listener = Listener(self._setup.folder.bell)
        ended = loop.create_task(process.wait())
        pump = loop.create_task(self._pump())
        listening = loop.create_task(self._listen())
        try:
            await self._viewers.open(self.transport)
            await self._register(process, ended)
            self._beside.run(_ready_for_the_end())
            self._beside.run(self._observe("start"))
            self._watch_guard()
            self._watch_file()
            await asyncio.wait({ended, pump}, return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():  # nobody would hear the agent, or us, any more: the guard ends it all
                pump.result()
            async with asyncio.timeout(_END_SECONDS):
                await self._see_out(process, ended.result())
        finally:
            self._over = True
            self._wake.set()
            for task in (listening, pump, ended):
                task.cancel()
            await asyncio.gather(listening, pump, return_exceptions=True)
            await self._beside.end()
            self._listener.close()
            for watch in self._watches:
                watch.close()
            await self._viewers.close(self.recorder.session.exited)

    async def _register(self, process: Process, ended: asyncio.Task[Exit]) -> None:
        """Say that the session is there; of an agent that dies at once, the end is said instead."""
        for seconds in self._setup.settle_seconds:
            left = self._begun + seconds - asyncio.get_running_loop().time()
            await asyncio.wait({ended}, timeout=max(left, 0))
            if ended.done() or process.identity.rests():
                break
        if not ended.done() or ended.result().code == 0:
            self._setup.answer.started(process.pid)

    async def _see_out(self, process: Process, exit_: Exit) -> None:
        """The agent has exited: end what it left, write what it had said, and then how it ended."""
        ending = self._ending
        if ending is not None:
            await ending.done()
        observed = self._beside.run(self._observe("end"))
        try:
            rest = (await process.stop(grace_seconds=_REST_GRACE_SECONDS if ending is None else 0.2)).needed
        except ProcessError as error:  # what it left is another user's: how it ended itself is known all the same
            self._setup.complain(error)
            rest = "nothing"
        await self.transport.close()
        await self._approvals.close()
        async with self.recorder.writing:
            await self._write_reports()
        await asyncio.wait({observed}, timeout=_GIT_SECONDS)
        reason, needed, detail = (ending or Ending.none()).verdict(exit_, rest)
        await self._finish(exit_, reason, needed=needed, detail=detail, tail=self._tail())

    async def _finish(self, exit_: Exit, reason: ExitReason, *, detail: str = "", tail: str = "", needed: Needed = "") -> None:
        """The last append: everything that is open is closed, the keys are given back."""
        asked = self.recorder.session.open_approvals
        async with self.recorder.writing:
            for _ in range(20):
                await self.recorder.catch_up()
                session = self.recorder.session
                exited = facts.Exited(
                    reason=reason,
                    code=exit_.code,
                    signal=exit_.signal,
                    needed=needed,
                    detail=detail,
                    tail=tail,
                )
                held = await patiently(lambda: held_locks(self._store, self.recorder.session))
                drafts, guards = last_events(session, exited, self._store.clock.now_us(), held=held)
                try:
                    await self.recorder.append(*drafts, guards=(Expect(self.recorder.stream, session.seq), *guards))
                    break
                except KeyTaken:  # somebody has buried us: their word stands
                    await self.recorder.catch_up()
                    break
                except Conflict:  # somebody has just sent a message, which is to be closed as well
                    continue
                except HarnessError:
                    await asyncio.sleep(0.05)
            self.recorder.save()
        await withdraw_questions(self._store, asked, "the session has ended")
        self._setup.answer.ended(self.recorder.session.exited, tail)

    # Reports and events

    def tell(self, report: Report) -> None:
        """What a transport reports; called in the loop, often."""
        if type(report) is Progress:
            self.digest.progress(report, self._store.clock.now_us())
            if report.what != "output":
                self._pulse()
            return
        self._reports.append(report)
        self._wake.set()

    def _pulse(self) -> None:
        """Progress is no event: a file says when it was and whether a tool runs, for whoever watches, now and then."""
        at, in_tool = self.digest.last_progress_us, self.digest.in_tool
        if at - self._pulsed[0] >= _PULSE_US or in_tool is not self._pulsed[1]:
            self._pulsed = (at, in_tool)
            with contextlib.suppress(OSError):
                ids.write_private(self._setup.folder.path / "pulse", f"{at} {int(in_tool)}")

    async def record(self, *drafts: Draft, guards: tuple[Guard, ...] = ()) -> None:
        """Write events of our own; nothing comes after the end."""
        async with self.recorder.writing:
            if self.recorder.session.live:
                await self.recorder.append(*drafts, guards=guards)
        self._wake.set()

    def _on_event(self, event: Event) -> None:
        """An event of this stream, whoever wrote it; requests are seen to here."""
        match event.type:
            case facts.STOP_REQUESTED if not event.erased:
                self._stop(event.load(facts.StopRequested))
            case facts.INTERRUPT_REQUESTED:
                self._beside.run(self._interrupt())
            case facts.PROBE_REQUESTED:
                self._beside.run(self._probe())
            case _:
                pass

    async def _pump(self) -> None:
        while not self._over:
            try:
                async with asyncio.timeout(self._rest_seconds()):
                    await self._wake.wait()
            except TimeoutError:
                self._see_to_ledger()
            self._wake.clear()
            if self._beside.broken is not None:
                raise self._beside.broken
            async with self.recorder.writing:
                await self._write_reports()
                await self.recorder.catch_up()
                await self.delivery.expire()
            await self._see_to_approvals()
            if self._ending is None:
                self.delivery.look()
                self._see_to_limits()

    def _rest_seconds(self) -> float:
        now = self._store.clock.now_us()
        moments = [self.digest.board.next_us(now), self.delivery.next_us()]
        rests = [_LOOK_SECONDS, *((moment - now) / 1e6 for moment in moments if moment is not None)]
        if self._ending is None and self.limits.ends is not None:
            rests.append(self.limits.ends - self._store.clock.monotonic())
        return max(0.001, min(rests))

    async def _listen(self) -> None:
        """Wake the pump when somebody has written to our stream."""
        assert self._listener is not None
        while self._setup.shared:  # another machine may write: follow the database's own notices
            with contextlib.suppress(HarnessError):  # it is away; what comes meanwhile is found by the next look
                async for _ in self._store.follow(after=await self._store.tail(), streams=(self.recorder.stream,)):
                    self._wake.set()
            await asyncio.sleep(_FOLLOW_AGAIN_SECONDS)
            self._wake.set()
        while True:
            await self._listener.wait(3600)
            self._wake.set()

    async def _write_reports(self) -> None:
        """Called with the writing lock held."""
        reports, self._reports = self._reports, []
        now = self._store.clock.now_us()
        drafts, guards = self.digest.take(reports, now)
        drafts += self.digest.settle(now)
        if not drafts:
            return
        before = self.recorder.session.state
        try:
            await self.recorder.append(*drafts, guards=guards)
        except KeyTaken as taken:  # the program goes on with a session of its own that is another host's
            await self._dispute(taken, drafts, guards)
        except StoreUnavailable:
            raise
        except HarnessError as error:  # one of them is nothing that a ledger can hold: the others are written
            self._setup.complain(error)
            for each in drafts:
                with contextlib.suppress(LedgerError):
                    await self.recorder.append(each)
        self._after_writing(drafts, before)

    async def _dispute(self, taken: KeyTaken, drafts: list[Draft], guards: tuple[Guard, ...]) -> None:
        """Write reports that claim what another run has: if that is no more, it is ours, else this one is ended."""
        try:
            await burying.make_room(self._store, taken, self._setup.id)
            await self.recorder.append(*drafts, guards=guards)
        except HarnessError:
            await self.recorder.append(*drafts)
            reason = f"{taken.name.rpartition('/')[2]} is in use by {taken.stream.partition('/')[2]}"
            self._stop(facts.StopRequested(by="harness", reason=reason, timeout_seconds=5.0, kill=True), ExitReason.FAILURE)

    def _after_writing(self, drafts: list[Draft], before: State) -> None:
        if any(each.type == facts.TURN_COMPLETED for each in drafts):
            self._beside.run(self._observe("change"))
        if self.recorder.session.state is not before:
            self.recorder.save_soon()

    async def _first_messages(self) -> tuple[list[Draft], list[Guard]]:
        """The context, where it is not an argument of the program, and what the run that is continued had not done."""
        setup, follows = self._setup, self._setup.claimed.follows
        queued = [] if setup.first_message is None else [setup.first_message]
        guards: list[Guard] = []
        before = await carrying.earlier(self._store, follows) if follows else None
        if before is not None:
            if setup.request.vendor_session:
                self.digest.start_counters(carrying.counters(before))
            messages, guards = await carrying.take_over(self._store, before)
            queued += [setup.again(message) for message in messages]
        if queued:
            guards.append(setup.places_in_inbox(len(queued)))
        return [draft(facts.QUEUED, message) for message in queued], guards

    # Requests

    async def _interrupt(self) -> None:
        with contextlib.suppress(ProcessError):
            if not await self.transport.interrupt():
                await self.record(draft(facts.NOTED, facts.Noted(kind="interrupt", text="there was nothing to interrupt")))

    async def _probe(self) -> None:
        with contextlib.suppress(ProcessError):
            if not await self.transport.probe():
                await self.record(draft(facts.NOTED, facts.Noted(kind="probe", text="this program cannot be asked")))

    async def _answer(self, request: str, decision: Decision) -> None:
        await self.transport.decide(request, decision)

    async def _see_to_approvals(self) -> None:
        asked, self.digest.asked = self.digest.asked, []
        settled, self.digest.settled = self.digest.settled, []
        for each in asked:
            await self._approvals.ask(each)
        for each in settled:
            await self._approvals.settle(each)

    def _see_to_limits(self) -> None:
        if self.digest.useless:
            request = facts.StopRequested(by="harness", reason=self.digest.useless, timeout_seconds=5.0)
            self._stop(request, ExitReason.FAILURE)
            return
        crossed = self.limits.crossed(self.recorder.session, self._store.clock.monotonic())
        if crossed:
            self._stop(facts.StopRequested(by="limits", reason=crossed, timeout_seconds=10.0), ExitReason.TIMEOUT)

    def _see_to_ledger(self) -> None:
        """A ledger whose file was removed is nothing that anybody else can read or write: nobody could see or stop us."""
        database = self._setup.request.database
        if not self._setup.shared and self._ending is None and not Path(database).exists():
            request = facts.StopRequested(by="harness", reason=f"its ledger {database} is gone", timeout_seconds=5.0)
            self._stop(request, ExitReason.FAILURE)

    # What is watched

    def _watch_guard(self) -> None:
        """Without its guard the session goes on; from then on this process alone stands for it."""
        guard = Identity(pid=self._setup.claimed.guard_pid, started=self._setup.claimed.guard_started)
        self._watches.append(Watch(guard, self._guard_gone))

    def _guard_gone(self) -> None:
        own = Identity.of(os.getpid())
        self._beside.run(self.record(draft(facts.GUARD_LOST, facts.GuardLost(pid=own.pid, started=own.started))))

    def _watch_file(self) -> None:
        """Tell the agent when a file changes, as a message like any other."""
        path = self._setup.request.watch_file
        if path:
            self._watches.append(FileWatch(Path(path), lambda: self._beside.run(self._file_changed(path))))

    async def _file_changed(self, path: str) -> None:
        text = f"file-change-hook: read {path}"
        if not any(message.text == text for message in self.recorder.session.pending):  # it will look at the newest anyway
            message = self._setup.message(text)
            with contextlib.suppress(Refused):  # a full inbox has more pressing things in it
                await self.record(draft(facts.QUEUED, message), guards=(self._setup.place_in_inbox,))

    # Ending

    def _signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._told_to_end, number)
        loop.add_signal_handler(signal.SIGHUP, lambda: None)

    def _told_to_end(self, number: signal.Signals) -> None:
        request = facts.StopRequested(by=number.name, reason="the host was asked to end", timeout_seconds=5.0)
        self._stop(request)  # also where nothing can be written down
        self._beside.run(self.record(draft(facts.STOP_REQUESTED, request)))

    def _stop(self, request: facts.StopRequested, reason: ExitReason = ExitReason.STOPPED) -> None:
        if self._process is None:
            return
        if self._ending is None:
            self._ending = Ending(request, reason, self._process, self.transport)
            self._beside.run(self._ending.run())
        else:
            self._ending.hasten(request)

    # Small things

    async def _observe(self, phase: str) -> None:
        seen = await self._repository.observe(phase)
        if seen is not None:
            await self.record(draft(facts.GIT, seen))

    def _tail(self) -> str:
        from harness.text import cleaned

        setup = self._setup
        spoken = setup.plan.mode in (Mode.STREAM, Mode.APP_SERVER)  # its stdout is a protocol, which tells a person little
        data = b""
        for log in (setup.errors,) if spoken else (setup.transcript, setup.errors):
            if log is not None:
                end = log.end
                data += log.read(max(log.start, end - _TAIL_BYTES), _TAIL_BYTES).data
        return cleaned(data.decode(errors="replace"), limit=_TAIL_BYTES)


async def _ready_for_the_end() -> None:
    """Compile the patterns that clean its last words, which takes longer than all else that is done at the end."""
    import_module("harness.text")
