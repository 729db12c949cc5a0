"""The monitor on a real ledger, with real sockets and a supervisor played by the test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import anyio
import msgspec
import pytest

from harness.errors import DeclarationError, Fenced, HarnessError, ModelUnavailable
from harness.kernel.ports import MockModelPort, ModelPort, ModelRequest, ModelResult
from harness.ledger import Acquire, Draft, Release, SQLiteStore, Store, Write
from harness.recovery import registry
from harness.recovery.declarations import Declarations, Invariant, Service
from harness.recovery.facts import (
    DECLARED_KEY,
    MONITOR_LEASE,
    STATE_KEY,
    ActionCompleted,
    ActionKind,
    ChaosInjected,
    ChaosKind,
    Fact,
    IncidentAnalysed,
    IncidentEscalated,
    IncidentVerified,
    Outcome,
    ServiceDeclared,
    ServiceExited,
    ServiceReady,
    ServiceStarted,
    ServiceStarting,
    ServiceStopped,
    ServiceStopping,
    draft,
    service_stream,
)
from harness.recovery.incidents import incident_of, list_incidents, summary
from harness.recovery.judging import State
from harness.recovery.monitor import Monitor, MonitorSettings, monitor_alive, run_monitor
from harness.work import Item, Items, Role, Status

T = TypeVar("T")
YES = {"ticket": "yes", "objective": "api is well", "context": "it died", "priority": "high", "reason": "it is down"}
NO = {**YES, "ticket": "no", "reason": "it will pass"}
QUICK = MonitorSettings(stabilisation_seconds=0.3, verification_seconds=4.0, analyst_seconds=1.0)


class Target:
    """A little HTTP service that does what the test says."""

    def __init__(self) -> None:
        self.status = 200
        self.delay = 0.0
        self.port = 0
        self._server: asyncio.Server | None = None

    async def up(self) -> None:
        self._server = await asyncio.start_server(self._answer, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def down(self) -> None:
        if self._server:
            self._server.close()
            self._server = None

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            await reader.readuntil(b"\r\n\r\n")
            await asyncio.sleep(self.delay)
            writer.write(b"HTTP/1.1 %d x\r\ncontent-length: 2\r\n\r\nok" % self.status)
        writer.close()


class Stage:
    """One home with a target, and the words of a supervisor."""

    def __init__(self, store: Store, home: Path, target: Target) -> None:
        self.store = store
        self.home = home
        self.target = target
        self.items = Items(store)
        self.epoch = 0
        self.pid = 0

    @property
    def declarations(self) -> Declarations:
        url = f"http://127.0.0.1:{self.target.port}/health"
        common: dict[str, Any] = {"target": "api", "interval_seconds": 0.2, "timeout_seconds": 0.5}
        return Declarations(
            services=(Service(name="api", command=("true",), ready=url),),
            invariants=(
                Invariant(name="api_healthy", query=url, condition="status == 200", **common),
                Invariant(name="api_quick", query=f"latency:{url}", condition="value < 400", **common),
            ),
            root=str(self.home),
        )

    async def say(self, fact: Fact, *, name: str = "api") -> None:
        await self.store.append(Write(service_stream(name), (draft(fact, actor="supervisor"),)))

    async def running(self) -> None:
        """The supervisor has started it; its process is the test's own."""
        from harness.processes import Identity

        self.epoch += 1
        me = Identity.of(1)
        await self.say(ServiceStarting(epoch=self.epoch, tag="t", reason="declared"))
        await self.say(ServiceStarted(epoch=self.epoch, pid=me.pid, started=me.started, tag="t"))
        await self.say(ServiceReady(epoch=self.epoch, pid=me.pid, seconds=0.1))

    async def killed(self) -> None:
        await self.target.down()
        await self.say(ServiceExited(epoch=self.epoch, pid=1, code=None, signal=9, ran_seconds=3.0))

    async def restarted(self, ticket: str) -> None:
        """An action has brought it back."""
        await self.target.up()
        await self.running()
        done = ActionCompleted(
            action_id=f"a-{ticket}-{self.epoch}", kind=ActionKind.RESTART_SERVICE, target="api", outcome=Outcome.SUCCEEDED,
            detail="ready", epoch=self.epoch, ticket=ticket,
        )  # fmt: skip
        await self.say(done)

    async def ticket(self, *, status: Status | None = None) -> Item:
        """The one ticket there is, once it is in this state."""

        async def found() -> Item | None:
            items = await self.items.list(limit=None)
            assert len(items) <= 1, items
            return items[0] if items and status in (None, items[0].status) else None

        return await until(found)

    async def types(self, stream: str) -> list[str]:
        return [event.type for event in await self.store.read(stream)]

    async def claimed(self) -> Item:
        """The one ticket, in the hands of an agent."""
        ticket = await self.ticket(status=Status.PENDING)
        assert await self.items.claim("agent", item_id=ticket.id)
        return ticket

    async def hand_over(self, ticket: Item) -> None:
        """The agent says that it is done."""
        claim = await self.items.claim("agent", item_id=ticket.id)
        assert claim is not None
        await self.items.transition(ticket.id, Status.VERIFYING, reason="restarted", claim=claim)

    async def told(self, ticket: str, type_: str) -> None:
        """Wait until the incident's timeline says this."""

        async def said() -> bool | None:
            return type_ in await self.types(f"incident/{ticket}") or None

        await until(said)

    @asynccontextmanager
    async def watched(self, port: ModelPort | None = None, settings: MonitorSettings = QUICK) -> AsyncGenerator[Monitor]:
        monitor = Monitor(self.store, self.declarations, self.home, settings, port=port or MockModelPort(output=YES))
        running = asyncio.ensure_future(monitor.run())
        body = asyncio.current_task()
        assert body is not None
        running.add_done_callback(lambda task: None if task.cancelled() else body.cancel())
        try:
            yield monitor
        except asyncio.CancelledError:
            if not running.done():
                raise
            body.uncancel()
        finally:
            ended = running.done()
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running
        assert not ended


