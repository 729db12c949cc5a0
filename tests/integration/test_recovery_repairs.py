"""The responder with the real supervisor and real processes: what is broken runs again, and what was edited is put back."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio

from harness.kernel import ScriptedModelPort, ToolCall
from harness.ledger import Event, Write
from harness.recovery import Declarations, Service
from harness.recovery.analyst import fallback
from harness.recovery.attempts import AgentSettings
from harness.recovery.checks import Sample
from harness.recovery.declarations import Envelope, Invariant
from harness.recovery.evidence import Evidence
from harness.recovery.facts import (
    ActionKind,
    ActionRefused,
    ActionRequested,
    ActionStarted,
    CheckResult,
    ServiceExited,
    ServiceStarted,
    draft,
    service_stream,
)
from harness.recovery.failures import Failure, Severity
from harness.recovery.responder import run_responder
from harness.recovery.samples import SampleRing, samples_path
from harness.recovery.tickets import Tickets
from harness.recovery.tools import RecoveryTools
from harness.work import Item, Status

QUICK = AgentSettings(lease_seconds=3.0)


async def ticket_for(world: Any, name: str) -> Item:
    """A ticket for a service that has ended."""
    event = await world.wait_for(name, ServiceExited.TYPE)
    failure = Failure(
        subject=name,
        target=name,
        severity=Severity.DOWN,
        root=f"process:{name}",
        kind="process",
        observed="ended",
        detected_us=event.ts,
    )
    item, _ = await Tickets(world.store).report(failure, fallback(failure, "test"))
    return item


@asynccontextmanager
async def agent(world: Any, declarations: Declarations, port: Any = None) -> AsyncGenerator[None]:
    """An agent, for as long as this lasts."""
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: run_responder(world.store, declarations, world.home, QUICK, port=port))
        yield
        group.cancel_scope.cancel()


async def reaches(world: Any, ticket: str, status: Status) -> Item:
    """The ticket once it is in this state."""
    with anyio.fail_after(20):
        while (item := await Tickets(world.store).items.get(ticket)).status is not status:
            await anyio.sleep(0.01)
    return item


async def test_a_killed_process_is_replaced(world: Any) -> None:
    """kill -9, ticket, restart: a new process, asked for once."""
    web, envelope = world.service("web"), world.automatic("web")
    async with world.supervised(web, envelope=envelope), agent(world, world.declared(web, envelope=envelope)):
        first = (await world.wait_for("web", ServiceStarted.TYPE)).load(ServiceStarted)
        os.kill(first.pid, signal.SIGKILL)
        ticket = await ticket_for(world, "web")

        await reaches(world, ticket.id, Status.VERIFYING)

        second = (await world.wait_for("web", ServiceStarted.TYPE, nth=2)).load(ServiceStarted)
        assert world.alive(second.pid)
    assert (await world.types("web")).count(ActionStarted.TYPE) == 1


async def test_a_bad_configuration_is_put_back_byte_for_byte(world: Any) -> None:
    """Somebody sets a value that the service does not survive; the rules find the change, and revert it."""
    config = world.root / "web.toml"
    config.write_text('# kept as it is\nmode   =   "good" # so\n')
    script = f"grep -q good {config} && exec sleep 1000; echo configuration is invalid; exit 2"
    web = Service(name="web", command=("sh", "-c", script), config="web.toml", stop_timeout_seconds=1.0)
    envelope: Envelope = world.automatic("web")
    async with world.supervised(web, envelope=envelope), agent(world, world.declared(web, envelope=envelope)):
        before = config.read_bytes()
        await world.act("set_config", "web", arguments={"key": "mode", "value": "bad"})
        ticket = await ticket_for(world, "web")

        await reaches(world, ticket.id, Status.VERIFYING)

        assert config.read_bytes() == before
    kinds = [e.load(ActionStarted).kind for e in await world.events("web") if e.type == ActionStarted.TYPE]
    assert kinds == [ActionKind.SET_CONFIG, ActionKind.REVERT_CONFIG]


async def test_an_agent_that_takes_over_asks_again_for_what_its_claim_was_too_old(world: Any) -> None:
    """A request of before a crash that the supervisor refused, since the claim was lost, is made again, and done once."""
    web, envelope = world.service("web"), world.automatic("web")
    declarations = world.declared(web, envelope=envelope)
    await world.store.append(
        Write(service_stream("web"), (draft(ServiceExited(epoch=1, pid=1, code=None, signal=9, ran_seconds=1.0)),))
    )
    ticket = await ticket_for(world, "web")
    async with agent(world, declarations):
        request = (await world.wait_for("web", ActionRequested.TYPE)).load(ActionRequested)
    async with agent(world, declarations):
        while (await Tickets(world.store).items.get(ticket.id)).fence < 2:
            await anyio.sleep(0.01)
        async with world.supervised(web, envelope=envelope):
            await reaches(world, ticket.id, Status.VERIFYING)

    refused = [e.load(ActionRefused).action_id for e in await world.events("web") if e.type == ActionRefused.TYPE]
    assert refused == [request.action_id]
    begun = [e.load(ActionStarted).action_id for e in await world.events("web") if e.type == ActionStarted.TYPE]
    assert begun == [f"{request.action_id}.2"]


async def test_an_action_that_was_asked_for_before_a_crash_is_awaited(world: Any) -> None:
    """The next agent finds the request of the one before it, and asks for nothing."""
    web, envelope = world.service("web"), world.automatic("web")
    declarations = world.declared(web, envelope=envelope)
    async with world.supervised(web, envelope=envelope):
        first = (await world.wait_for("web", ServiceStarted.TYPE)).load(ServiceStarted)
        os.kill(first.pid, signal.SIGKILL)
        ticket = await ticket_for(world, "web")
        async with agent(world, declarations):
            await world.wait_for("web", ActionRequested.TYPE)
        async with agent(world, declarations):
            await reaches(world, ticket.id, Status.VERIFYING)

    assert (await world.types("web")).count(ActionRequested.TYPE) == 1


def call(name: str, **arguments: Any) -> ToolCall:
    """A tool call of a scripted model."""
    import json

    return ToolCall(id="", name=name, arguments_json=json.dumps(arguments))


async def test_the_reading_tools_show_what_is_there(world: Any) -> None:
    """Fresh checks, metrics in numbers, files of the project, a note that is written once."""
    web, envelope = world.service("web"), world.automatic("web")
    checks = (Invariant(name="web_healthy", query="http://127.0.0.1:1/", target="web"),)
    declarations = Declarations(services=(web,), invariants=checks, envelope=envelope, root=str(world.root))
    (world.root / "app.py").write_text("PORT = 1\n")
    ring = SampleRing(samples_path(world.home))
    item = await Tickets(world.store).items.create(title="look", source_type="human", labels={"target": "web"})

    def look(_: Any) -> ToolCall:
        now = world.store.clock.now_us() + 1_000_000
        ring.add(
            Sample(
                check="web_healthy",
                target="web",
                result=CheckResult.FAIL,
                detail="refused",
                started_us=now,
                ended_us=now,
                took_ms=7.0,
            )
        )
        return call("check_now")

    port = ScriptedModelPort(
        [
            look,
            call("query_metrics"),
            call("read_file", path="app.py"),
            call("list_files"),
            call("search_code", text="port"),
            call("read_file", path="../secret"),
            call("add_ticket_note", text="looked around"),
            call("update_ticket_status", status="escalated", reason="only looked"),
            "done",
        ]
    )
    async with agent(world, declarations, port):
        await reaches(world, item.id, Status.BLOCKED)
    ring.close()

    seen = [message.text for message in port.requests[-1].messages if message.role == "tool"]
    assert '"fresh":true' in seen[0]
    assert '"max":7.0' in seen[1]
    assert "| PORT = 1" in seen[2]
    assert "app.py" in seen[3]
    assert "app.py:1: PORT = 1" in seen[4]
    assert seen[5].startswith("error: ")
    assert "out of the project" in seen[5]
    notes: list[Event] = [e for e in await Tickets(world.store).items.history(item.id) if e.type == "item.noted"]
    assert [note.payload["text"] for note in notes] == ["looked around"]


async def test_an_injected_fault_is_not_told(world: Any) -> None:
    """An agent has to find out what is wrong by what it does."""
    web, envelope = world.service("web"), world.automatic("web")
    async with world.supervised(web, envelope=envelope):
        await world.chaos("hang", "web")
        evidence = Evidence(world.store, world.declared(web, envelope=envelope), world.home)
        seen = await evidence.service("web")
        async with asyncio.timeout(10):  # the fault is recorded first, so that it is healed whatever happens; then it is done
            while seen["process"]["state"] != "stopped by a signal":
                await asyncio.sleep(0.01)
                seen = await evidence.service("web")

    assert seen["process"]["state"] == "stopped by a signal"
    assert "chaos" not in str(seen)
    assert "hang" not in str(seen)


async def test_an_agent_has_these_tools_and_no_shell(world: Any) -> None:
    """What is not in this list, an agent cannot do."""
    tools = RecoveryTools(world.store, world.declared(), world.home, root=world.root)

    reading = {"service_status", "query_logs", "query_metrics", "check_now", "read_file", "list_files", "search_code"}
    writing = {"add_ticket_note", "update_ticket_status", "propose_action"}
    assert {tool.name for tool in tools.registry} == reading | writing
