"""Who thinks: the in-process agent, a loop of recorded steps. Import from here, not from the modules inside."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.agents.agent import AgentResult, AutonomousAgent, Outcome, ToolBundle

_HOME = {"AgentResult": "agent", "AutonomousAgent": "agent", "Outcome": "agent", "ToolBundle": "agent"}

__all__ = ["AgentResult", "AutonomousAgent", "Outcome", "ToolBundle"]


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
