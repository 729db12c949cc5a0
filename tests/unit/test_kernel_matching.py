"""Matching a call with the recorded step."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.kernel import Message, ModelCallOptions, ToolCall
from harness.kernel.matching import (
    Match,
    changed_fields,
    changed_tools,
    compare,
    core_hash,
    difference,
    idempotency_key,
    json_difference,
    model_input_hash,
    nearest,
    prefix_digests,
    text_difference,
    tool_input_hash,
)
from harness.kernel.records import ModelInputs

BASE = {"model": "m", "options": ModelCallOptions(), "output_schema": "", "visible": None}


def _core(**changed: object) -> str:
    return core_hash(**{**BASE, **changed})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changed",
    [
        {"model": "n"},
        {"options": ModelCallOptions(temperature=0.5)},
        {"output_schema": "abc"},
        {"visible": ()},
        {"visible": ("a",)},
    ],
)
def test_every_input_but_the_prompt_is_in_the_core(changed: dict[str, object]) -> None:
    """Another model, option, schema or list of visible tools is another core."""
    assert _core(**changed) != _core()


def test_the_prompt_is_in_the_input_only() -> None:
    """Another prompt changes the input hash and leaves the core."""
    core = _core()
    one, two = model_input_hash(core, [Message.user("a")]), model_input_hash(core, [Message.user("b")])

    assert compare(recorded_input=one, recorded_core=core, input=one, core=core) is Match.SAME
    assert compare(recorded_input=one, recorded_core=core, input=two, core=core) is Match.PROMPT_DRIFT
    assert compare(recorded_input=one, recorded_core=core, input=two, core=_core(model="n")) is Match.CHANGED


def test_hashes_stay_what_they_are() -> None:
    """Runs recorded by an older version must replay: these values never change."""
    core = _core()

    assert core == "5aa7a8a00b05334913bfb5004a4d8d4f"
    assert model_input_hash(core, (Message.user("hi"),)) == "4881fa8c5eb92896db6e29f63a51e108"
    assert tool_input_hash("add", b'{"a":1,"b":2}') == "fc85136dc205e918ed1965bb112faa85"
    assert idempotency_key("r", "pay", tool_input_hash("pay", b'{"amount":3}')) == "b706c5cfb7b3a42900da3e7950252638"


def test_added_tools_do_not_count() -> None:
    """Only a recorded tool that is gone or different is a change."""
    assert changed_tools({"a": "1"}, {"a": "1", "b": "2"}) == ()
    assert changed_tools({"a": "1", "b": "2", "c": "3"}, {"a": "9", "c": "3"}) == ("tools.a", "tools.b")


def test_differences_are_named_and_shown() -> None:
    """What differs is named field by field, and the nearest difference is shown."""
    recorded = ModelInputs(model="m", messages=(Message.user("Say hello to Ann"),), options=ModelCallOptions(seed=1))
    now = ModelInputs(model="m", messages=(Message.user("Say hello to Bob"),), options=ModelCallOptions(seed=2))

    assert changed_fields(recorded, now) == ("options.seed", "prompt")
    assert difference("options.seed", recorded, now) == "options.seed: recorded 1, now 2"
    assert "message 1 (user): at character 14" in difference("prompt", recorded, now)


def test_a_longer_conversation_is_told_as_such() -> None:
    """When one conversation continues the other, their lengths are the difference."""
    recorded = ModelInputs(model="m", messages=(Message.user("a"),))
    now = ModelInputs(model="m", messages=(Message.user("a"), Message.user("b")))

    said = difference("prompt", recorded, now)
    assert said == 'prompt: recorded 1 messages, now 2; the first more is {"role":"user","text":"b"}'


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        ({"a": {"b": [1, 2]}}, {"a": {"b": [1, 3]}}, "x.a.b[1]: recorded 2, now 3"),
        ({"a": [1]}, {"a": [1, 2]}, "x.a: recorded 1 entries, now 2"),
        ({"a": 1}, {"a": True}, "x.a: recorded 1, now True"),
        ({"a": 1}, {}, "x.a: recorded 1, now nothing"),
        ({"a": "w" * 70 + "x"}, {"a": "w" * 70 + "y"}, "x.a: at character 71 recorded …"),
        ([], {}, "x: recorded [], now {}"),
    ],
)
def test_the_nearest_difference_is_found_deep_inside(before: object, now: object, said: str) -> None:
    """Of two large values a person is shown the place where they differ, not the values."""
    assert nearest(before, now, "x").startswith(said)


def test_a_changed_tool_call_in_a_conversation_is_pointed_at() -> None:
    """Messages that differ in anything but their text say in what."""
    one, other = (Message.assistant(tool_calls=[ToolCall(id="1", name="look", arguments_json=f'{{"at":{n}}}')]) for n in (1, 2))
    said = difference("prompt", ModelInputs(model="m", messages=(one,)), ModelInputs(model="m", messages=(other,)))

    assert said == """prompt: message 1 (assistant).tool_calls[0].arguments_json: recorded '{"at":1}', now '{"at":2}'"""


def test_changed_tool_names_are_told_by_what_is_gone_and_new() -> None:
    """A long list of visible tools is not printed twice to be compared by eye."""
    recorded = ModelInputs(model="m", messages=(), visible=("a", "b"))

    said = difference("visible_tool_names", recorded, ModelInputs(model="m", messages=(), visible=("b", "c")))

    assert said == "visible_tool_names: recorded a, b, now without a and with c"


@given(st.text(min_size=0, max_size=3000), st.text(min_size=0, max_size=3000))
def test_any_two_texts_have_a_first_difference(before: str, now: str) -> None:
    """Finding the difference of two texts never fails and is never long."""
    if before != now:
        assert len(text_difference(before, now)) < 1200


def test_arguments_are_compared_by_name() -> None:
    """The changed arguments of a tool are named."""
    assert json_difference({"a": 1, "b": 2}, {"a": 1, "b": 3, "c": 4}) == (
        ["arguments.b", "arguments.c"],
        "arguments.b: recorded 2, now 3",
    )


def test_a_shared_beginning_is_found_by_its_digest() -> None:
    """Two conversations have equal digests exactly as far as they are equal."""
    one = prefix_digests([Message.user("a"), Message.assistant("b"), Message.user("c")])
    two = prefix_digests([Message.user("a"), Message.assistant("b"), Message.user("d")])

    assert [a == b for a, b in zip(one, two, strict=True)] == [True, True, False]
