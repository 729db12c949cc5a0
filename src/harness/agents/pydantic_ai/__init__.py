"""Agents of Pydantic AI under the kernel. Needs the extra `pydantic-ai`. Import from here, not from the modules inside."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from harness.errors import UsageError

if TYPE_CHECKING:
    from harness.agents.pydantic_ai.durability import HarnessDurability
    from harness.agents.pydantic_ai.runs import DurableRun, tool_context
    from harness.kernel import ToolTraits

_HOME = {
    "DurableRun": "harness.agents.pydantic_ai.runs",
    "HarnessDurability": "harness.agents.pydantic_ai.durability",
    "ToolTraits": "harness.kernel",
    "tool_context": "harness.agents.pydantic_ai.runs",
}

__all__ = ["DurableRun", "HarnessDurability", "ToolTraits", "tool_context"]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(_HOME[name]), name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "pydantic_ai":
            raise
        raise UsageError("Pydantic AI is not installed; install the extra: pip install 'agentharness[pydantic-ai]'") from error
