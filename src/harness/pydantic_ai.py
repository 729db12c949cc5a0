"""Agents of Pydantic AI as recorded ones: public face of `harness.agents.pydantic_ai`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.agents.pydantic_ai import DurableRun, HarnessDurability, ToolTraits, tool_context

__all__ = ["DurableRun", "HarnessDurability", "ToolTraits", "tool_context"]


def __getattr__(name: str) -> object:
    if name in __all__:
        from harness.agents import pydantic_ai

        return getattr(pydantic_ai, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
