"""The vocabulary of model calls, and the two ports that need no provider."""

from __future__ import annotations

import msgspec
import pytest
from pydantic import BaseModel

from harness.errors import ModelMalformed, ModelUnavailable, UsageError
from harness.kernel.ports import (
    Message,
    MockModelPort,
    ModelPort,
    ModelRequest,
    ModelResult,
    ScriptedModelPort,
    ToolCall,
    ToolDefinition,
    Usage,
    json_schema_of,
)  # fmt: skip


class City(BaseModel):
    name: str


def ask(*messages: Message, **fields: object) -> ModelRequest:
    return ModelRequest(model="m", messages=messages or (Message.user("hello"),), **fields)  # type: ignore[arg-type]


def test_a_default_leaves_no_trace_in_the_bytes() -> None:
    """Fields at their default are not encoded, so a later field cannot change an older hash."""
    assert msgspec.json.encode(Message.user("hi")) == b'{"role":"user","text":"hi"}'


def test_a_message_survives_its_encoding() -> None:
    """What is recorded of a conversation decodes to the same conversation."""
    call = ToolCall(id="c1", name="read", arguments_json='{"path":"a"}')
    said = ModelResult(text="look", tool_calls=(call,)).message()

    assert msgspec.json.decode(msgspec.json.encode(said), type=Message) == said
    assert Message.tool(call, "gone", is_error=True).tool_call_id == "c1"


@pytest.mark.parametrize(
    ("written", "complaint"),
    [("{", "not JSON"), ("[1]", "must be a JSON object, not list"), ('"x"', "not str"), ("\ud800", "not JSON")],
)
def test_bad_arguments_are_named(written: str, complaint: str) -> None:
    """Arguments that are no JSON object say so, with the tool's name."""
    with pytest.raises(ValueError, match=complaint):
        ToolCall(id="c", name="read", arguments_json=written).arguments()


def test_good_arguments_are_a_mapping() -> None:
    """An object is given as it is; nothing at all means no arguments."""
    assert ToolCall(id="c", name="t", arguments_json='{"a": 1}').arguments() == {"a": 1}
    assert ToolCall(id="c", name="t", arguments_json="").arguments() == {}


def test_the_prompt_is_the_newest_user_text() -> None:
    """A port that looks at the prompt only sees what was asked last."""
    request = ask(Message.system("be good"), Message.user("one"), Message.assistant("ok"), Message.user("two"))

    assert request.prompt == "two"
    assert ask(Message.system("alone")).prompt == ""


def test_tools_are_the_allowed_tools() -> None:
    """Both names give the same definitions."""
    tool = ToolDefinition(name="read")

    assert ask(allowed_tools=(tool,)).tools == (tool,)


def test_a_type_and_a_mapping_are_both_schemas() -> None:
    """A pydantic model, a built-in type and a JSON schema can all be asked for; what has no schema is refused."""
    assert json_schema_of(City)["required"] == ["name"]
    assert json_schema_of(list[int])["items"] == {"type": "integer"}
    assert ask(output_schema={"type": "object"}).json_schema == {"type": "object"}
    assert ask().json_schema is None
    with pytest.raises(UsageError, match="no JSON schema"):
        json_schema_of(type(lambda: None))


def test_tokens_are_counted_once() -> None:
    """The total is the sum of the four kinds."""
    assert Usage(input_tokens=1, output_tokens=2, cache_read_tokens=4, cache_write_tokens=8).total_tokens == 15


async def test_the_mock_gives_its_output_every_time() -> None:
    """A mock answers the same to everything, at no cost, and keeps count."""
    port = MockModelPort(output={"message": "unused"})

    result = [await port.complete(ask()), await port.complete(ask())][1]

    assert isinstance(port, ModelPort)
    assert result.output == {"message": "unused"}
    assert result.text == '{"message":"unused"}'
    assert result.usage.cost_usd == 0.0
    assert port.calls == 2
    assert port.last == ask()


async def test_the_mock_fails_on_request() -> None:
    """A mock with an error raises it."""
    with pytest.raises(ModelUnavailable):
        await MockModelPort(error=ModelUnavailable("away")).complete(ask())


async def test_a_script_is_spoken_line_by_line() -> None:
    """Texts, calls, results, errors and functions each answer one call, in order."""

    async def late(request: ModelRequest) -> str:
        return f"you said {request.prompt}"

    call = ToolCall(id="1", name="read")
    port = ScriptedModelPort(["first", call, ModelResult(text="third"), ModelUnavailable("away"), late])

    assert (await port.complete(ask())).text == "first"
    assert (await port.complete(ask())).tool_calls == (call,)
    assert (await port.complete(ask())).text == "third"
    with pytest.raises(ModelUnavailable):
        await port.complete(ask())
    assert (await port.complete(ask())).text == "you said hello"
    with pytest.raises(ModelMalformed, match="5 lines"):
        await port.complete(ask())


async def test_a_script_by_history_goes_on_where_the_conversation_is() -> None:
    """The line depends on the conversation, not on how often this object was called."""
    port = ScriptedModelPort(["first", "second"], by_history=True, default="enough")

    assert (await port.complete(ask(Message.user("a"), Message.assistant("x"), Message.user("b")))).text == "second"
    assert (await port.complete(ask())).text == "first"
    assert (await port.complete(ask(*[Message.assistant("x")] * 5))).text == "enough"


async def test_a_scripted_text_is_read_as_the_asked_structure() -> None:
    """With an output schema a text must be JSON, and is the output."""
    assert (await ScriptedModelPort(['{"name": "Bern"}']).complete(ask(output_schema=City))).output == {"name": "Bern"}
    with pytest.raises(ModelMalformed, match="should be JSON"):
        await ScriptedModelPort(["Bern"]).complete(ask(output_schema=City))
