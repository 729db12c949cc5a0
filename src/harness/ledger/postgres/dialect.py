"""What views say in plain SQL, in PostgreSQL's words: placeholders, types, values. No I/O."""

from __future__ import annotations

import functools
import re

from harness.errors import LedgerError
from harness.ledger.views import Value

_PARTS = re.compile(r"""('(?:[^']|'')*')|("(?:[^"]|"")*")|(--[^\n]*)|(\?)""")
_TYPES = {
    "INTEGER": "BIGINT",
    "INT": "BIGINT",
    "BLOB": "BYTEA",
    "REAL": "DOUBLE PRECISION",
    "TEXT": 'TEXT COLLATE "C"',  # names sort by their bytes, as they do in SQLite
}
_TYPE = re.compile(  # a type follows its column's name; a column may be called as a type is
    rf"""('(?:[^']|'')*')|([\w"]\s+)({"|".join(_TYPES)})\b|(\)\s*WITHOUT\s+ROWID\s*$)""", re.IGNORECASE
)
_DDL = re.compile(r"\s*CREATE\s+(TABLE|(?:UNIQUE\s+)?INDEX)\s+IF\s+NOT\s+EXISTS\s+", re.IGNORECASE)
_NUL = "\u2400"  # PostgreSQL's text cannot hold NUL; this is the sign that stands for it


@functools.lru_cache(maxsize=1024)
def statement(sql: str) -> str:
    """The statement with `$1`, `$2`, … for `?`, but not inside literals, names and comments."""
    count = 0

    def number(match: re.Match[str]) -> str:
        nonlocal count
        if match[4] is None:
            return match[0]
        count += 1
        return f"${count}"

    return _PARTS.sub(number, sql)


@functools.lru_cache(maxsize=256)
def definition(sql: str, *, temporary: bool = False) -> str:
    """A view's `CREATE … IF NOT EXISTS` with this database's types; `temporary` for this transaction only."""
    match = _DDL.match(sql)
    if match is None:
        raise LedgerError(f"a view's definition begins with CREATE TABLE|INDEX IF NOT EXISTS, not {sql[:40]!r}")
    kind = " ".join(match[1].upper().split())
    rest = _TYPE.sub(_typed, sql[match.end() :])
    if kind == "TABLE" and temporary:
        return f"CREATE TEMP TABLE {rest} ON COMMIT DROP"
    return f"CREATE {kind} {rest}" if temporary else f"CREATE {kind} IF NOT EXISTS {rest}"


def _typed(match: re.Match[str]) -> str:
    if match[1] is not None:
        return match[1]
    return ")" if match[4] is not None else f"{match[2]}{_TYPES[match[3].upper()]}"


def values(given: tuple[Value, ...]) -> list[Value]:
    """The values as this database takes them."""
    return [
        value.replace("\0", _NUL) if isinstance(value, str) else int(value) if isinstance(value, bool) else value
        for value in given
    ]
