"""Verifying the rows of a PostgreSQL ledger: chains, heads, seals. Reads only, a page at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from harness.errors import NotFound
from harness.ledger.proof import Chain
from harness.ledger.store import Problem, Verification

if TYPE_CHECKING:
    from harness.ledger.postgres.session import Session

_PAGE = 2000


class Listed(NamedTuple):
    """A stream as its list has it, and how far its events go."""

    tenant: str
    id: int
    name: str
    seq: int
    hash: bytes
    last: int


async def verify(
    session: Session, stream: str | None, *, seals: Sequence[Path], progress: Callable[[int], None] | None
) -> Verification:
    """Recompute the chains of one stream or of all, and compare with heads and seals. What comes meanwhile is left out."""
    streams = [Listed(*row) for row in await session.rows("listed", stream)]
    if stream is not None and not streams:
        raise NotFound(f"{session.address.location}: no stream {stream!r}; `harness ledger streams` lists them")
    problems: list[Problem] = []
    events = 0
    for listed in streams:
        chain = Chain(listed.name)
        async for count in _walk(session, listed, chain):
            events += count
            if progress is not None:
                progress(events)
        _end(chain, listed)
        problems += chain.problems
    if stream is None:
        problems += [
            Problem(stream=f"?/{id_}", seq=None, kind="missing", detail=f"the stream of {count} events is not listed any more")
            for _, id_, count in await session.rows("orphans")
        ]
    if seals:
        problems += await _against_seals(session, streams, seals, stream)
    return Verification(ok=not problems, streams=len(streams), events=events, problems=tuple(problems))


async def _walk(session: Session, listed: Listed, chain: Chain) -> AsyncIterator[int]:
    """Add the stream's events to the chain; gives how many each page had."""
    after = 0
    while page := await session.rows("chain", listed.tenant, listed.id, after, max(listed.seq, listed.last), _PAGE):
        for row in page:
            chain.add(*row)
        yield len(page)
        after = page[-1][0]


def _end(chain: Chain, listed: Listed) -> None:
    """Compare with what the list says where the stream is."""
    if chain.problems and chain.seq == listed.seq:
        return
    chain.end(listed.seq, listed.hash)


async def _against_seals(
    session: Session, streams: Sequence[Listed], paths: Sequence[Path], stream: str | None
) -> list[Problem]:
    from harness.ledger.seals import compare, read_seal

    known = {listed.name: listed for listed in streams}
    wanted = {(name, head.seq) for path in paths for name, head in read_seal(path).streams.items()}
    hashes: dict[tuple[str, int], bytes] = {}
    for name, seq in wanted:
        if name in known:
            for row in await session.rows("chain", known[name].tenant, known[name].id, seq - 1, seq, 1):
                hashes[name, seq] = row[-1]

    def length(name: str) -> int:
        return known[name].last if name in known else 0

    return compare(paths, hash_at=lambda name, seq: hashes.get((name, seq)), length=length, stream=stream)
