"""OpenAI Responses: `POST /v1/responses`, plain and streamed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from harness.sessions.mock_model.answering import Answer, ToolCall, pieces, slices
from harness.sessions.mock_model.asking import Asked, Malformed, Said, Speaker, Tool, by_user, offered
from harness.sessions.mock_model.openai_errors import code, refusal
from harness.sessions.mock_model.script import Failure
from harness.sessions.mock_model.wire import Json, Wire, failure_message, frame

_INCOMPLETE = {"length": "max_output_tokens", "refusal": "content_filter"}


class _Part(msgspec.Struct):
    text: str | None = None


class _Declared(msgspec.Struct):
    type: str = "function"
    name: str = ""
    parameters: dict[str, Any] | None = None
    tools: list[_Declared] = []


class _Item(msgspec.Struct):
    type: str = "message"
    role: str = ""
    content: msgspec.Raw = msgspec.Raw(b"null")
    tools: list[_Declared] = []


class _Format(msgspec.Struct):
    schema: dict[str, Any] | None = None


class _Text(msgspec.Struct):
    format: _Format | None = None


class _Body(msgspec.Struct):
    model: str
    input: str | list[_Item] = ""
    stream: bool | None = False
    tools: list[_Declared] | None = None
    text: _Text | None = None


_BODY = msgspec.json.Decoder(_Body)
_CONTENT = msgspec.json.Decoder(str | list[_Part] | None)


def _read(body: bytes) -> Asked:
    try:
        parsed = _BODY.decode(body)
        items = parsed.input if isinstance(parsed.input, list) else []
        said = tuple(entry for item in items for entry in _entries(item))
    except msgspec.DecodeError as problem:
        raise Malformed(str(problem)) from problem
    declared = [*(parsed.tools or ()), *(tool for item in items for tool in item.tools)]
    wanted = parsed.text.format if parsed.text else None
    return Asked(
        model=parsed.model,
        stream=bool(parsed.stream),
        said=said if not isinstance(parsed.input, str) else (by_user(parsed.input),),
        tools=offered(_tools(declared)),
        answer_schema=wanted.schema if wanted else None,
    )


def _entries(item: _Item) -> list[Said]:
    if item.type == "message" and item.role == "user":
        content = _CONTENT.decode(item.content)
        return [by_user(content)] if isinstance(content, str) else [by_user(part.text) for part in content or ()]
    if item.type.endswith("_output"):
        return [Said(Speaker.TOOL)]
    if item.type.endswith("_call") or item.type == "reasoning" or item.role == "assistant":
        return [Said(Speaker.MODEL)]
    return []


def _tools(declared: Iterable[_Declared], namespace: str = "") -> Iterator[Tool]:
    for tool in declared:
        match tool.type:
            case "namespace":
                yield from _tools(tool.tools, tool.name)
            case "local_shell":
                yield Tool(name="local_shell", kind="local_shell")
            case "function" | "custom":
                yield Tool(name=tool.name, kind=tool.type, schema=tool.parameters or {}, namespace=namespace)
            case _:  # run by the provider itself, such as a search of the web
                pass


def _items(answer: Answer) -> list[Json]:
    items: list[Json] = []
    if answer.thinking:
        thought = {"type": "summary_text", "text": answer.thinking}
        items.append({"type": "reasoning", "id": f"rs_{answer.id}", "summary": [thought], "encrypted_content": None})
    if answer.text:
        part: Json = {"type": "output_text", "text": answer.text, "annotations": []}
        head = {"type": "message", "id": f"msg_{answer.id}", "status": "completed", "role": "assistant"}
        items.append({**head, "content": [part]})
    return items + [_call(call) for call in answer.calls]


def _call(call: ToolCall) -> Json:
    head: Json = {"id": f"fc_{call.id}", "call_id": f"call_{call.id}", "status": "completed"}
    if call.namespace:
        head["namespace"] = call.namespace
    match call.kind:
        case "custom":
            return {**head, "type": "custom_tool_call", "name": call.name, "input": call.text}
        case "local_shell":
            argv = call.arguments.get("command") if not isinstance(call.arguments, str) else call.arguments
            return {**head, "type": "local_shell_call", "action": {"type": "exec", "command": argv, "env": {}}}
        case _:
            return {**head, "type": "function_call", "name": call.name, "arguments": call.text}


def _usage(answer: Answer) -> Json:
    return {
        "input_tokens": answer.all_input_tokens,
        "input_tokens_details": {"cached_tokens": answer.cache_read_tokens},
        "output_tokens": answer.output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": answer.all_input_tokens + answer.output_tokens,
    }


def _response(answer: Answer, status: str, items: list[Json]) -> Json:
    return {
        "id": f"resp_{answer.id}",
        "object": "response",
        "created_at": answer.at,
        "status": status,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "model": answer.model,
        "output": items,
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "usage": None,
    }


def _whole(answer: Answer) -> Json:
    reason = _INCOMPLETE.get(answer.stop, answer.stop)
    done = {**_response(answer, "incomplete" if reason else "completed", _items(answer)), "usage": _usage(answer)}
    return {**done, "incomplete_details": {"reason": reason}} if reason else done


def _stream(answer: Answer) -> Iterator[bytes]:
    for number, event in enumerate(_events(answer)):
        yield frame({**event, "sequence_number": number}, event=event["type"])


def _events(answer: Answer) -> Iterator[Json]:
    begun = _response(answer, "in_progress", [])
    yield {"type": "response.created", "response": begun}
    yield {"type": "response.in_progress", "response": begun}
    for index, item in enumerate(_items(answer)):
        at = {"item_id": item["id"], "output_index": index}
        opened, within = _opened(item, at)
        yield {"type": "response.output_item.added", "output_index": index, "item": opened}
        yield from within
        yield {"type": "response.output_item.done", "output_index": index, "item": item}
    done = _whole(answer)
    yield {"type": f"response.{done['status']}", "response": done}


def _opened(item: Json, at: Json) -> tuple[Json, Iterator[Json]]:
    """An item as it begins, and the events that make it whole."""
    match item["type"]:
        case "message":
            return {**item, "content": [], "status": "in_progress"}, _texts(item["content"][0], at)
        case "reasoning":
            return {**item, "summary": []}, _thoughts(item["summary"][0], at)
        case "function_call":
            within = _arguments(item["arguments"], at, "response.function_call_arguments", "arguments")
            return {**item, "arguments": "", "status": "in_progress"}, within
        case "custom_tool_call":
            within = _arguments(item["input"], at, "response.custom_tool_call_input", "input")
            return {**item, "input": "", "status": "in_progress"}, within
        case _:
            return {**item, "status": "in_progress"}, iter(())


def _texts(part: Json, at: Json) -> Iterator[Json]:
    place = {**at, "content_index": 0}
    yield {"type": "response.content_part.added", **place, "part": {**part, "text": ""}}
    for piece in pieces(part["text"]):
        yield {"type": "response.output_text.delta", **place, "delta": piece, "logprobs": []}
    yield {"type": "response.output_text.done", **place, "text": part["text"], "logprobs": []}
    yield {"type": "response.content_part.done", **place, "part": part}


def _thoughts(part: Json, at: Json) -> Iterator[Json]:
    place = {**at, "summary_index": 0}
    yield {"type": "response.reasoning_summary_part.added", **place, "part": {**part, "text": ""}}
    for piece in pieces(part["text"]):
        yield {"type": "response.reasoning_summary_text.delta", **place, "delta": piece}
    yield {"type": "response.reasoning_summary_text.done", **place, "text": part["text"]}
    yield {"type": "response.reasoning_summary_part.done", **place, "part": part}


def _arguments(text: str, at: Json, event: str, key: str) -> Iterator[Json]:
    for part in slices(text):
        yield {"type": f"{event}.delta", **at, "delta": part}
    yield {"type": f"{event}.done", **at, key: text}


def _broken(answer: Answer, failure: Failure, sent: int) -> bytes:
    """A response that fails while it is made is not an error of the request: it has an event of its own."""
    error = {"code": code(failure) or "server_error", "message": failure_message(failure)}
    failed = {**_response(answer, "failed", []), "error": error}
    return frame({"type": "response.failed", "sequence_number": sent, "response": failed}, event="response.failed")


RESPONSES = Wire(name="responses", read=_read, whole=_whole, stream=_stream, refusal=refusal, broken=_broken)
