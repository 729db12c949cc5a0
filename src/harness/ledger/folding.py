"""Keeping views up to date with the events, for a store whose views are SQLite tables."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

from harness.errors import LedgerError
from harness.ledger.events import Event
from harness.ledger.views import View

_PAGE = 500

Scan = Callable[[sqlite3.Connection, tuple[str, ...], int, int, int], list[Event]]
"""Events of streams with these prefixes at positions in (after, upto], at most so many, in order."""


class Folding:
    """The views that one store object knows, and how far it knows each of them to be folded."""

    def __init__(self, scan: Scan) -> None:
        self._scan = scan
        self._views: dict[str, View] = {}
        self._seen: dict[str, int] = {}  # up to this position the view lacks nothing, the transaction under way included
        self._looked: dict[str, int] = {}  # the same of what is committed, for readers: a writer may be in another thread
        self._made: set[str] = set()

    def register(self, views: Iterable[View]) -> None:
        """Make views known. A name stands for one view."""
        views = tuple(views)
        for view in views:
            for table in view.tables:
                if not table.startswith(view.name):
                    raise LedgerError(f"table {table!r} of view {view.name!r} must begin with the view's name")
        self._views = self._views | {view.name: view for view in views}  # a new one: a writer may be walking the old one

    def forget(self) -> None:
        """A transaction was undone: what it did to views is not known any more."""
        self._seen.clear()
        self._made.clear()

    def advance(self, connection: sqlite3.Connection, written: Sequence[Event]) -> None:
        """Fold what was just written into the views that care. A view that fails is left behind, no more."""
        if not self._views:
            return
        before, upto = written[0].position - 1, written[-1].position
        for view in self._views.values():
            prefixes = view.prefixes
            ours = [event for event in written if event.stream.startswith(prefixes)]
            if not ours:
                if self._seen.get(view.name) == before:
                    self._seen[view.name] = upto
                continue
            seen = self._seen.pop(view.name, None)
            inside = connection.in_transaction
            try:
                with _savepoint(connection):
                    if seen == before:
                        self._fold(connection, view, ours, upto)
                    else:
                        self.catch_up(connection, view, upto)
            except Exception:
                self._forget_view(view)
                if inside and not connection.in_transaction:  # not the view's fault: SQLite undid everything
                    raise  # else its reader will meet the error

    def _fold(self, connection: sqlite3.Connection, view: View, events: Iterable[Event], upto: int) -> int:
        folded = 0
        for event in events:
            for sql, values in view.fold(event):
                connection.execute(sql, values)
            folded += 1
        if folded:
            connection.execute("UPDATE views SET position = ? WHERE name = ?", (upto, view.name))
        self._seen[view.name] = upto
        return folded

    def catch_up(self, connection: sqlite3.Connection, view: View, upto: int) -> int:
        """Fold the view up to a position, inside a write transaction. Gives the number of events folded."""
        try:
            with _savepoint(connection):
                folded = _folded_to(connection, view)
                if folded is None:  # never made, or lost: what is there of it means nothing
                    self.drop(connection, view)
                self._make(connection, view)
                after = max(folded or 0, self._seen.get(view.name, 0))
                return self._fold(connection, view, self._pages(connection, view, after, upto), upto)
        except BaseException:
            self._forget_view(view)
            raise

    def _forget_view(self, view: View) -> None:
        self._seen.pop(view.name, None)
        self._made.discard(view.name)

    def _pages(self, connection: sqlite3.Connection, view: View, after: int, upto: int) -> Iterator[Event]:
        while after < upto:
            events = self._scan(connection, view.prefixes, after, upto, _PAGE)
            yield from events
            if len(events) < _PAGE:
                return
            after = events[-1].position

    def behind(self, connection: sqlite3.Connection, view: View, upto: int) -> bool:
        """Whether a reader must catch up first. Writes nothing."""
        folded = _folded_to(connection, view)
        if folded is None:
            self._looked.pop(view.name, None)
            return True
        after = max(folded, self._looked.get(view.name, 0))
        if after >= upto:
            return False
        if self._scan(connection, view.prefixes, after, upto, 1):
            return True
        self._looked[view.name] = upto
        return False

    def _make(self, connection: sqlite3.Connection, view: View) -> None:
        if view.name in self._made:
            return
        for statement in view.ddl:
            connection.execute(statement)
        connection.execute("INSERT OR IGNORE INTO views VALUES (?, 0)", (view.name,))
        self._made.add(view.name)

    def drop(self, connection: sqlite3.Connection, view: View) -> None:
        """Remove the view's tables, so that catching up builds them anew."""
        for table in view.tables:
            connection.execute(f"DROP TABLE IF EXISTS {table}")
        connection.execute("DELETE FROM views WHERE name = ?", (view.name,))
        self._forget_view(view)

    @contextlib.contextmanager
    def shadow(self, connection: sqlite3.Connection, view: View, upto: int, *, copy: bool = True) -> Generator[None]:
        """Put an up-to-date copy of the view before the real one, in tables that only this connection sees.

        With `copy=False` it is folded from the first event on, as far as the real one was, for comparison. All of it
        is one read transaction, so that others who write meanwhile are seen wholly or not at all; undoing it ends the copy.
        """
        connection.execute("BEGIN")
        try:
            folded = _folded_to(connection, view)
            for statement in view.ddl:
                connection.execute(_temporary(statement))
            if copy and folded is not None:
                for table in view.tables:
                    connection.execute(f"INSERT INTO temp.{table} SELECT * FROM main.{table}")
            after, upto = (folded or 0, upto) if copy else (0, folded or 0)
            for event in self._pages(connection, view, after, upto):
                for sql, values in view.fold(event):
                    connection.execute(sql, values)
            yield
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")

    def differing(self, connection: sqlite3.Connection, view: View) -> list[str]:
        """The view's tables that are not what the events say, up to where they were folded: to be behind is no fault.

        Writes to temporary tables only.
        """
        with self.shadow(connection, view, 0, copy=False):
            return [table for table in view.tables if _differs(connection, table)]


