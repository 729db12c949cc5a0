"""Agents' sessions over HTTP: looking, messages, stopping, approvals, events, screens; and who may."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from harness.ledger import SQLiteStore
from harness.people import Questions
from harness.people.questions import digest_of
from harness.sessions import facts
from harness.sessions.client import Sessions
from harness.sessions.client.rows import document
from harness.sessions.ids import Folder
from harness.sessions.published import schema
from harness.web import connections, streaming
from harness.web.application import build
from harness.web.context import Context
from harness.web.guard import Access
from harness.web.server import server_of
from harness.work import Items

Pretend = Callable[..., Any]
TOKEN = "s3cret"
PATIENCE_SECONDS = 20.0


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SQLiteStore]:
    async with SQLiteStore(tmp_path / "harness.db", actor="web", durability="process") as store:
        yield store


def application(store: SQLiteStore, home: Path, *, only: str = "", access: Access | None = None) -> Any:
    context = Context(store=store, items=Items(store), home=home, root=home, only=only)
    return build(context, access or Access(token=TOKEN), page=False)


def client_of(app: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app=app), base_url="http://localhost:8000",
        headers={"Authorization": f"Bearer {TOKEN}"},
    )  # fmt: skip


@pytest.fixture
async def api(store: SQLiteStore, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(application(store, tmp_path)) as client:
        yield client


@pytest.fixture
def sessions(store: SQLiteStore, tmp_path: Path) -> Sessions:
    return Sessions(store, tmp_path)


def sse(text: str) -> list[tuple[int, str, dict[str, Any]]]:
    """The id, the type and the data of each event of a stream."""
    found: list[tuple[int, str, dict[str, Any]]] = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if line and not line.startswith(":"))
        if "data" in fields:
            found.append((int(fields["id"]), fields["event"], json.loads(fields["data"])))
    return found


# Looking


async def test_sessions_are_listed_and_filtered(api: httpx.AsyncClient, store: SQLiteStore, pretend: Pretend) -> None:
    """The newest first, with state, source and confidence; those that run, of one repository, of one program."""
    one = await pretend(store, "w1")
    await one.state("busy", source="hook", confidence=0.9)
    await pretend(store, "w2", cli="codex", repo="/work/other")
    over = await pretend(store, "w3")
    await over.exit(code=7, reason="failure")

    running = (await api.get("/api/sessions")).json()
    everything = (await api.get("/api/sessions?live=all")).json()
    ended = (await api.get("/api/sessions?live=false")).json()

    assert [row["id"] for row in running] == ["w2", "w1"]
    assert [row["id"] for row in everything] == ["w3", "w2", "w1"]
    assert (running[1]["state"], running[1]["source"], running[1]["confidence"]) == ("busy", "hook", 0.9)
    assert [(row["id"], row["exited"]["code"], row["exited"]["reason"], row["live"]) for row in ended] == [
        ("w3", 7, "failure", False)
    ]
    assert [row["id"] for row in (await api.get("/api/sessions?repo=/work/other")).json()] == ["w2"]
    assert [row["id"] for row in (await api.get("/api/sessions?cli=claude")).json()] == ["w1"]


async def test_one_session_is_shown_whole(api: httpx.AsyncClient, store: SQLiteStore, pretend: Pretend) -> None:
    """By its id or key: what it does, its inbox, what it asked for, what it used, what it may use."""
    session = await pretend(store, limits=facts.Limits(max_turns=3), inbox_ttl_seconds=60.0)
    usage = facts.Usage(input_tokens=10, output_tokens=5, cost_usd=0.25, model="m")
    asked = facts.ApprovalRequested(request="r1", tool="Bash", summary="rm -rf /tmp/x", arguments={"command": "rm"})
    await session.tell(
        (facts.USAGE, usage), (facts.APPROVAL_REQUESTED, asked), (facts.TURN_STARTED, facts.TurnStarted(turn="t"))
    )
    sent = (await api.post("/api/sessions/w1/messages", json={"text": "x" * 3000})).json()

    shown = (await api.get("/api/sessions/w1")).json()

    assert shown == (await api.get(f"/api/sessions/{session.key}")).json()
    assert (shown["id"], shown["session"], shown["turn"], shown["argv"]) == ("w1", session.key, "t", ["claude"])
    assert shown["limits"] == {
        "max_budget_usd": None, "max_turns": 3, "max_wall_seconds": None, "inbox_ttl_seconds": 60.0
    }  # fmt: skip
    assert (shown["usage"]["input_tokens"], shown["usage"]["cost_usd"]) == (10, 0.25)
    assert [(each["request"], each["tool"], each["decision"]) for each in shown["approvals"]] == [("r1", "Bash", None)]
    [message] = shown["inbox"]
    assert (message["id"], message["status"], len(message["text"]), message["text_truncated"]) == (
        sent["message_id"], "queued", 2000, True,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("GET", "/api/sessions/nope", None, 404, "not_found"),
        ("GET", "/api/sessions/w1@00000000", None, 404, "not_found"),
        ("GET", "/api/sessions/..%2f..%2fetc", None, 404, "not_found"),
        ("GET", "/api/sessions?live=maybe", None, 422, "invalid"),
        ("GET", "/api/sessions/w1/messages/nope", None, 404, "not_found"),
        ("GET", "/api/sessions/w1/events?after=9999", None, 422, "invalid"),
        ("GET", "/api/sessions/w1/screen", None, 404, "not_found"),
        ("GET", "/api/sessions/w1/logs", None, 404, "not_found"),
        ("POST", "/api/sessions/nope/messages", {"text": "x"}, 404, "not_found"),
        ("POST", "/api/sessions/w1/messages", {}, 422, "invalid"),
        ("POST", "/api/sessions/w1/messages", {"text": "\x1b[31m"}, 422, "invalid"),
        ("POST", "/api/sessions/w1/messages", {"text": "x", "placing": "soon"}, 422, "invalid"),
        ("POST", "/api/sessions/w1/messages", {"text": "x", "ttl": 0}, 422, "invalid"),
        ("POST", "/api/sessions/w1/messages", {"text": "x", "colour": "red"}, 422, "invalid"),
        ("POST", "/api/sessions/w1/stop", {"timeout_seconds": -1}, 422, "invalid"),
        ("POST", "/api/sessions/w1/approvals/nope", {"allow": True}, 404, "not_found"),
        ("POST", "/api/sessions/w1/approvals/nope", {}, 422, "invalid"),
        ("DELETE", "/api/sessions/w1/messages/nope", None, 404, "not_found"),
        ("DELETE", "/api/sessions/w1", None, 405, "method_not_allowed"),
    ],
)
async def test_what_makes_no_sense_is_told_clearly(
    api: httpx.AsyncClient, store: SQLiteStore, pretend: Pretend, method: str, path: str, body: object, status: int, code: str
) -> None:
    """In the one shape of errors, and nothing is written."""
    session = await pretend(store)
    before = await store.read(f"session/{session.key}")

    answer = await api.request(method, path, json=body)

    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert await store.read(f"session/{session.key}") == before


async def test_a_session_has_the_same_shape_on_the_command_line(
    api: httpx.AsyncClient, store: SQLiteStore, pretend: Pretend, tmp_path: Path
) -> None:
    """Whoever reads `harness status --json` reads the API."""
    session = await pretend(store)
    write_files(tmp_path, session.key, b"x")
    [row] = await Sessions(store, tmp_path).list()

    [shown] = (await api.get("/api/sessions")).json()

    told = json.loads(json.dumps(document(row, str(tmp_path), store.clock.now_us())))
    same = {name for name in told if name not in ("age_s", "log_idle_s")}
    assert list(shown) == list(told)
    assert {name: shown[name] for name in same} == {name: told[name] for name in same}


# Messages


async def test_a_message_is_queued_and_can_be_taken_back(
    api: httpx.AsyncClient, store: SQLiteStore, pretend: Pretend, sessions: Sessions
) -> None:
    """It is durable and has the wanted lifetime; until it is written it can be withdrawn, twice is once."""
    session = await pretend(store)
    new = {"text": "fix it\nplease", "placing": "steer", "force": True, "submit": False, "ttl": 5}

    sent = await api.post("/api/sessions/w1/messages", json=new)
    id_ = sent.json()["message_id"]
    queued = (await sessions.get("w1")).messages[id_]
    taken = await api.delete(f"/api/sessions/w1/messages/{id_}")
    again = await api.delete(f"/api/sessions/{session.key}/messages/{id_}")

    assert (sent.status_code, sent.json()) == (202, {"ok": True, "message_id": id_, "status": "queued"})
    assert (queued.text, queued.placing, queued.forced, queued.submit) == ("fix it\nplease", "steer", True, False)
    assert queued.expires_us - queued.queued_us == pytest.approx(5e6, abs=2e6)
    assert (taken.status_code, taken.json()["status"]) == (200, "withdrawn")
    assert again.status_code == 200
    assert [event.type for event in await store.read(f"session/{session.key}")][2:] == ["message.queued", "message.withdrawn"]


async def test_what_is_written_cannot_be_taken_back(api: httpx.AsyncClient, store: SQLiteStore, pretend: Pretend) -> None:
    """Whoever asks is told where it is."""
    session = await pretend(store)
    id_ = (await api.post("/api/sessions/w1/messages", json={"text": "x"})).json()["message_id"]
    await session.move(facts.WRITTEN, id_)

    refused = await api.delete(f"/api/sessions/w1/messages/{id_}")
    listed = (await api.get("/api/sessions/w1/messages?open=true")).json()

    assert refused.status_code == 409
    assert "it is written" in refused.json()["error"]["message"]
    assert [(row["id"], row["status"]) for row in listed] == [(id_, "written")]
    assert (await api.get("/api/sessions/w1/messages?open=false")).json() == []
    assert (await api.get(f"/api/sessions/w1/messages/{id_}")).json() == listed[0]


async def test_a_full_inbox_says_so(api: httpx.AsyncClient, store: SQLiteStore, pretend: Pretend) -> None:
    """One more than 64 is refused; taking one back makes room."""
    await pretend(store)
    ids = [(await api.post("/api/sessions/w1/messages", json={"text": str(n)})).json()["message_id"] for n in range(64)]

    refused = await api.post("/api/sessions/w1/messages", json={"text": "one more"})
    await api.delete(f"/api/sessions/w1/messages/{ids[10]}")
    fits = await api.post("/api/sessions/w1/messages", json={"text": "one more"})

    assert (refused.status_code, refused.json()["error"]) == (
        429, {"code": "inbox_full", "message": "inbox full (64 pending messages)", "details": []},
    )  # fmt: skip
    assert fits.status_code == 202


async def test_what_has_ended_takes_nothing(api: httpx.AsyncClient, store: SQLiteStore, pretend: Pretend) -> None:
    """No message and no interrupt; a stop does no harm. One whose host died is recorded as lost by then."""
    over = await pretend(store, "over")
    await over.exit()
    lost = await pretend(store, "lost")
    lost.kill_guard()

    for name in ("over", "lost"):
        for path, body in (("messages", {"text": "x"}), ("interrupt", {}), ("approvals/r", {"allow": True})):
            answer = await api.post(f"/api/sessions/{name}/{path}", json=body)
            assert (answer.status_code, answer.json()["error"]["code"]) == (409, "conflict"), path
        stopped = await api.post(f"/api/sessions/{name}/stop")
        assert (stopped.status_code, stopped.json()["status"]) == (202, "exited")
    assert (await api.get("/api/sessions/lost")).json()["exited"]["reason"] == "lost"


# Asking the host


async def test_stop_and_interrupt_are_asked_for(
    api: httpx.AsyncClient, store: SQLiteStore, pretend: Pretend, sessions: Sessions
) -> None:
    """In the person's name, with budget and reason."""
    session = await pretend(store)

    interrupted = await api.post("/api/sessions/w1/interrupt", json={"reason": "wrong file"})
    stopped = await api.post("/api/sessions/w1/stop", json={"timeout_seconds": 5, "kill": True, "reason": "enough"})

    events = await store.read(f"session/{session.key}", after=2)
    assert (interrupted.status_code, stopped.status_code) == (202, 202)
    assert stopped.json() == {"ok": True, "id": "w1", "session": session.key, "status": "stopping"}
    assert events[0].payload == {"by": "person:web", "reason": "wrong file"}
    assert events[1].payload == {"by": "person:web", "timeout_seconds": 5.0, "kill": True, "reason": "enough"}
    assert (await api.get("/api/sessions/w1")).json()["stopping"] is True


