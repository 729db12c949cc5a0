"""A session in progress: begun with an event, ended with one, and classified when it is cut short."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from contextvars import ContextVar
from typing import Any

import anyio
import msgspec

from harness.errors import HarnessError, KeyTaken, UsageError, told_of
from harness.kernel.encoding import to_plain_json
from harness.kernel.identity import session_scope
from harness.kernel.records import RUN_COMPLETED, STATUS_KEY, SUMMARY_APPENDED, RunChanged, SummaryAppended
from harness.kernel.runs import STATUS_OF, RunState
from harness.kernel.session_lease import SessionLease
from harness.kernel.session_records import (
    SESSION_ENDED,
    SESSION_INTERRUPTED,
    SESSION_KEY,
    SESSION_RESUMED,
    SESSION_STARTED,
    Outcome,
    Plan,
    SessionRecord,
    planned,
    record_of,
)
from harness.kernel.steps import Steps
from harness.ledger import Draft, Store, Unique

_STOP_SECONDS = 5.0  # so long a cancelled pass may take to say that it was cancelled
_MAX_MESSAGE_CHARACTERS = 2_000
_MAX_AT_END = 20  # so many events the append has that ends a session, at most

_here: ContextVar[tuple[str, ...]] = ContextVar("harness_sessions", default=())


class Session:
    """One pass over a run. Made by `Kernel.session`."""

    def __init__(self, steps: Steps, lease: SessionLease, run: RunState, by: str, cause: str) -> None:
        self.run_id = run.run_id
        self._steps = steps
        self._store = steps.store
        self._stream = run.stream
        self.newest: SessionRecord | None = None  # what was recorded before this pass
        self.finished = False  # whether the run was completed with it
        self.initialized = False  # whether the run's first stage is over
        self._lease = lease
        self._tenant_id = run.tenant_id
        self._by = by
        self._cause = cause
        self._plan = Plan(number=1)
        self.summaries: dict[str, Any] = {}  # of a session that is replayed: what was recorded with its end
        self._last: dict[Outcome, dict[str, Any]] = {}
        self._open = False

    @property
    def number(self) -> int:
        """Which session of the run it is, from 1."""
        return self._plan.number

    @property
    def resumed(self) -> bool:
        """Whether it goes on with a session that was cut short."""
        return self._plan.resumes

    @property
    def retries(self) -> bool:
        """Whether the last pass met an error, so that recorded failures are to be tried again."""
        return self._plan.retries

    @property
    def replays(self) -> bool:
        """Whether the session is over, and only gives again what it gave. Nothing is recorded then."""
        return self._plan.replays

    async def begin(self, *, fresh: bool) -> None:
        """Take the run's sessions and record that this pass begins. Raises `LeaseHeld`."""

        async def beginning() -> Draft | None:
            event = await self._store.latest(self._stream, SESSION_KEY)
            self.newest, type_ = None, ""
            if event is not None:
                before = await _count(self._store, self._stream) if event.erased else 0
                self.newest, type_ = record_of(event, before), event.type
            over = await completed_for(self._store, self.run_id, self._cause)
            if over is not None:
                self.summaries = over.summaries
            self._plan = planned(self.newest, type_, over and over.number, fresh=fresh)
            if self._plan.replays:
                return None
            return self._draft(SESSION_RESUMED if self._plan.resumes else SESSION_STARTED, error=self._error_before())

        self._open = await self._lease.take(beginning) is not None
        self.initialized = self._plan.initialized

    def _error_before(self) -> tuple[str, str]:
        """A pass that is killed before it gets to what had failed leaves it to be tried again by the next one."""
        return (self.newest.error, "") if self.newest is not None else ("", "")

    def at_end(self, outcome: Outcome, **summaries: Any) -> None:
        """What is to be recorded with the session's end, if that is how it ends: summaries by their types."""
        self._last[outcome] = summaries

    async def record_summary(self, summary_type: str, summary: Any) -> None:
        """Append a summary to the run as the holder of its sessions."""
        if self._open:
            await self._lease.write(await self._summary(summary_type, summary))

    async def end(self, outcome: Outcome = "completed", *, error: BaseException | None = None, finish: str = "") -> None:
        """The session is over. With `finish`, which is the reason, the run is completed by the same append."""
        if not self._open:
            return
        drafts = [await self._summary(type_, summary) for type_, summary in self._last.get(outcome, {}).items()]
        drafts.append(self._draft(SESSION_ENDED, outcome=outcome, error=await self._told(error)))
        cause = [Unique(cause_key(self.run_id, self._cause))] if self._cause and outcome == "completed" else []
        while finish and (status := await self._store.latest(self._stream, STATUS_KEY)) is not None:
            if STATUS_OF[status.type] != "active":
                break
            completed = Draft(
                type=RUN_COMPLETED, payload=RunChanged(reason=finish, by=self._store.actor), key=STATUS_KEY,
                tenant=self._tenant_id, parent=status.ref,
            )  # fmt: skip
            with contextlib.suppress(KeyTaken):  # somebody changed the status just now
                await self._lease.leave(*drafts, completed, guards=[*cause, Unique(f"run-status/{status.ref}")])
                self._open, self.finished = False, True
                return
        await self._lease.leave(*drafts, guards=cause)
        self._open = False

    async def stop(self, error: BaseException) -> None:
        """The pass is cut short by this. What the kernel refused can be gone on with, what own code raised cannot."""
        if not self._open:
            return
        if isinstance(error, Exception) and not goes_on_later(error):
            await self.end("failed", error=error)
            return
        told = await self._told(error) if isinstance(error, Exception) else ("", type(error).__name__)  # that is no failure
        await self._lease.leave(self._draft(SESSION_INTERRUPTED, error=told))
        self._open = False

    def close(self) -> None:
        """No more lengthening of the lease."""
        self._lease.rest()

    async def _told(self, error: BaseException | None) -> tuple[str, str]:
        if error is None:
            return "", ""
        text = str(error).encode("utf-8", "replace").decode()[:_MAX_MESSAGE_CHARACTERS]
        scrubbing = self._steps.scrubbing
        return type(error).__name__, text if scrubbing is None else await scrubbing.text(self._tenant_id, text)

    async def _summary(self, summary_type: str, summary: Any) -> Draft:
        data = await as_recorded(self._steps, self._tenant_id, summary)
        record = SummaryAppended(summary_type=summary_type, summary=msgspec.Raw(data))
        key = f"summary::{summary_type}"
        return Draft(type=SUMMARY_APPENDED, payload=record, key=key, tenant=self._tenant_id)

    def _draft(self, type_: str, *, outcome: Outcome | None = None, error: tuple[str, str] = ("", "")) -> Draft:
        record = SessionRecord(
            number=self.number, by=self._by, cause=self._cause, initialized=self.initialized or self._plan.initialized,
            holder="" if type_ == SESSION_ENDED else self._lease.name, outcome=outcome, error=error[0], message=error[1],
        )  # fmt: skip
        return Draft(type=type_, payload=record, key=SESSION_KEY, tenant=self._tenant_id)


