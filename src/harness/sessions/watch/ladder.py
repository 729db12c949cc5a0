"""The watch ladder: whether an agent is stalled, and what is done about it. Pure: no I/O, and time is passed in.

Several clocks run while an agent should be moving: since its last byte, since its last progress, in a tool, in a retry it
announced, since a result after which it should have ended. An agent at its prompt, waiting for a person or held by a limit
is not stalled. Of one whose state nobody knows nothing is killed and nothing is sent to it: it is probed, then a person is
told. Bytes without progress are patience with a bound, but only of a program that tells of its progress at all.

`observe` takes in what is seen, `decide` says what to do and changes nothing, `took` tells that it was done.
"""

from __future__ import annotations

from collections.abc import Collection
from enum import Enum

import msgspec

from harness.sessions import facts
from harness.sessions.facts import Mode, State
from harness.sessions.published import exit_code
from harness.sessions.reports import Progress
from harness.sessions.watch.actions import (
    Action,
    Clock,
    Continue,
    Finished,
    Fresh,
    Interrupt,
    Limited,
    Means,
    Moment,
    Park,
    Probe,
    Resume,
    Sample,
    Seen,
    Stall,
    Wait,
)
from harness.sessions.watch.clocks import Repeats, clocks_at, on_monotonic, slept
from harness.sessions.watch.policy import Policy, in_words

GRACE_SECONDS = 30.0
"""How much later than asked somebody may look before the rest counts as sleep of the machine."""


class Rung(Enum):
    """How far up the ladder this stall has led; any real progress leads back to the ground."""

    GROUND = 0
    PROBED = 1
    INTERRUPTED = 2  # and it is not cut yet
    CUT = 3  # and has to be told to go on
    CONTINUED = 4
    RESUMED = 5
    FRESH = 6


_RUNNING = frozenset({State.STARTING, State.BUSY, State.UNKNOWN})
_PROGRESS_ITEMS = frozenset({"text", "tool", "file", "plan", "compaction", "reasoning"})
_SIGNS = (
    facts.Started, facts.Identified, facts.TurnStarted, facts.TurnCompleted, facts.ItemCompleted, facts.Usage, facts.Retried,
    facts.Limited, facts.ApprovalRequested, facts.Unrecognised,
)  # fmt: skip
"""What the agent itself is behind; what we do, or its host says, is no sign of life."""


