"""A session in the words of agentapi: its calls, shapes, refusals and streams."""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from harness.ledger import SQLiteStore
from harness.sessions import facts
from harness.sessions.client import Sessions
from harness.sessions.ids import Folder
from harness.web import agentapi
from harness.web.application import build
from harness.web.context import Context
from harness.web.guard import Access
from harness.work import Items

Pretend = Callable[..., Any]
PATIENCE_SECONDS = 20.0
STREAM = {"mode": facts.Mode.STREAM}


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SQLiteStore]:
    async with SQLiteStore(tmp_path / "harness.db", actor="web", durability="process") as store:
        yield store


@pytest.fixture
def context(store: SQLiteStore, tmp_path: Path) -> Context:
    return Context(store=store, items=Items(store), home=tmp_path, root=tmp_path)


@pytest.fixture
async def api(context: Context) -> AsyncIterator[httpx.AsyncClient]:
    app: Any = build(context, Access(token="s3cret"), page=False)
    headers = {"Authorization": "Bearer s3cret"}
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=app), base_url="http://localhost/sessions/w1/agentapi", headers=headers
    ) as client:
        yield client


@pytest.fixture
def sessions(store: SQLiteStore, tmp_path: Path) -> Sessions:
    return Sessions(store, tmp_path)


def write_files(home: Path, key: str, output: bytes) -> Path:
    path = Folder(home=home, key=key).take()
    (path / "transcript.log").write_bytes(output)
    (path / "size").write_text("40x5", encoding="ascii")
    return path


def sse(text: str) -> list[tuple[str, dict[str, Any]]]:
    blocks = [dict(line.split(": ", 1) for line in block.splitlines()) for block in text.split("\n\n") if "data: " in block]
    return [(block["event"], json.loads(block["data"])) for block in blocks]


async def says(session: Any, text: str) -> None:
    await session.tell((facts.ITEM_COMPLETED, facts.ItemCompleted(kind="text", summary=text)))


async def sent(session: Any, sessions: Sessions, text: str) -> str:
    id_ = await sessions.send(session.key, text)
    await session.move(facts.WRITTEN, id_)
    return id_


# Status


async def test_an_agent_at_its_prompt_is_stable(
    api: httpx.AsyncClient, store: SQLiteStore, pretend: Pretend, sessions: Sessions
) -> None:
    """Unless a message is on its way to it, or a turn is not over; every other state is running."""
    session = await pretend(store, **STREAM)
    seen = [(await api.get("/status")).json()]
    await session.state("prompt")
    seen.append((await api.get("/status")).json())
    id_ = await sessions.send(session.key, "x")
    seen.append((await api.get("/status")).json())
    await session.move(facts.WRITTEN, id_)
    await session.move(facts.ACCEPTED, id_)
    await session.tell((facts.TURN_STARTED, facts.TurnStarted(turn="t", message_ids=(id_,))))
    seen.append((await api.get("/status")).json())
    await session.tell((facts.TURN_COMPLETED, facts.TurnCompleted(turn="t", outcome="success")))
    await session.move(facts.COMPLETED, id_)
    seen.append((await api.get("/status")).json())

    assert seen[0] == {"status": "running", "agent_type": "claude", "transport": "acp"}
    assert [each["status"] for each in seen] == ["running", "stable", "running", "running", "stable"]


@pytest.mark.parametrize(("cli", "named"), [("codex", "codex"), ("/usr/bin/claude", "claude"), ("bash", "custom")])
async def test_agents_go_by_their_names_there(
    api: httpx.AsyncClient, store: SQLiteStore, pretend: Pretend, cli: str, named: str
) -> None:
    """Every other program is `custom`."""
    await pretend(store, cli=cli)

    assert (await api.get("/status")).json() == {"status": "running", "agent_type": named, "transport": "pty"}


# Messages


async def test_the_conversation_is_that_of_the_record(
    api: httpx.AsyncClient, store: SQLiteStore, pretend: Pretend, sessions: Sessions
) -> None:
    """What was written to the agent and what it said since, in order; what still waits is not said yet."""
    session = await pretend(store, **STREAM)
    await sent(session, sessions, "first")
    await says(session, "I look")
    await session.tell((facts.ITEM_COMPLETED, facts.ItemCompleted(kind="tool", name="Bash", summary="ls")))
    await says(session, "done <b>")
    await session.tell((facts.TURN_COMPLETED, facts.TurnCompleted(turn="t", outcome="success", summary="done <b>")))
    await sent(session, sessions, "second")
    await session.tell((facts.TURN_COMPLETED, facts.TurnCompleted(turn="u", outcome="success", summary="only a summary")))
    await sessions.send(session.key, "waits")

    messages = (await api.get("/messages")).json()["messages"]

    assert [(each["id"], each["role"], each["content"]) for each in messages] == [
        (0, "user", "first"), (1, "agent", "I look\n\ndone <b>"), (2, "user", "second"), (3, "agent", "only a summary"),
    ]  # fmt: skip
    assert all(set(each) == {"id", "role", "content", "time"} for each in messages)


