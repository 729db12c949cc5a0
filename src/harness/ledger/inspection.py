"""Verifying the rows of a SQLite ledger: chains, heads, positions, seals. Reads only, a page at a time."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import anyio.lowlevel

from harness.errors import NotFound
from harness.ledger.proof import Chain
from harness.ledger.store import Problem, Verification

_PAGE = 2000
_ROWS = """SELECT seq, type, ts, actor, tenant, parent, key, schema, CAST(data AS BLOB), salt, digest, prev, hash
    FROM events WHERE stream = ? AND seq > ? ORDER BY seq LIMIT ?"""
_STREAMS = "SELECT id, name, seq, hash FROM streams"


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
        last = int(connection.execute("SELECT coalesce(max(position), 0) FROM events").fetchone()[0])
        streams = connection.execute(f"{_STREAMS} ORDER BY name").fetchall()
    else:
        last = 0
        streams = connection.execute(f"{_STREAMS} WHERE name = ?", (stream,)).fetchall()
        if not streams:
            raise NotFound(f"{location}: no stream {stream!r}; `harness ledger streams` lists them")
    problems: list[Problem] = []
    events = 0
    for id_, name, head_seq, head_hash in streams:
        chain = Chain(name)
        for page in _pages(connection, id_, head_seq):
            for row in page:
                chain.add(*row)
            events += len(page)
            if progress is not None:
                progress(events)
            await anyio.lowlevel.checkpoint()
        chain.end(head_seq, head_hash)
        problems += chain.problems
    if stream is None:
        problems += _holes(connection, last, told=bool(problems))
    if seals:
        problems += _against_seals(connection, seals, stream)
    return Verification(ok=not problems, streams=len(streams), events=events, problems=tuple(problems))


def _pages(connection: sqlite3.Connection, stream_id: int, head_seq: int) -> Iterator[list[tuple[Any, ...]]]:
    """A stream's rows up to the head that was read, so that a writer at work is no problem."""
    after = 0
    while page := connection.execute(_ROWS, (stream_id, after, _PAGE)).fetchall():
        full = len(page) == _PAGE
        after = page[-1][0]
        if after > head_seq:
            now = int(connection.execute("SELECT seq FROM streams WHERE id = ?", (stream_id,)).fetchone()[0])
            if now > head_seq:  # written since; rows beyond a head that did not move are a problem to report
                page = [row for row in page if row[0] <= head_seq]
                full = False
        if page:
            yield page
        if not full:
            return


def _holes(connection: sqlite3.Connection, last: int, *, told: bool) -> list[Problem]:
    """Events of streams that nobody lists, and positions that nobody has."""
    orphans = connection.execute(
        "SELECT stream, count(*) FROM events WHERE stream NOT IN (SELECT id FROM streams) GROUP BY stream"
    ).fetchall()
    problems = [
        Problem(stream=f"?/{id_}", seq=None, kind="missing", detail=f"the stream of {count} events is not listed any more")
        for id_, count in orphans
    ]
    if told or problems:  # the same loss is not told twice
        return problems
    count = int(connection.execute("SELECT count(*) FROM events WHERE position <= ?", (last,)).fetchone()[0])
    if count != last:
        first = connection.execute(
            "SELECT min(p) FROM (SELECT 1 AS p WHERE NOT EXISTS (SELECT 1 FROM events WHERE position = 1) UNION ALL"
            " SELECT position + 1 FROM events e WHERE NOT EXISTS (SELECT 1 FROM events n WHERE n.position = e.position + 1))"
        ).fetchone()[0]
        detail = f"{last - count} events are missing from the order of the whole ledger, the first at position {first}"
        problems.append(Problem(stream="", seq=None, kind="missing", detail=detail))
    return problems


def _against_seals(connection: sqlite3.Connection, paths: Sequence[Path], stream: str | None) -> list[Problem]:
    from harness.ledger.seals import compare

    def hash_at(name: str, seq: int) -> bytes | None:
        row = connection.execute(
            "SELECT hash FROM events WHERE seq = ? AND stream = (SELECT id FROM streams WHERE name = ?)", (seq, name)
        ).fetchone()
        return row[0] if row else None

    def length(name: str) -> int:
        row = connection.execute(
            "SELECT max(seq) FROM events WHERE stream = (SELECT id FROM streams WHERE name = ?)", (name,)
        ).fetchone()
        return row[0] or 0

    return compare(paths, hash_at=hash_at, length=length, stream=stream)
