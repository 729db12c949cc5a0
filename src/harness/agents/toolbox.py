"""The tools of one agent: those it was given, and those that come with being an agent. Nothing of it is the kernel's."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from harness.agents.history_tool import NAME as HISTORY
from harness.agents.history_tool import history_tool
from harness.agents.skills import LOAD_SKILL
from harness.agents.subagents import SubAgent, subagent_tool
from harness.errors import UsageError
from harness.kernel import Tool, ToolRegistry

if TYPE_CHECKING:
    from harness.agents.agent import ToolBundle
    from harness.agents.memory import Memory
    from harness.agents.skills import Skills
    from harness.kernel import Kernel

CONTEXT = "assemble_context"
COMPACTION = "compact_conversation"


class Toolbox:
    """What one agent may call. The kernel's tools come beside it, behind those of the same name here."""

    def __init__(
        self,
        kernel: Kernel,
        *,
        tools: ToolBundle | None = None,
        visible: Collection[str] | None = None,
        skills: Skills | None = None,
        memory: Memory | None = None,
        subagents: Sequence[SubAgent] = (),
        depth: int = 0,
    ) -> None:
        if tools is not None and not hasattr(tools, "registry"):
            raise UsageError(f"tools are a ToolRegistry or a bundle such as CodingHarnessTools(…), not {tools!r}")
        self._kernel = kernel
        self._skills = skills
        self._given = ToolRegistry() if tools is None else tools.registry()
        self._taken = -1  # the version of those that `_base` was made of
        self._base = ToolRegistry()
        self._memory = () if memory is None else memory.tools()
        self._built_in: list[tuple[Tool, str]] = [(history_tool(kernel), "is always there")]
        self._subagents = {each.name: each for each in subagents}
        self._always = {HISTORY}
        self._in_order: set[str] = {each.name for each in subagents if not each.at_once}
        if skills is not None:
            self._built_in.append((skills.tool(), "is there for its skills"))
            self._always.add(LOAD_SKILL)
        self._built_in += [(subagent_tool(kernel, each, depth), "is a sub-agent") for each in subagents]
        self._in_order |= {tool.name for tool in self._memory}
        self._visible = None if visible is None else frozenset(visible) | self._always
        self._own()

    def _own(self) -> ToolRegistry:
        """The agent's tools without those of skills; made again when those it was given have become others."""
        if self._taken != self._given.version:
            base = ToolRegistry(self._given)
            for tool, why in self._built_in:
                if tool.name in base:
                    raise UsageError(
                        f"an agent cannot have a tool of its own named {tool.name!r}, since one {why}; rename yours"
                    )
                base.add(tool)
            for tool in self._memory:  # those of the agent or the kernel of the same name come first
                if tool.name not in base and tool.name not in self._kernel.tools:
                    base.add(tool)
            self._base, self._taken = base, self._given.version
        return self._base

    @property
    def visible(self) -> frozenset[str] | None:
        """The names that the agent may see and call; None for all."""
        return self._visible

    def hidden(self, name: str) -> bool:
        """Whether a tool of this name is kept from the agent."""
        return self._visible is not None and name not in self._visible

    def registry(self, loaded: frozenset[str]) -> ToolRegistry:
        """The agent's own tools, once it has loaded these skills."""
        return self._own() if self._skills is None else self._skills.registry(self._own(), loaded)

    def is_subagent(self, name: str) -> bool:
        """Whether a tool gives its task to another agent."""
        return name in self._subagents

    def may_overlap(self, name: str, loaded: frozenset[str]) -> bool:
        """Whether a call may run beside others: it changes nothing, and nothing depends on its place among them."""
        tool = self.registry(loaded).get(name) or self._kernel.tools.get(name)
        return tool is not None and not tool.side_effect and name not in self._in_order
