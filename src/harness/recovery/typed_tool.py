"""A kernel tool whose arguments are checked by msgspec: an agent process that waits for work should cost little memory.

The kernel's own tools use pydantic, which is richer and takes 10 MB; parameters here are plain types and literals.
"""

from __future__ import annotations

import inspect
import typing
from functools import cached_property
from typing import Any

import msgspec

from harness.errors import StepRejected
from harness.kernel import Tool, ToolDefinition


class TypedTool(Tool):
    """As `Tool`, for parameters of plain types."""

    @cached_property
    def _shape(self) -> type[msgspec.Struct]:
        hints = typing.get_type_hints(inspect.unwrap(self.function))
        fields: list[Any] = []
        for parameter in inspect.signature(self.function).parameters.values():
            if parameter.name != self.context_parameter:
                field = (parameter.name, hints[parameter.name])
                fields.append(field if parameter.default is parameter.empty else (*field, parameter.default))
        return msgspec.defstruct(self.name, fields, kw_only=True, forbid_unknown_fields=True)

    @cached_property
    def definition(self) -> ToolDefinition:
        """The tool as it is declared."""
        _, components = msgspec.json.schema_components([self._shape], ref_template="#/$defs/{name}")
        schema = {name: value for name, value in components[self.name].items() if name != "title"}
        return ToolDefinition(
            name=self.name, description=self.description, input_schema=schema, requires_capability=self.requires_capability,
            side_effect=self.side_effect, risk_level=self.risk_level, tool_version=self.tool_version,
            schema_version=self.schema_version,
        )  # fmt: skip

    def bind(self, arguments_json: bytes) -> dict[str, Any]:
        """The arguments to call the function with. Raises `StepRejected` naming what is wrong with them."""
        try:
            bound = msgspec.json.decode(arguments_json, type=self._shape)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise StepRejected(f"arguments of {self.name}: {error}") from error
        return {name: getattr(bound, name) for name in self._shape.__struct_fields__}
