"""Carrying out what is asked of the supervisor, once: judged again, begun once, ended once, resolved after a crash.

Decides nothing about limits, which is the envelope's part, and does nothing to a process by itself: its hands are the units.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, assert_never

import anyio

from harness.errors import Fenced, KeyTaken, UsageError
from harness.ledger import Event, Fence, Guard, Store, Unique
from harness.recovery import facts
from harness.recovery.config_files import Change, ConfigFile
from harness.recovery.declarations import Declarations
from harness.recovery.facts import ActionKind, ActionRequested, Origin, Outcome
from harness.recovery.folders import versions_folder
from harness.recovery.supervisor.machine import Intent, Phase, Restart, Start, Stop
from harness.recovery.supervisor.unit import Unit

STALE_SECONDS = 60.0  # a request without a deadline that nobody took up for so long is not carried out any more
_MARGIN_SECONDS = 10.0

Done = tuple[Outcome, str]


class Hands(Protocol):
    """What actions need of the supervisor."""

    @property
    def home(self) -> Path: ...

    @property
    def root(self) -> Path: ...

    @property
    def store(self) -> Store: ...

    @property
    def declarations(self) -> Declarations: ...

    def unit(self, name: str) -> Unit | None: ...

    async def record(
        self, name: str, *written: facts.Fact, parent: str | None = None, guards: tuple[Guard, ...] = ()
    ) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """A request that has no end on the ledger."""

    event: Event
    request: ActionRequested
    started: Event | None = None


def pending_of(events: Sequence[Event]) -> list[Pending]:
    """The requests among events of service streams, in order, that were neither completed nor refused."""
    found: dict[str, Pending] = {}
    for event in events:
        fact = facts.fact_of(event)
        if isinstance(fact, ActionRequested):
            if event.stream == facts.service_stream(fact.target):
                found.setdefault(fact.action_id, Pending(event=event, request=fact))
        elif isinstance(fact, facts.ActionStarted) and fact.action_id in found:
            held = found[fact.action_id]
            found[fact.action_id] = Pending(event=held.event, request=held.request, started=event)
        elif isinstance(fact, facts.ActionCompleted | facts.ActionRefused):
            found.pop(fact.action_id, None)
    return list(found.values())


Resume = Literal["restart", "start", "ended"]


def how_to_resume(action_id: str, since: Sequence[Event], *, runs: bool) -> Resume:
    """How a restart that was begun goes on, by what happened since on the service's stream.

    `restart`: its new process was never decided on and the old one runs. `start`: wait for the new one, or make it.
    `ended`: its new process was started and has ended meanwhile.
    """
    epoch = 0
    started = False
    for event in since:
        fact = facts.fact_of(event)
        if isinstance(fact, facts.ServiceStarting) and fact.action_id == action_id:
            epoch = fact.epoch
        elif isinstance(fact, facts.ServiceStarted) and fact.epoch == epoch:
            started = True
    if not epoch:
        return "restart" if runs else "start"
    return "ended" if started and not runs else "start"


class Actions:
    """Takes requests and carries them out, one at a time for each service."""

    def __init__(self, hands: Hands) -> None:
        self._hands = hands
        self._locks: dict[str, anyio.Lock] = {}
        self._taken: set[str] = set()

    async def take(self, pending: Pending) -> None:
        """Carry out one request to its end, or refuse it; a request that is under way already is left alone."""
        request = pending.request
        if request.action_id in self._taken:
            return
        self._taken.add(request.action_id)
        lock = self._locks.setdefault(request.target, anyio.Lock())
        try:
            async with lock:
                await self._take(pending)
        finally:
            self._taken.discard(request.action_id)

    async def _take(self, pending: Pending) -> None:
        request, started = pending.request, pending.started
        unit = self._hands.unit(request.target)
        if unit is None:
            await self._refuse(pending, f"no service {request.target!r} runs here")
            return
        if started is not None:
            done = await self._again(pending, unit, started)
        else:
            begun = await self._begin(pending, unit)
            if not begun:
                return
            done = await self._attempt(
                request, unit, Intent(reason=request.reason or request.kind.value, action_id=request.action_id, cause=begun)
            )
        await self._complete(pending, unit, done, resolved=started is not None)

    async def _begin(self, pending: Pending, unit: Unit) -> str:
        """Judge it against what is true now, and write that it has begun; empty if it was refused."""
        request = pending.request
        reason = self._untimely(pending) or _impossible(request, unit)
        if reason:
            await self._refuse(pending, reason)
            return ""
        from harness.recovery.history import judge_request

        decision = await judge_request(self._hands.store, self._hands.declarations, request)
        if decision.verdict is not facts.Verdict.ALLOW:
            await self._refuse(pending, decision.reason, decision)
            return ""
        fact = facts.ActionStarted(
            action_id=request.action_id, kind=request.kind, target=request.target, epoch=unit.state.epoch,
            ticket=request.ticket, fingerprint=request.fingerprint, origin=request.origin, decision=decision,
        )  # fmt: skip
        guards: tuple[Guard, ...] = (Unique(facts.action_started_key(request.action_id)),)
        if request.lease:
            guards = (*guards, Fence(request.lease, request.token))
        try:
            return await self._hands.record(request.target, fact, parent=pending.event.ref, guards=guards)
        except KeyTaken:
            await self._refuse(pending, "an action of this id was begun before")
        except Fenced as lost:
            if lost.lease != request.lease:
                raise
            await self._refuse(pending, f"whoever asked has lost the ticket: {lost}")
        return ""

    def _untimely(self, pending: Pending) -> str:
        now = self._hands.store.clock.now_us()
        deadline = pending.request.deadline_us
        if deadline is None:
            deadline = pending.event.ts + round(STALE_SECONDS * 1_000_000)
        late = (now - deadline) / 1_000_000
        return f"it comes {late:.0f} s too late; ask again" if late > 0 else ""

    async def _refuse(self, pending: Pending, reason: str, decision: facts.Decision | None = None) -> None:
        request = pending.request
        fact = facts.ActionRefused(
            action_id=request.action_id, kind=request.kind, target=request.target, reason=reason, ticket=request.ticket,
            decision=decision,
        )  # fmt: skip
        await self._finish(pending, fact)

    async def _complete(self, pending: Pending, unit: Unit, done: Done, *, resolved: bool) -> None:
        request, (outcome, detail) = pending.request, done
        fact = facts.ActionCompleted(
            action_id=request.action_id, kind=request.kind, target=request.target, outcome=outcome, detail=detail,
            epoch=unit.state.epoch, ticket=request.ticket, resolved=resolved,
        )  # fmt: skip
        await self._finish(pending, fact)

    async def _finish(self, pending: Pending, fact: facts.ActionCompleted | facts.ActionRefused) -> None:
        guards = (Unique(facts.action_finished_key(fact.action_id)),)
        with contextlib.suppress(KeyTaken):  # it has its one end already
            await self._hands.record(pending.request.target, fact, parent=pending.event.ref, guards=guards)

    # Doing

    async def _attempt(self, request: ActionRequested, unit: Unit, intent: Intent) -> Done:
        try:
            match request.kind:
                case ActionKind.START_SERVICE:
                    await unit.tell(Start(intent))
                    return await _running(unit)
                case ActionKind.RESTART_SERVICE:
                    await unit.tell(Restart(intent))
                    return await _running(unit)
                case ActionKind.STOP_SERVICE:
                    return await _stopped(unit, intent)
                case ActionKind.SET_CONFIG:
                    change = self._config(unit).set(
                        str(request.arguments["key"]), request.arguments["value"], action_id=request.action_id
                    )
                    return await self._changed(request, unit, intent, change)
                case ActionKind.REVERT_CONFIG:
                    version = await self._version(request, unit)
                    change = self._config(unit).revert(version, action_id=request.action_id)
                    return await self._changed(request, unit, intent, change, reverts=version or "absent")
                case _:
                    assert_never(request.kind)
        except UsageError as problem:
            return Outcome.FAILED, str(problem)

    async def _again(self, pending: Pending, unit: Unit, started: Event) -> Done:
        """An earlier supervisor began this and was killed: look at what has happened since, then go on from there."""
        request = pending.request
        intent = Intent(reason=request.reason or request.kind.value, action_id=request.action_id, cause=started.ref)
        since = await self._hands.store.read(started.stream, after=started.seq)
        match request.kind:
            case ActionKind.START_SERVICE | ActionKind.RESTART_SERVICE:
                how = how_to_resume(request.action_id, since, runs=unit.pid is not None)
                if how == "ended":
                    return Outcome.FAILED, "the new process was started, and ended while nobody supervised it"
                restart = how == "restart" and request.kind is ActionKind.RESTART_SERVICE
                await unit.tell(Restart(intent) if restart else Start(intent))
                return await _running(unit)
            case ActionKind.STOP_SERVICE:
                return await _stopped(unit, intent)
            case ActionKind.SET_CONFIG | ActionKind.REVERT_CONFIG:
                return await self._config_again(request, unit, intent, since)
            case _:
                assert_never(request.kind)

    async def _config_again(self, request: ActionRequested, unit: Unit, intent: Intent, since: Sequence[Event]) -> Done:
        known = [fact for event in since if isinstance(fact := facts.fact_of(event), facts.ConfigChanged)]
        if any(fact.action_id == request.action_id for fact in known):
            return await self._reload(unit, intent, "the file was changed before the supervisor was killed")
        try:
            change = self._config(unit).resolve(request.action_id)
        except UsageError as problem:
            return Outcome.UNKNOWN, str(problem)
        if change is None:
            return await self._attempt(request, unit, intent)
        reverts = change.after or "absent"
        return await self._changed(
            request, unit, intent, change, reverts=reverts if request.kind is ActionKind.REVERT_CONFIG else ""
        )  # fmt: skip

    def _config(self, unit: Unit) -> ConfigFile:
        return ConfigFile(self._hands.root / unit.service.config, versions_folder(self._hands.home, unit.name))

    async def _version(self, request: ActionRequested, unit: Unit) -> str:
        """The version asked for, or the one before the newest change."""
        given = request.arguments.get("version")
        if given is not None:
            return "" if given == "absent" else str(given)
        newest = await self._hands.store.latest(facts.service_stream(unit.name), facts.CONFIG_KEY)
        if newest is None:
            raise UsageError(f"{unit.service.config} was never changed by Harness, so there is nothing to put back")
        return newest.load(facts.ConfigChanged).before

    async def _changed(
        self, request: ActionRequested, unit: Unit, intent: Intent, change: Change, *, reverts: str = ""
    ) -> Done:  # fmt: skip
        if change.nothing:
            return Outcome.SUCCEEDED, f"{change.path} had this content already"
        fact = facts.ConfigChanged(
            path=change.path, before=change.before, after=change.after, diff=change.diff, action_id=request.action_id,
            reverts=reverts,
        )  # fmt: skip
        await self._hands.record(unit.name, fact, parent=intent.cause)
        return await self._reload(unit, intent, f"{change.path} is now version {change.after[:12] or 'absent'}")

    async def _reload(self, unit: Unit, intent: Intent, said: str) -> Done:
        match unit.service.reload:
            case "restart" if unit.state.wanted:
                await unit.tell(Restart(intent))
                outcome, detail = await _running(unit)
                return outcome, f"{said}; {detail}"
            case "hup" if unit.process is not None:
                unit.hang_up()
                return Outcome.SUCCEEDED, f"{said}; told with SIGHUP"
            case _:
                return Outcome.SUCCEEDED, said


def _impossible(request: ActionRequested, unit: Unit) -> str:
    """Why this cannot be done to this service at all, whoever asks."""
    arguments = request.arguments
    match request.kind:
        case ActionKind.RESTART_SERVICE if request.origin is Origin.AGENT and unit.service.restart == "never":
            return f"{unit.name} is declared with restart = never"
        case ActionKind.SET_CONFIG | ActionKind.REVERT_CONFIG if not unit.service.config:
            return f"{unit.name} declares no `config`"
        case ActionKind.SET_CONFIG if not isinstance(arguments.get("key"), str) or "value" not in arguments:
            return "set_config needs a `key` and a `value`"
        case _:
            return ""


async def _running(unit: Unit) -> Done:
    """Wait until a process that was asked for is ready, or is known not to become so."""
    service = unit.service
    limit = service.stop_timeout_seconds + service.ready_timeout_seconds + _MARGIN_SECONDS
    with anyio.move_on_after(limit):
        await unit.until(lambda unit: unit.settled)
    if unit.state.phase is Phase.READY:
        return Outcome.SUCCEEDED, f"runs as process {unit.pid} and is ready"
    return Outcome.FAILED, f"{unit.state.phase.value}: {unit.problem or f'nothing was decided within {limit:g} s'}"


async def _stopped(unit: Unit, intent: Intent) -> Done:
    await unit.tell(Stop(intent))
    limit = unit.service.stop_timeout_seconds + 2 * _MARGIN_SECONDS
    with anyio.move_on_after(limit):
        await unit.until(lambda unit: unit.settled)
    if unit.state.phase is Phase.DOWN:
        return Outcome.SUCCEEDED, "nothing of it runs any more"
    return Outcome.FAILED, f"{unit.state.phase.value}: {unit.problem or f'not gone within {limit:g} s'}"


async def pending_in(store: Store) -> list[Pending]:
    """Every request on the ledger that has no end yet."""
    types = (ActionRequested.TYPE, facts.ActionStarted.TYPE, facts.ActionCompleted.TYPE, facts.ActionRefused.TYPE)
    events: list[Event] = []
    page = await store.read_all(streams=("service/",), types=types)
    while page:
        events += page
        page = await store.read_all(after=page[-1].cursor, streams=("service/",), types=types)
    return pending_of(events)


def request_of(event: Event) -> Pending | None:
    """A request as it arrives; None for one that is erased, garbled, or in another service's stream."""
    fact = facts.fact_of(event)
    if not isinstance(fact, ActionRequested) or event.stream != facts.service_stream(fact.target):
        return None
    return Pending(event=event, request=fact)
