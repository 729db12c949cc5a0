"""Opening a ledger by its place: a path is a SQLite file, a `postgresql://` address a database."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import NotFound, UsageError

if TYPE_CHECKING:
    from harness.ledger.postgres import PostgresStore
    from harness.ledger.sqlite import SQLiteStore

_SCHEMES = ("postgresql", "postgres")


def is_address(place: str) -> bool:
    """Whether the place is an address and no path."""
    return "://" in place


def open_store(
    place: str, *, actor: str = "harness", create: bool = True, read_only: bool = False
) -> SQLiteStore | PostgresStore:
    """The store at a place, to be used with `async with`, which connects.

    Only `create` makes a ledger where there is none. Raises `NotFound` for a file that is absent, `UsageError` for an
    address of another kind, `StoreUnavailable` for what cannot be opened.
    """
    if not is_address(place):
        from harness.ledger.sqlite import SQLiteStore

        if not (create or Path(place).exists()):
            raise NotFound(f"no ledger at {place}; 'harness init' creates one, 'harness run' as well")
        return SQLiteStore(place, actor=actor, create=create, read_only=read_only)
    from harness.ledger.postgres import PostgresStore
    from harness.ledger.postgres.address import hidden

    scheme = place.partition("://")[0]
    if scheme not in _SCHEMES:
        raise UsageError(f"database {hidden(place)!r}: no ledger is kept in {scheme!r}; name a file or a postgresql:// address")
    return PostgresStore(place, actor=actor, create=create, read_only=read_only)