@pytest.mark.parametrize(("allow", "answer"), [(True, "approve"), (False, "deny")])
async def test_an_approval_is_answered_once(
    api: httpx.AsyncClient, store: SQLiteStore, pretend: Pretend, allow: bool, answer: str
) -> None:
    """The question gets the person's answer with its reason; a second one is refused."""
    session = await pretend(store)
    digest = digest_of(("Bash", {"command": "rm"}))
    question = await Questions(store).ask("approval", f"session/{session.key}#r/1", digest=digest, text="rm?")
    asked = facts.ApprovalRequested(request="r/1", tool="Bash", question=question.id)
    await session.tell((facts.APPROVAL_REQUESTED, asked))

    first = await api.post("/api/sessions/w1/approvals/r/1", json={"allow": allow, "reason": "because"})
    again = await api.post("/api/sessions/w1/approvals/r/1", json={"allow": True})

    answered = await Questions(store).get(question.id)
    assert (first.status_code, first.json()["decision"]) == (202, "allow" if allow else "deny")
    assert (answered.answer, answered.answered_by, answered.note) == (answer, "person:web", "because")
    assert (again.status_code, again.json()["error"]["code"]) == (409, "conflict")


# Events


async def test_events_are_those_of_the_schema_and_resume(api: httpx.AsyncClient, store: SQLiteStore, pretend: Pretend) -> None:
    """Each message is an event of version 1 with its number as id; Last-Event-ID goes on behind it; it ends at `exited`."""
    import jsonschema

    session = await pretend(store)
    await session.state("prompt")
    await session.tell((facts.ITEM_COMPLETED, facts.ItemCompleted(kind="text", summary="line\u2028one\ntwo")))
    await session.exit()

    whole = await api.get("/api/sessions/w1/events")
    found = sse(whole.text)
    resumed = sse((await api.get("/api/sessions/w1/events", headers={"Last-Event-ID": str(found[1][0])})).text)
    by_query = sse((await api.get(f"/api/sessions/w1/events?after={found[1][0]}")).text)
    nothing = await api.get("/api/sessions/w1/events", headers={"Last-Event-ID": str(found[-1][0])})
    wrong = await api.get("/api/sessions/w1/events", headers={"Last-Event-ID": "x"})

    assert whole.headers["content-type"].startswith("text/event-stream")
    assert [event for _, event, _ in found] == ["started", "state", "item_completed", "summary", "exited"]
    assert all(id_ == data["seq"] and event == data["type"] for id_, event, data in found)
    for _, _, data in found:
        jsonschema.validate(data, json.loads(schema()))
    assert resumed == by_query == found[2:]
    assert nothing.status_code == 204
    assert wrong.status_code == 422


