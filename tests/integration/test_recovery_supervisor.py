"""The supervisor with real processes: starting, ending, exits, readiness, restart policies, ports, order, logs."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING

import pytest

from harness.clock import VirtualClock
from harness.errors import ProcessError
from harness.ledger import Acquire, Draft, Write
from harness.processes import LogReader
from harness.recovery import Declarations, Supervisor, facts, supervisor_pid
from harness.recovery.supervisor.machine import Phase

if TYPE_CHECKING:
    from conftest import World

STUBBORN = "trap '' TERM; (trap '' TERM; echo child; sleep 1000) & echo leader; wait; wait; sleep 1000"
LISTENER = (
    "import socket, time; s = socket.create_server(('127.0.0.1', {port})); print('listening', flush=True); time.sleep(1000)"
)


async def test_a_killed_service_is_noticed_at_once_and_left_to_an_action(world: World) -> None:
    """kill -9: service.exited says by which signal; nothing starts it again until an action does."""
    async with world.supervised(world.service("it")) as supervisor:
        first = supervisor.unit("it").pid
        os.kill(first, signal.SIGKILL)
        exited = (await world.wait_for("it", "service.exited")).load(facts.ServiceExited)
        await supervisor.unit("it").until(lambda unit: unit.settled)
        resting = supervisor.unit("it").state.phase
        done = await world.act("restart_service", "it")
        second = supervisor.unit("it").pid

    assert (exited.pid, exited.code, exited.signal) == (first, None, signal.SIGKILL)
    assert resting is Phase.EXITED
    assert (done.outcome, second != first, world.alive(second)) == ("succeeded", True, False)
    assert (await world.types("it"))[1:] == [
        "service.starting", "service.started", "service.ready", "service.exited",
        "action.requested", "action.started", "service.starting", "service.started", "service.ready", "action.completed",
        "service.stopping", "service.stopped",
    ]  # fmt: skip


async def test_each_decision_makes_a_new_epoch(world: World) -> None:
    """Start, restart (an end and a start) and stop: 1, 2, 3, 4."""
    async with world.supervised(world.service("it")):
        await world.act("restart_service", "it")
        await world.act("stop_service", "it", "a2")

    facts_ = [facts.fact_of(event) for event in await world.events("it")]
    decided = [fact.epoch for fact in facts_ if isinstance(fact, facts.ServiceStarting | facts.ServiceStopping)]
    assert decided == [1, 2, 3, 4]


async def test_stopped_is_said_only_when_the_whole_tree_is_gone(world: World) -> None:
    """Leader and child ignore TERM: both are killed before service.stopped is written."""
    async with world.supervised(world.service("it", "sh", "-c", STUBBORN, ready="log:child", stop_timeout_seconds=0.2)):
        before = world.left()
        done = await world.act("stop_service", "it")
        after = world.left()
        stopped = (await world.wait_for("it", "service.stopped")).load(facts.ServiceStopped)

    assert len(before) >= 2
    assert (after, done.outcome, stopped.needed) == ([], "succeeded", "kill")
    assert stopped.ended >= 2


async def test_what_a_dead_leader_leaves_is_ended_before_it_is_restarted(world: World) -> None:
    """A child that holds the port cannot block the next process."""
    async with world.supervised(
        world.service("it", "sh", "-c", STUBBORN, ready="log:child", stop_timeout_seconds=0.2)
    ) as supervisor:
        before = set(world.left())
        os.kill(supervisor.unit("it").pid, signal.SIGKILL)
        await world.wait_for("it", "service.exited")
        await world.act("restart_service", "it")
        after = set(world.left())

    assert before.isdisjoint(after)


async def test_a_second_stop_ends_everything_at_once(world: World) -> None:
    """Someone who asks twice does not wait for the grace period of a stubborn service."""
    loop = asyncio.get_running_loop()
    async with world.supervised(
        world.service("it", "sh", "-c", STUBBORN, ready="log:child", stop_timeout_seconds=60.0)
    ) as supervisor:
        supervisor.stop("first")
        await world.wait_for("it", "service.stopping")
        begun = loop.time()
        supervisor.stop("second")
        await world.wait_for("it", "service.stopped")

    assert loop.time() - begun < 10


async def test_cancelling_the_supervisor_leaves_nothing(world: World) -> None:
    """However `run` ends, its services end first, and its lease and lock are free."""
    supervisor = Supervisor(world.store, Declarations(services=(world.service("it"),), root=str(world.root)), world.home)
    running = asyncio.ensure_future(supervisor.run())
    await world.wait_for("it", "service.ready")
    holder = supervisor_pid(world.home)

    running.cancel()
    await asyncio.wait({running}, timeout=20)

    assert running.cancelled()
    assert (holder, supervisor_pid(world.home)) == (os.getpid(), None)
    assert world.left() == []
    assert (await world.store.lease(facts.SUPERVISOR_LEASE)).holder is None


async def test_a_second_supervisor_of_a_home_is_refused_by_pid(world: World) -> None:
    """One line that names who is there; the first one is not disturbed."""
    async with world.supervised(world.service("it")) as supervisor:
        with pytest.raises(ProcessError, match=f"process {os.getpid()} supervises this home already"):
            await Supervisor(world.store, Declarations(root=str(world.root)), world.home).run()
        assert supervisor.unit("it").state.phase is Phase.READY


async def test_always_is_restarted_with_back_off_and_given_up_in_the_end(timed: tuple[World, VirtualClock]) -> None:
    """A bad command is tried as often as declared, each time later, and then no more."""
    world, clock = timed
    bad = world.service("it", "sh", "-c", "echo no; exit 3", restart="always", give_up_after=3, ready="log:never")
    async with world.supervised(bad):
        for number in range(1, 4):
            await world.wait_for("it", "service.backing_off", nth=number)
            clock.advance(60)
        gave_up = (await world.wait_for("it", "service.gave_up")).load(facts.ServiceGaveUp)
        clock.advance(3600)
        await world.act("stop_service", "it")

    found = [facts.fact_of(event) for event in await world.events("it")]
    assert [fact.delay_seconds for fact in found if isinstance(fact, facts.ServiceBackingOff)] == [0.5, 1.0, 2.0]
    assert sum(isinstance(fact, facts.ServiceStarting) for fact in found) == 4
    assert {(fact.code, fact.last_output) for fact in found if isinstance(fact, facts.ServiceExited)} == {(3, "no")}
    assert gave_up.restarts == 3


@pytest.mark.parametrize(("restart", "code", "again"), [("on-failure", 0, False), ("on-failure", 1, True), ("never", 1, False)])
async def test_the_restart_policy_looks_at_the_exit(
    timed: tuple[World, VirtualClock], restart: str, code: int, again: bool
) -> None:
    """on-failure restarts after failures only, never never."""
    world, _ = timed
    async with world.supervised(world.service("it", "sh", "-c", f"exit {code}", restart=restart)) as supervisor:
        await world.wait_for("it", "service.exited")
        await supervisor.unit("it").until(lambda unit: unit.state.phase in (Phase.EXITED, Phase.BACKING_OFF))
        phase = supervisor.unit("it").state.phase

    assert (phase is Phase.BACKING_OFF) is again


async def test_a_stop_during_back_off_is_never_followed_by_a_start(timed: tuple[World, VirtualClock]) -> None:
    """The delay runs out after the stop, and nothing happens."""
    world, clock = timed
    bad = world.service("bad", "sh", "-c", "exit 1", restart="always", ready="log:never")
    async with world.supervised(bad, world.service("other")):
        await world.wait_for("bad", "service.backing_off")
        stopped = await world.act("stop_service", "bad")
        clock.advance(3600)
        await world.act("restart_service", "other", "a2")  # whatever was late has had its chance

    types = await world.types("bad")
    assert stopped.outcome == "succeeded"
    assert types.count("service.starting") == 1
    assert types[-1] == "action.completed"


async def test_harness_own_processes_are_restarted_by_the_supervisor_alone(world: World) -> None:
    """Killed, it is back by itself; an agent that wants to touch it is refused."""
    own = world.service("harness-agent", restart="always", own=True, back_off_seconds=0.01, give_up_after=0)
    async with world.supervised(own=(own,), envelope=world.automatic("harness-agent")) as supervisor:
        os.kill(supervisor.unit("harness-agent").pid, signal.SIGKILL)
        await world.wait_for("harness-agent", "service.ready", nth=2)
        refused = await world.act("restart_service", "harness-agent", origin=facts.Origin.AGENT)

    assert isinstance(refused, facts.ActionRefused)
    assert "Harness's own" in refused.reason


@pytest.mark.parametrize(("ttl_seconds", "again"), [(20, True), (1000, False), (None, True)])
async def test_a_monitor_that_runs_but_does_not_look_is_started_anew(
    timed: tuple[World, VirtualClock], ttl_seconds: int | None, again: bool
) -> None:
    """A frozen process does not exit; its lease does. One that never takes it is given longer."""
    world, clock = timed
    own = world.service("harness-monitor", restart="always", own=True, give_up_after=0)
    async with world.supervised(own=(own,)) as supervisor:
        unit = supervisor.unit("harness-monitor")
        first = unit.pid
        os.kill(first, signal.SIGSTOP)
        if ttl_seconds is not None:
            holds = Acquire(facts.MONITOR_LEASE, f"pid {first} since 1", 1, ttl_seconds)
            await world.store.append(Write("control/monitor", (Draft(type="monitor.started", payload={}),)), guards=(holds,))
        for _ in range(30):
            clock.advance(2)
            await world.store.lease(facts.MONITOR_LEASE)  # behind the supervisor's own look
            await asyncio.sleep(0)
        if again:
            await world.wait_for("harness-monitor", "service.ready", nth=2)
        second = unit.pid

    stopping = [facts.fact_of(event) for event in await world.events("harness-monitor") if event.type == "service.stopping"]
    assert (second != first) is again
    assert ("has not proven" in stopping[0].reason) is again


async def test_a_command_that_cannot_run_is_said_and_waits_for_an_action(world: World) -> None:
    """Blocked, with the reason; an action tries again and fails with the same reason."""
    async with world.supervised(world.service("it", "/no/such/program")) as supervisor:
        blocked = (await world.wait_for("it", "service.blocked")).load(facts.ServiceBlocked)
        phase = supervisor.unit("it").state.phase
        done = await world.act("restart_service", "it")

    assert (blocked.kind, phase) == ("command", Phase.BLOCKED)
    assert done.outcome == "failed"
    assert "does not exist" in done.detail


async def test_a_foreign_process_on_the_port_is_reported_and_left_alone(world: World) -> None:
    """port_taken names the pid; the foreigner still listens after everything has ended."""
    with socket.create_server(("127.0.0.1", 0)) as foreign:
        port = foreign.getsockname()[1]
        async with world.supervised(world.service("it", ready=f"http://127.0.0.1:{port}/health")):
            blocked = (await world.wait_for("it", "service.blocked")).load(facts.ServiceBlocked)
            done = await world.act("restart_service", "it")
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            pass

    assert (blocked.kind, blocked.pid) == ("port_taken", os.getpid())
    assert (done.outcome, "service.starting" in await world.types("it")) == ("failed", False)


@pytest.mark.parametrize("kind", ["tcp", "command", "log"])
async def test_ready_is_what_was_declared(world: World, kind: str) -> None:
    """The event comes when the probe passes, by TCP, by a command, by a line of the log."""
    port = world.free_port()
    ready = {"tcp": f"tcp:127.0.0.1:{port}", "command": "command:test -e ready", "log": "log:^lis.*ing$"}[kind]
    code = f"open('ready', 'w'); {LISTENER.format(port=port)}"
    async with world.supervised(world.service("it", sys.executable, "-c", code, ready=ready)) as supervisor:
        phase = supervisor.unit("it").state.phase

    assert phase is Phase.READY
    assert (world.root / "ready").exists()


async def test_what_is_not_ready_in_time_is_said_and_may_still_become_ready(world: World) -> None:
    """An action that waits for it fails with the last reason; later the probe passes."""
    it = world.service("it", "sleep", "1000", ready="command:test -e ready", ready_timeout_seconds=2.0)
    async with world.supervised(it) as supervisor:
        late = (await world.wait_for("it", "service.not_ready")).load(facts.ServiceNotReady)
        done = await world.act("restart_service", "it")
        (world.root / "ready").touch()
        await supervisor.unit("it").until(lambda unit: unit.state.phase is Phase.READY)

    assert late.reason == "the command ended with 1"
    assert (done.outcome, "not ready after 2 s" in done.detail) == ("failed", True)


async def test_dependents_start_when_what_they_need_is_ready_and_end_before_it(world: World) -> None:
    """Order by readiness, not by sleeping."""
    db = world.service("db", "sh", "-c", "sleep 0.3; echo up; exec sleep 1000", ready="log:up")
    async with world.supervised(world.service("api", depends_on=("db",)), db):
        pass

    events = [event for event in await world.store.read_all(streams=("service/",)) if event.type.startswith("service.")]
    order = [f"{event.stream[8:]} {event.type[8:]}" for event in events]
    for before, after in [
        ("api blocked", "db started"), ("db ready", "api starting"), ("api stopped", "db stopping"),
    ]:  # fmt: skip
        assert order.index(before) < order.index(after)


async def test_no_line_of_the_output_is_lost(world: World) -> None:
    """50,000 lines at once, then the end: all in the log, and all given to the follower."""
    it = world.service(
        "it", "sh", "-c", "seq 50000; printf 'no newline'", ready="log:never", log_max_bytes=100_000, log_keep=10
    )
    async with world.supervised(it):
        await world.wait_for("it", "service.exited")
        lines = [line.text for line in LogReader(world.home / "services" / "it" / "output.log").lines()]

    assert lines == [*map(str, range(1, 50_001)), "no newline"]
    assert b"".join(data for _, data in world.said) == "\n".join(lines).encode()


async def test_secrets_do_not_reach_a_service_unless_they_are_named(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of a child holds what it was declared to see, and where its home is."""
    monkeypatch.setenv("OTHER_API_KEY", "s3cret")
    monkeypatch.setenv("OWN_API_KEY", "wanted")
    code = "import json, os; print(json.dumps(dict(os.environ)), flush=True)"
    it = world.service("it", sys.executable, "-c", code, secrets=("OWN_API_KEY",), environment={"X": "1"}, ready="log:never")
    async with world.supervised(it):
        await world.wait_for("it", "service.exited")

    seen = json.loads(b"".join(data for _, data in world.said))
    assert (seen.get("OWN_API_KEY"), seen.get("X"), seen["HARNESS_HOME"]) == ("wanted", "1", str(world.home))
    assert "OTHER_API_KEY" not in seen


