"""Tool calls of a replay: answered from what the recorded run got, never executed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

import msgspec

from harness.errors import StepRejected
from harness.kernel.diffing import calls_of, told_call
from harness.kernel.encoding import to_json
from harness.kernel.ports import ToolCall, ToolDefinition
from harness.kernel.records import Reason
from harness.kernel.results import StepRecord
from harness.kernel.runs import RunState
from harness.kernel.tool_call import ToolAsk, ToolCalls
from harness.kernel.tools import Tool, ToolExecutionContext

_KNOWN = frozenset({"completed", "failed", "rejected"})


class NoRecordedResult(Exception):
    """A replay asks for a tool call that the recorded run did not make: nobody knows what it would have given."""


class RecordedResults:
    """What the tool calls of a run came to, by name and arguments."""

    def __init__(self, steps: Iterable[StepRecord]) -> None:
        self._by_call: dict[tuple[str, str], StepRecord] = {}
        self._by_step: dict[tuple[str, str, str], StepRecord] = {}
        self.names: set[str] = set()
        for step in steps:
            if step.kind == "tool" and step.state in _KNOWN and step.arguments is not None:
                call = step.name, msgspec.json.encode(step.arguments, order="sorted").decode()
                self._by_call.setdefault(call, step)
                self._by_step[step.step, *call] = step
                self.names.add(step.name)

    def find(self, name: str, arguments: str, step: str = "") -> StepRecord | None:
        """The same call, that of the same step if it made it, else the first."""
        return self._by_step.get((step, name, arguments)) or self._by_call.get((name, arguments))

    def unknown(self, calls: Iterable[ToolCall]) -> tuple[str, ...]:
        """Those of a model's tool calls that have no recorded result."""
        return tuple(told_call(*call) for call in calls_of(calls) if self.find(*call) is None)


class RecordedCalls(ToolCalls):
    """Tool calls that run nothing."""

    results: RecordedResults

    def refusal(self, ask: ToolAsk) -> tuple[Reason, StepRejected | None]:
        """A tool that only the recorded run knows is no unknown one."""
        reason, error = super().refusal(ask)
        return ("arguments", None) if reason == "unknown_tool" and ask.name in self.results.names else (reason, error)

    async def admit(self, run: RunState, ask: ToolAsk) -> tuple[Tool, dict[str, Any]]:
        """A stand-in for the tool, without a side effect. Raises, and records, what was or would be refused."""
        reason, error = self.refusal(ask)
        recorded = self._recorded(ask)
        if error is None and recorded is not None and recorded.state == "rejected":
            error = StepRejected(recorded.message)
        if error is not None:
            await self.reject(run, ask, reason, error)
            raise error
        version, _, schema = (recorded.tool_version if recorded is not None else "").partition("/")
        if ask.tool is not None:
            version, schema = ask.tool.tool_version, ask.tool.schema_version
        return Tool(_nothing, name=ask.name, tool_version=version or "1.0.0", schema_version=schema or "1"), {}

    async def run(
        self, run: RunState, ask: ToolAsk, tool: Tool, bound: Mapping[str, Any], *, context: ToolExecutionContext
    ) -> bytes:
        """What the recorded call gave, or raised."""
        recorded = self._recorded(ask)
        if recorded is None:
            raise NoRecordedResult(f"the recorded run has no result for {told_call(ask.name, ask.arguments_json.decode())}")
        if recorded.state == "failed":
            raise cast("type[Exception]", type(recorded.error or "Exception", (Exception,), {}))(recorded.message)
        return to_json(recorded.result)

    def _recorded(self, ask: ToolAsk) -> StepRecord | None:
        return self.results.find(ask.name, ask.arguments_json.decode(), ask.step)


def _nothing() -> None:
    """Never called."""


def shown(definition: ToolDefinition) -> Tool:
    """A tool of which no more is known than what a model saw."""
    tool = Tool(
        _nothing, name=definition.name, description=definition.description, tool_version=definition.tool_version,
        requires_capability=definition.requires_capability, schema_version=definition.schema_version,
    )  # fmt: skip
    tool.__dict__["definition"] = definition  # in place of one made from a function
    return tool
