"""Tools of MCP servers: recorded, replayed without a server, and clear when a server misbehaves."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

pytest.importorskip("mcp")

from harness.agents import AutonomousAgent
from harness.agents.mcp import McpTools
from harness.errors import NotFound, OutcomeUnknown, StepFailed, StepRejected, ToolRejected, UsageError
from harness.kernel import Kernel, ScriptedModelPort, TenantContext, ToolCall, ToolTraits
from harness.ledger import MemoryStore

SERVER = Path(__file__).with_name("mcp_server.py")
TENANT = TenantContext(tenant_id="t")


class Bench:
    """One ledger and one folder in which the server notes what it did."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = MemoryStore()

    def tools(self, mode: str = "normal", **options: Any) -> McpTools:
        argv = [sys.executable, str(SERVER), mode, str(self.folder)]
        return McpTools.stdio("disk", argv, **{"connect_timeout": 30.0, **options})

    def calls(self) -> list[str]:
        path = self.folder / "calls.txt"
        return path.read_text().split("\n")[:-1] if path.exists() else []

    async def step(self, tool: str, mode: str = "normal", key: str = "k", **arguments: Any) -> Any:
        """One tool step in a pass of its own."""
        options = arguments.pop("options", {})
        async with Kernel(store=self.store) as kernel, self.tools(mode, **options) as tools:
            await kernel.open_run(tenant=TENANT, run_id="r")
            registry = await tools.list_tools(kernel, run_id="r", tenant=TENANT)
            done = await kernel.step_tool(
                run_id="r", tenant=TENANT, tool_name=tool, arguments=arguments, step_key=key, tools=registry
            )
            return done.result


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


async def test_a_replay_starts_no_server(bench: Bench) -> None:
    """Listing and calling are steps: the second pass has both from the ledger."""
    first = await bench.step("look", path="/var")
    again = await bench.step("look", path="/var")

    assert first == again == {"path": "/var", "percent": 97}
    assert bench.calls() == ["started", "look /var"]
    assert await bench.store.verify_run_chain("r")


async def test_an_agent_uses_a_servers_tools_and_reads_its_errors(bench: Bench) -> None:
    """Names that no model may call are made fit; an error of a tool is its result."""
    script = [
        ToolCall(id="1", name="pay_now", arguments_json='{"amount": 5}'),
        ToolCall(id="2", name="fail"),
        ToolCall(id="3", name="pay_now", arguments_json='{"amount": "much"}'),
        "done",
    ]
    port = ScriptedModelPort(script, by_history=True)
    for _ in range(2):
        async with Kernel(store=bench.store, model_port=port) as kernel, bench.tools("sdk") as tools:
            await kernel.open_run(tenant=TENANT, run_id="r")
            registry = await tools.list_tools(kernel, run_id="r", tenant=TENANT)
            result = await AutonomousAgent(kernel, tools=registry).run(
                run_id="r", tenant=TENANT, model="m", system_prompt="", prompt="pay"
            )
    told = [message.text for message in result.messages if message.role == "tool"]

    assert bench.calls() == ["started", "pay 5"]
    assert "paid 5" in told[0]
    assert "out of paper" in told[1]
    assert "arguments.amount" in told[2]
    assert len(port.requests) == 4


async def test_side_effects_are_assumed_unless_somebody_says_otherwise(bench: Bench) -> None:
    """A hint of the server counts only where it is trusted; a policy for a tool that is not there is an error."""
    seen: list[bool] = []
    for options in ({}, {"trust_read_only_hints": True}, {"policies": {"look": ToolTraits(side_effect=False)}}):
        async with Kernel(store=bench.store) as kernel, bench.tools(**options) as tools:
            await kernel.open_run(tenant=TENANT, run_id="r")
            registry = await tools.list_tools(kernel, run_id="r", tenant=TENANT)
            tool = registry.get("look")
            assert tool is not None
            seen.append(tool.side_effect)

    with pytest.raises(NotFound, match="no tool 'lok'"):
        await bench.step("look", options={"policies": {"lok": ToolTraits()}})

    assert seen == [True, False, False]


async def test_a_changed_server_is_told_and_not_called(bench: Bench) -> None:
    """A resumed run keeps the tools that it began with, and refuses one that is no longer the same."""
    await bench.step("look", path="/")

    with pytest.raises(ToolRejected, match="is gone since this run listed it"):
        await bench.step("pay_now", mode="changed", key="k2", amount=5)

    assert not [call for call in bench.calls() if call.startswith("pay")]