async def test_events_without_following_end_by_themselves(api: httpx.AsyncClient, store: SQLiteStore, pretend: Pretend) -> None:
    """A session that goes on is told up to now."""
    session = await pretend(store)
    await session.state("busy")

    found = sse((await api.get("/api/sessions/w1/events?follow=false")).text)

    assert [event for _, event, _ in found] == ["started", "state"]
    assert sse((await api.get("/api/sessions/w1/events?follow=false&after=3")).text) == []


# The terminal


def write_files(home: Path, key: str, output: bytes, *, size: str = "40x5") -> Path:
    path = Folder(home=home, key=key).take()
    (path / "transcript.log").write_bytes(output)
    (path / "size").write_text(size, encoding="ascii")
    return path


async def test_the_screen_is_rendered(api: httpx.AsyncClient, store: SQLiteStore, pretend: Pretend, tmp_path: Path) -> None:
    """As rows of the window's own size, without control codes; N lines are N lines."""
    session = await pretend(store)
    write_files(tmp_path, session.key, b"one\r\n\x1b[31mtwo\x1b[0m\r\nthree\x1b[2;1Hzwei \x1b]0;title\x07")

    whole = (await api.get("/api/sessions/w1/screen")).json()
    some = (await api.get("/api/sessions/w1/screen?lines=2")).json()

    assert whole["lines"] == ["one", "zwei", "three", "", ""]
    assert (whole["columns"], whole["rows"], whole["text"]) == (40, 5, "one\nzwei\nthree")
    assert some["lines"] == ["zwei", "three"]


