"""What an answer must look like: the digest of an output schema, checking an answer, reading a recorded one.

pydantic is loaded only for a schema that is a type; a JSON schema given as a mapping is checked by the few keywords
that providers support.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import msgspec

from harness.errors import ModelMalformed, UsageError
from harness.kernel.encoding import resorted, to_json
from harness.kernel.matching import digest_of
from harness.kernel.ports import ModelResult, OutputSchema, json_schema_of

MAX_ANSWER_BYTES = 16 << 20


class OutputType:
    """A schema, prepared once."""

    __slots__ = ("check", "digest", "restore", "schema")

    def __init__(
        self, schema: Mapping[str, Any] | None, check: Callable[[Any], tuple[Any, bytes]], restore: Callable[[bytes], Any]
    ) -> None:
        self.schema = schema  # as JSON schema
        self.digest = "" if schema is None else digest_of(schema)
        self.check = check  # gives the answer as the caller wants it and as JSON; raises ValueError
        self.restore = restore


_MAX_TYPES = 256
_types: dict[type[Any], OutputType] = {}  # few programs ask for more; those that make types as they go start anew


def output_type(schema: OutputSchema | None) -> OutputType:
    """The prepared form of a schema; cached for types."""
    if schema is None:
        return _ANY
    if isinstance(schema, type):
        known = _types.get(schema)
        if known is None:
            if len(_types) >= _MAX_TYPES:
                _types.clear()
            known = _types[schema] = _of_type(schema)
        return known
    if isinstance(schema, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance] - or any form that pydantic knows
        plain = dict(schema)
        return OutputType(plain, lambda value: _checked(value, plain), msgspec.json.decode)
    return _of_type(cast("Any", schema))  # such as int | str, which equals str | int but has another schema


def _of_type(schema: Any) -> OutputType:
    from pydantic import PydanticSchemaGenerationError, TypeAdapter, ValidationError

    try:
        adapter: TypeAdapter[Any] = TypeAdapter(schema)
    except PydanticSchemaGenerationError as error:
        raise UsageError(f"output_schema is a type that pydantic can check or a JSON schema, not {schema!r:.80}") from error

    validator, to_json_bytes = adapter.validator, adapter.serializer.to_json  # without the adapter's own layers

    def check(value: Any) -> tuple[Any, bytes]:
        try:
            typed = validator.validate_python(value)
        except ValidationError as error:
            raise ValueError(in_one_line(error)) from error
        return typed, resorted(to_json_bytes(typed))

    return OutputType(json_schema_of(schema), check, validator.validate_json)


def in_one_line(error: Any) -> str:
    """A pydantic validation error in one line, without the values."""
    told = [f"{'.'.join(str(part) for part in item['loc']) or 'value'}: {item['msg']}" for item in error.errors()]
    return "; ".join(told[:5]) + (f"; and {len(told) - 5} more" if len(told) > 5 else "")


def _plain(value: Any) -> tuple[Any, bytes]:
    try:
        return value, to_json(value)
    except TypeError as error:
        raise ValueError(str(error)) from error


_ANY = OutputType(None, _plain, msgspec.json.decode)


def _checked(value: Any, schema: Mapping[str, Any]) -> tuple[Any, bytes]:
    _, data = _plain(value)
    problem = misfit(msgspec.json.decode(data), schema)
    if problem:
        raise ValueError(problem)
    return value, data


def read_answer(result: ModelResult, expected: OutputType) -> tuple[Any, bytes | None]:
    """The structured answer as the caller wants it, and as JSON. Raises `ModelMalformed` if it does not fit."""
    value = result.output
    if len(result.text) > MAX_ANSWER_BYTES:
        raise _too_large(len(result.text))
    if value is None and (result.tool_calls or not expected.digest):
        return None, None
    try:
        if value is None:
            value = msgspec.json.decode(result.text)
        output, data = expected.check(value)
    except ValueError as error:
        raise ModelMalformed(f"the answer does not fit the asked schema: {error}") from error
    if len(data) > MAX_ANSWER_BYTES:
        raise _too_large(len(data))
    return output, data


def _too_large(size: int) -> ModelMalformed:
    return ModelMalformed(f"the answer has {size:,} bytes, which is over the limit of {MAX_ANSWER_BYTES:,}")


_KINDS: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}


def misfit(value: Any, schema: Mapping[str, Any], path: str = "value") -> str:
    """Why a JSON value does not fit a JSON schema; empty if it does. Keywords it does not know are not checked."""
    if "anyOf" in schema:
        problems = [misfit(value, option, path) for option in schema["anyOf"]]
        return "" if "" in problems else problems[0] if problems else ""
    kinds = schema.get("type", ())
    kinds = (kinds,) if isinstance(kinds, str) else tuple(kinds)
    if kinds and not any(_is(value, kind) for kind in kinds):
        return f"{path}: {type(value).__name__} is not {' or '.join(kinds)}"
    if "enum" in schema and value not in schema["enum"]:
        return f"{path}: {value!r:.40} is not one of {schema['enum']}"
    if "const" in schema and value != schema["const"]:
        return f"{path}: {value!r:.40} is not {schema['const']!r}"
    if isinstance(value, dict):
        return _misfit_object(cast("dict[str, Any]", value), schema, path)
    if isinstance(value, list) and isinstance(schema.get("items"), Mapping):
        inner = (misfit(item, schema["items"], f"{path}[{i}]") for i, item in enumerate(cast("list[Any]", value)))
        return next((problem for problem in inner if problem), "")
    return ""


def _is(value: Any, kind: str) -> bool:
    types = _KINDS.get(kind, (object,))
    return isinstance(value, types) and (kind == "boolean" or not isinstance(value, bool) or object in types)


def _misfit_object(value: Mapping[str, Any], schema: Mapping[str, Any], path: str) -> str:
    properties: Mapping[str, Any] = schema.get("properties", {})
    missing = [name for name in schema.get("required", ()) if name not in value]
    if missing:
        return f"{path}: {', '.join(missing)} missing"
    unknown = [name for name in value if name not in properties]
    if unknown and schema.get("additionalProperties") is False:
        return f"{path}: {', '.join(unknown)} not expected"
    inner = (misfit(value[name], properties[name], f"{path}.{name}") for name in properties if name in value)
    return next((problem for problem in inner if problem), "")
