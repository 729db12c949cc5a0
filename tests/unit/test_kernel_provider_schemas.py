"""From any JSON schema to what providers can enforce."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, TypeAdapter

from harness.kernel.ports import json_schema_of
from harness.kernel.providers.schemas import WRAPPED, NotStrict, strict, target


class Step(BaseModel):
    action: Literal["restart", "wait"]
    seconds: int = Field(default=5, ge=0, le=60, description="how long")


class Plan(BaseModel):
    title: str
    steps: list[Step]
    note: str | None = None
    first: Step | None = None


def objects(schema: Any) -> list[dict[str, Any]]:
    """All object schemas within."""
    found: list[dict[str, Any]] = []
    if isinstance(schema, dict):
        found += [schema] if schema.get("type") == "object" else []
        found += [inner for value in schema.values() for inner in objects(value)]
    if isinstance(schema, list):
        found += [inner for value in schema for inner in objects(value)]
    return found


def test_a_model_becomes_strict() -> None:
    """Every object is closed, every property is required, references stay and bounds become words."""
    asked = target(json_schema_of(Plan))

    assert asked.strict
    assert not asked.wrapped
    assert all(o["additionalProperties"] is False and o["required"] == list(o["properties"]) for o in objects(asked.schema))
    assert asked.schema["properties"]["steps"] == {"type": "array", "items": {"$ref": "#/$defs/Step"}}
    seconds = asked.schema["$defs"]["Step"]["properties"]["seconds"]
    assert seconds == {"type": "integer", "description": "how long (minimum: 0, maximum: 60)"}


def test_what_is_no_object_is_wrapped_and_unwrapped() -> None:
    """Providers want an object at the root; the caller gets what it asked for."""
    asked = target(json_schema_of(list[Step]))

    assert asked.wrapped
    assert asked.strict
    assert asked.schema["properties"][WRAPPED]["items"] == {"$ref": "#/$defs/Step"}
    assert asked.unwrap({WRAPPED: [1]}) == [1]
    with pytest.raises(ValueError, match="no 'value'"):
        asked.unwrap([1])


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        {"type": "object", "properties": {"a": {}}},
        {"type": "object", "properties": {"a": {"type": "array"}}},
        {"type": "object", "properties": {"a": {"type": ["object", "null"]}}},
        {"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": {"type": "string"}},
        {"type": "object", "properties": {"a": {"not": {"type": "string"}}}},
        {"type": "object", "properties": {"a": {"type": "string"}}, "patternProperties": {"b": {"type": "string"}}},
    ],
)
def test_an_open_schema_is_asked_for_as_it_is(schema: dict[str, Any]) -> None:
    """What cannot be enforced is not silently narrowed."""
    asked = target(schema)

    assert not asked.strict
    assert asked.schema == schema


def test_a_reference_at_the_root_is_spelled_out() -> None:
    """A recursive model has a reference at its root, which providers refuse."""

    class Node(BaseModel):
        name: str
        children: list[Node]

    Node.model_rebuild(_types_namespace={"Node": Node})
    asked = target(TypeAdapter(Node).json_schema())

    assert asked.strict
    assert asked.schema["type"] == "object"
    assert "Node" in asked.schema["$defs"]


def test_a_reference_that_leads_nowhere_is_not_strict() -> None:
    """A broken reference is left for the provider to name."""
    with pytest.raises(NotStrict, match="leads nowhere"):
        strict({"$ref": "#/$defs/Gone"})


@given(
    st.recursive(
        st.sampled_from([{"type": "string"}, {"type": "integer", "minimum": 1}, {}, {"type": "array"}, {"enum": ["a"]}]),
        lambda inner: st.one_of(
            st.builds(lambda i: {"type": "array", "items": i}, inner),
            st.builds(lambda a, b: {"anyOf": [a, b]}, inner, inner),
            st.builds(lambda a, b: {"type": "object", "properties": {"a": a, "b": b}, "required": ["a"]}, inner, inner),
        ),
    )
)
def test_strict_is_always_strict(schema: dict[str, Any]) -> None:
    """Whatever is called strict has closed objects with every property required, at every depth."""
    asked = target(schema)

    for found in objects(asked.schema) if asked.strict else ():
        assert found["additionalProperties"] is False
        assert found["required"] == list(found["properties"])