async def test_a_program_without_a_terminal_has_no_screen(api: httpx.AsyncClient, store: SQLiteStore, pretend: Pretend) -> None:
    """It is said why."""
    await pretend(store, mode=facts.Mode.STREAM)

    refused = await api.get("/api/sessions/w1/screen")

    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "conflict")
    assert "speaks stream" in refused.json()["error"]["message"]


async def test_logs_are_text_and_nothing_else(
    api: httpx.AsyncClient, store: SQLiteStore, pretend: Pretend, tmp_path: Path
) -> None:
    """The last lines, plain on request; a browser does not take them for a page."""
    session = await pretend(store)
    path = write_files(tmp_path, session.key, b"a\n<script>\n\x1b[31mred\x1b[0m\n")
    (path / "stderr.log").write_bytes(b"oh\n")

    raw = await api.get("/api/sessions/w1/logs?lines=2")
    plain = await api.get("/api/sessions/w1/logs?lines=1&plain=true")
    errors = await api.get("/api/sessions/w1/logs?of=errors")

    assert raw.text == "<script>\n\x1b[31mred\x1b[0m\n"
    assert (raw.headers["content-type"], raw.headers["x-content-type-options"]) == ("text/plain; charset=utf-8", "nosniff")
    assert (plain.text, errors.text) == ("red\n", "oh\n")


