"""The same incident worked by "real" providers: the official SDKs against the scripted model API, and where they fail."""

from __future__ import annotations

import os
import signal
from types import ModuleType
from typing import Any

import anyio
import pytest

from harness.recovery.analyst import fallback
from harness.recovery.attempts import AgentSettings
from harness.recovery.facts import ActionStarted, IncidentEngaged, ServiceExited, ServiceStarted, incident_stream
from harness.recovery.failures import Failure, Severity
from harness.recovery.monitor import MonitorSettings
from harness.recovery.responder import MODEL_POLICY, run_responder
from harness.recovery.tickets import Tickets
from harness.work import Item, Status

REPAIR = [
    {"text": "I look.", "tool": "service_status", "input": {"service": "web"}},
    {
        "thinking": "It was killed.",
        "tool": "propose_action",
        "input": {"action": "restart_service", "reason": "its process was killed"},
    },
    {"tool": "update_ticket_status", "input": {"status": "completed", "reason": "it runs as a new process"}},
    {"text": "The process was killed; I restarted it."},
]


@pytest.fixture(params=["anthropic", "openai", "openai-chat"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each provider, with a key."""
    pytest.importorskip(request.param.split("-")[0])
    for name in ("ANTHROPIC_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.setenv(name, "sk-test-0123456789")
    return request.param


async def incident(world: Any, model: str, seconds: float) -> Item:
    """Kill the service and let an agent with this model work on it, until the ticket is handed over."""
    web, envelope = world.service("web"), world.automatic("web")
    settings = AgentSettings(model=model, model_seconds=seconds)
    async with world.supervised(web, envelope=envelope), anyio.create_task_group() as group:
        group.start_soon(run_responder, world.store, world.declared(web, envelope=envelope), world.home, settings)
        first = (await world.wait_for("web", ServiceStarted.TYPE)).load(ServiceStarted)
        os.kill(first.pid, signal.SIGKILL)
        event = await world.wait_for("web", ServiceExited.TYPE)
        failure = Failure(
            subject="web", target="web", severity=Severity.DOWN, root="process:web", kind="process", observed="killed",
            detected_us=event.ts,
        )  # fmt: skip
        item, _ = await Tickets(world.store).report(failure, fallback(failure, "test"))
        with anyio.fail_after(30):
            while (item := await Tickets(world.store).items.get(item.id)).status not in (Status.VERIFYING, Status.BLOCKED):
                await anyio.sleep(0.01)
        group.cancel_scope.cancel()
    return item


async def engaged(world: Any, ticket: str) -> list[str]:
    """Who worked on the ticket, in order."""
    events = await world.store.read(incident_stream(ticket))
    return [event.load(IncidentEngaged).by for event in events if event.type == IncidentEngaged.TYPE]


async def test_a_provider_repairs_the_service(
    world: Any, kind: str, fake_model_api: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same tools, the same envelope, another model; its key is on no event."""
    with fake_model_api.FakeAPI({"turns": REPAIR}) as api:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", api.url)
        monkeypatch.setenv("OPENAI_BASE_URL", f"{api.url}/v1")
        item = await incident(world, f"{kind}:m", 30)

    assert item.status is Status.VERIFYING
    assert await engaged(world, item.id) == [f"{kind}:m"]
    assert (await world.types("web")).count(ActionStarted.TYPE) == 1
    assert all(b"sk-test-0123456789" not in (event.data or b"") for event in await world.store.read_all(limit=10_000))


@pytest.mark.parametrize("turn", [{"error": 500}, {"hold": "never"}, {"error": 401}], ids=["500", "hangs", "refuses"])
async def test_a_provider_that_fails_leaves_the_repair_to_the_rules(
    world: Any, turn: dict[str, Any], fake_model_api: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answers 500, hangs, or refuses the key, in the middle of its work: the rules finish it, and act once."""
    pytest.importorskip("anthropic")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-test-0123456789")
    with fake_model_api.FakeAPI({"turns": REPAIR[:1], "default": turn}) as api:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", api.url)
        item = await incident(world, "anthropic:m", 1.5)
        api.release("never")

    assert item.status is Status.VERIFYING
    assert await engaged(world, item.id) == ["anthropic:m", "rules"]
    assert (await world.types("web")).count(ActionStarted.TYPE) == 1


async def test_a_provider_that_hangs_for_ever_leaves_time_to_heal() -> None:
    """By default: the analyst's bound, every attempt of the agent's first call, and the window, within a minute."""
    agent, monitor = AgentSettings(), MonitorSettings()
    longest = sum(agent.model_seconds + MODEL_POLICY.retry_max_seconds for _ in range(MODEL_POLICY.model_attempts))

    assert monitor.analyst_seconds + longest + monitor.stabilisation_seconds < 50
