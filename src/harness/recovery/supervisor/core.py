"""The supervisor: the only one who starts and stops services. Takes a home over, runs its units, leaves nothing behind.

It talks by events only; it opens no socket but those it holds for services, and touches no process that it does not own.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import anyio
import msgspec
from anyio.abc import TaskGroup

from harness.clock import Clock
from harness.errors import Busy, HarnessError, LedgerError, ProcessError, StoreUnavailable, told_of
from harness.ledger import Cursor, Event, Fence, Guard, Release, Store, Write
from harness.recovery import facts
from harness.recovery.actions import Actions, Pending, pending_in, request_of
from harness.recovery.chaos import Chaos
from harness.recovery.declarations import Declarations, Service
from harness.recovery.folders import fifo_path, log_path
from harness.recovery.supervisor import launch, machine
from harness.recovery.supervisor.adoption import Adoption, sort_out
from harness.recovery.supervisor.machine import Intent, Phase, State
from harness.recovery.supervisor.order import stop_stages
from harness.recovery.supervisor.own import MONITOR
from harness.recovery.supervisor.ownership import RENEW_SECONDS, HomeLock, take_over
from harness.recovery.supervisor.unit import Unit
from harness.recovery.supervisor.watchdog import watch_monitor

Follower = Callable[[str, bytes], object]
_RETRY_SECONDS = 0.5
_RECENT = 500  # so many events back a process's start is looked for
_ALIVE = (facts.ServiceStarted, facts.ServiceReady, facts.ServiceNotReady, facts.ServiceAdopted)
_REQUESTS = (facts.ActionRequested.TYPE, facts.ChaosRequested.TYPE)


class Supervisor:
    """Runs what is declared, and Harness's own processes, until told to stop.

    `on_output` gets every service's name and bytes as they are written, for a merged log. `run` may be cancelled:
    it ends everything first. Raises `ProcessError` when another supervisor has this home.
    """

    def __init__(
        self,
        store: Store,
        declarations: Declarations,
        home: Path,
        *,
        own: Sequence[Service] = (),
        on_output: Follower | None = None,
    ) -> None:
        self.store = store
        self.home = home
        self.root = Path(declarations.root)
        self.declarations = msgspec.structs.replace(declarations, services=(*declarations.services, *own))
        self.settled = asyncio.Event()  # once nothing is under way any more after the start
        self._on_output = on_output
        self._units: dict[str, Unit] = {}
        self._fence: Fence | None = None
        self._stopping = asyncio.Event()
        self._hurry = asyncio.Event()
        self._reason = "the supervisor ends"
        self._chaos: Chaos | None = None
        self._redeclared: set[str] = set()
        self._leaving = False

    @property
    def clock(self) -> Clock:
        return self.store.clock

    @property
    def units(self) -> tuple[Unit, ...]:
        """All services, for showing."""
        return tuple(self._units.values())

    def unit(self, name: str) -> Unit | None:
        """The service of this name."""
        return self._units.get(name)

    def stop(self, reason: str = "the supervisor was told to stop") -> None:
        """End everything in good order; asked a second time, at once. May be called from a signal handler of the loop."""
        if self._stopping.is_set():
            self._hurry.set()
        self._reason = reason
        self._stopping.set()

    async def run(self) -> None:
        """Supervise until `stop` or cancellation; when this returns or raises, nothing of this home runs any more."""
        from harness.processes import become_subreaper

        lock = HomeLock(self.home)
        try:
            become_subreaper()
            unclean = await self._was_killed()
            self._fence = await take_over(self.store, self.home, self._started())
            try:
                await self._supervise(unclean)
            except BaseExceptionGroup as group:
                raise told_of(group) or group from None
            finally:
                with anyio.CancelScope(shield=True):
                    await self._leave()
        finally:
            lock.close()

    # Starting

    def _started(self) -> facts.SupervisorStarted:
        from harness.processes import Identity

        names = tuple(service.name for service in self.declarations.services)
        identity = Identity.of(os.getpid())
        return facts.SupervisorStarted(pid=identity.pid, started=identity.started, services=names)

    async def _was_killed(self) -> bool:
        newest = await self.store.latest(facts.SUPERVISOR, facts.STATE_KEY)
        return newest is not None and newest.type == facts.SupervisorStarted.TYPE

    async def _supervise(self, unclean: bool) -> None:
        seen = await self.store.tail()
        pending = await pending_in(self.store)
        await self._take_stock(unclean)
        async with anyio.create_task_group() as tasks:
            self._chaos = Chaos(self, tasks)
            actions = Actions(self)
            for unit in self.units:
                tasks.start_soon(unit.run, tasks, name=f"unit {unit.name}")
            await self._chaos.resume()
            resumed = self._resume(actions, pending, tasks)
            tasks.start_soon(self._start_all, resumed)
            tasks.start_soon(self._hear, seen, actions, tasks)
            tasks.start_soon(self._renew)
            if (monitor := self.unit(MONITOR)) is not None:
                tasks.start_soon(watch_monitor, monitor, self.store)
            await self._stopping.wait()
            tasks.cancel_scope.cancel()

    async def _take_stock(self, unclean: bool) -> None:
        """Make the units as the ledger and the process table have them."""
        from harness.processes import find

        await self._declare()
        states = {service.name: await self._last_state(service) for service in self.declarations.services}
        unchanged = [service.name for service in self.declarations.services if states[service.name][2]]
        left = sort_out(self.home, find(launch.home_tag(self.home)), unchanged)
        async with anyio.create_task_group() as tasks:
            for tag in left.end:
                tasks.start_soon(self._end_left, tag)
        adoptions = {adoption.name: adoption for adoption in left.adopt}
        for service in self.declarations.services:
            epoch, newest, _ = states[service.name]
            await self._make_unit(service, epoch, newest, adoptions.get(service.name), unclean)

    async def _end_left(self, tag: str) -> None:
        from harness.processes import end_tagged

        try:
            await end_tagged(tag, grace_seconds=2.0)
        except ProcessError as problem:
            self.complain(f"what is left of {tag}: {problem}")

    async def _make_unit(
        self, service: Service, epoch: int, newest: facts.Fact | None, adoption: Adoption | None, unclean: bool
    ) -> None:
        log_path(self.home, service.name).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        state = State(epoch=epoch, dependencies=not service.depends_on)
        unit = Unit(service, self, state=state)
        self._units[service.name] = unit
        if adoption is not None:
            unit.state = replace(state, phase=Phase.RUNNING, epoch=max(epoch, adoption.epoch), wanted=True)
            try:
                await self._adopt(unit, adoption)
            except ProcessError as problem:
                self.complain(f"{service.name}: process {adoption.identity.pid} is not adopted: {problem}")
                unit.state = state
            if isinstance(newest, facts.ServiceReady) and newest.pid == adoption.identity.pid:
                unit.was_ready()
        elif isinstance(newest, _ALIVE):
            await self._note_end(service.name, epoch, newest.pid)
        unit.stays_down = (
            unclean and isinstance(newest, facts.ServiceStopping | facts.ServiceStopped) and bool(newest.action_id)
        )

    async def _note_end(self, name: str, epoch: int, pid: int) -> None:
        """A process that should be there is not: it was ended here, as another declaration's, or by itself meanwhile."""
        if name in self._redeclared:
            await self.record(name, facts.ServiceStopped(epoch=epoch, pid=pid, needed="term", ended=1))
        else:
            await self.record(name, facts.ServiceExited(epoch=epoch, pid=pid, code=None, signal=None, ran_seconds=0.0))

    async def _adopt(self, unit: Unit, adoption: Adoption) -> None:
        from harness.processes import adopt

        on_output, log = unit.output()
        fifo = fifo_path(self.home, unit.name)
        process = await adopt(adoption.identity, tag=adoption.tag, output=fifo, on_output=on_output, log=log)
        await unit.adopt(process, await self._starting(unit.name, adoption.tag))

    async def _starting(self, name: str, tag: str) -> facts.ServiceStarting | None:
        """What was recorded when the process of this tag was about to be spawned."""
        stream = facts.service_stream(name)
        head = await self.store.head(stream)
        recent = await self.store.read(stream, after=max(0, head.seq - _RECENT)) if head else []
        found = (facts.fact_of(event) for event in reversed(recent))
        return next((fact for fact in found if isinstance(fact, facts.ServiceStarting) and fact.tag == tag), None)

    async def _last_state(self, service: Service) -> tuple[int, facts.Fact | None, bool]:
        """The epoch and fact of the newest state event, and whether the service was declared then as it is now."""
        stream = facts.service_stream(service.name)
        event = await self.store.latest(stream, facts.STATE_KEY)
        fact = facts.fact_of(event) if event is not None else None
        return int(getattr(fact, "epoch", 0)), fact, service.name not in self._redeclared

    async def _declare(self) -> None:
        """Write what is declared where it differs from what was declared before."""
        self._redeclared.clear()
        for service in self.declarations.services:
            fact = _declaration(service, self.home)
            before = await self._declared(service.name)
            if before != fact:
                self._redeclared.add(service.name)
                await self.record(service.name, fact)
        for head in await self.store.heads("service/"):
            name = head.stream.partition("/")[2]
            before = await self._declared(name)
            if before is not None and not before.removed and self.declarations.service(name) is None:
                await self.record(name, msgspec.structs.replace(before, removed=True))

    async def _declared(self, name: str) -> facts.ServiceDeclared | None:
        event = await self.store.latest(facts.service_stream(name), facts.DECLARED_KEY)
        fact = facts.fact_of(event) if event is not None else None
        return fact if isinstance(fact, facts.ServiceDeclared) else None

    def _resume(self, actions: Actions, pending: list[Pending], tasks: TaskGroup) -> set[str]:
        """Go on with every request that has no end; gives the services whose start is theirs to decide."""
        for one in pending:
            tasks.start_soon(self._carefully, actions.take, one)
        return {one.request.target for one in pending if one.started is not None and _starts_or_stops(one)}

    async def _start_all(self, resumed: set[str]) -> None:
        async with anyio.create_task_group() as tasks:
            for unit in self.units:
                if unit.name not in resumed and not unit.stays_down:
                    tasks.start_soon(unit.tell, machine.Start(Intent(reason="declared")))
        for unit in self.units:
            await unit.until(lambda unit: unit.settled)
        self.settled.set()

    # Working

    async def _hear(self, seen: Cursor, actions: Actions, tasks: TaskGroup) -> None:
        async for event in self.store.follow(after=seen, streams=("service/",), types=_REQUESTS):
            self._take(event, actions, tasks)

    def _take(self, event: Event, actions: Actions, tasks: TaskGroup) -> None:
        if event.type == facts.ChaosRequested.TYPE:
            assert self._chaos is not None
            tasks.start_soon(self._carefully, self._chaos.take, event)
        elif (pending := request_of(event)) is not None:
            tasks.start_soon(self._carefully, actions.take, pending)

    async def _carefully(self, function: Callable[..., Awaitable[object]], argument: object) -> None:
        """One request that goes wrong must not end the supervision of everything."""
        try:
            await function(argument)
        except HarnessError as problem:
            self.complain(str(problem))

    async def _renew(self) -> None:
        while True:
            await self.clock.sleep(RENEW_SECONDS)
            assert self._fence is not None
            try:
                await self.store.renew(self._fence.lease, self._fence.token, RENEW_SECONDS * 3)
            except (Busy, StoreUnavailable) as problem:
                self.complain(str(problem))

    def changed(self, unit: Unit) -> None:
        """A unit's state has changed: tell those who depend on it."""
        if self._leaving:
            return
        if self._chaos is not None:
            self._chaos.replaced(unit)
        for other in self.units:
            if unit.name in other.service.depends_on:
                ready = all(self._ready(name) for name in other.service.depends_on)
                if ready is not other.state.dependencies:
                    other.note(machine.Dependencies(ready))

    def _ready(self, name: str) -> bool:
        unit = self._units.get(name)
        return unit is not None and unit.state.phase is Phase.READY

    def said(self, name: str, data: bytes) -> None:
        if self._on_output is not None:
            self._on_output(name, data)

    async def record(self, name: str, *written: facts.Fact, parent: str | None = None, guards: tuple[Guard, ...] = ()) -> str:
        """Append to a service's stream, fenced; waits as long as the ledger is busy or full. Gives the first event's ref."""
        drafts = tuple(facts.draft(fact, parent=parent) for fact in written)
        fence = () if self._fence is None else (self._fence,)
        while True:
            try:
                appended = await self.store.append(Write(facts.service_stream(name), drafts), guards=(*fence, *guards))
            except (Busy, StoreUnavailable) as problem:
                self.complain(str(problem))
                if self._leaving:
                    return ""
                await self.clock.sleep(_RETRY_SECONDS)
            except LedgerError as problem:
                if not self._leaving:
                    raise
                self.complain(str(problem))
                return ""
            else:
                return appended.first.ref

    def complain(self, message: str) -> None:
        """Say on stderr what the ledger cannot be told or does not need to know."""
        print(f"harness: supervisor: {message}", file=sys.stderr, flush=True)

    # Leaving

    async def _leave(self) -> None:
        self._leaving = True
        if self._chaos is not None:
            self._chaos.end()
        for stage in stop_stages([unit.service for unit in self.units]):
            async with anyio.create_task_group() as tasks:
                for name in stage:
                    tasks.start_soon(self._end, self._units[name])
        assert self._fence is not None
        release = Release(self._fence.lease, self._fence.token)
        fact = facts.SupervisorStopped(pid=os.getpid(), reason=self._reason)
        try:
            await self.store.append(Write(facts.SUPERVISOR, (facts.draft(fact),)), guards=(release,))
        except LedgerError as problem:
            self.complain(str(problem))

    async def _end(self, unit: Unit) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._end_sooner, unit, tasks.cancel_scope)
            try:
                await unit.finish(Intent(reason=self._reason))
            except HarnessError as problem:
                self.complain(f"{unit.name}: {problem}")
            tasks.cancel_scope.cancel()

    async def _end_sooner(self, unit: Unit, ending: anyio.CancelScope) -> None:
        """Asked twice: kill it; what the system itself holds fast is named and left."""
        await self._hurry.wait()
        try:
            await unit.hurry()
        except ProcessError as problem:
            self.complain(f"{unit.name}: {problem}")
            ending.cancel()


def _declaration(service: Service, home: Path) -> facts.ServiceDeclared:
    digest = sha256(msgspec.json.encode(service, order="sorted")).hexdigest()[:32]
    return facts.ServiceDeclared(
        name=service.name, command=launch.shown_command(service), ready=service.ready, restart=service.restart,
        depends_on=service.depends_on, own=service.own, config=service.config, address=service.address,
        log=str(log_path(home, service.name)), digest=digest,
    )  # fmt: skip


def _starts_or_stops(pending: Pending) -> bool:
    kinds = (facts.ActionKind.START_SERVICE, facts.ActionKind.RESTART_SERVICE, facts.ActionKind.STOP_SERVICE)
    return pending.request.kind in kinds
