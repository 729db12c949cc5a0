"""Faults on purpose: kill, hang, slow, 503, asked for by events, made by the supervisor, healed after a while.

Only a process that the supervisor owns is touched. A fault belongs to one process: with that process it ends.
"""

from __future__ import annotations

import json
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from anyio.abc import TaskGroup

from harness.clock import MICROSECONDS
from harness.errors import KeyTaken
from harness.ledger import Event, Guard, Store, Unique
from harness.recovery import facts
from harness.recovery.facts import ChaosInjected, ChaosKind, ChaosRequested
from harness.recovery.folders import chaos_path
from harness.recovery.supervisor.machine import Intent, Phase, Start
from harness.recovery.supervisor.unit import Unit

HEAL_AFTER_SECONDS = 120.0
"""How long a fault lasts when nobody says otherwise and nobody repairs it."""

_STALE_SECONDS = 60.0


class Hands(Protocol):
    """What chaos needs of the supervisor."""

    @property
    def home(self) -> Path: ...

    @property
    def store(self) -> Store: ...

    def unit(self, name: str) -> Unit | None: ...

    async def record(
        self, name: str, *written: facts.Fact, parent: str | None = None, guards: tuple[Guard, ...] = ()
    ) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A fault that was made and not healed."""

    chaos_id: str
    kind: ChaosKind
    pid: int
    heals_us: int


class Chaos:
    """Makes faults and heals them; at most one at a time for each service."""

    def __init__(self, hands: Hands, tasks: TaskGroup) -> None:
        self._hands = hands
        self._tasks = tasks
        self._faults: dict[str, Fault] = {}

    async def take(self, event: Event) -> None:
        """Make the fault that an event asks for, or say why not. A repeated request is one request."""
        request = facts.fact_of(event)
        name = event.stream.partition("/")[2]
        unit = self._hands.unit(name)
        if unit is None or not isinstance(request, ChaosRequested):
            return
        problem = self._impossible(request, unit, event)
        try:
            if problem:
                fact = facts.ChaosRefused(chaos_id=request.chaos_id, kind=request.kind, reason=problem)
                await self._hands.record(name, fact, parent=event.ref, guards=_once(request.chaos_id))
            else:
                await self._inject(request, unit, event)
        except KeyTaken:
            return

    def _impossible(self, request: ChaosRequested, unit: Unit, event: Event) -> str:
        age = (self._hands.store.clock.now_us() - event.ts) / MICROSECONDS
        if age > _STALE_SECONDS:
            return f"it was asked for {age:.0f} s ago; ask again"
        if unit.pid is None:
            return f"{unit.name} does not run"
        if unit.name in self._faults:
            return f"{unit.name} has a fault already: {self._faults[unit.name].kind}"
        if request.kind in (ChaosKind.SLOW, ChaosKind.ERROR_503) and not unit.service.faults:
            return (
                f"{unit.name} does not say that it can show this fault; declare `faults = true` if it reads HARNESS_CHAOS_FILE"
            )
        return ""

    async def _inject(self, request: ChaosRequested, unit: Unit, event: Event) -> None:
        seconds = HEAL_AFTER_SECONDS if request.heal_after_seconds is None else max(0.0, request.heal_after_seconds)
        pid = unit.pid or 0
        heals_us = self._hands.store.clock.now_us() + round(seconds * MICROSECONDS)
        fault = Fault(chaos_id=request.chaos_id, kind=request.kind, pid=pid, heals_us=heals_us)
        fact = ChaosInjected(
            chaos_id=request.chaos_id, kind=request.kind, pid=pid, epoch=unit.state.epoch, heals_us=heals_us
        )  # fmt: skip
        self._faults[unit.name] = fault
        try:
            await self._hands.record(unit.name, fact, parent=event.ref, guards=_once(request.chaos_id))
        except BaseException:
            self._faults.pop(unit.name, None)
            raise
        self._break(unit, fault)
        self._tasks.start_soon(self._heal_later, unit.name, fault)

    def _break(self, unit: Unit, fault: Fault) -> None:
        process = unit.process
        if process is None or process.pid != fault.pid:
            return
        match fault.kind:
            case ChaosKind.KILL:
                process.signal(signal.SIGKILL)
            case ChaosKind.HANG:
                process.signal(signal.SIGSTOP)
            case ChaosKind.SLOW | ChaosKind.ERROR_503:
                told = {"kind": fault.kind.value, "pid": fault.pid, "until_us": fault.heals_us}
                path = chaos_path(self._hands.home, unit.name)
                whole = path.with_name(f".{path.name}")
                whole.write_text(json.dumps(told), encoding="utf-8")
                whole.replace(path)

    async def resume(self) -> None:
        """After a start: go on with the faults that a former supervisor has made and not healed."""
        for head in await self._hands.store.heads("service/"):
            name = head.stream.partition("/")[2]
            event = await self._hands.store.latest(head.stream, facts.CHAOS_KEY)
            fact = facts.fact_of(event) if event is not None else None
            if not isinstance(fact, ChaosInjected):
                continue
            unit = self._hands.unit(name)
            fault = Fault(chaos_id=fact.chaos_id, kind=fact.kind, pid=fact.pid, heals_us=fact.heals_us or 0)
            self._faults[name] = fault
            if unit is None or (unit.pid != fault.pid and fault.kind is not ChaosKind.KILL):
                await self._heal(name, fault, "the process was replaced")
            else:
                self._tasks.start_soon(self._heal_later, name, fault)

    def replaced(self, unit: Unit) -> None:
        """A service has another process now: a fault of the former one is gone."""
        fault = self._faults.get(unit.name)
        if fault is not None and unit.state.phase is Phase.READY and unit.pid != fault.pid:
            self._tasks.start_soon(self._heal, unit.name, fault, "the process was replaced")

    async def _heal_later(self, name: str, fault: Fault) -> None:
        clock = self._hands.store.clock
        await clock.sleep(max(0.0, (fault.heals_us - clock.now_us()) / MICROSECONDS))
        unit = self._hands.unit(name)
        if self._faults.get(name) is not fault or unit is None:
            return
        if fault.kind is ChaosKind.HANG and unit.process is not None and unit.pid == fault.pid:
            unit.process.signal(signal.SIGCONT)
        if fault.kind is ChaosKind.KILL and unit.state.phase in (Phase.EXITED, Phase.GAVE_UP):
            await unit.tell(Start(Intent(reason="chaos heals itself")))
        await self._heal(name, fault, "its time was over")

    async def _heal(self, name: str, fault: Fault, reason: str) -> None:
        if self._faults.get(name) is not fault:
            return
        del self._faults[name]
        chaos_path(self._hands.home, name).unlink(missing_ok=True)
        fact = facts.ChaosHealed(chaos_id=fault.chaos_id, kind=fault.kind, reason=reason)
        await self._hands.record(name, fact)

    def end(self) -> None:
        """The supervisor leaves: no process is left hanging for ever."""
        for name, fault in self._faults.items():
            unit = self._hands.unit(name)
            if fault.kind is ChaosKind.HANG and unit is not None and unit.process is not None:
                unit.process.signal(signal.SIGCONT)
            chaos_path(self._hands.home, name).unlink(missing_ok=True)


def _once(chaos_id: str) -> tuple[Guard, ...]:
    return (Unique(f"chaos/{chaos_id}"),)