class Watch:
    """What one watcher knows of one agent, over all the runs that it takes."""

    def __init__(self, policy: Policy, now: Moment, *, mode: Mode | str = "", means: Collection[Means] = ()) -> None:
        self.policy = policy
        self.mode = mode
        self.means = frozenset(means)
        self.state = State.STARTING
        self.rung = Rung.GROUND
        self.resumes = 0
        self._until_us: int | None = None
        self._exited: facts.Exited | None = None
        self._cut_by_limit = False
        self._outcome = ""
        self._tells_progress = False
        self._stall: Stall | None = None  # that the present rung is for
        self._cannot_probe = False
        self._nothing_to_interrupt = False
        self._repeats = Repeats()
        self._clocks = clocks_at(now.monotonic)
        self._sample: tuple[Sample, Moment] | None = None
        self._looked = now
        self._wake: float | None = now.monotonic

    # -- seeing

    def observe(self, seen: Seen, now: Moment) -> None:
        """Take in an event's payload, a report, or a sample."""
        self._look(now)
        at = now.monotonic
        match seen:
            case Sample():
                self._take_sample(seen, now)
            case Progress():
                self._clocks.output = self._clocks.answered = at
                began_or_ended = seen.in_tool is not None and seen.in_tool is not (self._clocks.tool is not None)
                if seen.what in ("text", "tokens") or began_or_ended:
                    self._clocks.progress = at
                if seen.in_tool is not None:
                    self._in_tool(seen.in_tool, at)
            case facts.Exited():
                self._exited = seen
            case _:
                if isinstance(seen, _SIGNS) or (isinstance(seen, facts.Moved) and seen.receipt):
                    self._clocks.output = self._clocks.answered = at
                self._take(seen, at)

    def _take(self, seen: msgspec.Struct, at: float) -> None:
        match seen:
            case facts.StateChanged():
                self._become(seen, at)
            case facts.TurnStarted():
                self._cut_by_limit = False
                self._clocks.result = self._clocks.retry = None
                self._repeats = Repeats()
                self._clocks.progress = self._clocks.floor = self._clocks.began = at
                if self.rung in (Rung.PROBED, Rung.CUT):
                    self.rung = Rung.GROUND
            case facts.TurnCompleted():
                self._turn_over(seen, at)
            case facts.ItemCompleted():
                self._tells_progress = True
                counts = seen.kind in _PROGRESS_ITEMS and self._repeats.take(seen)
                if counts:
                    self._progressed(at)
            case facts.GitObserved() if seen.phase == "change":
                self._progressed(at)
            case facts.Usage() if seen.input_tokens or seen.output_tokens:
                self._clocks.progress = at
            case facts.Retried():
                delay = seen.delay_seconds or 0.0
                self._clocks.retry = at + delay
                self._clocks.longest_retry = max(self._clocks.longest_retry, delay)
            case facts.Limited():
                self._until_us = seen.until_us
            case facts.Noted() if seen.kind == "probe":
                self._cannot_probe = True
            case facts.Noted() if seen.kind == "interrupt":
                self._nothing_to_interrupt = True
            case _:
                pass

    def _become(self, seen: facts.StateChanged, at: float) -> None:
        if seen.state in _RUNNING and self.state not in _RUNNING:
            self._clocks.floor = self._clocks.began = at  # it had no reason to move before
        self.state = seen.state
        if seen.state is State.LIMITED:
            self._until_us = seen.until_us
            self._clocks.floor = self._clocks.began = at
        if seen.state not in _RUNNING and self.rung is Rung.PROBED:
            self.rung = Rung.GROUND
        if seen.state is State.BLOCKED and self.rung is Rung.INTERRUPTED:
            self.rung = Rung.CONTINUED  # it asks a person something, and goes on by itself
        if seen.state is State.PROMPT and self.rung is Rung.INTERRUPTED and "outcomes" not in self.means:
            self.rung = Rung.CUT

    def _turn_over(self, seen: facts.TurnCompleted, at: float) -> None:
        self._clocks.tool = self._clocks.retry = None
        self._cut_by_limit, self._outcome = seen.outcome == "limit", seen.outcome
        if not seen.more:
            self._clocks.result = at
        known = "outcomes" in self.means
        if self.rung is Rung.INTERRUPTED and (seen.outcome in ("interrupted", "error") or not known):
            self.rung = Rung.CUT
        elif self.rung is Rung.CUT and not known:
            pass  # its state has told the same
        elif seen.outcome == "success":
            self._clocks.progress = at
            self.rung = Rung.GROUND

    def _progressed(self, at: float) -> None:
        self._clocks.progress = at
        self._clocks.retry, self._clocks.longest_retry = None, 0.0
        if self.rung is not Rung.INTERRUPTED:  # what was under way may still come in
            self.rung = Rung.GROUND

    def _in_tool(self, in_tool: bool, at: float) -> None:
        if in_tool and self._clocks.tool is None:
            self._clocks.tool = at
        elif not in_tool:
            self._clocks.tool = None

    def _take_sample(self, sample: Sample, now: Moment) -> None:
        before, self._sample = self._sample, (sample, now)
        if before is None:
            return
        since, apart = before[1], slept(before[1], now)
        if sample.output_bytes != before[0].output_bytes or sample.output_us != before[0].output_us:
            at = now.monotonic if apart else on_monotonic(sample.output_us, since, now)
            self._clocks.output = max(self._clocks.output, at)
            if self._clocks.answered is None or self._clocks.answered < at:
                self._clocks.answered = at
        if sample.progress_us is not None and sample.progress_us != before[0].progress_us:
            at = now.monotonic if apart else on_monotonic(sample.progress_us, since, now)
            self._clocks.progress = max(self._clocks.progress, at)
        if sample.in_tool is not None:
            self._in_tool(sample.in_tool, now.monotonic)

    def _look(self, now: Moment) -> None:
        """A time that passed far beyond what was asked for was none of the agent's: the machine slept, who knows since when."""
        before, self._looked = self._looked, now
        if self._wake is None:
            return
        passed = now.monotonic - before.monotonic
        if passed > max(0.0, self._wake - before.monotonic) + GRACE_SECONDS:
            self._clocks.shift(passed)
            self._wake += passed

    # -- deciding

    def decide(self, now: Moment) -> Action:
        """What to do now. The same until something is seen, time passes, or it is told that it was done."""
        self._look(now)
        action = self._decide(now)
        self._wake = action.until if isinstance(action, Wait) else None
        return action

    def _decide(self, now: Moment) -> Action:
        if self._exited is not None:
            return self._ended(self._exited, now)
        if self.mode == Mode.ONCE and self._clocks.result is not None:
            return self._lingering(self._clocks.result + self.policy.linger_seconds, now)
        if self._limit_holds(now):
            return Limited(self._until_us) if self._until_us is not None else self._unlimited(now)
        if self._cut_by_limit:
            return Continue("limit")
        if self.rung is Rung.CUT:
            return Continue("interrupted", self._stall)
        if self.rung is Rung.INTERRUPTED and self.state is State.PROMPT:
            return self._uncertain(now)
        if self.state not in _RUNNING and not (self.state is State.LIMITED and self._until_us is not None):
            return Wait(None)
        clock, due = self._due()
        return Wait(due) if now.monotonic < due else self._climb(self._stalled(clock, now), now)

    def _lingering(self, due: float, now: Moment) -> Action:
        """It was asked for one result and has given it."""
        if now.monotonic < due:
            return Wait(due)
        good = self._outcome == "success"
        return Finished("success" if good else "failure", 0 if good else 1, lingers=True)

    def _uncertain(self, now: Moment) -> Action:
        """It is at its prompt after an interrupt, and has not said whether its turn was cut or done."""
        due = self._clocks.floor + self.policy.answer_seconds
        if now.monotonic < due:
            return Wait(due)
        return Park("it was interrupted, and nobody knows whether it was done", self._stalled("interrupt", now))

    def _limit_holds(self, now: Moment) -> bool:
        if self.state is not State.LIMITED and not self._cut_by_limit:
            return False
        return self._until_us is None or now.wall_us < self._until_us

    def _unlimited(self, now: Moment) -> Action:
        """A limit of which nobody says when it ends."""
        due = self._clocks.floor + self.policy.stall_after_seconds
        if now.monotonic < due:
            return Wait(due)
        return Park("a usage limit, and nobody says when it resets", self._stalled("limit", now))

    def _due(self) -> tuple[Clock, float]:
        """The clock that runs out first, and when."""
        clocks, policy = self._clocks, self.policy
        if self.rung is Rung.PROBED:
            return "probe", clocks.floor + policy.answer_seconds
        if self.rung is Rung.INTERRUPTED:
            return "interrupt", clocks.floor if self._nothing_to_interrupt else clocks.floor + policy.answer_seconds
        if self._repeats.count >= policy.repeats:
            return "repeats", clocks.floor
        still = max(clocks.output, clocks.progress, clocks.floor)
        quiet: Clock = "quiet"
        if clocks.retry is not None and clocks.retry > still:
            quiet, still = "retry", clocks.retry
        due, first = still + policy.stall_after_seconds, quiet
        if self._judges_progress:
            bound: tuple[float, Clock] = (policy.spinning * policy.stall_after_seconds, "progress")
            if clocks.retry is not None:
                bound = (policy.retrying * policy.stall_after_seconds + clocks.longest_retry, "retry")
            elif clocks.tool is not None:
                bound = (policy.in_tool * policy.stall_after_seconds, "tool")
            due, first = min((due, first), (max(clocks.progress, clocks.floor) + bound[0], bound[1]))
        return first, due

    def _stalled(self, clock: Clock, now: Moment) -> Stall:
        if self.rung in (Rung.PROBED, Rung.INTERRUPTED) and self._stall is not None:
            begun = self._stall  # the same stall, further on
            return Stall(
                clock=clock, idle_seconds=self._idle(now), state=self.state,
                reason=f"{begun.reason}; {_REASONS[clock].format(time=in_words(self.policy.answer_seconds), count=0)}",
            )  # fmt: skip
        idle = self._idle(now)
        words = _REASONS[clock].format(time=in_words(idle), count=self._repeats.count)
        return Stall(clock=clock, idle_seconds=idle, state=self.state, reason=words)

    def _idle(self, now: Moment) -> float:
        clocks = self._clocks
        last = clocks.progress if self._judges_progress else max(clocks.progress, clocks.output)
        return max(0.0, now.monotonic - max(last, clocks.began))

    @property
    def _judges_progress(self) -> bool:
        return self._tells_progress or "progress" in self.means

    def _climb(self, stall: Stall, now: Moment) -> Action:
        """The next rung that there is."""
        if self.rung is Rung.GROUND and stall.clock != "repeats":
            return Probe(stall)
        if self.state in (State.UNKNOWN, State.LIMITED):
            return Park(f"its state is not known: {stall.reason}", stall)
        if self.resumes >= self.policy.max_resumes:
            return Park("max resumes reached", stall)
        number = self.resumes + 1
        if self.rung in (Rung.GROUND, Rung.PROBED) and self._can_interrupt():
            return Interrupt(stall, number)
        if self.rung.value < Rung.RESUMED.value and "vendor" in self.means:
            return Resume(stall, number)
        if self.rung.value < Rung.FRESH.value and "fresh" in self.means:
            return Fresh(stall, number)
        return Park(f"nothing is left to try: {stall.reason}", stall)

    def _can_interrupt(self) -> bool:
        if "interrupt" not in self.means or self.state is not State.BUSY:
            return False
        deaf = self.rung is Rung.PROBED and "probe" in self.means and not self._cannot_probe and not self._answered()
        return not deaf or not {"vendor", "fresh"} & self.means  # who does not answer does not hear an interrupt either

    def _answered(self) -> bool:
        return self._clocks.answered is not None and self._clocks.answered >= self._clocks.floor

    def _ended(self, exited: facts.Exited, now: Moment) -> Action:
        good = exited.reason in (facts.ExitReason.SUCCESS, facts.ExitReason.STOPPED)
        if self.rung in (Rung.RESUMED, Rung.FRESH) and not good:
            stall = self._stalled("exit", now)
            if self.resumes >= self.policy.max_resumes:
                return Park("max resumes reached", stall)
            if self.rung is Rung.RESUMED and "fresh" in self.means:
                return Fresh(stall, self.resumes + 1)
            return Park(f"nothing is left to try: {stall.reason}", stall)
        code = exit_code(exited)
        return Finished(str(exited.reason), 1 if code is None else code)

    # -- having done

    def took(self, action: Action, now: Moment) -> None:
        """That this action was carried out. After `Resume` and `Fresh` the watch is of the new run, from here on."""
        self._look(now)
        clocks = self._clocks
        match action:
            case Probe():
                self.rung, self._stall, self._cannot_probe = Rung.PROBED, action.stall, False
                clocks.floor, clocks.answered = now.monotonic, None
            case Interrupt():
                self.rung, self._stall, self.resumes = Rung.INTERRUPTED, action.stall, action.number
                self._nothing_to_interrupt = False
                clocks.floor = now.monotonic
                self._repeats = Repeats()
            case Continue():
                self._cut_by_limit = False
                if self.rung is Rung.CUT:
                    self.rung = Rung.CONTINUED
                clocks.floor = now.monotonic
            case Resume() | Fresh():
                self.rung = Rung.RESUMED if isinstance(action, Resume) else Rung.FRESH
                self._stall, self.resumes = action.stall, action.number
                self._begin_again(now)
            case _:
                pass

    def _begin_again(self, now: Moment) -> None:
        at = now.monotonic
        self.state, self._until_us, self._exited, self._cut_by_limit = State.STARTING, None, None, False
        self._clocks = clocks_at(at)
        self._repeats, self._sample = Repeats(), None


_REASONS: dict[Clock, str] = {
    "quiet": "nothing has come from it for {time}",
    "progress": "it moves and has made no progress for {time}",
    "tool": "a tool has run for {time} without an end",
    "retry": "it has announced retries for {time} and made no progress",
    "repeats": "it has made the same tool call {count} times in a row",
    "result": "it has given its result and does not end",
    "probe": "no progress within {time} of a probe",
    "interrupt": "no end of its turn within {time} of an interrupt",
    "exit": "it ended before it had made any progress",
    "limit": "it has been held by a limit for {time}",
}
