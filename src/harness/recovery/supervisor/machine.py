"""What to do about one service: one desired state and one epoch. Pure: no clock, no process, no ledger.

Every decision to start or to stop makes a new epoch, and whatever was under way for an older one is void: so no stop
is ever followed by a late start, and no timer or exit of a former process touches the present one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import assert_never

from harness.recovery.declarations import Service


class Phase(StrEnum):
    """Where one service is."""

    DOWN = "down"  # nobody wants it
    WAITING = "waiting"  # for what it depends on
    STARTING = "starting"  # being spawned
    RUNNING = "running"  # not ready yet
    READY = "ready"
    STOPPING = "stopping"
    CLEANING = "cleaning"  # it exited by itself; what is left of its tree is being ended
    BACKING_OFF = "backing_off"
    EXITED = "exited"  # only an action starts it again
    BLOCKED = "blocked"  # could not be spawned; only an action tries again
    GAVE_UP = "gave_up"


ALIVE = frozenset({Phase.RUNNING, Phase.READY})
RESTING = frozenset({Phase.DOWN, Phase.EXITED, Phase.BLOCKED, Phase.GAVE_UP})


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """Why something is done, and for which action."""

    reason: str
    action_id: str = ""
    cause: str = ""  # the event that led to it


# Inputs: what is asked for and what has happened


@dataclass(frozen=True, slots=True)
class Start:
    """It shall run; nothing happens if it does."""

    intent: Intent


@dataclass(frozen=True, slots=True)
class Restart:
    """It shall run as a new process."""

    intent: Intent


@dataclass(frozen=True, slots=True)
class Stop:
    """It shall not run. After a final one no start is heard any more."""

    intent: Intent
    final: bool = False


@dataclass(frozen=True, slots=True)
class Dependencies:
    """Whether everything that it depends on is ready."""

    ready: bool


@dataclass(frozen=True, slots=True)
class Spawned:
    epoch: int


@dataclass(frozen=True, slots=True)
class NotSpawned:
    epoch: int


@dataclass(frozen=True, slots=True)
class BecameReady:
    epoch: int


@dataclass(frozen=True, slots=True)
class Exited:
    """The process ended by itself."""

    epoch: int
    failed: bool


@dataclass(frozen=True, slots=True)
class Ended:
    """What `End` or `Clean` asked for is done: nothing of the tree is left."""

    epoch: int


@dataclass(frozen=True, slots=True)
class TimeOver:
    """The delay that `Delay` asked for is over."""

    epoch: int


Input = Start | Restart | Stop | Dependencies | Spawned | NotSpawned | BecameReady | Exited | Ended | TimeOver

# Effects: what the edge has to do, in order


@dataclass(frozen=True, slots=True)
class Spawn:
    """Start the process; answer `Spawned` or `NotSpawned`."""

    epoch: int
    intent: Intent
    restarts: int


@dataclass(frozen=True, slots=True)
class Probe:
    """Look whether it is ready; answer `BecameReady` once it is."""

    epoch: int


@dataclass(frozen=True, slots=True)
class End:
    """End the whole tree; answer `Ended`."""

    epoch: int
    intent: Intent


@dataclass(frozen=True, slots=True)
class Clean:
    """End what the exited process has left behind; answer `Ended`."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Delay:
    """Answer `TimeOver` after so many seconds."""

    epoch: int
    seconds: float
    restarts: int


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Say that it is not restarted any more."""

    epoch: int
    restarts: int


@dataclass(frozen=True, slots=True)
class Wait:
    """Say that it waits for what it depends on."""

    epoch: int


Effect = Spawn | Probe | End | Clean | Delay | GiveUp | Wait
Step = tuple["State", tuple[Effect, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """All that is known of one service between two inputs."""

    phase: Phase = Phase.DOWN
    epoch: int = 0
    wanted: bool = False  # the one desired state
    closed: bool = False  # the supervisor is leaving
    dependencies: bool = True
    next: Intent | None = None  # why it is started once the way is free
    spawning: bool = False  # a spawn was asked for and not answered
    failed: bool = False  # how the last process exited
    restarts_us: tuple[int, ...] = ()  # when the policy restarted it, within the window


def step(state: State, input_: Input, policy: Service, now_us: int) -> Step:
    """The next state, and what to do now. An input of an older epoch changes nothing."""
    match input_:
        case Start(intent) | Restart(intent) if state.closed:
            return state, ()
        case Start(intent):
            return _start(state, intent)
        case Restart(intent):
            return _restart(state, intent)
        case Stop(intent, final):
            return _stop(replace(state, closed=state.closed or final), intent)
        case Dependencies(ready):
            state = replace(state, dependencies=ready)
            return _launch(state) if state.phase is Phase.WAITING and ready else (state, ())
        case Spawned(epoch) | NotSpawned(epoch):
            return _spawn_answered(state, epoch, isinstance(input_, Spawned), policy, now_us)
        case BecameReady(epoch):
            current = state.phase is Phase.RUNNING and epoch == state.epoch
            return (replace(state, phase=Phase.READY) if current else state), ()
        case Exited(epoch, failed):
            if state.phase not in ALIVE or epoch != state.epoch:
                return state, ()
            return replace(state, phase=Phase.CLEANING, failed=failed), (Clean(epoch),)
        case Ended(epoch):
            return _ended(state, policy, now_us) if epoch == state.epoch else (state, ())
        case TimeOver(epoch):
            if state.phase is not Phase.BACKING_OFF or epoch != state.epoch:
                return state, ()
            return _launch(replace(state, restarts_us=(*state.restarts_us, now_us)))
        case _:
            assert_never(input_)


def back_off_seconds(policy: Service, restarts: int) -> float:
    """How long to wait before restart number `restarts` + 1: doubling from the declared delay up to the declared most."""
    return min(policy.back_off_max_seconds, policy.back_off_seconds * 2.0 ** min(restarts, 32))


def _start(state: State, intent: Intent) -> Step:
    state = replace(state, wanted=True)
    match state.phase:
        case Phase.STOPPING | Phase.CLEANING:
            return replace(state, next=intent), ()
        case Phase.WAITING | Phase.STARTING | Phase.RUNNING | Phase.READY:
            return state, ()
        case Phase.DOWN | Phase.EXITED | Phase.BLOCKED | Phase.GAVE_UP | Phase.BACKING_OFF:
            return _launch(replace(state, next=intent, restarts_us=()))


def _restart(state: State, intent: Intent) -> Step:
    if state.phase in ALIVE:
        return _end(replace(state, wanted=True, next=intent), intent)
    if state.phase is Phase.STARTING:
        return replace(state, phase=Phase.STOPPING, epoch=state.epoch + 1, wanted=True, next=intent), ()
    if state.phase is Phase.WAITING:
        return replace(state, wanted=True, next=intent), ()
    return _start(state, intent)


def _stop(state: State, intent: Intent) -> Step:
    state = replace(state, wanted=False, next=None, restarts_us=())
    match state.phase:
        case Phase.DOWN | Phase.STOPPING | Phase.CLEANING:
            return state, ()
        case Phase.STARTING:
            return replace(state, phase=Phase.STOPPING, epoch=state.epoch + 1, next=intent), ()
        case _:
            return _end(state, intent)


def _end(state: State, intent: Intent) -> Step:
    state = replace(state, phase=Phase.STOPPING, epoch=state.epoch + 1)
    return state, (End(state.epoch, intent),)


def _launch(state: State) -> Step:
    intent = state.next or Intent(reason="restart policy")
    if not state.dependencies:
        return replace(state, phase=Phase.WAITING, next=intent), (Wait(state.epoch),)
    epoch = state.epoch + 1
    state = replace(state, phase=Phase.STARTING, epoch=epoch, next=None, spawning=True)
    return state, (Spawn(epoch, intent, len(state.restarts_us)),)


def _spawn_answered(state: State, epoch: int, spawned: bool, policy: Service, now_us: int) -> Step:
    if not state.spawning:
        return state, ()
    state = replace(state, spawning=False)
    if state.phase is Phase.STOPPING:  # decided while the spawn was under way; the epoch is the stop's already
        return state, (End(state.epoch, state.next or Intent(reason="stopped while starting")),)
    if epoch != state.epoch:
        return state, ()
    if spawned:
        return replace(state, phase=Phase.RUNNING), (Probe(epoch),)
    return _policy(replace(state, failed=True), policy, now_us, resting=Phase.BLOCKED)


def _ended(state: State, policy: Service, now_us: int) -> Step:
    if state.phase not in (Phase.STOPPING, Phase.CLEANING):
        return state, ()
    if not state.wanted:
        return replace(state, phase=Phase.DOWN, next=None), ()
    if state.next is not None:
        return _launch(replace(state, restarts_us=()))
    return _policy(state, policy, now_us, resting=Phase.EXITED)


def _policy(state: State, policy: Service, now_us: int, *, resting: Phase) -> Step:
    """What the restart policy says once nothing is left of a process that nobody stopped."""
    automatic = policy.restart == "always" or (policy.restart == "on-failure" and state.failed)
    if not automatic:
        return replace(state, phase=resting), ()
    window_us = policy.give_up_window_seconds * 1_000_000
    recent = tuple(at for at in state.restarts_us if now_us - at < window_us)
    state = replace(state, restarts_us=recent)
    if policy.give_up_after and len(recent) >= policy.give_up_after:
        return replace(state, phase=Phase.GAVE_UP), (GiveUp(state.epoch, len(recent)),)
    delay = Delay(state.epoch, back_off_seconds(policy, len(recent)), len(recent))
    return replace(state, phase=Phase.BACKING_OFF), (delay,)