async def test_the_files_of_another_run_are_not_shown(
    api: httpx.AsyncClient, store: SQLiteStore, pretend: Pretend, tmp_path: Path
) -> None:
    """A run of another machine has no folder here, though its id has."""
    session = await pretend(store, "w1")
    write_files(tmp_path, "w1@00000000", b"somebody else's\n")

    assert (await api.get(f"/api/sessions/{session.key}/logs")).status_code == 404
    assert (await api.get("/api/sessions/w1")).json()["output_log_path"] is None


# One session's door


async def test_a_door_for_one_session_serves_nothing_else(store: SQLiteStore, pretend: Pretend, tmp_path: Path) -> None:
    """Neither another session, nor tickets, nor the whole ledger."""
    mine = await pretend(store, "mine")
    other = await pretend(store, "other")
    async with client_of(application(store, tmp_path, only=mine.key)) as door:
        listed = (await door.get("/api/sessions?live=all")).json()
        statuses = {
            path: (await door.get(path)).status_code
            for path in (
                "/api/sessions/mine", f"/api/sessions/{mine.key}", "/sessions/mine/agentapi/messages", "/health",
                "/api/sessions/other", f"/api/sessions/{other.key}", "/sessions/other/agentapi/messages", "/api/tickets",
                "/api/events", "/api/overview", "/metrics",
            )
        }  # fmt: skip

    assert [row["id"] for row in listed] == ["mine"]
    assert [path for path, status in statuses.items() if status == 200] == [
        "/api/sessions/mine", f"/api/sessions/{mine.key}", "/sessions/mine/agentapi/messages", "/health",
    ]  # fmt: skip
    assert {status for status in statuses.values() if status != 200} == {404}


