"""What a dialect or a transport tells the host: readings, receipts, turns, usage. No I/O.

They are facts about the agent in the words of `facts`; the host decides what becomes an event. A dialect is pure: it
is given bytes and gives reports, and bytes to write back. Structs rather than dataclasses: a host makes these classes at
each start, and a dataclass costs it a millisecond.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from harness.sessions import facts


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """One source's view of the agent's state at one moment."""

    state: facts.State
    source: facts.Source
    confidence: float = 1.0
    detail: str = ""
    until_us: int | None = None
    evidence: str = ""


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """Proof of what became of a message. `message_id` None: of the oldest that was written."""

    stage: Literal["accepted", "done", "failed", "cancelled"]
    message_id: str | None
    turn: str = ""
    proof: str = ""


class ApprovalAsked(msgspec.Struct, frozen=True, kw_only=True):
    """The agent waits until `decide` is called with this request, or until it withdraws it."""

    request: str
    tool: str
    arguments: Any
    summary: str = ""
    turn: str = ""


class ApprovalSettled(msgspec.Struct, frozen=True, kw_only=True):
    """The request is over without our doing: withdrawn, or answered elsewhere."""

    request: str
    decision: Literal["allow", "deny", "withdrawn"] = "withdrawn"
    reason: str = ""


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """The agent moved: text, tokens, a tool's heartbeat. Not an event; it turns the watch's clocks back."""

    what: Literal["output", "text", "tool", "tokens", "heartbeat"]
    in_tool: bool | None = None  # a tool began (True) or ended (False); None: no change


class Cumulative(msgspec.Struct, frozen=True, kw_only=True):
    """Counters of the vendor's session as they stand now, by model; the host stores the differences."""

    model: str
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    cost_usd: float | None = None
    turn: str = ""
    before: bool = False  # used before this process, or by nobody (they began anew): counting starts from here


class Useless(msgspec.Struct, frozen=True, kw_only=True):
    """The program runs and will never take a message; the host ends it with this reason."""

    reason: str


Report = (
    Useless
    | Reading
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


class Outgoing(msgspec.Struct, frozen=True, kw_only=True):
    """A message as a transport is given it: cleaned of control bytes, with its relay header where it has one."""

    message_id: str
    text: str
    placing: facts.Placing = facts.Placing.QUEUE
    origin: facts.Origin = facts.Origin()
    submit: bool = True
    only_submit: bool = False


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to an approval."""

    allow: bool
    reason: str = ""
    interrupt: bool = False  # of a denial: end the turn as well


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """What came of feeding a dialect: reports in order, and bytes to write back at once."""

    reports: tuple[Report, ...] = ()
    replies: tuple[bytes, ...] = ()
