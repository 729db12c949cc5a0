"""One service at the edge: carries out what the machine decides, with a real process, and records what has happened.

One task at a time steps the machine; ending, probing and waiting run beside it and answer with inputs of their epoch.
"""

from __future__ import annotations

import asyncio
import re
import signal
import socket
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, assert_never

from anyio.abc import TaskGroup

from harness.clock import MICROSECONDS, Clock
from harness.errors import ProcessError
from harness.ledger import Guard
from harness.recovery import facts
from harness.recovery.declarations import Service
from harness.recovery.folders import fifo_path, log_path
from harness.recovery.supervisor import launch, machine, readiness
from harness.recovery.supervisor.machine import Intent, Phase, State
from harness.text import cleaned, secrets_of

if TYPE_CHECKING:
    from harness.processes import Process, RotatingLog

_LAST_LINES = 20
_LAST_CHARACTERS = 2000
_SLOW_PROBE_SECONDS = 2.0  # after the declared time is over, since it may still become ready


class Recorder(Protocol):
    """What a unit needs of its supervisor."""

    @property
    def home(self) -> Path: ...

    @property
    def root(self) -> Path: ...

    @property
    def clock(self) -> Clock: ...

    async def record(self, name: str, *written: facts.Fact, parent: str | None = None, guards: tuple[Guard, ...] = ()) -> str:
        """Append to the service's stream under the supervisor's own lease; gives the first event's `ref`."""
        ...

    def changed(self, unit: Unit) -> None:
        """Its state has changed."""
        ...

    def said(self, name: str, data: bytes) -> None:
        """Its process has written this."""
        ...


@dataclass(frozen=True, slots=True)
class _Told:
    input: machine.Input
    taken: asyncio.Event


