"""What is to be done: items, who may change them how, and who works on which. Import from here."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.work.item import (
        PRIORITIES,
        Claim,
        Filter,
        Item,
        fingerprint_key,
        lease_of,
        priority_name,
        priority_of,
        stream_of,
    )
    from harness.work.items import Items
    from harness.work.transitions import OPEN, RULES, TERMINAL, Role, Rule, Status
    from harness.work.view import ITEM_VIEW

_HOME = {
    "Claim": "item",
    "Filter": "item",
    "ITEM_VIEW": "view",
    "Item": "item",
    "Items": "items",
    "OPEN": "transitions",
    "PRIORITIES": "item",
    "RULES": "transitions",
    "Role": "transitions",
    "Rule": "transitions",
    "Status": "transitions",
    "TERMINAL": "transitions",
    "fingerprint_key": "item",
    "lease_of": "item",
    "priority_name": "item",
    "priority_of": "item",
    "stream_of": "item",
}

__all__ = [
    "ITEM_VIEW", "OPEN", "PRIORITIES", "RULES", "TERMINAL", "Claim", "Filter", "Item", "Items", "Role", "Rule", "Status",
    "fingerprint_key", "lease_of", "priority_name", "priority_of", "stream_of",
]  # fmt: skip


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
