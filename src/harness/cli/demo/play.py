"""The demo's course: set up, break, watch it heal, take down, prove. Interrupted at any moment it leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from harness.cli.demo import stage as stages
from harness.cli.demo.result import IncidentTimes, Outcome, Record, outcome
from harness.cli.demo.stage import Leaked, Stage

if TYPE_CHECKING:
    from harness.cli.demo.audience import Audience
    from harness.cli.demo.show import Show

INTERRUPTED = 130
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What was asked for."""

    chaos: str
    times: int
    once: bool
    keep: bool
    model: str
    json: bool

    @property
    def raised_limits(self) -> bool:
        """Whether the service is broken so often that the usual limits would call a person."""
        return self.times > 1 or not self.once


@dataclass(slots=True, kw_only=True)
class _Run:
    """One performance: what was seen so far, and whether somebody wants it to end."""

    plan: Plan
    show: Show
    tickets: list[str] = field(default_factory=list[str])
    interrupted: bool = False
    hurry: asyncio.Event = field(default_factory=asyncio.Event)


def play(plan: Plan) -> int:
    """Play the demo and give its exit code."""
    from harness.cli.demo.show import show_for

    return asyncio.run(_played(_Run(plan=plan, show=show_for(plan))))


async def _played(run: _Run) -> int:
    acting = asyncio.ensure_future(_performed(run))

    def stop() -> None:
        (run.hurry.set if run.interrupted else acting.cancel)()
        run.interrupted = True

    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        loop.add_signal_handler(number, stop)
    try:
        found = await acting
    except asyncio.CancelledError:
        run.show.interrupted()
        return INTERRUPTED
    run.show.summary(found)
    return INTERRUPTED if run.interrupted else 0 if found.ok else 1


async def _performed(run: _Run) -> Outcome:
    plan = run.plan
    stage = stages.set_up(model=plan.model, raised_limits=plan.raised_limits)
    try:
        run.show.opening(stage, plan)
        try:
            await _on_stage(run, stage)
        finally:
            leaked = await _uninterrupted(stages.take_down(stage, hurry=run.hurry))
        run.show.down(leaked)
        return await _judged(run, stage, leaked)
    finally:
        if plan.keep:
            run.show.kept(stage)
        else:
            stages.remove(stage)


async def _uninterrupted(ending: Coroutine[Any, Any, Leaked]) -> Leaked:
    """Wait for an end that is not to be interrupted itself; a hurry is what makes it quick."""
    task = asyncio.ensure_future(ending)
    cancelled = False
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        raise asyncio.CancelledError
    return task.result()


async def _on_stage(run: _Run, stage: Stage) -> None:
    """Everything between the start and the end; ends early if the supervisor does."""
    await stages.start(stage)
    early = asyncio.ensure_future(stages.ended_early(stage))
    acts = asyncio.ensure_future(_acts(run, stage))
    try:
        await asyncio.wait({early, acts}, return_when=asyncio.FIRST_COMPLETED)
        (early if early.done() else acts).result()
    finally:
        for task in (early, acts):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task


async def _acts(run: _Run, stage: Stage) -> None:
    from harness.cli.demo.audience import INCIDENT_SECONDS, MODEL_SECONDS, Audience

    patience = INCIDENT_SECONDS if run.plan.model == "rules" else MODEL_SECONDS
    async with Audience(stage, run.show, incident_seconds=patience) as audience:
        await audience.until_ready()
        for number in range(run.plan.times):
            run.show.act(number + 1, run.plan.times, run.plan.chaos)
            run.tickets.append(await audience.break_and_watch(run.plan.chaos))
        if not run.plan.once:
            await _stay(run, stage, audience)


async def _stay(run: _Run, stage: Stage, audience: Audience) -> None:
    """Keep everything up; keys break the service again, `q` ends it."""
    from harness.cli.demo.keys import CHAOS_KEYS, keys

    run.show.staying(stage)
    async with keys() as pressed:
        async for key in pressed:
            if key in ("q", "\x04"):
                return
            if key in CHAOS_KEYS:
                run.show.act(len(run.tickets) + 1, None, CHAOS_KEYS[key])
                run.tickets.append(await audience.break_and_watch(CHAOS_KEYS[key]))
                run.show.staying(stage)


async def _judged(run: _Run, stage: Stage, leaked: Leaked) -> Outcome:
    """Read the ledger once more, now that nobody writes it: verify it, and take the incidents' times from it."""
    from harness.ledger import SQLiteStore
    from harness.recovery.incidents import incident_of, summary

    async with SQLiteStore(stage.database, read_only=True) as store:
        verified = await store.verify()
        told = [summary(await incident_of(store, ticket)) for ticket in run.tickets if ticket]
    import msgspec

    incidents = tuple(msgspec.convert(each, IncidentTimes) for each in told)
    record = Record(verified=verified.ok, events=verified.events, streams=verified.streams)
    return outcome(
        chaos=run.plan.chaos, times=run.plan.times, incidents=incidents, ledger=record, leaked=leaked, model=run.plan.model
    )
