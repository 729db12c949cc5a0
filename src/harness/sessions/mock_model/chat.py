"""OpenAI Chat Completions: `POST /v1/chat/completions`, plain and streamed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from harness.sessions.mock_model.answering import Answer, ToolCall, pieces, slices
from harness.sessions.mock_model.asking import Asked, Malformed, Said, Speaker, Tool, by_user, offered
from harness.sessions.mock_model.openai_errors import refusal
from harness.sessions.mock_model.script import Failure
from harness.sessions.mock_model.wire import Json, Wire, frame

_STOPS = {"refusal": "content_filter"}


class _Part(msgspec.Struct):
    text: str | None = None


class _Message(msgspec.Struct):
    role: str
    content: msgspec.Raw = msgspec.Raw(b"null")


class _Function(msgspec.Struct):
    name: str = ""
    parameters: dict[str, Any] | None = None


class _Tool(msgspec.Struct):
    type: str = "function"
    function: _Function | None = None
    custom: _Function | None = None


class _Schema(msgspec.Struct):
    schema: dict[str, Any] | None = None


class _Format(msgspec.Struct):
    type: str = "text"
    json_schema: _Schema | None = None


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = False


class _Body(msgspec.Struct):
    model: str
    messages: list[_Message]
    stream: bool | None = False
    stream_options: _StreamOptions | None = None
    tools: list[_Tool] | None = None
    response_format: _Format | None = None


_BODY = msgspec.json.Decoder(_Body)
_CONTENT = msgspec.json.Decoder(str | list[_Part] | None)


def _read(body: bytes) -> Asked:
    try:
        parsed = _BODY.decode(body)
        said = tuple(entry for message in parsed.messages for entry in _entries(message))
    except msgspec.DecodeError as problem:
        raise Malformed(str(problem)) from problem
    wanted = parsed.response_format
    return Asked(
        model=parsed.model,
        stream=bool(parsed.stream),
        said=said,
        tools=offered(map(_tool, parsed.tools or ())),
        answer_schema=wanted.json_schema.schema if wanted and wanted.json_schema else None,
        usage_in_stream=bool(parsed.stream_options and parsed.stream_options.include_usage),
    )


def _entries(message: _Message) -> list[Said]:
    match message.role:
        case "assistant":
            return [Said(Speaker.MODEL)]
        case "tool" | "function":
            return [Said(Speaker.TOOL)]
        case "user":
            content = _CONTENT.decode(message.content)
            return [by_user(content)] if isinstance(content, str) else [by_user(part.text) for part in content or ()]
        case _:
            return []


def _tool(tool: _Tool) -> Tool:
    said = tool.function or tool.custom or _Function()
    return Tool(name=said.name, kind=tool.type, schema=said.parameters or {})


def _call(call: ToolCall) -> Json:
    if call.kind == "custom":
        return {"id": f"call_{call.id}", "type": "custom", "custom": {"name": call.name, "input": call.text}}
    return {"id": f"call_{call.id}", "type": "function", "function": {"name": call.name, "arguments": call.text}}


def _usage(answer: Answer) -> Json:
    return {
        "prompt_tokens": answer.all_input_tokens,
        "completion_tokens": answer.output_tokens,
        "total_tokens": answer.all_input_tokens + answer.output_tokens,
        "prompt_tokens_details": {"cached_tokens": answer.cache_read_tokens},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


def _finish(answer: Answer) -> str:
    return _STOPS.get(answer.stop, answer.stop) or ("tool_calls" if answer.calls else "stop")


def _whole(answer: Answer) -> Json:
    message: Json = {"role": "assistant", "content": answer.text or None, "refusal": None}
    if answer.thinking:
        message["reasoning_content"] = answer.thinking
    if answer.calls:
        message["tool_calls"] = [_call(call) for call in answer.calls]
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _finish(answer)}
    return {**_head(answer, "chat.completion"), "choices": [choice], "usage": _usage(answer)}


def _head(answer: Answer, kind: str) -> Json:
    return {"id": f"chatcmpl-{answer.id}", "object": kind, "created": answer.at, "model": answer.model}


def _stream(answer: Answer) -> Iterator[bytes]:
    yield _chunk(answer, {"role": "assistant", "content": ""})
    for piece in pieces(answer.thinking):
        yield _chunk(answer, {"reasoning_content": piece})
    for piece in pieces(answer.text):
        yield _chunk(answer, {"content": piece})
    for index, call in enumerate(answer.calls):
        whole = _call(call)
        body, key = ("custom", "input") if call.kind == "custom" else ("function", "arguments")
        yield _chunk(answer, {"tool_calls": [{"index": index, **whole, body: {**whole[body], key: ""}}]})
        for part in slices(call.text):
            yield _chunk(answer, {"tool_calls": [{"index": index, body: {key: part}}]})
    yield _chunk(answer, {}, finish=_finish(answer))
    if answer.usage_in_stream:  # a chunk without choices, which only those expect who have asked for it
        yield frame({**_head(answer, "chat.completion.chunk"), "choices": [], "usage": _usage(answer)})
    yield frame(b"[DONE]")


def _chunk(answer: Answer, delta: Json, *, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return frame({**_head(answer, "chat.completion.chunk"), "choices": [choice]})


def _broken(answer: Answer, failure: Failure, sent: int) -> bytes:
    del answer, sent
    return frame(refusal(failure))


CHAT = Wire(name="chat", read=_read, whole=_whole, stream=_stream, refusal=refusal, broken=_broken)
