"""The agent with real providers: the official SDKs against a scripted model API."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from harness.agents import AutonomousAgent
from harness.errors import ModelUnavailable
from harness.kernel import Kernel, KernelPolicy, TenantContext, ToolRegistry
from harness.kernel.ports import ModelCallOptions
from harness.kernel.providers import port_from
from harness.ledger import MemoryStore

FAKE = Path(os.environ.get("FAKE_MODEL_API", "../shared/tools/fake_model_api.py"))
TENANT = TenantContext(tenant_id="t")


class Report(BaseModel):
    cause: str
    fixed: bool


def fake_api(script: dict[str, Any]) -> Any:
    if not FAKE.exists():
        pytest.skip("the scripted model API (fake_model_api.py) is missing")
    spec = importlib.util.spec_from_file_location("fake_model_api", FAKE)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules.setdefault("fake_model_api", importlib.util.module_from_spec(spec))
    spec.loader.exec_module(module)
    return module.FakeAPI({"side": "main", **script})


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


async def test_a_provider_works_with_tools_to_a_checked_answer(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
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
    kind: str, turn: dict[str, Any], monkeypatch: pytest.MonkeyPatch
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