async def test_what_a_service_wrote_reaches_the_ledger_without_escapes_and_secrets(world: World) -> None:
    """The end of its output is data: no terminal escape in it survives, and no secret that it was given."""
    script = r"printf 'bad \033[31mred\033[0m '; echo is $MY_TOKEN"
    it = world.service("it", "sh", "-c", script, ready="log:never", environment={"MY_TOKEN": "s3cret-of-mine"})
    async with world.supervised(it):
        exited = (await world.wait_for("it", "service.exited")).load(facts.ServiceExited)

    assert exited.last_output == "bad red is [redacted known]"


async def test_a_graceful_restart_refuses_no_request(world: World) -> None:
    """The supervisor holds the listening socket, so whoever connects meanwhile waits and is answered."""
    port = world.free_port()
    code = f"from harness.recovery import limiter; limiter.main(port={port})"
    it = world.service(
        "it",
        sys.executable,
        "-c",
        code,
        listen=f"127.0.0.1:{port}",
        ready=f"http://127.0.0.1:{port}/health",
        stop_timeout_seconds=5.0,
    )
    answers: list[bytes] = []

    async def load(enough: asyncio.Event) -> None:
        while not enough.is_set():
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /check?key=k HTTP/1.1\r\nConnection: close\r\n\r\n")
            answers.append((await reader.read())[:12])
            writer.close()

    async with world.supervised(it):
        enough = asyncio.Event()
        async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
            for _ in range(8):
                tasks.create_task(load(enough))
            for number in range(3):
                done = await world.act("restart_service", "it", f"a{number}")
                assert done.outcome == "succeeded"
            enough.set()

    assert len(answers) > 20
    assert {answer for answer in answers if not answer.startswith((b"HTTP/1.1 200", b"HTTP/1.1 429"))} == set()
