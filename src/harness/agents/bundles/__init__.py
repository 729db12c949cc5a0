"""Tools in bundles, for agents that write code and agents that look at a system. Import from here."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.agents.bundles.coding import CodingHarnessTools, CommandLimits
    from harness.agents.bundles.observability import ObservabilityTools

_HOME = {"CodingHarnessTools": "coding", "CommandLimits": "coding", "ObservabilityTools": "observability"}

__all__ = ["CodingHarnessTools", "CommandLimits", "ObservabilityTools"]


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
