"""An item, a claim on one, and the names of both in the ledger. No I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from harness.clock import MICROSECONDS
from harness.errors import UsageError
from harness.work.transitions import OPEN, Status

PRIORITIES: dict[str, int] = {"low": 1, "medium": 5, "high": 10, "critical": 20}
"""Named priorities; any other whole number stands between or beyond them. Higher is more urgent."""

MAX_PRIORITY = 1_000_000
_ID = re.compile(r"[^\x00-\x20\x7f/]{1,200}")


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """Something to be done, as of the newest event of its stream."""

    id: str
    title: str
    description: str = ""
    status: Status = Status.PENDING
    ready: bool = False  # pending, and everything it depends on is completed
    priority: int = PRIORITIES["medium"]
    source_type: str = "human"
    source_id: str = ""
    fingerprint: str | None = None  # at most one open item has it
    depends_on: tuple[str, ...] = ()
    waiting: int = 0  # how many of those are not completed
    blocked_on: str | None = None  # the broken dependency that blocked it
    gates: tuple[str, ...] = ()  # what must be proven by somebody else before it is completed
    labels: dict[str, str] = {}
    payload: dict[str, Any] = {}  # the creator's own data
    attempts: int = 0  # claims that count
    occurrences: int = 1  # how often it was reported while open
    holder: str | None = None  # who has claimed it
    fence: int = 0  # the newest claim's token
    expires_us: int | None = None  # the claim lasts at least until then; renewals lengthen it
    reason: str = ""  # of the newest change of state that gave one
    result: Any = None  # the newest attempt's
    verified: bool = False  # completed, and not by its own worker's word
    created_us: int = 0
    updated_us: int = 0
    closed_us: int | None = None
    seq: int = 0  # head of its stream

    @property
    def open(self) -> bool:
        """Whether it is still somebody's business."""
        return self.status in OPEN


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """The right of one holder to work one item until the lease expires."""

    item: Item
    lease: str
    token: int  # grows with every claim of the item; a write with an older one is refused
    holder: str
    ttl_seconds: float
    taken_from: str | None = None  # the holder whose lease had expired

    @property
    def attempt(self) -> int:
        """1 for the first holder."""
        return self.item.attempts


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """Which items are meant; empty means all. Conditions add up."""

    source_types: tuple[str, ...] = ()
    source_id: str | None = None
    labels: Mapping[str, str] = {}
    min_priority: int | None = None


def stream_of(item_id: str) -> str:
    """The item's stream in the ledger."""
    return f"item/{item_id}"


def lease_of(item_id: str) -> str:
    """The lease that a claim of the item holds."""
    return f"claim/{item_id}"


def fingerprint_key(fingerprint: str) -> str:
    """The unique key that an open item with this fingerprint holds."""
    return f"item-fingerprint/{fingerprint}"


def check_id(item_id: str) -> str:
    """The id as it is. Raises `UsageError` for one that cannot name a stream."""
    if not _ID.fullmatch(item_id):
        raise UsageError(f"item id {item_id!r}: 1 to 200 characters, without spaces, slashes or control characters")
    return item_id


def priority_of(value: int | str) -> int:
    """A priority by name or number. Raises `UsageError` for anything else."""
    if isinstance(value, str):
        name = value.strip().lower()
        if name in PRIORITIES:
            return PRIORITIES[name]
        try:
            value = int(name)
        except ValueError:
            raise UsageError(f"priority {value!r}: one of {', '.join(PRIORITIES)} or a whole number") from None
    if isinstance(value, bool) or not 0 <= value <= MAX_PRIORITY:
        raise UsageError(f"priority {value!r}: from 0 to {MAX_PRIORITY}")
    return value


def priority_name(priority: int) -> str:
    """The name of the highest named priority that this one reaches."""
    return max((name for name in PRIORITIES if PRIORITIES[name] <= priority), key=PRIORITIES.__getitem__, default="low")


def clean(text: str) -> str:
    """Text without NUL, which not every database can keep."""
    return text.replace("\0", "")


def ttl_of(seconds: float) -> float:
    """A lease's length as it is. Raises `UsageError` if nobody could live with it."""
    if not 0 < seconds <= 366 * 86400:
        raise UsageError(f"a lease of {seconds!r} seconds: more than 0, a year at most")
    return seconds


def expiry(now_us: int, ttl_seconds: float) -> int:
    """When a lease taken now ends, in microseconds."""
    return now_us + round(ttl_seconds * MICROSECONDS)
