"""The page in Chromium: live, without a reload, with every asset from its own door, and deaf to hostile text."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from harness.ledger import SQLiteStore
from harness.recovery import demo_toml, facts
from harness.work import Items

if TYPE_CHECKING:
    from playwright.async_api import Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.real,
    pytest.mark.timeout(180),
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is missing: apt-get install chromium"),
]
ARGUMENTS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
HOSTILE = "<img src=x onerror=document.title='owned'><script>document.title='owned'</script>\x1b[31m\u202e"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Running:
    """A whole `harness run` with the demo's service and buttons."""

    def __init__(self, root: Path) -> None:
        self.root, self.web, service = root, free_port(), free_port()
        text = demo_toml(port=service, raised_limits=True).replace('restart_service = "auto"', 'restart_service = "approve"')
        (root / "harness.toml").write_text(f"{text}\n[web]\nport = {self.web}\n", encoding="utf-8")
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HARNESS_")}
        self.process = subprocess.Popen(
            (sys.executable, "-m", "harness", "run", "--demo"), cwd=root, env=environment, stdout=subprocess.DEVNULL
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.web}"

    @property
    def database(self) -> Path:
        return self.root / ".harness" / "harness.db"

    def wait(self) -> None:
        end = time.monotonic() + 30
        while time.monotonic() < end:
            try:
                seen = httpx.get(f"{self.url}/api/overview", trust_env=False, timeout=2).json()
            except httpx.HTTPError:
                time.sleep(0.2)
                continue
            if len(seen["checks"]) == 2 and all(check["result"] == "pass" for check in seen["checks"]):
                return
            time.sleep(0.2)
        raise AssertionError("not ready within 30 s")

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=30)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    running = Running(tmp_path)
    try:
        running.wait()
        yield running
    finally:
        running.stop()


@pytest.fixture
async def page(running: Running) -> AsyncIterator[Page]:
    playwright = pytest.importorskip("playwright.async_api", reason="playwright is missing: uv sync")
    async with playwright.async_playwright() as driver:
        browser = await driver.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        page = await browser.new_page(viewport={"width": 1280, "height": 1000})
        page.set_default_timeout(20_000)
        yield page
        await browser.close()


async def test_an_incident_is_seen_and_answered_without_a_reload(running: Running, page: Page) -> None:
    """Cards turn red and green, the ticket and its question appear, a click approves, the timeline ends healed."""
    requested: list[str] = []
    broken: list[str] = []
    page.on("request", lambda request: requested.append(request.url))
    page.on("pageerror", lambda error: broken.append(str(error)))
    await page.goto(running.url)
    await page.wait_for_selector("[data-service=rate_limiter][data-health=good]")
    await page.wait_for_selector("[data-check=rate_limiter_healthy][data-health=good]")
    await page.evaluate("window.neverReloaded = true")

    await page.click("[data-button=chaos-kill-rate_limiter]")
    await page.wait_for_selector("[data-service=rate_limiter][data-health=bad]")
    await page.wait_for_selector("[data-check=rate_limiter_healthy][data-health=bad]")
    await page.wait_for_selector("[data-ticket]")
    await page.click("[data-button^=approve-]")
    await page.wait_for_selector("[data-incident][data-status=completed]")
    await page.wait_for_selector("[data-service=rate_limiter][data-health=good]")
    await page.wait_for_selector("[data-check=rate_limiter_healthy][data-health=good]")
    story = await page.inner_text("[data-incident]")

    assert await page.evaluate("window.neverReloaded") is True
    assert await page.locator("[data-ticket]").count() == 0
    for part in ("killed by signal 9", "opened ticket", "restart service rate_limiter", "healed"):
        assert part in story
    assert broken == []
    assert [url for url in requested if not url.startswith((running.url, "data:"))] == []


