"""What it costs: prices, budgets reserved before and settled after, slices of them. Import from here."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.spend.budgets import Budgets, Reservation, budget_exceeded, counter
    from harness.spend.prices import Price, cost_micro_usd, estimate_micro_usd, price_of
    from harness.spend.slices import Slice, slice_size

_HOME = {
    "Budgets": "budgets",
    "Price": "prices",
    "Reservation": "budgets",
    "Slice": "slices",
    "budget_exceeded": "budgets",
    "cost_micro_usd": "prices",
    "counter": "budgets",
    "estimate_micro_usd": "prices",
    "price_of": "prices",
    "slice_size": "slices",
}

__all__ = [
    "Budgets",
    "Price",
    "Reservation",
    "Slice",
    "budget_exceeded",
    "cost_micro_usd",
    "counter",
    "estimate_micro_usd",
    "price_of",
    "slice_size",
]


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
