"""The analyst with a provider's own SDK: against the scripted model API, and against a provider that misbehaves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from harness.ledger import MemoryStore
from harness.recovery.analyst import Analyst, Evidence
from harness.recovery.failures import Failure, Severity

FAILURE = Failure(
    subject="api", target="api", severity=Severity.DOWN, root="process:api", kind="process", observed="signal 9",
    detected_us=1, checks=("api_healthy",),
)  # fmt: skip
ANSWER = {"ticket": "yes", "objective": "api runs", "context": "killed", "priority": "critical", "reason": "it is down"}


@pytest.fixture
def api(fake_model_api: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    with fake_model_api.FakeAPI({"side": "main"}) as api:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", api.url)
        monkeypatch.setenv("OPENAI_BASE_URL", f"{api.url}/v1")
        monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-test-0123456789abcdef")
        monkeypatch.setenv("OPENAI_API_KEY", "sk-test-0123456789abcdef")
        yield api


@pytest.mark.parametrize("model", ["anthropic:model-x", "openai:model-x", "openai-chat:model-x"])
async def test_a_real_provider_decides(api: Any, model: str) -> None:
    """The same question goes to each provider, and its answer is the decision."""
    pytest.importorskip(model.partition(":")[0].partition("-")[0])
    api.set_script({"side": "main", "default": {"text": json.dumps(ANSWER)}})

    analysis = await Analyst(MemoryStore(), None, model=model, timeout_seconds=20).analyse(Evidence(failure=FAILURE))

    assert (analysis.by, analysis.priority, analysis.objective) == (model, "critical", "api runs")


@pytest.mark.parametrize(
    ("turn", "said"),
    [({"error": 500}, "500"), ({"hold": "never"}, "no answer within"), ({"text": "certainly not JSON"}, "JSON")],
    ids=["500", "hangs", "garbage"],
)
async def test_a_provider_that_misbehaves_does_not_keep_the_ticket(api: Any, turn: dict[str, Any], said: str) -> None:
    """An error, silence and nonsense all end in the deterministic ticket, within the bound."""
    pytest.importorskip("openai")
    api.set_script({"side": "main", "default": turn})
    analyst = Analyst(MemoryStore(), None, model="openai-chat:model-x", timeout_seconds=4)
    await analyst.warm()

    analysis = await analyst.analyse(Evidence(failure=FAILURE))
    api.release("never")

    assert analysis.open_ticket
    assert analysis.by == "fallback"
    assert said in analysis.reason
    assert analysis.seconds < 5
