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
        self._seen: dict[str, int] = {}  # up to this position the view lacks nothing
        self._made: set[str] = set()

    def register(self, views: Iterable[View]) -> None:
        """Make views known. A name stands for one view."""
        for view in views:
            for table in view.tables:
                if not table.startswith(view.name):
                    raise LedgerError(f"table {table!r} of view {view.name!r} must begin with the view's name")
            self._views[view.name] = view

    def forget(self) -> None:
        """A transaction was undone: what it did to views is not known any more."""
        self._seen.clear()
        self._made.clear()

    def advance(self, connection: sqlite3.Connection, written: Sequence[Event]) -> None:
        """Fold what was just written into the views that care. A view that fails is left behind, no more."""
        before, upto = written[0].position - 1, written[-1].position
        for view in self._views.values():
            prefixes = view.prefixes
            ours = [event for event in written if event.stream.startswith(prefixes)]
            if not ours:
                if self._seen.get(view.name) == before:
                    self._seen[view.name] = upto
                continue
            seen = self._seen.pop(view.name, None)
            with contextlib.suppress(Exception), _savepoint(connection):  # its reader will meet the error
                if seen == before:
                    self._fold(connection, view, ours, upto)
                else:
                    self.catch_up(connection, view, upto)

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
        self._make(connection, view)
        row = connection.execute("SELECT position FROM views WHERE name = ?", (view.name,)).fetchone()
        after = max(int(row[0]), self._seen.get(view.name, 0))
        return self._fold(connection, view, self._pages(connection, view, after, upto), upto)

    def _pages(self, connection: sqlite3.Connection, view: View, after: int, upto: int) -> Iterator[Event]:
        while after < upto:
            events = self._scan(connection, view.prefixes, after, upto, _PAGE)
            yield from events
            if len(events) < _PAGE:
                return
            after = events[-1].position

    def behind(self, connection: sqlite3.Connection, view: View, upto: int) -> bool:
        """Whether a reader must catch up first. Writes nothing."""
        try:
            row = connection.execute("SELECT position FROM views WHERE name = ?", (view.name,)).fetchone()
        except sqlite3.OperationalError:
            return True
        if row is None:
            return True
        after = max(int(row[0]), self._seen.get(view.name, 0))
        if after >= upto:
            return False
        if self._scan(connection, view.prefixes, after, upto, 1):
            return True
        self._seen[view.name] = upto
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
        self._seen.pop(view.name, None)
        self._made.discard(view.name)

    def shadow(self, connection: sqlite3.Connection, view: View, upto: int, *, copy: bool = True) -> None:
        """Put an up-to-date copy of the view before the real one, in tables that only this connection sees.

        With `copy=False` it is folded from the first event on, for comparison.
        """
        for table in view.tables:
            connection.execute(f"DROP TABLE IF EXISTS temp.{table}")
        for statement in view.ddl:
            connection.execute(_temporary(statement))
        after = 0
        row = None
        with contextlib.suppress(sqlite3.OperationalError):
            row = connection.execute("SELECT position FROM views WHERE name = ?", (view.name,)).fetchone()
        if copy and row is not None:
            after = int(row[0])
            for table in view.tables:
                connection.execute(f"INSERT INTO temp.{table} SELECT * FROM main.{table}")
        for event in self._pages(connection, view, after, upto):
            for sql, values in view.fold(event):
                connection.execute(sql, values)

    def unshadow(self, connection: sqlite3.Connection, view: View) -> None:
        """Remove the copy."""
        for table in view.tables:
            connection.execute(f"DROP TABLE IF EXISTS temp.{table}")

    def differing(self, connection: sqlite3.Connection, view: View, upto: int) -> list[str]:
        """The view's tables that are not what the events say, up to where they were folded: to be behind is no fault.

        Writes to temporary tables only.
        """
        with contextlib.suppress(sqlite3.OperationalError):
            row = connection.execute("SELECT position FROM views WHERE name = ?", (view.name,)).fetchone()
            upto = min(upto, int(row[0]) if row is not None else 0)
        self.shadow(connection, view, upto, copy=False)
        try:
            return [table for table in view.tables if _differs(connection, table)]
        finally:
            self.unshadow(connection, view)


def _differs(connection: sqlite3.Connection, table: str) -> bool:
    for one, other in (("main", "temp"), ("temp", "main")):
        sql = f"SELECT * FROM {one}.{table} EXCEPT SELECT * FROM {other}.{table} LIMIT 1"
        try:
            if connection.execute(sql).fetchone() is not None:
                return True
        except sqlite3.OperationalError:  # the table does not exist yet
            return connection.execute(f"SELECT 1 FROM temp.{table} LIMIT 1").fetchone() is not None
    return False


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
        connection.execute("ROLLBACK TO fold")
        connection.execute("RELEASE fold")
        raise
    connection.execute("RELEASE fold")