async def test_a_program_in_a_terminal_says_what_its_screen_shows(
    api: httpx.AsyncClient, store: SQLiteStore, pretend: Pretend, sessions: Sessions, tmp_path: Path
) -> None:
    """The newest message of the agent is the screen; of what it said before there is what is on record."""
    session = await pretend(store, cli="bash")
    write_files(tmp_path, session.key, b"$ ls\r\n\x1b[1mfile\x1b[0m")
    await says(session, "recorded")
    await sent(session, sessions, "ls")

    messages = (await api.get("/messages")).json()["messages"]

    assert [(each["role"], each["content"]) for each in messages] == [
        ("agent", "recorded"), ("user", "ls"), ("agent", "$ ls\nfile"),
    ]  # fmt: skip


# Sending


async def test_a_message_is_answered_when_it_is_accepted(
    api: httpx.AsyncClient, store: SQLiteStore, pretend: Pretend, sessions: Sessions
) -> None:
    """Not before the agent has it."""
    session = await pretend(store, **STREAM)
    await session.state("prompt")

    async def host() -> None:
        async for event in sessions.follow(session.key):
            if event.type == facts.QUEUED:
                await session.move(facts.WRITTEN, event.payload["message_id"])
                assert not posting.done()
                await session.move(facts.ACCEPTED, event.payload["message_id"])
                return

    posting = asyncio.ensure_future(api.post("/message", json={"content": "fix it", "type": "user"}))
    async with asyncio.timeout(PATIENCE_SECONDS):
        await host()
        answer = await posting

    assert (answer.status_code, answer.json()) == (200, {"ok": True})


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"content": "", "type": "user"}, 422),
        ({"content": " x", "type": "user"}, 422),
        ({"content": "x\n", "type": "user"}, 422),
        ({"content": "x", "type": "shout"}, 422),
        ({"type": "user"}, 422),
        ({"content": "x", "type": "user"}, 409),
        ({"content": "x", "type": "raw"}, 409),
    ],
)
async def test_what_cannot_be_said_is_refused_in_its_shape(
    api: httpx.AsyncClient, store: SQLiteStore, pretend: Pretend, body: object, status: int
) -> None:
    """A busy agent takes no message, a program without a terminal no keys; nothing is written."""
    session = await pretend(store, **STREAM)
    await session.state("busy")
    before = await store.read(f"session/{session.key}")

    answer = await api.post("/message", json=body)

    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert set(answer.json()) == {"title", "status", "detail", "errors"}
    assert answer.json()["status"] == status
    assert await store.read(f"session/{session.key}") == before


