"""A session's own web door: taken ports, its token, what it serves, and its end."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from harness.cli.session_door import ADDRESS_FILE, check_port, open_door
from harness.errors import HarnessError, UsageError
from harness.ledger import SQLiteStore
from harness.sessions.ids import Folder
from harness.settings import Settings, load_settings, prepare_home
from harness.web.server import AddressTaken

Pretend = Callable[..., Any]
PATIENCE_SECONDS = 60.0


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    settings = load_settings(home=tmp_path / ".harness", environment={}, directory=tmp_path)
    prepare_home(settings.home)
    return settings


@pytest.fixture
async def store(settings: Settings) -> AsyncIterator[SQLiteStore]:
    async with SQLiteStore(settings.database, actor="test", durability="process") as store:
        yield store


def test_a_taken_port_is_an_error_before_anything_starts(settings: Settings) -> None:
    """Whoever has it is left alone; a port that was taken for the door is held until it is open."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(AddressTaken, match=f"{port} is in use"):
            check_port("127.0.0.1", port)
        with pytest.raises(AddressTaken):
            open_door(settings, "w1@00000000", port=port)
    with check_port("127.0.0.1", 0) as held, pytest.raises(AddressTaken):
        check_port("127.0.0.1", held.getsockname()[1])
    with pytest.raises(HarnessError, match="cannot listen"):
        check_port("203.0.113.7", 0)
    with pytest.raises(UsageError, match="needs a port"):
        open_door(settings, "w1@00000000")


async def test_the_door_serves_its_session_until_that_ends(settings: Settings, store: SQLiteStore, pretend: Pretend) -> None:
    """With the token in its address, and nothing without; its page is that session's; then the process ends by itself."""
    session = await pretend(store)
    folder = Folder(home=settings.home, key=session.key).take()

    address = open_door(settings, session.key, listening=check_port())
    url, _, token = address.partition("/?token=")
    told = json.loads((folder / ADDRESS_FILE).read_text(encoding="utf-8"))
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=PATIENCE_SECONDS, follow_redirects=True) as client:
        without = await client.get("/api/sessions")
        holding = await client.get("/api/sessions", headers={"Authorization": f"Bearer {token}"})
        page = await client.get(f"/?token={token}")
        other = await client.get("/sessions/other")
        stream = client.stream("GET", "/api/sessions/w1/events")
        async with stream as answer, asyncio.timeout(PATIENCE_SECONDS):
            lines = answer.aiter_lines()
            await session.exit()
            events = [line.removeprefix("event: ") async for line in lines if line.startswith("event: ")]
    async with asyncio.timeout(PATIENCE_SECONDS):
        _, status = await asyncio.to_thread(os.waitpid, told["pid"], 0)

    assert (without.status_code, [row["session"] for row in holding.json()]) == (401, [session.key])
    assert (page.status_code, "w1" in page.text, other.status_code) == (200, True, 404)
    assert events[-1] == "exited"
    assert status == 0
    assert told == {**told, "address": address, "token": token, "host": "127.0.0.1"}
    assert not (folder / ADDRESS_FILE).exists()
    assert (folder / "door.log").stat().st_mode & 0o777 == 0o600
    assert "Traceback" not in (folder / "door.log").read_text(encoding="utf-8")
