"""kill -9 of the supervisor at any time: the next one adopts or ends what is left, and no action is done twice."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from harness.errors import ProcessError
from harness.ledger import Event
from harness.processes import find
from harness.recovery import Service, Supervisor, facts, parse_declarations
from harness.recovery.supervisor.launch import home_tag
from harness.recovery.supervisor.machine import Phase
from harness.settings import parse_document

if TYPE_CHECKING:
    from conftest import World

DRIVER = """
import asyncio, signal, sys
from pathlib import Path
from harness.ledger import SQLiteStore
from harness.recovery import Supervisor, load_declarations
from harness.settings import load_settings

async def main():
    settings = load_settings(directory=Path(sys.argv[1]), environment={})
    async with SQLiteStore(settings.database, actor="supervisor", durability="process") as store:
        supervisor = Supervisor(store, load_declarations(settings), settings.home)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, supervisor.stop)
        await supervisor.run()

asyncio.run(main())
"""

TICKER = """
[services.it]
command = ["sh", "-c", "trap '' HUP; i=0; while :; do echo $i; i=$((i+1)); sleep 0.02; done"]
ready = "log:^0$"
stop_timeout_seconds = 1
[envelope.it]
restart_service = "auto"
[envelope]
actions_per_incident = 1000
actions_per_target_hour = 1000
breaker_failures = 1000
"""


def declare(world: World, text: str) -> tuple[Service, ...]:
    (world.root / "harness.toml").write_text(text)
    return parse_declarations(parse_document(text, world.root / "harness.toml"), world.root).services


@asynccontextmanager
async def another(world: World) -> AsyncIterator[asyncio.subprocess.Process]:
    """A supervisor in a process of its own, to be killed."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", DRIVER, str(world.root))
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def killed(world: World, process: asyncio.subprocess.Process) -> None:
    process.kill()
    await process.wait()


def numbers(world: World) -> list[int]:
    text = (world.home / "services" / "it" / "output.log").read_text()
    return [int(line) for line in text.splitlines()]


async def test_a_running_service_is_adopted_and_not_a_line_of_it_is_lost(world: World) -> None:
    """Same process, same epoch, ready again, its output goes on without a gap; then it ends with its new owner."""
    services = declare(world, TICKER)
    async with another(world) as first:
        started = (await world.wait_for("it", "service.started")).load(facts.ServiceStarted)
        await world.wait_for("it", "service.ready")
        await killed(world, first)
    alone = world.alive(started.pid)
    async with world.supervised(*services) as supervisor:
        adopted = (await world.wait_for("it", "service.adopted")).load(facts.ServiceAdopted)
        unit = supervisor.unit("it")
        ready = (unit.pid, unit.state.epoch, unit.state.phase)
        count = len(numbers(world))
        await world.until(lambda: len(numbers(world)) > count + 3)
        os.kill(started.pid, signal.SIGKILL)
        exited = (await world.wait_for("it", "service.exited")).load(facts.ServiceExited)

    found = numbers(world)
    assert alone
    assert (adopted.pid, adopted.started) == (started.pid, started.started)
    assert ready == (started.pid, started.epoch, Phase.READY)
    assert found == list(range(len(found)))
    assert (exited.pid, exited.epoch) == (started.pid, started.epoch)
    assert (await world.types("it")).count("service.started") == 1


async def test_what_died_meanwhile_is_evidence_and_is_started_again(world: World) -> None:
    """Nobody saw it exit: that is recorded as an exit of unknown cause, then it is started as declared."""
    services = declare(world, TICKER)
    async with another(world) as first:
        await world.wait_for("it", "service.ready")
        await killed(world, first)
    for pid in world.left():
        with contextlib.suppress(ProcessLookupError):  # it may end by itself just now
            os.kill(pid, signal.SIGKILL)
    async with world.supervised(*services):
        exited = (await world.wait_for("it", "service.exited")).load(facts.ServiceExited)

    assert (exited.code, exited.signal) == (None, None)
    assert (await world.types("it")).count("service.started") == 2


async def test_what_is_declared_otherwise_now_is_ended_and_started_anew(world: World) -> None:
    """Another command is another service; a service that is not declared any more is ended."""
    declare(world, TICKER + TICKER.split("[envelope.it]")[0].replace("services.it", "services.gone"))
    async with another(world) as first:
        for name in ("it", "gone"):
            await world.wait_for(name, "service.ready")
        await killed(world, first)
    before = set(world.left())
    async with world.supervised(world.service("it")):
        after = set(world.left())

    assert before
    assert before.isdisjoint(after)
    assert "service.adopted" not in await world.types("it")
    assert (await world.wait_for("gone", "service.declared", nth=2)).load(facts.ServiceDeclared).removed


async def test_a_living_supervisor_in_another_process_is_named(world: World) -> None:
    """The second one is refused with the first one's pid, and the first one is not disturbed."""
    declare(world, TICKER)
    async with another(world) as first:
        await world.wait_for("it", "service.ready")
        with pytest.raises(ProcessError, match=f"process {first.pid} supervises this home already"):
            await Supervisor(world.store, world.declared(), world.home).run()
        first.terminate()
        assert await asyncio.wait_for(first.wait(), 20) == 0

    assert (await world.types("it"))[-1] == "service.stopped"