async def test_pausing_by_a_click_is_on_the_ledger(running: Running, page: Page) -> None:
    """And is shown to everybody."""
    await page.goto(running.url)
    await page.click("[data-button=pause]")
    await page.wait_for_selector("[data-button=unpause]")

    health = httpx.get(f"{running.url}/health", trust_env=False).json()
    await page.click("[data-button=unpause]")
    await page.wait_for_selector("[data-button=pause]")

    assert health["paused"] is True
    assert httpx.get(f"{running.url}/health", trust_env=False).json()["paused"] is False


async def test_hostile_text_is_inert(running: Running, page: Page) -> None:
    """Titles, reasons, names and logs with markup in them are shown as text; nothing of them runs."""
    async with SQLiteStore(running.database, actor="test", create=False) as store:
        item = await Items(store).create(title=HOSTILE, description=HOSTILE)
        opened = facts.IncidentOpened(
            ticket=item.id, fingerprint="f", check="c", target=HOSTILE, title=HOSTILE, observed=HOSTILE
        )
        asked = facts.IncidentEscalated(ticket=item.id, reason=HOSTILE, known=(HOSTILE,))
        await store.append(_write(f"incident/{item.id}", opened, asked))
    dialogs: list[Any] = []
    page.on("dialog", lambda dialog: dialogs.append(dialog.message))
    await page.goto(running.url)
    await page.wait_for_selector(f"[data-ticket='{item.id}']")
    await page.wait_for_selector(f"[data-incident='{item.id}']")

    shown = await page.inner_text(f"[data-ticket='{item.id}']")
    injected = await page.evaluate(
        "document.querySelectorAll('img[src=x]').length + document.querySelectorAll('[data-ticket] script').length"
    )

    assert "<img src=x" in shown
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert injected == 0
    assert await page.title() == "Harness"
    assert dialogs == []


def _write(stream: str, *told: facts.Fact) -> Any:
    from harness.ledger import Write

    return Write(stream, tuple(facts.draft(fact) for fact in told))


async def test_events_go_on_where_they_stopped(running: Running) -> None:
    """Server-sent events, resumed by Last-Event-ID over a real connection: nothing lost, nothing twice."""
    async with httpx.AsyncClient(trust_env=False, timeout=20) as client:
        first = await _messages(client, running, 5, after="start")
        second = await _messages(client, running, 5, resume=first[-1]["cursor"])
        whole = await _messages(client, running, 10, after="start")

    assert [*first, *second] == whole


async def _messages(
    client: httpx.AsyncClient, running: Running, count: int, *, after: str = "", resume: str = ""
) -> list[dict[str, Any]]:
    headers = {"Last-Event-ID": resume} if resume else {}
    params = {"after": after} if after else {}
    found: list[dict[str, Any]] = []
    async with client.stream("GET", f"{running.url}/api/events", params=params, headers=headers) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        async for line in answer.aiter_lines():
            if line.startswith("data: "):
                found.append(json.loads(line.removeprefix("data: ")))
            if len(found) == count:
                break
    return found


@pytest.fixture
async def foreign() -> AsyncIterator[str]:
    """A page of somebody else on this machine: the same host, another port, so another origin."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n\r\n<title>foreign</title>")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"


_OPENS = """url => new Promise(done => { const s = new WebSocket(url);
    s.onopen = () => done(true); s.onerror = () => done(false); setTimeout(() => done(null), 5000); })"""
_POSTS = "url => fetch(url, {method: 'POST', mode: 'no-cors'}).then(() => 'sent').catch(() => 'refused')"


async def test_a_foreign_page_neither_writes_nor_opens_the_socket(running: Running, page: Page, foreign: str) -> None:
    """What the page itself may do, a page of another origin may not."""
    socket_url = f"{running.url.replace('http', 'ws')}/_nicegui_ws/socket.io/?EIO=4&transport=websocket"
    await page.goto(running.url)
    own = await page.evaluate(_OPENS, socket_url)
    await page.goto(foreign)
    other = await page.evaluate(_OPENS, socket_url)
    await page.evaluate(_POSTS, f"{running.url}/api/pause")

    assert (own, other) == (True, False)
    assert httpx.get(f"{running.url}/health", trust_env=False).json()["paused"] is False
