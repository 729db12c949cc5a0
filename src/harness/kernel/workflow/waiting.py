"""Waiting for a time of the wall clock. A run that is paused, blocked or over meanwhile ends the wait at once."""

from __future__ import annotations

import contextlib
import math
from collections.abc import AsyncGenerator, Awaitable, Callable
from datetime import datetime, timedelta

import anyio

from harness.errors import HarnessError, UsageError
from harness.kernel.runs import STATUS_OF, RunState, stream_of
from harness.kernel.steps import Steps

_SLICE_SECONDS = 30.0  # the wall clock may jump, or the machine be asleep: look at it again
_LONGEST_SECONDS = 100 * 366 * 86_400.0

Until = datetime | timedelta | float


def due_of(until: Until, now_us: int) -> int:
    """The time that is meant, in UTC microseconds; what is past is due at once. Raises `UsageError`."""
    if isinstance(until, datetime):
        if until.tzinfo is None or until.utcoffset() is None:
            raise UsageError(f"{until.isoformat()} has no time zone; give an aware datetime, a timedelta or seconds")
        due = round(until.timestamp() * 1_000_000)
        seconds = (due - now_us) / 1_000_000
    elif isinstance(until, timedelta):
        seconds = until.total_seconds()
        due = now_us + until // timedelta(microseconds=1)
    elif isinstance(until, bool) or not isinstance(until, int | float):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise UsageError(f"a time is an aware datetime, a timedelta or a number of seconds, not {until!r}")
    else:
        seconds = until
        due = now_us + round(seconds * 1_000_000) if math.isfinite(seconds) else 0
    if not math.isfinite(seconds) or seconds > _LONGEST_SECONDS:
        raise UsageError(f"{until!r} is no time that can be waited for; the longest is 100 years")
    return max(due, 0)


async def wait_until(steps: Steps, run: RunState, due_us: int) -> None:
    """Return when the time has come. Raises `RunNotActive` as soon as the run is paused, blocked or over."""
    if steps.store.clock.now_us() >= due_us:
        return
    refused: list[HarnessError] = []
    async with anyio.create_task_group() as tasks:

        async def watch() -> None:
            try:
                await _refused(steps, run)
            except HarnessError as error:
                refused.append(error)
                tasks.cancel_scope.cancel()

        tasks.start_soon(watch, name="harness kernel watches a waiting run")
        await _sleep(steps, due_us)
        tasks.cancel_scope.cancel()
    if refused:
        raise refused[0]


@contextlib.asynccontextmanager
async def watch_status(steps: Steps, run_id: str, changed: Callable[[str], Awaitable[None]]) -> AsyncGenerator[None]:
    """Call `changed` with each new status of a run, as long as the block lasts."""
    store, stream = steps.store, stream_of(run_id)
    tail = await store.tail()

    async def watch() -> None:
        with contextlib.suppress(HarnessError):  # the block itself will meet the error when it writes
            async with contextlib.aclosing(store.follow(after=tail, streams=(stream,))) as news:
                async for event in news:
                    if event.stream == stream and event.type in STATUS_OF:
                        await changed(STATUS_OF[event.type])

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch, name=f"harness kernel watches {run_id}")
        yield
        tasks.cancel_scope.cancel()


async def _sleep(steps: Steps, due_us: int) -> None:
    clock = steps.store.clock
    while (left_us := due_us - clock.now_us()) > 0:
        await clock.sleep(min(left_us / 1_000_000, _SLICE_SECONDS))


async def _refused(steps: Steps, run: RunState) -> None:
    """Raise `RunNotActive` when the run's status says so."""
    store = steps.store
    tail = await store.tail()
    await steps.check_active(run)
    async with contextlib.aclosing(store.follow(after=tail, streams=(run.stream,))) as news:
        async for event in news:
            if event.stream == run.stream and event.type in STATUS_OF:
                await steps.check_active(run)
