"""Failure 12, where it is a harness's: a run never leaves `active`; a supervisor approves the string "no"."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness import (
    BaseHarness,
    DraftReviewVerifySupervisor,
    HarnessContext,
    IncrementalTaskHarness,
    Kernel,
    SQLiteStore,
    TaskUnit,
    TenantContext,
)

TENANT = TenantContext(tenant_id="t")


class Saying(BaseHarness[Any]):
    """Gives one answer."""

    def __init__(self, kernel: Kernel, answer: Any) -> None:
        super().__init__(kernel)
        self.answer = answer

    async def step(self, *, context: HarnessContext) -> Any:
        return self.answer


@pytest.mark.parametrize(
    ("answer", "approved"),
    [
        *((True, True), ({"passed": True}, True), ({"status": "ok"}, True), ({"status": "passed"}, True)),
        *(("no", False), ("yes", False), ("approved", False), (None, False), (1, False), ([True], False)),
        *(({"passed": "no"}, False), ({"passed": False}, False), ({"status": "no"}, False), ({"verdict": True}, False)),
    ],
)
async def test_only_an_explicit_yes_approves(tmp_path: Path, answer: Any, approved: bool) -> None:
    """A text is no verdict, whatever it says."""
    async with SQLiteStore(tmp_path / "h.db") as store, Kernel(store=store) as kernel:
        supervisor = DraftReviewVerifySupervisor(
            kernel=kernel, tenant=TENANT, drafter=Saying(kernel, "d"), reviewer=Saying(kernel, "r"),
            verifier=Saying(kernel, answer),
        )  # fmt: skip
        result = await supervisor.run(run_id="review-1")

        assert result.approved is approved
        assert [run.run_id for run in await kernel.list_active_runs()] == []


async def test_a_run_is_active_exactly_as_long_as_tasks_are_left(tmp_path: Path) -> None:
    """With one of three tasks done it is at work, with the third it is over, and with a fourth at work again."""
    ids = ["a", "b", "c"]

    class Pipeline(IncrementalTaskHarness):
        async def define_tasks(self) -> list[TaskUnit]:
            return [TaskUnit(id=id, description=id) for id in ids]

        async def work_on(self, task: TaskUnit) -> None:
            assert (await self.kernel.get_run_status(run_id="p")).active

    seen: list[str] = []
    async with SQLiteStore(tmp_path / "h.db") as store, Kernel(store=store) as kernel:
        for session in range(6):
            if session == 4:
                ids.extend(("d", "e"))
            await Pipeline(kernel, TENANT).run("p")
            seen.append((await kernel.get_run_status(run_id="p")).status)

    assert seen == ["active", "active", "completed", "completed", "active", "completed"]
