"""OpenAI's Chat Completions API, which many other servers speak too: a request as its JSON body, its answer as a result.

Reference: https://developers.openai.com/api/reference/resources/chat.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import msgspec

from harness.errors import ModelMalformed
from harness.kernel.ports import Message, ModelRequest, ModelResult, StopReason, ToolCall, Usage
from harness.kernel.providers.assembling import ChatAssembly
from harness.kernel.providers.calling import answered, asked_target, decoded
from harness.kernel.providers.sdk_port import SDKPort

KIND = "openai-chat"
_STOP: dict[str, StopReason] = {
    "stop": "end", "tool_calls": "tool_calls", "function_call": "tool_calls", "length": "max_tokens",
    "content_filter": "refusal",
}  # fmt: skip


class _Function(msgspec.Struct):
    name: str
    arguments: str = ""


class _Call(msgspec.Struct):
    id: str
    function: _Function


class _Said(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None
    tool_calls: list[_Call] | None = None


class _Choice(msgspec.Struct):
    message: _Said
    finish_reason: str | None = None


class _CachedTokens(msgspec.Struct):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: _CachedTokens | None = None


class _Answer(msgspec.Struct):
    choices: list[_Choice]
    model: str = ""
    usage: _Usage | None = None


def body_of(request: ModelRequest, model: str) -> dict[str, Any]:
    """The call's JSON body."""
    options = request.options
    body: dict[str, Any] = {"model": model, "messages": [_message(message) for message in request.messages]}
    if request.allowed_tools:
        body["tools"] = [
            {"type": "function",
             "function": {"name": tool.name, "description": tool.description, "parameters": dict(tool.input_schema)}}
            for tool in request.allowed_tools
        ]  # fmt: skip
    asked = asked_target(request.output_schema)
    if asked is not None:
        schema = {"name": "answer", "schema": asked.schema, "strict": asked.strict}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    for name in ("temperature", "top_p", "seed", "reasoning_effort"):
        if (value := getattr(options, name)) is not None:
            body[name] = value
    if options.max_tokens is not None:
        body["max_completion_tokens"] = options.max_tokens
    if options.stop:
        body["stop"] = list(options.stop)
    return body


def _message(message: Message) -> dict[str, Any]:
    match message.role:
        case "assistant" if message.tool_calls:
            calls = [
                {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments_json}}
                for call in message.tool_calls
            ]
            return {"role": "assistant", "content": message.text or None, "tool_calls": calls}
        case "tool":
            return {"role": "tool", "tool_call_id": message.tool_call_id, "content": message.text}
        case "system" | "user" | "assistant":
            return {"role": message.role, "content": message.text}


def result_of(body: bytes, request: ModelRequest) -> ModelResult:
    """The answer's bytes as a result. Raises `ModelMalformed`."""
    answer = decoded(body, _Answer, KIND)
    if not answer.choices:
        raise ModelMalformed(f"{KIND} answered without any choice")
    choice = answer.choices[0]
    said = choice.message
    calls = [ToolCall(id=c.id, name=c.function.name, arguments_json=c.function.arguments) for c in said.tool_calls or ()]
    stop: StopReason = _STOP.get(choice.finish_reason or "stop", "other")
    return answered(
        request,
        kind=KIND,
        text=said.content or said.refusal or "",
        tool_calls=calls,
        stop_reason="tool_calls" if calls and stop == "end" else "refusal" if said.refusal else stop,
        usage=_usage(answer.usage),
        model=answer.model,
        native=None,
    )


def _usage(used: _Usage | None) -> Usage:
    if used is None:
        return Usage()
    details = used.prompt_tokens_details or _CachedTokens()
    read, written = details.cached_tokens or 0, details.cache_write_tokens or 0
    return Usage(
        input_tokens=max(0, used.prompt_tokens - read - written), output_tokens=used.completion_tokens,
        cache_read_tokens=read, cache_write_tokens=written,
    )  # fmt: skip


class OpenAIChatPort(SDKPort):
    """A model behind the Chat Completions API, OpenAI's or any other's. See `SDKPort`."""

    KIND = KIND
    SDK = "openai"
    FACTORY = "AsyncOpenAI"
    KEY_VARIABLES = ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY")
    ASSEMBLY = ChatAssembly
    STREAMED = MappingProxyType({"stream_options": {"include_usage": True}})
    RESOURCE = "chat.completions"
    body_of = staticmethod(body_of)
    result_of = staticmethod(result_of)
