"""The HTTP API over a real ledger."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from harness.ledger import SQLiteStore, Write
from harness.recovery import approvals, facts
from harness.web.application import build
from harness.web.context import Context
from harness.web.guard import Access
from harness.work import Items


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SQLiteStore]:
    async with SQLiteStore(tmp_path / "harness.db", actor="web") as store:
        yield store


@pytest.fixture
async def api(store: SQLiteStore, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    context = Context(store=store, items=Items(store), home=tmp_path, root=tmp_path)
    app = build(context, Access(), page=False)
    transport = httpx.ASGITransport(app=app)  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost:8000") as client:
        yield client


async def test_a_ticket_lives_over_the_api(api: httpx.AsyncClient) -> None:
    """Opened, found, changed, noted, and its history tells all of it."""
    opened = (await api.post("/api/tickets", json={"title": "Disk is full", "priority": "high"})).json()

    changed = await api.patch(f"/api/tickets/{opened['id']}", json={"priority": "critical", "note": "look at /var"})
    shown = (await api.get(f"/api/tickets/{opened['id']}")).json()

    assert opened["status"] == "pending"
    assert opened["ready"] is True
    assert opened["source_type"] == "human"
    assert changed.json()["priority"] == "critical"
    assert [event["type"] for event in shown["events"]] == [
        "item.created", "item.described", "item.prioritised", "item.noted",
    ]  # fmt: skip


async def test_tickets_are_listed_by_status_and_source(api: httpx.AsyncClient) -> None:
    """Filters, pages, and the number of all that match."""
    first = (await api.post("/api/tickets", json={"title": "one", "priority": "low"})).json()
    second = (await api.post("/api/tickets", json={"title": "two", "priority": "critical", "source_type": "webhook"})).json()
    await api.patch(f"/api/tickets/{first['id']}", json={"status": "cancelled", "reason": "not needed"})

    everything = await api.get("/api/tickets?limit=1&offset=1")
    ready = (await api.get("/api/tickets?status=ready")).json()
    cancelled = (await api.get("/api/tickets?status=cancelled")).json()
    webhooks = (await api.get("/api/tickets?source_type=webhook")).json()

    assert everything.headers["X-Total-Count"] == "2"
    assert len(everything.json()) == 1
    assert [ticket["id"] for ticket in ready] == [second["id"]]
    assert [ticket["id"] for ticket in cancelled] == [first["id"]]
    assert [ticket["id"] for ticket in webhooks] == [second["id"]]


async def test_one_source_is_open_once(api: httpx.AsyncClient) -> None:
    """Type and id together; another type with the same id is another matter; parked is open too."""
    body = {"title": "slow", "source_type": "slo", "source_id": "1"}
    first = await api.post("/api/tickets", json=body)
    await api.patch(f"/api/tickets/{first.json()['id']}", json={"status": "parked", "reason": "later"})

    again = await api.post("/api/tickets", json=body)
    other = await api.post("/api/tickets", json={**body, "source_type": "invariant"})

    assert (first.status_code, again.status_code, other.status_code) == (201, 200, 201)
    assert again.json()["id"] == first.json()["id"]
    assert again.json()["occurrences"] == 2
    assert other.json()["id"] != first.json()["id"]


async def test_a_person_cannot_complete_what_has_gates(api: httpx.AsyncClient, store: SQLiteStore) -> None:
    """Completed is the verifier's word."""
    item = await Items(store).create(title="heal", gates=("checks",))

    refused = await api.patch(f"/api/tickets/{item.id}", json={"status": "completed", "reason": "trust me"})

    assert refused.status_code == 409
    assert refused.json()["error"]["code"] == "illegal_transition"


