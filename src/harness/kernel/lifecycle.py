"""The life of a run: start, pause, resume, block, cancel, finish, and where it stands.

A status is changed by whoever may, without the run's lease, and takes effect before the next step is executed.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterable
from typing import Any

from harness.errors import Conflict, Fenced, NotFound, RunExists, RunNotActive, Unproven
from harness.kernel import records
from harness.kernel.checking import check_run_id, check_tenant
from harness.kernel.records import RunChanged, RunStarted
from harness.kernel.results import RunHandle, RunStatus
from harness.kernel.runs import FINAL, STATUS_OF, RunState, stream_of
from harness.kernel.steps import Steps
from harness.kernel.tenant import TenantContext
from harness.ledger import Chain, Draft, Event, Expect, Head, Statement, Store, Unique, Write

# From which statuses a change may be made.
_FROM: dict[str, frozenset[str]] = {
    records.RUN_PAUSED: frozenset({"active"}),
    records.RUN_RESUMED: frozenset({"paused"}),
    records.RUN_BLOCKED: frozenset({"active", "paused"}),
    records.RUN_UNBLOCKED: frozenset({"blocked"}),
    records.RUN_CANCELLED: frozenset({"active", "paused", "blocked"}),
    records.RUN_COMPLETED: frozenset({"active"}),
    records.RUN_FAILED: frozenset({"active", "paused", "blocked"}),
    records.RUN_REOPENED: frozenset({"completed"}),
}
_RETRIES = 20


class Lifecycle:
    """The lives of runs in one ledger."""

    def __init__(self, store: Store, steps: Steps) -> None:
        self._store = store
        self._steps = steps
        steps.purse.active_runs = self.active_ids

    async def start(self, tenant: TenantContext, run_id: str | None, parent_run: str | None) -> RunHandle:
        """Begin a run. Raises `RunExists`."""
        check_tenant(tenant)
        run_id = secrets.token_hex(16) if run_id is None else run_id
        check_run_id(run_id)
        run = RunState(run_id)
        lease = await self._store.lease(run.lease)
        token = lease.token + 1 if lease else 1
        started = RunStarted(
            tenant_id=tenant.tenant_id, holder=self._steps.leases.name, token=token, parent_run=parent_run,
            root_run=None if parent_run is None else await self._root_of(parent_run),
            capabilities=tuple(sorted(tenant.capabilities)), budget_usd_limit=tenant.budget_usd_limit,
        )  # fmt: skip
        event = Draft(type=records.RUN_STARTED, payload=started, key=records.STATUS_KEY, tenant=tenant.tenant_id)
        try:
            appended = await self._store.append(
                Write(run.stream, (event,)), guards=[Expect(run.stream, 0), self._steps.leases.taking(run, token)]
            )
        except Conflict as error:
            raise RunExists(f"run {run_id!r} exists already; load it with load_run, or choose another id") from error
        run.fold(appended.first)
        self._steps.leases.taken(run, token)
        self._steps.keep(run)
        self._steps.passes.pop(run_id, None)
        return handle_of(run)

    async def _root_of(self, run_id: str) -> str:
        known = self._steps.runs.get(run_id)
        if known is not None:
            return known.root_run
        first = await self._store.event(stream_of(run_id), 1)
        if first is None or first.erased:
            return run_id
        return checked(first).load(RunStarted).root_run or run_id

    async def change(
        self, run_id: str, type_: str, *, reason: str = "", by: str = "", context: Any = None, human_input: Any = None
    ) -> int:
        """Change a run's status; gives the event's sequence. Raises `RunNotActive` if the present status forbids it."""
        stream = stream_of(run_id)
        changed = RunChanged(reason=reason, by=by, context=context, human_input=human_input)
        for _ in range(_RETRIES):
            event = await self._status_event(run_id)
            status = STATUS_OF[event.type]
            if self._steps.scrubbing is not None:
                changed = await self._steps.scrubbing.changed(event.tenant, changed)
            if status not in _FROM[type_]:
                raise RunNotActive(
                    f"run {run_id!r} is {status}; only one that is {' or '.join(sorted(_FROM[type_]))} can be {type_[4:]}"
                )
            draft = Draft(type=type_, payload=changed, key=records.STATUS_KEY, tenant=event.tenant, parent=event.ref)
            run = await self._with_money(event) if STATUS_OF[type_] in FINAL else None
            try:  # one change follows each status, whoever is faster
                seq = await self._append(stream, draft, Unique(f"run-status/{event.ref}"), run)
            except Conflict:
                continue
            run = self._steps.runs.get(run_id)
            if STATUS_OF[type_] in FINAL and run is not None and run.idle:
                await self._steps.leases.give_back(run)
            return seq
        raise RunNotActive(f"the status of run {run_id!r} is being changed all the time")

    async def _with_money(self, status: Event) -> RunState | None:
        """The run, if it has money to give back and nobody is at work on it. It is held then."""
        run_id = status.stream.partition("/")[2]
        run = self._steps.runs.get(run_id)
        if run is None:
            first = await self._store.event(status.stream, 1)
            if first is None or first.erased or first.load(RunStarted).budget_usd_limit is None:
                return None
            run = await self._steps.open(run_id)
        return run if run.idle and run.slice.unspent and await self._steps.leases.hold_if_free(run) else None

    async def _append(self, stream: str, draft: Draft, unique: Unique, run: RunState | None) -> int:
        """Write a change; a run that is over gives its money back with the same append."""
        if run is not None and run.slice.unspent:
            with contextlib.suppress(Fenced):
                return (await self._steps.purse.give_back(run, draft, guards=(unique,))).first.seq
        return (await self._store.append(Write(stream, (draft,)), guards=[unique])).first.seq

    async def _status_event(self, run_id: str) -> Event:
        event = await self._store.latest(stream_of(run_id), records.STATUS_KEY)
        if event is None:
            raise NotFound(f"no run {run_id!r} in {self._store.location}")
        checked(event)
        return event

    async def status(self, run_id: str) -> RunStatus:
        """Where a run stands, without reading its steps. Raises `NotFound`, `Unproven`."""
        event = await self._status_event(run_id)
        head = await self._store.head(event.stream)
        first = event if event.seq == 1 else await self._store.event(event.stream, 1)
        assert head is not None and first is not None  # noqa: PT018 - it has an event, so it has these
        return _status(event, head, first.ts)

    async def paused_with(self, run_id: str, tenant: TenantContext | None) -> Any:
        """What a person was to know when the run was paused; None unless it is paused and the tenant's."""
        event = await self._status_event(run_id)
        if event.type != records.RUN_PAUSED or event.erased or (tenant is not None and event.tenant != tenant.tenant_id):
            return None
        return event.load(RunChanged).context

    async def human_input(self, run_id: str) -> Any:
        """What a human said when the run was resumed last; None if it was not."""
        event = await self._status_event(run_id)
        return event.load(RunChanged).human_input if event.type == records.RUN_RESUMED and not event.erased else None

    async def active(self, tenant_id: str | None) -> list[RunStatus]:
        """The runs that are not over, the oldest first."""
        return [await self.status(run_id) for run_id in await self.active_ids(tenant_id)]

    async def active_ids(self, tenant_id: str | None) -> list[str]:
        """The ids of the runs that are not over, the oldest first."""
        self._store.register(RUNS_VIEW)
        sql = "SELECT id FROM runs WHERE over = 0"
        rows = await self._store.query(
            RUNS_VIEW, f"{sql}{'' if tenant_id is None else ' AND tenant = ?'} ORDER BY started, id",
            *(() if tenant_id is None else (tenant_id,)),
        )  # fmt: skip
        return [str(row[0]) for row in rows]


