"""What happened: the hash-chained ledger. Import from here, not from the modules inside."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.ledger.bundles import export_bundle, parse_bundle
    from harness.ledger.events import GENESIS, START, Cursor, Draft, Event
    from harness.ledger.guards import Acquire, Expect, Fence, Free, Guard, Lease, Release, Reserve, Unique
    from harness.ledger.memory import MemoryStore
    from harness.ledger.opening import is_address, open_store
    from harness.ledger.origins import fork_key, lineage
    from harness.ledger.peek import peek_view
    from harness.ledger.postgres import PostgresStore
    from harness.ledger.proof import Chain
    from harness.ledger.seals import read_seal, signing_key, write_seal
    from harness.ledger.sqlite import SQLiteStore
    from harness.ledger.store import Appended, Head, Problem, Store, Verification, Write
    from harness.ledger.views import Statement, Value, View

_HOME = {
    "GENESIS": "events",
    "START": "events",
    "Acquire": "guards",
    "Appended": "store",
    "Chain": "proof",
    "Cursor": "events",
    "Draft": "events",
    "Event": "events",
    "Expect": "guards",
    "Fence": "guards",
    "Free": "guards",
    "Guard": "guards",
    "Head": "store",
    "Lease": "guards",
    "MemoryStore": "memory",
    "PostgresStore": "postgres",
    "Problem": "store",
    "Release": "guards",
    "Reserve": "guards",
    "SQLiteStore": "sqlite",
    "Statement": "views",
    "Store": "store",
    "Unique": "guards",
    "Value": "views",
    "Verification": "store",
    "View": "views",
    "Write": "store",
    "export_bundle": "bundles",
    "is_address": "opening",
    "open_store": "opening",
    "fork_key": "origins",
    "lineage": "origins",
    "parse_bundle": "bundles",
    "peek_view": "peek",
    "read_seal": "seals",
    "signing_key": "seals",
    "write_seal": "seals",
}

__all__ = [
    "GENESIS",
    "START",
    "Acquire",
    "Appended",
    "Chain",
    "Cursor",
    "Draft",
    "Event",
    "Expect",
    "Fence",
    "Free",
    "Guard",
    "Head",
    "Lease",
    "MemoryStore",
    "PostgresStore",
    "Problem",
    "Release",
    "Reserve",
    "SQLiteStore",
    "Statement",
    "Store",
    "Unique",
    "Value",
    "Verification",
    "View",
    "Write",
    "export_bundle",
    "fork_key",
    "is_address",
    "lineage",
    "open_store",
    "parse_bundle",
    "peek_view",
    "read_seal",
    "signing_key",
    "write_seal",
]


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