async def test_dependencies_are_shown_and_circles_refused(api: httpx.AsyncClient) -> None:
    """A ticket that waits is not ready; two cannot wait for each other."""
    first = (await api.post("/api/tickets", json={"title": "first"})).json()["id"]
    second = (await api.post("/api/tickets", json={"title": "second", "depends_on": [first]})).json()["id"]

    seen = (await api.get(f"/api/tickets/{second}/dependencies")).json()
    circle = await api.post(f"/api/tickets/{first}/dependencies", json={"depends_on": second})

    assert [ticket["id"] for ticket in seen["depends_on"]] == [first]
    assert (await api.get(f"/api/tickets/{second}")).json()["ready"] is False
    assert circle.status_code == 409
    assert circle.json()["error"]["code"] == "dependency_cycle"


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("GET", "/api/tickets/nope", None, 404, "not_found"),
        ("GET", "/api/nope", None, 404, "not_found"),
        ("DELETE", "/api/tickets", None, 405, "method_not_allowed"),
        ("GET", "/api/tickets?status=open", None, 422, "invalid"),
        ("POST", "/api/tickets", {"title": ""}, 422, "invalid"),
        ("POST", "/api/tickets", {"title": "x", "colour": "red"}, 422, "invalid"),
        ("POST", "/api/tickets", {"title": "x", "source_type": "cron"}, 422, "invalid"),
        ("POST", "/api/tickets", {"title": "x", "depends_on": ["nope"]}, 404, "not_found"),
        ("POST", "/api/services/nope/restart", None, 404, "not_found"),
        ("GET", "/api/invariants/nope", None, 404, "not_found"),
        ("GET", "/api/events?after=%ff", None, 422, "invalid"),
    ],
)
async def test_every_error_has_one_shape(
    api: httpx.AsyncClient, method: str, path: str, body: object, status: int, code: str
) -> None:
    """A code for machines and a message for people, and nothing of the inside."""
    answer = await api.request(method, path, json=body)

    assert answer.status_code == status
    assert set(answer.json()) == {"error"}
    assert set(answer.json()["error"]) == {"code", "message", "details"}
    assert answer.json()["error"]["code"] == code
    assert "Traceback" not in answer.text


async def test_a_foreign_page_is_refused_before_anything_happens(api: httpx.AsyncClient, store: SQLiteStore) -> None:
    """In the same shape, and nothing is written."""
    crossed = await api.post("/api/tickets", json={"title": "x"}, headers={"Origin": "http://evil.example"})
    rebound = await api.get("/api/tickets", headers={"Host": "evil.example"})

    assert (crossed.status_code, crossed.json()["error"]["code"]) == (403, "foreign_origin")
    assert (rebound.status_code, rebound.json()["error"]["code"]) == (421, "unknown_host")
    assert await store.heads() == []


async def test_an_invariant_is_registered_switched_off_and_on(api: httpx.AsyncClient) -> None:
    """DELETE is soft: the check stays known."""
    new = {"name": "web_up", "query": "http://localhost:8001/health", "condition": "status == 200"}

    added = await api.post("/api/invariants", json=new)
    again = await api.post("/api/invariants", json=new)
    disabled = await api.delete("/api/invariants/web_up")
    enabled = await api.post("/api/invariants/web_up/enable")

    assert (added.status_code, added.json()["result"]) == (201, "unknown")
    assert again.status_code == 409
    assert disabled.json()["enabled"] is False
    assert [check["name"] for check in (await api.get("/api/invariants")).json()] == ["web_up"]
    assert enabled.json()["enabled"] is True


@pytest.mark.parametrize("condition", ["status = 200", "status", "colour == 3", "status == 'x'"])
async def test_a_condition_that_makes_no_sense_is_refused(api: httpx.AsyncClient, condition: str) -> None:
    """When it is registered, not when it is asked."""
    refused = await api.post("/api/invariants", json={"name": "a", "query": "http://localhost/", "condition": condition})

    assert refused.status_code == 422
    assert refused.json()["error"]["code"] == "invalid_declaration"
    assert (await api.get("/api/invariants")).json() == []


async def test_pausing_is_seen_and_taken_back(api: httpx.AsyncClient) -> None:
    """By health, by the metrics and by the answer."""
    paused = (await api.post("/api/pause", json={"reason": "release"})).json()
    health = (await api.get("/health")).json()
    metrics = (await api.get("/metrics")).text
    await api.post("/api/unpause")

    assert paused["paused"] is True
    assert "release" in paused["reason"]
    assert health == {"ok": True, "supervised": False, "paused": True}
    assert "\nharness_paused 1\n" in metrics
    assert (await api.get("/health")).json()["paused"] is False


async def test_statistics_count_from_nothing(api: httpx.AsyncClient) -> None:
    """An empty ledger has numbers, not errors."""
    stats = (await api.get("/api/stats")).json()

    assert stats["incidents"] == 0
    assert stats["seconds_to_verify"] is None


async def test_the_api_describes_itself(api: httpx.AsyncClient) -> None:
    """OpenAPI, with every path of the contract and the one shape of errors."""
    described = (await api.get("/openapi.json")).json()

    assert {
        "/api/tickets", "/api/tickets/{ticket}", "/api/tickets/{ticket}/events", "/api/tickets/{ticket}/dependencies",
        "/api/tickets/{ticket}/approve", "/api/tickets/{ticket}/deny", "/api/invariants", "/api/services",
        "/api/incidents/{ticket}", "/api/stats", "/api/events", "/health", "/metrics",
    } <= set(described["paths"])  # fmt: skip
    assert "ErrorBody" in described["components"]["schemas"]


