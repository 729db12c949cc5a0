"""Actions and faults that are asked of the supervisor: judged again, carried out once, healed after a while."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from harness.clock import VirtualClock
from harness.ledger import Acquire, Draft, Unique, Write
from harness.recovery import Service, facts
from harness.recovery.declarations import Envelope, TargetEnvelope
from harness.recovery.facts import ActionKind, Level, Origin
from harness.recovery.pause import pause
from harness.recovery.supervisor.machine import Phase

if TYPE_CHECKING:
    from conftest import World

AGENT = {"origin": Origin.AGENT, "ticket": "t1", "fingerprint": "f1"}


async def test_an_action_is_done_once_however_often_it_is_asked_for(world: World) -> None:
    """Three requests of one id, at once: one begins, one ends, one process more."""
    async with world.supervised(world.service("it"), envelope=world.automatic("it")):
        for _ in range(3):
            await world.request("restart_service", "it", **AGENT)
        await world.ended("it")
        await world.act("restart_service", "it", "another")

    types = await world.types("it")
    assert types.count("action.started") == 2
    assert types.count("action.completed") == 2
    assert types.count("service.started") == 3


async def test_what_the_envelope_does_not_allow_now_is_refused(world: World) -> None:
    """Only suggested, paused, out of limits: decided again when it is to be executed, with the decision on the ledger."""
    levels = {ActionKind.RESTART_SERVICE: Level.AUTO}
    envelope = Envelope(targets={"it": TargetEnvelope(levels=levels)})
    async with world.supervised(world.service("it"), envelope=envelope):
        suggested = await world.act("stop_service", "it", "a1", **AGENT)
        allowed = [await world.act("restart_service", "it", f"b{number}", **AGENT) for number in range(3)]
        exhausted = await world.act("restart_service", "it", "a2", **AGENT)
        await pause(world.store, by="test")
        paused = await world.act("restart_service", "it", "a3", origin=Origin.AGENT, ticket="t2")

    assert {type(done) for done in allowed} == {facts.ActionCompleted}
    assert (suggested.decision.verdict, suggested.decision.level) == ("suggest", "suggest")
    assert exhausted.decision.limit == "actions_per_incident"
    assert paused.decision.limit == "paused"
    assert (await world.types("it")).count("action.started") == 3


async def test_who_lost_the_ticket_cannot_act_any_more(world: World) -> None:
    """The request carries its claim's token; a newer claim makes it void."""
    for token in (1, 2):
        await world.store.append(
            Write("item/t1", (Draft(type="item.claimed"),)), guards=(Acquire("item/t1", f"agent{token}", token, 0.0),)
        )
    async with world.supervised(world.service("it"), envelope=world.automatic("it")):
        old = await world.act("restart_service", "it", "old", lease="item/t1", token=1, **AGENT)
        new = await world.act("restart_service", "it", "new", lease="item/t1", token=2, **AGENT)

    assert isinstance(old, facts.ActionRefused)
    assert "lost the ticket" in old.reason
    assert new.outcome == "succeeded"


async def test_requests_that_cannot_be_meant_are_refused(world: World) -> None:
    """Unknown services, missing arguments, no configuration, restart = never."""
    async with world.supervised(world.service("it", restart="never"), envelope=world.automatic("it")):
        found = [
            await world.act("restart_service", "nobody", "a1"),
            await world.act("set_config", "it", "a2", arguments={"key": "a", "value": 1}),
            await world.act("restart_service", "it", "a3", **AGENT),
            await world.act("restart_service", "it", "a4", deadline_us=world.store.clock.now_us() - 1),
        ]
        person = await world.act("restart_service", "it", "a5")

    assert [type(one) for one in found] == [facts.ActionRefused] * 4
    for refused, words in zip(
        found, ("no service 'nobody'", "declares no `config`", "restart = never", "too late"), strict=True
    ):
        assert words in refused.reason
    assert person.outcome == "succeeded"