async def test_a_message_that_the_agent_does_not_take_is_taken_back(
    api: httpx.AsyncClient, store: SQLiteStore, pretend: Pretend, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not delivered after its sender was told that it was not."""
    monkeypatch.setattr(agentapi, "BEGUN_SECONDS", 0.2)
    session = await pretend(store, **STREAM)
    await session.state("prompt")

    answer = await api.post("/message", json={"content": "x", "type": "user"})

    [message] = (await sessions.get("w1")).messages.values()
    assert (answer.status_code, message.status) == (504, "withdrawn")
    assert "failed to send message: it is withdrawn" in answer.json()["detail"]


@contextlib.asynccontextmanager
async def host_socket(folder: Path, heard: list[tuple[bytes, bytes]]) -> AsyncIterator[None]:
    """What a host does for its viewers."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(struct.pack(">cI", b"O", 3) + b"$ \n")
        kind = b""
        while kind != b"D":
            kind, length = struct.unpack(">cI", await reader.readexactly(5))
            heard.append((kind, await reader.readexactly(length)))
        writer.transport.abort()

    server = await asyncio.start_unix_server(serve, folder / "host.sock")
    async with server:
        yield


async def test_raw_keys_go_to_the_terminal_and_are_not_on_record(
    api: httpx.AsyncClient, store: SQLiteStore, pretend: Pretend, tmp_path: Path
) -> None:
    """Whatever the agent does; the answer comes when the host has them."""
    session = await pretend(store)
    await session.state("busy")
    folder = write_files(tmp_path, session.key, b"")
    heard: list[tuple[bytes, bytes]] = []
    before = await store.read(f"session/{session.key}")

    async with host_socket(folder, heard), asyncio.timeout(PATIENCE_SECONDS):
        answer = await api.post("/message", json={"content": "\x1b[A ä", "type": "raw"})

    assert answer.json() == {"ok": True}
    assert heard == [(b"I", "\x1b[A ä".encode()), (b"D", b"")]
    assert await store.read(f"session/{session.key}") == before
    assert (await api.post("/message", json={"content": "x", "type": "raw"})).status_code == 404


# Streams


async def pulled(stream: AsyncGenerator[bytes], until: bytes) -> str:
    """What comes, up to what holds this, or to the end."""
    came = b""
    async with asyncio.timeout(PATIENCE_SECONDS):
        async for part in stream:
            came += part
            if until in part:
                break
    return came.decode()


async def test_events_replay_and_then_follow_to_the_end(context: Context, pretend: Pretend, sessions: Sessions) -> None:
    """Messages and status first, then what changes, then what went wrong."""
    session = await pretend(context.store, **STREAM)
    await session.state("prompt")
    id_ = await sent(session, sessions, "first")
    await says(session, "one")
    stream = agentapi.told(await sessions.row("w1"), context, sessions)

    replayed = sse(await pulled(stream, b"status_change"))
    await says(session, "two")
    await session.move(facts.COMPLETED, id_)
    await session.tell((facts.ESCALATED, facts.Escalated(reason="stuck")))
    await session.exit("failure", code=3)
    followed = sse(await pulled(stream, b"never"))

    shown = [(event, data.get("message") or data["status"]) for event, data in (*replayed, *followed)]
    assert shown == [
        ("message_update", "first"), ("message_update", "one"), ("status_change", "running"),
        ("message_update", "one\n\ntwo"), ("status_change", "stable"), ("agent_error", "a person is needed: stuck"),
        ("agent_error", "the session has ended: failure, code 3"),
    ]  # fmt: skip


async def test_the_screen_is_told_whenever_it_changes(
    context: Context, pretend: Pretend, sessions: Sessions, tmp_path: Path
) -> None:
    """As one text; the stream ends with the session. A message of the conversation changes with it."""
    session = await pretend(context.store)
    path = write_files(tmp_path, session.key, b"one") / "transcript.log"
    row = await sessions.row("w1")
    screens, messages = agentapi.shown(row, sessions), agentapi.told(row, context, sessions)

    first = sse(await pulled(screens, b"one")), sse(await pulled(messages, b"status_change"))
    with path.open("ab") as log:
        log.write(b"\r\ntwo")
    second = sse(await pulled(screens, b"two")), sse(await pulled(messages, b"two"))
    await session.exit()
    await pulled(screens, b"never")
    await pulled(messages, b"never")

    assert (first[0][-1], second[0][-1]) == (("screen", {"screen": "one"}), ("screen", {"screen": "one\ntwo"}))
    assert [(data["id"], data["message"]) for _, data in (first[1][0], second[1][-1])] == [(0, "one"), (0, "one\ntwo")]


async def test_both_streams_are_served(api: httpx.AsyncClient, pretend: Pretend, context: Context) -> None:
    """As server-sent events; a program without a terminal has no screen."""
    session = await pretend(context.store, **STREAM)
    await says(session, "bye")
    await session.exit()

    events, screen = await api.get("/events"), await api.get("/internal/screen")

    assert events.headers["content-type"].startswith("text/event-stream")
    assert [(event, data["message"]) for event, data in sse(events.text)] == [("message_update", "bye")]
    assert screen.status_code == 409


# The rest


async def test_a_session_that_has_ended_takes_nothing_but_is_remembered(
    api: httpx.AsyncClient, store: SQLiteStore, pretend: Pretend
) -> None:
    """Its conversation can be read; an unknown session is not found."""
    session = await pretend(store, **STREAM)
    await says(session, "bye")
    await session.exit()

    assert (await api.get("/status")).status_code == 409
    assert (await api.post("/message", json={"content": "x", "type": "user"})).status_code == 409
    assert [each["content"] for each in (await api.get("/messages")).json()["messages"]] == ["bye"]
    for url in ("http://localhost/sessions/nope/agentapi/status", "http://localhost/sessions/w1/agentapi/nope"):
        answer = await api.get(url)
        assert (answer.status_code, answer.json()["title"]) == (404, "Not Found")


async def test_refusals_of_the_door_have_its_shape(api: httpx.AsyncClient) -> None:
    """Without the token, and under a foreign name."""
    without = await api.get("/status", headers={"Authorization": ""})
    rebound = await api.get("/status", headers={"Host": "evil.example"})

    assert (without.status_code, without.json()["title"]) == (401, "Unauthorized")
    assert (rebound.status_code, set(rebound.json())) == (421, {"title", "status", "detail", "errors"})


async def test_it_describes_itself(api: httpx.AsyncClient, store: SQLiteStore, pretend: Pretend) -> None:
    """As OpenAPI, at its own address, however many sessions were asked."""
    await pretend(store)
    await api.get("http://localhost/sessions/other/agentapi/openapi.json")

    described = (await api.get("/openapi.json")).json()

    assert {"/status", "/messages", "/message", "/events", "/internal/screen"} == set(described["paths"])
    assert described["servers"] == [{"url": "/sessions/w1/agentapi"}]
