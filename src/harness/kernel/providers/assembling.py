"""Putting a streamed answer together again: from a provider's events to the body it would have sent at once. Pure.

What is read of that body, and how, stays with the dialect; the text is given piece by piece as the events come.
References: https://platform.claude.com/docs/en/build-with-claude/streaming,
https://developers.openai.com/api/reference/resources/responses/streaming-events and …/resources/chat.
"""

from __future__ import annotations

from typing import Any, cast

import msgspec

from harness.errors import ModelError, ModelMalformed, ModelUnavailable
from harness.kernel.providers.calling import one_line

_PASSING = frozenset(
    {
        "overloaded_error", "api_error", "rate_limit_error", "timeout_error", "server_error", "rate_limit_exceeded",
        "internal_error", "service_unavailable",
    }
)  # fmt: skip


def _decoded(data: bytes, kind: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(data, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        start = data[:60].decode("utf-8", "replace")
        raise ModelMalformed(one_line(f"{kind} streamed what is not its protocol ({error}): {start!r}")) from error


def _failure(kind: str, told: Any) -> ModelError:
    fields = cast("dict[str, Any]", told) if isinstance(told, dict) else {}
    name = str(fields.get("code") or fields.get("type") or "error")
    text = one_line(f"{kind} failed while it answered: {name}: {fields.get('message') or ''}")
    return ModelUnavailable(text) if name in _PASSING or str(fields.get("type")) in _PASSING else ModelError(text)


def _broken_off(kind: str) -> ModelUnavailable:
    return ModelUnavailable(f"{kind}: the answer broke off before its end")


class MessagesAssembly:
    """An answer of Anthropic's Messages API."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._message: dict[str, Any] = {}
        self._blocks: dict[int, dict[str, Any]] = {}
        self._inputs: dict[int, str] = {}
        self._over = False

    def take(self, data: bytes) -> str:
        """The next event's data. Gives the text it adds. Raises `ModelError` for a failure that it tells of."""
        event = _decoded(data, self._kind)
        try:
            return self._taken(event)
        except (KeyError, TypeError, AttributeError) as error:
            raise ModelMalformed(one_line(f"{self._kind} streamed what is not its protocol: {data[:80]!r}")) from error

    def _taken(self, event: dict[str, Any]) -> str:
        match event.get("type"):
            case "message_start":
                self._message = dict(event["message"])
            case "content_block_start":
                self._blocks[event["index"]] = dict(event["content_block"])
                return str(event["content_block"].get("text", "")) if event["content_block"].get("type") == "text" else ""
            case "content_block_delta":
                return self._delta(event["index"], event["delta"])
            case "message_delta":
                self._message.update(event["delta"])
                given: dict[str, Any] = event.get("usage") or {}
                used = {name: count for name, count in given.items() if count is not None}
                self._message["usage"] = {**(self._message.get("usage") or {}), **used}
            case "message_stop":
                self._over = True
            case "error":
                raise _failure(self._kind, event.get("error"))
            case _:
                pass
        return ""

    def _delta(self, index: int, delta: dict[str, Any]) -> str:
        block = self._blocks[index]
        match delta.get("type"):
            case "text_delta":
                block["text"] = block.get("text", "") + delta["text"]
                return str(delta["text"])
            case "thinking_delta":
                block["thinking"] = block.get("thinking", "") + delta["thinking"]
            case "signature_delta":
                block["signature"] = block.get("signature", "") + delta["signature"]
            case "input_json_delta":
                self._inputs[index] = self._inputs.get(index, "") + delta["partial_json"]
            case _:
                pass
        return ""

    def body(self) -> bytes:
        """The whole answer. Raises `ModelUnavailable` if it broke off."""
        if not self._over:
            raise _broken_off(self._kind)
        for index, text in self._inputs.items():
            try:
                self._blocks[index]["input"] = msgspec.json.decode(text or "{}")
            except msgspec.DecodeError:  # cut off at max_tokens: no input that could be used
                self._blocks[index]["input"] = {}
        return msgspec.json.encode({**self._message, "content": [self._blocks[index] for index in sorted(self._blocks)]})


class ResponsesAssembly:
    """An answer of OpenAI's Responses API, whose last event holds all of it."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._response: Any = None

    def take(self, data: bytes) -> str:
        event = _decoded(data, self._kind)
        match event.get("type"):
            case "response.output_text.delta":
                return str(event.get("delta", ""))
            case "response.completed" | "response.incomplete" | "response.failed" | "response.cancelled":
                self._response = event.get("response")
            case "error":
                raise _failure(self._kind, event.get("error") or event)
            case _:
                pass
        return ""

    def body(self) -> bytes:
        if self._response is None:
            raise _broken_off(self._kind)
        return msgspec.json.encode(self._response)


class ChatAssembly:
    """An answer of the Chat Completions API."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._said: dict[str, str] = {}
        self._calls: dict[int, dict[str, str]] = {}
        self._finish: str | None = None
        self._rest: dict[str, Any] = {}

    def take(self, data: bytes) -> str:
        if data.strip() == b"[DONE]":
            return ""
        chunk = _decoded(data, self._kind)
        if chunk.get("error"):
            raise _failure(self._kind, chunk["error"])
        for name in ("model", "usage"):
            if chunk.get(name):
                self._rest[name] = chunk[name]
        try:
            return "".join(self._choice(choice) for choice in chunk.get("choices") or () if not choice.get("index"))
        except (KeyError, TypeError, AttributeError) as error:
            raise ModelMalformed(one_line(f"{self._kind} streamed what is not its protocol: {data[:80]!r}")) from error

    def _choice(self, choice: dict[str, Any]) -> str:
        self._finish = choice.get("finish_reason") or self._finish
        delta: dict[str, Any] = choice.get("delta") or {}
        for name in ("content", "refusal"):
            if delta.get(name):
                self._said[name] = self._said.get(name, "") + delta[name]
        for piece in delta.get("tool_calls") or ():
            call = self._calls.setdefault(piece.get("index", 0), {"id": "", "name": "", "arguments": ""})
            call["id"] = piece.get("id") or call["id"]
            function: dict[str, Any] = piece.get("function") or {}
            call["name"] += function.get("name") or ""
            call["arguments"] += function.get("arguments") or ""
        return str(delta.get("content") or "")

    def body(self) -> bytes:
        if self._finish is None:
            raise _broken_off(self._kind)
        message: dict[str, Any] = dict(self._said)
        if self._calls:
            message["tool_calls"] = [
                {"id": call["id"], "type": "function", "function": {"name": call["name"], "arguments": call["arguments"]}}
                for _, call in sorted(self._calls.items())
            ]
        return msgspec.json.encode({**self._rest, "choices": [{"message": message, "finish_reason": self._finish}]})