async def until(look: Callable[[], Awaitable[T | None]], seconds: float = 8.0) -> T:
    """What `look` finds, as soon as it does."""
    with anyio.fail_after(seconds):
        while True:
            if (found := await look()) is not None:
                return found
            await asyncio.sleep(0.01)


async def well(monitor: Monitor, subject: str = "api") -> None:
    """The monitor has seen that all is well."""

    async def healthy() -> bool | None:
        return monitor.board.healthy(subject) or None

    await until(healthy)


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncGenerator[Stage]:
    store = await SQLiteStore.open(tmp_path / "harness.db", actor="monitor")
    target = Target()
    await target.up()
    stage = Stage(store, tmp_path, target)
    await stage.say(ServiceDeclared(name="api", command=("true",), ready="http"))
    yield stage
    await target.down()
    await store.close()


async def test_a_killed_service_is_ticketed_verified_and_closed(stage: Stage) -> None:
    """One kill is one ticket with one occurrence, and only the verifier closes it, on fresh passes."""
    await stage.running()

    async with stage.watched() as monitor:
        await well(monitor)
        await stage.killed()
        ticket = await stage.ticket()
        await stage.claimed()
        await stage.restarted(ticket.id)
        await stage.hand_over(ticket)
        closed = await stage.ticket(status=Status.COMPLETED)
        await stage.told(ticket.id, "incident.closed")

    assert closed.verified
    assert closed.occurrences == 1
    assert closed.labels["severity"] == "down"
    assert (closed.source_type, closed.source_id) == ("invariant", "api_healthy")
    assert await stage.types(f"incident/{ticket.id}") == [
        "incident.opened", "incident.analysed", "incident.verifying", "incident.verified", "incident.closed",
    ]  # fmt: skip
    assert (await stage.store.verify()).ok


async def test_failure_1_a_dead_service_does_not_pass(stage: Stage) -> None:
    """Without any supervisor, a service that answers no more fails the documented condition and gets a ticket."""
    async with stage.watched() as monitor:
        await well(monitor)
        await stage.target.down()
        ticket = await stage.ticket()

    assert ticket.labels["severity"] == "down"
    assert "does not answer" in ticket.title
    assert "check.changed" in await stage.types("check/api_healthy")


