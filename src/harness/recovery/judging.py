"""When a check has really failed: soft and hard state, flapping and silences. Pure: no clock, no I/O.

A result says what one look at the target gave. A state is what many looks add up to, and only a change
of state is worth an event. Unknown never passes, and it never turns a failure into a recovery.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import pairwise

from harness.recovery.facts import CheckResult

DECISIVE = frozenset({CheckResult.PASS, CheckResult.FAIL})
"""The results that say anything about the target."""


class State(StrEnum):
    """What the looks add up to."""

    PENDING = "pending"  # not enough looks yet
    PASSING = "passing"
    FAILING = "failing"
    BLIND = "blind"  # nothing decisive for a while: it may be up or down


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How many looks make a state. Counts are results, not seconds."""

    fail: int = 2  # failures …
    fail_of: int = 3  # … among this many results make FAILING
    recover: int = 3  # passes in a row make PASSING again
    blind: int = 4  # results in a row without a pass or a failure make BLIND
    flap_window: int = 21  # results that are looked at for flapping
    flap_high: int = 8  # that many changes between pass and failure among them: flapping
    flap_low: int = 3  # that few: no longer

    def __post_init__(self) -> None:
        if not (1 <= self.fail <= self.fail_of and self.recover >= 1 and self.blind >= 1):
            raise ValueError(
                f"a policy of {self.fail} of {self.fail_of} to fail and {self.recover} to recover can never decide"
            )
        if not 0 <= self.flap_low < self.flap_high < self.flap_window:
            raise ValueError("flapping must end below where it begins, and begin within its window")


DEFAULT_POLICY = Policy()


@dataclass(frozen=True, slots=True)
class Judgement:
    """What is known of one check: the hard state, and the looks that may change it."""

    state: State = State.PENDING
    recent: tuple[CheckResult, ...] = ()  # oldest first, at most the policy's window
    flapping: bool = False

    @property
    def soft(self) -> bool:
        """Whether the newest result contradicts the hard state, so that a closer look is worth it."""
        if not self.recent:
            return False
        newest = self.recent[-1]
        match self.state:
            case State.PASSING:
                return newest is not CheckResult.PASS
            case State.FAILING | State.BLIND:
                return newest is CheckResult.PASS
            case State.PENDING:
                return newest is not CheckResult.PASS


@dataclass(frozen=True, slots=True)
class Change:
    """A hard state that became another one, or flapping that began or ended."""

    before: Judgement
    after: Judgement

    @property
    def failed(self) -> bool:
        """Whether this is the moment at which the check became failing."""
        return self.after.state is State.FAILING and self.before.state is not State.FAILING


def judge(before: Judgement, result: CheckResult, policy: Policy = DEFAULT_POLICY) -> tuple[Judgement, Change | None]:
    """The judgement after one more result, and what changed, if anything that others must know did."""
    recent = (*before.recent, result)[-policy.flap_window :]
    flapping = _flapping(before.flapping, recent, policy)
    after = Judgement(_state(before.state, recent, policy, flapping=flapping), recent, flapping)
    changed = (after.state, after.flapping) != (before.state, before.flapping)
    return after, Change(before, after) if changed else None


def convict(before: Judgement, policy: Policy = DEFAULT_POLICY) -> tuple[Judgement, Change | None]:
    """Hard evidence of a failure, such as a process exit: no soft state is awaited."""
    after = replace(before, state=State.FAILING, recent=(*before.recent, CheckResult.FAIL)[-policy.flap_window :])
    return after, Change(before, after) if before.state is not State.FAILING else None


def _state(state: State, recent: tuple[CheckResult, ...], policy: Policy, *, flapping: bool) -> State:
    streak = recent[-policy.recover :]
    recovered = len(streak) == policy.recover and all(result is CheckResult.PASS for result in streak)
    failed = recent[-1] is CheckResult.FAIL and recent[-policy.fail_of :].count(CheckResult.FAIL) >= policy.fail
    blind = len(recent) >= policy.blind and not any(result in DECISIVE for result in recent[-policy.blind :])
    match state:
        case State.FAILING:
            return State.PASSING if recovered and not flapping else state
        case State.PASSING | State.BLIND if failed:
            return State.FAILING
        case State.PASSING:
            return State.BLIND if blind else state
        case State.BLIND:
            return State.PASSING if recovered else state
        case State.PENDING if failed:
            return State.FAILING
        case State.PENDING:
            # The first pass is enough at the start: nothing has failed that would have to recover.
            return State.PASSING if recent[-1] is CheckResult.PASS else State.BLIND if blind else state


def _flapping(was: bool, recent: tuple[CheckResult, ...], policy: Policy) -> bool:
    decisive = [result for result in recent if result in DECISIVE]
    changes = sum(earlier is not later for earlier, later in pairwise(decisive))
    return changes > policy.flap_low if was else changes >= policy.flap_high


@dataclass(frozen=True, slots=True, kw_only=True)
class Silence:
    """Nobody wants a ticket for this for a while. Looking goes on, and so does recording."""

    subject: str  # a check's or a target's name
    until_us: int
    reason: str


def silenced(silences: Iterable[Silence], subjects: Iterable[str | None], now_us: int) -> Silence | None:
    """The silence that covers one of the subjects now, the longest one if there are several."""
    wanted = {subject for subject in subjects if subject}
    covering = [silence for silence in silences if silence.subject in wanted and now_us < silence.until_us]
    return max(covering, key=lambda silence: silence.until_us, default=None)
