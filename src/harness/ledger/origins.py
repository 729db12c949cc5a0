"""Which streams a run continues: a fork begins with the events of another run up to one of them. Reads only.

A fork's first event names the run, the event and its hash; its `parent` is that event, and the other run's stream has
a note under the key `fork::RUN`. So where a fork comes from is known even when its first payload was erased.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from harness.errors import Unproven
from harness.ledger.events import Event
from harness.ledger.store import Problem, Verification


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """What a fork begins with: the run `parent` up to and with its event `at`."""

    parent: str
    at: int
    hash: bytes | None  # of that event; None once the fork's first payload was erased

    @property
    def stream(self) -> str:
        return f"run/{self.parent}"


class Readable(Protocol):
    """What of a store is needed here."""

    async def event(self, stream: str, seq: int) -> Event | None: ...

    async def latest(self, stream: str, key: str) -> Event | None: ...

    async def verify(self, stream: str | None = None) -> Verification: ...


class _First(msgspec.Struct, frozen=True):
    """What a run's first payload says of its origin."""

    fork_of: str | None = None
    fork_at: int = 0
    fork_hash: str = ""


async def lineage(store: Readable, run_id: str) -> list[Origin]:
    """Where a run comes from, the nearest first; empty unless it is a fork. Raises `Unproven` for a circle."""
    found: list[Origin] = []
    seen = {run_id}
    while (origin := await _origin(store, run_id)) is not None:
        if origin.parent in seen:
            raise Unproven(f"run {run_id!r} is a fork of itself", stream=f"run/{run_id}", seq=1, kind="rewritten")
        seen.add(origin.parent)
        found.append(origin)
        run_id = origin.parent
    return found


async def _origin(store: Readable, run_id: str) -> Origin | None:
    first = await store.event(f"run/{run_id}", 1)
    if first is None or first.parent is None:
        return None
    if not first.erased:
        told = first.load(_First)
        return None if told.fork_of is None else Origin(parent=told.fork_of, at=told.fork_at, hash=_bytes(told.fork_hash))
    stream, _, at = first.parent.rpartition("#")
    if await store.latest(stream, fork_key(run_id)) is None:
        return None
    return Origin(parent=stream.partition("/")[2], at=int(at), hash=None)


def _bytes(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        return b""


def fork_key(run_id: str) -> str:
    """The key of the note that a run's stream has of its fork."""
    return f"fork::{run_id}"


async def verify_run(store: Readable, run_id: str) -> Verification:
    """Verify a run and all that it inherits. An unknown run raises `NotFound`."""
    found = await store.verify(f"run/{run_id}")
    for origin in await lineage(store, run_id):
        last = await store.event(origin.stream, origin.at)
        if last is None:
            detail = f"event {origin.at}, from which {run_id!r} was forked, is not there"
            problems = (Problem(stream=origin.stream, seq=origin.at, kind="missing", detail=detail),)
        else:
            parent = await store.verify(origin.stream)
            problems = tuple(each for each in parent.problems if each.seq is None or each.seq <= origin.at)
            if not problems and origin.hash is not None and last.hash != origin.hash:
                detail = f"this event is not the one from which {run_id!r} was forked"
                problems = (Problem(stream=origin.stream, seq=origin.at, kind="rewritten", detail=detail),)
        found = Verification(
            ok=found.ok and not problems, streams=found.streams + 1, events=found.events + (origin.at if last else 0),
            problems=(*found.problems, *problems),
        )  # fmt: skip
    return found
