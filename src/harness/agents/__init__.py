"""Who thinks: the in-process agent, a loop of recorded steps, and the harnesses that put work into sessions.

Import from here, not from the modules inside.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.agents.agent import AutonomousAgent, ToolBundle
    from harness.agents.compaction import CompactionStrategy
    from harness.agents.context import ContextBuilder, ContextRequest
    from harness.agents.harness import BaseHarness
    from harness.agents.incremental import IncrementalTaskHarness
    from harness.agents.loop import AgentResult, Outcome
    from harness.agents.mcp import McpTools
    from harness.agents.passes import HarnessContext
    from harness.agents.reviewing import DraftReviewVerifyResult, DraftReviewVerifySupervisor, approves
    from harness.agents.skills import Skill, load_skills
    from harness.agents.subagents import SubAgent
    from harness.agents.supervisor import SupervisorHarness
    from harness.agents.tasks import TaskUnit
    from harness.agents.test_driven import TestDrivenHarness, TestRun

_HOME = {
    "AgentResult": "loop",
    "AutonomousAgent": "agent",
    "BaseHarness": "harness",
    "CompactionStrategy": "compaction",
    "ContextBuilder": "context",
    "ContextRequest": "context",
    "DraftReviewVerifyResult": "reviewing",
    "DraftReviewVerifySupervisor": "reviewing",
    "HarnessContext": "passes",
    "IncrementalTaskHarness": "incremental",
    "McpTools": "mcp",
    "Outcome": "loop",
    "Skill": "skills",
    "SubAgent": "subagents",
    "SupervisorHarness": "supervisor",
    "TaskUnit": "tasks",
    "TestDrivenHarness": "test_driven",
    "TestRun": "test_driven",
    "ToolBundle": "agent",
    "approves": "reviewing",
    "load_skills": "skills",
}

__all__ = [
    "AgentResult",
    "AutonomousAgent",
    "BaseHarness",
    "CompactionStrategy",
    "ContextBuilder",
    "ContextRequest",
    "DraftReviewVerifyResult",
    "DraftReviewVerifySupervisor",
    "HarnessContext",
    "IncrementalTaskHarness",
    "McpTools",
    "Outcome",
    "Skill",
    "SubAgent",
    "SupervisorHarness",
    "TaskUnit",
    "TestDrivenHarness",
    "TestRun",
    "ToolBundle",
    "approves",
    "load_skills",
]


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
