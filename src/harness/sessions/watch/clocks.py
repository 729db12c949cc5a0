"""The clocks of a watch and its count of identical calls: when something was last seen. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from harness.sessions import facts
from harness.sessions.watch.actions import Moment


@dataclass(slots=True)
class Clocks:
    """Moments on the monotonic clock."""

    output: float
    progress: float
    floor: float  # nothing before counts: a turn or a rung began then
    began: float  # since when it should be moving at all
    tool: float | None = None
    retry: float | None = None  # until then
    longest_retry: float = 0.0  # seconds, of those announced since the last progress
    result: float | None = None
    answered: float | None = None  # something came after the probe

    def shift(self, seconds: float) -> None:
        """As if the last so many seconds had not been."""
        self.output += seconds
        self.progress += seconds
        self.floor += seconds
        self.began += seconds
        for name in ("tool", "retry", "result", "answered"):
            if (value := getattr(self, name)) is not None:
                setattr(self, name, value + seconds)


@dataclass(slots=True)
class Repeats:
    """The same tool call, again and again."""

    call: str = ""
    count: int = 0
    texts: set[str] = field(default_factory=set[str])  # what it said in between, which is no progress when it is the same

    def take(self, item: facts.ItemCompleted) -> bool:
        """Count the item; whether it is progress."""
        if item.kind == "reasoning":
            return not self.count
        if item.kind == "text":
            new = item.summary not in self.texts
            self.texts.add(item.summary)
            self.count = 0 if new else self.count
            return new
        if item.kind == "tool" and item.call and item.call == self.call:
            self.count += 1
            return False
        self.call, self.count = (item.call, 1) if item.kind == "tool" else ("", 0)
        self.texts.clear()
        return True


def clocks_at(at: float) -> Clocks:
    return Clocks(output=at, progress=at, floor=at, began=at)


def on_monotonic(wall_us: int, since: Moment, now: Moment) -> float:
    """A moment of the wall clock on the monotonic one, within what was looked at."""
    ago = max(0.0, (now.wall_us - wall_us) / 1_000_000)
    return max(since.monotonic, now.monotonic - ago)


def slept(since: Moment, now: Moment) -> bool:
    """Whether the two clocks went apart: the machine slept, or somebody set the time."""
    wall = (now.wall_us - since.wall_us) / 1_000_000
    return abs(wall - (now.monotonic - since.monotonic)) > 1.0