@pytest.mark.parametrize(
    ("status", "delay", "severity", "check"),
    [(503, 0.0, "degraded", "api_healthy"), (200, 0.45, "degraded", "api_quick"), (200, 5.0, "down", "api_healthy")],
    ids=["503", "slow", "hang"],
)
async def test_what_is_wrong_is_told_by_its_severity(
    stage: Stage, status: int, delay: float, severity: str, check: str
) -> None:
    """A wrong answer and a slow one degrade, no answer in time is down; each is one ticket."""
    async with stage.watched() as monitor:
        await well(monitor)
        stage.target.status, stage.target.delay = status, delay
        ticket = await stage.ticket()

    assert ticket.labels["severity"] == severity
    assert ticket.labels["check"] in (check, "api_quick")
    assert ticket.occurrences == 1


async def test_failure_3_a_blocked_ticket_is_open_and_nobody_is_asked_again(stage: Stage) -> None:
    """While a ticket waits for a person, the failure that it is about asks no model and opens nothing."""
    port = MockModelPort(output=YES)

    async with stage.watched(port) as monitor:
        await well(monitor)
        stage.target.status = 503
        ticket = await stage.ticket()
        calls = port.calls
        await stage.items.transition(ticket.id, Status.BLOCKED, reason="waits for approval", role=Role.PERSON)
        for _ in range(20):
            monitor.consider("api")
        looks = monitor.schedule.looks

        async def looked_on() -> bool | None:
            return monitor.schedule.looks > looks + 10 or None

        await until(looked_on)
        again = await stage.ticket()

    assert port.calls == calls == 1
    assert again.status is Status.BLOCKED


async def test_failure_3_a_blocked_slowness_does_not_hide_a_death(stage: Stage) -> None:
    """A worse failure gets a ticket of its own when nobody will work on the one that is open."""
    async with stage.watched() as monitor:
        await well(monitor)
        stage.target.status = 503
        first = await stage.ticket()
        await stage.items.transition(first.id, Status.BLOCKED, reason="waits for approval", role=Role.PERSON)
        await stage.target.down()

        async def second() -> list[Item] | None:
            items = await stage.items.list(limit=None)
            return items if len(items) == 2 else None

        items = await until(second)

    assert {item.labels["severity"] for item in items} == {"degraded", "down"}


async def test_a_second_death_while_the_ticket_is_open_is_a_recurrence(stage: Stage) -> None:
    """Killed twice before anybody closed the ticket: one ticket, two occurrences, whatever the checks add."""
    await stage.running()

    async with stage.watched() as monitor:
        await well(monitor)
        await stage.killed()
        ticket = await stage.claimed()
        await stage.restarted(ticket.id)
        await well(monitor)
        await stage.killed()
        await stage.told(ticket.id, "incident.recurred")
        await stage.restarted(ticket.id)
        await stage.hand_over(ticket)
        closed = await stage.ticket(status=Status.COMPLETED)

    assert closed.occurrences == 2


async def test_what_fails_beside_the_first_evidence_is_no_recurrence(stage: Stage) -> None:
    """After a kill the service comes back broken: its checks fail too, and it is still the one incident, seen once."""
    await stage.running()

    async with stage.watched() as monitor:
        await well(monitor)
        await stage.killed()
        ticket = await stage.claimed()
        stage.target.status = 503
        await stage.restarted(ticket.id)

        async def failing() -> bool | None:
            failure = monitor.board.failure("api")
            return (failure is not None and failure.root == "api_healthy" and bool(failure.ref)) or None

        await until(failing)
        monitor.consider("api")
        await stage.hand_over(ticket)
        await stage.told(ticket.id, "incident.attempt_failed")
        again = await stage.ticket()

    assert again.occurrences == 1


async def test_a_no_of_the_analyst_cools_down(stage: Stage) -> None:
    """After a "no" nobody is asked about the same failure until the cool-down is over; then it is asked again."""
    port = MockModelPort(output=NO)
    settings = msgspec.structs.replace(QUICK, cool_down_seconds=1.0)

    async with stage.watched(port, settings) as monitor:
        await well(monitor)
        stage.target.status = 503

        async def dismissed() -> bool | None:
            return (await stage.types("check/api")).count("check.dismissed") or None

        await until(dismissed)
        calls = port.calls
        port.result = MockModelPort(output=YES).result
        assert await stage.items.list(limit=None) == []
        ticket = await stage.ticket()

    assert calls == 1
    assert port.calls == 2
    assert ticket.created_us - await first_ts(stage, "check/api", "check.dismissed") >= 1_000_000


