"""Verifying what a SQLite ledger holds, erasing from it, and restoring into it. Seals and bundles stand beside."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import anyio

from harness.errors import Conflict, LedgerError, NotFound
from harness.ledger.chain import Prepared
from harness.ledger.events import GENESIS, Draft, Event, hash_of
from harness.ledger.store import Problem, Verification, Write
from harness.ledger.transaction import Writer

ERASED = "ledger.erased"

_PAGE = 2000
_ROWS = """SELECT stream, seq, type, ts, actor, tenant, parent, key, schema, CAST(data AS BLOB), salt, digest, prev, hash, position
    FROM events WHERE stream = ? AND seq > ? ORDER BY seq LIMIT ?"""


class Chain:
    """Recomputes one stream's chain, event after event, and collects what does not fit."""

    def __init__(self, stream: str) -> None:
        self.stream = stream
        self.seq = 0
        self.hash = GENESIS
        self.problems: list[Problem] = []
        self._told_gap = False

    def problem(self, seq: int | None, kind: str, detail: str) -> None:
        self.problems.append(Problem(stream=self.stream, seq=seq, kind=kind, detail=detail))

    def add(
        self, seq: int, type_: str, ts: int, actor: str, tenant: str, parent: str | None, key: str | None, schema: int,
        data: bytes | None, salt: bytes | None, digest: bytes, prev: bytes, hash_: bytes,
    ) -> None:  # fmt: skip
        """Take the next event; it must follow the one before."""
        gap = seq != self.seq + 1
        if gap:
            self.problem(
                self.seq + 1, "gap", f"events {self.seq + 1} to {seq - 1} are missing" if seq > self.seq else "out of order"
            )
        if data is not None and hashlib.sha256((salt or b"") + data).digest() != digest:
            self.problem(seq, "changed", "the payload is not the one that was recorded")
        elif hash_of(self.stream, seq, type_, ts, actor, tenant, parent, key, schema, digest, prev) != hash_:
            self.problem(seq, "changed", "a field is not the one that was recorded")
        elif prev != self.hash and not gap:
            self.problem(seq, "rewritten", "it does not follow the event before")
        self.seq = seq
        self.hash = hash_

    def end(self, head_seq: int, head_hash: bytes) -> None:
        """Compare with what the ledger says the stream's head is."""
        if self.seq == 0:
            self.problem(None, "missing", f"none of {head_seq} events is left")
        elif self.seq < head_seq:
            self.problem(self.seq + 1, "truncated", f"events {self.seq + 1} to {head_seq} were cut off")
        elif self.seq > head_seq or self.hash != head_hash:
            self.problem(self.seq, "rewritten", "the stream's head is not the one that was recorded")


async def verify(
    connection: sqlite3.Connection,
    location: str,
    stream: str | None,
    *,
    seals: Sequence[Path] = (),
    progress: Callable[[int], None] | None = None,
) -> Verification:
    """Recompute the chains of one stream or of all, and compare with heads, positions and seals."""
    if stream is None:
        streams = connection.execute("SELECT id, name, seq, hash FROM streams ORDER BY name").fetchall()
    else:
        streams = connection.execute("SELECT id, name, seq, hash FROM streams WHERE name = ?", (stream,)).fetchall()
        if not streams:
            raise NotFound(f"{location}: no stream {stream!r}; `harness ledger streams` lists them")
    problems: list[Problem] = []
    events = 0
    for id_, name, head_seq, head_hash in streams:
        chain = Chain(name)
        for page in _pages(connection, id_, head_seq):
            for row in page:
                chain.add(*row[1:14])
            events += len(page)
            if progress is not None:
                progress(events)
            if len(page) == _PAGE:
                await anyio.lowlevel.checkpoint()
        chain.end(head_seq, head_hash)
        problems += chain.problems
    if stream is None:
        problems += _holes(connection, problems)
    if seals:
        from harness.ledger import seals as sealing

        problems += sealing.compare(connection, seals, stream)
    return Verification(ok=not problems, streams=len(streams), events=events, problems=tuple(problems))


def _pages(connection: sqlite3.Connection, stream_id: int, head_seq: int) -> Iterator[list[tuple[object, ...]]]:
    """A stream's rows up to the head that was read, so that a writer at work is no problem."""
    after = 0
    while True:
        page = connection.execute(_ROWS, (stream_id, after, _PAGE)).fetchall()
        full = len(page) == _PAGE
        if not page:
            return
        after = page[-1][1]
        if after > head_seq:
            newer = connection.execute("SELECT seq FROM streams WHERE id = ?", (stream_id,)).fetchone()[0]
            if newer > head_seq:  # written since; without that, rows beyond the head are a problem to report
                page = [row for row in page if row[1] <= head_seq]
        if page:
            yield page
        if not full:
            return


def _holes(connection: sqlite3.Connection, known: Sequence[Problem]) -> list[Problem]:
    """Events of streams that nobody knows any more, and positions that nobody has."""
    problems = [
        Problem(stream=f"?/{row[0]}", seq=None, kind="missing", detail=f"{row[1]} events belong to a stream that is not listed")
        for row in connection.execute(
            "SELECT stream, count(*) FROM events WHERE stream NOT IN (SELECT id FROM streams) GROUP BY stream"
        )
    ]
    last, count = connection.execute("SELECT coalesce(max(position), 0), count(*) FROM events").fetchone()
    if last != count and not known and not problems:
        row = connection.execute(
            "SELECT position + 1 FROM events e WHERE NOT EXISTS (SELECT 1 FROM events n WHERE n.position = e.position + 1)"
            " ORDER BY position LIMIT 1"
        ).fetchone()
        first = connection.execute("SELECT min(position) FROM events").fetchone()[0]
        place = 1 if first != 1 else row[0]
        detail = f"{last - count} events are missing from the ledger's order, the first at position {place}"
        problems.append(Problem(stream="", seq=None, kind="missing", detail=detail))
    return problems


def erasure(stream: str, seq: int, reason: str, *, now_us: int, actor: str, tenant: str) -> Prepared:
    """The event that records an erasure, in the stream itself."""
    draft = Draft(type=ERASED, payload={"seq": seq, "reason": reason})
    return Prepared([Write(stream, (draft,))], (), now_us=now_us, actor=actor, tenant=tenant)


def erase(connection: sqlite3.Connection, stream: str, seq: int) -> None:
    """Null payload and salt of one event, over-writing the bytes. Raises `NotFound`."""
    connection.execute("PRAGMA secure_delete = ON")
    done = connection.execute(
        "UPDATE events SET data = NULL, salt = NULL WHERE seq = ? AND stream = (SELECT id FROM streams WHERE name = ?)",
        (seq, stream),
    )
    if done.rowcount != 1:
        raise NotFound(f"no event {stream}#{seq}")


def restore(writer: Writer, events: Sequence[Event]) -> None:
    """Write a verified stream of another ledger; it must be new here."""
    if not events:
        raise LedgerError("there is nothing to restore")
    stream = events[0].stream
    if (at := writer.head_seq(stream)) != 0:
        raise Conflict(
            f"{stream} exists already, with {at} events; import into another ledger", name=stream, expected=0, actual=at
        )
    writer.restore(events)
