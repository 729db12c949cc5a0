"""Verifying the rows of a SQLite ledger: chains, heads, positions, seals. Reads only, a page at a time.

A long ledger is shared out over the machine's processors: `python -m harness.ledger.inspection PATH` checks the
pages named on its standard input and prints the numbers of those that do not verify. Where anything is wrong,
the stream concerned is walked again slowly, to say what and where.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple, cast

from harness.errors import NotFound
from harness.ledger.database import connect
from harness.ledger.events import GENESIS
from harness.ledger.proof import Chain
from harness.ledger.store import Problem, Verification

_PAGE = 2000
_WORTH_SHARING = 30_000  # events; below that, starting processes takes longer than it saves
_FIELDS = "seq, type, ts, actor, tenant, parent, key, schema, CAST(data AS BLOB), salt, digest, prev, hash"
_ROWS = f"SELECT {_FIELDS} FROM events WHERE stream = ? AND seq > ? AND seq <= ? ORDER BY seq"


class Listed(NamedTuple):
    """A stream as its list has it, and how far its events go."""

    id: int
    name: str
    seq: int
    hash: bytes
    last: int
    odd: bool  # some event has no number as its sequence


class Page(NamedTuple):
    """A part of a stream: events above `after` up to `upto`."""

    stream: int
    name: str
    after: int
    upto: int


async def verify(
    path: Path,
    stream: str | None,
    *,
    seals: Sequence[Path] = (),
    progress: Callable[[int], None] | None = None,
) -> Verification:
    """Recompute the chains of one stream or of all, and compare with heads, positions and seals."""
    connection = connect(path, create=False, read_only=True, durability="full")
    try:
        last = int(connection.execute("SELECT coalesce(max(position), 0) FROM events").fetchone()[0])
        streams = _listed(connection, stream)
        if stream is not None and not streams:
            raise NotFound(f"{path}: no stream {stream!r}; `harness ledger streams` lists them")
        events = 0
        bad: set[int] = set()
        async for page, good in _checked(path, connection, [page for listed in streams for page in _pages(listed)]):
            events += page.upto - page.after
            if not good:
                bad.add(page.stream)
            if progress is not None:
                progress(events)
        problems: list[Problem] = []
        for listed in streams:
            problems += _explain(connection, listed, walk=listed.id in bad)
        if stream is None:
            problems += _holes(connection, last, told=bool(problems))
        if seals:
            problems += _against_seals(connection, seals, stream)
    finally:
        connection.close()
    missing = sum(listed.last for listed in streams) - events
    return Verification(ok=not problems, streams=len(streams), events=events + missing, problems=tuple(problems))


def _listed(connection: sqlite3.Connection, stream: str | None) -> list[Listed]:
    sql = "SELECT id, name, seq, hash, coalesce((SELECT max(seq) FROM events WHERE stream = id), 0) FROM streams"
    with _any_text(connection):
        if stream is None:
            rows = connection.execute(f"{sql} ORDER BY name").fetchall()
        else:
            rows = connection.execute(f"{sql} WHERE name = ?", (stream,)).fetchall()
    return [_listing(connection, *row) for row in rows]


def _listing(connection: sqlite3.Connection, id_: int, name: object, seq: object, hash_: bytes, last: object) -> Listed:
    """A row of the list, whatever somebody put into it."""
    odd = not isinstance(last, int)
    if odd:  # text and bytes sort behind all numbers
        numbers = "SELECT coalesce(max(seq), 0) FROM events WHERE stream = ? AND typeof(seq) = 'integer'"
        last = connection.execute(numbers, (id_,)).fetchone()[0]
    known = seq if isinstance(seq, int) else -1
    return Listed(id_, name if isinstance(name, str) else repr(name), known, hash_, cast("int", last), odd)


def _decoded(data: bytes) -> str:
    return data.decode("utf-8", "replace")


@contextlib.contextmanager
def _any_text(connection: sqlite3.Connection) -> Generator[None]:
    """Read also text that is none, so that what was damaged can be named. Slower."""
    before = connection.text_factory
    connection.text_factory = _decoded
    try:
        yield
    finally:
        connection.text_factory = before


def _pages(listed: Listed) -> Iterator[Page]:
    for after in range(0, listed.last, _PAGE):
        yield Page(listed.id, listed.name, after, min(after + _PAGE, listed.last))


async def _checked(path: Path, connection: sqlite3.Connection, pages: Sequence[Page]) -> AsyncGenerator[tuple[Page, bool]]:
    """Each page, and whether all of it verifies."""
    import anyio.lowlevel
    import anyio.to_thread

    shares = min(os.cpu_count() or 1, 4) if sum(page.upto - page.after for page in pages) >= _WORTH_SHARING else 1
    helpers = [_start(path, pages[share::shares]) for share in range(1, shares)]
    try:
        for page in pages[::shares]:
            yield page, page_verifies(connection, page)
            await anyio.lowlevel.checkpoint()
        for share, helper in enumerate(helpers, start=1):
            wrong = await anyio.to_thread.run_sync(_finish, helper, abandon_on_cancel=True)
            for index, page in enumerate(pages[share::shares]):
                yield page, wrong is not None and index not in wrong
    finally:
        for helper in helpers:
            if helper.poll() is None:
                helper.kill()
            helper.wait()
            assert helper.stdout is not None
            helper.stdout.close()


def _start(path: Path, pages: Sequence[Page]) -> subprocess.Popen[str]:
    helper = subprocess.Popen(
        [sys.executable, "-m", "harness.ledger.inspection", str(path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert helper.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it ended at once; `_finish` will tell
        helper.stdin.write(json.dumps(pages))
    with contextlib.suppress(BrokenPipeError):
        helper.stdin.close()
    helper.stdin = None
    return helper


def _finish(helper: subprocess.Popen[str]) -> set[int] | None:
    """Which of its pages do not verify; None if it failed, so that none does."""
    output, _ = helper.communicate()
    return set(json.loads(output)) if helper.returncode == 0 else None


def page_verifies(connection: sqlite3.Connection, page: Page) -> bool:
    """Whether the page's events are all there, unchanged, and follow each other and the page before."""
    try:
        return _page_verifies(connection, page)
    except (TypeError, ValueError, AttributeError):
        return False  # a field of another kind than was recorded
    except sqlite3.OperationalError as error:
        if "decode" in str(error):
            return False
        raise