class Hanging:
    """A provider that never answers."""

    async def complete(self, request: ModelRequest) -> ModelResult:
        await asyncio.Event().wait()
        raise AssertionError


@pytest.mark.parametrize(
    "port",
    [
        MockModelPort(error=ModelUnavailable("500 Internal Server Error")),
        Hanging(),
        MockModelPort(text="I feel fine", output=None),
        MockModelPort(output={"ticket": "perhaps"}),
        MockModelPort(error=ZeroDivisionError("a defect of the port")),
    ],
    ids=["500", "hangs", "no-json", "garbage", "defect"],
)
async def test_a_ticket_opens_without_its_analyst(stage: Stage, port: ModelPort) -> None:
    """Whatever the provider does, the deterministic ticket opens within the bound and says who decided."""
    await stage.running()

    async with stage.watched(port) as monitor:
        await well(monitor)
        began = asyncio.get_running_loop().time()
        await stage.killed()
        ticket = await stage.ticket()
        took = asyncio.get_running_loop().time() - began

    assert took < QUICK.analyst_seconds + 1.0
    analysed = (await stage.store.read(f"incident/{ticket.id}"))[1]
    assert analysed.load(IncidentAnalysed).by == "fallback"
    assert "api runs and passes all of its checks" in ticket.description


async def test_an_analyst_that_was_asked_too_often_is_not_asked(stage: Stage) -> None:
    """Calls are capped by the hour; the ticket opens all the same."""
    port = MockModelPort(output=YES)
    await stage.running()

    async with stage.watched(port, msgspec.structs.replace(QUICK, analyst_calls_per_hour=0)) as monitor:
        await well(monitor)
        await stage.killed()
        ticket = await stage.ticket()

    assert port.calls == 0
    assert "used up" in ticket.description


async def test_a_stop_on_purpose_is_no_failure(stage: Stage) -> None:
    """What a person stopped stays stopped: its checks are unknown, and no ticket asks anybody to start it."""
    await stage.running()

    async with stage.watched() as monitor:
        await well(monitor)
        await stage.say(ServiceStopping(epoch=2, pid=1, reason="asked to"))
        await stage.say(ServiceStopped(epoch=2, pid=1, needed="term", ended=1))
        await stage.target.down()

        async def blind() -> bool | None:
            return monitor.board.checks["api_healthy"].judgement.state is State.BLIND or None

        await until(blind)

    assert await stage.items.list(limit=None) == []


async def test_a_service_that_is_being_started_is_given_time(stage: Stage) -> None:
    """Between start and readiness a failing check says nothing; once it is ready all is well."""
    await stage.target.down()
    await stage.say(ServiceStarting(epoch=1, tag="t", reason="declared"))

    async with stage.watched() as monitor:

        async def looked() -> bool | None:
            return monitor.schedule.looks > 8 or None

        await until(looked)
        assert await stage.items.list(limit=None) == []
        await stage.target.up()
        await stage.running()
        await well(monitor)

    assert await stage.items.list(limit=None) == []


async def test_a_silence_keeps_tickets_away_until_it_ends(stage: Stage) -> None:
    """A silenced target is looked at and recorded, and ticketed only when the silence is over."""
    await registry.silence(stage.store, "api", seconds=1.0, by="me", reason="deploy")

    async with stage.watched() as monitor:
        await well(monitor)
        stage.target.status = 503

        async def failing() -> bool | None:
            return monitor.board.failure("api") is not None or None

        await until(failing)
        assert await stage.items.list(limit=None) == []
        assert "check.changed" in await stage.types("check/api_healthy")
        ticket = await stage.ticket()

    silenced = await first_ts(stage, "check/api", "check.silenced")
    assert ticket.created_us - silenced >= 1_000_000


