"""What a script may say, which of its turns answers a request, and how its calls become the client's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.errors import UsageError
from harness.sessions.mock_model import Script, make_script, read_script
from harness.sessions.mock_model.answering import ToolCall, answer_to, pieces, translated
from harness.sessions.mock_model.asking import Asked, Prompt, Said, Speaker, Tool, by_user, offered, prompts_of
from harness.sessions.mock_model.choosing import Cursor
from harness.sessions.mock_model.examples import smallest
from harness.sessions.mock_model.recording import MAX_KEPT_BYTES, Received, Records, kept_body, shown_headers, shown_path
from harness.sessions.mock_model.script import Call, FileWrite, Turn
from harness.sessions.mock_model.stage import Stage

MODEL = Said(Speaker.MODEL)
RESULT = Said(Speaker.TOOL)


def user(text: str) -> Said:
    return by_user(text)


def tool(name: str, *required: str, kind: str = "function", **types: str) -> Tool:
    properties = {key: {"type": types.get(key, "string")} for key in (*required, *types)}
    return Tool(name=name, kind=kind, schema={"type": "object", "properties": properties, "required": list(required)})


BASH = tool("Bash", "command")


def ask(*said: Said, tools: tuple[Tool, ...] = (BASH,), **more: Any) -> Asked:
    return Asked(model="m", stream=False, said=said or (user("go"),), tools=offered(tools), **more)


def texts(cursor: Cursor, asked: Asked, count: int) -> list[str]:
    return [cursor.choose(asked).turn.text or str(cursor.scenario.default.text) for _ in range(count)]


def cursor(**scenario: Any) -> Cursor:
    return Cursor(make_script(scenario).main)


# -- reading


def test_toml_and_json_say_the_same(tmp_path: Path) -> None:
    """The two forms of one script are read as equal."""
    (tmp_path / "a.toml").write_text(
        '[[turns]]\ntext = "hi"\ntools = [{ shell = "ls" }]\n[[turns]]\nerror = 429\ntimes = 2\n'
        '[scenarios.b.default]\ntext = "x"\n'
    )
    turns = [{"text": "hi", "tools": [{"shell": "ls"}]}, {"error": 429, "times": 2}]
    (tmp_path / "a.json").write_text(json.dumps({"turns": turns, "scenarios": {"b": {"default": {"text": "x"}}}}))

    read = read_script(tmp_path / "a.toml")

    assert read == read_script(tmp_path / "a.json")
    assert read.main.turns[1].failure is not None
    assert read.scenarios["b"].default.text == "x"


def test_a_script_can_be_written_down_and_read_again() -> None:
    """What `as_data` gives makes the same script, so that it can be edited and sent back."""
    script = make_script({"turns": [{"tools": [{"name": "T", "input": {"a": 1}}]}], "side": "main", "scenarios": {"x": {}}})

    assert make_script(script.as_data()) == script


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        ({"turn": []}, "s.toml: unknown key 'turn'; did you mean 'turns'?"),
        ({"scenario": {}}, "s.toml: unknown key 'scenario'; did you mean 'scenarios'?"),
        ({"turns": [{}, {"tex": "x"}]}, "s.toml: turns[1]: unknown key 'tex'; did you mean 'text'?"),
        ({"turns": [{"tools": [{"shel": "x"}]}]}, "s.toml: turns[0].tools[0]: unknown key 'shel'; did you mean 'shell'?"),
        ({"turns": [{"error": {"stat": 1}}]}, "s.toml: turns[0].error: unknown key 'stat'; did you mean 'status'?"),
        ({"rules": [{"promt": "x"}]}, "s.toml: rules[0]: unknown key 'promt'; did you mean 'prompt'?"),
        ({"scenarios": {"a": {"sid": 1}}}, "s.toml: scenarios.a: unknown key 'sid'; did you mean 'side'?"),
        ({"scenarios": {"a/b": {}}}, "s.toml: scenarios: 'a/b' cannot be part of an address"),
        ({"turns": [{"text": 1}]}, "s.toml: turns[0].text: expected `str`, got `int`"),
        ({"turns": [{"error": 200}]}, "s.toml: turns[0].error: expected `int` >= 400"),
        ({"turns": [{"delay": float("inf")}]}, "s.toml: turns[0].delay: expected `float` <= 600.0"),
        ({"turns": [{"delay": float("nan")}]}, "s.toml: turns[0].delay: "),
        ({"turns": [{"times": 0}]}, "s.toml: turns[0].times: expected `int` >= 1"),
        ({"rules": [{"prompt": "(", "turns": [{}]}]}, "s.toml: rules[0].prompt: '(' is no regular expression"),
        ({"rules": [{"prompt": "x"}]}, "s.toml: rules[0]: a rule without turns says nothing"),
        ({"turns": [{"error": 500, "text": "x"}]}, "s.toml: turns[0].error: an error comes instead of an answer"),
        ({"turns": [{"error": 500, "disconnect": "before"}]}, "s.toml: turns[0]: 'error' and 'disconnect' exclude"),
        ({"default": {"disconnect": "before", "text": "x"}}, "s.toml: default.disconnect: nothing is said before"),
        ({"turns": [{"tools": [{}]}]}, "s.toml: turns[0].tools[0]: a call is exactly one of"),
        ({"turns": [{"tools": [{"shell": "a", "read": "b"}]}]}, "not 'shell' and 'read'"),
        ({"turns": [{"tools": [{"shell": "a", "input": {"b": 1}}]}]}, "'input' belongs to 'name'"),
        ({"turns": [{"headers": {"a b": "c"}}]}, "s.toml: turns[0].headers: 'a b' cannot be sent as a header"),
        ({"side": {"headers": {"x": "a\r\nb"}}}, "s.toml: side.headers: 'x' cannot be sent as a header"),
        ({"turns": [{"headers": {"Content-Length": "1"}}]}, "'Content-Length' is set by the server itself"),
        ([], "s.toml: a script is an object"),
    ],
)
def test_a_script_that_makes_no_sense_is_refused_by_place(data: object, complaint: str) -> None:
    """The error names the file, the place in it, and what was probably meant."""
    with pytest.raises(UsageError) as refused:
        make_script(data, source="s.toml")

    assert complaint in str(refused.value)


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("a.json", b'{"turns": [\n{"text": }]}', "a.json:2: not valid JSON"),
        ("a.toml", b"[[turns]\n", "a.toml: not valid TOML"),
        ("a.toml", b"\xff", "a.toml: not UTF-8 at byte 0"),
        ("a.yaml", b"", "a.yaml: a script is a .toml or a .json file"),
    ],
)
def test_a_file_that_is_no_script_is_refused(tmp_path: Path, name: str, content: bytes, complaint: str) -> None:
    """A file that cannot be parsed says where it breaks."""
    (tmp_path / name).write_bytes(content)

    with pytest.raises(UsageError) as refused:
        read_script(tmp_path / name)

    assert complaint in str(refused.value)


# -- who said what


def test_prompts_of_an_exchange_come_latest_first() -> None:
    """Turns are counted since each text; texts beside a tool's results belong to the exchange, older ones do not."""
    said = [user("old"), MODEL, user("first"), MODEL, MODEL, RESULT, RESULT, user("hurry"), MODEL, RESULT]

    assert prompts_of(said) == [Prompt("hurry", 1), Prompt("first", 2)]


