"""Deciding again when somebody was faster, and the drafts and guards that several changes share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from harness.errors import Conflict, Duplicate, KeyTaken, LeaseHeld
from harness.ledger import Draft, Expect, Write
from harness.work.dependencies import broken_by
from harness.work.facts import Dependent, Moved
from harness.work.item import Item, stream_of
from harness.work.transitions import Role, Status

T = TypeVar("T")

TRIES = 1000


async def decided(decide: Callable[[], Awaitable[T]]) -> T:
    """What `decide` gives once nobody has overtaken it; it reads, decides and appends anew each time.

    Each lost try means that somebody else got on. Raises `Conflict` after very many.
    """
    lost: Conflict | None = None
    for _ in range(TRIES):
        try:
            return await decide()
        except (KeyTaken, LeaseHeld):
            raise
        except Conflict as error:
            lost = error
    raise Conflict(f"overtaken {TRIES} times, at last because {lost}; try again")


def expected(items: Iterable[Item]) -> list[Expect]:
    """That none of these items has changed since it was read. Completed ones never change what depends on them."""
    return [Expect(stream_of(item.id), item.seq) for item in items if item.status is not Status.COMPLETED]


def duplicate(fingerprint: str | None, taken: KeyTaken) -> Duplicate:
    """A unique key's refusal in the words of items."""
    return Duplicate(fingerprint or "", item_id=taken.stream.partition("/")[2])


def blocked(origin: Status, lost: Item, actor: str | None) -> Draft:
    """An item is blocked because what it depends on is broken."""
    fact = Moved(origin=origin, target=Status.BLOCKED, role=Role.SYSTEM, reason=broken_by(lost), because=lost.id)
    return Draft(type="item.blocked", payload=fact, parent=f"{stream_of(lost.id)}#{lost.seq}", actor=actor)


def unblocked(reason: str, because: str, actor: str | None) -> Draft:
    """An item may go on because nothing that it depends on is broken any more."""
    fact = Moved(origin=Status.BLOCKED, target=Status.PENDING, role=Role.SYSTEM, reason=reason, because=because)
    return Draft(type="item.unblocked", payload=fact, actor=actor)


def linked(to: Item, dependent: str, event: str, actor: str | None) -> Write:
    """A note in the stream of what is depended on."""
    return Write(stream_of(to.id), (Draft(type=event, payload=Dependent(item=dependent), actor=actor),))