async def test_what_heals_by_itself_is_verified_before_it_is_closed(stage: Stage) -> None:
    """A pending ticket whose checks all pass again is completed by the verifier, without any action."""
    async with stage.watched() as monitor:
        await well(monitor)
        stage.target.status = 503
        ticket = await stage.ticket()
        stage.target.status = 200
        closed = await stage.ticket(status=Status.COMPLETED)

    verified = [event for event in await stage.store.read(f"incident/{ticket.id}") if event.type == "incident.verified"]
    assert closed.verified
    assert verified[0].load(IncidentVerified).action_id == ""


async def test_failure_5_not_fixed_is_not_completed(stage: Stage) -> None:
    """An agent that says it is done when it is not gets its ticket back, and after the last attempt a person does."""
    settings = msgspec.structs.replace(QUICK, attempts=2, verification_seconds=0.5)

    async with stage.watched(settings=settings) as monitor:
        await well(monitor)
        stage.target.status = 503
        first = await stage.claimed()
        await stage.hand_over(first)
        second = await stage.claimed()
        await stage.hand_over(second)
        blocked = await stage.ticket(status=Status.BLOCKED)
        await stage.told(first.id, "incident.escalated")

    types = await stage.types(f"incident/{first.id}")
    assert types.count("incident.attempt_failed") == 2
    assert "incident.verified" not in types
    escalated = (await stage.store.read(f"incident/{first.id}"))[-1].load(IncidentEscalated)
    assert escalated.next_commands
    assert "503" in blocked.reason


async def test_a_process_that_ends_while_it_is_verified_fails_the_attempt(stage: Stage) -> None:
    """A crash in the stabilisation window is hard evidence: the attempt has failed at once."""
    await stage.running()
    settings = msgspec.structs.replace(QUICK, stabilisation_seconds=30.0, verification_seconds=60.0)

    async with stage.watched(settings=settings) as monitor:
        await well(monitor)
        await stage.killed()
        ticket = await stage.claimed()
        await stage.restarted(ticket.id)
        await stage.hand_over(ticket)
        await stage.told(ticket.id, "incident.verifying")
        await stage.killed()
        back = await stage.ticket(status=Status.PENDING)

    assert "signal 9" in back.reason


async def test_a_check_that_is_added_while_running_is_looked_at(stage: Stage) -> None:
    """A check registered over the API is taken up at once; one that could never work is refused."""
    async with stage.watched() as monitor:
        await well(monitor)
        query = f"tcp:127.0.0.1:{stage.target.port}"
        await registry.register(stage.store, Invariant(name="port", query=query, interval_seconds=0.2), stage.declarations)

        async def looked() -> bool | None:
            return ("port" in monitor.board.checks and monitor.board.healthy("api")) or None

        await until(looked)
        wrong = Invariant(name="wrong", query=query, condition="state == 'up'")
        with pytest.raises(DeclarationError, match="names state"):
            await registry.register(stage.store, wrong, stage.declarations)
        await registry.disable(stage.store, "port")

        async def gone() -> bool | None:
            return "port" not in monitor.board.checks or None

        await until(gone)

    assert [fact.enabled for fact in await registry.declared_checks(stage.store)] == [True, True, False]


async def test_only_one_monitor_watches_a_home(stage: Stage) -> None:
    """A second one is refused while the first one lives, and the first one's switch says that it does."""
    async with stage.watched() as monitor:
        await well(monitor)

        assert await monitor_alive(stage.store)
        with pytest.raises(HarnessError, match="watches this home already"):
            await run_monitor(stage.store, stage.declarations, stage.home, QUICK)

    assert not await monitor_alive(stage.store)


async def test_a_declared_condition_that_makes_no_sense_stops_the_monitor_before_it_watches(stage: Stage) -> None:
    """A condition that does not parse is refused by name when the monitor registers it."""
    wrong = Declarations(invariants=(Invariant(name="odd", query="http://127.0.0.1:1/", condition="stat == 200"),))

    with pytest.raises(DeclarationError, match=r"check odd.*did you mean status"):
        await run_monitor(stage.store, wrong, stage.home, QUICK)

    assert not await monitor_alive(stage.store)


