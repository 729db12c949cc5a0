"""Streaming providers over the wire: the official SDKs against the scripted model API and against broken streams."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from typing import Any

import anyio
import anyio.abc
import msgspec
import pytest
from pydantic import BaseModel

from harness.errors import ModelError, ModelMalformed, ModelUnavailable
from harness.kernel.ports import Message, ModelCallOptions, ModelRequest, ModelResult, ToolDefinition
from harness.kernel.providers.assembling import ChatAssembly, MessagesAssembly, ResponsesAssembly

READ = ToolDefinition(
    name="read_log",
    description="Read the log of a service",
    input_schema={"type": "object", "properties": {"service": {"type": "string"}}, "required": ["service"]},
)


def key() -> str:
    """The key that `connect` has set, and that nobody may read anywhere."""
    return os.environ["OPENAI_API_KEY"]


class Verdict(BaseModel):
    healthy: bool
    reason: str


def ask(*messages: Message, **fields: Any) -> ModelRequest:
    start = (Message.system("Be brief."), Message.user("Is it up?"))
    return ModelRequest(model="default", messages=(*start, *messages), **fields)


async def streamed(port: Any, request: ModelRequest) -> tuple[list[str], ModelResult]:
    """The pieces and the result, which comes last."""
    parts = [part async for part in port.stream(request)]
    assert all(isinstance(part, str) for part in parts[:-1])
    return parts[:-1], parts[-1]


def same(turn: dict[str, Any]) -> dict[str, Any]:
    return {"side": "main", "turns": [turn, turn]}


TURNS: list[dict[str, Any]] = [
    {"text": "It is up, and has been.", "usage": {"input": 40, "output": 7, "cache_read": 10}},
    {"text": "Cut", "stop": "max_tokens"},
    {"thinking": "hm", "text": "Let me look.", "tools": [{"tool": "read_log", "input": {"service": "db"}}]},
    {"tools": [{"tool": "read_log", "input": {"service": "a"}}, {"tool": "read_log", "input": {"service": "b"}}]},
]


@pytest.mark.parametrize("turn", TURNS, ids=("text", "cut", "thinking-and-tool", "tools"))
async def test_a_stream_ends_in_what_the_call_would_have_given(
    kind: str, api: Any, connect: Callable[[str], Any], turn: dict[str, Any]
) -> None:
    """Text, tool calls, usage and the provider's own blocks are those of an answer that is not streamed."""
    if kind != "anthropic" and "stop" in turn:
        turn = {**turn, "stop": "length" if kind == "openai-chat" else "incomplete"}
    api.set_script(same(turn))
    port = connect(api.url)

    whole = await port.complete(ask(allowed_tools=(READ,)))
    pieces, result = await streamed(port, ask(allowed_tools=(READ,)))

    assert "".join(pieces) == result.text
    plain = msgspec.structs.replace
    names = [(call.name, call.arguments()) for call in result.tool_calls]
    assert names == [(call.name, call.arguments()) for call in whole.tool_calls]
    strip = {"tool_calls": (), "native": None}
    assert plain(result, **strip) == plain(whole, **strip)
    assert (result.native is None) == (whole.native is None)
    assert api.requests[-1]["body"]["stream"] is True


async def test_text_comes_before_the_answer_is_complete(api: Any, connect: Callable[[str], Any]) -> None:
    """A reader does not wait for the end."""
    api.set_script({"side": "main", "turns": [{"text": "one two three four", "chunk_delay": 0.05}]})

    async with asyncio.timeout(30):
        pieces, result = await streamed(connect(api.url), ask())

    assert len(pieces) > 1
    assert result.text == "one two three four"


async def test_a_structured_answer_streams_as_json(api: Any, connect: Callable[[str], Any]) -> None:
    """The text is the JSON, the result has the value."""
    api.set_script({"side": "main", "turns": [{"text": '{"healthy": false, "reason": "refused"}'}]})

    pieces, result = await streamed(connect(api.url), ask(output_schema=Verdict))

    assert json.loads("".join(pieces)) == result.output == {"healthy": False, "reason": "refused"}


