"""Asking, rebuilding and checking views on a session's reading connection."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

import psycopg

from harness.ledger.postgres import dialect, faults
from harness.ledger.postgres.folding import Folding, answers
from harness.ledger.postgres.link import Connection, apart, rows
from harness.ledger.views import Value, View

if TYPE_CHECKING:
    from harness.ledger.postgres.session import Session

T = TypeVar("T")


async def ask(
    session: Session, folding: Folding, view: View, sql: str, values: Sequence[Value], *, write: bool
) -> list[tuple[Value, ...]]:
    """Rows of a view, folded up to the newest event first; one that may not be written is folded in a copy."""
    question, given = dialect.statement(sql), dialect.values(tuple(values))

    async def work(connection: Connection) -> list[tuple[Value, ...]]:
        if await folding.behind(session, connection, view):
            if not write:
                async with folding.shadow(session, connection, view):
                    return answers(await rows(connection, question, given, binary=False))
            await folding.catch_up(session, connection, view)
        return answers(await rows(connection, question, given, binary=False))

    return await _twice(session, work)


async def rebuild(session: Session, folding: Folding, view: View) -> int:
    """Fold the view anew; gives the number of events folded."""
    return await _twice(session, lambda connection: folding.catch_up(session, connection, view, anew=True))


async def check(session: Session, folding: Folding, view: View, *, write: bool) -> list[str]:
    """The view's tables that differ from what the events say."""

    async def work(connection: Connection) -> list[str]:
        if write and await folding.behind(session, connection, view):
            await folding.catch_up(session, connection, view)
        return await folding.differing(session, connection, view)

    return await _twice(session, work)


async def _twice(session: Session, work: Callable[[Connection], Awaitable[T]]) -> T:
    """Do work that can be repeated, once more where the connection was lost."""
    return await apart(_tried_twice(session, work))


async def _tried_twice(session: Session, work: Callable[[Connection], Awaitable[T]]) -> T:
    for last in (False, True):
        try:
            async with session.reader() as connection:
                return await work(connection)
        except (psycopg.Error, OSError) as error:
            if not faults.lost(error):
                raise session.understood(error) from error
            session.lost_reader()
            if last:
                raise faults.down(error, session.address) from error
    raise AssertionError("unreachable")
