"""Tables derived from events: a view's owner gives the table's definition and a pure fold.

A view can be dropped and built anew at any time; a breaking change of one is a new name.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from harness.ledger.events import Event

Value = str | int | float | bytes | None
Statement = tuple[str, tuple[Value, ...]]


class View(Protocol):
    """A projection of the ledger into tables of its own.

    Promises: `fold` is pure, decides by the event alone, and defines what an erased event means.
    Statements are plain SQL that SQLite 3.40 and PostgreSQL both take: `?` for values,
    `INSERT … ON CONFLICT (…) DO UPDATE`, no functions of one dialect.
    """

    @property
    def name(self) -> str:
        """Unique, with a version if it ever broke: `items`, `items_2`."""
        ...

    @property
    def tables(self) -> tuple[str, ...]:
        """The tables' names, each beginning with the view's name."""
        ...

    @property
    def ddl(self) -> tuple[str, ...]:
        """`CREATE TABLE IF NOT EXISTS name (…)` and `CREATE INDEX IF NOT EXISTS …`, one statement each."""
        ...

    @property
    def prefixes(self) -> tuple[str, ...]:
        """Which streams it folds, by the beginning of their names, such as `item/`."""
        ...

    def fold(self, event: Event) -> Iterable[Statement]:
        """What the event changes in the tables."""
        ...
