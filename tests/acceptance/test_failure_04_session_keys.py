"""Failure 4: automatic keys restart in each session, so session 2 silently gets session 1's answer."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from harness import BaseHarness, HarnessContext, IncrementalTaskHarness, Kernel, SQLiteStore, TaskUnit, TenantContext
from harness.kernel import ModelRequest, ModelResult

TENANT = TenantContext(tenant_id="t")


class Counting:
    """No two answers are the same."""

    calls = 0

    async def complete(self, request: ModelRequest) -> ModelResult:
        Counting.calls += 1
        return ModelResult(text=f"answer {Counting.calls}")


class Asking(BaseHarness[list[str]]):
    """Asks the same each time, by each of the ways there are."""

    async def step(self, *, context: HarnessContext) -> list[str]:
        own = await asyncio.gather(self.run_model(prompt="status?"), self.run_model(prompt="status?"))
        with self.kernel.scope("loop"):
            scoped = await self.run_model(prompt="status?")
        agent = await self.run_autonomous_agent(prompt="status?")
        return [*(answer.text for answer in own), scoped.text, agent.text]


class Tasks(IncrementalTaskHarness):
    """The same question in each task."""

    async def define_tasks(self) -> list[TaskUnit]:
        return [TaskUnit(id=id, description=id) for id in "abc"]

    async def work_on(self, task: TaskUnit) -> None:
        await self.set_artifact(key=task.id, value=(await self.run_model(prompt="what now?")).text)


async def sessions(path: Path, harness: type[Any], times: int) -> list[Any]:
    """Sessions one after another, each with a kernel of its own, as after restarts."""
    results: list[Any] = []
    for _ in range(times):
        async with SQLiteStore(path) as store, Kernel(store=store, model_port=Counting()) as kernel:
            results.append(await harness(kernel, TENANT).run("night-1"))
    return results


async def test_every_session_gets_answers_of_its_own(tmp_path: Path) -> None:
    """Three sessions of four questions are twelve answers."""
    results = await sessions(tmp_path / "h.db", Asking, 3)

    assert len({answer for result in results for answer in result}) == 12


async def test_every_task_gets_an_answer_of_its_own(tmp_path: Path) -> None:
    """Each is a session's first question."""
    await sessions(tmp_path / "h.db", Tasks, 3)

    async with SQLiteStore(tmp_path / "h.db") as store, Kernel(store=store) as kernel:
        assert len({await kernel.get_artifact(run_id="night-1", key=id) for id in "abc"}) == 3


async def test_sessions_of_one_kernel_do_not_meet_either(tmp_path: Path) -> None:
    """The counting of one pass does not leak into the next."""
    async with SQLiteStore(tmp_path / "h.db") as store, Kernel(store=store, model_port=Counting()) as kernel:
        harness = Asking(kernel, TENANT)
        results = [await harness.run("night-1") for _ in range(3)]

    assert len({answer for result in results for answer in result}) == 12