async def test_a_request_that_nobody_took_up_in_time_is_not_done_later(timed: tuple[World, VirtualClock]) -> None:
    """A supervisor that starts an hour later does not restart what somebody wanted restarted then."""
    world, clock = timed
    await world.request("restart_service", "it")
    clock.advance(3600)
    async with world.supervised(world.service("it")):
        refused = await world.ended("it")

    assert isinstance(refused, facts.ActionRefused)
    assert "too late" in refused.reason


async def test_a_payload_of_another_shape_harms_nobody(world: World) -> None:
    """Whoever writes garbage as a request is not heard; the next request is."""
    garbage = Draft(type="action.requested", payload={"kind": 7})
    await world.store.append(Write(facts.service_stream("it"), (garbage,)))
    async with world.supervised(world.service("it")):
        await world.store.append(Write(facts.service_stream("it"), (garbage, Draft(type="chaos.requested", payload={}))))
        done = await world.act("restart_service", "it")

    assert done.outcome == "succeeded"


def configured(world: World, **values: object) -> Service:
    script = "cat it.toml; exec sleep 1000"
    return world.service("it", "sh", "-c", script, config="it.toml", ready="log:capacity", **values)


async def test_a_configuration_is_set_and_put_back_byte_for_byte(world: World) -> None:
    """Each change is an event with its diff and versions, and the service runs with it."""
    original = b"# mine\ncapacity = 1  # small\n"
    path = world.root / "it.toml"
    path.write_bytes(original)
    async with world.supervised(configured(world), envelope=world.automatic("it")):
        done = await world.act("set_config", "it", "a1", arguments={"key": "capacity", "value": 7}, **AGENT)
        changed = path.read_bytes()
        back = await world.act("revert_config", "it", "a2", **AGENT)

    events = [fact for event in await world.events("it") if isinstance(fact := facts.fact_of(event), facts.ConfigChanged)]
    assert (done.outcome, back.outcome) == ("succeeded", "succeeded")
    assert (changed, path.read_bytes()) == (b"# mine\ncapacity = 7  # small\n", original)
    assert [(fact.action_id, bool(fact.reverts)) for fact in events] == [("a1", False), ("a2", True)]
    assert (events[0].before, events[0].after) == (events[1].after, events[1].before)
    assert "+capacity = 7  # small" in events[0].diff
    assert b"".join(data for _, data in world.said) == original + changed + original


async def test_without_a_restart_the_service_keeps_its_process(world: World) -> None:
    """reload = none leaves the process alone; reload = hup tells it by a signal."""
    script = "trap 'echo reread' HUP; echo up; while :; do sleep 0.05; done"
    calm = world.service("calm", "sh", "-c", "sleep 1000", config="c.toml", reload="none")
    told = world.service("told", "sh", "-c", script, config="t.toml", reload="hup", ready="log:up")
    async with world.supervised(calm, told) as supervisor:
        before = [unit.pid for unit in supervisor.units]
        await world.act("set_config", "calm", "a1", arguments={"key": "a", "value": 1})
        await world.act("set_config", "told", "a2", arguments={"key": "a", "value": 1})
        after = [unit.pid for unit in supervisor.units]
        await world.until(lambda: ("told", b"reread\n") in world.said)

    assert before == after
    assert (world.root / "c.toml").read_text() == "a = 1\n"


async def test_a_change_that_cannot_be_made_fails_and_changes_nothing(world: World) -> None:
    """A list is not a single value: the action ends as failed, the file is as it was."""
    (world.root / "it.toml").write_text("capacity = [1]\n")
    async with world.supervised(configured(world)):
        done = await world.act("set_config", "it", arguments={"key": "capacity", "value": 7})
        nothing = await world.act("revert_config", "it", "a2")

    assert (done.outcome, "table or a list" in done.detail) == ("failed", True)
    assert (nothing.outcome, "never changed by Harness" in nothing.detail) == ("failed", True)
    assert (world.root / "it.toml").read_text() == "capacity = [1]\n"


