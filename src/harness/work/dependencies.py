"""What may depend on what: circles are refused and printed, broken dependencies are named. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from harness.errors import DependencyCycle
from harness.work.item import Item
from harness.work.transitions import BROKEN, Status

SETTLED = frozenset({Status.IN_PROGRESS, Status.VERIFYING, Status.COMPLETED, Status.FAILED, Status.CANCELLED})
"""In these an item's dependencies are not changed any more: it was begun, or is over."""


def refuse_circle(item: str, on: Iterable[str], needs: Mapping[str, Sequence[str]]) -> None:
    """Raises `DependencyCycle` if `item` could be reached from what it is to depend on.

    `needs` gives the dependencies of everything reachable from `on`.
    """
    for start in on:
        path = _path(start, item, needs)
        if path is not None:
            circle = " -> ".join([item, *path])
            raise DependencyCycle(f"item {item} cannot depend on {start}: {circle}")


def _path(start: str, goal: str, needs: Mapping[str, Sequence[str]]) -> list[str] | None:
    """The shortest way from start to goal along dependencies, both included."""
    before: dict[str, str | None] = {start: None}
    queue = [start]
    for here in queue:
        if here == goal:
            path = [here]
            while (previous := before[path[-1]]) is not None:
                path.append(previous)
            return path[::-1]
        for needed in needs.get(here, ()):
            if needed not in before:
                before[needed] = here
                queue.append(needed)
    return None


def named(item: Item) -> str:
    """An item as a message calls it."""
    return f"{item.id} ({item.title})"


def broken_by(item: Item) -> str:
    """Why its dependents cannot go on."""
    reason = f": {item.reason}" if item.reason else ""
    return f"dependency {named(item)} {item.status}{reason}"


def broken(dependencies: Iterable[Item]) -> list[Item]:
    """Those that will not be completed unless somebody reopens them."""
    return [item for item in dependencies if item.status in BROKEN]