def test_what_programs_insert_is_no_prompt() -> None:
    """Reminders, surroundings and the note about an interrupt are taken out of what the user said."""
    inserted = "<system-reminder>\nfix it\n</system-reminder>\n[Request interrupted by user for tool use]\n do this "
    surroundings = "<environment_context><cwd>/x</cwd></environment_context>"

    assert prompts_of([user(surroundings), user(inserted)]) == [Prompt("do this", 0)]


# -- choosing


def test_turns_come_in_order_and_then_the_default() -> None:
    """Each request takes the next turn, one with `times` as often as it says."""
    played = cursor(turns=[{"text": "a", "times": 2}, {"text": "b"}], default={"text": "end"})

    assert texts(played, ask(), 5) == ["a", "a", "b", "end", "end"]


def test_side_requests_use_no_turn() -> None:
    """A request without tools, or for structured output without a shell, is answered aside, with JSON that fits."""
    played = cursor(turns=[{"text": "a"}])
    schema = {"type": "object", "properties": {"title": {"type": "string"}}, "required": ["title"]}

    title = played.choose(ask(tools=(tool("apply_patch"),), answer_schema=schema))
    probe = played.choose(ask(tools=()))
    working = played.choose(ask(answer_schema=schema))

    assert (title.side, json.loads(title.turn.text)) == (True, {"title": "scripted"})
    assert (probe.side, probe.turn.text) == (True, "ok")
    assert (working.side, working.turn.text) == (False, "a")


