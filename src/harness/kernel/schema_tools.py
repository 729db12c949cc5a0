"""Tools that are known by a JSON schema instead of a function's type hints: those of servers and of other frameworks.

Owns how such a tool is declared, how its arguments are checked and how it is called. What makes it a tool step is
`tools.Tool`, which it is one of.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from harness.errors import StepRejected, UsageError
from harness.kernel.outputs import misfit
from harness.kernel.ports import JSONSchema, RiskLevel, ToolDefinition
from harness.kernel.tools import OnUnknown, Tool, ToolExecutionContext

Call = Callable[[dict[str, Any], ToolExecutionContext], Awaitable[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolTraits:
    """How a tool that comes from elsewhere is declared here. Side effects are assumed unless somebody says otherwise.

    `timeout` is in seconds. `probe` gets the tool's arguments by name, and `context`; see `Tool`.
    """

    side_effect: bool = True
    on_unknown: OnUnknown = "ask"
    requires_capability: str | None = None
    risk_level: RiskLevel = "medium"
    tool_version: str = "1.0.0"
    schema_version: str = "1"
    timeout: float | None = None
    probe: Callable[..., Any] | None = None


class SchemaTool(Tool):
    """A tool that is called with its arguments as one mapping, checked against a JSON schema.

    Keywords of the schema that `misfit` does not know are left to whoever executes the tool.
    """

    def __init__(
        self, call: Call, *, name: str, description: str = "", input_schema: JSONSchema | None = None, policy: ToolTraits
    ) -> None:
        self._call = call
        self._schema: JSONSchema = input_schema or {"type": "object", "properties": {}}
        super().__init__(
            call, name=name, description=description, requires_capability=policy.requires_capability,
            side_effect=policy.side_effect, tool_version=policy.tool_version, schema_version=policy.schema_version,
            risk_level=policy.risk_level, on_unknown=policy.on_unknown, probe=policy.probe, timeout=policy.timeout,
        )  # fmt: skip
        self.definition = ToolDefinition(
            name=self.name, description=self.description, input_schema=self._schema,
            requires_capability=self.requires_capability, side_effect=self.side_effect, risk_level=self.risk_level,
            tool_version=self.tool_version, schema_version=self.schema_version,
        )  # fmt: skip

    def _check(self) -> None:
        if not self.name or not self.name.isprintable():
            raise UsageError(f"a tool's name is a printable text, not {self.name!r}")
        if self.on_unknown == "probe" and self.probe is None:
            raise UsageError(f"{self.name} has on_unknown='probe', so it needs a probe")

    def bind(self, arguments_json: bytes) -> dict[str, Any]:
        """The arguments. Raises `StepRejected` naming what does not fit the schema."""
        arguments: dict[str, Any] = msgspec.json.decode(arguments_json)
        problem = misfit(arguments, self._schema, "arguments")
        if problem:
            raise StepRejected(f"{self.name}: {problem}")
        return arguments

    async def call(self, bound: Mapping[str, Any], context: ToolExecutionContext) -> Any:
        """Run it."""
        return await self._call(dict(bound), context)