class Unit:
    """A service, its process if it has one, and its state."""

    def __init__(self, service: Service, recorder: Recorder, *, state: State) -> None:
        self.service = service
        self.state = state
        self.process: Process | None = None
        self.socket: socket.socket | None = None
        self.problem = ""  # why it is not running or not ready, in words
        self.stays_down = False  # it was stopped by an action before, so a new supervisor leaves it so
        self.since = 0.0  # when the process was spawned or adopted; monotonic seconds
        self._recorder = recorder
        self._inbox: asyncio.Queue[_Told] = asyncio.Queue()
        self._tasks: TaskGroup | None = None
        self._news = asyncio.Event()
        self._log: RotatingLog | None = None
        self._from = 0  # where the present process's output begins
        self._said_ready = asyncio.Event()
        self._kind, _, self._rest = service.ready.partition(":")
        self._seen = b""

    @property
    def name(self) -> str:
        return self.service.name

    @property
    def settled(self) -> bool:
        """Whether nothing is under way: it is ready, or overdue, or it does not run and will not for now."""
        return self.state.phase in machine.RESTING or self.state.phase in (Phase.READY, Phase.BACKING_OFF) or self.overdue

    @property
    def overdue(self) -> bool:
        """It runs, and was not ready in time."""
        return self.state.phase is Phase.RUNNING and bool(self.problem)

    @property
    def pid(self) -> int | None:
        """The pid of its process while it runs."""
        return self.process.pid if self.process is not None and self.process.exit is None else None

    # Asking

    async def tell(self, input_: machine.Input) -> None:
        """Hand an input to the unit; returns when its state reflects it."""
        told = _Told(input_, asyncio.Event())
        self._inbox.put_nowait(told)
        await told.taken.wait()

    def note(self, input_: machine.Input) -> None:
        """Hand an input to the unit without waiting."""
        self._inbox.put_nowait(_Told(input_, asyncio.Event()))

    async def until(self, holds: Callable[[Unit], bool]) -> None:
        """Wait until something holds of this unit."""
        while not holds(self):
            await self._news.wait()

    def last_output(self) -> str:
        """The end of what the present process wrote, fit to be shown: data, never to be trusted."""
        if self._log is None:
            return ""
        lines = self._log.tail(_LAST_LINES, max_bytes=4 * _LAST_CHARACTERS)
        text = "\n".join(line.text for line in lines if line.offset >= self._from)
        known = secrets_of(launch.environment_of(self.service, self._recorder.home))
        return cleaned(text, known=known, limit=_LAST_CHARACTERS)

    # Working

    async def run(self, tasks: TaskGroup) -> None:
        """Step the machine for every input until cancelled; `tasks` holds what runs beside it."""
        self._tasks = tasks
        if self.process is not None:
            tasks.start_soon(self._watch, self.process, self.state.epoch)
            tasks.start_soon(self._become_ready, self.state.epoch)
        while True:
            told = await self._inbox.get()
            try:
                await self._step(told.input)
            finally:
                told.taken.set()

    async def finish(self, intent: Intent, *, grace_seconds: float | None = None) -> None:
        """End it for good, without the loop of `run`; nothing of it is left when this returns."""
        grace = self.service.stop_timeout_seconds if grace_seconds is None else grace_seconds
        was = self.state
        self.state, _ = machine.step(was, machine.Stop(intent, final=True), self.service, self._recorder.clock.now_us())
        if self.process is not None or was.phase in (Phase.BACKING_OFF, Phase.WAITING):
            await self._end(intent, self.state.epoch, grace)
        self.state = replace(self.state, phase=Phase.DOWN)
        self._let_go()
        self._publish()

    def hang_up(self) -> None:
        """Tell the process to read its configuration anew."""
        if self.process is not None:
            self.process.signal(signal.SIGHUP)

    async def hurry(self) -> None:
        """End the process at once, whatever else is under way."""
        if self.process is not None:
            await self.process.stop(grace_seconds=0)

    def release(self) -> None:
        """Let go of a process without ending it; the next supervisor finds it."""
        if self.process is not None:
            self.process.release()
        self._let_go()

    def _let_go(self) -> None:
        if self._log is not None:
            self._log.close()
        if self.socket is not None:
            self.socket.close()
            self.socket = None

    async def _step(self, input_: machine.Input) -> None:
        before = self.state
        self.state, effects = machine.step(before, input_, self.service, self._recorder.clock.now_us())
        if self.state.phase is not before.phase:
            self._publish()
        if self.state.phase is Phase.READY and before.phase is not Phase.READY:
            self.problem = ""
            await self._record(facts.ServiceReady(epoch=self.state.epoch, pid=self.pid or 0, seconds=self._age()))
            self._publish()
        for effect in effects:
            await self._perform(effect)

    async def _perform(self, effect: machine.Effect) -> None:
        match effect:
            case machine.Spawn(epoch, intent, restarts):
                await self._spawn(epoch, intent, restarts)
            case machine.Probe(epoch):
                self._beside(self._become_ready, epoch)
            case machine.End(epoch, intent):
                self._beside(self._end, intent, epoch, self.service.stop_timeout_seconds)
            case machine.Clean(epoch):
                await self._note_exit(epoch)
                self._beside(self._clean, epoch)
            case machine.Delay(epoch, seconds, restarts):
                due = self._recorder.clock.now_us() + round(seconds * MICROSECONDS)
                fact = facts.ServiceBackingOff(epoch=epoch, delay_seconds=seconds, due_us=due, restarts=restarts)
                await self._record(fact)
                self._beside(self._delay, epoch, due)
            case machine.GiveUp(epoch, restarts):
                self.problem = f"restarted {restarts} times within {self.service.give_up_window_seconds:g} s; given up"
                window = self.service.give_up_window_seconds
                await self._record(
                    facts.ServiceGaveUp(epoch=epoch, restarts=restarts, window_seconds=window, reason=self.problem)
                )
            case machine.Wait(epoch):
                self.problem = f"waits for {', '.join(self.service.depends_on)}"
                await self._record(facts.ServiceBlocked(epoch=epoch, kind="dependency", reason=self.problem))
            case _:
                assert_never(effect)

    def _beside(self, function: Callable[..., Coroutine[Any, Any, object]], *arguments: object) -> None:
        assert self._tasks is not None
        self._tasks.start_soon(function, *arguments, name=f"{self.name}: {function.__name__}")

    # Starting

    async def _spawn(self, epoch: int, intent: Intent, restarts: int) -> None:
        refused = self._obstacle()
        if refused is not None:
            await self._not_spawned(epoch, "port_taken", refused[0], refused[1])
            return
        tag = launch.tag_of(self._recorder.home, self.name, epoch)
        try:
            self._from = self._open_log().end
            fact = facts.ServiceStarting(
                epoch=epoch, tag=tag, reason=intent.reason, action_id=intent.action_id, restarts=restarts, log_offset=self._from
            )  # fmt: skip
            await self._record(fact, parent=intent.cause or None)
            self.process = await self._start(tag)
        except ProcessError as problem:
            await self._not_spawned(epoch, "command", str(problem), None)
            return
        self.since = self._recorder.clock.monotonic()
        self.problem = ""
        identity = self.process.identity
        self._beside(self._watch, self.process, epoch)
        fact = facts.ServiceStarted(
            epoch=epoch, pid=identity.pid, started=identity.started, tag=tag, action_id=intent.action_id
        )  # fmt: skip
        await self._record(fact)
        await self._step(machine.Spawned(epoch))

    def _obstacle(self) -> tuple[str, int | None] | None:
        if self.socket is not None:
            return None
        taken = launch.port_holder(self.service.address) if self.service.address else None
        if taken is None and self.service.listen:
            try:
                self.socket = launch.listen(self.service.listen)
            except OSError as problem:
                return f"{self.service.listen} cannot be listened on: {problem.strerror or problem}", None
        return taken

    async def _start(self, tag: str) -> Process:
        from harness.processes import Spec, spawn

        service, home = self.service, self._recorder.home
        self._said_ready.clear()
        self._seen = b""
        return await spawn(
            Spec(
                argv=launch.argv_of(service),
                tag=tag,
                cwd=launch.directory_of(service, self._recorder.root),
                env=launch.environment_of(service, home),
                sockets=() if self.socket is None else (self.socket.fileno(),),
                output=fifo_path(home, self.name),
            ),
            on_output=self._on_output,
            log=self._open_log(),
        )

    async def adopt(self, process: Process, starting: facts.ServiceStarting | None) -> None:
        """Own a process that a former supervisor has started, as it then recorded; called before `run`."""
        self.process = process
        self.since = self._recorder.clock.monotonic()
        self._from = starting.log_offset if starting is not None else self._open_log().end
        if self._kind == "log" and any(re.search(self._rest, line.text) for line in self._open_log().lines(self._from)):
            self._said_ready.set()
        identity = process.identity
        await self._record(
            facts.ServiceAdopted(epoch=self.state.epoch, pid=identity.pid, started=identity.started, tag=process.tag)
        )

    def was_ready(self) -> None:
        """The former supervisor had seen an adopted process write that it is ready."""
        self._said_ready.set()

    def _open_log(self) -> RotatingLog:
        from harness.processes import RotatingLog

        if self._log is None:
            path = log_path(self._recorder.home, self.name)
            self._log = RotatingLog(path, self.service.log_max_bytes, self.service.log_keep)
        return self._log

    def output(self) -> tuple[Callable[[bytes], object], RotatingLog]:
        """Where the output of an adopted process goes."""
        return self._on_output, self._open_log()

    async def _not_spawned(self, epoch: int, kind: str, reason: str, pid: int | None) -> None:
        self.problem = reason
        await self._record(facts.ServiceBlocked(epoch=epoch, kind=kind, reason=reason, pid=pid))
        await self._step(machine.NotSpawned(epoch))

    def _on_output(self, data: bytes) -> None:
        self._recorder.said(self.name, data)
        if self._kind == "log" and not self._said_ready.is_set():
            self._seen = (self._seen + data)[-65536:]
            if re.search(self._rest.encode(), self._seen, re.MULTILINE):
                self._said_ready.set()

    async def _become_ready(self, epoch: int) -> None:
        service = self.service
        sleep = self._recorder.clock.sleep
        reason = await readiness.until_ready(self._ask, timeout_seconds=service.ready_timeout_seconds, sleep=sleep)
        if reason and self.state.epoch == epoch and self.state.phase is Phase.RUNNING:
            self.problem = f"not ready after {service.ready_timeout_seconds:g} s: {reason}"
            fact = facts.ServiceNotReady(epoch=epoch, pid=self.pid or 0, seconds=self._age(), reason=reason)
            await self._record(fact)
            self._publish()
        while reason and self.state.epoch == epoch and self.state.phase is Phase.RUNNING:
            await sleep(_SLOW_PROBE_SECONDS)
            reason = await self._ask()
        if not reason:
            self.note(machine.BecameReady(epoch))

    async def _ask(self) -> str:
        match self._kind:
            case "":
                return ""
            case "http" | "https":
                return await readiness.ask_http(self.service.ready)
            case "tcp":
                return await readiness.ask_tcp(self._rest)
            case "log":
                return "" if self._said_ready.is_set() else f"it has not written {self._rest!r}"
            case _:
                home, root = self._recorder.home, self._recorder.root
                return await readiness.ask_command(
                    self._rest,
                    cwd=launch.directory_of(self.service, root),
                    env=launch.environment_of(self.service, home),
                    tag=f"{launch.tag_of(home, self.name, self.state.epoch)}:ready",
                )

    # Ending

    async def _watch(self, process: Process, epoch: int) -> None:
        ended = await process.wait()
        self.note(machine.Exited(epoch, failed=ended.code != 0))

    async def _note_exit(self, epoch: int) -> None:
        assert self.process is not None
        assert self.process.exit is not None
        code, number = self.process.exit.code, self.process.exit.signal
        self.problem = f"ended by signal {number}" if number else "ended" if code is None else f"ended with code {code}"
        fact = facts.ServiceExited(
            epoch=epoch, pid=self.process.pid, code=code, signal=number, ran_seconds=self._age(), last_output=self.last_output()
        )  # fmt: skip
        await self._record(fact)

    async def _clean(self, epoch: int) -> None:
        assert self.process is not None
        await self._stop_process(self.service.stop_timeout_seconds)
        self.note(machine.Ended(epoch))

    async def _end(self, intent: Intent, epoch: int, grace_seconds: float) -> None:
        parent = intent.cause or None
        stopping = facts.ServiceStopping(epoch=epoch, pid=self.pid, reason=intent.reason, action_id=intent.action_id)
        await self._record(stopping, parent=parent)
        pid, (needed, ended) = self.pid, await self._stop_process(grace_seconds)
        self.problem = intent.reason
        stopped = facts.ServiceStopped(epoch=epoch, pid=pid, needed=needed, ended=ended, action_id=intent.action_id)
        await self._record(stopped, parent=parent)
        self.note(machine.Ended(epoch))

    async def _stop_process(self, grace_seconds: float) -> tuple[str, int]:
        """End the whole tree and say so only when it is gone; what cannot be ended is tried again for ever."""
        process = self.process
        if process is None:
            return "nothing", 0
        number = getattr(signal, f"SIG{self.service.stop_signal}")
        while True:
            try:
                stopped = await process.stop(grace_seconds=grace_seconds, signal=number)
            except ProcessError as problem:
                self.problem = str(problem)
                await self._recorder.clock.sleep(1)
            else:
                self.process = None
                return stopped.needed, stopped.ended

    async def _delay(self, epoch: int, due_us: int) -> None:
        clock = self._recorder.clock
        await clock.sleep(max(0.0, (due_us - clock.now_us()) / MICROSECONDS))
        self.note(machine.TimeOver(epoch))

    # Saying

    async def _record(self, *written: facts.Fact, parent: str | None = None) -> None:
        await self._recorder.record(self.name, *written, parent=parent)

    def _publish(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()
        self._recorder.changed(self)

    def _age(self) -> float:
        return round(self._recorder.clock.monotonic() - self.since, 3)