def _page_verifies(connection: sqlite3.Connection, page: Page) -> bool:
    # The same bytes as `events.hash_of`, spelled out: a call and an object for each event would take twice as long.
    name = page.name.encode()
    begin = b"%d:%b" % (len(name), name)
    expected, prev = page.after, _hash_at(connection, page.stream, page.after)
    for seq, type_, ts, actor, tenant, parent, key, schema, data, salt, digest, before, hash_ in connection.execute(
        _ROWS, (page.stream, page.after, page.upto)
    ):
        expected += 1
        if seq != expected or before != prev:
            return False
        if data is not None:
            found = sha256(salt + data).digest() if salt is not None else b""
            if digest is not None and digest != found:
                return False
        else:
            found = digest or b""
        t, a, n = type_.encode(), actor.encode(), tenant.encode()
        numbers = b"%d,%d,%d" % (seq, ts, schema)
        p = b"-" if parent is None else b"%d:%b" % (len(e := parent.encode()), e)
        k = b"-" if key is None else b"%d:%b" % (len(e := key.encode()), e)
        fields = b"%b%d:%b%d:%b%d:%b%d:%b%b%b%b%b" % (
            begin, len(t), t, len(a), a, len(n), n, len(numbers), numbers, p, k, found, before,
        )  # fmt: skip
        if sha256(fields).digest() != hash_:
            return False
        prev = hash_
    return expected == page.upto


def _hash_at(connection: sqlite3.Connection, stream: int, seq: int) -> bytes | None:
    if seq == 0:
        return GENESIS
    row = connection.execute("SELECT hash FROM events WHERE stream = ? AND seq = ?", (stream, seq)).fetchone()
    return row[0] if row else None


def _explain(connection: sqlite3.Connection, listed: Listed, *, walk: bool) -> list[Problem]:
    """What is wrong with a stream: its events one by one if some page does not verify, and where it ends."""
    chain = Chain(listed.name)
    if walk:
        with _any_text(connection):
            for row in connection.execute(_ROWS, (listed.id, 0, listed.last)):
                chain.add(*row)
    if listed.odd:
        chain.problem(None, "changed", "the sequence of an event is not a number any more")
    if listed.last == 0:
        chain.problem(None, "missing", f"none of {listed.seq} events is left")
    elif listed.last < listed.seq:
        chain.problem(listed.last + 1, "truncated", f"events {listed.last + 1} to {listed.seq} were cut off")
    elif not chain.problems and _hash_at(connection, listed.id, listed.seq) != listed.hash:
        chain.problem(
            listed.seq if listed.seq > 0 else None, "rewritten", "this event is not the one that the list of streams knows"
        )
    return chain.problems


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

    place = "stream = (SELECT id FROM streams WHERE name = ?)"

    def hash_at(name: str, seq: int) -> bytes | None:
        row = connection.execute(f"SELECT hash FROM events WHERE {place} AND seq = ?", (name, seq)).fetchone()
        return row[0] if row else None

    def length(name: str) -> int:
        return connection.execute(f"SELECT coalesce(max(seq), 0) FROM events WHERE {place}", (name,)).fetchone()[0]

    return compare(paths, hash_at=hash_at, length=length, stream=stream)


def main() -> None:
    """Check the pages on standard input, for another process."""
    connection = connect(Path(sys.argv[1]), create=False, read_only=True, durability="full")
    pages: list[list[Any]] = json.load(sys.stdin)
    wrong = [index for index, page in enumerate(pages) if not page_verifies(connection, Page(*page))]
    print(json.dumps(wrong))


if __name__ == "__main__":
    main()