def test_side_requests_can_be_scripted_or_made_main() -> None:
    """`side` is a turn of its own, or says that such requests use turns like all others."""
    assert cursor(side={"text": "My title"}).choose(ask(tools=())).turn.text == "My title"
    assert cursor(side="main", turns=[{"text": "a"}]).choose(ask(tools=())).label == "turn 1"


def test_a_rule_follows_from_the_conversation_alone() -> None:
    """The same conversation gets the same turn, asked as often as one likes; beyond the last one comes the default."""
    played = cursor(rules=[{"prompt": "^fix", "turns": [{"text": "one"}, {"text": "two"}]}], default={"text": "end"})
    first, second, third = [user("fix it")], [user("fix it"), MODEL, RESULT], [user("fix it"), MODEL, RESULT, MODEL, RESULT]

    assert texts(played, ask(*first), 2) == ["one", "one"]
    assert texts(played, ask(*second), 2) == ["two", "two"]
    assert texts(played, ask(*third), 1) == ["end"]
    assert texts(played, ask(*first), 1) == ["one"]


def test_failures_in_a_rule_are_counted_by_attempts() -> None:
    """A failure leaves the conversation as it is, so the same request comes again and gets what follows."""
    rule = {"prompt": "fix", "turns": [{"error": 529, "times": 2}, {"text": "one"}, {"disconnect": "before"}]}
    played = cursor(rules=[rule], default={"text": "end"})

    first = [played.choose(ask(user("fix it"))).turn for _ in range(4)]
    second = [played.choose(ask(user("fix it"), MODEL, RESULT)).turn for _ in range(3)]

    assert [turn.text or turn.error for turn in first] == [529, 529, "one", "one"]
    assert [turn.text or turn.disconnect for turn in second] == ["before", "end", "end"]


def test_the_latest_prompt_decides_then_the_earlier_ones() -> None:
    """A prompt typed after an interrupt wins over the one before it; one that no rule knows leaves it in charge."""
    played = cursor(rules=[{"prompt": "A", "turns": [{"text": "a"}]}, {"prompt": "B", "turns": [{"text": "b"}]}])

    assert played.choose(ask(user("do A"), user("do B"))).turn.text == "b"
    assert played.choose(ask(user("do A"), user("go on"))).turn.text == "a"


def test_each_scenario_goes_its_own_way() -> None:
    """A name that the script does not know plays the main scenario on its own."""
    stage = Stage(make_script({"turns": [{"text": "a"}], "scenarios": {"b": {"turns": [{"text": "b"}]}}}))

    said = [stage.choose(name, ask()).turn.text for name in ("", "b", "w1", "w2", "w1")]

    assert said == ["a", "b", "a", "a", "Done."]


# -- the client's own terms


@pytest.mark.parametrize(
    ("offers", "name", "arguments"),
    [
        (tool("Bash", "command"), "Bash", {"command": "ls"}),
        (tool("exec_command", "cmd"), "exec_command", {"cmd": "ls"}),
        (tool("shell", "command", command="array"), "shell", {"command": ["bash", "-lc", "ls"]}),
        (Tool(name="local_shell", kind="local_shell"), "local_shell", {"command": ["bash", "-lc", "ls"]}),
        (tool("bash", "command", "description"), "bash", {"command": "ls", "description": "scripted"}),
        (tool("my_runner", "script", "dry", dry="boolean"), "my_runner", {"script": "ls", "dry": False}),
    ],
)
def test_a_shell_call_takes_the_clients_form(offers: Tool, name: str, arguments: dict[str, Any]) -> None:
    """The command goes where the client's tool wants it, as it wants it, with something for all that is required."""
    call = translated(Call(shell="ls"), offered([tool("Other"), offers]))

    assert call is not None
    assert (call.name, call.arguments) == (name, arguments)