# Who may


async def test_where_a_token_is_set_sessions_take_it(store: SQLiteStore, pretend: Pretend, tmp_path: Path) -> None:
    """Reading too: what an agent is told and does is its user's alone."""
    session = await pretend(store)
    paths = ("/api/sessions", "/api/sessions/w1", "/api/sessions/w1/events", "/sessions/w1/agentapi/status")
    async with client_of(application(store, tmp_path)) as client:
        for path in paths:
            for headers in ({"Authorization": ""}, {"Authorization": "Bearer wrong"}):
                refused = await client.get(path, headers=headers)
                assert refused.status_code == 401, path
        holding = await client.get("/api/sessions", headers={"Authorization": "", "Cookie": f"harness_token_8000={TOKEN}"})
        posted = await client.post("/api/sessions/w1/messages", json={"text": "x"}, headers={"Authorization": ""})
        crossed = await client.post("/api/sessions/w1/messages", json={"text": "x"}, headers={"Origin": "http://evil.example"})
        rebound = await client.get("/api/sessions", headers={"Host": "evil.example"})
        large = await client.post("/api/sessions/w1/messages", content=b" " * (1 << 20) + b"{}")

    assert holding.status_code == 200
    assert (posted.status_code, crossed.status_code, rebound.status_code, large.status_code) == (401, 403, 421, 413)
    assert len(await store.read(f"session/{session.key}")) == 2


async def test_without_a_token_a_connection_of_nobody_is_refused(store: SQLiteStore, tmp_path: Path) -> None:
    """Whose it is has to be known; the rest of the door is open as ever."""
    async with client_of(application(store, tmp_path, access=Access())) as client:
        assert (await client.get("/api/sessions")).status_code == 401
        assert (await client.get("/api/tickets")).status_code == 200


async def test_the_address_with_the_token_gives_the_cookie(store: SQLiteStore, tmp_path: Path) -> None:
    """Once, to be kept by the browser alone; a wrong token gives nothing."""
    app = application(store, tmp_path, access=Access(host="0.0.0.0", token=TOKEN))
    async with client_of(app) as client:
        given = await client.get(f"/sessions/w1?a=b&token={TOKEN}", headers={"Authorization": ""})
        client.cookies.clear()
        wrong = await client.get("/sessions/w1?token=wrong", headers={"Authorization": ""})
        not_by_address = await client.get(f"/api/sessions?token={TOKEN}", headers={"Authorization": ""})

    assert (given.status_code, given.headers["location"]) == (303, "/sessions/w1?a=b")
    assert given.headers["set-cookie"] == f"harness_token_8000={TOKEN}; HttpOnly; SameSite=Strict; Path=/"
    assert (wrong.status_code, not_by_address.status_code) == (401, 401)


@contextlib.asynccontextmanager
async def serving(app: Any) -> AsyncIterator[tuple[Any, int]]:
    """A real door on a real port."""
    server = server_of(app)
    server.config.lifespan = "off"
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign]
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listening:
        task = asyncio.ensure_future(server.serve(sockets=[listening]))
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not server.started:
                await asyncio.sleep(0.01)
        try:
            yield server, listening.getsockname()[1]
        finally:
            server.should_exit = True
            await task


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the kernel does not tell, so a token is needed")
async def test_without_a_token_the_user_himself_is_let_in(store: SQLiteStore, pretend: Pretend, tmp_path: Path) -> None:
    """The kernel says whose connection it is; no header does, and another user is refused."""
    await pretend(store)
    async with serving(application(store, tmp_path, access=Access())) as (_, port):
        url = f"http://127.0.0.1:{port}/api/sessions"
        async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE_SECONDS) as client:
            mine = await client.get(url)
            events = await client.get(f"{url}/w1/events?follow=false")
        command = ["setpriv", "--reuid=65534", "--clear-groups", "curl", "-s", "-o", "/dev/null", "-w", "%{http_code}"]
        foreign = await asyncio.to_thread(
            subprocess.run,
            [*command, "-H", f"X-Forwarded-For: 127.0.0.1:{port}", url],
            capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False,
        )  # fmt: skip

    assert (mine.status_code, events.status_code) == (200, 200)
    if foreign.returncode == 0:  # as root, with both programs
        assert foreign.stdout == "401"


