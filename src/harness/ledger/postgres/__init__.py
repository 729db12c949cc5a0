"""The ledger in a PostgreSQL database: the `Store` for several machines. Import `PostgresStore` from `harness`."""

from __future__ import annotations

from harness.ledger.postgres.standing import HeldBack
from harness.ledger.postgres.store import PostgresStore

__all__ = ["HeldBack", "PostgresStore"]
