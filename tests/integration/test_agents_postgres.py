"""Harnesses on PostgreSQL: sessions, children and their leases are the same there."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from harness import (
    HarnessContext,
    IncrementalTaskHarness,
    Kernel,
    LeaseHeld,
    MockModelPort,
    PostgresStore,
    SupervisorHarness,
    TaskUnit,
    TenantContext,
)
from harness.kernel import KernelPolicy

TENANT = TenantContext(tenant_id="t", budget_usd_limit=1.0)


class Pipeline(IncrementalTaskHarness):
    async def define_tasks(self) -> list[TaskUnit]:
        return [TaskUnit(id=id, description=id) for id in ("a", "b", "c")]

    async def work_on(self, task: TaskUnit) -> None:
        await self.set_artifact(key=task.id, value=(await self.run_model(prompt=task.id)).text)


class Boss(SupervisorHarness):
    """Cancelled once, after its child's session."""

    cancelled = False

    async def step(self, *, context: HarnessContext) -> Any:
        result = await self.run_child(harness=Pipeline(self.kernel), run_id="child")
        if not Boss.cancelled:
            Boss.cancelled = True
            raise asyncio.CancelledError
        return [unit.state for unit in result]


async def test_sessions_of_a_parent_and_its_child(postgres_dsn: str) -> None:
    """Each in a kernel of its own; the one that was cut short is gone on with, and the child does not run ahead."""
    Boss.cancelled = False
    results: list[Any] = []
    for session in range(4):
        async with PostgresStore(postgres_dsn) as store, Kernel(store=store, model_port=MockModelPort(text="ok")) as kernel:
            if session == 0:
                with pytest.raises(asyncio.CancelledError):
                    await Boss(kernel, TENANT).run("boss")
                continue
            results.append(await Boss(kernel, TENANT).run("boss"))
            assert await kernel.store.verify()

    assert [result.count("done") for result in results] == [1, 2, 3]


async def test_one_session_at_a_time(postgres_dsn: str) -> None:
    """Another connection's session is waited for, and told of if it lasts."""
    begun, go_on = asyncio.Event(), asyncio.Event()

    class Slow(Pipeline):
        async def work_on(self, task: TaskUnit) -> None:
            begun.set()
            await go_on.wait()

    impatient = KernelPolicy(lease_wait_seconds=0.05)
    async with (
        PostgresStore(postgres_dsn) as one,
        PostgresStore(postgres_dsn) as two,
        Kernel(store=one) as first,
        Kernel(store=two, policy=impatient) as second,
    ):
        session = asyncio.ensure_future(Slow(first, TENANT).run("run"))
        await asyncio.wait_for(begun.wait(), 30)
        with pytest.raises(LeaseHeld):
            await Slow(second, TENANT).run("run")
        go_on.set()
        await asyncio.wait_for(session, 30)

        assert [unit.state for unit in await Slow(second, TENANT).run("run")] == ["done", "done", "pending"]
