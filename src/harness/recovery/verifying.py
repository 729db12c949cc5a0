"""Whether a repair holds: fresh passing results of all checks, newer than the action, through a window. Pure.

Unknown is no pass, and neither is a result whose look began before the action was over.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from harness.recovery.checks import Sample
from harness.recovery.facts import CheckResult


@dataclass(frozen=True, slots=True)
class Streak:
    """Passes in a row of one check, all of them newer than the action."""

    first_us: int  # when the first of them ended
    last_us: int
    count: int
    recent_us: tuple[int, ...] = ()  # when the newest passes ended, as many as are needed


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a verification has come. Holds once `holds` is true; else `reason` says what is missing."""

    holds: bool
    reason: str
    since_us: int = 0  # all checks have passed since
    passes: Mapping[str, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """One attempt being verified."""

    ticket: str
    attempt: int
    action_id: str
    after_us: int  # only looks that began later count
    window_us: int
    deadline_us: int
    needed: Mapping[str, int]  # by check, how many passes in a row its policy wants before it believes a recovery
    streaks: Mapping[str, Streak]
    trouble: str = ""  # the newest thing that was not a pass

    def saw(self, sample: Sample) -> Verification:
        """The verification after one more result."""
        name = sample.check
        if name not in self.needed or sample.started_us <= self.after_us:
            return self
        streaks = dict(self.streaks)
        if sample.result is not CheckResult.PASS:
            streaks.pop(name, None)
            return replace(self, streaks=streaks, trouble=f"{name}: {sample.result.value}: {sample.detail}")
        old = streaks.get(name)
        recent_us = (*(old.recent_us if old else ()), sample.ended_us)[-max(1, self.needed[name]) :]
        first_us, count = (old.first_us, old.count + 1) if old else (sample.ended_us, 1)
        streaks[name] = Streak(first_us, sample.ended_us, count, recent_us)
        return replace(self, streaks=streaks)

    def broke(self, at_us: int, reason: str) -> Verification:
        """Hard evidence against it, such as a process exit: nothing seen before counts any longer."""
        if at_us <= self.after_us:
            return self
        return replace(self, after_us=at_us, streaks={}, trouble=reason)

    def standing(self) -> Standing:
        """Whether it holds by what was seen so far."""
        if not self.needed:
            return Standing(False, "nothing checks it, so nobody can verify it")
        for name, needed in self.needed.items():
            streak = self.streaks.get(name)
            if streak is None or streak.count < needed:
                seen = streak.count if streak else 0
                return Standing(False, self.trouble or f"{name} has passed {seen} of {needed} times since")
        since_us = max(streak.first_us for streak in self.streaks.values())
        held_us = min(streak.last_us for streak in self.streaks.values()) - since_us
        if held_us < self.window_us:
            return Standing(False, f"all checks pass, for {held_us / 1e6:.1f} s of {self.window_us / 1e6:g} s", since_us)
        for name, needed in self.needed.items():  # what a check passed before the others did is not of this window
            inside = sum(ended_us >= since_us for ended_us in self.streaks[name].recent_us)
            if inside < needed:
                return Standing(False, f"{name} has passed {inside} of {needed} times since all checks pass", since_us)
        return Standing(True, "", since_us, {name: streak.count for name, streak in self.streaks.items()})

    def overdue(self, now_us: int) -> bool:
        """Whether it is too late. A streak that began in time may still run through its window."""
        if now_us < self.deadline_us:
            return False
        promising = len(self.streaks) == len(self.needed) > 0
        since_us = max((streak.first_us for streak in self.streaks.values()), default=0)
        return not (promising and since_us < self.deadline_us and now_us < since_us + 2 * self.window_us)


def begun(
    *, ticket: str, attempt: int, action_id: str, after_us: int, window_us: int, deadline_us: int, needed: Mapping[str, int]
) -> Verification:
    """A verification that has seen nothing yet."""
    return Verification(
        ticket=ticket, attempt=attempt, action_id=action_id, after_us=after_us, window_us=window_us,
        deadline_us=deadline_us, needed=dict(needed), streaks={},
    )  # fmt: skip
