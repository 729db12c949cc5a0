"""Providers over the wire: the official SDKs against a scripted model API and against servers that misbehave."""

from __future__ import annotations

import json
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.abc
import pytest
from pydantic import BaseModel

from harness.errors import ModelError, ModelMalformed, ModelUnavailable, UsageError
from harness.kernel.ports import Message, ModelCallOptions, ModelPort, ModelRequest, ToolCall, ToolDefinition
from harness.kernel.providers import port_from

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


async def test_a_message_with_usage(api: Any, connect: Callable[[str], ModelPort]) -> None:
    """A text comes back with who said it, why it ended and what it cost; the instructions and the prompt were sent."""
    api.set_script({"side": "main", "turns": [{"text": "It is up.", "usage": {"input": 40, "output": 7, "cache_read": 10}}]})

    result = await connect(api.url).complete(ask())

    assert result.text == "It is up."
    assert result.output is None
    assert result.stop_reason == "end"
    assert result.model == "some-model"
    assert result.usage.output_tokens == 7
    assert result.usage.cache_read_tokens == 10
    assert result.usage.cost_usd is None
    sent = json.dumps(api.requests[-1]["body"])
    assert "Be brief." in sent
    assert "Is it up?" in sent
    assert "stream" not in sent


async def test_cached_tokens_are_counted_once(kind: str, api: Any, connect: Callable[[str], ModelPort]) -> None:
    """OpenAI counts cached tokens among the input, Anthropic beside it; the result never does both."""
    api.set_script({"side": "main", "turns": [{"text": "a", "usage": {"input": 40, "output": 1, "cache_read": 10}}]})

    usage = (await connect(api.url).complete(ask())).usage

    assert usage.input_tokens == (40 if kind == "anthropic" else 30)


async def test_a_tool_call_makes_the_round_trip(api: Any, connect: Callable[[str], ModelPort]) -> None:
    """The model asks for a tool, gets its result under the same id, and answers; a failure is a result too."""
    api.set_script({"turns": [
        {"text": "Let me look.", "thinking": "hm", "tool": "read_log", "input": {"service": "db"}},
        {"tools": [{"tool": "read_log", "input": {"service": "a"}}, {"tool": "read_log", "input": {"service": "b"}}]},
        {"text": "It is down."},
    ]})  # fmt: skip
    port = connect(api.url)

    first = await port.complete(ask(allowed_tools=(READ,)))
    call = first.tool_calls[0]
    history = [first.message(), Message.tool(call, "connection refused", is_error=True)]
    second = await port.complete(ask(*history, allowed_tools=(READ,)))
    history += [second.message(), *(Message.tool(c, f"log {c.arguments()['service']}") for c in second.tool_calls)]
    third = await port.complete(ask(*history, allowed_tools=(READ,)))

    assert first.stop_reason == "tool_calls"
    assert first.text == "Let me look."
    assert (call.name, call.arguments()) == ("read_log", {"service": "db"})
    assert [c.arguments()["service"] for c in second.tool_calls] == ["a", "b"]
    assert third.text == "It is down."
    assert third.tool_calls == ()
    sent = json.dumps(api.requests[-1]["body"])
    assert sent.count(call.id) == 2
    assert "connection refused" in sent
    assert api.requests[-1]["tools"] == ["read_log"]


async def test_structured_output_is_enforced_and_read(api: Any, connect: Callable[[str], ModelPort]) -> None:
    """The schema is sent in the strict form, and the answer comes back as a value."""
    api.set_script({"side": "main", "turns": [{"text": '{"healthy": false, "reason": "refused"}'}]})

    result = await connect(api.url).complete(ask(output_schema=Verdict))

    assert result.output == {"healthy": False, "reason": "refused"}
    sent = json.dumps(api.requests[-1]["body"])
    assert '"additionalProperties": false' in sent
    assert '"required": ["healthy", "reason"]' in sent


async def test_structured_output_that_is_no_object(api: Any, connect: Callable[[str], ModelPort]) -> None:
    """A list is asked for within an object and given without it."""
    api.set_script({"side": "main", "turns": [{"text": '{"value": [1, 2]}'}]})

    assert (await connect(api.url).complete(ask(output_schema=list[int]))).output == [1, 2]


async def test_an_open_schema_still_gets_an_answer(api: Any, connect: Callable[[str], ModelPort]) -> None:
    """A schema that cannot be enforced is asked for as well as can be, and a Markdown fence is no harm."""
    api.set_script({"side": "main", "turns": [{"text": '```json\n{"any": 1}\n```'}]})

    assert (await connect(api.url).complete(ask(output_schema={"type": "object"}))).output == {"any": 1}
    assert '\\"type\\":\\"object\\"' in (sent := json.dumps(api.requests[-1]["body"])) or '"schema": {"type": "object"' in sent


