"""Failure 14: replaying writes; an idle session writes 24 events and its wake note nests its own history."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness import (
    BaseHarness,
    HarnessContext,
    IncrementalTaskHarness,
    Kernel,
    MockModelPort,
    ModelInput,
    SQLiteStore,
    StepFailed,
    StepRejected,
    SupervisorHarness,
    TaskUnit,
    TenantContext,
)
from harness.ledger import Event

TENANT = TenantContext(tenant_id="t", budget_usd_limit=1.0)


class Pipeline(IncrementalTaskHarness):
    async def define_tasks(self) -> list[TaskUnit]:
        return [TaskUnit(id=id, description=f"Do {id}") for id in ("a", "b", "c")]

    async def work_on(self, task: TaskUnit) -> None:
        await self.run_model(prompt=task.id)


class Watched(Pipeline):
    """With hooks, so that an idle session is a session."""

    woke = 0

    async def on_wake(self, *, context: HarnessContext, reorientation: Any) -> None:
        self.woke += 1


class Boss(SupervisorHarness):
    async def step(self, *, context: HarnessContext) -> Any:
        return await self.run_child(harness=Pipeline(self.kernel), run_id="child")


async def written(path: Path, harness: type[BaseHarness[Any]]) -> list[Event]:
    """What one session writes, in a kernel of its own."""
    async with SQLiteStore(path) as store:
        before = await store.tail()
        async with Kernel(store=store, model_port=MockModelPort(text="ok")) as kernel:
            await harness(kernel, TENANT).run("run")
        return await store.read_all(after=before, limit=1000)


async def test_an_idle_session_writes_its_summary_and_nothing_else(tmp_path: Path) -> None:
    """Each says the same, however many there were."""
    for _ in range(3):
        await written(tmp_path / "h.db", Pipeline)

    idle = [await written(tmp_path / "h.db", Pipeline) for _ in range(5)]

    assert [[event.type for event in events] for events in idle] == [["summary.appended"]] * 5
    assert len({events[0].data for events in idle}) == 1


async def test_an_idle_session_with_hooks_is_small_and_does_not_grow(tmp_path: Path) -> None:
    """It begins and ends, and says where the tasks stand; nothing in it quotes an earlier one."""
    for _ in range(3):
        await written(tmp_path / "h.db", Watched)

    idle = [await written(tmp_path / "h.db", Watched) for _ in range(5)]

    assert {len(events) for events in idle} == {5}
    assert {sum(len(event.data or b"") for event in events) < 1200 for events in idle} == {True}
    assert max(len(event.data or b"") for event in idle[-1]) <= max(len(event.data or b"") for event in idle[0]) + 1


async def test_a_supervisor_with_nothing_to_do_is_small_and_does_not_grow(tmp_path: Path) -> None:
    """Begin, reopen, the child's summary, end, completed."""
    for _ in range(3):
        await written(tmp_path / "h.db", Boss)

    idle = [await written(tmp_path / "h.db", Boss) for _ in range(5)]

    assert {len(events) for events in idle} == {5}


async def test_replaying_steps_writes_nothing(tmp_path: Path) -> None:
    """Of a program that is over, run again by other kernels: whatever came of its steps."""

    async def program(store: SQLiteStore) -> list[str]:
        async with Kernel(store=store, model_port=MockModelPort(text="ok")) as kernel:
            kernel.tool(name="look")(lambda: "seen")
            kernel.tool(name="pay", side_effect=True)(lambda: "paid")
            kernel.tool(name="fail")(lambda: 1 / 0)
            await kernel.open_run(tenant=TENANT, run_id="run")
            told = [
                (await kernel.step_model(run_id="run", tenant=TENANT, model="m", input=ModelInput.from_prompt(f"{n}"))).text
                for n in range(3)
            ]
            for name, arguments in (("look", {}), ("pay", {}), ("fail", {}), ("look", {"at": 1}), ("nothing", {})):
                try:
                    told.append(
                        (await kernel.step_tool(run_id="run", tenant=TENANT, tool_name=name, arguments=arguments)).result
                    )
                except (StepFailed, StepRejected) as error:
                    told.append(str(error))
            await kernel.checkpoint(run_id="run", tenant=TENANT)
            if (await kernel.get_run_status(run_id="run")).active:
                await kernel.finish_run(run_id="run")
            return told

    async with SQLiteStore(tmp_path / "h.db") as store:
        first = await program(store)
        before = await store.read_all(limit=1000)

        assert [await program(store) for _ in range(3)] == [first] * 3
        assert await store.read_all(limit=1000) == before


async def test_a_child_that_is_replayed_writes_nothing(tmp_path: Path) -> None:
    """A parent that goes on after a cancellation asks its child again for the session that is over."""
    import asyncio

    import pytest

    class Own(BaseHarness[str]):
        async def step(self, *, context: HarnessContext) -> str:
            await self.set_artifact(key="note", value="once")
            return (await self.run_model(prompt="?")).text

    class Dying(SupervisorHarness):
        async def step(self, *, context: HarnessContext) -> Any:
            result = await self.run_child(harness=Own(self.kernel), run_id="child")
            if not context.resumed:
                raise asyncio.CancelledError
            return result

    async with SQLiteStore(tmp_path / "h.db") as store, Kernel(store=store, model_port=MockModelPort(text="ok")) as kernel:
        with pytest.raises(asyncio.CancelledError):
            await Dying(kernel, TENANT).run("run")
        before = await store.read("run/child")

        assert await Dying(kernel, TENANT).run("run") == "ok"
        assert await store.read("run/child") == before
