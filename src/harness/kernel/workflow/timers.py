"""Durable timers: a time that a run waits for, recorded before the wait, so that it survives a restart."""

from __future__ import annotations

import msgspec

from harness.kernel import records, replay
from harness.kernel.bounds import check_count
from harness.kernel.progress import PROGRESS_VIEW
from harness.kernel.records import StepEnded, StepStarted
from harness.kernel.runs import Entry, RunState
from harness.kernel.steps import Steps
from harness.kernel.workflow.actions import checked_end
from harness.kernel.workflow.results import Timer, TimerKind
from harness.kernel.workflow.waiting import Until, due_of, wait_until
from harness.ledger import Store


class Sleeping(Exception):
    """The timer is set, and its time is further away than the caller waits."""

    def __init__(self, due_us: int) -> None:
        super().__init__(f"sleeps until {due_us} (microseconds since 1970, UTC)")
        self.due_us = due_us


class _Set(msgspec.Struct, frozen=True):
    """The timer as it is recorded; `over` once its time has come."""

    due_us: int
    over: bool


class Timers:
    """The timers of one kernel."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps

    async def sleep(self, run: RunState, step: str, until: Until, *, longest_seconds: float | None = None) -> None:
        """Return when the time has come that was meant when this was called first.

        Raises `RunNotActive` as soon as the run is paused, blocked or over, and `Sleeping` instead of waiting for longer
        than `longest_seconds`.
        """
        clock = self._steps.store.clock
        due = due_of(until, clock.now_us())

        async def recall(entry: Entry) -> _Set | None:
            return self._recall(run, step, entry)

        async def begin(_: Entry | None) -> _Set:
            return await self._begin(run, step, due)

        timer = await self._steps.once(run, step, recall, begin)
        if timer.over:
            return
        if longest_seconds is not None and timer.due_us - clock.now_us() > longest_seconds * 1_000_000:
            raise Sleeping(timer.due_us)
        await wait_until(self._steps, run, timer.due_us)

        async def over(entry: Entry) -> bool | None:
            return True if entry.type == records.STEP_COMPLETED else None

        async def end(_: Entry | None) -> bool:
            await self._end(run, step, timer.due_us)
            return True

        await self._steps.once(run, step, over, end)

    def _recall(self, run: RunState, step: str, entry: Entry) -> _Set | None:
        if entry.ended:
            ended = checked_end(run, step, entry, "timer")
            return _Set(msgspec.json.decode(ended.result, type=int), over=True)
        intent = entry.intent()
        if intent is None:
            return None
        if intent.kind != "timer":
            raise replay.other_kind(run, step, intent.kind, "timer")
        return _Set(intent.due_us, over=False)

    async def _begin(self, run: RunState, step: str, due_us: int) -> _Set:
        started = StepStarted(kind="timer", name="sleep", due_us=due_us)
        if due_us <= self._steps.store.clock.now_us():
            await self._end(run, step, due_us, started)
            return _Set(due_us, over=True)
        appended = await self._steps.write(run, self._steps.draft(run, records.STEP_STARTED, started, step))
        event = appended.last
        run.steps[step] = Entry(event.type, event.seq, event.data, event.data, 1)
        return _Set(due_us, over=False)

    async def _end(self, run: RunState, step: str, due_us: int, started: StepStarted | None = None) -> None:
        ended = StepEnded(kind="timer", name="sleep", input="", result=records.raw(b"%d" % due_us), started=started)
        appended = await self._steps.write(run, self._steps.draft(run, records.STEP_COMPLETED, ended, step))
        self._steps.end(run, step, appended.last)


async def listed(store: Store, *, due_us: int | None, tenant_id: str | None, limit: int) -> tuple[Timer, ...]:
    """What active runs wait for, the earliest first, by index."""
    check_count("limit", limit)
    store.register(PROGRESS_VIEW)
    where, values = "o.due IS NOT NULL AND r.status = 'active'", list[str | int]()
    for condition, value in (("o.due <= ?", due_us), ("r.tenant = ?", tenant_id)):
        if value is not None:
            where += f" AND {condition}"
            values.append(value)
    rows = await store.query(
        PROGRESS_VIEW,
        "SELECT o.run, r.tenant, o.step, o.kind, o.due FROM progress_open o JOIN progress_runs r ON r.id = o.run"
        f" WHERE {where} ORDER BY o.due, o.run, o.step LIMIT ?",
        *values,
        limit,
    )
    return tuple(
        Timer(run_id=str(run), tenant_id=str(tenant), step=str(step), kind=_kind(str(kind)), due_us=int(due))  # type: ignore[arg-type]
        for run, tenant, step, kind, due in rows
    )


def _kind(kind: str) -> TimerKind:
    return "timer" if kind == "timer" else "retry"
