"""The agent with real providers: the official SDKs against a scripted model API."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from pydantic import BaseModel

from harness.agents import AutonomousAgent, CompactionStrategy, SubAgent
from harness.errors import ModelUnavailable
from harness.kernel import Kernel, KernelPolicy, TenantContext, ToolRegistry
from harness.kernel.ports import ModelCallOptions
from harness.kernel.providers import port_from
from harness.ledger import MemoryStore

TENANT = TenantContext(tenant_id="t")


class Report(BaseModel):
    cause: str
    fixed: bool


@pytest.fixture
def fake_api(fake_model_api: ModuleType) -> Callable[[dict[str, Any]], Any]:
    """Starts the scripted model API with a script."""
    return lambda script: fake_model_api.FakeAPI({"side": "main", **script})


@pytest.fixture(params=["anthropic", "openai", "openai-chat"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    pytest.importorskip(request.param.split("-")[0])
    for name in ("ANTHROPIC_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.setenv(name, "sk-test-0123456789")
    return request.param


def kernel(kind: str, url: str, monkeypatch: pytest.MonkeyPatch, store: MemoryStore) -> Kernel:
    monkeypatch.setenv("ANTHROPIC_BASE_URL", url)
    monkeypatch.setenv("OPENAI_BASE_URL", f"{url}/v1")
    return Kernel(store=store, model_port=port_from(f"{kind}:m"), policy=KernelPolicy(model_attempts=1))


async def test_a_provider_works_with_tools_to_a_checked_answer(
    kind: str, fake_api: Callable[[dict[str, Any]], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looks, errs, is told, looks again and answers; run again, nothing is asked."""
    turns = [
        {"thinking": "hm", "text": "I look.", "tool": "read_log", "input": {"service": "db"}},
        {"tools": [{"tool": "read_log", "input": {}}, {"tool": "read_log", "input": {"service": "cache"}}]},
        {"text": '{"cause": "out of memory", "fixed": false}'},
    ]
    tools = ToolRegistry()
    read: list[str] = []

    @tools.tool
    async def read_log(service: str) -> str:
        """Read the log of a service."""
        read.append(service)
        return f"{service}: killed"

    with fake_api({"turns": turns}) as api:
        bench = kernel(kind, api.url, monkeypatch, MemoryStore())
        agent = AutonomousAgent(bench, tools=tools, model_options=ModelCallOptions(timeout=30))

        async def run() -> Any:
            return await agent.run(
                run_id="r", tenant=TENANT, model="default", system_prompt="Find out.", prompt="Why?", output_schema=Report
            )

        result = await run()
        again = await run()
        await bench.close()

    assert result.output == Report(cause="out of memory", fixed=False)
    assert read == ["db", "cache"]
    assert [m.is_error for m in result.messages if m.role == "tool"] == [False, True, False]
    assert again == result
    assert len(api.requests) == 3
    assert result.usage.input_tokens == 300


@pytest.mark.parametrize("turn", [{"error": 500}, {"error": 429}, {"hold": "never"}])
async def test_a_provider_that_fails_is_the_callers_to_handle_and_can_be_asked_again(
    kind: str, fake_api: Callable[[dict[str, Any]], Any], turn: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run ends with one clear error within its time, and goes on later."""
    with fake_api({"turns": [{"text": "warm"}, turn, {"text": "Done."}]}) as api:
        bench = kernel(kind, api.url, monkeypatch, MemoryStore())
        agent = AutonomousAgent(bench, model_options=ModelCallOptions(timeout=1))
        fields: dict[str, Any] = {"tenant": TENANT, "model": "default", "system_prompt": "", "prompt": "Go."}
        await agent.run(run_id="warm", **fields)  # the SDK's import takes longer than the timeout

        with pytest.raises(ModelUnavailable):
            await agent.run(run_id="r", **fields)
        api.release("never")
        result = await agent.run(run_id="r", **fields)
        await bench.close()

    assert result.output == "Done."


async def test_a_provider_plays_an_agent_its_sub_agent_and_its_summariser(
    kind: str, fake_api: Callable[[dict[str, Any]], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stands in a conversation after a compaction is a conversation that each provider accepts."""
    turns = [
        {"thinking": "hm", "text": "I ask.", "tool": "reader", "input": {"task": "Read the log."}},
        {"tool": "read_log", "input": {"service": "db"}},
        {"text": "It was killed."},
        {"tool": "read_log", "input": {"service": "cache"}},
        {"tool": "read_log", "input": {"service": "web"}},
        {"text": "So far: the database was killed."},
        {"text": "Somebody kills services."},
    ]
    tools = ToolRegistry()

    @tools.tool
    async def read_log(service: str) -> str:
        """Read the log of a service."""
        return f"{service}: killed " + "x" * 2_000

    with fake_api({"turns": turns}) as api:
        bench = kernel(kind, api.url, monkeypatch, MemoryStore())
        agent = AutonomousAgent(
            bench, tools=tools, model_options=ModelCallOptions(timeout=30),
            compaction=CompactionStrategy(trigger_at_tokens=300, keep_recent_tokens=0),
            subagents=[SubAgent(name="reader", description="Reads.", system_prompt="Read.", tools=tools)],
        )  # fmt: skip
        fields: dict[str, Any] = {"tenant": TENANT, "model": "default", "system_prompt": "Find out.", "prompt": "Why?"}
        result = await agent.run(run_id="r", **fields)
        again = await agent.run(run_id="r", **fields)
        await bench.close()

    assert result.output == "Somebody kills services."
    assert result.compactions == 1
    assert "So far: the database was killed." in result.messages[2].text
    assert result.subagent_usage.input_tokens == 200
    assert result.usage.input_tokens == 500
    assert again == result
    assert len(api.requests) == len(turns)
