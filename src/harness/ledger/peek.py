"""Rows of a view from a SQLite ledger, without opening it as a store: for commands that must answer at once.

It loads sqlite3 and nothing else. Whatever is not plain (another kind of ledger, a view that is behind, an error) is
left to the store, which does it in its own time or says what is wrong.
"""

# pathlib would take longer to load than all of this
# ruff: noqa: PTH100

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from typing import Any

_SCHEMA_VERSION = 1  # as in `database`; of another version nothing is known here
_NEAR = 5000  # so many positions are scanned; for more, each stream's newest event is looked up
_WAIT_SECONDS = 0.5
_NEWS_NEAR = """SELECT 1 FROM events e JOIN streams s ON s.id = e.stream
    WHERE e.position > ? AND +s.name >= ? AND +s.name < ? LIMIT 1"""
_NEWS_FAR = """SELECT 1 FROM streams s JOIN events e ON e.stream = s.id
    AND e.seq = (SELECT max(seq) FROM events WHERE stream = s.id)
    WHERE e.position > ? AND s.name >= ? AND s.name < ? LIMIT 1"""


def peek_view(place: str, view: str, sql: str, values: Sequence[object] = (), *, prefix: str) -> list[tuple[Any, ...]] | None:
    """Rows of a view that folds streams of this prefix; None if the view is behind, or this cannot be told here.

    Writes nothing, and sees the view and the events as they were at one moment.
    """
    if "://" in place:
        return None
    try:
        connection = sqlite3.connect(_address(place), uri=True, isolation_level=None, timeout=_WAIT_SECONDS)
    except (sqlite3.Error, ValueError):
        return None
    try:
        connection.execute("BEGIN")
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        folded = connection.execute("SELECT position FROM views WHERE name = ?", (view,)).fetchone()
        if version != _SCHEMA_VERSION or _behind(connection, folded[0] if folded else 0, prefix):
            return None
        return connection.execute(sql, values).fetchall() if folded else []
    except sqlite3.Error:
        return None
    finally:
        connection.close()


def _address(place: str) -> str:
    path = os.path.abspath(place)
    for sign, escaped in (("%", "%25"), ("?", "%3f"), ("#", "%23")):
        path = path.replace(sign, escaped)
    return f"file:{path}?mode=ro"


def _behind(connection: sqlite3.Connection, folded: int, prefix: str) -> bool:
    """Whether a stream of this prefix has an event above the position up to which the view was folded."""
    last = connection.execute("SELECT coalesce(max(position), 0) FROM events").fetchone()[0]
    if folded >= last:
        return False
    news = _NEWS_NEAR if last - folded < _NEAR else _NEWS_FAR
    return connection.execute(news, (folded, prefix, f"{prefix}\U0010ffff")).fetchone() is not None
