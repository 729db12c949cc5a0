"""The scripted model API over the wire: the providers' own SDKs as clients, and clients that misbehave."""

from __future__ import annotations

import asyncio
import gzip
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anthropic
import httpx
import openai
import pytest

from harness.cli import main
from harness.errors import HarnessError
from harness.sessions.mock_model import MockModel, Script
from harness.sessions.mock_model.stage import Stage

FUNCTION = {"type": "object", "properties": {"command": {"type": "string"}}, "required": ["command"]}
ANTHROPIC_TOOLS: Any = [{"name": "Bash", "description": "Runs.", "input_schema": FUNCTION}]
RESPONSES_TOOLS: Any = [
    {"type": "function", "name": "shell", "parameters": FUNCTION, "strict": False},
    {"type": "custom", "name": "apply_patch"},
]
CHAT_TOOLS: Any = [{"type": "function", "function": {"name": "bash", "parameters": FUNCTION}}]
SAID: Any = [{"role": "user", "content": "go"}]
USAGE = {"input": 40, "output": 7, "cache_read": 10, "cache_write": 5}
RICH = {"thinking": "Let me see.", "text": "I look  at\nit. ", "tools": [{"shell": "ls"}, {"shell": "pwd"}], "usage": USAGE}
COMMANDS = [{"command": "ls"}, {"command": "pwd"}]


@pytest.fixture
def claude() -> Iterator[Callable[[MockModel], anthropic.Anthropic]]:
    """Makes a client of Anthropic's SDK that asks once."""
    made: list[anthropic.Anthropic] = []

    def make(api: MockModel) -> anthropic.Anthropic:
        made.append(anthropic.Anthropic(base_url=api.url, api_key="secret-key", max_retries=0, timeout=20))
        return made[-1]

    yield make
    for client in made:
        client.close()


@pytest.fixture
def gpt() -> Iterator[Callable[[MockModel], openai.OpenAI]]:
    """Makes a client of OpenAI's SDK that asks once."""
    made: list[openai.OpenAI] = []

    def make(api: MockModel) -> openai.OpenAI:
        made.append(openai.OpenAI(base_url=f"{api.url}/v1", api_key="secret-key", max_retries=0, timeout=20))
        return made[-1]

    yield make
    for client in made:
        client.close()


def message(client: anthropic.Anthropic, *, stream: bool) -> anthropic.types.Message:
    asked: Any = {"model": "some-model", "max_tokens": 100, "messages": SAID, "tools": ANTHROPIC_TOOLS}
    if not stream:
        return client.messages.create(**asked)
    with client.messages.stream(**asked) as events:
        return events.get_final_message()


def response(client: openai.OpenAI, *, stream: bool, **more: Any) -> Any:
    asked: Any = {"model": "some-model", "input": SAID, "tools": RESPONSES_TOOLS, **more}
    if not stream:
        return client.responses.create(**asked)
    with client.responses.stream(**asked) as events:
        return events.get_final_response()


def completion(client: openai.OpenAI, *, stream: bool) -> Any:
    asked: Any = {"model": "some-model", "messages": SAID, "tools": CHAT_TOOLS}
    if not stream:
        return client.chat.completions.create(**asked)
    with client.chat.completions.stream(**asked, stream_options={"include_usage": True}) as events:
        return events.get_final_completion()


ASK: dict[str, Callable[..., Any]] = {"anthropic": message, "responses": response, "chat": completion}


@pytest.fixture(params=["anthropic", "responses", "chat"])
def protocol(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=[False, True], ids=["plain", "streamed"])
def stream(request: pytest.FixtureRequest) -> bool:
    return request.param


@pytest.fixture
def ask(protocol: str, stream: bool, claude: Callable[..., Any], gpt: Callable[..., Any]) -> Callable[[MockModel], Any]:
    """Asks the way of one protocol, plain or streamed."""
    return lambda api: ASK[protocol]((claude if protocol == "anthropic" else gpt)(api), stream=stream)


