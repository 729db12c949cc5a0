"""The documented import name of the ledger's stores. Nobody inside imports this."""

from __future__ import annotations

from harness.ledger import MemoryStore, PostgresStore, SQLiteStore, Store

__all__ = ["MemoryStore", "PostgresStore", "SQLiteStore", "Store"]
