"""Failure 5: a test-driven harness replays an old failure for ever."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from harness import CodingHarnessTools, Kernel, SQLiteStore, TaskUnit, TenantContext, TestDrivenHarness

TENANT = TenantContext(
    tenant_id="t", capabilities=frozenset({"coding:worktree", "coding:read", "coding:write", "coding:execute"})
)


class FixingAdd(TestDrivenHarness):
    async def define_tasks(self) -> list[TaskUnit]:
        return [TaskUnit(id="add", description="Make add() right")]


def repository(folder: Path) -> None:
    """A git repository with a bug and a real test of it."""
    (folder / "adding.py").write_text("def add(a, b):\n    return a - b\n")
    (folder / "test_adding.py").write_text(
        "import unittest\nfrom adding import add\n\n\nclass Adding(unittest.TestCase):\n"
        "    def test_add(self):\n        self.assertEqual(add(2, 2), 4)\n"
    )
    for command in (["init", "-q"], ["add", "."], ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "A bug"]):
        subprocess.run(["git", *command], cwd=folder, check=True)


async def session(path: Path, folder: Path) -> tuple[str, str, int]:
    """One session in a kernel of its own: the task's state, and what the tests said."""
    tools = CodingHarnessTools(sandbox_root=folder, tests=[sys.executable, "-m", "unittest", "-q"])
    async with SQLiteStore(path) as store, Kernel(store=store, tool_port=tools) as kernel:
        harness = FixingAdd(kernel, TENANT)
        (task,) = await harness.run("fix-1")
        tests = await harness.last_test_run("add")
        assert tests is not None
        return task.state, tests.output, len(await kernel.get_steps(run_id="fix-1"))


async def test_a_fixed_bug_passes_in_the_next_session(tmp_path: Path) -> None:
    """The tests are run anew in every session, and a task is not done before they pass."""
    folder = tmp_path / "repository"
    folder.mkdir()
    repository(folder)

    before = [await session(tmp_path / "h.db", folder) for _ in range(2)]
    (folder / "adding.py").write_text("def add(a, b):\n    return a + b\n")
    after = await session(tmp_path / "h.db", folder)

    assert [state for state, _, _ in before] == ["pending", "pending"]
    assert all("0 != 4" in output for _, output, _ in before)
    assert after[0] == "done", after[1]
    assert after[2] == 3