def _folded_to(connection: sqlite3.Connection, view: View) -> int | None:
    """Up to which position the tables were folded; None if there are none."""
    row = connection.execute("SELECT position FROM views WHERE name = ?", (view.name,)).fetchone()
    return None if row is None else int(row[0])


def _differs(connection: sqlite3.Connection, table: str) -> bool:
    for one, other in (("main", "temp"), ("temp", "main")):
        sql = f"SELECT * FROM {one}.{table} EXCEPT SELECT * FROM {other}.{table} LIMIT 1"
        try:
            if connection.execute(sql).fetchone() is not None:
                return True
        except sqlite3.OperationalError:  # the table does not exist yet
            return connection.execute(f"SELECT 1 FROM temp.{table} LIMIT 1").fetchone() is not None
    counts = connection.execute(f"SELECT (SELECT count(*) FROM main.{table}), (SELECT count(*) FROM temp.{table})").fetchone()
    return counts[0] != counts[1]


_DDL = re.compile(r"\s*CREATE\s+(TABLE|(?:UNIQUE\s+)?INDEX)\s+IF\s+NOT\s+EXISTS\s+", re.IGNORECASE)


def _temporary(statement: str) -> str:
    """The same definition for a table that only this connection sees."""
    match = _DDL.match(statement)
    if match is None:
        raise LedgerError(f"a view's definition begins with CREATE TABLE|INDEX IF NOT EXISTS, not {statement[:40]!r}")
    kind = match[1].upper()
    rest = statement[match.end() :]
    if kind == "TABLE":
        return f"CREATE TEMP TABLE {rest}"
    return f"CREATE {kind} temp.{rest}"


@contextlib.contextmanager
def _savepoint(connection: sqlite3.Connection) -> Generator[None]:
    connection.execute("SAVEPOINT fold")
    try:
        yield
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK TO fold")
            connection.execute("RELEASE fold")
        raise
    connection.execute("RELEASE fold")
