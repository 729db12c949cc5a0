"""From a word to a port, and what a port says before any call."""

from __future__ import annotations

import subprocess
import sys

import pytest

from harness.errors import ModelError, ModelUnavailable, UsageError
from harness.kernel.ports import MockModelPort, ModelPort, ModelRequest, ScriptedModelPort
from harness.kernel.providers import AnthropicPort, OpenAIChatPort, OpenAIResponsesPort, calling, known_ports, port_from
from harness.kernel.providers.calling import SDKClient, one_line


def test_words_name_ports() -> None:
    """Each word gives its port with its model; a caller's own kind gets what follows the colon."""
    own = {"rules": lambda rest: ScriptedModelPort([rest])}

    assert isinstance(port_from("mock"), MockModelPort)
    assert isinstance(port_from("rules:x", own), ScriptedModelPort)
    assert known_ports(own) == ("anthropic:MODEL", "mock", "openai:MODEL", "openai-chat:MODEL", "rules")


@pytest.mark.parametrize(
    ("spec", "port"),
    [("anthropic:a:b", AnthropicPort), ("openai:a:b", OpenAIResponsesPort), ("openai-chat:a:b", OpenAIChatPort)],
)
def test_a_models_name_may_hold_a_colon(spec: str, port: type[AnthropicPort], monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything after the first colon is the model."""
    pytest.importorskip("anthropic")
    pytest.importorskip("openai")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "k")
    monkeypatch.setenv("OPENAI_API_KEY", "k")

    made = port_from(spec)

    assert isinstance(made, port)
    assert isinstance(made, ModelPort)
    assert made.model == "a:b"


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [("antropic:x", "did you mean 'anthropic'"), ("", "names no model port"), ("anthropic", "write anthropic:MODEL"),
     ("openai: ", "write openai:MODEL"), ("rules", "known: anthropic:MODEL, mock")],
)  # fmt: skip
def test_a_wrong_word_is_one_clear_line(spec: str, complaint: str) -> None:
    """A wrong word says what is right."""
    with pytest.raises(UsageError, match=complaint) as caught:
        port_from(spec)

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("spec", "extra"), [("anthropic:m", "anthropic"), ("openai:m", "openai"), ("openai-chat:m", "openai")])
def test_a_missing_sdk_names_the_extra(spec: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the SDK the message is the command that installs it."""
    monkeypatch.setattr(calling, "find_spec", lambda name: None)

    with pytest.raises(UsageError, match=rf"pip install 'agentharness\[{extra}\]'"):
        port_from(spec)


def test_no_sdk_is_imported_before_the_first_call() -> None:
    """Making a port costs no import of its SDK."""
    code = (
        "import sys, os; os.environ['OPENAI_API_KEY'] = 'k'\n"
        "from harness.kernel.providers import port_from\n"
        "port_from('openai:m') if __import__('importlib.util').util.find_spec('openai') else None\n"
        "print([m for m in ('openai', 'anthropic', 'pydantic', 'httpx') if m in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)

    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("bad key sk-ant-api03-abcdef-GHI_9", "bad key …"),
        ("Authorization: Bearer abcdef123456", "Authorization: …"),
        ("header b'secret-value\\n' is illegal", "header b'…\\n' is illegal"),
        ("two\nlines\x1b[31m\u202eodd", "two lines [31m odd"),
        ("a desk-lamp and a task", "a desk-lamp and a task"),
    ],
)
def test_a_message_is_one_line_without_secrets(text: str, clean: str) -> None:
    """Keys, the caller's secrets, line ends and control characters do not get into an error."""
    assert one_line(text, "secret-value\n", None, "") == clean


def test_a_message_is_bounded() -> None:
    """A page of HTML does not become an error message."""
    assert len(one_line("x" * 10_000)) == 300


async def test_what_the_sdk_itself_refuses_is_a_model_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A defect between us and the SDK ends as one line, not as a traceback through the kernel."""
    pytest.importorskip("openai")
    client = SDKClient(
        kind="openai", sdk="openai", factory="AsyncOpenAI", key_variables=("OPENAI_API_KEY",), api_key="sk-secret-key-1234",
        base_url="http://127.0.0.1:9", timeout_seconds=5,
    )  # fmt: skip

    with pytest.raises(ModelError, match="unexpected keyword"):
        await client.post("responses", {"no_such_argument": 1}, None)
    with pytest.raises(ModelUnavailable, match=r"no answer from 127\.0\.0\.1:9"):
        await client.post("responses", {"model": "m", "input": "x"}, None)
    await client.close()


def test_a_default_model_is_the_ports() -> None:
    """A request that names none, or `default`, gets the model that the port was made for."""
    assert calling.chosen_model("default", "own", "openai") == "own"
    assert calling.chosen_model("openai:x", "own", "openai") == "x"
    assert ModelRequest(model="", messages=()).model == ""