@pytest.mark.parametrize("text", ["I think it is fine", '{"healthy": tr', ""])
async def test_an_answer_that_is_no_json_is_malformed(api: Any, connect: Callable[[str], ModelPort], text: str) -> None:
    """Words where a structure was asked for are refused in one line."""
    api.set_script({"side": "main", "turns": [{"text": text}]})

    with pytest.raises(ModelMalformed, match="not the JSON that was asked for") as caught:
        await connect(api.url).complete(ask(output_schema=Verdict))

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("status", [408, 409, 429, 500, 503, 529])
async def test_what_may_pass_is_unavailable(api: Any, connect: Callable[[str], ModelPort], status: int) -> None:
    """Overload and server errors are worth another attempt, and the port makes none by itself."""
    api.set_script({"side": "main", "default": {"error": status, "message": "try\nlater", "headers": {"retry-after": "7"}}})

    with pytest.raises(ModelUnavailable, match=f"answered {status}: try later") as caught:
        await connect(api.url).complete(ask())

    assert caught.value.retry_after_seconds == 7.0
    assert len(api.requests) == 1


@pytest.mark.parametrize("status", [400, 404, 422])
async def test_what_will_fail_again_is_an_error(api: Any, connect: Callable[[str], ModelPort], status: int) -> None:
    """A bad request is not worth another attempt."""
    api.set_script({"side": "main", "default": {"error": status, "message": f"no such model, {key()}"}})

    with pytest.raises(ModelError, match=f"answered {status}: no such model") as caught:
        await connect(api.url).complete(ask())

    assert type(caught.value) is ModelError
    assert key() not in str(caught.value)


@pytest.mark.parametrize("status", [401, 403])
async def test_a_refused_key_is_named_and_not_shown(api: Any, connect: Callable[[str], ModelPort], status: int) -> None:
    """The message says which variable to look at; whatever the provider repeats of the key stays out of it."""
    api.set_script({"side": "main", "default": {"error": status, "message": f"Incorrect API key provided: {key()[:12]}***"}})

    with pytest.raises(ModelError, match=r"refused the key.*check (ANTHROPIC|OPENAI)_API_KEY") as caught:
        await connect(api.url).complete(ask())

    assert "sk-" not in str(caught.value)


async def test_a_hang_ends_at_the_timeout(api: Any, connect: Callable[[str], ModelPort]) -> None:
    """A provider that does not answer is unavailable when the request's time is over."""
    api.set_script({"side": "main", "turns": [{"text": "warm"}, {"hold": "never"}]})
    port = connect(api.url)
    await port.complete(ask())
    began = time.monotonic()

    with pytest.raises(ModelUnavailable, match=r"did not answer within 0\.3 s"):
        await port.complete(ask(options=ModelCallOptions(timeout=0.3)))

    assert time.monotonic() - began < 5
    api.release("never")


async def test_cancelling_ends_the_call_at_once(api: Any, connect: Callable[[str], ModelPort]) -> None:
    """A caller that gives up does not wait for the provider."""
    api.set_script({"side": "main", "turns": [{"text": "warm"}, {"hold": "never"}]})
    port = connect(api.url)
    await port.complete(ask())

    with anyio.move_on_after(0.2) as scope:
        await port.complete(ask())

    assert scope.cancelled_caught
    api.release("never")


async def test_options_reach_the_provider(kind: str, api: Any, connect: Callable[[str], ModelPort]) -> None:
    """Every option is sent under the provider's own name, and what was not set is not sent."""
    options = ModelCallOptions(temperature=0.5, top_p=0.9, max_tokens=99, reasoning_effort="high")
    await connect(api.url).complete(ask(options=options))
    body = api.requests[-1]["body"]

    assert (body["temperature"], body["top_p"]) == (0.5, 0.9)
    assert body[{"anthropic": "max_tokens", "openai": "max_output_tokens", "openai-chat": "max_completion_tokens"}[kind]] == 99
    effort = {"anthropic": "output_config", "openai": "reasoning", "openai-chat": "reasoning_effort"}[kind]
    assert body[effort] in ({"effort": "high"}, "high")
    await connect(api.url).complete(ask())
    assert not {"temperature", "top_p", effort, "stop", "seed"} & set(api.requests[-1]["body"])


async def test_an_option_that_a_provider_lacks_is_refused(kind: str, api: Any, connect: Callable[[str], ModelPort]) -> None:
    """Nothing that the caller asked for is silently dropped."""
    port = connect(api.url)
    if kind == "openai-chat":
        await port.complete(ask(options=ModelCallOptions(seed=7, stop=("x",))))
        assert (api.requests[-1]["body"]["seed"], api.requests[-1]["body"]["stop"]) == (7, ["x"])
        return

    with pytest.raises(ModelError, match="no option 'seed'"):
        await port.complete(ask(options=ModelCallOptions(seed=7)))
    assert api.requests == []


