"""What the supervisor decides about one service: a table, and rules that hold under any order of inputs."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from harness.recovery.declarations import Service
from harness.recovery.supervisor import machine
from harness.recovery.supervisor.machine import (
    BecameReady,
    Clean,
    Delay,
    Dependencies,
    End,
    Ended,
    Exited,
    GiveUp,
    Input,
    Intent,
    NotSpawned,
    Phase,
    Probe,
    Restart,
    Spawn,
    Spawned,
    Start,
    State,
    Stop,
    TimeOver,
    Wait,
    back_off_seconds,
    step,
)

WHY = Intent(reason="test", action_id="a1")
OWN = Intent(reason="restart policy")


def policy(restart: str = "agent", **values: object) -> Service:
    return Service(name="it", command=("it",), restart=restart, **values)  # type: ignore[arg-type]


def at(phase: Phase, **values: object) -> State:
    return State(**{"phase": phase, "epoch": 4, "wanted": phase is not Phase.DOWN, **values})  # type: ignore[arg-type]


AGENT, ALWAYS, FAILURE = policy(), policy("always"), policy("on-failure")

TABLE = [
    # state, input, policy, phase, epoch, effects
    (at(Phase.DOWN), Start(WHY), AGENT, Phase.STARTING, 5, (Spawn(5, WHY, 0),)),
    (at(Phase.DOWN, dependencies=False), Start(WHY), AGENT, Phase.WAITING, 4, (Wait(4),)),
    (at(Phase.WAITING, dependencies=False, next=WHY), Dependencies(True), AGENT, Phase.STARTING, 5, (Spawn(5, WHY, 0),)),
    (at(Phase.READY), Dependencies(False), AGENT, Phase.READY, 4, ()),
    (at(Phase.READY), Start(WHY), AGENT, Phase.READY, 4, ()),
    (at(Phase.READY), Restart(WHY), AGENT, Phase.STOPPING, 5, (End(5, WHY),)),
    (at(Phase.READY), Stop(WHY), AGENT, Phase.STOPPING, 5, (End(5, WHY),)),
    (at(Phase.STARTING, spawning=True), Spawned(4), AGENT, Phase.RUNNING, 4, (Probe(4),)),
    (at(Phase.STARTING, spawning=True), NotSpawned(4), AGENT, Phase.BLOCKED, 4, ()),
    (at(Phase.STARTING, spawning=True), NotSpawned(4), ALWAYS, Phase.BACKING_OFF, 4, (Delay(4, 0.5, 0),)),
    (at(Phase.STARTING, spawning=True), Stop(WHY), AGENT, Phase.STOPPING, 5, ()),
    (at(Phase.STOPPING, epoch=5, wanted=False, spawning=True, next=WHY), Spawned(4), AGENT, Phase.STOPPING, 5, (End(5, WHY),)),
    (at(Phase.RUNNING), BecameReady(4), AGENT, Phase.READY, 4, ()),
    (at(Phase.RUNNING), BecameReady(3), AGENT, Phase.RUNNING, 4, ()),
    (at(Phase.READY), Exited(4, failed=True), AGENT, Phase.CLEANING, 4, (Clean(4),)),
    (at(Phase.READY), Exited(3, failed=True), AGENT, Phase.READY, 4, ()),
    (at(Phase.STOPPING), Exited(4, failed=True), ALWAYS, Phase.STOPPING, 4, ()),
    (at(Phase.CLEANING, failed=True), Ended(4), AGENT, Phase.EXITED, 4, ()),
    (at(Phase.CLEANING, failed=True), Ended(4), policy("never"), Phase.EXITED, 4, ()),
    (at(Phase.CLEANING, failed=True), Ended(4), ALWAYS, Phase.BACKING_OFF, 4, (Delay(4, 0.5, 0),)),
    (at(Phase.CLEANING, failed=True), Ended(4), FAILURE, Phase.BACKING_OFF, 4, (Delay(4, 0.5, 0),)),
    (at(Phase.CLEANING, failed=False), Ended(4), FAILURE, Phase.EXITED, 4, ()),
    (at(Phase.CLEANING, failed=False), Ended(4), ALWAYS, Phase.BACKING_OFF, 4, (Delay(4, 0.5, 0),)),
    (at(Phase.CLEANING, restarts_us=(1, 2, 3, 4, 5)), Ended(4), ALWAYS, Phase.GAVE_UP, 4, (GiveUp(4, 5),)),
    (at(Phase.CLEANING, wanted=False), Ended(4), ALWAYS, Phase.DOWN, 4, ()),
    (at(Phase.CLEANING), Stop(WHY), ALWAYS, Phase.CLEANING, 4, ()),
    (at(Phase.BACKING_OFF), TimeOver(4), ALWAYS, Phase.STARTING, 5, (Spawn(5, OWN, 1),)),
    (at(Phase.BACKING_OFF), TimeOver(3), ALWAYS, Phase.BACKING_OFF, 4, ()),
    (at(Phase.BACKING_OFF), Stop(WHY), ALWAYS, Phase.STOPPING, 5, (End(5, WHY),)),
    (at(Phase.BACKING_OFF), Start(WHY), ALWAYS, Phase.STARTING, 5, (Spawn(5, WHY, 0),)),
    (at(Phase.STOPPING, wanted=False), TimeOver(3), ALWAYS, Phase.STOPPING, 4, ()),
    (at(Phase.STOPPING, wanted=False), Ended(4), ALWAYS, Phase.DOWN, 4, ()),
    (at(Phase.STOPPING, next=WHY), Ended(4), AGENT, Phase.STARTING, 5, (Spawn(5, WHY, 0),)),
    (at(Phase.STOPPING, next=WHY), Ended(3), AGENT, Phase.STOPPING, 4, ()),
    (at(Phase.EXITED), Restart(WHY), AGENT, Phase.STARTING, 5, (Spawn(5, WHY, 0),)),
    (at(Phase.GAVE_UP), Restart(WHY), ALWAYS, Phase.STARTING, 5, (Spawn(5, WHY, 0),)),
    (at(Phase.READY, closed=True), Restart(WHY), AGENT, Phase.READY, 4, ()),
    (at(Phase.DOWN, closed=True), Start(WHY), AGENT, Phase.DOWN, 4, ()),
]


@pytest.mark.parametrize(("state", "input_", "declared", "phase", "epoch", "effects"), TABLE)
def test_each_input_leads_where_the_table_says(
    state: State, input_: Input, declared: Service, phase: Phase, epoch: int, effects: tuple[machine.Effect, ...]
) -> None:
    """One row of the table: state and input give state and effects."""
    after, done = step(state, input_, declared, now_us=10)

    assert (after.phase, after.epoch, done) == (phase, epoch, effects)


def test_back_off_doubles_up_to_its_most() -> None:
    """Delays are 0.5, 1, 2, … and never above the declared most."""
    found = [back_off_seconds(policy(back_off_max_seconds=3.0), restarts) for restarts in (0, 1, 2, 3, 100, 10_000)]

    assert found == [0.5, 1.0, 2.0, 3.0, 3.0, 3.0]


def test_restarts_outside_the_window_are_forgotten() -> None:
    """Five restarts long ago do not make the sixth the last."""
    old = at(Phase.CLEANING, restarts_us=(1, 2, 3, 4, 5))

    after, effects = step(old, Ended(4), ALWAYS, now_us=400_000_000)

    assert after.phase is Phase.BACKING_OFF
    assert effects == (Delay(4, 0.5, 0),)


def test_without_a_limit_it_never_gives_up() -> None:
    """Harness's own processes are restarted for ever, ever more slowly."""
    after, effects = step(
        at(Phase.CLEANING, restarts_us=tuple(range(50))), Ended(4), policy("always", give_up_after=0), now_us=60
    )

    assert after.phase is Phase.BACKING_OFF
    assert effects == (Delay(4, 30.0, 50),)


