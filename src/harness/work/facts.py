"""What the events of an item's stream say: their payloads. No I/O.

| type | payload |
|---|---|
| `item.created` | `Created`: how it is worked; its key is the fingerprint, which therefore outlives an erasure |
| `item.described` | `Described`: its words; erasing them changes nothing about how it is worked |
| `item.prioritised` | `Prioritised` |
| `item.claimed` | `Claimed` |
| every other change of state (see `transitions.RULES`) | `Moved` |
| `item.dependencies_changed` | `DependenciesChanged` |
| `item.dependent_added`, `item.dependent_removed` | `Dependent`: in the stream of what is depended on |
| `item.noted` | `Noted` |
| `item.recurred` | `Recurred` |
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from harness.work.transitions import Role, Status

Whole = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
"""A number that a table can hold; an event with a larger one says nothing."""


class Created(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where it came from, how urgent it is, and what proves that it is done."""

    priority: Whole
    source_type: str = "human"
    source_id: str = ""
    fingerprint: str | None = None
    gates: tuple[str, ...] = ()
    labels: dict[str, str] = {}


class Described(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is to be done, in full; replaces what was said before."""

    title: str
    description: str = ""
    payload: dict[str, Any] = {}


class Prioritised(msgspec.Struct, frozen=True, kw_only=True):
    """How urgent it is from now on."""

    priority: Whole


class Claimed(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Somebody took it, with the fence that everything they write will carry."""

    holder: str
    token: Whole
    ttl_seconds: float
    expires_us: Whole  # a renewal is no event, so the lease may last longer
    attempt: Whole
    taken_from: str | None = None  # whose lease had expired
    reason: str = ""


class Moved(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """It went from one state to another."""

    origin: Status
    target: Status
    role: Role
    reason: str = ""
    token: int | None = None  # the claim that ends with it
    result: Any = None
    verified: bool = False  # completed by a verifier
    because: str | None = None  # the dependency that broke, or is whole again
    counted: bool = True  # False: the attempt that ends was nobody's failure


class DependenciesChanged(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What it depends on from now on."""

    depends_on: tuple[str, ...]
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()


class Dependent(msgspec.Struct, frozen=True, kw_only=True):
    """Another item depends on this one from now on, or does no longer.

    It stands here so that whoever decides about this item's failure by its head knows its dependents.
    """

    item: str


class Noted(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Somebody wrote something down."""

    text: str
    token: int | None = None
    data: dict[str, Any] = {}


class Recurred(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The same was reported again while the item was open."""

    detail: str = ""
    data: dict[str, Any] = {}


class Erased(msgspec.Struct, frozen=True, kw_only=True):
    """The ledger's own `ledger.erased`, as far as an item's table needs it."""

    seq: Whole
