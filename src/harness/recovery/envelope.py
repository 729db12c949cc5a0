"""What an agent may do: one decision about one action, from what is true right now. Pure: no clock, no I/O.

It is asked twice: by the agent when it proposes, and by the supervisor, which alone acts, before it executes.
What is true right now is gathered by `harness.recovery.history`. The envelope binds agents, not people.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256

import msgspec

from harness.recovery.declarations import Limits
from harness.recovery.facts import OWN_PREFIX, ActionKind, ActionRequested, Decision, Level, Origin, Outcome, Verdict

HOUR_US = 3_600_000_000


class Limit(StrEnum):
    """Why something is refused, for machines: the `limit` of a decision."""

    UNKNOWN_TARGET = "unknown_target"
    OWN_PROCESS = "own_process"
    PEOPLE_ONLY = "people_only"
    OFF = "off"
    PAUSED = "paused"
    DENIED = "denied"
    RECURRENCE = "recurrence"
    PER_INCIDENT = "actions_per_incident"
    PER_TARGET_HOUR = "actions_per_target_hour"
    TARGET_BUSY = "target_busy"
    CONCURRENT_TARGETS = "concurrent_targets"
    BREAKER = "breaker"


PASSING = frozenset({Limit.PAUSED, Limit.TARGET_BUSY, Limit.CONCURRENT_TARGETS})
"""Refusals that end by themselves or by `harness unpause`: wait and ask again. All others go to a person."""

_PEOPLE_ONLY = frozenset({ActionKind.START_SERVICE})


class Approval(StrEnum):
    """What a person said about these very arguments."""

    NONE = "none"
    GRANTED = "granted"
    DENIED = "denied"


@dataclass(frozen=True, slots=True, kw_only=True)
class PastAction:
    """An action that was begun."""

    action_id: str
    target: str
    ticket: str
    started_us: int
    outcome: Outcome | None = None  # None: still going on


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What is true now of one proposed action. `actions` reaches back over this incident and the last hour at least."""

    now_us: int
    action_id: str
    kind: ActionKind
    target: str
    ticket: str
    origin: Origin
    level: Level  # declared for this target and kind
    limits: Limits
    known: bool  # the target is a declared service
    paused: str | None = None  # who paused and why, in words; None: not paused
    approval: Approval = Approval.NONE
    actions: tuple[PastAction, ...] = ()  # by agents only; this action itself is not counted
    fixes_us: tuple[int, ...] = ()  # when fixes of this fingerprint were verified
    failures_us: tuple[int, ...] = ()  # when actions on this target failed, or an attempt did not heal it

    @property
    def others(self) -> tuple[PastAction, ...]:
        """All actions but this one, which the supervisor may have begun already when it asks again."""
        return tuple(action for action in self.actions if action.action_id != self.action_id)


def decide(situation: Situation) -> Decision:
    """Whether the action may be done, must be asked for, or may only be suggested; with the reason in words."""
    if not situation.known:
        return _refuse(situation, Limit.UNKNOWN_TARGET, f"no service {situation.target!r} is declared")
    if situation.origin is Origin.PERSON:
        return Decision(verdict=Verdict.ALLOW, level=situation.level, reason="a person asked for it")
    return _forbidden(situation) or _exhausted(situation) or _levelled(situation)


def passes_by(decision: Decision) -> bool:
    """Whether a refusal ends without a person deciding about this incident, so that asking again later makes sense."""
    return decision.verdict is Verdict.REFUSE and decision.limit in PASSING


def proposal_of(action_id: str) -> str:
    """The proposal that an action carries out; `ID.2` is the second request of proposal `ID`, the first was void."""
    return action_id.partition(".")[0]


def digest_of(request: ActionRequested) -> str:
    """What an approval is bound to: this one proposal, with these very arguments."""
    bound = {
        "proposal": proposal_of(request.action_id),
        "kind": request.kind.value,
        "target": request.target,
        "arguments": request.arguments,
    }
    return sha256(msgspec.json.encode(bound, order="sorted")).hexdigest()