# -- what is said, in each protocol


def test_anthropic_says_it_all(claude: Callable[..., Any], stream: bool) -> None:
    """Thinking, text, calls, the reason to stop and the usage arrive whole."""
    with MockModel({"turns": [RICH]}) as api:
        got = message(claude(api), stream=stream)

    thought, text, *calls = got.content
    assert (thought.thinking, text.text) == ("Let me see.", "I look  at\nit. ")
    assert [(call.name, call.input) for call in calls] == [("Bash", given) for given in COMMANDS]
    assert (got.stop_reason, got.model) == ("tool_use", "some-model")
    assert (got.usage.input_tokens, got.usage.output_tokens) == (40, 7)
    assert (got.usage.cache_read_input_tokens, got.usage.cache_creation_input_tokens) == (10, 5)


def test_responses_says_it_all(gpt: Callable[..., Any], stream: bool) -> None:
    """Reasoning, text, calls, the status and the usage arrive whole; a tool of plain text gets plain text."""
    patch = {"name": "apply_patch", "input": "*** Begin Patch\n*** End Patch\n"}
    with MockModel({"turns": [{**RICH, "tools": [*RICH["tools"], patch]}]}) as api:
        got = response(gpt(api), stream=stream)

    thought, _, *calls, patched = got.output
    assert (thought.summary[0].text, got.output_text) == ("Let me see.", "I look  at\nit. ")
    assert [(call.name, json.loads(call.arguments)) for call in calls] == [("shell", given) for given in COMMANDS]
    assert (patched.type, patched.name, patched.input) == ("custom_tool_call", patch["name"], patch["input"])
    assert (got.status, got.usage.input_tokens, got.usage.input_tokens_details.cached_tokens) == ("completed", 55, 10)
    assert got.usage.total_tokens == 62


def test_chat_says_it_all(gpt: Callable[..., Any], stream: bool) -> None:
    """Text, calls, the reason to finish and the usage arrive whole."""
    with MockModel({"turns": [RICH]}) as api:
        got = completion(gpt(api), stream=stream)

    (choice,) = got.choices
    assert (choice.message.content, choice.finish_reason) == ("I look  at\nit. ", "tool_calls")
    assert [json.loads(call.function.arguments) for call in choice.message.tool_calls] == COMMANDS
    assert (got.usage.prompt_tokens, got.usage.completion_tokens) == (55, 7)
    assert got.usage.prompt_tokens_details.cached_tokens == 10