async def test_what_was_stopped_by_an_action_stays_stopped(world: World) -> None:
    """A crash of the supervisor is no reason to start what somebody has stopped; a start in good order is."""
    services = declare(world, TICKER)
    async with another(world) as first:
        await world.wait_for("it", "service.ready")
        await world.act("stop_service", "it")
        await killed(world, first)
    async with world.supervised(*services) as supervisor:
        after_crash = supervisor.unit("it").state.phase
    async with world.supervised(*services) as supervisor:
        after_stop = supervisor.unit("it").state.phase

    assert (after_crash, after_stop) == (Phase.DOWN, Phase.READY)


@pytest.mark.parametrize("at", ["action.started", "service.stopping", "service.stopped", "service.starting", "service.started"])
async def test_an_action_that_was_in_progress_is_brought_to_its_one_end(world: World, at: str) -> None:
    """Killed right after this event: the next supervisor looks at what has happened and finishes it, once."""
    services = declare(world, TICKER)
    async with another(world) as first:
        await world.wait_for("it", "service.ready")
        await world.request("restart_service", "it", origin=facts.Origin.AGENT, ticket="t1")
        await world.wait_for("it", at, nth=2 if at in ("service.starting", "service.started") else 1)
        await killed(world, first)
    async with world.supervised(*services, envelope=world.automatic("it")) as supervisor:
        done = await world.ended("it")
        pid = supervisor.unit("it").pid

    assert (done.outcome, world.alive(pid)) == ("succeeded", False)
    check(await world.events("it"), ["a1"])


def check(events: list[Event], actions: list[str]) -> None:
    """Each action began at most once, ended exactly once, and made at most one process."""
    found = [fact for event in events if (fact := facts.fact_of(event)) is not None]
    for action_id in actions:
        begun = [fact for fact in found if isinstance(fact, facts.ActionStarted) and fact.action_id == action_id]
        kinds = (facts.ActionCompleted, facts.ActionRefused)
        ends = [fact for fact in found if isinstance(fact, kinds) and fact.action_id == action_id]
        made = [fact for fact in found if isinstance(fact, facts.ServiceStarted) and fact.action_id == action_id]
        assert len(begun) <= 1, action_id
        assert len(ends) == 1, (action_id, ends)
        assert len(made) <= 1, action_id
    epochs = [fact.epoch for fact in found if isinstance(fact, facts.ServiceStarted)]
    assert epochs == sorted(set(epochs)), "an epoch was used for two processes"


async def config_is_whole(world: World) -> bool:
    return (world.root / "it.toml").read_text() in ("capacity = 1\n", "capacity = 7\n")


@pytest.mark.parametrize("at", ["action.started", "config.changed"])
async def test_a_configuration_change_in_progress_is_brought_to_its_end(world: World, at: str) -> None:
    """The file has the old or the new content at any time, and in the end the new one, by one change."""
    (world.root / "it.toml").write_text("capacity = 1\n")
    services = declare(world, TICKER.replace("stop_timeout", 'config = "it.toml"\nstop_timeout'))
    async with another(world) as first:
        await world.wait_for("it", "service.ready")
        await world.request("set_config", "it", arguments={"key": "capacity", "value": 7})
        await world.wait_for("it", at)
        await killed(world, first)
    assert await config_is_whole(world)
    async with world.supervised(*services):
        done = await world.ended("it")

    assert done.outcome == "succeeded"
    assert (world.root / "it.toml").read_text() == "capacity = 7\n"
    assert (await world.types("it")).count("config.changed") == 1


async def test_killed_at_random_times_it_loses_and_repeats_nothing(world: World) -> None:
    """Requests come, services die, the supervisor is killed again and again: each action has one end, and all is verified."""
    services = declare(world, TICKER)
    chance = random.Random(7)
    actions: list[str] = []
    for round_ in range(6):
        async with another(world) as process:
            async with asyncio.timeout(20):
                await world.store.follow(streams=("control/supervisor",), types=("supervisor.started",)).__anext__()
            for number in range(2):
                actions.append(f"a{round_}.{number}")
                await world.request("restart_service", "it", actions[-1], origin=facts.Origin.AGENT, ticket=actions[-1])
            await asyncio.sleep(chance.uniform(0.0, 0.6))
            await killed(world, process)
            if chance.random() < 0.4:
                for pid in world.left():
                    with contextlib.suppress(ProcessLookupError):  # it may end by itself just now
                        os.kill(pid, signal.SIGKILL)
    async with world.supervised(*services, envelope=world.automatic("it")) as supervisor:
        for action_id in actions:
            await world.ended("it", action_id)
        await supervisor.unit("it").until(lambda unit: unit.state.phase is Phase.READY)
        leaders = sum(one.leader for one in find(home_tag(world.home)))

    check(await world.events("it"), actions)
    assert leaders == 1