@pytest.mark.parametrize(("tool", "trusting"), [("die", False), ("hang", False), ("die", True)])
async def test_a_server_that_dies_or_hangs_leaves_an_unknown_outcome(bench: Bench, tool: str, trusting: bool) -> None:
    """A side effect may have happened; a read has failed. The next call gets a new server."""
    options = {"call_timeout": 1.5} if tool == "hang" else {}
    if trusting:
        options |= {"policies": {"die": ToolTraits(side_effect=False)}}  # type: ignore[dict-item]
    async with Kernel(store=bench.store) as kernel, bench.tools(**options) as tools:
        await kernel.open_run(tenant=TENANT, run_id="r")
        registry = await tools.list_tools(kernel, run_id="r", tenant=TENANT)
        with pytest.raises(StepFailed if trusting else OutcomeUnknown, match="did not answer"):
            await kernel.step_tool(run_id="r", tenant=TENANT, tool_name=tool, tools=registry)
        after = await kernel.step_tool(run_id="r", tenant=TENANT, tool_name="look", arguments={"path": "/"}, tools=registry)

    assert after.result["percent"] == 97
    assert bench.calls() == ["started", tool, "started", "look /"]


@pytest.mark.parametrize("mode", ["garbage", "silent"])
async def test_a_server_that_does_not_speak_the_protocol_is_one_clear_error(bench: Bench, mode: str) -> None:
    """It is given up after the limit, and nothing of it is left."""
    with pytest.raises(StepFailed, match=r"disk\.list_tools failed: Lost: no connection within 0.3 s"):
        await bench.step("look", mode=mode, options={"connect_timeout": 0.3}, path="/")


async def test_a_program_that_is_missing_is_named(bench: Bench) -> None:
    """Nothing was started; the next pass tries again."""
    async with Kernel(store=bench.store) as kernel, McpTools.stdio("disk", ["/nowhere/server"]) as tools:
        await kernel.open_run(tenant=TENANT, run_id="r")
        with pytest.raises(StepFailed, match="/nowhere/server"):
            await tools.list_tools(kernel, run_id="r", tenant=TENANT)
        with pytest.raises(UsageError, match="not known yet"):
            tools.registry()


async def test_too_much_output_and_bad_arguments_are_refused(bench: Bench) -> None:
    """Each in one line, before it fills the ledger or reaches the server."""
    with pytest.raises(StepFailed, match=r"over the limit of 1,000"):
        await bench.step("flood", options={"max_result_bytes": 1000}, size=100_000)
    with pytest.raises(StepRejected, match="path missing"):
        await bench.step("look", key="k2")


async def test_nothing_is_left_when_it_is_closed(bench: Bench) -> None:
    """Also what a server's tool has put into a session of its own is ended."""
    left = await bench.step("leave")

    pid = left["result"]
    with anyio.fail_after(20):
        while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2][:3]:
            await anyio.sleep(0.05)


@pytest.fixture
def http_server(tmp_path: Path) -> Iterator[str]:
    process = subprocess.Popen(
        [sys.executable, str(SERVER), "http", str(tmp_path)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield _url(tmp_path / "port")
    finally:
        process.kill()
        process.wait()


def _url(path: Path) -> str:
    import socket

    until = time.monotonic() + 30
    while time.monotonic() < until:
        if path.exists() and (port := path.read_text()):
            with socket.socket() as probe:
                if not probe.connect_ex(("127.0.0.1", int(port))):
                    return f"http://127.0.0.1:{port}/mcp"
        time.sleep(0.05)
    raise AssertionError("the server did not start")


async def test_streamable_http_works_alike(bench: Bench, http_server: str) -> None:
    """Only how the server is reached differs; one that is not there is told so."""
    async with Kernel(store=bench.store) as kernel, McpTools.http("disk", http_server) as tools:
        await kernel.open_run(tenant=TENANT, run_id="r")
        registry = await tools.list_tools(kernel, run_id="r", tenant=TENANT)
        done = await kernel.step_tool(run_id="r", tenant=TENANT, tool_name="look", arguments={"path": "/"}, tools=registry)
        assert done.result["percent"] == 97
    async with Kernel(store=bench.store) as kernel, McpTools.http("disk", "http://127.0.0.1:9/mcp") as tools:
        await kernel.open_run(tenant=TENANT, run_id="r2")
        with pytest.raises(StepFailed, match="list_tools failed"):
            await tools.list_tools(kernel, run_id="r2", tenant=TENANT)


def test_a_servers_address_and_program_are_checked() -> None:
    """Before anything is started."""
    with pytest.raises(UsageError, match="begins with http"):
        McpTools.http("disk", "ftp://example.org")
    with pytest.raises(UsageError, match="argv"):
        McpTools.stdio("disk", [])
    with pytest.raises(UsageError, match="letters"):
        McpTools.stdio("my disk", ["x"])