class Supervised(RuleBasedStateMachine):
    """A world that answers effects in any order, late or never, with inputs of any epoch."""

    @initialize(
        restart=st.sampled_from(["agent", "always", "on-failure", "never"]),
        limit=st.integers(0, 3),
        dependencies=st.booleans(),
    )
    def begin(self, restart: str, limit: int, dependencies: bool) -> None:
        self.policy = policy(restart, give_up_after=limit, give_up_window_seconds=10.0)
        self.state = State(dependencies=dependencies)
        self.now = 0
        self.living: int | None = None  # the epoch under which the process was spawned
        self.open: list[machine.Effect] = []
        self.epochs = [0]
        self.may_start = False  # somebody has asked for it since the last stop
        self.final = False
        self.automatic: list[int] = []

    def feed(self, input_: Input) -> None:
        before = self.state
        self.state, effects = step(before, input_, self.policy, self.now)
        assert self.state.epoch >= before.epoch
        for effect in effects:
            self.check(effect, input_)
            self.open.append(effect)

    def check(self, effect: machine.Effect, cause: Input) -> None:
        if isinstance(effect, Spawn | End):
            assert effect.epoch == self.state.epoch
        match effect:
            case Spawn(epoch, intent):
                assert self.living is None, "a second process beside a living one"
                assert self.may_start, "a start after a stop"
                assert not self.final
                assert not any(isinstance(other, Spawn) for other in self.open), "two spawns at once"
                assert epoch > max(self.epochs)
                assert self.state.dependencies
                self.epochs.append(epoch)
                if intent.reason == "restart policy" and isinstance(cause, TimeOver):
                    self.automatic.append(self.now)
                    recent = [when for when in self.automatic if self.now - when < 10_000_000]
                    assert not self.policy.give_up_after or len(recent) <= self.policy.give_up_after
            case Delay():
                assert self.policy.restart in ("always", "on-failure")
            case _:
                pass

    @rule(which=st.sampled_from([Start, Restart]))
    def ask(self, which: type[Start] | type[Restart]) -> None:
        self.may_start = self.may_start or not self.final
        self.automatic.clear()
        self.feed(which(Intent(reason="asked")))

    @rule(final=st.sampled_from([False, False, False, True]))
    def stop(self, final: bool) -> None:
        self.may_start = False
        self.final = self.final or final
        self.feed(Stop(Intent(reason="stopped"), final=final))

    @rule(ready=st.booleans())
    def depend(self, ready: bool) -> None:
        self.feed(Dependencies(ready))

    @rule(seconds=st.sampled_from([0.1, 1.0, 20.0]))
    def wait(self, seconds: float) -> None:
        self.now += round(seconds * 1_000_000)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), well=st.booleans())
    def answer(self, data: st.DataObject, well: bool) -> None:
        effect = data.draw(st.sampled_from(self.open))
        self.open.remove(effect)
        match effect:
            case Spawn(epoch):
                self.living = epoch if well else None
                self.feed(Spawned(epoch) if well else NotSpawned(epoch))
            case Probe(epoch):
                self.feed(BecameReady(epoch))
            case End(epoch) | Clean(epoch):
                self.living = None
                self.feed(Ended(epoch))
            case Delay(epoch):
                self.feed(TimeOver(epoch))
            case _:
                pass

    @precondition(lambda self: self.living is not None and self.state.phase in machine.ALIVE)
    @rule(failed=st.booleans())
    def die(self, failed: bool) -> None:
        self.living = None
        self.feed(Exited(self.state.epoch, failed))

    @rule(data=st.data())
    def stray(self, data: st.DataObject) -> None:
        """An answer for an epoch that is over changes nothing."""
        if self.state.epoch == 0:
            return
        epoch = data.draw(st.integers(0, self.state.epoch - 1))
        kind = data.draw(st.sampled_from([BecameReady(epoch), Exited(epoch, True), Ended(epoch), TimeOver(epoch)]))
        before = self.state
        self.feed(kind)
        assert self.state == before

    @invariant()
    def a_living_process_is_known(self) -> None:
        if hasattr(self, "state") and self.living is not None:
            assert self.state.phase in {*machine.ALIVE, Phase.STOPPING, Phase.CLEANING}

    def teardown(self) -> None:
        """Whatever happened, asked to run it comes to run once everything is answered well; asked to end it ends."""
        if not hasattr(self, "state"):
            return
        if not self.final:
            self.ask(Restart)
            self.feed(Dependencies(True))
            self.settle()
            assert self.state.phase is Phase.READY
        self.stop(final=True)
        self.settle()
        assert self.state.phase is Phase.DOWN
        assert self.living is None

    def settle(self) -> None:
        for _ in range(50):
            if not self.open:
                return
            effect = self.open.pop(0)
            match effect:
                case Spawn(epoch):
                    self.living = epoch
                    self.feed(Spawned(epoch))
                case Probe(epoch):
                    self.feed(BecameReady(epoch))
                case End(epoch) | Clean(epoch):
                    self.living = None
                    self.feed(Ended(epoch))
                case Delay(epoch):
                    self.feed(TimeOver(epoch))
                case _:
                    pass
        raise AssertionError("it does not come to rest")


Supervised.TestCase.settings = settings(
    max_examples=150, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
TestSupervised = Supervised.TestCase


def test_a_stop_during_back_off_is_never_followed_by_a_start() -> None:
    """The timer that was set before the stop comes too late, whatever it brings."""
    waiting = at(Phase.BACKING_OFF)
    stopping, _ = step(waiting, Stop(WHY), ALWAYS, now_us=0)
    down, _ = step(stopping, Ended(stopping.epoch), ALWAYS, now_us=0)

    for late in (TimeOver(4), TimeOver(5), Dependencies(True), Exited(4, failed=True)):
        assert step(down, late, ALWAYS, now_us=1) == (replace(down, dependencies=True), ())
