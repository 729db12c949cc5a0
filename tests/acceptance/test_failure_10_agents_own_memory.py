"""The agent's own memory write makes its resume fail; two agents on one kernel share runtime tools.

Seen where memory is read into the prompt anew in each pass: what the agent wrote changes the prompt of its first turn, and the
recorded turn is refused as drifted. And where an agent registers its tools on the kernel: the second agent on it finds the
names taken, or calls the first one's functions.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio
import pytest

from harness import AutonomousAgent, Kernel, KernelPolicy, ModelUnavailable, SQLiteStore, TenantContext
from harness.agents import AgentResult, ContextBuilder, Skill
from harness.kernel import ScriptedModelPort, ToolCall, ToolRegistry

TENANT = TenantContext(tenant_id="t")


def call(tool: str, **arguments: Any) -> ToolCall:
    return ToolCall(id=f"{tool}-id", name=tool, arguments_json=json.dumps(arguments))


@pytest.mark.parametrize("memory", ["run", "tenant"])
async def test_an_agent_that_wrote_to_its_memory_can_be_resumed(tmp_path: Path, memory: Any) -> None:
    """Stopped after it wrote, it goes on in another kernel with the context it began with; a new run sees what was written."""
    script = [call("remember", key="port", text="8080"), call("recall", key="port"), ModelUnavailable("away"), "It is 8080."]

    async def live(*lines: Any, run_id: str = "r") -> tuple[AgentResult | None, ScriptedModelPort]:
        store, port = SQLiteStore(tmp_path / "h.db"), ScriptedModelPort(lines, by_history=True)
        try:
            async with Kernel(store=store, model_port=port, policy=KernelPolicy(model_attempts=1)) as kernel:
                agent = AutonomousAgent(kernel, memory=memory, context_builder=ContextBuilder(identity="You remember."))
                return await agent.run(run_id=run_id, tenant=TENANT, model="m", system_prompt="s", prompt="p"), port
        except ModelUnavailable:
            return None, port
        finally:
            await store.close()

    stopped, before = await live(*script)
    resumed, after = await live(*script[:2], "It is 8080.")
    replayed, nobody = await live()
    _, later = await live("Done.", run_id="another")

    assert stopped is None
    assert resumed is not None
    assert replayed is not None
    assert resumed.output == "It is 8080."
    assert [message.text for message in resumed.messages if message.role == "tool"][1] == '{"entries":{"port":"8080"}}'
    assert after.requests[0].messages[:2] == before.requests[0].messages
    assert len(after.requests) == 1
    assert (replayed.output, nobody.requests) == ("It is 8080.", [])
    assert ("- port: 8080" in later.requests[0].messages[0].text) is (memory == "tenant")


async def test_the_write_of_a_memory_happens_once(tmp_path: Path) -> None:
    """A replay writes no second version of the entry."""
    store = SQLiteStore(tmp_path / "h.db")
    port = ScriptedModelPort([call("remember", key="port", text="8080"), "Done."], by_history=True)
    async with Kernel(store=store, model_port=port) as kernel:
        agent = AutonomousAgent(kernel)
        for _ in range(3):
            await agent.run(run_id="r", tenant=TENANT, model="m", system_prompt="s", prompt="p")
        events = await kernel.get_events(run_id="r")
    await store.close()

    assert [event.key for event in events if event.type == "artifact.set"] == ["artifact::memory/port"]


async def test_two_agents_on_one_kernel_share_no_runtime_tools(tmp_path: Path) -> None:
    """Own tools, skills and memory of the same names, at the same time: each agent has its own."""
    store = SQLiteStore(tmp_path / "h.db")
    turns = [call("whoami"), call("load_skill", name="trade"), call("remember", key="k", text="v"), call("recall"), "Done."]
    port = ScriptedModelPort(turns, by_history=True)
    results: dict[str, AgentResult] = {}
    async with Kernel(store=store, model_port=port) as kernel:

        async def work(who: str) -> None:
            tools = ToolRegistry()

            @tools.tool
            async def whoami() -> str:
                """Say who it is."""
                return who

            skills = [Skill(name="trade", description="Its trade.", body=f"The trade of {who}.")]
            agent = AutonomousAgent(kernel, tools=tools, skills=skills)
            results[who] = await agent.run(run_id=who, tenant=TENANT, model="m", system_prompt="s", prompt="p")

        async with anyio.create_task_group() as group:
            for who in ("ann", "bob"):
                group.start_soon(work, who)
        left = kernel.list_tools_for_tenant(tenant=TENANT)
    await store.close()

    for who, result in results.items():
        told = [message.text for message in result.messages if message.role == "tool"]
        assert told == [who, f"The trade of {who}.", "kept under 'k'", '{"keys":["k"]}']
    assert left == ()
