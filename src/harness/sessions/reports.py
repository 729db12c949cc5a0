"""What a dialect or a transport tells the host: readings, receipts, turns, usage. No I/O.

They are facts about the agent in the words of `facts`; the host decides what becomes an event. A dialect is pure: it
is given bytes and gives reports, and bytes to write back.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from harness.sessions import facts


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One source's view of the agent's state at one moment."""

    state: facts.State
    source: facts.Source
    confidence: float = 1.0
    detail: str = ""
    until_us: int | None = None
    evidence: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """Proof of what became of a message. `message_id` None: of the oldest that was written."""

    stage: Literal["accepted", "done", "failed", "cancelled"]
    message_id: str | None
    turn: str = ""
    proof: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalAsked:
    """The agent waits until `decide` is called with this request, or until it withdraws it."""

    request: str
    tool: str
    arguments: Any
    summary: str = ""
    turn: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalSettled:
    """The request is over without our doing: withdrawn, or answered elsewhere."""

    request: str
    decision: Literal["allow", "deny", "withdrawn"] = "withdrawn"
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """The agent moved: text, tokens, a tool's heartbeat. Not an event; it turns the watch's clocks back."""

    what: Literal["output", "text", "tool", "tokens", "heartbeat"]
    in_tool: bool | None = None  # a tool began (True) or ended (False); None: no change


@dataclass(frozen=True, slots=True, kw_only=True)
class Cumulative:
    """Counters of the vendor's session as they stand now, by model; the host stores the differences."""

    model: str
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    cost_usd: float | None = None
    turn: str = ""


Report = (
    Reading
    | Receipt
    | ApprovalAsked
    | ApprovalSettled
    | Progress
    | Cumulative
    | facts.Identified
    | facts.TurnStarted
    | facts.ItemCompleted
    | facts.TurnCompleted
    | facts.Limited
    | facts.Retried
    | facts.Unrecognised
    | facts.Noted
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """A message as a transport is given it: cleaned of control bytes, with its relay header where it has one."""

    message_id: str
    text: str
    placing: facts.Placing = facts.Placing.QUEUE
    origin: facts.Origin = field(default_factory=facts.Origin)
    submit: bool = True
    only_submit: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The answer to an approval."""

    allow: bool
    reason: str = ""
    interrupt: bool = False  # of a denial: end the turn as well


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What came of feeding a dialect: reports in order, and bytes to write back at once."""

    reports: tuple[Report, ...] = ()
    replies: tuple[bytes, ...] = ()
