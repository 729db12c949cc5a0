"""The virtual clock."""

from __future__ import annotations

import anyio

from harness.clock import VirtualClock, iso


async def test_sleepers_wake_in_order_of_their_deadlines() -> None:
    """Whoever sleeps shorter wakes first, whatever the order of the calls."""
    clock = VirtualClock()
    woken: list[int] = []

    async def sleep(seconds: int) -> None:
        await clock.sleep(seconds)
        woken.append(seconds)

    async with anyio.create_task_group() as group:
        for seconds in (3, 1, 2):
            group.start_soon(sleep, seconds)
        await anyio.wait_all_tasks_blocked()
        for _ in range(3):
            clock.advance(1)
            await anyio.wait_all_tasks_blocked()

    assert woken == [1, 2, 3]


def test_iso_is_utc_with_microseconds() -> None:
    """Times are printed in one form."""
    assert iso(1_000_001) == "1970-01-01T00:00:01.000001Z"
