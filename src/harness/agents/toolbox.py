"""The tools of one agent: those it was given, and those that come with being an agent. Nothing of it is the kernel's."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
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
        self._kernel = kernel
        self._skills = skills
        self._given = ToolRegistry(() if tools is None else tools.registry())
        self._base = ToolRegistry(self._given)
        self._subagents = {each.name: each for each in subagents}
        self._always = {HISTORY}
        self._in_order: set[str] = {each.name for each in subagents if not each.at_once}
        self._add([history_tool(kernel)], "is always there")
        if skills is not None:
            self._add([skills.tool()], "is there for its skills")
            self._always.add(LOAD_SKILL)
        self._add([subagent_tool(kernel, each, depth) for each in subagents], "is a sub-agent")
        if memory is not None:
            self._remember(memory)
        self._visible = None if visible is None else frozenset(visible) | self._always

    def _add(self, tools: Iterable[Tool], why: str) -> None:
        for tool in tools:
            if tool.name in self._base:
                raise UsageError(f"an agent cannot have a tool of its own named {tool.name!r}, since one {why}; rename yours")
            self._base.add(tool)

    def _remember(self, memory: Memory) -> None:
        """Add the tools of memory, but for those that the agent or the kernel has of the same name."""
        for tool in memory.tools():
            if tool.name not in self._base and tool.name not in self._kernel.tools:
                self._base.add(tool)
                self._in_order.add(tool.name)

    @property
    def visible(self) -> frozenset[str] | None:
        """The names that the agent may see and call; None for all."""
        return self._visible

    def hidden(self, name: str) -> bool:
        """Whether a tool of this name is kept from the agent."""
        return self._visible is not None and name not in self._visible

    def registry(self, loaded: frozenset[str]) -> ToolRegistry:
        """The agent's own tools, once it has loaded these skills."""
        return self._base if self._skills is None else self._skills.registry(self._base, loaded)

    def is_subagent(self, name: str) -> bool:
        """Whether a tool gives its task to another agent."""
        return name in self._subagents

    def may_overlap(self, name: str, loaded: frozenset[str]) -> bool:
        """Whether a call may run beside others: it changes nothing, and nothing depends on its place among them."""
        tool = self.registry(loaded).get(name) or self._kernel.tools.get(name)
        return tool is not None and not tool.side_effect and name not in self._in_order
