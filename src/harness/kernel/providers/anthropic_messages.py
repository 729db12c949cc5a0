"""Anthropic's Messages API: a request as its JSON body, its answer as a result.

Reference: https://platform.claude.com/docs/en/api/messages. Thinking is signed and must come back unchanged within a
tool loop, so an answer that has any keeps its blocks in `native`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from harness.errors import ModelError
from harness.kernel.ports import Message, ModelRequest, ModelResult, Native, StopReason, ToolCall, Usage
from harness.kernel.providers.assembling import MessagesAssembly
from harness.kernel.providers.calling import (
    answered,
    asked_target,
    decoded,
    refuse_options,
)
from harness.kernel.providers.sdk_port import SDKPort

KIND = "anthropic"
DEFAULT_MAX_TOKENS = 16_000  # the API wants a number; this much fits a call that does not stream
_STOP: dict[str, StopReason] = {
    "end_turn": "end", "tool_use": "tool_calls", "max_tokens": "max_tokens", "model_context_window_exceeded": "max_tokens",
    "stop_sequence": "stop_sequence", "refusal": "refusal",
}  # fmt: skip
_PLAIN = frozenset({"text", "tool_use"})
_CACHED = {"type": "ephemeral"}


class _Block(msgspec.Struct):
    type: str
    text: str = ""
    id: str = ""
    name: str = ""
    input: Any = None


class _Usage(msgspec.Struct):
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None


class _Answer(msgspec.Struct):
    content: list[dict[str, Any]]
    model: str = ""
    stop_reason: str | None = None
    usage: _Usage = msgspec.field(default_factory=_Usage)


def body_of(request: ModelRequest, model: str) -> dict[str, Any]:
    """The call's JSON body. Raises `ModelError` for what this API cannot be asked."""
    refuse_options(request, KIND, "seed")
    system, rest = _split(request.messages)
    asked = asked_target(request.output_schema)
    output: dict[str, Any] = {}
    if asked is not None and asked.strict:
        output["format"] = {"type": "json_schema", "schema": asked.schema}
    elif asked is not None:  # only a closed schema can be enforced
        system += [f"Answer with nothing but JSON after this schema: {msgspec.json.encode(asked.schema).decode()}"]
    messages = _turns(rest)
    if not messages:
        raise ModelError(f"{KIND}: there is no message to answer, only instructions")
    options = request.options
    body: dict[str, Any] = {"model": model, "max_tokens": options.max_tokens or DEFAULT_MAX_TOKENS, "messages": messages}
    if system:
        body["system"] = [{"type": "text", "text": text} for text in system]
    if request.allowed_tools:
        body["tools"] = [
            {"name": tool.name, "description": tool.description, "input_schema": dict(tool.input_schema)}
            for tool in request.allowed_tools
        ]
        _mark_cache(messages)
    sampling = {"temperature": options.temperature, "top_p": options.top_p}
    if chosen := {name: value for name, value in sampling.items() if value is not None}:
        body["extra_body"] = chosen  # the SDK has no argument for them since 2.0, older models still know them
    if options.stop:
        body["stop_sequences"] = list(options.stop)
    if options.reasoning_effort == "none":
        body["thinking"] = {"type": "disabled"}
    elif options.reasoning_effort is not None:
        body["thinking"] = {"type": "adaptive"}
        output["effort"] = "low" if options.reasoning_effort == "minimal" else options.reasoning_effort
    if output:
        body["output_config"] = output
    return body


def _split(messages: tuple[Message, ...]) -> tuple[list[str], tuple[Message, ...]]:
    """The instructions at the beginning, and what follows them."""
    count = next((i for i, message in enumerate(messages) if message.role != "system"), len(messages))
    return [message.text for message in messages[:count] if message.text.strip()], messages[count:]


def _turns(messages: tuple[Message, ...]) -> list[dict[str, Any]]:
    """Alternating turns; everything that is not the assistant's belongs to the user's."""
    turns: list[dict[str, Any]] = []
    for message in messages:
        blocks = _blocks(message)
        role = "assistant" if message.role == "assistant" else "user"
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += blocks
        elif blocks:
            turns.append({"role": role, "content": blocks})
    return turns


def _blocks(message: Message) -> list[dict[str, Any]]:
    match message.role:
        case "assistant" if message.native is not None and message.native.provider == KIND:
            return [dict(block) for block in message.native.blocks]
        case "assistant":
            return _text(message.text) + [
                {"type": "tool_use", "id": call.id, "name": call.name, "input": _input(call)} for call in message.tool_calls
            ]
        case "tool":
            result = {"type": "tool_result", "tool_use_id": message.tool_call_id, "content": message.text}
            return [{**result, "is_error": True} if message.is_error else result]
        case "system":  # one that is not at the beginning, where the API knows no such role
            return _text(f"<system>\n{message.text}\n</system>")
        case "user":
            return _text(message.text)


def _text(text: str) -> list[dict[str, Any]]:
    return [{"type": "text", "text": text}] if text.strip() else []  # the API refuses blank ones


def _input(call: ToolCall) -> dict[str, Any]:
    try:
        return call.arguments()
    except ValueError:  # another model wrote it; the API takes objects only
        return {"malformed": call.arguments_json}


def _mark_cache(messages: list[dict[str, Any]]) -> None:
    """Let the provider keep the conversation so far: a loop only appends to it, and pays for what is new."""
    last = messages[-1]["content"]
    last[-1] = {**last[-1], "cache_control": _CACHED}


def result_of(body: bytes, request: ModelRequest) -> ModelResult:
    """The answer's bytes as a result. Raises `ModelMalformed`."""
    answer = decoded(body, _Answer, KIND)
    blocks = decoded(msgspec.json.encode(answer.content), list[_Block], KIND)
    keep = any(block.type not in _PLAIN for block in blocks)
    used = answer.usage
    return answered(
        request,
        kind=KIND,
        text="".join(block.text for block in blocks if block.type == "text"),
        tool_calls=[
            ToolCall(id=block.id, name=block.name, arguments_json=msgspec.json.encode(block.input).decode())
            for block in blocks if block.type == "tool_use"
        ],
        stop_reason=_STOP.get(answer.stop_reason or "end_turn", "other"),
        usage=Usage(
            input_tokens=used.input_tokens, output_tokens=used.output_tokens,
            cache_read_tokens=used.cache_read_input_tokens or 0, cache_write_tokens=used.cache_creation_input_tokens or 0,
        ),
        model=answer.model,
        native=Native(provider=KIND, blocks=tuple(answer.content)) if keep else None,
    )  # fmt: skip


class AnthropicPort(SDKPort):
    """A model of Anthropic's, or of any server that speaks its Messages API. See `SDKPort`."""

    KIND = KIND
    SDK = "anthropic"
    FACTORY = "AsyncAnthropic"
    KEY_VARIABLES = (
        "ANTHROPIC_API_KEY",
        "ANTHROPIC_AUTH_TOKEN",
        "ANTHROPIC_PROFILE",
        "ANTHROPIC_IDENTITY_TOKEN",
        "ANTHROPIC_IDENTITY_TOKEN_FILE",
    )
    ASSEMBLY = MessagesAssembly
    RESOURCE = "messages"
    body_of = staticmethod(body_of)
    result_of = staticmethod(result_of)
