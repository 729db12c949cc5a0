"""From any JSON schema to the strict subset that providers can enforce while they sample. Pure.

Strict means: every object is closed and every property required. What a provider cannot enforce (bounds, patterns)
becomes part of the description; the kernel checks the answer against the whole schema anyway.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import msgspec

WRAPPED = "value"
"""The property that holds an answer that is no object itself."""

_KEPT = frozenset({"type", "enum", "const", "description"})
_UNENFORCED = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minLength", "maxLength", "pattern",
               "format", "minItems", "maxItems", "uniqueItems")  # fmt: skip
_SILENT = frozenset({"title", "default", "examples", "$schema", "$id", "deprecated", "discriminator", "readOnly", "writeOnly"})


class NotStrict(ValueError):
    """The schema allows what no strict schema can say, such as an open object."""


class Target(msgspec.Struct, frozen=True):
    """What to ask a provider for: a schema, whether it can be enforced, and whether the answer stands in `WRAPPED`."""

    schema: dict[str, Any]
    strict: bool
    wrapped: bool

    def unwrap(self, output: Any) -> Any:
        """The answer itself. Raises `ValueError` if the wrapping is not as asked for."""
        if not self.wrapped:
            return output
        if not isinstance(output, dict) or WRAPPED not in output:
            raise ValueError(f"the answer has no {WRAPPED!r}")
        return cast("dict[str, Any]", output)[WRAPPED]


def target(schema: Mapping[str, Any]) -> Target:
    """What to ask for, so that the answer fits `schema`."""
    wrapped = not _is_object(schema, schema)
    asked = _wrap(schema) if wrapped else dict(schema)
    try:
        return Target(schema=strict(asked), strict=True, wrapped=wrapped)
    except NotStrict:
        return Target(schema=asked, strict=False, wrapped=wrapped)


def strict(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The strict form of an object's schema. Raises `NotStrict`."""
    narrowed = _narrow(schema)
    if "$ref" in narrowed:  # providers want the root spelled out
        narrowed = {**_narrow(_resolve(schema, schema)), **({"$defs": narrowed["$defs"]} if "$defs" in narrowed else {})}
    return narrowed


def _is_object(schema: Mapping[str, Any], root: Mapping[str, Any]) -> bool:
    if "$ref" in schema:
        resolved = _resolve(schema, root)
        return "$ref" not in resolved and _is_object(resolved, root)
    return schema.get("type") == "object" or ("type" not in schema and "properties" in schema)


def _resolve(schema: Mapping[str, Any], root: Mapping[str, Any]) -> Mapping[str, Any]:
    place: Any = root
    for step in str(schema["$ref"]).removeprefix("#/").split("/"):
        place = cast("Mapping[str, Any]", place).get(step) if isinstance(place, Mapping) else None
    if not isinstance(place, Mapping):
        raise NotStrict(f"{schema['$ref']} leads nowhere")
    return cast("Mapping[str, Any]", place)


def _wrap(schema: Mapping[str, Any]) -> dict[str, Any]:
    definitions = schema.get("$defs")
    inner = {key: value for key, value in schema.items() if key != "$defs"}
    wrapped = {"type": "object", "properties": {WRAPPED: inner}, "required": [WRAPPED], "additionalProperties": False}
    return {**wrapped, "$defs": definitions} if definitions else wrapped


def _narrow(schema: Any) -> dict[str, Any]:
    if not isinstance(schema, Mapping) or not schema:
        raise NotStrict("a schema that allows everything")
    given = cast("Mapping[str, Any]", schema)
    if "$ref" in given:
        return {"$ref": given["$ref"], **_definitions(given)}
    if isinstance(given.get("type"), list) and {"object", "array"} & set(given["type"]):
        raise NotStrict("one of several types, an object or array among them")
    if len(given.get("allOf", ())) == 1:
        return _narrow(given["allOf"][0])
    narrowed: dict[str, Any] = {key: value for key, value in given.items() if key in _KEPT}
    for key, value in given.items():
        match key:
            case "anyOf" | "oneOf":
                narrowed["anyOf"] = [_narrow(branch) for branch in value]
            case "items":
                narrowed["items"] = _narrow(value)
            case "$defs":
                narrowed.update(_definitions(given))
            case "properties" | "required" | "additionalProperties":
                pass
            case _ if key not in _KEPT and key not in _SILENT and key not in _UNENFORCED:
                raise NotStrict(f"{key} cannot be enforced")
            case _:
                pass
    _close(given, narrowed)
    _describe(given, narrowed)
    return narrowed


def _definitions(given: Mapping[str, Any]) -> dict[str, Any]:
    return {"$defs": {name: _narrow(inner) for name, inner in given["$defs"].items()}} if given.get("$defs") else {}


def _close(given: Mapping[str, Any], narrowed: dict[str, Any]) -> None:
    kind = given.get("type")
    if kind == "array" and "items" not in narrowed:
        raise NotStrict("an array of anything")
    if kind != "object" and "properties" not in given:
        return
    properties: Mapping[str, Any] = given.get("properties") or {}
    if given.get("additionalProperties", not properties) not in (False, None) or not properties:
        raise NotStrict("an open object")
    narrowed["type"] = "object"
    narrowed["properties"] = {name: _narrow(inner) for name, inner in properties.items()}
    narrowed["required"] = list(properties)
    narrowed["additionalProperties"] = False


def _describe(given: Mapping[str, Any], narrowed: dict[str, Any]) -> None:
    bounds = ", ".join(f"{key}: {given[key]}" for key in _UNENFORCED if key in given)
    if bounds:
        narrowed["description"] = f"{given['description']} ({bounds})" if given.get("description") else bounds
