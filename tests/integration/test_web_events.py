"""Server-sent events over a real connection: nothing lost, nothing twice, and an end when the door closes."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import anyio
import httpx
import pytest
import uvicorn

from harness.ledger import Draft, SQLiteStore, Write
from harness.web.application import build
from harness.web.context import Context
from harness.web.guard import Access
from harness.work import Items


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """A web door on a real port, over a ledger that this test writes."""

    store: SQLiteStore
    server: uvicorn.Server
    url: str

    async def write(self, first: int, last: int) -> None:
        for number in range(first, last + 1):
            await self.store.append(Write("item/1", (Draft(type="thing.happened", payload={"n": number}),)))

    async def read(
        self, count: int, *, after: str | None = None, resume: str | None = None, **params: str
    ) -> list[dict[str, object]]:
        """The next events as they come, and the connection is dropped in mid-stream."""
        query = {**params, **({"after": after} if after else {})}
        headers = {"Last-Event-ID": resume} if resume else {}
        found: list[dict[str, object]] = []
        with anyio.fail_after(20):
            async with (
                httpx.AsyncClient(trust_env=False, timeout=20) as client,
                client.stream("GET", f"{self.url}/api/events", params=query, headers=headers) as answer,
            ):
                assert answer.headers["content-type"].startswith("text/event-stream")
                async for line in answer.aiter_lines():
                    if line.startswith("data: "):
                        found.append(json.loads(line.removeprefix("data: ")))
                    if len(found) == count:
                        break
        return found


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    async with SQLiteStore(tmp_path / "harness.db", actor="test") as store:
        context = Context(store=store, items=Items(store), home=tmp_path, root=tmp_path)
        config = uvicorn.Config(
            build(context, Access(), page=False),  # type: ignore[arg-type]
            port=0, log_level="error", lifespan="off", timeout_graceful_shutdown=1,
        )  # fmt: skip
        server = uvicorn.Server(config)
        server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]
        serving = asyncio.ensure_future(server.serve())
        with anyio.fail_after(20):
            while not server.started:
                await anyio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield Door(store=store, server=server, url=f"http://127.0.0.1:{port}")
        server.should_exit = True
        await serving


async def test_dropped_and_resumed_nothing_is_lost_or_repeated(door: Door) -> None:
    """Whatever is written meanwhile, Last-Event-ID goes on right behind the last event that was seen."""
    seen: list[dict[str, object]] = []
    cursor: str | None = None
    async with anyio.create_task_group() as group:
        group.start_soon(door.write, 1, 60)
        while len(seen) < 60:
            count = min(7, 60 - len(seen))
            seen += await door.read(count, after=None if cursor else "start", resume=cursor)
            cursor = str(seen[-1]["cursor"])

    assert [event["payload"]["n"] for event in seen] == list(range(1, 61))  # type: ignore[index]
    assert [event["seq"] for event in seen] == list(range(1, 61))


async def test_without_a_cursor_only_what_comes_is_told(door: Door) -> None:
    """As a page that opens now expects it."""
    await door.write(1, 5)

    async with anyio.create_task_group() as group:
        found: list[dict[str, object]] = []

        async def follow() -> None:
            found.extend(await door.read(2))

        group.start_soon(follow)
        while not door.server.server_state.connections:
            await anyio.sleep(0.01)
        while not door.server.server_state.tasks:
            await anyio.sleep(0.01)
        await anyio.sleep(0.3)  # until the request has been answered with its first line
        await door.write(6, 7)

    assert [event["payload"]["n"] for event in found] == [6, 7]  # type: ignore[index]


async def test_streams_and_types_choose(door: Door) -> None:
    """By the beginnings of streams' names, and by exact types."""
    await door.write(1, 3)
    await door.store.append(Write("run/1", (Draft(type="run.started", payload={}),)))

    by_stream = await door.read(1, after="start", stream="run/")
    by_type = await door.read(1, after="start", type="run.started")

    assert by_stream == by_type
    assert by_stream[0]["stream"] == "run/1"


async def test_the_door_closes_although_somebody_listens(door: Door) -> None:
    """An open stream does not hold the process up."""
    await door.write(1, 1)
    with anyio.fail_after(15):
        async with (
            httpx.AsyncClient(trust_env=False, timeout=15) as client,
            client.stream("GET", f"{door.url}/api/events", params={"after": "start"}) as answer,
        ):
            lines = answer.aiter_lines()
            assert (await anext(lines)).startswith(": after")
            door.server.should_exit = True
            with contextlib.suppress(httpx.HTTPError):
                async for _ in lines:
                    pass
