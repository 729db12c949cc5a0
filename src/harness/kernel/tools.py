"""Tools: functions that a model may ask for, with their schema from type hints, and how to run one.

Owns registration, arguments and results. Who may call a tool is `tenant`'s decision, what is recorded is `tool_step`'s.
pydantic is loaded when a schema or a check of arguments is first needed; both are kept.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeVar, cast, get_args, overload

import msgspec

from harness.errors import StepRejected, UsageError
from harness.kernel.encoding import resorted, to_json
from harness.kernel.matching import digest_of
from harness.kernel.ports import RiskLevel, ToolDefinition
from harness.kernel.tenant import TenantContext
from harness.kernel.threads import in_thread

OnUnknown = Literal["ask", "retry", "probe", "fail"]
F = TypeVar("F", bound=Callable[..., Any])
MAX_ARGUMENTS_BYTES = 16 << 20
MAX_RESULT_BYTES = 32 << 20
_CONTEXT_NAMES = frozenset({"artana_context", "harness_context"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolExecutionContext:
    """What a tool may know about its call. A model never sees it."""

    run_id: str
    tenant: TenantContext
    tool_name: str
    step: str
    idempotency_key: str  # the same for every attempt at this step, also after a crash
    attempt: int = 1


class Probed(msgspec.Struct, frozen=True, kw_only=True):
    """What a probe found out about a side effect. `happened` of None: it cannot tell."""

    happened: bool | None
    result: Any = None  # what the tool would have returned


class Tool:
    """One registered function."""

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        name: str | None = None,
        description: str | None = None,
        requires_capability: str | None = None,
        side_effect: bool = False,
        tool_version: str = "1.0.0",
        schema_version: str = "1",
        risk_level: RiskLevel = "medium",
        on_unknown: OnUnknown = "ask",
        probe: Callable[..., Any] | None = None,
        timeout: float | None = None,
    ) -> None:
        self.function = function
        self.name = name or getattr(function, "__name__", "")
        self.description = inspect.cleandoc(function.__doc__ or "") if description is None else description
        self.requires_capability = requires_capability
        self.side_effect = side_effect
        self.tool_version = tool_version
        self.schema_version = schema_version
        self.version = f"{tool_version}/{schema_version}"  # what a recorded step remembers of it; another is another tool
        self.risk_level: RiskLevel = risk_level
        self.on_unknown: OnUnknown = on_unknown
        self.probe = probe
        self.timeout = timeout
        self._check()

    def _check(self) -> None:
        if not self.name or not self.name.replace("_", "").replace("-", "").isalnum():
            raise UsageError(f"a tool's name is made of letters, digits, _ and -, not {self.name!r}")
        if self.on_unknown not in get_args(OnUnknown):
            raise UsageError(f"on_unknown of {self.name} is one of {', '.join(get_args(OnUnknown))}, not {self.on_unknown!r}")
        if self.on_unknown == "probe" and self.probe is None:
            raise UsageError(f"{self.name} has on_unknown='probe', so it needs a probe")
        for parameter in inspect.signature(self.function).parameters.values():
            if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                raise UsageError(f"{self.name}: a tool's parameters have names, so {parameter} is none")

    @cached_property
    def is_async(self) -> bool:
        function = self.function
        return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004

    @cached_property
    def _hints(self) -> dict[str, Any]:
        function = inspect.unwrap(self.function)
        try:
            return typing.get_type_hints(function, include_extras=True)
        except (NameError, TypeError) as error:
            raise UsageError(f"{self.name}: its type hints cannot be read: {error}") from error

    @cached_property
    def context_parameter(self) -> str | None:
        """The parameter that takes the `ToolExecutionContext`, if there is one."""
        for name in inspect.signature(self.function).parameters:
            if self._hints.get(name) is ToolExecutionContext or name in _CONTEXT_NAMES:
                return name
        return None

    @cached_property
    def _model(self) -> Any:
        """A pydantic model of the arguments. Its fields have neutral names, since a tool's parameter may be called `json`."""
        from pydantic import ConfigDict, Field, PydanticSchemaGenerationError, create_model

        fields: dict[str, Any] = {}
        parameters = inspect.signature(self.function).parameters.values()
        for index, parameter in enumerate(p for p in parameters if p.name != self.context_parameter):
            default: Any = ... if parameter.default is parameter.empty else parameter.default
            fields[f"p{index}"] = (self._hints.get(parameter.name, Any), Field(default, alias=parameter.name))
        config = ConfigDict(extra="forbid", arbitrary_types_allowed=False)
        try:
            return create_model(self.name, __config__=config, **fields)
        except PydanticSchemaGenerationError as error:
            raise UsageError(f"{self.name}: a parameter's type has no JSON schema: {error.message}") from error

    @cached_property
    def definition(self) -> ToolDefinition:
        """The tool as it is declared."""
        schema = cast("dict[str, Any]", _without_titles(self._model.model_json_schema(by_alias=True)))
        schema.setdefault("properties", {})
        return ToolDefinition(
            name=self.name, description=self.description, input_schema=schema, requires_capability=self.requires_capability,
            side_effect=self.side_effect, risk_level=self.risk_level, tool_version=self.tool_version,
            schema_version=self.schema_version,
        )  # fmt: skip

    @cached_property
    def signature(self) -> str:
        """The digest of what a model is shown of the tool, and of its version."""
        return signature_of(self.definition)

    def bind(self, arguments_json: bytes) -> dict[str, Any]:
        """The arguments to call the function with. Raises `StepRejected` naming what is wrong with them."""
        checked, names, invalid = self._binder
        try:
            fields = checked(arguments_json).__dict__
        except invalid as error:
            from harness.kernel.outputs import in_one_line

            raise StepRejected(f"arguments of {self.name}: {in_one_line(error)}") from error
        return {parameter: fields[name] for name, parameter in names}

    @cached_property
    def _binder(self) -> tuple[Callable[[bytes], Any], list[tuple[str, str]], type[Exception]]:
        """What checks the arguments, the parameter of each field, and what is raised for wrong ones."""
        from pydantic import ValidationError

        model = self._model
        names = [(name, field.alias) for name, field in model.model_fields.items()]
        return model.__pydantic_validator__.validate_json, names, ValidationError

    async def call(self, bound: Mapping[str, Any], context: ToolExecutionContext) -> Any:
        """Run the function with bound arguments; a synchronous one runs in a thread of its own."""
        if self.context_parameter is not None:
            bound = {**bound, self.context_parameter: context}
        if self.is_async:
            return await self.function(**bound)
        result = await in_thread(lambda: self.function(**bound))
        return await result if inspect.isawaitable(result) else result

    async def ask_probe(self, bound: Mapping[str, Any], context: ToolExecutionContext) -> Probed:
        """Ask the tool's probe whether the side effect happened.

        The probe takes the same arguments as the tool, or only those it names. It gives a `Probed`, True or False,
        None if it cannot tell, or what the tool would have returned.
        """
        assert self.probe is not None
        given = {**bound, self.context_parameter or "context": context}
        parameters = inspect.signature(self.probe).parameters.values()
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            given = {parameter.name: given[parameter.name] for parameter in parameters if parameter.name in given}
        if inspect.iscoroutinefunction(self.probe):
            found = await self.probe(**given)
        else:
            found = await in_thread(lambda: cast("Any", self.probe)(**given))
        match found:
            case Probed():
                return found
            case None | bool():
                return Probed(happened=found)
            case _:
                return Probed(happened=True, result=found)