def _forbidden(situation: Situation) -> Decision | None:
    target, kind = situation.target, situation.kind
    if target.startswith(OWN_PREFIX):
        return _refuse(situation, Limit.OWN_PROCESS, f"{target} is one of Harness's own processes; no agent touches those")
    if kind in _PEOPLE_ONLY:
        return _refuse(situation, Limit.PEOPLE_ONLY, f"{kind} is for people only")
    if situation.level is Level.OFF:
        return _refuse(situation, Limit.OFF, f"the envelope of {target} has {kind} off")
    if situation.paused is not None:
        return _refuse(situation, Limit.PAUSED, f"recovery is paused: {situation.paused}")
    if situation.approval is Approval.DENIED:
        return _refuse(situation, Limit.DENIED, "a person said no to these arguments")
    return None


def _exhausted(situation: Situation) -> Decision | None:
    now, limits, target = situation.now_us, situation.limits, situation.target
    recent_fixes = _within(situation.fixes_us, limits.recurrence_seconds, now)
    if recent_fixes >= limits.recurrences:
        return _refuse(
            situation, Limit.RECURRENCE,
            f"fixed {recent_fixes} times in {_spell(limits.recurrence_seconds)} and back; a person has to find the cause",
        )  # fmt: skip
    same_incident = sum(action.ticket == situation.ticket for action in situation.others)
    if same_incident >= limits.actions_per_incident:
        return _refuse(
            situation, Limit.PER_INCIDENT,
            f"{same_incident} actions were done for this incident, and {limits.actions_per_incident} is the limit",
        )  # fmt: skip
    on_target = [action for action in situation.others if action.target == target]
    last_hour = sum(now - action.started_us < HOUR_US for action in on_target)
    if last_hour >= limits.actions_per_target_hour:
        return _refuse(
            situation, Limit.PER_TARGET_HOUR,
            f"{last_hour} actions were done on {target} within an hour, and {limits.actions_per_target_hour} is the limit",
        )  # fmt: skip
    if running := [action.action_id for action in on_target if action.outcome is None]:
        return _refuse(situation, Limit.TARGET_BUSY, f"action {running[0]} on {target} is still going on")
    elsewhere = sorted({action.target for action in situation.others if action.outcome is None})
    if len(elsewhere) >= limits.concurrent_targets:
        return _refuse(
            situation, Limit.CONCURRENT_TARGETS,
            f"{', '.join(elsewhere)} is being acted on, and {limits.concurrent_targets} at a time is the limit",
        )  # fmt: skip
    return None


def _levelled(situation: Situation) -> Decision:
    level, limits, what = situation.level, situation.limits, f"{situation.kind} on {situation.target}"
    match level:
        case Level.APPROVE if situation.approval is Approval.GRANTED:
            return Decision(verdict=Verdict.ALLOW, level=level, reason="a person approved these very arguments")
        case Level.APPROVE:
            return Decision(verdict=Verdict.ASK, level=level, reason=f"{what} needs a person's approval")
        case Level.AUTO:
            failures = _within(situation.failures_us, limits.breaker_seconds, situation.now_us)
            if failures < limits.breaker_failures:
                return Decision(verdict=Verdict.ALLOW, level=level, reason=f"{what} is automatic")
            reason = f"{failures} failures in {_spell(limits.breaker_seconds)} opened the breaker: {what} is only suggested"
            return Decision(verdict=Verdict.SUGGEST, level=Level.SUGGEST, reason=reason, limit=Limit.BREAKER)
        case Level.SUGGEST | Level.OFF:
            return Decision(verdict=Verdict.SUGGEST, level=level, reason=f"{what} is only suggested; the envelope says so")


def _refuse(situation: Situation, limit: Limit, reason: str) -> Decision:
    return Decision(verdict=Verdict.REFUSE, level=situation.level, reason=reason, limit=limit)


def _within(times_us: tuple[int, ...], seconds: float, now_us: int) -> int:
    return sum(0 <= now_us - time_us < seconds * 1_000_000 for time_us in times_us)


def _spell(seconds: float) -> str:
    for size, word in ((3600, "h"), (60, "min")):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:g} {word}"
    return f"{seconds:g} s"
