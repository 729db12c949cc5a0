"""A turn made concrete for one request: its tool calls in the client's own terms, its ids, its count of tokens."""

from __future__ import annotations

import re
import secrets
import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import msgspec

from harness.sessions.mock_model.asking import SHELLS, Asked, Tool
from harness.sessions.mock_model.examples import smallest
from harness.sessions.mock_model.script import Call, FileWrite, Turn

_WRITERS = ("Write", "write", "write_file", "create_file")
_READERS = ("Read", "read", "read_file", "view", "view_file")
_COMMANDS = ("command", "cmd", "script")
_PATHS = ("file_path", "filePath", "absolute_path", "path", "target_file")
_CONTENTS = ("content", "contents", "file_text", "text")
_PATCH = "apply_patch"


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A call of one of the client's tools."""

    name: str
    arguments: Mapping[str, Any] | str
    kind: str = "function"
    namespace: str = ""
    id: str = field(default_factory=lambda: secrets.token_hex(10))

    @property
    def text(self) -> str:
        """The arguments as they are sent: JSON, or the text of a tool that takes plain text."""
        if isinstance(self.arguments, str):
            return self.arguments
        inner = self.arguments.get("input")
        if self.kind == "custom" and isinstance(inner, str):
            return inner
        return msgspec.json.encode(self.arguments).decode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What is said to one request."""

    model: str
    text: str = ""
    thinking: str = ""
    calls: tuple[ToolCall, ...] = ()
    stop: str = ""
    input_tokens: int = 0  # without the cached ones
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    usage_in_stream: bool = True
    id: str = field(default_factory=lambda: secrets.token_hex(12))
    at: int = field(default_factory=lambda: int(time.time()))

    @property
    def all_input_tokens(self) -> int:
        """With the cached ones, as OpenAI counts."""
        return self.input_tokens + self.cache_read_tokens + self.cache_write_tokens


def answer_to(turn: Turn, asked: Asked) -> Answer:
    """The turn as it is said to this client. A portable call that it has no tool for becomes a text that says so."""
    calls: list[ToolCall] = []
    texts = [turn.text] if turn.text else []
    for wanted in turn.tools:
        call = translated(wanted, asked.tools)
        if call is not None:
            calls.append(call)
        else:
            what = next(word for word in ("shell", "write", "read") if getattr(wanted, word) is not None)
            names = ", ".join(sorted(asked.tools)) or "none"
            texts.append(f"[mock-model] this client offers no tool for {what!r}; it offers: {names}")
    text = "\n".join(texts)
    said = len(text) + len(turn.thinking) + sum(len(call.text) for call in calls)
    return Answer(
        model=asked.model,
        text=text,
        thinking=turn.thinking,
        calls=tuple(calls),
        stop=turn.stop,
        input_tokens=turn.usage.input,
        output_tokens=1 + said // 4 if turn.usage.output is None else turn.usage.output,
        cache_read_tokens=turn.usage.cache_read,
        cache_write_tokens=turn.usage.cache_write,
        usage_in_stream=asked.usage_in_stream,
    )


def pieces(text: str) -> list[str]:
    """A text as a stream gives it: word by word, nothing lost."""
    return re.findall(r"\s*\S+(?:\s+\Z)?|\s+\Z", text)


def slices(text: str, length: int = 48) -> list[str]:
    """Arguments as a stream gives them: cut anywhere."""
    return [text[at : at + length] for at in range(0, len(text), length)]


# -- the client's own terms


def translated(call: Call, tools: Mapping[str, Tool]) -> ToolCall | None:
    """A scripted call for a client that offers these tools; None if none of them can do it."""
    if call.name is not None:
        tool = tools.get(call.name, Tool(name=call.name))
        return ToolCall(name=tool.name, arguments=call.input, kind=tool.kind, namespace=tool.namespace)
    if call.shell is not None:
        return _shell(call.shell, tools)
    if call.write is not None:
        return _write(call.write, tools)
    return _read(call.read or "", tools)


def _shell(command: str, tools: Mapping[str, Tool]) -> ToolCall | None:
    tool = _named(tools, SHELLS) or next((tool for tool in tools.values() if set(_COMMANDS) & set(tool.required)), None)
    if tool is None:
        return None
    key = _first(tool, _COMMANDS)
    argv = tool.kind == "local_shell" or _is_list(tool.properties.get(key))
    return _filled(tool, {key: ["bash", "-lc", command] if argv else command})


def _write(file: FileWrite, tools: Mapping[str, Tool]) -> ToolCall | None:
    tool = _named(tools, _WRITERS)
    if tool is not None:
        return _filled(tool, {_first(tool, _PATHS): file.path, _first(tool, _CONTENTS): file.content})
    patch = tools.get(_PATCH)
    if patch is not None and file.content.endswith("\n"):  # a patch cannot leave out the last line's end
        lines = "".join(f"+{line}\n" for line in file.content.removesuffix("\n").split("\n"))
        text = f"*** Begin Patch\n*** Add File: {file.path}\n{lines}*** End Patch\n"
        return _filled(patch, {_first(patch, ("input", "patch")): text})
    return _shell(f"printf %s {shlex.quote(file.content)} > {shlex.quote(file.path)}", tools)


def _read(path: str, tools: Mapping[str, Tool]) -> ToolCall | None:
    tool = _named(tools, _READERS)
    if tool is not None:
        return _filled(tool, {_first(tool, _PATHS): path})
    return _shell(f"cat {shlex.quote(path)}", tools)


def _named(tools: Mapping[str, Tool], names: tuple[str, ...]) -> Tool | None:
    return next((tools[name] for name in names if name in tools), None)


def _first(tool: Tool, keys: tuple[str, ...]) -> str:
    """The tool's own word for one of its arguments."""
    return next((key for key in keys if key in tool.properties), keys[0])


def _is_list(schema: object) -> bool:
    return isinstance(schema, Mapping) and cast("Mapping[str, Any]", schema).get("type") == "array"


def _filled(tool: Tool, given: dict[str, Any]) -> ToolCall:
    """The call with something for every argument that the tool requires."""
    missing = {name: smallest(tool.properties.get(name)) for name in tool.required if name not in given}
    return ToolCall(name=tool.name, arguments={**given, **missing}, kind=tool.kind, namespace=tool.namespace)
