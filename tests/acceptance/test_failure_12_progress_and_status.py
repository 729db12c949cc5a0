"""Failure 12 of systems of this kind: progress says 100 % with one of three tasks done, and a run never leaves `active`.

Here progress counts what the run itself recorded of its tasks, says nothing where no total is known, and agrees with the
ledger after a kill; a run that ended, in whatever way, is not active.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from harness import IncrementalTaskHarness, Kernel, MockModelPort, SQLiteStore, TaskUnit, TenantContext, WorkflowContext
from harness.kernel.progress import PROGRESS_VIEW

TENANT = TenantContext(tenant_id="t")
STEPS = ["ingest", "transform", "validate"]

PIPELINE = """
    import asyncio, os, signal, sys
    from harness import Kernel, SQLiteStore, TenantContext

    async def workflow(ctx):
        for name in ("ingest", "transform", "validate"):
            await ctx.step(name=name, action=lambda: name)
            if sys.argv[2:] == [name]:
                os.kill(os.getpid(), signal.SIGKILL)

    async def main():
        async with SQLiteStore(sys.argv[1]) as store, Kernel(store=store) as kernel:
            await kernel.run_workflow(
                run_id="r", tenant=TenantContext(tenant_id="t"), workflow=workflow, steps=["ingest", "transform", "validate"]
            )

    asyncio.run(main())
"""


@pytest.fixture
async def kernel(tmp_path: Path) -> AsyncIterator[Kernel]:
    async with (
        SQLiteStore(tmp_path / "k.db") as store,
        Kernel(store=store, model_port=MockModelPort(output="x")) as made,
    ):
        yield made


class Pipeline(IncrementalTaskHarness):
    async def define_tasks(self) -> list[TaskUnit]:
        return [TaskUnit(id=name, description=f"{name} the data") for name in STEPS]

    async def work_on(self, task: TaskUnit) -> None:
        await self.kernel.checkpoint(run_id="pipeline", tenant=TENANT, name=task.id)


async def test_each_session_is_a_third(kernel: Kernel) -> None:
    """A harness of three tasks is at 33, 67 and 100 percent after its sessions, and names what is left."""
    told: list[tuple[int, tuple[str, ...]]] = []
    for _ in STEPS:
        await Pipeline(kernel=kernel, tenant=TENANT).run("pipeline")
        progress = await kernel.get_run_progress(run_id="pipeline")
        assert progress.percent is not None
        told.append((round(progress.percent), progress.pending_tasks))

    assert told == [(33, ("transform", "validate")), (67, ("validate",)), (100, ())]


@pytest.mark.parametrize(("after", "percent", "left"), [("ingest", 33, 2), ("transform", 67, 1), ("", 100, 0)])
async def test_a_killed_process_leaves_the_truth(tmp_path: Path, after: str, percent: int, left: int) -> None:
    """Whoever looks afterwards, from another process, sees what was done and that the run is not over, or is."""
    path = tmp_path / "k.db"
    command = [sys.executable, "-c", textwrap.dedent(PIPELINE), str(path), *([after] if after else [])]
    subprocess.run(command, timeout=100, check=not after)

    async with SQLiteStore(path) as store, Kernel(store=store) as kernel:
        progress = await kernel.get_run_progress(run_id="r")
        active = [run.run_id for run in await kernel.list_active_runs()]
        differing = await store.check(PROGRESS_VIEW)

    assert progress.percent is not None
    assert (round(progress.percent), len(progress.pending_tasks)) == (percent, left)
    assert progress.steps == {"completed": 3 - left}
    assert (progress.over, progress.status, active) == ((False, "active", ["r"]) if left else (True, "completed", []))
    assert differing == []


async def test_no_total_is_no_percent(kernel: Kernel) -> None:
    """Three steps done of nobody knows how many are three steps done; a total that nobody vouches for is none."""
    await kernel.start_run(tenant=TENANT, run_id="r")

    @kernel.tool()
    def look() -> str:
        return "seen"

    for _ in range(3):
        await kernel.step_tool(run_id="r", tenant=TENANT, tool_name="look")
    assert (await kernel.get_run_progress(run_id="r")).percent is None
    for odd in ("soon", {"total": 0, "done": 0}, {"total": 3, "done": 7}, [1, 2], [], {"tasks": "three"}, [{"id": "a"}]):
        await kernel.append_run_summary(run_id="r", tenant=TENANT, summary_type="task_progress", summary=odd)
        assert (await kernel.get_run_progress(run_id="r")).percent is None
    await kernel.finish_run(run_id="r")

    progress = await kernel.get_run_progress(run_id="r")
    assert (progress.percent, progress.status, progress.steps) == (None, "completed", {"completed": 3})


async def test_a_run_that_was_cut_short_is_not_at_100(kernel: Kernel) -> None:
    """Completed, failed or cancelled: the status says that it is over, the percentage what was done."""
    units = {"units": [{"id": name, "description": name, "state": "done" if name == "a" else "pending"} for name in "abc"]}
    for run_id, end in (("r1", kernel.finish_run), ("r2", kernel.cancel_run)):
        await kernel.start_run(tenant=TENANT, run_id=run_id)
        await kernel.append_run_summary(run_id=run_id, tenant=TENANT, summary_type="task_progress", summary=units)
        await end(run_id=run_id)

        progress = await kernel.get_run_progress(run_id=run_id)
        assert progress.over
        assert (progress.tasks_done, progress.tasks_total) == (1, 3)
        assert progress.percent == pytest.approx(100 / 3)


async def test_every_end_of_a_workflow_leaves_active(kernel: Kernel) -> None:
    """By its value, by an exception, by a cancellation from outside."""

    async def ends(_: WorkflowContext) -> None:
        return

    async def fails(_: WorkflowContext) -> None:
        raise ValueError("no")

    async def waits(ctx: WorkflowContext) -> None:
        await ctx.sleep(86_400)

    await kernel.run_workflow(run_id="ends", tenant=TENANT, workflow=ends)
    with pytest.raises(ValueError, match="no"):
        await kernel.run_workflow(run_id="fails", tenant=TENANT, workflow=fails)
    waiting = asyncio.ensure_future(kernel.run_workflow(run_id="waits", tenant=TENANT, workflow=waits))
    async with asyncio.timeout(60):
        async for event in kernel.store.follow(streams=("run/waits",)):
            if event.type == "step.started":
                break
        await kernel.cancel_run(run_id="waits")
        await waiting

    statuses = {run_id: (await kernel.get_run_status(run_id=run_id)).status for run_id in ("ends", "fails", "waits")}
    assert statuses == {"ends": "completed", "fails": "failed", "waits": "cancelled"}
    assert await kernel.list_active_runs() == ()
    assert await kernel.list_timers() == ()
