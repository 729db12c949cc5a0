"""Anthropic Messages: `POST /v1/messages`, plain and streamed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from harness.sessions.mock_model.answering import Answer, pieces, slices
from harness.sessions.mock_model.asking import Asked, Malformed, Said, Speaker, Tool, by_user, offered
from harness.sessions.mock_model.script import Failure
from harness.sessions.mock_model.wire import Json, Wire, failure_message, frame

_ERROR_TYPES = {
    400: "invalid_request_error", 401: "authentication_error", 402: "billing_error", 403: "permission_error",
    404: "not_found_error", 413: "request_too_large", 429: "rate_limit_error", 504: "timeout_error", 529: "overloaded_error",
}  # fmt: skip
_STOPS = {"length": "max_tokens"}
_SIGNATURE = "c2NyaXB0ZWQ="


class _Block(msgspec.Struct):
    type: str = "text"
    text: str | None = None


class _Message(msgspec.Struct):
    role: str
    content: msgspec.Raw = msgspec.Raw(b'""')


class _Tool(msgspec.Struct):
    name: str = ""
    input_schema: dict[str, Any] = {}


class _Format(msgspec.Struct):
    schema: dict[str, Any] | None = None


class _OutputConfig(msgspec.Struct):
    format: _Format | None = None


class _Body(msgspec.Struct):
    model: str
    messages: list[_Message]
    stream: bool | None = False
    tools: list[_Tool] | None = None
    output_config: _OutputConfig | None = None
    output_format: _Format | None = None


_BODY = msgspec.json.Decoder(_Body)
_CONTENT = msgspec.json.Decoder(str | list[_Block])


def _read(body: bytes) -> Asked:
    try:
        parsed = _BODY.decode(body)
        said = tuple(entry for message in parsed.messages for entry in _entries(message))
    except msgspec.DecodeError as problem:
        raise Malformed(str(problem)) from problem
    wanted = (parsed.output_config.format if parsed.output_config else None) or parsed.output_format
    return Asked(
        model=parsed.model,
        stream=bool(parsed.stream),
        said=said,
        tools=offered(Tool(name=tool.name, schema=tool.input_schema) for tool in parsed.tools or ()),
        answer_schema=wanted.schema if wanted else None,
    )


def _entries(message: _Message) -> list[Said]:
    if message.role == "assistant":
        return [Said(Speaker.MODEL)]
    if message.role != "user":  # a system message within the conversation
        return []
    content = _CONTENT.decode(message.content)
    if isinstance(content, str):
        return [by_user(content)]
    results = [Said(Speaker.TOOL) for block in content if block.type == "tool_result"]
    return results + [by_user(block.text) for block in content if block.type == "text"]


def _content(answer: Answer) -> list[Json]:
    blocks: list[Json] = []
    if answer.thinking:
        blocks.append({"type": "thinking", "thinking": answer.thinking, "signature": _SIGNATURE})
    if answer.text:
        blocks.append({"type": "text", "text": answer.text})
    for call in answer.calls:
        blocks.append({"type": "tool_use", "id": f"toolu_{call.id}", "name": call.name, "input": call.arguments})
    return blocks


def _usage(answer: Answer) -> Json:
    return {
        "input_tokens": answer.input_tokens,
        "cache_creation_input_tokens": answer.cache_write_tokens,
        "cache_read_input_tokens": answer.cache_read_tokens,
        "output_tokens": answer.output_tokens,
    }


def _whole(answer: Answer) -> Json:
    return {
        "id": f"msg_{answer.id}",
        "type": "message",
        "role": "assistant",
        "model": answer.model,
        "content": _content(answer),
        "stop_reason": _STOPS.get(answer.stop, answer.stop) or ("tool_use" if answer.calls else "end_turn"),
        "stop_sequence": None,
        "usage": _usage(answer),
    }


def _stream(answer: Answer) -> Iterator[bytes]:
    message = _whole(answer)
    begun: Json = {**message, "content": [], "stop_reason": None, "usage": {**_usage(answer), "output_tokens": 1}}
    yield _event("message_start", message=begun)
    yield _event("ping")
    for index, block in enumerate(message["content"]):
        empty, deltas = _opened(block)
        yield _event("content_block_start", index=index, content_block=empty)
        for delta in deltas:
            yield _event("content_block_delta", index=index, delta=delta)
        yield _event("content_block_stop", index=index)
    ended = {"stop_reason": message["stop_reason"], "stop_sequence": None}
    yield _event("message_delta", delta=ended, usage=_usage(answer))
    yield _event("message_stop")


def _opened(block: Json) -> tuple[Json, list[Json]]:
    """A block as it begins, and what makes it whole."""
    match block["type"]:
        case "text":
            return {**block, "text": ""}, [{"type": "text_delta", "text": piece} for piece in pieces(block["text"])]
        case "thinking":
            thoughts = [{"type": "thinking_delta", "thinking": piece} for piece in pieces(block["thinking"])]
            return {**block, "thinking": "", "signature": ""}, [
                *thoughts,
                {"type": "signature_delta", "signature": block["signature"]},
            ]
        case _:
            given = block["input"]
            text = given if isinstance(given, str) else msgspec.json.encode(given).decode()
            parts = ["", *slices(text)]  # the first one is empty, as the real ones are
            return {**block, "input": {}}, [{"type": "input_json_delta", "partial_json": part} for part in parts]


def _event(kind: str, **fields: Any) -> bytes:
    return frame({"type": kind, **fields}, event=kind)


def _refusal(failure: Failure) -> Json:
    kind = failure.type or _ERROR_TYPES.get(failure.status) or ("api_error" if failure.status >= 500 else _ERROR_TYPES[400])
    return {"type": "error", "error": {"type": kind, "message": failure_message(failure)}}


def _broken(answer: Answer, failure: Failure, sent: int) -> bytes:
    del answer, sent
    return frame(_refusal(failure), event="error")


ANTHROPIC = Wire(name="anthropic", read=_read, whole=_whole, stream=_stream, refusal=_refusal, broken=_broken)