def test_a_file_is_written_by_the_best_tool_there_is() -> None:
    """A writer, else a patch, else the shell; a patch cannot write a file whose last line has no end."""
    whole, cut = Call(write=FileWrite(path="/a b", content="x\ny\n")), Call(write=FileWrite(path="/a b", content="it's"))
    patch = tool("apply_patch", kind="custom")
    text = "*** Begin Patch\n*** Add File: /a b\n+x\n+y\n*** End Patch\n"

    def written(call: Call, *tools: Tool) -> str:
        made = translated(call, offered(tools))
        assert made is not None
        return made.text

    assert json.loads(written(whole, BASH, tool("Write", "file_path", "content")))["content"] == "x\ny\n"
    assert written(whole, BASH, patch) == text
    assert json.loads(written(cut, BASH, patch))["command"] == """printf %s 'it'"'"'s' > '/a b'"""
    assert translated(whole, {}) is None


def test_a_file_is_read_by_a_reader_or_the_shell() -> None:
    """Without a tool that reads, the shell does."""
    by_tool = translated(Call(read="/x"), offered([BASH, tool("read", "filePath")]))
    by_shell = translated(Call(read="/x y"), offered([BASH]))

    assert by_tool is not None
    assert by_shell is not None
    assert (by_tool.arguments, by_shell.arguments) == ({"filePath": "/x"}, {"command": "cat '/x y'"})


def test_a_call_that_nobody_can_do_is_said_in_words() -> None:
    """The agent sees what is wrong with the script; a tool called by its name is called whether it exists or not."""
    turn = Turn(text="Now.", tools=(Call(shell="ls"), Call(name="Nonsense", input={"a": 1})))

    answer = answer_to(turn, ask(tools=(tool("Ask"),)))

    assert answer.text == "Now.\n[mock-model] this client offers no tool for 'shell'; it offers: Ask"
    assert [call.name for call in answer.calls] == ["Nonsense"]


def test_arguments_that_are_no_json_are_sent_as_they_are() -> None:
    """Text for `input` reaches the client unchanged, broken or not."""
    call = translated(Call(name="Bash", input='{"command": "l'), offered([BASH]))

    assert call is not None
    assert call.text == '{"command": "l'
    assert ToolCall(name="p", arguments={"input": "*** Begin"}, kind="custom").text == "*** Begin"


@pytest.mark.parametrize("text", ["", " ", "one", "one two\n\nthree ", "\n x", "a  b\t"])
def test_pieces_lose_nothing(text: str) -> None:
    """A streamed text is the text."""
    assert "".join(pieces(text)) == text


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "object", "properties": {"a": {"type": "integer", "minimum": 3}, "b": {}}, "required": ["a"]}, {"a": 3}),
        ({"enum": ["x", "y"]}, "x"),
        ({"anyOf": [{"type": "null"}, {"type": "string"}]}, None),
        ({"type": ["null", "boolean"]}, False),
        ({"type": "array", "items": {"const": 7}, "minItems": 2}, [7, 7]),
        ({"type": "string", "maxLength": 3}, "scr"),
        ({"type": "STRING", "minLength": 10}, "scripted.."),
    ],
)
def test_the_smallest_value_fits_its_schema(schema: dict[str, Any], value: object) -> None:
    """Structured output that nobody scripted is as small as it may be."""
    assert smallest(schema) == value


# -- what is kept


def test_credentials_are_hidden() -> None:
    """No key, token or cookie is kept, in headers or parameters."""
    given = {"authorization": "Bearer x", "x-api-key": "x", "cookie": "x", "x-goog-api-key": "x", "accept": "y"}

    assert {name for name, value in shown_headers(given).items() if value == "[hidden]"} == given.keys() - {"accept"}
    assert shown_path("/v1/models", "key=abc&beta=true") == "/v1/models?key=hidden&beta=true"


def test_old_bodies_are_forgotten_first() -> None:
    """What is kept has a bound in bytes; the newest request keeps its body and the oldest its other facts."""
    records = Records(Stage(Script()).changed, None)
    body = kept_body(json.dumps("x" * (MAX_KEPT_BYTES // 3)).encode())
    for number in range(5):
        records.add(
            Received(number=number, at=0, scenario="", protocol="chat", method="POST", path="/", headers={}, raw_body=body)
        )

    assert [request.body is None for request in records.all()] == [True, True, True, False, False]
