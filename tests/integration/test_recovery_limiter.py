"""The demo's rate limiter over real sockets."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from harness.recovery.limiter import Buckets, Limit, Limiter, Server


@asynccontextmanager
async def serving(limiter: Limiter, chaos_file: str | None = None) -> AsyncIterator[tuple[httpx.AsyncClient, asyncio.Event]]:
    listening = socket.create_server(("127.0.0.1", 0))
    listening.setblocking(False)
    until = asyncio.Event()
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    async with asyncio.TaskGroup() as tasks, httpx.AsyncClient(base_url=url, trust_env=False, timeout=5) as client:
        tasks.create_task(Server(limiter, chaos_file=chaos_file).serve(listening, until=until))
        try:
            yield client, until
        finally:
            until.set()


def test_a_bucket_refills_and_never_overflows() -> None:
    """Capacity at once, refill in the long run, per key."""
    buckets = Buckets(Limit(capacity=2, refill_per_second=1))

    taken = [buckets.take("a", 1, at)[0] for at in (0.0, 0.0, 0.0, 1.0, 1.0, 100.0, 100.0, 100.0)]

    assert taken == [True, True, False, True, False, True, True, False]
    assert buckets.take("b", 2, 100.0) == (True, 0.0)


def test_keys_do_not_grow_without_bound() -> None:
    """A flood of keys costs no more memory than the bound."""
    buckets = Buckets()

    for number in range(10_050):
        buckets.take(str(number), 1, 0.0)

    assert len(buckets) == 10_000


async def test_it_answers_checks_health_and_metrics() -> None:
    """The documented paths, over a kept connection; what is wrong is refused with a reason."""
    async with serving(Limiter(log=lambda _: None)) as (client, _):
        health = await client.get("/health")
        checks = [await client.get("/check", params={"key": "k", "cost": "60"}) for _ in range(2)]
        wrong = [
            await client.get("/check?cost=nan"),
            await client.get("/check?cost=-1"),
            await client.get("/x"),
            await client.put("/x"),
        ]
        metrics = await client.get("/metrics")

    assert (health.status_code, health.json()["status"]) == (200, "ok")
    assert [answer.status_code for answer in checks] == [200, 429]
    assert int(checks[1].headers["Retry-After"]) >= 1
    assert [answer.status_code for answer in wrong] == [400, 400, 404, 405]
    assert 'rate_limiter_decisions_total{decision="rejected"} 1' in metrics.text


async def test_it_looks_at_a_changed_configuration_by_itself(tmp_path: Path) -> None:
    """A new limit counts at the next request; a bad one makes it unhealthy, says why, and is mended the same way."""
    config, said = tmp_path / "limiter.toml", list[str]()
    async with serving(Limiter(config=config, log=said.append)) as (client, _):
        before = await client.get("/check?cost=90")
        config.write_text("capacity = 1\n")
        after = await client.get("/check?cost=2")
        config.write_text("capacity = 'none'\n")
        broken = await client.get("/health")
        config.unlink()
        mended = await client.get("/health")

    assert [answer.status_code for answer in (before, after, broken, mended)] == [200, 429, 503, 200]
    assert "capacity must be a number above zero" in broken.json()["error"]
    assert any(line.startswith("ERROR configuration is not usable") for line in said)


@pytest.mark.parametrize("kind", ["slow", "503"])
async def test_a_fault_shows_in_the_process_it_names_and_no_other(tmp_path: Path, kind: str) -> None:
    """The control file holds for one pid until its time is over; a restarted process is well."""
    control, said = tmp_path / "chaos.json", list[str]()
    fault = {"kind": kind, "pid": os.getpid(), "until_us": time.time_ns() // 1000 + 60_000_000, "seconds": 0.3}
    async with serving(Limiter(log=said.append), str(control)) as (client, _):
        control.write_text(json.dumps(fault))
        ill = await client.get("/health")
        control.write_text(json.dumps({**fault, "pid": 1}))
        other = await client.get("/health")
        control.write_text(json.dumps({**fault, "until_us": 1}))
        over = await client.get("/health")
        control.write_text("{half")
        garbled = await client.get("/health")

    assert (ill.status_code, ill.elapsed.total_seconds() >= 0.3) == ((200, True) if kind == "slow" else (503, False))
    assert [answer.status_code for answer in (other, over, garbled)] == [200, 200, 200]
    assert any(line.startswith("WARNING" if kind == "slow" else "ERROR") for line in said)


async def test_it_finishes_what_it_has_begun_before_it_ends(tmp_path: Path) -> None:
    """A request under way, and one on an accepted connection, are answered after the end was asked for."""
    control = tmp_path / "chaos.json"
    fault = {"kind": "slow", "pid": os.getpid(), "until_us": time.time_ns() // 1000 + 60_000_000, "seconds": 0.2}
    control.write_text(json.dumps(fault))
    async with serving(Limiter(log=lambda _: None), str(control)) as (client, until):
        reader, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
        slow = asyncio.ensure_future(client.get("/health"))
        await asyncio.sleep(0.05)
        until.set()
        await asyncio.sleep(0.05)  # its accepted connection has sent nothing yet when the end begins
        writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        late = await reader.read()
        writer.close()
        answered = await slow

    assert (answered.status_code, answered.headers["Connection"]) == (200, "close")
    assert late.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "sent", [b"\r\n\r\n", b"hello\r\n\r\n", b"GET / HTTP/9\r\n\r\n", b"\xff" * 20_000, b"GET /health HTTP/1.1\r\n"]
)
async def test_garbage_neither_hangs_nor_ends_it(sent: bytes) -> None:
    """Whatever one connection sends, the next request is answered."""
    async with serving(Limiter(log=lambda _: None)) as (client, _):
        reader, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
        writer.write(sent)
        writer.write_eof()
        async with asyncio.timeout(5):
            await reader.read()
        writer.close()

        assert (await client.get("/health")).status_code == 200
