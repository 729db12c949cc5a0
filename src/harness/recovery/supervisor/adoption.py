"""What a dead supervisor has left: which processes are owned again and which are ended. The decision is pure.

A process of this home is known by its tag, which names its service and epoch; a pid alone proves nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.processes import Found, Identity
from harness.recovery.supervisor.launch import parse_tag


@dataclass(frozen=True, slots=True, kw_only=True)
class Adoption:
    """A process to be owned again."""

    name: str
    epoch: int
    identity: Identity
    tag: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """What to do about everything that was found."""

    adopt: tuple[Adoption, ...]
    end: tuple[str, ...]  # tags


def sort_out(home: Path, found: Sequence[Found], wanted: Collection[str]) -> Left:
    """Adopt the newest leader of each wanted service; end every other tag."""
    leaders: dict[str, Adoption] = {}
    for one in found:
        parsed = parse_tag(home, one.tag)
        if parsed is None or not one.leader or parsed[0] not in wanted:
            continue
        name, epoch = parsed
        if name not in leaders or epoch > leaders[name].epoch:
            leaders[name] = Adoption(name=name, epoch=epoch, identity=one.identity, tag=one.tag)
    kept = {adoption.tag for adoption in leaders.values()}
    ended = {one.tag for one in found} - kept
    return Left(adopt=tuple(leaders.values()), end=tuple(sorted(ended)))
