"""Answers and the schemas they are asked for."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from harness.errors import ModelMalformed
from harness.kernel import ModelResult, ToolCall
from harness.kernel.outputs import misfit, output_type, read_answer


class Verdict(BaseModel):
    ok: bool
    why: str = ""


SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}, "n": {"type": "array", "items": {"type": "integer"}}},
    "required": ["ok"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("output", [{"ok": True}, Verdict(ok=True)])
def test_an_answer_becomes_the_asked_type_and_canonical_json(output: Any) -> None:
    """Values and instances are checked, typed, and recorded with sorted keys; the record gives the same again."""
    expected = output_type(Verdict)

    typed, data = read_answer(ModelResult(output=output), expected)

    assert typed == Verdict(ok=True)
    assert data == b'{"ok":true,"why":""}'
    assert expected.restore(data) == typed


def test_a_text_answer_is_read_as_json() -> None:
    """A port that gives only text may still answer a schema."""
    assert read_answer(ModelResult(text='{"ok": false}'), output_type(SCHEMA)) == ({"ok": False}, b'{"ok":false}')


@pytest.mark.parametrize("result", [ModelResult(output={"ok": "maybe"}), ModelResult(text="I think so"), ModelResult()])
@pytest.mark.parametrize("schema", [Verdict, SCHEMA])
def test_an_answer_that_does_not_fit_is_malformed(result: ModelResult, schema: Any) -> None:
    """Wrong types, prose and nothing at all are not the asked answer."""
    with pytest.raises(ModelMalformed, match="does not fit"):
        read_answer(result, output_type(schema))


def test_a_call_for_tools_has_no_output() -> None:
    """An answer that asks for tools is not final, so no schema applies."""
    asked = ModelResult(tool_calls=(ToolCall(id="1", name="add"),))

    assert read_answer(asked, output_type(Verdict)) == (None, None)


def test_schemas_of_equal_shape_are_equal() -> None:
    """The digest covers the schema, not the object that it came from."""

    class Other(BaseModel):
        ok: int

    assert output_type(dict(SCHEMA)).digest == output_type(SCHEMA).digest
    assert output_type(Verdict).digest != output_type(Other).digest
    assert output_type(list[int]).digest == output_type(list[int]).digest
    assert output_type(None).digest == ""


@pytest.mark.parametrize(
    ("value", "schema", "problem"),
    [
        ({"ok": True, "n": [1, 2]}, SCHEMA, ""),
        ({}, SCHEMA, "value: ok missing"),
        ({"ok": 1}, SCHEMA, "value.ok: int is not boolean"),
        ({"ok": True, "x": 1}, SCHEMA, "value: x not expected"),
        ({"ok": True, "n": [1, True]}, SCHEMA, "value.n[1]: bool is not integer"),
        (3, {"type": "number"}, ""),
        (True, {"type": ["integer", "boolean"]}, ""),
        ("c", {"enum": ["a", "b"]}, "value: 'c' is not one of ['a', 'b']"),
        (1, {"const": 2}, "value: 1 is not 2"),
        (None, {"anyOf": [{"type": "string"}, {"type": "null"}]}, ""),
        (1, {"anyOf": [{"type": "string"}, {"type": "null"}]}, "value: int is not string"),
        ("x", {"format": "unheard-of"}, ""),
    ],
)
def test_plain_schemas_are_checked(value: Any, schema: dict[str, Any], problem: str) -> None:
    """The keywords that providers support are checked without a library."""
    assert misfit(value, schema) == problem
