"""The pure parts around the supervisor: what is left over, in which order to end, how to go on with an action."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.ledger import MemoryStore, Write
from harness.processes import Found, Identity
from harness.recovery import Service, facts, own_services
from harness.recovery.actions import how_to_resume, pending_in
from harness.recovery.facts import ActionKind, ActionRequested, Outcome
from harness.recovery.supervisor.adoption import sort_out
from harness.recovery.supervisor.launch import home_tag, parse_tag, shown_command, tag_of
from harness.recovery.supervisor.order import stop_stages

HOME = Path("/somewhere/.harness")
STREAM = facts.service_stream("it")


def found(tag: str, pid: int, *, leader: bool = True) -> Found:
    return Found(identity=Identity(pid=pid, started=pid), tag=tag, parent=1, leader=leader)


def test_a_tag_names_home_service_and_epoch() -> None:
    """What one home has started is never taken for another's."""
    tag = tag_of(HOME, "a:b.c", 7)

    assert tag.startswith(home_tag(HOME))
    assert parse_tag(HOME, tag) == ("a:b.c", 7)
    assert parse_tag(Path("/elsewhere/.harness"), tag) is None
    assert parse_tag(HOME, f"{tag}:ready") is None


def test_the_newest_leader_of_a_wanted_service_is_adopted_and_all_else_ended() -> None:
    """Older epochs, children without their leader, probes and services nobody declares are ended."""
    left = sort_out(
        HOME,
        [
            found(tag_of(HOME, "a", 2), 10),
            found(tag_of(HOME, "a", 2), 11, leader=False),
            found(tag_of(HOME, "a", 1), 12),
            found(tag_of(HOME, "b", 3), 13, leader=False),
            found(tag_of(HOME, "gone", 1), 14),
            found(tag_of(HOME, "a", 2) + ":ready", 15),
        ],
        ["a", "b"],
    )

    assert [(one.name, one.epoch, one.identity.pid) for one in left.adopt] == [("a", 2, 10)]
    assert left.end == tuple(
        sorted([tag_of(HOME, "a", 1), tag_of(HOME, "b", 3), tag_of(HOME, "gone", 1), tag_of(HOME, "a", 2) + ":ready"])
    )


def test_those_who_would_cry_wolf_end_first_and_foundations_last() -> None:
    """Agent and monitor, then dependents before what they depend on, then the door."""
    services = [
        Service(name="db", command=("x",)),
        Service(name="api", command=("x",), depends_on=("db",)),
        Service(name="page", command=("x",), depends_on=("api",)),
        Service(name="other", command=("x",)),
        *own_services(HOME),
    ]

    assert [sorted(stage) for stage in stop_stages(services)] == [
        ["harness-agent", "harness-monitor"], ["other", "page"], ["api"], ["db"], ["harness-web"],
    ]  # fmt: skip


def request(action_id: str, kind: ActionKind = ActionKind.RESTART_SERVICE, target: str = "it") -> ActionRequested:
    return ActionRequested(action_id=action_id, kind=kind, target=target, requested_by="test")


def starting(action_id: str, epoch: int = 5) -> facts.Fact:
    return facts.ServiceStarting(epoch=epoch, tag="t", reason="", action_id=action_id)


STOPPED = facts.ServiceStopped(epoch=4, pid=1, needed="term", ended=1, action_id="a")
STARTED = facts.ServiceStarted(epoch=5, pid=2, started=1, tag="t", action_id="a")


@pytest.mark.parametrize(
    ("since", "runs", "how"),
    [
        ([], True, "restart"),  # nothing was done: the old process runs
        ([], False, "start"),  # it was being ended, and is gone
        ([STOPPED], False, "start"),
        ([STOPPED, starting("a")], False, "start"),  # decided, never spawned
        ([STOPPED, starting("a")], True, "start"),  # spawned, never said so: wait for it
        ([STOPPED, starting("a"), STARTED], True, "start"),
        ([STOPPED, starting("a"), STARTED], False, "ended"),  # not a third process for one action
        ([starting("another", 6)], True, "restart"),
    ],
)  # fmt: skip
async def test_a_restart_goes_on_from_what_has_happened(since: list[facts.Fact], runs: bool, how: str) -> None:
    """What is on the ledger since the action began, and whether a process runs, decide."""
    store = MemoryStore()
    if since:
        await store.append(Write(STREAM, tuple(facts.draft(fact) for fact in since)))

    assert how_to_resume("a", await store.read(STREAM), runs=runs) == how


async def test_requests_without_an_end_are_found_again() -> None:
    """Completed and refused ones are over; one that was begun says so; one in a foreign stream is none."""
    store = MemoryStore()
    done: dict[str, Any] = {"kind": ActionKind.RESTART_SERVICE, "target": "it"}
    written = [
        request("over"), request("refused"), request("begun"), request("fresh"),
        facts.ActionStarted(action_id="begun", epoch=1, **done),
        facts.ActionCompleted(action_id="over", epoch=1, outcome=Outcome.SUCCEEDED, detail="", **done),
        facts.ActionRefused(action_id="refused", reason="", **done), request("foreign", target="another"),
    ]  # fmt: skip
    await store.append(Write(STREAM, tuple(facts.draft(fact) for fact in written)))

    left = await pending_in(store)

    assert [(one.request.action_id, one.started is not None) for one in left] == [("begun", True), ("fresh", False)]


def test_a_command_is_shown_without_its_secrets() -> None:
    """Neither ledger nor page has a password that stands in an argv."""
    declared = Service(name="it", command=("run", "--password", "hunter22", "--url=http://me:hunter22@x/", "--port", "80"))

    shown = shown_command(declared)

    assert "hunter22" not in " ".join(shown)
    assert (shown[0], shown[-2:]) == ("run", ("--port", "80"))


def test_own_processes_see_the_keys_they_need_and_no_more() -> None:
    """The web door gets its token, the others the providers' keys; all are restarted always."""
    services = {service.name: service for service in own_services(HOME, web_port=9, model="rules", demo=True)}

    assert {service.restart for service in services.values()} == {"always"}
    assert services["harness-web"].secrets == ("HARNESS_WEB_TOKEN",)
    assert "ANTHROPIC_API_KEY" in services["harness-agent"].secrets
    assert services["harness-agent"].command[-2:] == ("--model", "rules")
    assert services["harness-web"].command[-1] == "--demo"