class Over(msgspec.Struct, frozen=True, kw_only=True):
    """A session that was completed."""

    number: int
    summaries: dict[str, Any]


def cause_key(run_id: str, cause: str) -> str:
    """What the end of a session that was completed for this cause holds."""
    return f"session-cause/{run_id}/{cause}"


async def completed_for(store: Store, run_id: str, cause: str) -> Over | None:
    """The session of a run that was completed for this cause; None if there is none."""
    held = await store.holder_of(cause_key(run_id, cause)) if cause else None
    if held is None:
        return None
    summaries: dict[str, Any] = {}
    for event in await store.read(held[0], after=held[1] - 1, limit=_MAX_AT_END):
        if event.type == SESSION_ENDED:
            return Over(number=record_of(event, await _count(store, held[0])).number, summaries=summaries)
        if event.type == SUMMARY_APPENDED and not event.erased:
            appended = event.load(SummaryAppended)
            summaries[appended.summary_type] = msgspec.json.decode(appended.summary)
    return None


async def _count(store: Store, stream: str) -> int:
    return sum(event.type == SESSION_STARTED for event in await store.read(stream))


async def _give_back(steps: Steps, run_id: str) -> None:
    """Give back what a run that is over holds: unspent money and the lease of its steps."""
    run = steps.runs.get(run_id)
    if run is not None and run.held and run.idle:
        await steps.release(run)


def goes_on_later(error: Exception) -> bool:
    """Whether a session that met this error can be gone on with: it is the kernel's, and not a recorded failure again."""
    told = told_of(error) if isinstance(error, BaseExceptionGroup) else error
    return isinstance(told, HarnessError) and not getattr(told, "replayed", False)


async def as_recorded(steps: Steps, tenant_id: str, value: Any) -> bytes:
    """The JSON of a value as it may be recorded. Raises `TypeError` for what is no JSON."""
    data = to_plain_json(value)
    return data if steps.scrubbing is None else await steps.scrubbing.json(tenant_id, data)


@contextlib.asynccontextmanager
async def session_of(steps: Steps, run: RunState, *, by: str, cause: str, fresh: bool) -> AsyncGenerator[Session]:
    """Begin a pass, and record how it ended when the block is left."""
    if run.run_id in _here.get():
        raise UsageError(f"run {run.run_id!r} is in a session of this very task; a session cannot be begun inside itself")
    policy = steps.policy
    lease = SessionLease(steps.store, run.run_id, lease_seconds=policy.lease_seconds, wait_seconds=policy.lease_wait_seconds)
    session = Session(steps, lease, run, by, cause)
    await session.begin(fresh=fresh)
    steps.passes.pop(run.run_id, None)
    if not run.held:
        await steps.leases.catch_up(run)
    outside = _here.set((*_here.get(), run.run_id))
    try:
        with session_scope(f"session-{session.number}"):
            yield session
        await session.end()
        if session.finished:
            await _give_back(steps, run.run_id)
    except BaseException as error:
        with anyio.move_on_after(_STOP_SECONDS, shield=True), contextlib.suppress(HarnessError):
            await session.stop(error)
        raise
    finally:
        session.close()
        _here.reset(outside)