def test_chat_sends_usage_only_to_who_asks(gpt: Callable[..., Any]) -> None:
    """A client that does not ask for the usage of a stream gets no chunk without choices."""
    with MockModel({"side": {"text": "a b"}}) as api:
        chunks = list(gpt(api).chat.completions.create(model="m", messages=SAID, stream=True))

    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "a b"
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_a_length_limit_is_said_in_each_protocols_words(claude: Callable[..., Any], gpt: Callable[..., Any]) -> None:
    """`stop = "length"` is what each protocol calls an answer that was cut short."""
    with MockModel({"default": {"text": "I was", "stop": "length"}}) as api:
        by_anthropic = [message(claude(api), stream=stream) for stream in (True, False)]
        by_responses = response(gpt(api), stream=False)
        by_chat = completion(gpt(api), stream=False)
        streamed = list(gpt(api).responses.create(model="m", input=SAID, tools=RESPONSES_TOOLS, stream=True))
        *_, chunk = gpt(api).chat.completions.create(model="m", messages=SAID, tools=CHAT_TOOLS, stream=True)

    assert {got.stop_reason for got in by_anthropic} == {"max_tokens"}
    assert (by_responses.status, by_responses.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert (streamed[-1].type, streamed[-1].response.status) == ("response.incomplete", "incomplete")
    assert (by_chat.choices[0].finish_reason, chunk.choices[0].finish_reason) == ("length", "length")


def test_nothing_is_an_answer_too(ask: Callable[..., Any]) -> None:
    """A turn that says nothing is a whole answer without content."""
    with MockModel({"turns": [{}]}) as api:
        got = ask(api)
        outcome = api.requests[-1].outcome

    content = got.content if isinstance(got, anthropic.types.Message) else getattr(got, "output", None)
    assert not content
    assert outcome == "answered"


def test_a_stream_is_framed_as_the_providers_frame_it() -> None:
    """Events are named where the protocol names them, each is one line of JSON, and a chat ends with its mark."""
    with MockModel({"side": "main", "default": {"text": "a b"}}) as api:
        bodies = {
            path: httpx.post(f"{api.url}{path}", json={"model": "m", "messages": SAID, "input": SAID, "stream": True}).text
            for path in ("/v1/messages", "/v1/responses", "/v1/chat/completions")
        }

    for path, body in bodies.items():
        assert body.endswith("\n\n")
        for frame in body.removesuffix("\n\n").split("\n\n"):
            *named, data = frame.split("\n")
            if path == "/v1/chat/completions":
                assert (named, data.startswith("data: ")) == ([], True)
            else:
                assert named == [f"event: {json.loads(data.removeprefix('data: '))['type']}"]
    assert bodies["/v1/chat/completions"].endswith("data: [DONE]\n\n")
    numbers = [json.loads(line[6:])["sequence_number"] for line in bodies["/v1/responses"].split("\n") if line[:5] == "data:"]
    assert numbers == list(range(len(numbers)))


def test_streamed_arguments_are_the_arguments() -> None:
    """The pieces of a call's arguments, put together, are one JSON value in each protocol."""
    given = {"text": "x" * 100}
    found: list[object] = []
    with MockModel({"side": "main", "default": {"tools": [{"name": "Tool", "input": given}]}}) as api:
        for path, key in (("messages", "partial_json"), ("responses", "delta"), ("chat/completions", "arguments")):
            asked = {"model": "m", "messages": SAID, "input": SAID, "stream": True}
            body = httpx.post(f"{api.url}/v1/{path}", json=asked).text
            pieces = re.findall(rf'"{key}":("(?:[^"\\]|\\.)*")', body)
            assert len(pieces) > 2
            found.append(json.loads("".join(map(json.loads, pieces))))

    assert found == [given] * 3


# -- what goes wrong on purpose

RAISED = {400: "BadRequestError", 401: "AuthenticationError", 429: "RateLimitError", 500: "InternalServerError"}


@pytest.mark.parametrize("status", RAISED)
def test_errors_are_the_sdks_own(ask: Callable[..., Any], status: int) -> None:
    """Each status becomes the exception that the SDK has for it, with the script's message and headers."""
    turn = {"error": {"status": status, "message": "as scripted"}, "headers": {"retry-after": "7"}}
    with MockModel({"turns": [turn]}) as api, pytest.raises((anthropic.APIStatusError, openai.APIStatusError)) as raised:
        ask(api)

    assert type(raised.value).__name__ == RAISED[status]
    assert "as scripted" in str(raised.value)
    assert raised.value.response.headers["retry-after"] == "7"


def test_an_overloaded_provider_says_so(claude: Callable[..., Any]) -> None:
    """529 has Anthropic's own type, which programs look at."""
    with MockModel({"turns": [{"error": 529}]}) as api, pytest.raises(anthropic.APIStatusError) as raised:
        message(claude(api), stream=False)

    assert (raised.value.status_code, raised.value.type) == (529, "overloaded_error")


def test_an_error_in_midstream_comes_after_what_was_said(protocol: str, claude: Callable[..., Any], gpt: Any) -> None:
    """The stream begins, breaks with the protocol's own event, and the SDK tells."""
    turn = {"text": "one two three four", "error": {"status": 529, "message": "as scripted", "midstream": True}}
    texts: list[str] = []
    with MockModel({"side": "main", "default": turn}) as api:
        if protocol == "anthropic":
            with (
                pytest.raises(anthropic.APIStatusError, match="as scripted"),
                claude(api).messages.stream(model="m", max_tokens=9, messages=SAID) as events,
            ):
                texts.extend(events.text_stream)
        elif protocol == "chat":
            chunks = gpt(api).chat.completions.create(model="m", messages=SAID, stream=True)
            with pytest.raises(openai.APIError, match="as scripted"):
                texts.extend(chunk.choices[0].delta.content or "" for chunk in chunks)
        else:
            *said, failed = gpt(api).responses.create(model="m", input=SAID, stream=True)
            texts = [event.delta for event in said if event.type == "response.output_text.delta"]
            assert (failed.type, failed.response.error.message) == ("response.failed", "as scripted")
        outcome = api.requests[-1].outcome

    assert 0 < len("".join(texts)) < len("one two three four")
    assert outcome == "error 529"


@pytest.mark.parametrize("when", ["before", "midstream"])
def test_a_cut_connection_is_a_lost_one(ask: Callable[..., Any], when: str) -> None:
    """Whether nothing came or half of it, the client sees a connection that breaks; the next request is answered."""
    turn = {"disconnect": when, **({"text": "one two three four"} if when == "midstream" else {})}
    with MockModel({"turns": [turn, {"text": "back"}]}) as api:
        with pytest.raises(Exception, match=r"Connection error|peer closed connection"):  # of the SDK, or of its transport
            ask(api)
        again = ask(api)
        outcomes = [request.outcome for request in api.requests]

    assert again is not None
    assert outcomes == [f"disconnected {when}", "answered"]


def test_failures_run_out_for_a_client_that_tries_again() -> None:
    """With `times`, the SDK's own retries meet the error so often and then the answer."""
    turns = [{"error": 529, "headers": {"retry-after-ms": "1"}, "times": 2}, {"text": "at last"}]
    with (
        MockModel({"turns": turns}) as api,
        anthropic.Anthropic(base_url=api.url, api_key="k", max_retries=3) as client,
    ):
        got = message(client, stream=True)
        outcomes = [request.outcome for request in api.requests]

    assert got.content[0].text == "at last"
    assert outcomes == ["error 529", "error 529", "answered"]


def test_a_body_of_another_shape_is_refused_and_uses_no_turn(protocol: str) -> None:
    """The error says where the body is wrong, in the protocol's own form."""
    path = {"anthropic": "/v1/messages", "responses": "/v1/responses", "chat": "/v1/chat/completions"}[protocol]
    with MockModel({"side": "main", "turns": [{"text": "a"}]}) as api:
        wrong = httpx.post(f"{api.url}{path}", json={"model": 5, "messages": [], "input": []})
        broken = httpx.post(f"{api.url}{path}", content=b"{")
        right = httpx.post(f"{api.url}{path}", json={"model": "m", "messages": SAID, "input": SAID})
        kept = [(request.outcome, request.turn) for request in api.requests]

    assert (wrong.status_code, broken.status_code, right.status_code) == (400, 400, 200)
    assert "`str`, got `int` - at `$.model`" in wrong.json()["error"]["message"]
    assert kept == [("malformed", ""), ("malformed", ""), ("answered", "turn 1")]


# -- gates and time


def test_a_held_answer_waits_for_its_gate(ask: Callable[..., Any]) -> None:
    """The client waits exactly until the gate is opened, which then stays open."""
    with MockModel({"turns": [{"text": "a", "hold": "g", "times": 2}]}) as api, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(ask, api)
        api.wait_held("g", timeout_seconds=20)
        waiting, held = not answer.done(), api.held()
        released = api.release("g")
        answer.result(timeout=20)
        ask(api)

        assert (waiting, held, released, api.held()) == (True, {"g": 1}, 1, {})


def test_gates_close_again_when_the_rehearsal_is_reset(claude: Callable[..., Any]) -> None:
    """After `reset` the script begins anew, with closed gates and no request kept."""
    with MockModel({"turns": [{"text": "a", "hold": "g"}]}) as api, ThreadPoolExecutor(1) as pool:
        api.release("g")
        message(claude(api), stream=False)
        api.reset()
        forgotten = api.requests
        answer = pool.submit(message, claude(api), stream=False)
        api.wait_held("g", timeout_seconds=20)
        api.release("g")
        answer.result(timeout=20)

    assert forgotten == []


def test_a_client_that_leaves_is_not_waited_for() -> None:
    """An interrupt at the client ends the held answer at once, and is on record."""
    with MockModel({"side": "main", "turns": [{"text": "a", "hold": "g"}]}) as api:
        with closing(socket.create_connection(("127.0.0.1", int(api.url.rpartition(":")[2])), 20)) as client:
            body = json.dumps({"model": "m", "messages": SAID})
            client.sendall(f"POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode())
            api.wait_held("g", timeout_seconds=20)
        api.wait_for(lambda: api.requests[0].outcome == "client left", timeout_seconds=20)

        assert api.held() == {}


def test_delays_are_kept() -> None:
    """`delay` comes before the first byte, `chunk_delay` between the pieces."""
    script = {"side": "main", "turns": [{}, {"text": "a b", "delay": 0.3}, {"text": "a b", "chunk_delay": 0.05}]}
    took: list[float] = []
    with MockModel(script) as api, httpx.Client(base_url=api.url, timeout=20) as client:
        for _ in range(3):
            begun = time.monotonic()
            client.post("/v1/messages", json={"model": "m", "messages": SAID, "stream": True})
            took.append(time.monotonic() - begun)

    assert took[1] >= 0.3
    assert took[2] >= 0.05 * 7  # between the eight frames of two words


async def test_whoever_waits_is_told_of_each_change() -> None:
    """A thread that waits for a held answer wakes when one arrives at the gate, not when something else happens."""
    stage = Stage(Script())
    looked = threading.Event()

    def held() -> bool:
        looked.set()
        return stage.gates.held() == {"g": 1}

    def wait() -> bool:
        with stage.changed:
            return stage.changed.wait_for(held, 20)

    waiting = asyncio.get_running_loop().run_in_executor(None, wait)
    await asyncio.to_thread(looked.wait, 20)
    client: Any = SimpleNamespace(gone=asyncio.Event())
    passing = asyncio.ensure_future(stage.gates.passed("g", client))

    async with asyncio.timeout(10):  # it looks for the last time after 20 s
        assert await waiting
    assert stage.gates.release("g") == 1
    async with asyncio.timeout(20):
        await passing


def test_waiting_ends_with_what_was_seen_instead() -> None:
    """A test that waits in vain learns what is held and what was asked."""
    with MockModel() as api, pytest.raises(TimeoutError, match=r"waited 0.05 s for 2 held at 'g'; held: \{\}, asked: \[\]"):
        api.wait_held("g", count=2, timeout_seconds=0.05)


def test_many_clients_are_answered_at_once(claude: Callable[..., Any]) -> None:
    """Fifty held clients, each with a scenario of its own, are all answered when the gate opens."""
    body = {"model": "m", "max_tokens": 9, "messages": SAID, "tools": ANTHROPIC_TOOLS}
    with MockModel({"turns": [{"text": "first", "hold": "g"}]}) as api, ThreadPoolExecutor(50) as pool:
        asked = [pool.submit(httpx.post, f"{api.base(f'w{n}')}/v1/messages", json=body, timeout=30) for n in range(50)]
        api.wait_held("g", count=50, timeout_seconds=30)
        api.release("g")
        said = {each.result(timeout=30).json()["content"][0]["text"] for each in asked}
        served = {request.scenario for request in api.requests}

    assert said == {"first"}
    assert served == {f"w{n}" for n in range(50)}


# -- beside the models


def test_scenarios_are_chosen_by_address(claude: Callable[..., Any]) -> None:
    """Each base address plays its own scenario."""
    script = {"scenarios": {"a": {"turns": [{"text": "from a"}]}}, "turns": [{"text": "from main"}]}
    with MockModel(script) as api:
        got = {}
        for base in (api.base("a"), api.url):
            with anthropic.Anthropic(base_url=base, api_key="k") as client:
                got[base] = message(client, stream=True).content[0].text
        assert got == {api.base("a"): "from a", api.url: "from main"}


def test_what_programs_ask_beside(claude: Callable[..., Any], gpt: Callable[..., Any]) -> None:
    """Models are listed, tokens counted, probes answered, and nothing of it uses a turn."""
    with MockModel({"turns": [{"text": "still the first"}]}) as api:
        by_anthropic, by_openai = claude(api), gpt(api)
        listed = ([each.id for each in by_anthropic.models.list()], [each.id for each in by_openai.models.list()])
        known = by_openai.models.retrieve("gpt-x").id
        counted = by_anthropic.messages.count_tokens(model="m", messages=SAID).input_tokens
        probe = httpx.head(api.url)
        unknown = httpx.get(f"{api.url}/v1/nothing")
        first = message(by_anthropic, stream=False)

    assert listed == (["mock-model"], ["mock-model"])
    assert (known, counted > 0, probe.status_code, probe.content) == ("gpt-x", True, 200, b"")
    assert (unknown.status_code, first.content[0].text) == (404, "still the first")


def test_requests_are_on_record_without_credentials(claude: Callable[..., Any], tmp_path: Path) -> None:
    """What was asked and answered can be read here, over HTTP and in the log, and no key is anywhere."""
    with MockModel({"turns": [RICH]}, log=tmp_path / "log") as api:
        message(claude(api), stream=True)
        (request,) = api.wait_requests(1)
        over_http = httpx.get(f"{api.url}/__admin/requests")
    logged = (tmp_path / "log").read_text()

    assert (request.protocol, request.prompt, request.tools, request.turn) == ("anthropic", "go", ["Bash"], "turn 1")
    assert request.answer["calls"][0] == {"name": "Bash", "input": {"command": "ls"}}
    assert request.body["messages"] == over_http.json()[0]["body"]["messages"] == SAID
    assert json.loads(logged)["outcome"] == "answered"
    assert "secret-key" not in over_http.text + logged
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o600


def test_a_rehearsal_is_changed_over_http(claude: Callable[..., Any]) -> None:
    """The script can be read and replaced, gates opened, everything reset; what makes no sense is refused."""
    with MockModel({"turns": [{"text": "old"}]}) as api, httpx.Client(base_url=f"{api.url}/__admin") as admin:
        shown = admin.get("/script").json()
        refused = admin.post("/script", json={"turns": [{"tex": "x"}]})
        replaced = admin.post("/script", json={"turns": [{"text": "new", "hold": "g"}]})
        released = admin.post("/release?gate=g").json()
        said = message(claude(api), stream=True).content[0].text
        statuses = [
            admin.post("/release").status_code,
            admin.get("/reset").status_code,
            admin.get("/nothing").status_code,
            admin.get("/held").json(),
            admin.post("/reset").json(),
            admin.get("/requests").json(),
        ]

    assert shown == {"turns": [{"text": "old"}]}
    assert (refused.status_code, refused.json()["error"]) == (
        400,
        "script: turns[0]: unknown key 'tex'; did you mean 'text'?",
    )
    assert (replaced.status_code, released["waited"], said) == (200, 0, "new")
    assert statuses == [400, 405, 404, {}, {"ok": True}, []]


def test_web_pages_cannot_look_at_a_rehearsal() -> None:
    """A page of another origin, or one that has our address under its own name, is refused."""
    with MockModel() as api:
        by_page = httpx.get(f"{api.url}/__admin/requests", headers={"origin": "http://evil.example"})
        by_name = httpx.get(f"{api.url}/__admin/requests", headers={"host": "evil.example"})
        local = httpx.get(f"{api.url}/__admin/requests", headers={"host": "localhost:1"})

    assert (by_page.status_code, by_name.status_code, local.status_code) == (403, 403, 200)


# -- HTTP as it comes


def raw(api: MockModel, data: bytes) -> bytes:
    """What comes back for these bytes until the server closes."""
    with closing(socket.create_connection(("127.0.0.1", int(api.url.rpartition(":")[2])), 20)) as client:
        client.sendall(data)
        received = b""
        while more := client.recv(65536):
            received += more
        return received


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nnonsense\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\ncontent-length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\ncontent-length: 67108865\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n-5\r\n", 400),
        (b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n4000001\r\n", 413),
        (b"POST / HTTP/1.1\r\ncontent-encoding: br\r\ncontent-length: 1\r\n\r\nx", 415),
        (b"POST / HTTP/1.1\r\ncontent-encoding: gzip\r\ncontent-length: 1\r\n\r\nx", 400),
        (b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\n\r\n", 431),
        (b"GET / HTTP/1.0\r\n\r\n", 200),
        (b"GET / HTTP/1.1\r\nconnection: close\r\n\r\n", 200),
    ],
)
def test_requests_that_cannot_be_read_are_refused(data: bytes, status: int) -> None:
    """Each gets its status and the connection is closed; nothing is read beyond the bounds."""
    with MockModel() as api:
        assert raw(api, data).split(b" ", 2)[1] == str(status).encode()


def test_a_body_that_unpacks_to_too_much_is_refused() -> None:
    """A small body that grows beyond the bound is not unpacked to its end."""
    bomb = gzip.compress(b" " * (64 * 1024 * 1024 + 1), 1)
    with MockModel() as api:
        got = httpx.post(f"{api.url}/v1/messages", content=bomb, headers={"content-encoding": "gzip"}, timeout=60)

    assert got.status_code == 413


def test_packed_and_chunked_bodies_are_read(stream: bool) -> None:
    """Bodies come plain, as gzip, or in chunks of unknown number, and mean the same."""
    body = json.dumps({"model": "m", "messages": SAID, "stream": stream}).encode()
    with MockModel({"side": {"text": "read"}}) as api, httpx.Client(base_url=api.url) as client:  # on one connection
        chunked = client.post("/v1/messages", content=iter([body[:5], body[5:]]))
        packed = client.post("/v1/messages", content=gzip.compress(body), headers={"content-encoding": "gzip"})
        prompts = [request.prompt for request in api.requests]

    assert "read" in packed.text
    assert "read" in chunked.text
    assert prompts == ["go", "go"]


def test_an_old_client_gets_its_stream_without_chunks() -> None:
    """HTTP/1.0 knows no chunks: the frames come as they are, and the end of the connection ends them."""
    body = json.dumps({"model": "m", "messages": SAID, "stream": True})
    with MockModel({"side": {"text": "hello"}}) as api:
        got = raw(api, f"POST /v1/messages HTTP/1.0\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode())

    assert b"transfer-encoding" not in got
    assert got.endswith(b'data: {"type":"message_stop"}\n\n')


def test_one_connection_serves_many_requests() -> None:
    """A connection stays open between answers, whole or streamed."""
    with MockModel({"side": {"text": "a"}}) as api:
        with closing(http.client.HTTPConnection("127.0.0.1", int(api.url.rpartition(":")[2]), timeout=20)) as client:
            for stream in (True, False, True):
                client.request("POST", "/v1/messages", json.dumps({"model": "m", "messages": SAID, "stream": stream}))
                assert b"message" in client.getresponse().read()
        count = len(api.requests)

    assert count == 3


# -- its life


def test_nothing_is_left_of_it() -> None:
    """Leaving ends the thread, the held clients and the listening; a second server may have the port."""
    before = set(threading.enumerate())
    body = json.dumps({"model": "m", "messages": SAID})
    with MockModel({"side": {"hold": "g"}}) as api:
        port = int(api.url.rpartition(":")[2])
        client = socket.create_connection(("127.0.0.1", port), 20)
        client.sendall(f"POST /v1/messages HTTP/1.1\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode())
        api.wait_held("g", timeout_seconds=20)
        idle = socket.create_connection(("127.0.0.1", port), 20)

    with closing(client), closing(idle):
        assert client.recv(1) == b""
        with suppress(ConnectionResetError):  # it may have left before it was noticed
            assert idle.recv(1) == b""
    assert set(threading.enumerate()) <= before
    with MockModel(port=port) as again:
        assert httpx.head(again.url).status_code == 200


async def test_it_serves_in_a_loop_of_others() -> None:
    """Awaited in somebody's loop, it ends its clients when it is cancelled, and leaves the loop to go on."""
    api = MockModel({"side": {"hold": "g"}})
    ready = asyncio.Event()
    serving = asyncio.ensure_future(api.serve(ready.set))
    async with asyncio.timeout(20):
        await ready.wait()
        reader, writer = await asyncio.open_connection("127.0.0.1", int(api.url.rpartition(":")[2]))
        body = json.dumps({"model": "m", "messages": SAID})
        writer.write(f"POST /v1/messages HTTP/1.1\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode())
        await asyncio.to_thread(api.wait_held, "g", timeout_seconds=20)
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving
        assert await reader.read() == b""
    writer.close()

    assert api.requests[0].outcome == "stopped"


def test_a_taken_port_is_said_plainly() -> None:
    """The error names the address."""
    with MockModel() as api:
        port = int(api.url.rpartition(":")[2])
        with pytest.raises(HarnessError, match=f"http://127.0.0.1:{port} cannot be listened on: Address already in use"):
            MockModel(port=port).start()


def test_it_loads_nothing_heavy() -> None:
    """A rehearsal starts at once: no typer, pydantic or anyio is behind it."""
    heavy = "typer", "pydantic", "anyio", "rich", "httpx", "psutil"
    code = f"import sys, harness.sessions.mock_model.server; sys.exit(bool({heavy!r} & sys.modules.keys()))"

    assert subprocess.run([sys.executable, "-c", code.replace(repr(heavy), repr(set(heavy)))], timeout=60).returncode == 0


# -- the command


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "script.toml"
    path.write_text('side = { text = "hello" }\n')
    return path


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_the_command_serves_until_it_is_told_to_stop(script: Path, tmp_path: Path, number: int, code: int) -> None:
    """It says where it listens, in a line and in a file, then what it is asked, and ends in good order."""
    command = [sys.executable, "-m", "harness", "mock-model", "--script", str(script), "--json"]
    command += ["--ready-file", str(tmp_path / "ready"), "--parent-pid", str(os.getpid())]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = json.loads(process.stdout.readline())["url"]
        httpx.post(f"{url}/v1/messages", json={"model": "m", "messages": SAID})
        told = json.loads(process.stdout.readline())
        process.send_signal(number)
        ended = process.wait(timeout=30)

    assert (tmp_path / "ready").read_text() == f"{url}\n"
    assert (told["turn"], told["outcome"], told["answer"]["text"]) == ("side", "answered", "hello")
    assert ended == code


def test_the_command_ends_with_its_parent(script: Path) -> None:
    """With `--parent-pid` no server outlives the test or the shell that wanted it."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as parent:
        command = [sys.executable, "-m", "harness", "mock-model", "--script", str(script), "--parent-pid", str(parent.pid)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("http://127.0.0.1:")
            parent.communicate(b"\n", timeout=30)
            assert process.wait(timeout=30) == 0


def test_the_command_checks_a_script(script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--check` serves nothing, and tells a script that makes no sense by place."""
    assert main(["mock-model", "--script", str(script), "--check", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"ok": True, "script": str(script), "scenarios": 0}
    script.write_text("[[turn]]\n")
    assert main(["mock-model", "--script", str(script), "--check"]) == 2
    assert capsys.readouterr().err == f"harness: {script}: unknown key 'turn'; did you mean 'turns'?\n"
