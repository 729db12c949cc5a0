"""What the model reads: a conversation that only grows at its end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.agents.conversation import opening, said, shortened, spoken, tool_error, tool_result, unusable
from harness.errors import StepFailed
from harness.kernel.ports import Message, Native, ToolCall

CALL = ToolCall(id="c1", name="read")


def test_it_begins_with_instructions_and_the_prompt() -> None:
    """Without instructions there is only the prompt."""
    assert opening("be good", "hello") == [Message.system("be good"), Message.user("hello")]
    assert opening("", "hello") == [Message.user("hello")]


@pytest.mark.parametrize(
    ("result_json", "text"), [('"plain text"', "plain text"), ('{"a":1}', '{"a":1}'), ("null", "null"), ('""', "")]
)
def test_a_result_is_read_as_itself(result_json: str, text: str) -> None:
    """A tool that gives a text is not quoted; anything else is JSON."""
    message = tool_result(CALL, result_json, 100)

    assert (message.role, message.text, message.tool_call_id, message.is_error) == ("tool", text, "c1", False)


def test_an_error_is_a_result_that_says_so() -> None:
    """The model reads what went wrong, marked as an error."""
    message = tool_error(CALL, StepFailed("no such file"), 100)

    assert (message.text, message.is_error, message.tool_call_id) == ("error: no such file", True, "c1")
    assert "no such file" in unusable(StepFailed("no such file"), 100).text


def test_calls_without_or_with_equal_ids_get_their_own() -> None:
    """Some servers number nothing; results could not be told apart. Sound ids stay, and so do the provider's blocks."""
    native = Native(provider="x", blocks=({"type": "thinking"},))
    same = Message(role="assistant", tool_calls=(CALL, CALL), native=native)
    sound = Message(role="assistant", tool_calls=(CALL,), native=native)

    assert [call.id for call in said(same, 3).tool_calls] == ["call-3-1", "call-3-2"]
    assert said(same, 3).native is None
    assert said(sound, 3) is sound
    assert said(Message.assistant("done"), 1) == Message.assistant("done")


@given(st.text(), st.integers(min_value=4, max_value=50))
def test_a_long_text_keeps_its_beginning_and_its_end(text: str, limit: int) -> None:
    """What fits stays as it is; of what does not, the middle goes and the reader is told how much."""
    short = shortened(text, limit)

    if len(text) <= limit:
        assert short == text
    else:
        assert short.startswith(text[: limit - limit // 4])
        assert short.endswith(text[-(limit // 4) :])
        assert f"{len(text) - limit} of {len(text)} characters left out" in short


def test_the_last_word_is_the_assistants() -> None:
    """Tool calls without words and other people's words do not count."""
    messages = [
        Message.user("q"),
        Message.assistant("first"),
        Message.assistant("", tool_calls=[CALL]),
        Message.tool(CALL, "r"),
    ]

    assert spoken(messages) == "first"
    assert spoken([]) == ""
