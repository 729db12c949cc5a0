"""The monitor process: looks at everything declared, opens tickets, verifies repairs, and proves that it is alive.

Owns the process's tasks and its lease. What it knows is rebuilt from the ledger when it starts, so a kill -9 at any
instant costs the time until the next look and nothing else.
"""

from __future__ import annotations

import asyncio
import os
import resource
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import anyio
import msgspec
from anyio.abc import TaskGroup

from harness.errors import Busy, Conflict, DeclarationError, Fenced, HarnessError, LeaseHeld, LedgerError, NotFound
from harness.ledger import Acquire, Cursor, Event, Fence, Guard, Release, Store, Write
from harness.processes import Identity
from harness.recovery import registry
from harness.recovery.analyst import Analyst
from harness.recovery.board import Board, Known, changed, subject_of
from harness.recovery.checks import Check, Sample, build_check
from harness.recovery.declarations import Declarations, Invariant, Service
from harness.recovery.facts import (
    DECLARED_KEY,
    MONITOR,
    MONITOR_LEASE,
    STATE_KEY,
    ActionCompleted,
    CheckDeclared,
    CheckSilenced,
    MonitorStarted,
    check_stream,
    draft,
)
from harness.recovery.judging import Change
from harness.recovery.picture import Phase
from harness.recovery.samples import SampleRing, samples_path
from harness.recovery.schedule import Schedule
from harness.recovery.tickets import GATE, TERMINAL_EVENTS, Tickets, mend_closed, tell_closed
from harness.recovery.triage import Triage
from harness.recovery.verifier import Verifier
from harness.settings import Count, Seconds, SecondsOrNone
from harness.work import OPEN, Status

if TYPE_CHECKING:
    from harness.kernel import ModelPort

HEARTBEAT_SECONDS = 5.0
LEASE_SECONDS = 20.0
TICK_SECONDS = 1.0
WARM_SECONDS = 2.0
RETRY_SECONDS = 0.2
_FILES = 8192  # sockets that may be open at a time
_EVENTS_KEPT = 60  # of a service's stream, enough to know its process
_TYPES = (CheckDeclared.TYPE, CheckSilenced.TYPE)


class MonitorSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[monitor]` in harness.toml."""

    model: str = "rules"  # the analyst: rules, anthropic:MODEL, openai:MODEL, openai-chat:MODEL
    analyst_seconds: Seconds = 5.0  # after that the ticket opens without the analyst
    analyst_calls_per_hour: Annotated[int, msgspec.Meta(ge=0)] = 60
    analyst_calls_per_incident: Annotated[int, msgspec.Meta(ge=0)] = 3
    cool_down_seconds: SecondsOrNone = 300.0  # so long a "no" holds
    stabilisation_seconds: SecondsOrNone = 2.0  # so long all checks must pass before a repair is believed
    verification_seconds: Seconds = 20.0  # so long they may take until then
    attempts: Count = 3  # then a person takes over


async def run_monitor(
    store: Store,
    declarations: Declarations,
    home: Path,
    settings: MonitorSettings | None = None,
    *,
    port: ModelPort | None = None,
) -> None:
    """Watch until cancelled. `port` is the analyst's model, else the one that the settings name.

    Raises `DeclarationError` if a declared check makes no sense, `HarnessError` if another monitor runs for this
    home, `Fenced` if another one took over.
    """
    monitor = Monitor(store, declarations, home, settings or MonitorSettings(), port=port)
    await monitor.run()


async def monitor_alive(store: Store) -> bool:
    """The dead man's switch: whether a monitor has proven within the last seconds that it looks."""
    lease = await store.lease(MONITOR_LEASE)
    return lease is not None and lease.held_at(store.clock.now_us())


class Monitor:
    """One monitor; see the module."""

    def __init__(
        self, store: Store, declarations: Declarations, home: Path, settings: MonitorSettings, *, port: ModelPort | None = None
    ) -> None:
        self._store = store
        self._declarations = declarations
        self._home = home
        self._token = 0
        self.board = Board()
        self.schedule = Schedule(store.clock, lambda name: self.board.life(name).evidence(), self._saw)
        tickets = self._tickets = Tickets(store)
        analyst = self._analyst = Analyst(
            store, port, model=settings.model, timeout_seconds=settings.analyst_seconds,
            per_hour=settings.analyst_calls_per_hour, per_incident=settings.analyst_calls_per_incident,
        )  # fmt: skip
        self._triage = Triage(
            store, self.board, tickets, analyst, home=home, root=Path(declarations.root),
            cool_down_seconds=settings.cool_down_seconds,
        )  # fmt: skip
        self._verifier = Verifier(
            store, self.board, tickets, hurry=self._hurry, window_seconds=settings.stabilisation_seconds,
            limit_seconds=settings.verification_seconds, attempts=settings.attempts,
        )  # fmt: skip
        self._tasks: TaskGroup
        self._changes: list[tuple[Known, Change]] = []
        self._written = asyncio.Event()
        self._troubled: set[str] = set()
        self._considering: set[str] = set()
        self._again: set[str] = set()
        self._progress = (0, 0.0)  # looks taken, and when that number was new
        self._ring: SampleRing | None = None

    # Life

    async def run(self) -> None:
        """Take the lease, recall what is known, look until cancelled."""
        _raise_file_limit()
        checks = await self._checks()  # refused before anything is written about watching
        await self._take_lease(len(checks))
        self._progress = (0, self._store.clock.monotonic())
        try:
            cursor = await self._store.tail()
            await self._recall(await self._checks())
            self._ring = SampleRing(samples_path(self._home), checks=len(self.board.checks))
            async with anyio.create_task_group() as self._tasks:
                for task in (self._beat, self._write_changes, self.schedule.run, self._tick, self._warm):
                    self._tasks.start_soon(task)
                self._tasks.start_soon(self._follow, cursor)
        except ExceptionGroup as group:
            raise _first(group) from group
        finally:
            if self._ring:
                self._ring.close()
            with anyio.CancelScope(shield=True), suppress(HarnessError):
                await self._store.append(_farewell(), guards=(Release(MONITOR_LEASE, self._token),))

    async def _take_lease(self, checks: int) -> None:
        me = Identity.of(os.getpid())
        old = await self._store.lease(MONITOR_LEASE)
        self._token = (old.token if old else 0) + 1
        guards: list[Guard] = []
        if old is not None and old.holder is not None:
            if _holder_alive(old.holder) and old.held_at(self._store.clock.now_us()):
                raise HarnessError(f"a monitor watches this home already ({old.holder}); stop it first")
            guards.append(Release(MONITOR_LEASE, old.token))  # its process is gone, so nobody has to wait for the lease to end
        holder = f"pid {me.pid} since {me.started}"
        guards.append(Acquire(MONITOR_LEASE, holder, self._token, LEASE_SECONDS))
        fact = MonitorStarted(pid=me.pid, started=me.started, checks=checks)
        try:
            await self._store.append(Write(MONITOR, (draft(fact),)), guards=guards)
        except (LeaseHeld, Fenced) as error:
            raise HarnessError(f"another monitor took this home at the same time: {error}") from error

    async def _beat(self) -> None:
        """Renew the lease as long as looks are taken: a monitor that hangs is as good as dead, and must show it."""
        clock = self._store.clock
        while True:
            slowest = max((known.check.invariant.interval_seconds for known in self.board.checks.values()), default=0.0)
            if self.schedule.looks != self._progress[0] or not self.board.checks:
                self._progress = (self.schedule.looks, clock.monotonic())
            if clock.monotonic() - self._progress[1] < 3 * slowest + LEASE_SECONDS:
                with suppress(Busy):  # the next beat is soon enough
                    await self._store.renew(MONITOR_LEASE, self._token, LEASE_SECONDS)
            await clock.sleep(HEARTBEAT_SECONDS)

    async def _warm(self) -> None:
        """Load what the first incident needs before there is one."""
        await self._store.clock.sleep(WARM_SECONDS)
        await self._analyst.warm()

    # What is known

    async def _checks(self) -> list[Check]:
        declarations = msgspec.structs.replace(
            self._declarations, invariants=(*self._declarations.invariants, *_implied(self._declarations))
        )  # fmt: skip
        registry.build_checks(declarations.invariants)
        checks: list[Check] = []
        for invariant in await registry.synchronise(self._store, declarations):
            if invariant.enabled:
                with suppress(DeclarationError):  # added by an older version that knew more
                    checks.append(build_check(invariant))
        return checks

    async def _recall(self, checks: list[Check]) -> None:
        for head in await self._store.heads("service/"):
            declared = await self._store.latest(head.stream, DECLARED_KEY)
            events = await self._store.read(head.stream, after=max(0, head.seq - _EVENTS_KEPT))
            for event in [declared, *events] if declared else events:
                self.board.service_event(event)
        await self._take_checks(checks)
        for item in await self._tickets.items.list(status=OPEN, limit=None):
            if GATE in item.gates:
                await self._tickets.mend(item)
                self._troubled.add(item.labels.get("subject", ""))
        await self._analyst.clear_up()
        await mend_closed(self._store, self._tickets.items)

    async def _take_checks(self, checks: list[Check]) -> None:
        fresh = {check.name for check in checks} - set(self.board.checks)
        self.board.set_checks(checks)
        for name in fresh:
            if event := await self._store.latest(check_stream(name), STATE_KEY):
                self.board.restore(name, event)
        for silence in await registry.silences(self._store, sorted(self.board.subjects() | set(self.board.checks))):
            self.board.silences[silence.subject] = silence
        self._troubled |= {subject for subject in self.board.subjects() if self.board.uneasy(subject, self._now())}
        self.schedule.set_checks(checks)

    def _now(self) -> int:
        return self._store.clock.now_us()

    # What comes in

    def _saw(self, check: Check, sample: Sample) -> None:
        sample = self.board.excused(check, sample)
        if self._ring:
            self._ring.add(sample)
        change = self.board.saw(check, sample)
        if change is not None:
            self._note(self.board.checks[check.name], change)
        self._verifier.saw(sample)
        subject = subject_of(check)
        if self._verifier.verifying(subject) or self.board.uneasy(subject, sample.ended_us):
            self._hurry(subject)
        else:
            self.schedule.calm(known.check.name for known in self.board.of_subject(subject))

    def _note(self, known: Known, change: Change) -> None:
        self._changes.append((known, change))
        self._written.set()

    def _hurry(self, subject: str) -> None:
        self.schedule.hurry(known.check.name for known in self.board.of_subject(subject))

    async def _write_changes(self) -> None:
        """Record changes of state, several at a time, and then consider what they mean: evidence comes first."""
        while True:
            await self._written.wait()
            self._written.clear()
            changes, self._changes = self._changes, []
            if not changes:
                continue
            writes = [Write(check_stream(known.check.name), (draft(changed(known, change)),)) for known, change in changes]
            written = await self._append(writes)
            for (known, _), event in zip(changes, written, strict=True):
                known.ref = event.ref
            for subject in {subject_of(known.check) for known, _ in changes}:
                self.consider(subject)

    async def _append(self, writes: list[Write]) -> tuple[Event, ...]:
        while True:
            try:
                return (await self._store.append(*writes, guards=(Fence(MONITOR_LEASE, self._token),))).events
            except Busy:
                await self._store.clock.sleep(RETRY_SECONDS)

    async def _follow(self, cursor: Cursor) -> None:
        async with _closing(self._store.follow(after=cursor, streams=("service/", "item/", "check/"))) as events:
            async for event in events:
                match event.stream.partition("/")[0]:
                    case "service":
                        self._service(event)
                    case "item":
                        await self._item(event)
                    case _ if event.type in _TYPES and not event.erased:
                        await self._check(event)
                    case _:
                        pass

    def _service(self, event: Event) -> None:
        if event.type == ActionCompleted.TYPE and not event.erased:
            with suppress(LedgerError):
                self._verifier.action_over(event)
        before = self.board.life(event.stream.partition("/")[2])
        life = self.board.service_event(event)
        if life.ref == before.ref:
            return
        if life.phase is Phase.DOWN:
            for known, change in self.board.convict(life.name, event.ts):
                self._note(known, change)
        self._verifier.service_changed(life)
        self.schedule.look_now(known.check.name for known in self.board.of_subject(life.name))
        self.consider(life.name)

    async def _item(self, event: Event) -> None:
        ticket = event.stream.partition("/")[2]
        if event.type == "item.submitted":
            self._tasks.start_soon(self._verify, ticket)
        elif event.type in TERMINAL_EVENTS:
            self._verifier.left(ticket)
            self._triage.closed(ticket)
            if not event.erased and await self._store.head(f"incident/{ticket}"):
                await tell_closed(self._store, event)
            with suppress(NotFound):
                subject = (await self._tickets.items.get(ticket)).labels.get("subject")
                if subject:
                    self.consider(subject)
        elif event.type.startswith("item.") and event.type not in ("item.noted", "item.recurred"):
            self._verifier.left(ticket)

    async def _verify(self, ticket: str) -> None:
        while True:
            try:
                await self._verifier.verify(ticket)
            except (Busy, Conflict):
                await self._store.clock.sleep(RETRY_SECONDS)
            except NotFound:
                return
            else:
                return

    async def _check(self, event: Event) -> None:
        try:
            fact = event.load(CheckSilenced if event.type == CheckSilenced.TYPE else CheckDeclared)
        except LedgerError:  # anybody can write to a stream; the monitor goes on
            return
        if isinstance(fact, CheckSilenced):
            self.board.silences[fact.subject] = registry.silence_of(fact)
            return
        name = event.stream.partition("/")[2]
        checks = [known.check for known in self.board.checks.values() if known.check.name != name]
        if fact.enabled and not fact.removed:
            with suppress(DeclarationError):  # not registered by us: `register` refuses it
                checks.append(build_check(registry.invariant_of(fact)))
        await self._take_checks(checks)

    # What follows from it

    def consider(self, subject: str) -> None:
        """Have a subject considered soon; one at a time, and once more if something comes in meanwhile."""
        self._troubled.add(subject)
        if subject in self._considering:
            self._again.add(subject)
        else:
            self._considering.add(subject)
            self._tasks.start_soon(self._consider_now, subject)

    async def _consider_now(self, subject: str) -> None:
        try:
            while True:
                self._again.discard(subject)
                try:
                    await self._triage.consider(subject)
                except (Busy, Conflict):
                    await self._store.clock.sleep(RETRY_SECONDS)
                    continue
                if subject not in self._again:
                    break
        finally:
            self._considering.discard(subject)

    async def _tick(self) -> None:
        """Silences and cool-downs end by the clock alone, and whatever was missed is seen again here."""
        for item in await self._tickets.items.list(status=Status.VERIFYING, limit=None):
            self._tasks.start_soon(self._verify, item.id)
        while True:
            for subject in list(self._troubled):
                if self.board.failure(subject) is None and not await self._tickets.open_for(subject):
                    self._troubled.discard(subject)
                else:
                    self.consider(subject)
            await self._store.clock.sleep(TICK_SECONDS)


def _implied(declarations: Declarations) -> list[Invariant]:
    """A service that no invariant is about is checked by what its readiness says, or by its process."""
    covered = {registry.infer_target(invariant, declarations.services) for invariant in declarations.invariants}
    return [_implied_by(service) for service in declarations.services if service.name not in covered and not service.own]


def _implied_by(service: Service) -> Invariant:
    told = "implied by the service: no invariant is declared for it"
    if service.ready.startswith(("http:", "https:")):
        return Invariant(
            name=f"{service.name}_ready", query=service.ready, condition="status >= 200 && status < 400", target=service.name,
            description=told,
        )  # fmt: skip
    if service.ready.startswith("tcp:"):
        return Invariant(name=f"{service.name}_ready", query=service.ready, target=service.name, description=told)
    return Invariant(name=f"{service.name}_process", query=f"process:{service.name}", target=service.name, description=told)


def _first(group: ExceptionGroup[Exception]) -> Exception:
    """What ended the tasks: the first of them, which is what a person has to read."""
    error = group.exceptions[0]
    return _first(cast("ExceptionGroup[Exception]", error)) if isinstance(error, ExceptionGroup) else error


def _holder_alive(holder: str) -> bool:
    words = holder.split()
    if len(words) != 4 or not (words[1].isdecimal() and words[3].isdecimal()):
        return True
    return Identity(pid=int(words[1]), started=int(words[3])).alive()


def _farewell() -> Write:
    from harness.ledger import Draft

    return Write(MONITOR, (Draft(type="monitor.stopped", payload={"pid": os.getpid()}, key=STATE_KEY),))


def _raise_file_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(hard, _FILES)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@asynccontextmanager
async def _closing(events: object) -> AsyncGenerator[AsyncGenerator[Event]]:
    async with aclosing(cast("AsyncGenerator[Event]", events)) as opened:
        yield opened