@pytest.mark.parametrize(("word", "answer"), [("approve", "approve"), ("deny", "deny")])
async def test_a_person_answers_an_agent(api: httpx.AsyncClient, store: SQLiteStore, word: str, answer: str) -> None:
    """Once, about exactly what was asked; nothing asked is not found."""
    item = await Items(store).create(title="heal")
    request = facts.ActionRequested(
        action_id="a1", kind=facts.ActionKind.RESTART_SERVICE, target="api", requested_by="agent", ticket=item.id
    )
    question = await approvals.ask(store, request)

    first = await api.post(f"/api/tickets/{item.id}/{word}", json={"reason": "fine", "question": question.id})
    again = await api.post(f"/api/tickets/{item.id}/{word}")

    assert (first.status_code, first.json()["answer"], first.json()["question"]) == (200, answer, question.id)
    assert (again.status_code, again.json()["error"]["code"]) == (404, "not_found")


async def test_an_incident_is_told_in_words(api: httpx.AsyncClient, store: SQLiteStore) -> None:
    """Its row, its timeline since the fault, and the events that these are told from."""
    item = await Items(store).create(title="api is down")
    injected = facts.ChaosInjected(chaos_id="c", kind=facts.ChaosKind.KILL, pid=7, epoch=1)
    exited = facts.ServiceExited(epoch=1, pid=7, code=None, signal=9, ran_seconds=2.0)
    opened = facts.IncidentOpened(ticket=item.id, fingerprint="f", check="c", target="api", title="api is down")
    await store.append(Write("service/api", (facts.draft(injected), facts.draft(exited))))
    await store.append(Write(facts.incident_stream(item.id), (facts.draft(opened),)))

    (row,) = (await api.get("/api/incidents")).json()
    whole = (await api.get(f"/api/incidents/{item.id}")).json()

    assert (row["ticket"], row["status"], row["target"]) == (item.id, "open", "api")
    assert whole["incident"] == row
    assert "kill injected into api (pid 7)" in [line["text"] for line in whole["timeline"]]
    assert all(line["seconds"] >= 0 for line in whole["timeline"])
    assert {event["type"] for event in whole["events"]} >= {"chaos.injected", "service.exited", "incident.opened"}
    assert (await api.get("/api/stats")).json()["incidents"] == 1


async def test_a_fault_is_the_demos_alone(api: httpx.AsyncClient) -> None:
    """Elsewhere nobody breaks a service over the network."""
    refused = await api.post("/api/services/api/chaos", json={"kind": "kill"})

    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "denied")


async def test_where_a_token_is_set_writing_takes_it(store: SQLiteStore, tmp_path: Path) -> None:
    """Through the whole application, with the one shape of errors."""
    context = Context(store=store, items=Items(store), home=tmp_path, root=tmp_path)
    app = build(context, Access(token="s3cret"), page=False)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://localhost") as client:  # type: ignore[arg-type]
        without = await client.post("/api/tickets", json={"title": "x"})
        holding = await client.post("/api/tickets", json={"title": "x"}, headers={"Authorization": "Bearer s3cret"})
        reading = await client.get("/api/tickets")

    assert (without.status_code, without.json()["error"]["code"]) == (401, "token_required")
    assert holding.status_code == 201
    assert len(reading.json()) == 1


@pytest.mark.parametrize("declared", [True, False], ids=["declared", "chunked"])
async def test_a_body_is_of_a_bounded_size(api: httpx.AsyncClient, declared: bool) -> None:
    """Nobody fills the door's memory; what fits is answered as ever."""

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield b" " * 65536

    content = b" " * 40 * 65536 if declared else pieces()
    headers = {"Content-Type": "application/json"}
    refused = await api.post("/api/tickets", content=content, headers=headers)
    fits = await api.post("/api/tickets", content=b'{"title":"it fits"}' + b" " * 65536 * 2, headers=headers)

    assert (refused.status_code, refused.json()["error"]["code"]) == (413, "too_large")
    assert fits.status_code == 201


async def test_a_cursor_beyond_the_end_is_refused(api: httpx.AsyncClient) -> None:
    """It is of another ledger, and whatever comes next would be left out without a word."""
    await api.post("/api/tickets", json={"title": "one"})

    refused = await api.get("/api/events", headers={"Last-Event-ID": "99999999"})

    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "invalid")