def handle_of(run: RunState) -> RunHandle:
    """What a caller gets for a run."""
    return RunHandle(
        run_id=run.run_id, tenant_id=run.tenant_id, parent_run=run.parent_run, root_run=run.root_run,
        forked_from_run_id=run.fork_of, forked_at_seq=run.fork_at, replay_of=run.replay_of,
    )  # fmt: skip


def _status(event: Event, head: Head, started_us: int) -> RunStatus:
    status = STATUS_OF[event.type]
    reason = "" if event.erased or event.type == records.RUN_STARTED else event.load(RunChanged).reason
    return RunStatus(
        run_id=event.stream.partition("/")[2], tenant_id=event.tenant, status=status, reason=reason, last_seq=head.seq,
        started_us=started_us, changed_us=event.ts, updated_us=head.ts,
    )  # fmt: skip


def checked(event: Event) -> Event:
    """The event, if its own hash verifies. Raises `Unproven`."""
    chain = Chain(event.stream)
    chain.seq, chain.hash = event.seq - 1, event.prev
    chain.add_event(event)
    if chain.problems:
        problem = chain.problems[0]
        raise Unproven(f"{event.ref}: {problem.detail}", stream=event.stream, seq=event.seq, kind=problem.kind)
    return event


class RunsView:
    """One row for each run."""

    name = "runs"
    tables: tuple[str, ...] = ("runs",)
    ddl: tuple[str, ...] = (
        "CREATE TABLE IF NOT EXISTS runs (id TEXT PRIMARY KEY, tenant TEXT NOT NULL, started INTEGER NOT NULL,"
        " over INTEGER NOT NULL)",
        "CREATE INDEX IF NOT EXISTS runs_by_over ON runs (over, started)",
    )
    prefixes: tuple[str, ...] = ("run/",)

    def fold(self, event: Event) -> Iterable[Statement]:
        """A run's row; an erased event still says by its type what happened."""
        status = STATUS_OF.get(event.type)
        if status is None:
            return []
        id_ = event.stream.partition("/")[2]
        if event.type == records.RUN_STARTED:
            row = (id_, event.tenant, event.ts, 0)
            return [("INSERT INTO runs VALUES (?,?,?,?) ON CONFLICT (id) DO NOTHING", row)]
        return [("UPDATE runs SET over = ? WHERE id = ?", (int(status in FINAL), id_))]


RUNS_VIEW = RunsView()
