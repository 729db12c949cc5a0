"""Failure 6: a kill or cancel in a task wedges the run."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness import IncrementalTaskHarness, Kernel, MemoryStore, MockModelPort, SQLiteStore, TaskUnit, TenantContext
from harness.kernel import ToolExecutionContext

TENANT = TenantContext(tenant_id="t")
RUN = "pipeline-1"

PROGRAM = """
import asyncio, os, signal, sys
from pathlib import Path
from harness import IncrementalTaskHarness, Kernel, MockModelPort, SQLiteStore, TaskUnit, TenantContext
from harness.kernel import ToolExecutionContext

place = sys.argv[1] if len(sys.argv) > 1 else ""
done = Path("done.txt")


def die(here):
    if place == here:
        os.kill(os.getpid(), signal.SIGKILL)


class Pipeline(IncrementalTaskHarness):
    async def define_tasks(self):
        return [TaskUnit(id=id, description=id) for id in ("ingest", "transform")]

    async def work_on(self, task):
        die("before")
        await self.run_model(prompt=f"how to {task.id}?")
        die("between")
        await self.run_tool(tool_name="load", arguments={"table": task.id})
        die("after")


async def main():
    async with SQLiteStore("h.db") as store, Kernel(store=store, model_port=MockModelPort(text="so")) as kernel:

        def happened(table: str, context: ToolExecutionContext) -> bool:
            return done.exists() and f"{table}\\n" in done.read_text()

        @kernel.tool(side_effect=True, on_unknown="probe", probe=happened)
        async def load(table: str, context: ToolExecutionContext) -> str:
            die("before the effect")
            with done.open("a") as file:
                file.write(f"{table}\\n")
            die("in the effect")
            return table

        tasks = await Pipeline(kernel, TenantContext(tenant_id="t")).run("pipeline-1")
        print(" ".join(f"{task.id}={task.state}" for task in tasks))


asyncio.run(main())
"""


def program(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], cwd=folder, capture_output=True, text=True, timeout=100, check=False
    )


@pytest.mark.parametrize("place", ["before", "between", "before the effect", "in the effect", "after"])
def test_a_killed_task_is_done_once_by_the_next_run(tmp_path: Path, place: str) -> None:
    """kill -9 wherever it is; nobody waits for the dead, and no effect happens twice."""
    killed = program(tmp_path, place)
    assert killed.returncode == -signal.SIGKILL, killed.stderr

    next_run = program(tmp_path)

    assert next_run.stdout == "ingest=done transform=pending\n", next_run.stderr
    assert (tmp_path / "done.txt").read_text() == "ingest\n"


@pytest.mark.timeout(300)
def test_a_task_that_is_killed_again_and_again_is_done_in_the_end(tmp_path: Path) -> None:
    """Each pass goes on where the one before it got to."""
    for place in ("before", "between", "in the effect", "after"):
        assert program(tmp_path, place).returncode == -signal.SIGKILL

    assert program(tmp_path).stdout == "ingest=done transform=pending\n"
    assert program(tmp_path).stdout == "ingest=done transform=done\n"
    assert (tmp_path / "done.txt").read_text() == "ingest\ntransform\n"


@pytest.mark.parametrize("where", ["memory", "sqlite"])
@pytest.mark.parametrize("at", ["tool", "waiting"])
async def test_a_cancelled_task_is_done_by_the_next_session(tmp_path: Path, where: str, at: str) -> None:
    """Also in the same process, and though the cancellation came in the middle of a call."""
    store = MemoryStore() if where == "memory" else SQLiteStore(tmp_path / "h.db")
    begun = asyncio.Event()
    calm = False
    worked: list[str] = []

    async def hold(here: str) -> None:
        if here == at and not calm:
            begun.set()
            await asyncio.Event().wait()

    class Pipeline(IncrementalTaskHarness):
        async def define_tasks(self) -> list[TaskUnit]:
            return [TaskUnit(id=id, description=id) for id in ("ingest", "transform")]

        async def work_on(self, task: TaskUnit) -> None:
            await self.run_tool(tool_name="fetch", arguments={"table": task.id})
            await hold("waiting")
            worked.append(task.id)

    async with store, Kernel(store=store, model_port=MockModelPort(text="so")) as kernel:

        @kernel.tool()
        async def fetch(table: str) -> str:
            await hold("tool")
            return table

        harness = Pipeline(kernel, TENANT)
        session = asyncio.ensure_future(harness.run(RUN))
        await asyncio.wait_for(begun.wait(), 20)
        session.cancel()
        with pytest.raises(asyncio.CancelledError):
            await session
        (ingest, _) = await harness.get_task_progress(run_id=RUN)
        calm = True
        results: list[Any] = [await asyncio.wait_for(harness.run(RUN), 20) for _ in range(2)]

    assert ingest.state == "in_progress"
    assert [[task.state for task in tasks] for tasks in results] == [["done", "pending"], ["done", "done"]]
    assert worked == ["ingest", "transform"]


async def test_a_cancelled_side_effect_is_settled_and_the_run_goes_on(tmp_path: Path) -> None:
    """Nobody knows whether it happened, so it is asked, not repeated; then the same session ends."""
    from harness import OutcomeUnknown

    begun, calls = asyncio.Event(), 0

    class Paying(IncrementalTaskHarness):
        async def define_tasks(self) -> list[TaskUnit]:
            return [TaskUnit(id="pay", description="Pay the bill")]

        async def work_on(self, task: TaskUnit) -> None:
            await self.run_tool(tool_name="pay")

    async with SQLiteStore(tmp_path / "h.db") as store, Kernel(store=store) as kernel:

        @kernel.tool(side_effect=True)
        async def pay(context: ToolExecutionContext) -> str:
            nonlocal calls
            calls += 1
            begun.set()
            await asyncio.Event().wait()
            raise AssertionError

        harness = Paying(kernel, TENANT)
        session = asyncio.ensure_future(harness.run(RUN))
        await asyncio.wait_for(begun.wait(), 20)
        session.cancel()
        with pytest.raises(asyncio.CancelledError):
            await session
        for _ in range(2):
            with pytest.raises(OutcomeUnknown):
                await harness.run(RUN)
        await kernel.reconcile_tool(run_id=RUN, tenant=TENANT, tool_name="pay", outcome="completed", result="paid")
        (task,) = await harness.run(RUN)

    assert (task.state, calls) == ("done", 1)


def test_an_interrupt_from_the_keyboard_is_no_end(tmp_path: Path) -> None:
    """Ctrl-C in the middle of a task."""
    waiting = PROGRAM.replace('die("between")', 'print("waiting", flush=True); await asyncio.Event().wait()')
    with subprocess.Popen(
        [sys.executable, "-c", waiting], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "waiting\n"
            os.kill(process.pid, signal.SIGINT)
            process.communicate(timeout=60)
        finally:
            process.kill()

    assert program(tmp_path).stdout == "ingest=done transform=pending\n"
