"""What is put together wrongly is refused where it is put together, with what to write instead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness import AutonomousAgent, BaseHarness, Kernel, MemoryStore, SQLiteStore, TenantContext, UsageError

TENANT = TenantContext(tenant_id="t")


@pytest.mark.parametrize(
    ("path", "said"),
    [
        (":memory:", r"MemoryStore\(\) keeps a ledger in memory"),
        ("postgresql://db/agents", "PostgresStore"),
        ("", "names a file"),
        (None, "names a file"),
        (5, "names a file"),
    ],
)
def test_a_ledger_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: Any, said: str) -> None:
    """No file of a strange name is made."""
    monkeypatch.chdir(tmp_path)

    with pytest.raises(UsageError, match=said):
        SQLiteStore(path)

    assert list(tmp_path.iterdir()) == []


def test_a_path_is_a_text_or_a_path(tmp_path: Path) -> None:
    """Both are taken, also one that looks like memory's name in another folder."""
    for path in (str(tmp_path / "a.db"), tmp_path / "b.db", tmp_path / ":memory:"):
        assert SQLiteStore(path).location == str(path)


async def test_a_tool_is_registered_with_and_without_options() -> None:
    """`@kernel.tool` is what many write first, and `ToolRegistry.tool` takes it too."""
    async with Kernel(store=MemoryStore()) as kernel:

        @kernel.tool
        async def look(at: str) -> str:
            """Look."""
            return f"{at} is full"

        @kernel.tool(name="glance")
        async def other(at: str) -> str:
            """Glance."""
            return at

        assert [tool.name for tool in kernel.list_tools_for_tenant(tenant=TENANT)] == ["glance", "look"]
        await kernel.start_run(tenant=TENANT, run_id="r")
        seen = await kernel.step_tool(run_id="r", tenant=TENANT, tool_name="look", arguments={"at": "/var"})
        assert seen.result == await look("/var") == "/var is full"
        assert await other("x") == "x"


async def test_a_harness_knows_its_replay_policies() -> None:
    """Not only with its first step."""
    async with Kernel(store=MemoryStore()) as kernel:
        with pytest.raises(UsageError, match="replay_policy is one of strict, allow_prompt_drift, fork_on_drift, not 'loose'"):
            BaseHarness[None](kernel, TENANT, replay_policy="loose")  # type: ignore[arg-type]


async def test_an_agent_takes_a_bundle_and_texts() -> None:
    """A list of functions is no bundle, and None is no prompt; nothing is begun."""
    store = MemoryStore()
    async with Kernel(store=store) as kernel:
        with pytest.raises(UsageError, match="tools are a ToolRegistry or a bundle"):
            AutonomousAgent(kernel, tools=[print])  # type: ignore[arg-type]
        for wrong in ({"prompt": None}, {"system_prompt": 5}):
            texts: dict[str, Any] = {"prompt": "x", "system_prompt": "", **wrong}
            with pytest.raises(UsageError, match="prompt is a text, not"):
                await AutonomousAgent(kernel).run(run_id="r", tenant=TENANT, model="m", **texts)
    assert await store.heads() == []
