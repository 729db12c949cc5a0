"""What a watch is shown and what it decides: moments, samples, stalls, and the closed union of actions. No behaviour."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import msgspec

from harness.sessions.facts import State
from harness.sessions.reports import Progress

Clock = Literal["quiet", "progress", "tool", "retry", "repeats", "result", "probe", "interrupt", "exit", "limit"]
Means = Literal["probe", "interrupt", "outcomes", "progress", "vendor", "fresh"]
"""What there is: an answer to probes, an interrupt, turns that say how they ended, signs of progress, a vendor's session
that can be resumed, another start."""


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