async def test_kill_is_a_real_kill_and_heals_itself_when_nobody_acts(timed: tuple[World, VirtualClock]) -> None:
    """SIGKILL to the process; after its time the supervisor starts the service again."""
    world, clock = timed
    async with world.supervised(world.service("it")) as supervisor:
        injected = facts.fact_of(await world.chaos("kill", "it", heal_after_seconds=60))
        exited = (await world.wait_for("it", "service.exited")).load(facts.ServiceExited)
        await supervisor.unit("it").until(lambda unit: unit.state.phase is Phase.EXITED)
        clock.advance(61)
        healed = (await world.wait_for("it", "chaos.healed")).load(facts.ChaosHealed)
        await supervisor.unit("it").until(lambda unit: unit.state.phase is Phase.READY)

    assert (exited.pid, exited.signal) == (injected.pid, signal.SIGKILL)
    assert healed.chaos_id == "c1"


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


async def test_a_hang_is_healed_after_its_time(timed: tuple[World, VirtualClock]) -> None:
    """SIGSTOP, and SIGCONT later; a second fault is refused meanwhile."""
    world, clock = timed
    async with world.supervised(world.service("it")) as supervisor:
        pid = supervisor.unit("it").pid
        await world.chaos("hang", "it", heal_after_seconds=60)
        await world.until(lambda: state_of(pid) == "T")
        second = facts.fact_of(await world.chaos("kill", "it", "c2"))
        clock.advance(61)
        await world.wait_for("it", "chaos.healed")
        await world.until(lambda: state_of(pid) == "S")

    assert isinstance(second, facts.ChaosRefused)


async def test_a_hanging_service_is_restarted_and_so_healed(world: World) -> None:
    """A restart ends a stopped process and the fault with it."""
    async with world.supervised(world.service("it")):
        await world.chaos("hang", "it")
        done = await world.act("restart_service", "it")
        healed = (await world.wait_for("it", "chaos.healed")).load(facts.ChaosHealed)

    assert (done.outcome, healed.reason) == ("succeeded", "the process was replaced")


@pytest.mark.parametrize("kind", ["slow", "503"])
async def test_a_service_that_obeys_shows_the_fault_until_it_is_replaced(world: World, kind: str) -> None:
    """The limiter is slow, or answers 503, and is well again as a new process."""
    import httpx

    port = world.free_port()
    url = f"http://127.0.0.1:{port}/health"
    code = f"from harness.recovery import limiter; limiter.main(port={port})"
    async with (
        world.supervised(world.service("it", sys.executable, "-c", code, ready=url, faults=True)),
        httpx.AsyncClient() as client,
    ):
        await world.chaos(kind, "it")
        ill = await client.get(url)
        await world.act("restart_service", "it")
        well = await client.get(url)

    assert (ill.status_code, ill.elapsed.total_seconds() > 0.5) == ((200, True) if kind == "slow" else (503, False))
    assert (well.status_code, well.elapsed.total_seconds() < 0.5) == (200, True)


async def test_a_fault_that_cannot_be_shown_is_refused(world: World) -> None:
    """slow needs a service that says it can; nothing is done to one that does not run."""
    async with world.supervised(world.service("it"), world.service("down", "/no/such")):
        slow = facts.fact_of(await world.chaos("slow", "it"))
        down = facts.fact_of(await world.chaos("kill", "down", "c2"))

    assert "faults = true" in slow.reason
    assert "does not run" in down.reason


async def test_the_unique_keys_are_those_that_facts_name(world: World) -> None:
    """Whoever holds the started key has begun the action: the supervisor refuses to begin it again."""
    begun = Draft(type="note.made")
    await world.store.append(Write("note/x", (begun,)), guards=(Unique(facts.action_started_key("a1")),))
    async with world.supervised(world.service("it")):
        refused = await world.act("restart_service", "it")

    assert isinstance(refused, facts.ActionRefused)
    assert "begun before" in refused.reason
