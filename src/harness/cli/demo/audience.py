"""Watching the demo from its ledger: waiting until everything is ready, breaking the service, following one incident."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from types import TracebackType
from typing import TYPE_CHECKING, Self

from harness.cli.demo.stage import SERVICE, Stage, StageFailed
from harness.errors import HarnessError

if TYPE_CHECKING:
    from harness.cli.demo.show import Show
    from harness.ledger import Event, SQLiteStore
    from harness.web.overview import Overview

READY_SECONDS = 45.0
INCIDENT_SECONDS = 120.0
MODEL_SECONDS = 300.0  # a real model thinks longer, and one that hangs is given up first
_PROCESSES = 4  # the service, the web door, the monitor and the agent
_OVER = frozenset({"incident.closed", "incident.escalated"})
_STREAMS = ("incident/", "service/", "check/", "item/", "run/", "control/")


class TooLate(HarnessError):
    """Something did not happen within its time."""

    exit_code = 124


class Audience:
    """Reads the demo's ledger, and asks for faults in it."""

    def __init__(self, stage: Stage, show: Show, *, incident_seconds: float = INCIDENT_SECONDS) -> None:
        self._stage = stage
        self._show = show
        self._incident_seconds = incident_seconds
        self._opened: SQLiteStore | None = None

    async def __aenter__(self) -> Self:
        from harness.ledger import SQLiteStore

        self._opened = SQLiteStore(self._stage.database, actor="person:demo")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._opened is not None:
            await self._opened.close()

    @property
    def _store(self) -> SQLiteStore:
        if self._opened is None:
            raise StageFailed("the demo's ledger is not open yet")
        return self._opened

    async def until_ready(self) -> None:
        """Return once every process is ready and every check passes. Raises `TooLate`."""
        try:
            async with asyncio.timeout(READY_SECONDS):
                with self._show.waiting("starting the supervisor, monitor, agent, web door and rate limiter"):
                    await self._until(_all_ready)
        except TimeoutError as error:
            raise TooLate(f"not ready within {READY_SECONDS:g} s: {_not_ready(await self._seen())}") from error
        self._show.ready(await self._seen())

    async def _seen(self) -> Overview:
        from harness.web.overview import overview

        return await overview(self._store)

    async def _until(self, condition: object) -> None:
        assert callable(condition)
        tail = await self._store.tail()
        if condition(await self._seen()):
            return
        async with contextlib.aclosing(self._store.follow(after=tail, streams=("service/", "check/"))) as events:
            async for _ in events:
                if condition(await self._seen()):
                    return

    async def break_and_watch(self, chaos: str) -> str:
        """Break the service and follow what happens until its incident is over; gives its ticket, or nothing."""
        from harness.recovery import facts
        from harness.web import requests

        after = await self._store.tail()
        fact, event = await requests.break_service(
            self._store, facts.ChaosKind(chaos), SERVICE, by="person:demo", wait_seconds=15
        )
        if isinstance(fact, facts.ChaosRefused):
            raise StageFailed(f"chaos {chaos} was refused: {fact.reason}")
        ticket, escalated = "", False
        try:
            async with asyncio.timeout(self._incident_seconds):
                with self._show.waiting("watching"):
                    async with contextlib.aclosing(self._events(after)) as events:
                        async for seen in events:
                            ticket = ticket or _ticket_of(seen)
                            self._show.event(seen, since_us=event.ts)
                            if seen.type in _OVER and seen.stream == f"incident/{ticket}":
                                escalated = seen.type == facts.IncidentEscalated.TYPE
                                break
                if not escalated:
                    await self._until(_all_ready)
        except TimeoutError:
            self._show.problem(f"the incident was not over within {self._incident_seconds:g} s")
        return ticket

    async def _events(self, after: object) -> AsyncGenerator[Event]:
        async with contextlib.aclosing(self._store.follow(after=after, streams=_STREAMS)) as events:  # type: ignore[arg-type]
            async for event in events:
                yield event


def _ticket_of(event: Event) -> str:
    from harness.recovery import facts

    fact = facts.fact_of(event)
    return fact.ticket if isinstance(fact, facts.IncidentOpened) and fact.target == SERVICE else ""


def _not_ready(seen: Overview) -> str:
    rows = [f"{row.name} is {row.state} {row.reason}".strip() for row in seen.services if not row.ready]
    rows += [f"{row.name}: {row.result} {row.observed}".strip() for row in seen.checks if row.result != "pass"]
    return ", ".join(rows) or "the supervisor has declared nothing yet"


def _all_ready(seen: Overview) -> bool:
    up = [row for row in seen.services if row.ready]
    return len(up) >= _PROCESSES and bool(seen.checks) and all(row.result == "pass" for row in seen.checks)