async def test_a_service_without_invariants_is_watched_by_its_readiness(stage: Stage) -> None:
    """A declared service that no invariant is about heals all the same."""
    declarations = msgspec.structs.replace(stage.declarations, invariants=())
    await stage.running()
    monitor = Monitor(stage.store, declarations, stage.home, QUICK, port=MockModelPort(output=YES))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(monitor.run)
        await well(monitor)
        await stage.killed()
        ticket = await stage.ticket()
        tasks.cancel_scope.cancel()

    assert ticket.source_id == "api_ready"


async def test_an_odd_event_does_not_end_the_monitor(stage: Stage) -> None:
    """Whoever writes nonsense into a stream does not blind the monitor, neither at once nor after a restart."""
    odd = [
        Write("service/api", (Draft(type="service.exited", payload={"epoch": "x"}, key=STATE_KEY),)),
        Write("check/odd", (Draft(type="check.declared", payload={"name": 7}, key=DECLARED_KEY),)),
        Write("check/api", (Draft(type="check.silenced", payload=[]),)),
        Write("service/api", (Draft(type="action.completed", payload={}),)),
    ]

    async with stage.watched() as monitor:
        await well(monitor)
        for write in odd[1:]:
            await stage.store.append(write)
        await stage.store.append(odd[0])
        await registry.register(
            stage.store, Invariant(name="port", query=f"tcp:127.0.0.1:{stage.target.port}"), stage.declarations
        )  # fmt: skip

        async def taken() -> bool | None:
            return "port" in monitor.board.checks or None

        await until(taken)

    async with stage.watched() as monitor:
        await well(monitor)


async def test_a_service_that_is_no_longer_declared_is_nobodys_business(stage: Stage) -> None:
    """The last word about a removed service was its exit; that opens nothing."""
    await stage.say(ServiceDeclared(name="old", command=("x",)), name="old")
    await stage.say(ServiceExited(epoch=1, pid=1, code=1, signal=None, ran_seconds=1), name="old")
    await stage.say(ServiceDeclared(name="old", command=("x",), removed=True), name="old")

    async with stage.watched() as monitor:
        await well(monitor)
        monitor.consider("old")
        stage.target.status = 503
        ticket = await stage.ticket()

    assert ticket.labels["target"] == "api"


async def test_a_monitor_that_lost_its_lease_stops_with_one_line(stage: Stage) -> None:
    """Another monitor that took over fences the first one, which says so and writes nothing more."""

    async def taken_over() -> None:
        async with stage.watched() as monitor:
            await well(monitor)
            lease = await stage.store.lease(MONITOR_LEASE)
            assert lease is not None
            takeover = (Release(MONITOR_LEASE, lease.token), Acquire(MONITOR_LEASE, "another", lease.token + 1, 60.0))
            await stage.store.append(Write("control/monitor", (Draft(type="monitor.started"),)), guards=takeover)
            stage.target.status = 503
            await asyncio.sleep(20)

    with pytest.raises(Fenced):
        await taken_over()

    assert await stage.items.list(limit=None) == []


async def test_the_incident_tells_its_times(stage: Stage) -> None:
    """Times count from the injected fault, and the timeline holds the service, the runs and the item."""
    await stage.running()

    async with stage.watched() as monitor:
        await well(monitor)
        await stage.say(ChaosInjected(chaos_id="c", kind=ChaosKind.KILL, pid=1, epoch=1))
        await stage.killed()
        ticket = await stage.claimed()
        await stage.restarted(ticket.id)
        await stage.hand_over(ticket)
        await stage.told(ticket.id, "incident.closed")
        incident = await incident_of(stage.store, ticket.id)

    told = summary(incident)
    order = [told[f"{name}_s"] for name in ("detected", "ticket", "acted", "verified")]
    assert order == sorted(order, key=lambda each: float(str(each)))
    assert told["status"] == "completed"
    assert {event.stream.partition("/")[0] for event in incident.events} >= {"service", "run", "incident", "item"}
    assert [each.ticket for each in await list_incidents(stage.store)] == [ticket.id]


async def first_ts(stage: Stage, stream: str, type_: str) -> int:
    return next(event.ts for event in await stage.store.read(stream) if event.type == type_)
