"""Keeping views up to date: appends leave them behind, readers catch up first.

How far a view was folded is a snapshot of the database, not a position: transactions commit in another order than they
begin, so *what this snapshot sees and that one did not* is the only difference that neither skips an event nor folds
one twice. Events of one stream are always folded in order, and so are events of which one was written after the other.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any, cast

from psycopg import errors

from harness.errors import LedgerError
from harness.ledger.events import Event
from harness.ledger.postgres import dialect
from harness.ledger.postgres.link import Connection, rows
from harness.ledger.postgres.locks import lock_id
from harness.ledger.postgres.statements import event_of
from harness.ledger.views import Value, View

if TYPE_CHECKING:
    from harness.ledger.postgres.session import Session

_PAGE = 500
_NOTHING = "1:1:"  # a snapshot that sees no transaction
_FAR = 1000  # so many transactions are looked through before a view that has nothing to fold is moved on all the same
_FOLDED = "CREATE TABLE IF NOT EXISTS harness_folded (name text PRIMARY KEY, snapshot text NOT NULL)"
_BEHIND = """SELECT f.snapshot,
    pg_snapshot_xmax(pg_current_snapshot())::text::bigint - pg_snapshot_xmin(f.snapshot::pg_snapshot)::text::bigint,
    EXISTS (SELECT 1 FROM {schema}.events e JOIN {schema}.streams s ON s.tenant = e.tenant AND s.id = e.stream
        WHERE e.xid >= pg_snapshot_xmin(f.snapshot::pg_snapshot)
        AND NOT pg_visible_in_snapshot(e.xid, f.snapshot::pg_snapshot) {where})
    FROM harness_folded f WHERE f.name = $1"""


class Folding:
    """The views that one store knows, and how they are folded on a session's connection."""

    def __init__(self) -> None:
        self.views: dict[str, View] = {}

    def register(self, views: Sequence[View]) -> None:
        """Make views known. A name stands for one view."""
        for view in views:
            for table in view.tables:
                if not table.startswith(view.name):
                    raise LedgerError(f"table {table!r} of view {view.name!r} must begin with the view's name")
        self.views |= {view.name: view for view in views}

    async def behind(self, session: Session, connection: Connection, view: View) -> bool:
        """Whether a reader must catch up first. Writes nothing."""
        where, values = _prefixes(session, view, 1)
        sql = _BEHIND.replace("{schema}", session.statements.schema).replace("{where}", where)
        try:
            found = await rows(connection, sql, (view.name, *values))
        except errors.UndefinedTable:
            return True
        return not found or bool(found[0][2]) or found[0][1] > _FAR

    async def catch_up(self, session: Session, connection: Connection, view: View, *, anew: bool = False) -> int:
        """Fold the view up to what is committed now. Gives the number of events folded."""
        async with connection.transaction():
            await rows(connection, "SELECT pg_advisory_xact_lock($1)", (lock_id(session.address.schema, "view", view.name),))
            folded = None if anew else await _folded(connection, view)
            if folded is None:
                await _make_anew(connection, view)
            [(now,)] = await rows(connection, "SELECT pg_current_snapshot()::text")
            count = await self._fold(session, connection, view, folded or _NOTHING, now)
            await rows(connection, "UPDATE harness_folded SET snapshot = $1 WHERE name = $2", (now, view.name))
        return count

    async def _fold(self, session: Session, connection: Connection, view: View, old: str, now: str) -> int:
        count = 0
        async for page in _pages(session, connection, view, old, now):
            statements = [statement for event in page for statement in view.fold(event)]
            async with connection.pipeline():
                cursor = connection.cursor()
                for sql, values in statements:
                    await cursor.execute(cast("Any", dialect.statement(sql)), dialect.values(values))
            count += len(page)
        return count

    @contextlib.asynccontextmanager
    async def shadow(self, session: Session, connection: Connection, view: View, *, copy: bool = True) -> AsyncGenerator[None]:
        """Put an up-to-date copy of the view before the real one, in tables that only this connection sees.

        With `copy=False` it is folded from the first event on, as far as the real one was, for comparison. All of it
        is undone in the end.
        """
        await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        try:
            folded = await _folded(connection, view)
            for sql in view.ddl:
                await connection.execute(dialect.definition(sql, temporary=True).encode())
            if copy and folded is not None:
                for table in view.tables:
                    real = f'"{session.views}".{table}'
                    await connection.execute(f"INSERT INTO pg_temp.{table} SELECT * FROM {real}".encode())
            [(now,)] = await rows(connection, "SELECT pg_current_snapshot()::text")
            old, upto = (folded or _NOTHING, now) if copy else (_NOTHING, folded or _NOTHING)
            await self._fold(session, connection, view, old, upto)
            yield
        finally:
            if not connection.closed:
                await connection.execute("ROLLBACK")

    async def differing(self, session: Session, connection: Connection, view: View) -> list[str]:
        """The view's tables that are not what the events say, up to where they were folded: to be behind is no fault."""
        async with self.shadow(session, connection, view, copy=False):
            return [table for table in view.tables if await _differs(connection, f'"{session.views}".{table}', table)]


async def _folded(connection: Connection, view: View) -> str | None:
    """The snapshot up to which the tables were folded; None if there are none."""
    [(table,)] = await rows(connection, "SELECT to_regclass('harness_folded')::text")
    if table is None:
        return None
    found = await rows(connection, "SELECT snapshot FROM harness_folded WHERE name = $1", (view.name,))
    return str(found[0][0]) if found else None


async def _make_anew(connection: Connection, view: View) -> None:
    await connection.execute(_FOLDED.encode())
    for table in view.tables:
        await connection.execute(f"DROP TABLE IF EXISTS {table}".encode())
    for sql in view.ddl:
        await connection.execute(dialect.definition(sql).encode())
    insert = "INSERT INTO harness_folded VALUES ($1, $2) ON CONFLICT (name) DO NOTHING"
    await rows(connection, insert, (view.name, _NOTHING))


async def _pages(session: Session, connection: Connection, view: View, old: str, now: str) -> AsyncIterator[list[Event]]:
    """The events that one snapshot sees and the older one did not."""
    xid, position = "0", 0
    while True:
        sql, values = session.statements.chosen("between", 5, view.prefixes, ())
        found = [event_of(row) for row in await rows(connection, sql, (xid, position, old, now, _PAGE, *values))]
        if found:
            yield found
        if len(found) < _PAGE:
            return
        xid, position = found[-1].cursor.partition("-")[0], found[-1].position


def _prefixes(session: Session, view: View, count: int) -> tuple[str, list[object]]:
    """The condition that chooses the view's streams, and its values behind the first `count`."""
    return session.statements.condition(count, view.prefixes, ())


async def _differs(connection: Connection, real: str, table: str) -> bool:
    shadow = f"pg_temp.{table}"
    [(exists,)] = await rows(connection, "SELECT to_regclass($1)::text", (real,))
    if exists is None:
        return bool(await rows(connection, f"SELECT 1 FROM {shadow} LIMIT 1"))
    for one, other in ((real, shadow), (shadow, real)):
        if await rows(connection, f"SELECT 1 FROM (SELECT * FROM {one} EXCEPT SELECT * FROM {other}) AS d LIMIT 1"):
            return True
    [(here, there)] = await rows(connection, f"SELECT (SELECT count(*) FROM {real}), (SELECT count(*) FROM {shadow})")
    return here != there


def answers(found: Sequence[tuple[Any, ...]]) -> list[tuple[Value, ...]]:
    """Rows of a question as the views' readers know them."""
    return cast("list[tuple[Value, ...]]", found)
