"""The transactions that are no appends: erasing a payload, and taking over streams of another ledger."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING
from uuid import UUID

from harness.errors import Conflict, LedgerError, NotFound
from harness.ledger.chain import Prepared
from harness.ledger.events import Event
from harness.ledger.postgres.arrays import blobs, numbers, texts, utf8
from harness.ledger.postgres.batch import arguments, placed
from harness.ledger.postgres.link import Connection, rows
from harness.ledger.postgres.statements import Statements

if TYPE_CHECKING:
    from harness.ledger.postgres.session import Session

Run = Callable[[Connection, UUID], Awaitable[object]]


def erasing(statements: Statements, record: Prepared, seq: int, locks: Sequence[int], tenant: str, now_us: int) -> Run:
    """Null one event's payload and record that. Raises `NotFound`."""
    stream = record.events[0].stream

    async def run(connection: Connection, batch: UUID) -> Event:
        await rows(connection, statements["lock"], (list(locks),))
        if not await rows(connection, statements["erase"], (stream, tenant, seq)):
            raise NotFound(f"no event {stream}#{seq}")
        values = arguments([(record, ())], locks, tenant=tenant, batch=batch, now_us=now_us)
        [(xid, seqs, positions, prevs, _)] = await rows(connection, statements["append"], values)
        return placed(record, list(zip(seqs, positions, prevs, strict=True)), xid)[0]

    return run


async def sweep(session: Session) -> None:
    """Let the server reuse the place of erased rows now; it may keep their bytes in its log and in free space for a while."""
    with contextlib.suppress(LedgerError):  # a role without the right leaves it to autovacuum
        await session.select(f"VACUUM {session.statements.schema}.events", ())


def restoring(statements: Statements, events: Sequence[Event], locks: Sequence[int], tenant: str) -> Run:
    """Write streams as they are, all or none. Raises `Conflict` if one exists."""

    async def run(connection: Connection, batch: UUID) -> None:
        await rows(connection, statements["lock"], (list(locks),))
        names = list(dict.fromkeys(event.stream for event in events))
        for name in names:
            if found := await rows(connection, statements["head"], (name, tenant)):
                at = found[0][1]
                raise Conflict(f"{name} exists already, with {at} events; import into another ledger", name=name, actual=at)
        ids = dict(zip(names, [row[0] for row in await rows(connection, statements["ids"], (len(names),))], strict=True))
        places = [row[0] for row in await rows(connection, statements["places"], (len(events),))]
        owners = {event.stream: event.tenant for event in reversed(events)}
        await _write(connection, statements, events, ids, places, owners)
        await rows(connection, statements["noted"], (tenant, batch))

    return run


async def _write(
    connection: Connection,
    statements: Statements,
    events: Sequence[Event],
    ids: dict[str, int],
    places: Sequence[int],
    owners: dict[str, str],
) -> None:
    last = {event.stream: (event, place) for event, place in zip(events, places, strict=True)}
    heads = [last[name] for name in ids]
    streams = (
        texts([owners[name] for name in ids]), texts(list(ids)), numbers(list(ids.values())),
        numbers([event.seq for event, _ in heads]), blobs([event.hash for event, _ in heads]),
        numbers([place for _, place in heads]), numbers([event.ts for event, _ in heads]),
    )  # fmt: skip
    await rows(connection, statements["restore_streams"], streams)
    columns = (
        texts([owners[event.stream] for event in events]), numbers([ids[event.stream] for event in events]),
        numbers([event.seq for event in events]), numbers(places), texts([event.type for event in events]),
        numbers([event.ts for event in events]), texts([event.actor for event in events]),
        texts([event.tenant for event in events]), texts([event.parent for event in events]),
        texts([event.key for event in events]), numbers([event.schema for event in events]),
        utf8([event.data for event in events]), blobs([event.salt for event in events]),
        blobs([event.stored_digest if event.erased else None for event in events]),
        blobs([event.prev for event in events]), blobs([event.hash for event in events]),
    )  # fmt: skip
    await rows(connection, statements["restore_events"], columns)