async def test_the_model_is_the_requests_or_the_ports(kind: str, api: Any, connect: Callable[[str], ModelPort]) -> None:
    """`default` means the port's own model; a name may carry the port's prefix."""
    port = connect(api.url)

    for asked in ("default", "", "other", f"{kind}:third"):
        await port.complete(ModelRequest(model=asked, messages=(Message.user("hi"),)))

    assert [r["body"]["model"] for r in api.requests] == ["some-model", "some-model", "other", "third"]


async def test_a_closed_port_opens_again(api: Any, connect: Callable[[str], ModelPort]) -> None:
    """Closing lets go of the connections, twice without harm; a later call works."""
    port: Any = connect(api.url)
    await port.complete(ask())

    await port.close()
    await port.close()

    assert (await port.complete(ask())).text == "Done."


@asynccontextmanager
async def serve(answer: bytes) -> AsyncIterator[str]:
    """A server that answers every request with these bytes and cuts the connection; gives its address."""

    async def handle(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            received = b""
            while b"\r\n\r\n" not in received:
                received += await stream.receive()
            head, _, rest = received.partition(b"\r\n\r\n")
            length = next(
                int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
            )
            while len(rest) < length:
                rest += await stream.receive()
            if answer:
                await stream.send(answer)

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, handle)
        yield f"http://127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}"
        group.cancel_scope.cancel()


def http(body: bytes, content_type: str = "application/json", length: int | None = None) -> bytes:
    head = (
        f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nContent-Length: {len(body) if length is None else length}\r\n\r\n"
    )
    return head.encode() + body


@pytest.mark.parametrize(
    "answer",
    [
        http(b"<html>Welcome to the hotel's network</html>", "text/html"),
        http(b"\x00\xff\xfe garbage \x1b[31m"),
        http(b"{}"),
        http(b'{"content": 5, "output": 5, "choices": 5}'),
        http(b'{"content": [{"type": 1}], "output": [{"type": 1}], "choices": [{}]}'),
        http(b'{"content": [{"type":"text","text":"a'),
        http(b'{"content": null, "output": null, "choices": []}'),
    ],
    ids=["html", "bytes", "empty", "types", "items", "cut", "null"],
)
async def test_garbage_is_malformed(connect: Callable[[str], ModelPort], answer: bytes) -> None:
    """Whatever a server says with status 200 that is not the protocol is named in one printable line."""
    async with serve(answer) as url:
        with pytest.raises(ModelMalformed, match=r"not its protocol|without any choice") as caught:
            await connect(url).complete(ask(options=ModelCallOptions(timeout=20)))

    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "answer", [b"", http(b'{"content": [', length=5000), b"SSH-2.0-OpenSSH\r\n"], ids=["none", "half", "ssh"]
)
async def test_a_cut_connection_is_unavailable(connect: Callable[[str], ModelPort], answer: bytes) -> None:
    """A server that hangs up, before or within the answer, is worth another attempt."""
    async with serve(answer) as url:
        with pytest.raises(ModelUnavailable, match=r"no answer from 127\.0\.0\.1"):
            await connect(url).complete(ask(options=ModelCallOptions(timeout=20)))


async def test_nobody_listening_is_unavailable(connect: Callable[[str], ModelPort]) -> None:
    """A refused connection says where nobody was."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    await listener.aclose()

    with pytest.raises(ModelUnavailable, match=f"no answer from 127.0.0.1:{port}"):
        await connect(f"http://127.0.0.1:{port}").complete(ask())


async def test_another_models_words_can_be_sent(api: Any, connect: Callable[[str], ModelPort]) -> None:
    """A conversation that another provider began goes on here: its own blocks are left out, its odd calls survive."""
    odd = ToolCall(id="c1", name="read_log", arguments_json="{not json")
    said = Message(role="assistant", text="", tool_calls=(odd,))

    await connect(api.url).complete(
        ask(said, Message.tool(odd, ""), Message.system("Go on."), Message.assistant(" "), Message.user("Well?"))
    )

    assert "Well?" in json.dumps(api.requests[-1]["body"])


def test_a_missing_key_is_one_line(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a key the port is refused when it is made, naming the variable."""
    for name in [name for name in os.environ if name.startswith(("ANTHROPIC_", "OPENAI_"))]:
        monkeypatch.delenv(name)

    with pytest.raises(UsageError, match=r"needs a key: set (ANTHROPIC|OPENAI)_API_KEY"):
        port_from(f"{kind}:m")
