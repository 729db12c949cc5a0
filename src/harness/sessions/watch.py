"""The watch ladder: whether an agent is stalled, and what is done about it. Pure: no I/O, and time is passed in.

Several clocks run while an agent should be moving: since its last byte, since its last progress, in a tool, in a retry it
announced, since a result after which it should have ended. An agent at its prompt, waiting for a person or held by a limit
is not stalled. Of one whose state nobody knows nothing is killed and nothing is sent to it: it is probed, then a person is told.

`observe` takes in what is seen, `decide` says what to do and changes nothing, `took` tells that it was done.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal

import msgspec

from harness.sessions import facts
from harness.sessions.facts import Mode, State
from harness.sessions.reports import Progress
from harness.sessions.watch_policy import Policy, in_words

GRACE_SECONDS = 30.0
"""How much later than asked somebody may look before the rest counts as sleep of the machine."""

Clock = Literal["quiet", "progress", "tool", "retry", "repeats", "result", "probe", "interrupt", "exit", "limit"]
Means = Literal["probe", "interrupt", "outcomes", "vendor", "fresh"]
"""What there is: an answer to probes, an interrupt, turns that say how they ended, a vendor's session, another start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """A time on both clocks of a machine. Only the monotonic one counts idleness; only the other knows a reset."""

    monotonic: float
    wall_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What can be seen of a session without its ledger, as the host's files have it. Not an event."""

    output_bytes: int  # any number that changes when output comes
    output_us: int  # when it changed last, by the wall clock
    progress_us: int | None = None  # the same for progress, where the host tells it
    in_tool: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stall:
    """Why an agent is thought to be stalled."""

    clock: Clock
    idle_seconds: float
    state: State
    reason: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do before `until` on the monotonic clock, unless something is seen; None: nothing but that matters."""

    until: float | None


@dataclass(frozen=True, slots=True)
class Probe:
    """Ask for a sign of life."""

    stall: Stall


@dataclass(frozen=True, slots=True)
class Interrupt:
    """End the turn under way; `Continue` follows once it was cut."""

    stall: Stall
    number: int


@dataclass(frozen=True, slots=True)
class Continue:
    """Tell an agent that was cut, and is at its prompt, to go on."""

    why: Literal["interrupted", "limit"]
    stall: Stall | None = None


@dataclass(frozen=True, slots=True)
class Resume:
    """End the tree and go on with the same session of the vendor."""

    stall: Stall
    number: int


@dataclass(frozen=True, slots=True)
class Fresh:
    """End the tree and hand over to a session that knows nothing but what it is told."""

    stall: Stall
    number: int


@dataclass(frozen=True, slots=True)
class Park:
    """Leave it as it is and tell a person."""

    reason: str
    stall: Stall | None = None


@dataclass(frozen=True, slots=True)
class Limited:
    """A usage limit holds it until then, by the wall clock."""

    until_us: int


@dataclass(frozen=True, slots=True)
class Finished:
    """It has ended. `lingers`: it has given its result and its process is still there, to be ended."""

    outcome: str
    code: int
    lingers: bool = False


Action = Wait | Probe | Interrupt | Continue | Resume | Fresh | Park | Limited | Finished
Seen = msgspec.Struct | Progress | Sample


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
_OWN = (facts.StopRequested, facts.InterruptRequested, facts.ProbeRequested, facts.Queued, facts.Stalled, facts.Resumed, facts.Escalated)  # fmt: skip


@dataclass(slots=True)
class _Clocks:
    """Moments on the monotonic clock."""

    output: float
    progress: float
    floor: float  # nothing before counts: a turn or a rung began then
    tool: float | None = None
    retry: float | None = None  # until then
    result: float | None = None
    answered: float | None = None  # something came after the probe

    def shift(self, seconds: float) -> None:
        """As if the last so many seconds had not been."""
        self.output += seconds
        self.progress += seconds
        self.floor += seconds
        for name in ("tool", "retry", "result", "answered"):
            if (value := getattr(self, name)) is not None:
                setattr(self, name, value + seconds)


@dataclass(slots=True)
class _Repeats:
    """The same tool call, again and again."""

    call: str = ""
    count: int = 0
    texts: set[str] = field(default_factory=set[str])  # what it said in between, which is no progress when it is the same

    def take(self, item: facts.ItemCompleted) -> bool:
        """Count the item; whether it is progress."""
        if item.kind == "reasoning":
            return not self.count
        if item.kind == "text" and self.count > 1:
            new = item.summary not in self.texts
            self.texts.add(item.summary)
            return new and len(self.texts) == 1
        if item.kind == "tool" and item.call and item.call == self.call:
            self.count += 1
            return False
        self.call, self.count = (item.call, 1) if item.kind == "tool" else ("", 0)
        self.texts.clear()
        return True


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
        self._stall: Stall | None = None  # that the present rung is for
        self._cannot_probe = False
        self._nothing_to_interrupt = False
        self._repeats = _Repeats()
        self._clocks = _Clocks(output=now.monotonic, progress=now.monotonic, floor=now.monotonic)
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
                self._clocks.output = at
                if seen.what not in ("output", "heartbeat"):
                    self._clocks.progress = at
                if seen.in_tool is not None:
                    self._in_tool(seen.in_tool, at)
            case facts.Exited():
                self._exited = seen
            case _ if isinstance(seen, _OWN):
                pass  # what we do ourselves is no sign of life
            case _:
                self._clocks.output = at
                self._clocks.answered = at
                self._take(seen, at)

    def _take(self, seen: msgspec.Struct, at: float) -> None:
        match seen:
            case facts.StateChanged():
                self._become(seen, at)
            case facts.TurnStarted():
                self._cut_by_limit = False
                self._clocks.result = self._clocks.retry = None
                self._repeats = _Repeats()
                self._clocks.progress = self._clocks.floor = at
            case facts.TurnCompleted():
                self._turn_over(seen, at)
            case facts.ItemCompleted():
                counts = seen.kind in _PROGRESS_ITEMS and self._repeats.take(seen)
                if counts:
                    self._progressed(at)
            case facts.GitObserved() if seen.phase == "change":
                self._progressed(at)
            case facts.Usage() if seen.input_tokens or seen.output_tokens:
                self._clocks.progress = at
            case facts.Retried():
                self._clocks.retry = at + (seen.delay_seconds or 0.0)
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
            self._clocks.floor = at  # it had no reason to move before
        self.state = seen.state
        if seen.state is State.LIMITED:
            self._until_us = seen.until_us
            self._clocks.floor = at
        if seen.state is State.PROMPT and self.rung is Rung.INTERRUPTED and "outcomes" not in self.means:
            self.rung = Rung.CUT

    def _turn_over(self, seen: facts.TurnCompleted, at: float) -> None:
        self._clocks.tool = self._clocks.retry = None
        self._cut_by_limit = seen.outcome == "limit"
        if not seen.more:
            self._clocks.result = at
        if self.rung is Rung.INTERRUPTED and (seen.outcome == "interrupted" or "outcomes" not in self.means):
            self.rung = Rung.CUT
        elif seen.outcome == "success":
            self._clocks.progress = at
            self.rung = Rung.GROUND

    def _progressed(self, at: float) -> None:
        self._clocks.progress = at
        self._clocks.retry = None
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
        since, slept = before[1], _slept(before[1], now)
        if sample.output_bytes != before[0].output_bytes or sample.output_us != before[0].output_us:
            at = now.monotonic if slept else _at(sample.output_us, since, now)
            self._clocks.output = max(self._clocks.output, at)
            if self._clocks.answered is None or self._clocks.answered < at:
                self._clocks.answered = at
        if sample.progress_us is not None and sample.progress_us != before[0].progress_us:
            at = now.monotonic if slept else _at(sample.progress_us, since, now)
            self._clocks.progress = max(self._clocks.progress, at)
        if sample.in_tool is not None:
            self._in_tool(sample.in_tool, now.monotonic)

    def _look(self, now: Moment) -> None:
        """What passed far beyond the time that was asked for was no time of the agent's: the machine slept."""
        before, self._looked = self._looked, now
        if self._wake is None:
            return
        allowed = max(0.0, self._wake - before.monotonic) + GRACE_SECONDS
        excess = now.monotonic - before.monotonic - allowed
        if excess > 0:
            self._clocks.shift(excess)
            self._wake += excess

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
        if self._limit_holds(now):
            return Limited(self._until_us) if self._until_us is not None else self._unlimited(now)
        if self._cut_by_limit:
            return Continue("limit")
        if self.mode == Mode.ONCE and self._clocks.result is not None:
            due = self._clocks.result + self.policy.linger_seconds
            return Finished("success", 0, lingers=True) if now.monotonic >= due else Wait(due)
        if self.rung is Rung.CUT:
            return Continue("interrupted", self._stall)
        if self.state not in _RUNNING and not (self.state is State.LIMITED and self._until_us is not None):
            return Wait(None)
        clock, due = self._due()
        return Wait(due) if now.monotonic < due else self._climb(self._stalled(clock, now), now)

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
        most, clock = policy.spinning, "progress"
        if clocks.retry is not None:
            most, clock = policy.retrying, "retry"
        elif clocks.tool is not None:
            most, clock = policy.in_tool, "tool"
        choices: list[tuple[float, Clock]] = [
            (still + policy.stall_after_seconds, quiet),
            (max(clocks.progress, clocks.floor) + most * policy.stall_after_seconds, clock),
        ]
        due, first = min(choices)
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
        return max(0.0, now.monotonic - self._clocks.progress)

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
        return self._clocks.answered is not None and self._clocks.answered > self._clocks.floor

    def _ended(self, exited: facts.Exited, now: Moment) -> Action:
        good = exited.reason in (facts.ExitReason.SUCCESS, facts.ExitReason.STOPPED)
        if self.rung in (Rung.RESUMED, Rung.FRESH) and not good:
            stall = self._stalled("exit", now)
            if self.resumes >= self.policy.max_resumes:
                return Park("max resumes reached", stall)
            if self.rung is Rung.RESUMED and "fresh" in self.means:
                return Fresh(stall, self.resumes + 1)
            return Park(f"nothing is left to try: {stall.reason}", stall)
        return Finished(str(exited.reason), exit_code(exited))

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
                self._repeats = _Repeats()
            case Continue():
                self._cut_by_limit, self._until_us = False, None
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
        self._clocks = _Clocks(output=at, progress=at, floor=at)
        self._repeats, self._sample = _Repeats(), None


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


def exit_code(exited: facts.Exited) -> int:
    """The agent's code; 128 and the signal that ended it; 1 if nobody knows."""
    if exited.code is not None and exited.code >= 0:
        return exited.code
    number = exited.signal or (-exited.code if exited.code is not None else 0)
    return 128 + number if number else 1


def _at(wall_us: int, since: Moment, now: Moment) -> float:
    """A moment of the wall clock on the monotonic one, within what was looked at."""
    ago = max(0.0, (now.wall_us - wall_us) / 1_000_000)
    return max(since.monotonic, now.monotonic - ago)


def _slept(since: Moment, now: Moment) -> bool:
    """Whether the two clocks went apart: the machine slept, or somebody set the time."""
    wall = (now.wall_us - since.wall_us) / 1_000_000
    return abs(wall - (now.monotonic - since.monotonic)) > 1.0
