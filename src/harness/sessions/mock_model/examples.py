"""The smallest value that a JSON schema allows: for structured output nobody scripted, and for arguments left out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

_DEPTH = 12


def smallest(schema: object, *, word: str = "scripted", depth: int = 0) -> object:
    """A value for this schema; `word` stands wherever a text is wanted."""
    if not isinstance(schema, Mapping) or depth > _DEPTH:
        return {}
    shape = cast("Mapping[str, Any]", schema)
    for settled in ("const", "default"):
        if settled in shape:
            return shape[settled]
    if isinstance(shape.get("enum"), list) and shape["enum"]:
        return shape["enum"][0]
    for choice in ("anyOf", "oneOf", "allOf"):
        if isinstance(shape.get(choice), list) and shape[choice]:
            return smallest(shape[choice][0], word=word, depth=depth + 1)
    match _kind(shape):
        case "object":
            inner = cast("Mapping[str, Any]", shape.get("properties") or {})
            names = cast("list[str]", shape.get("required") or list(inner))
            return {name: smallest(inner.get(name), word=word, depth=depth + 1) for name in names}
        case "array":
            return [smallest(shape.get("items"), word=word, depth=depth + 1)] * min(int(shape.get("minItems", 0)), 10)
        case "boolean":
            return False
        case "integer" | "number":
            return shape.get("minimum", 0)
        case "null":
            return None
        case _:
            return word.ljust(int(shape.get("minLength", 0)), ".")[: int(shape.get("maxLength", 1000))]


def _kind(shape: Mapping[str, Any]) -> str:
    kind: Any = shape.get("type")
    if isinstance(kind, list):
        kind = next((each for each in cast("list[Any]", kind) if each != "null"), "string")
    if kind is None and "properties" in shape:
        return "object"
    return str(kind or "string").lower()
