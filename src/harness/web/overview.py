"""What people see of a home: services, checks and tickets as rows, folded from the ledger. It reads and never writes.

The command line prints these rows, the API sends them and the page shows them. Needs no web framework.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from harness.clock import iso
from harness.recovery import facts

if TYPE_CHECKING:
    from harness.ledger import Event, Store
    from harness.work import Item

F = TypeVar("F", bound=facts.Fact)

UNKNOWN = "unknown"
_STATES = {"started": "starting", "adopted": "running"}  # the rest are named as their events are
GOOD = frozenset({"ready", "running"})
ON_THE_WAY = frozenset({"starting", "stopping", "backing_off"})
GONE = frozenset({"declared", "stopped", "exited", "gave_up", "blocked"})  # no process, whoever supervises


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A declared process and what it does now. `state` is `unknown` while nobody supervises."""

    name: str
    state: str
    ready: bool
    own: bool  # one of Harness's own processes
    pid: int | None
    since: str | None  # of the state, ISO 8601
    since_us: int | None
    epoch: int
    reason: str
    command: tuple[str, ...]
    address: str
    restart: str
    depends_on: tuple[str, ...]
    config: str
    log: str
    chaos: str | None  # the fault that is in it on purpose


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A declared check and its newest known result. `hard` says that it is believed."""

    name: str
    description: str
    query: str
    condition: str
    target: str
    enabled: bool
    interval_seconds: float
    result: str  # pass, fail, unknown or error
    hard: bool
    observed: str
    since: str | None
    since_us: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """One item of work as the API shows it."""

    id: str
    title: str
    description: str
    status: str
    ready: bool
    priority: str
    source_type: str
    source_id: str
    fingerprint: str | None
    depends_on: tuple[str, ...]
    labels: Mapping[str, str]
    attempts: int
    occurrences: int
    holder: str | None
    reason: str
    result: object
    verified: bool
    created: str
    updated: str
    closed: str | None
    created_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """Everything that is going on in one home."""

    supervised: bool
    paused: bool
    services: tuple[Service, ...] = ()
    checks: tuple[Check, ...] = ()
    tickets: tuple[Ticket, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict[str, int])


def ticket_of(item: Item) -> Ticket:
    """An item as people see it."""
    from harness.work import priority_name

    return Ticket(
        id=item.id,
        title=item.title,
        description=item.description,
        status=item.status.value,
        ready=item.ready,
        priority=priority_name(item.priority),
        source_type=item.source_type,
        source_id=item.source_id,
        fingerprint=item.fingerprint,
        depends_on=tuple(item.depends_on),
        labels=item.labels,
        attempts=item.attempts,
        occurrences=item.occurrences,
        holder=item.holder,
        reason=item.reason,
        result=item.result,
        verified=item.verified,
        created=iso(item.created_us),
        updated=iso(item.updated_us),
        closed=None if item.closed_us is None else iso(item.closed_us),
        created_us=item.created_us,
    )


async def supervised(store: Store) -> bool:
    """Whether a supervisor is at work for this home."""
    from harness.processes import Identity

    newest = await store.latest(facts.SUPERVISOR, facts.STATE_KEY)
    fact = None if newest is None else facts.fact_of(newest)
    return isinstance(fact, facts.SupervisorStarted) and Identity(pid=fact.pid, started=fact.started).alive()


async def paused(store: Store) -> bool:
    """Whether agents are kept from acting."""
    newest = await store.latest(facts.CONTROL, facts.PAUSE_KEY)
    return newest is not None and newest.type == facts.RecoveryPaused.TYPE


async def services(store: Store) -> list[Service]:
    """Every declared service, the project's own first."""
    alive = await supervised(store)
    rows = [row for head in await store.heads("service/") if (row := await _service(store, head.stream, alive))]
    return sorted(rows, key=lambda row: (row.own, row.name))


async def service(store: Store, name: str) -> Service | None:
    """One declared service."""
    return await _service(store, facts.service_stream(name), await supervised(store))


async def _service(store: Store, stream: str, alive: bool) -> Service | None:
    declared = _loaded(await store.latest(stream, facts.DECLARED_KEY), facts.ServiceDeclared)
    if declared is None or declared.removed:
        return None
    newest = await store.latest(stream, facts.STATE_KEY)
    chaos = _loaded(await store.latest(stream, facts.CHAOS_KEY), facts.ChaosInjected)
    payload = {} if newest is None else newest.payload
    reason = _reason(newest)
    if newest is not None and newest.type == facts.ServiceBackingOff.TYPE:  # the event before says why
        reason = _reason(await store.event(stream, newest.seq - 1))
    said = "declared" if newest is None else newest.type.partition(".")[2]
    state = _STATES.get(said, said)
    return Service(
        name=declared.name,
        state=state if alive or state in GONE else UNKNOWN,
        ready=alive and state in GOOD,
        own=declared.own,
        pid=payload.get("pid") if state in GOOD | ON_THE_WAY | {"not_ready"} else None,
        since=None if newest is None else iso(newest.ts),
        since_us=None if newest is None else newest.ts,
        epoch=payload.get("epoch", 0),
        reason=reason if alive else "no supervisor is running",
        command=declared.command,
        address=declared.address,
        restart=declared.restart,
        depends_on=declared.depends_on,
        config=declared.config,
        log=declared.log,
        chaos=chaos.kind.value if chaos is not None and chaos.heals_us is not None else None,
    )


def _reason(event: Event | None) -> str:
    """Why the service is as it is, if its event says so."""
    payload = {} if event is None else event.payload
    match "" if event is None else event.type.partition(".")[2]:
        case "exited" if payload.get("signal") is not None:
            return f"ended by signal {payload['signal']}"
        case "exited":
            code = payload.get("code")
            return "ended" if code is None else f"ended with code {code}"
        case _:
            return str(payload.get("reason") or "")


async def checks(store: Store) -> list[Check]:
    """Every declared check by name."""
    return [row for head in await store.heads("check/") if (row := await _check(store, head.stream))]


async def check(store: Store, name: str) -> Check | None:
    """One declared check."""
    return await _check(store, facts.check_stream(name))


async def _check(store: Store, stream: str) -> Check | None:
    declared = _loaded(await store.latest(stream, facts.DECLARED_KEY), facts.CheckDeclared)
    if declared is None or declared.removed:
        return None
    newest = await store.latest(stream, facts.STATE_KEY)
    changed = _loaded(newest, facts.CheckChanged)
    return Check(
        name=declared.name,
        description=declared.description,
        query=declared.query,
        condition=declared.condition,
        target=declared.target,
        enabled=declared.enabled,
        interval_seconds=declared.interval_seconds,
        result=UNKNOWN if changed is None else changed.result.value,
        hard=changed is not None and changed.hard,
        observed="" if changed is None else changed.observed,
        since=None if newest is None else iso(newest.ts),
        since_us=None if newest is None else newest.ts,
    )


def _loaded(event: Event | None, shape: type[F]) -> F | None:
    """The event's fact if it is of this shape."""
    fact = None if event is None else facts.fact_of(event)
    return fact if isinstance(fact, shape) else None


async def overview(store: Store) -> Overview:
    """All of it: what the page shows."""
    from harness.work import OPEN, Items

    items = Items(store)
    return Overview(
        supervised=await supervised(store),
        paused=await paused(store),
        services=tuple(await services(store)),
        checks=tuple(await checks(store)),
        tickets=tuple(ticket_of(item) for item in await items.list(status=OPEN, limit=50)),
        counts=await items.counts(),
    )