def _without_titles(schema: Any) -> Any:
    """A JSON schema without the titles that pydantic makes up; they cost tokens and say nothing."""
    match schema:
        case dict():
            mapping = cast("dict[str, Any]", schema)
            return {
                key: {name: _without_titles(value) for name, value in inner.items()}
                if key in ("properties", "$defs")
                else _without_titles(inner)
                for key, inner in mapping.items()
                if key != "title"
            }
        case list():
            return [_without_titles(inner) for inner in cast("list[Any]", schema)]
        case _:
            return schema


class ToolRegistry:
    """Tools by name. A name stands for one tool; `version` changes with every change."""

    def __init__(self, tools: Iterable[Tool] = ()) -> None:
        self._tools: dict[str, Tool] = {}
        self.version = 0
        for tool in tools:
            self.add(tool)

    def __iter__(self) -> Iterator[Tool]:
        return iter(self._tools.values())

    def __len__(self) -> int:
        return len(self._tools)

    def __contains__(self, name: object) -> bool:
        return name in self._tools

    def get(self, name: str) -> Tool | None:
        return self._tools.get(name)

    def add(self, tool: Tool) -> None:
        """Register a tool. The same name again is refused: two tools of one name would share their recorded results."""
        if tool.name in self._tools:
            raise UsageError(f"a tool named {tool.name!r} is registered already; give one of them another name")
        self._tools[tool.name] = tool
        self.version += 1

    def remove(self, name: str) -> None:
        """Forget a tool, if there is one of this name."""
        if self._tools.pop(name, None) is not None:
            self.version += 1

    @overload
    def tool(self, function: F, /, **options: Any) -> F: ...

    @overload
    def tool(self, function: None = None, **options: Any) -> Callable[[F], F]: ...

    def tool(self, function: F | None = None, **options: Any) -> F | Callable[[F], F]:
        """Register a function, as a decorator with or without options (those of `Tool`)."""

        def register(function: F) -> F:
            self.add(Tool(function, **options))
            return function

        return register if function is None else register(function)

    def registry(self) -> ToolRegistry:
        """Itself, so that it can be given wherever a tool port is expected."""
        return self


def signature_of(d: ToolDefinition) -> str:
    """The digest of what a model is shown of a tool, and of its version."""
    return digest_of((d.name, d.description, d.input_schema, d.tool_version, d.schema_version))


def canonical_arguments(arguments: object) -> bytes:
    """The one JSON form of a tool's arguments: of a mapping, a pydantic model, a struct, or JSON text.

    Raises `StepRejected` for what is no JSON object.
    """
    try:
        if isinstance(arguments, str | bytes):
            data = resorted(arguments.encode() if isinstance(arguments, str) else arguments)
        else:
            data = to_json({} if arguments is None else arguments)
    except (TypeError, ValueError, RecursionError) as error:
        raise StepRejected(f"the arguments are no JSON object: {error}") from error
    if not data.startswith(b"{"):
        raise StepRejected(f"the arguments are a JSON object, not {data[:40].decode(errors='replace')}")
    if len(data) > MAX_ARGUMENTS_BYTES:
        raise StepRejected(f"the arguments have {len(data):,} bytes, which is over the limit of {MAX_ARGUMENTS_BYTES:,}")
    return data


def result_bytes(name: str, result: Any) -> bytes:
    """A tool's result as JSON. A text that is itself a JSON object or array is taken as that; raises `TypeError`."""
    if isinstance(result, str) and result.strip()[:1] in ("{", "["):
        try:
            return resorted(result.encode())
        except (msgspec.DecodeError, UnicodeEncodeError):
            pass
    try:
        data = to_json(result)
    except TypeError as error:
        raise TypeError(f"{name} returned what is no JSON: {error}") from error
    if len(data) > MAX_RESULT_BYTES:
        raise ValueError(f"{name} was run, and returned {len(data):,} bytes, which is over the limit of {MAX_RESULT_BYTES:,}")
    return data
