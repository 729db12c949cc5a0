"""What the model reads: the conversation of one agent, which only ever grows at its end. Pure.

Appending only is what keeps a turn cheap: the ledger records what is new, the provider caches what is not.
Everything here depends on recorded values alone, so a conversation that is built again is the same one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from harness.kernel import Message, ToolCall

_SHORTENED = "\n… [{left} of {all} characters left out] …\n"


def opening(system_prompt: str, prompt: str) -> list[Message]:
    """How a conversation begins."""
    return [*([Message.system(system_prompt)] if system_prompt else []), Message.user(prompt)]


def said(message: Message, turn: int) -> Message:
    """The assistant's message with an id on every tool call: some servers give none, or the same one twice."""
    ids = [call.id for call in message.tool_calls]
    if all(ids) and len(set(ids)) == len(ids):
        return message
    calls = [msgspec.structs.replace(call, id=f"call-{turn}-{n}") for n, call in enumerate(message.tool_calls, 1)]
    return msgspec.structs.replace(message, tool_calls=tuple(calls), native=None)


def tool_result(call: ToolCall, result_json: str, limit: int) -> Message:
    """What a tool gave, as the model reads it: a text as itself, anything else as JSON, too much without its middle."""
    value: Any = msgspec.json.decode(result_json)
    return Message.tool(call, shortened(value if isinstance(value, str) else result_json, limit))


def tool_error(call: ToolCall, error: Exception, limit: int) -> Message:
    """Why a tool gave nothing, so that the model can do something about it."""
    return Message.tool(call, shortened(f"error: {error}", limit), is_error=True)


def unusable(error: Exception, limit: int) -> Message:
    """What to say to a model whose answer did not fit."""
    return Message.user(shortened(f"Your answer could not be used: {error}\nAnswer again, as it was asked for.", limit))


def shortened(text: str, limit: int) -> str:
    """The text, or its first and last part if it is longer than `limit` characters."""
    if len(text) <= limit:
        return text
    head, tail = limit - limit // 4, limit // 4
    return text[:head] + _SHORTENED.format(left=len(text) - head - tail, all=len(text)) + (text[-tail:] if tail else "")


def spoken(messages: Sequence[Message]) -> str:
    """The newest text that the assistant wrote."""
    return next((message.text for message in reversed(messages) if message.role == "assistant" and message.text), "")
