"""OpenAI's Responses API: a request as its JSON body, its answer as a result.

Reference: https://developers.openai.com/api/reference/resources/responses. Nothing is stored at the provider
(`store: false`), so the conversation travels whole; a reasoning model's encrypted reasoning travels in `native`.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from harness.errors import ModelError, ModelUnavailable
from harness.kernel.ports import Message, ModelRequest, ModelResult, Native, StopReason, ToolCall, Usage
from harness.kernel.providers.assembling import ResponsesAssembly
from harness.kernel.providers.calling import (
    answered,
    asked_target,
    decoded,
    one_line,
    refuse_options,
)
from harness.kernel.providers.sdk_port import SDKPort

KIND = "openai"
_REASONS = re.compile(r"(?:o\d|gpt-(?:[5-9]|\d\d))")  # others refuse to be asked for encrypted reasoning
_PASSING = frozenset({"server_error", "rate_limit_exceeded", "vector_store_timeout"})


class _Part(msgspec.Struct):
    type: str = ""
    text: str = ""
    refusal: str = ""


class _Item(msgspec.Struct):
    type: str
    content: list[_Part] | None = None
    call_id: str = ""
    name: str = ""
    arguments: str = ""
    encrypted_content: str | None = None


class _CachedTokens(msgspec.Struct):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None


class _Usage(msgspec.Struct):
    input_tokens: int = 0
    output_tokens: int = 0
    input_tokens_details: _CachedTokens | None = None


class _Error(msgspec.Struct):
    code: str | None = None
    message: str = ""


class _Incomplete(msgspec.Struct):
    reason: str | None = None


class _Answer(msgspec.Struct):
    output: list[dict[str, Any]]
    model: str = ""
    status: str | None = None
    error: _Error | None = None
    incomplete_details: _Incomplete | None = None
    usage: _Usage | None = None


def body_of(request: ModelRequest, model: str) -> dict[str, Any]:
    """The call's JSON body. Raises `ModelError` for what this API cannot be asked."""
    refuse_options(request, KIND, "seed", "stop")
    options = request.options
    body: dict[str, Any] = {
        "model": model,
        "input": [item for message in request.messages for item in _items(message)],
        "store": False,
    }
    if request.allowed_tools:
        body["tools"] = [
            {"type": "function", "name": tool.name, "description": tool.description,
             "parameters": dict(tool.input_schema), "strict": False}
            for tool in request.allowed_tools
        ]  # fmt: skip
    asked = asked_target(request.output_schema)
    if asked is not None:
        body["text"] = {"format": {"type": "json_schema", "name": "answer", "schema": asked.schema, "strict": asked.strict}}
    if options.temperature is not None:
        body["temperature"] = options.temperature
    if options.top_p is not None:
        body["top_p"] = options.top_p
    if options.max_tokens is not None:
        body["max_output_tokens"] = options.max_tokens
    if options.reasoning_effort is not None:
        body["reasoning"] = {"effort": options.reasoning_effort}
    if _REASONS.match(model) or options.reasoning_effort not in (None, "none"):
        body["include"] = ["reasoning.encrypted_content"]
    return body


def _items(message: Message) -> list[dict[str, Any]]:
    match message.role:
        case "assistant" if message.native is not None and message.native.provider == KIND:
            return [dict(block) for block in message.native.blocks]
        case "assistant":
            said = [{"role": "assistant", "content": message.text}] if message.text else []
            calls = [
                {"type": "function_call", "call_id": call.id, "name": call.name, "arguments": call.arguments_json}
                for call in message.tool_calls
            ]
            return [*said, *calls]
        case "tool":
            return [{"type": "function_call_output", "call_id": message.tool_call_id, "output": message.text}]
        case "system" | "user":
            return [{"role": message.role, "content": message.text}]


def result_of(body: bytes, request: ModelRequest) -> ModelResult:
    """The answer's bytes as a result. Raises `ModelMalformed`, or what the provider failed with."""
    answer = decoded(body, _Answer, KIND)
    if answer.status in ("failed", "cancelled"):
        raise _failure(answer)
    items = decoded(msgspec.json.encode(answer.output), list[_Item], KIND)
    parts = [part for item in items if item.type == "message" for part in item.content or ()]
    refusal = "".join(part.refusal for part in parts)
    calls = [
        ToolCall(id=item.call_id, name=item.name, arguments_json=item.arguments)
        for item in items
        if item.type == "function_call"
    ]
    return answered(
        request,
        kind=KIND,
        text="".join(part.text for part in parts if part.type == "output_text") or refusal,
        tool_calls=calls,
        stop_reason=_stop_reason(answer, calls, refusal),
        usage=_usage(answer.usage),
        model=answer.model,
        native=_native(items, answer.output),
    )


def _failure(answer: _Answer) -> ModelError:
    error = answer.error or _Error()
    text = one_line(f"{KIND} failed: {error.code or answer.status}: {error.message}")
    return ModelUnavailable(text) if error.code in _PASSING else ModelError(text)


def _stop_reason(answer: _Answer, calls: list[ToolCall], refusal: str) -> StopReason:
    if answer.status == "incomplete":
        reason = answer.incomplete_details.reason if answer.incomplete_details else None
        return "max_tokens" if reason == "max_output_tokens" else "refusal" if reason == "content_filter" else "other"
    return "tool_calls" if calls else "refusal" if refusal else "end"


def _usage(used: _Usage | None) -> Usage:
    if used is None:
        return Usage()
    details = used.input_tokens_details or _CachedTokens()
    read, written = details.cached_tokens or 0, details.cache_write_tokens or 0
    return Usage(
        input_tokens=max(0, used.input_tokens - read - written), output_tokens=used.output_tokens,
        cache_read_tokens=read, cache_write_tokens=written,
    )  # fmt: skip


def _native(items: list[_Item], output: list[dict[str, Any]]) -> Native | None:
    """The items to send back, if there is reasoning among them that the provider can read again."""
    if not any(item.type == "reasoning" and item.encrypted_content for item in items):
        return None
    kept = [raw for item, raw in zip(items, output, strict=True) if item.type != "reasoning" or item.encrypted_content]
    return Native(provider=KIND, blocks=tuple(kept))


class OpenAIResponsesPort(SDKPort):
    """A model of OpenAI's, or of any server that speaks its Responses API. See `SDKPort`."""

    KIND = KIND
    SDK = "openai"
    FACTORY = "AsyncOpenAI"
    KEY_VARIABLES = ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY")
    ASSEMBLY = ResponsesAssembly
    RESOURCE = "responses"
    body_of = staticmethod(body_of)
    result_of = staticmethod(result_of)
