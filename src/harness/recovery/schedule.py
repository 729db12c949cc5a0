"""When each check looks: on its own clock, never overlapping itself, at once and often while something is wrong.

Owns one task per check and no decision about results. Waits on events and deadlines of the event loop.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field

import anyio

from harness.clock import Clock
from harness.recovery.checks import Check, Sample, sample
from harness.recovery.probes import ServiceLook, probe

HURRY_SECONDS = 0.5
HURRY_BUDGET = 200  # looks a second that hurrying checks may take together
SPREAD_SECONDS = 0.005  # between the first looks of two checks


def beat_after(now: float, *, origin: float, interval: float) -> float:
    """The next time on a check's own grid. A look that took longer than the interval skips beats, it never overlaps."""
    return origin + (math.floor((now - origin) / interval) + 1) * interval


def hurry_interval(hurrying: int) -> float:
    """How often checks look that are in a hurry: every 0.5 s, or less often if very many are."""
    return max(HURRY_SECONDS, hurrying / HURRY_BUDGET)


@dataclass(slots=True, eq=False)
class Watch:
    """One check and its clock."""

    check: Check
    origin: float  # its grid: origin plus whole intervals
    due: float
    began: float = 0.0  # the newest look
    wake: asyncio.Event = field(default_factory=asyncio.Event)  # `due` was changed
    stop: bool = False


class Schedule:
    """Runs the checks given, until cancelled. `on_sample` is called for each result, and must not block."""

    def __init__(self, clock: Clock, services: ServiceLook, on_sample: Callable[[Check, Sample], None]) -> None:
        self._clock = clock
        self._services = services
        self._on_sample = on_sample
        self._watches: dict[str, Watch] = {}
        self._hurrying: set[str] = set()
        self._changed = asyncio.Event()
        self.latest_late = 0.0  # seconds by which the latest of all scheduled looks began
        self.looks = 0

    def set_checks(self, checks: Iterable[Check]) -> None:
        """Look at these from now on. A check that did not change keeps its clock."""
        wanted = {check.name: check for check in checks}
        now = asyncio.get_running_loop().time()
        for name in list(self._watches):
            if wanted.get(name) != self._watches[name].check:
                gone = self._watches.pop(name)
                gone.stop = True
                self._hurrying.discard(name)
                gone.wake.set()
        fresh = [check for name, check in wanted.items() if name not in self._watches]
        for at, check in enumerate(fresh):
            phase = at / len(fresh) * check.invariant.interval_seconds
            due = now + at * SPREAD_SECONDS
            self._watches[check.name] = Watch(check, origin=now + phase, due=due)
        self._changed.set()

    def hurry(self, names: Iterable[str]) -> None:
        """Look at these at once, and then every 0.5 s. One that has just looked waits for the 0.5 s to be over."""
        for name in names:
            watch = self._watches.get(name)
            if watch is not None and name not in self._hurrying:
                self._hurrying.add(name)
                self._bring_forward(watch, watch.began + HURRY_SECONDS)

    def look_now(self, names: Iterable[str]) -> None:
        """Look at these at once, also if they have just looked."""
        for name in names:
            if name in self._watches:
                self._bring_forward(self._watches[name], 0.0)

    def _bring_forward(self, watch: Watch, due: float) -> None:
        watch.due = min(watch.due, max(due, asyncio.get_running_loop().time()))
        watch.wake.set()

    def calm(self, names: Iterable[str]) -> None:
        """Go back to the checks' own clocks."""
        self._hurrying.difference_update(names)

    async def run(self) -> None:
        """Keep one task per check."""
        running: set[Watch] = set()
        async with anyio.create_task_group() as tasks:
            while True:
                self._changed.clear()
                for watch in self._watches.values():
                    if watch not in running:
                        running.add(watch)
                        tasks.start_soon(self._keep_looking, watch)
                running &= set(self._watches.values())
                await self._changed.wait()

    async def _keep_looking(self, watch: Watch) -> None:
        time = asyncio.get_running_loop().time
        while not watch.stop:
            await self._until_due(watch)
            if watch.stop:
                return
            watch.began = time()
            self.latest_late = max(self.latest_late, watch.began - watch.due)
            watch.due = math.inf
            result = await self.look(watch.check)
            if watch.stop:
                return
            self.looks += 1
            self._on_sample(watch.check, result)
            watch.due = min(watch.due, self._next(watch, time()))

    async def look(self, check: Check) -> Sample:
        """One look, now."""
        started_us = self._clock.now_us()
        seen = await probe(check, self._services)
        return sample(check, seen, started_us=started_us, ended_us=self._clock.now_us())

    async def _until_due(self, watch: Watch) -> None:
        loop = asyncio.get_running_loop()
        while not watch.stop:
            watch.wake.clear()
            if watch.due <= loop.time():
                await asyncio.sleep(0)
                return
            with suppress(TimeoutError):
                async with asyncio.timeout_at(watch.due):
                    await watch.wake.wait()

    def _next(self, watch: Watch, now: float) -> float:
        if watch.check.name in self._hurrying:
            return max(watch.began + hurry_interval(len(self._hurrying)), now)
        return beat_after(now, origin=watch.origin, interval=watch.check.invariant.interval_seconds)
