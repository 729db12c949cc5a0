"""The tools that one step may see: which, under which tenant, with which signatures. Cached, since schemas are dear."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Self

import msgspec

from harness.kernel.matching import digest_of
from harness.kernel.ports import ToolDefinition
from harness.kernel.tenant import TenantContext, ToolDecision, decide
from harness.kernel.tools import Tool, ToolRegistry, signature_of

_MAX_CACHED = 256


class Toolset:
    """The tools that a model is shown, by name."""

    __slots__ = ("definitions", "digest", "signatures")

    def __init__(self, tools: Collection[Tool]) -> None:
        listed = sorted(tools, key=lambda tool: tool.name)
        self.definitions: tuple[ToolDefinition, ...] = tuple(tool.definition for tool in listed)
        self.signatures: Mapping[str, str] = {tool.name: tool.signature for tool in listed}
        self.digest = digest_of(self.signatures) if listed else ""  # what a recorded step remembers of them

    @classmethod
    def declared(cls, definitions: Collection[ToolDefinition]) -> Self:
        """Tools that are shown here and executed elsewhere."""
        toolset = cls(())
        toolset.definitions = tuple(sorted(definitions, key=lambda tool: tool.name))
        toolset.signatures = {tool.name: signature_of(tool) for tool in toolset.definitions}
        toolset.digest = digest_of(toolset.signatures) if toolset.signatures else ""
        return toolset


_EMPTY = Toolset(())


class _Needs(msgspec.Struct, frozen=True, kw_only=True):
    """A tool's name and one capability that it needs."""

    name: str
    requires_capability: str


class Toolsets:
    """What a kernel's registry, and perhaps one of a caller, offers to a tenant."""

    def __init__(self, registry: ToolRegistry) -> None:
        self.registry = registry
        self.requires: Mapping[str, str] = {}  # capabilities that tools need besides those they declare
        self._cache: dict[object, tuple[ToolRegistry | None, Toolset]] = {}

    def get(self, name: str, extra: ToolRegistry | None = None) -> Tool | None:
        """A tool by name; the caller's own come first."""
        return (extra.get(name) if extra is not None else None) or self.registry.get(name)

    def all(self, extra: ToolRegistry | None = None) -> list[Tool]:
        """Every tool, by name."""
        tools = {tool.name: tool for registry in (self.registry, extra or ()) for tool in registry}
        return [tools[name] for name in sorted(tools)]

    def decide(self, tool: Tool, tenant: TenantContext, visible: Collection[str] | None = None) -> ToolDecision:
        """What is decided about a tool: by what it declares, then by what this kernel asks besides."""
        decision = decide(tool, tenant, visible)
        also = self.requires.get(tool.name)
        if also is None or not decision.allowed:
            return decision
        return decide(_Needs(name=tool.name, requires_capability=also), tenant)

    def decisions(
        self, tenant: TenantContext, visible: Collection[str] | None, extra: ToolRegistry | None = None
    ) -> list[ToolDecision]:
        """What is decided about every tool, by name."""
        return [self.decide(tool, tenant, visible) for tool in self.all(extra)]

    def of(self, tenant: TenantContext, visible: Collection[str] | None, extra: ToolRegistry | None = None) -> Toolset:
        """The tools that a model is shown."""
        if (extra is None and not self.registry.version) or (visible is not None and not visible):
            return _EMPTY
        place = (
            self.registry.version, id(extra), extra.version if extra is not None else 0, tenant.capabilities,
            None if visible is None else frozenset(visible),
        )  # fmt: skip
        cached = self._cache.get(place)
        if cached is None:
            if len(self._cache) >= _MAX_CACHED:
                self._cache.clear()
            tools = [tool for tool in self.all(extra) if self.decide(tool, tenant, visible).allowed]
            cached = self._cache[place] = (extra, Toolset(tools))  # holds the registry, so that its id stays its own
        return cached[1]