@pytest.mark.parametrize("status", [429, 529])
async def test_overload_is_unavailable(api: Any, connect: Callable[[str], Any], status: int) -> None:
    """A refusal before the stream begins is as without streaming, and made once."""
    api.set_script({"side": "main", "default": {"error": status, "message": "later", "headers": {"retry-after": "7"}}})

    with pytest.raises(ModelUnavailable, match=f"answered {status}: later") as caught:
        await streamed(connect(api.url), ask())

    assert caught.value.retry_after_seconds == 7.0
    assert len(api.requests) == 1


async def test_a_refused_key_is_not_shown(api: Any, connect: Callable[[str], Any]) -> None:
    """As without streaming."""
    api.set_script({"side": "main", "default": {"error": 401, "message": f"bad key {key()}"}})

    with pytest.raises(ModelError, match="refused the key") as caught:
        await streamed(connect(api.url), ask())

    assert "sk-" not in str(caught.value)


async def test_an_error_in_the_middle_is_told(api: Any, connect: Callable[[str], Any]) -> None:
    """What was said before is worth nothing, and the error is one of ours, in one line."""
    api.set_script({"side": "main", "turns": [{"text": "It is", "error_midstream": True}]})

    with pytest.raises(ModelError) as caught:
        await streamed(connect(api.url), ask())

    assert "\n" not in str(caught.value)


async def test_a_cut_connection_is_unavailable(api: Any, connect: Callable[[str], Any]) -> None:
    """An answer that breaks off is no answer."""
    api.set_script({"side": "main", "turns": [{"text": "It is", "disconnect": True}]})

    with pytest.raises(ModelUnavailable, match="broke off"):
        await streamed(connect(api.url), ask())


async def test_a_hang_ends_at_the_timeout(api: Any, connect: Callable[[str], Any]) -> None:
    """The time limit is for the whole answer."""
    api.set_script({"side": "main", "turns": [{"text": "warm"}, {"hold": "never"}]})
    port = connect(api.url)
    await streamed(port, ask())

    async with asyncio.timeout(30):
        with pytest.raises(ModelUnavailable, match=r"did not answer within 0\.3 s"):
            await streamed(port, ask(options=ModelCallOptions(timeout=0.3)))

    api.release("never")


async def test_leaving_a_stream_ends_the_call(api: Any, connect: Callable[[str], Any]) -> None:
    """A reader that has enough closes the connection, and the port can be used again."""
    api.set_script({"side": "main", "turns": [{"text": "one two three", "chunk_delay": 0.02}, {"text": "next"}]})
    port = connect(api.url)
    parts = port.stream(ask())

    async with asyncio.timeout(30):
        await anext(parts)
        await parts.aclose()
        _, result = await streamed(port, ask())

    assert result.text == "next"


@pytest.mark.parametrize(
    "body", [b"data: {\n\n", b'data: {"type": "content_block_delta"}\n\n', b"data: [1]\n\n", b"", b"hello"]
)
async def test_what_is_no_protocol_is_refused_in_one_line(connect: Callable[[str], Any], body: bytes) -> None:
    """A server that talks nonsense gives an error of ours, whatever it says."""

    async def serve(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.receive()
            head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
            await stream.send(head + body)

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, serve)
        with pytest.raises(ModelError) as caught:
            await streamed(connect(f"http://127.0.0.1:{port}"), ask())
        tasks.cancel_scope.cancel()
    await listener.aclose()

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("assembly", [MessagesAssembly, ResponsesAssembly, ChatAssembly])
@pytest.mark.parametrize("data", [b"{", b"[1]", b"\xff", b'"x"'])
def test_an_event_that_is_no_json_object_is_malformed(assembly: Any, data: bytes) -> None:
    """Named with how it begins."""
    with pytest.raises(ModelMalformed, match="not its protocol"):
        assembly("k").take(data)