async def test_two_hundred_idle_listeners_cost_no_thread(store: SQLiteStore, pretend: Pretend, tmp_path: Path) -> None:
    """Streams that wait and connections that say nothing: the door answers as before, and all hear the next event."""
    session = await pretend(store)
    async with serving(application(store, tmp_path)) as (_, port):
        before = threading.active_count()
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(100)]
        streams = [await asyncio.open_connection("127.0.0.1", port) for _ in range(200)]
        for _, writer in streams:
            writer.write(
                f"GET /api/sessions/w1/events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode()
            )
        async with asyncio.timeout(PATIENCE_SECONDS):
            for reader, _ in streams:
                await reader.readuntil(b'"type":"started"')
            threads = threading.active_count()
            await session.state("busy")
            for reader, _ in streams:
                await reader.readuntil(b'"state":"busy"')
            async with httpx.AsyncClient(trust_env=False) as client:
                headers = {"Authorization": f"Bearer {TOKEN}"}
                answer = await client.get(f"http://127.0.0.1:{port}/api/sessions", headers=headers)
        for _, writer in (*silent, *streams):
            writer.transport.abort()

    assert threads <= before + 2
    assert answer.status_code == 200


async def test_a_connection_that_asks_for_nothing_is_closed(
    store: SQLiteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a while; and beyond the limit one more is told so."""
    monkeypatch.setattr(connections, "FIRST_REQUEST_SECONDS", 0.2)
    async with serving(application(store, tmp_path)) as (server, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert await reader.read() == b""
        writer.close()
        assert server.config.limit_concurrency == connections.MAX_CONNECTIONS


async def test_a_silent_stream_shows_that_it_lives(
    store: SQLiteStore, pretend: Pretend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a reader that is gone is noticed."""
    monkeypatch.setattr(streaming, "KEEP_ALIVE_SECONDS", 0.05)
    await pretend(store)
    async with (
        serving(application(store, tmp_path)) as (_, port),
        httpx.AsyncClient(trust_env=False, timeout=PATIENCE_SECONDS) as client,
        client.stream(
            "GET", f"http://127.0.0.1:{port}/api/sessions/w1/events", headers={"Authorization": f"Bearer {TOKEN}"}
        ) as answer,
    ):
        async for line in answer.aiter_lines():
            if line == ": still here":
                break
        else:
            pytest.fail("the stream ended")


async def test_the_ledgers_events_tell_of_sessions_only_to_whom_may_see_them(
    store: SQLiteStore, pretend: Pretend, tmp_path: Path
) -> None:
    """Reading the ledger on the loopback is free, what agents are told is not."""
    await pretend(store)
    await Items(store).create(title="a ticket")
    async with serving(application(store, tmp_path)) as (_, port):
        seen = {}
        for name, headers in (("nobody", {}), ("holder", {"Authorization": f"Bearer {TOKEN}"})):
            async with (
                httpx.AsyncClient(trust_env=False, timeout=PATIENCE_SECONDS) as client,
                client.stream("GET", f"http://127.0.0.1:{port}/api/events?after=start", headers=headers) as answer,
            ):
                async for line in answer.aiter_lines():
                    if line.startswith("data: "):
                        seen.setdefault(name, json.loads(line[6:])["stream"].partition("/")[0])
                        break

    assert seen == {"nobody": "item", "holder": "session"}
