"""Sessions on the page, in Chromium: a real terminal that can be typed into, messages, approvals, and hostile text."""

from __future__ import annotations

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
import msgspec
import pytest

from harness.ledger import Draft, SQLiteStore, Write
from harness.people import Questions
from harness.processes import Identity
from harness.sessions import facts, ids
from harness.sessions.client import Sessions

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


class Door:
    """A `harness web` over a home of its own."""

    def __init__(self, root: Path, token: str = "") -> None:
        self.root, self.port = root, free_port()
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("HARNESS_")}
        (root / ".harness").mkdir(mode=0o700)
        (root / "harness.toml").write_text(f'[web]\nport = {self.port}\ntoken = "{token}"\n', encoding="utf-8")
        self.process: subprocess.Popen[bytes] | None = None
        self.started: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def home(self) -> Path:
        return self.root / ".harness"

    def run(self, *words: str) -> str:
        """A command of the command line."""
        command = (sys.executable, "-m", "harness", *words)
        done = subprocess.run(
            command, cwd=self.root, env=self.environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start(self, id_: str, *words: str) -> None:
        """A real session, which ends with the test."""
        self.run("run", "--detach", "--id", id_, *words)
        self.started.append(id_)

    def open(self) -> None:
        self.process = subprocess.Popen((sys.executable, "-m", "harness", "web"), cwd=self.root, env=self.environment)
        end = time.monotonic() + 30
        while time.monotonic() < end:
            try:
                httpx.get(f"{self.url}/health", trust_env=False, timeout=2)
            except httpx.HTTPError:
                time.sleep(0.1)
                continue
            return
        raise AssertionError("not ready within 30 s")

    def close(self) -> None:
        for id_ in self.started:
            self.run("stop", "--id", id_, "--timeout", "10")
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(timeout=30)


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    door = Door(tmp_path)
    yield door
    door.close()


@pytest.fixture
async def page() -> AsyncIterator[Page]:
    playwright = pytest.importorskip("playwright.async_api", reason="playwright is missing: uv sync")
    async with playwright.async_playwright() as driver:
        browser = await driver.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        page = await browser.new_page(viewport={"width": 1280, "height": 1000})
        page.set_default_timeout(30_000)
        yield page
        await browser.close()


async def shows(page: Page, text: str) -> None:
    """Wait until the terminal shows a text."""
    await page.wait_for_function("text => document.querySelector('.xterm-rows')?.innerText.includes(text)", arg=text)


@pytest.fixture
async def store(door: Door) -> AsyncIterator[SQLiteStore]:
    async with SQLiteStore(door.home / "harness.db", actor="test") as store:
        yield store


@pytest.fixture
def guard() -> Iterator[Identity]:
    """A process that stands for a session's guard."""
    process = subprocess.Popen(["sleep", "1000"], stdin=subprocess.DEVNULL)
    yield Identity.of(process.pid)
    process.kill()
    process.wait()


async def pretended(store: SQLiteStore, guard: Identity, **values: Any) -> str:
    """A session that only the ledger knows; gives its key."""
    key = ids.new_key("w1")
    claimed = facts.Claimed(
        id="w1", cli="claude", mode=facts.Mode.STREAM, argv=("claude",), cwd="/", machine=ids.machine(), guard_pid=guard.pid,
        guard_started=guard.started, host_pid=guard.pid, host_started=guard.started, **values,
    )  # fmt: skip
    started = facts.Started(pid=guard.pid, started=guard.started)
    await tell(store, key, (facts.CLAIMED, claimed), (facts.STARTED, started))
    return key


async def tell(store: SQLiteStore, key: str, *told: tuple[str, msgspec.Struct]) -> None:
    await store.append(Write(f"session/{key}", tuple(Draft(type=type_, payload=payload) for type_, payload in told)))


async def test_a_terminal_is_watched_typed_into_and_ended(door: Door, page: Page) -> None:
    """From the table to the session; what is typed goes nowhere until it is switched on; a message arrives; stop ends it."""
    door.start("w1", "--description", "a shell", "bash", "--", "--norc")
    door.open()
    requested: list[str] = []
    broken: list[str] = []
    page.on("request", lambda request: requested.append(request.url))
    page.on("pageerror", lambda error: broken.append(str(error)))

    await page.goto(f"{door.url}/sessions")
    await page.click("[data-table=running] a[data-session^='w1@']")
    await page.wait_for_selector("[data-id^='w1@']")
    await shows(page, "bash")
    await page.evaluate("window.neverReloaded = true")
    await page.click("[data-terminal] .xterm-screen")
    await page.keyboard.type("echo un$((40+3))seen\n")
    await page.click("[data-switch=type]")
    await page.keyboard.type("echo se$((40+2))en\n")
    await shows(page, "se42en")
    seen = await page.inner_text(".xterm-rows")
    await page.fill("[data-input=text] textarea, textarea[data-input=text]", "echo by$((1+1))message")
    await page.click("[data-button=send]")
    await shows(page, "by2message")
    await page.wait_for_selector("[data-message]")
    await page.click("[data-button=stop]")
    await page.click("[data-button=stop-now]")
    await page.wait_for_selector("[data-state=exited]")
    await page.wait_for_selector("[data-event='session.exited']")

    assert "un43seen" not in seen
    assert await page.evaluate("window.neverReloaded") is True
    assert await page.locator("[data-button=stop]").count() == 0
    assert broken == []
    assert [url for url in requested if not url.startswith((door.url, "data:"))] == []


async def test_approvals_and_messages_are_answered_by_a_click(
    door: Door, page: Page, store: SQLiteStore, guard: Identity
) -> None:
    """They appear when they are on the ledger, without a reload, and what the click means is on the ledger."""
    key = await pretended(store, guard)
    sessions = Sessions(store, door.home)
    door.open()
    await page.goto(f"{door.url}/sessions/w1")
    await page.wait_for_selector("[data-event='session.started']")
    await page.evaluate("window.neverReloaded = true")
    deadline_us = store.clock.now_us() + 600_000_000
    questions = Questions(store)
    asked = [
        await questions.ask("approval", f"session/{key}#{request}", digest="0" * 64, text="?", deadline_us=deadline_us)
        for request in ("r1", "r2")
    ]
    for request, question in zip(("r1", "r2"), asked, strict=True):
        wanted = facts.ApprovalRequested(
            request=request, tool="Bash", summary="git push", question=question.id, deadline_us=deadline_us
        )
        await tell(store, key, (facts.APPROVAL_REQUESTED, wanted))

    await page.click("[data-button='allow-r1']")
    await page.click("[data-button='deny-r2']")
    left = await page.inner_text("[data-approval=r2] [data-until]")
    await tell(
        store, key,
        (facts.APPROVAL_DECIDED, facts.ApprovalDecided(request="r1", decision="allow", by="person:web")),
        (facts.APPROVAL_DECIDED, facts.ApprovalDecided(request="r2", decision="deny", by="person:web")),
    )  # fmt: skip
    await page.wait_for_selector("[data-approval]", state="detached")
    message_id = await sessions.send(key, "never mind")
    await page.click(f"[data-button='withdraw-{message_id}']")
    await page.wait_for_selector(f"[data-message='{message_id}'][data-status=withdrawn]")

    assert [(await questions.get(question.id)).answer for question in asked] == ["approve", "deny"]
    assert left.endswith("min")
    assert (await sessions.get("w1")).messages[message_id].status == "withdrawn"
    assert await page.evaluate("window.neverReloaded") is True


async def test_hostile_text_is_inert(door: Door, page: Page, store: SQLiteStore, guard: Identity) -> None:
    """What agents, people and files say is shown as text, in the table and everywhere on the session's page."""
    key = await pretended(store, guard, description=HOSTILE, repo=f"/{HOSTILE}")
    await Sessions(store, door.home).send(key, HOSTILE)
    await tell(
        store, key,
        (facts.IDENTIFIED, facts.Identified(model=HOSTILE, vendor_session=HOSTILE)),
        (facts.STATE_CHANGED, facts.StateChanged(
            state=facts.State.BLOCKED, source=facts.Source.HOOK, confidence=1.0, detail=HOSTILE,
        )),
        (facts.APPROVAL_REQUESTED, facts.ApprovalRequested(
            request="r1", tool=HOSTILE, summary=HOSTILE, arguments={HOSTILE: HOSTILE}, question="q-1",
        )),
        (facts.ITEM_COMPLETED, facts.ItemCompleted(kind="text", summary=HOSTILE)),
        (facts.ITEM_COMPLETED, facts.ItemCompleted(kind="tool", name=HOSTILE, summary=HOSTILE * 20)),
    )  # fmt: skip
    door.open()
    dialogs: list[Any] = []
    page.on("dialog", lambda dialog: dialogs.append(dialog.message))
    shown = ""
    for path in ("/", "/sessions", "/sessions/w1"):
        await page.goto(f"{door.url}{path}")
        await page.wait_for_selector("[data-session]" if path != "/sessions/w1" else "[data-said]")
        shown = await page.inner_text("body")
        injected = await page.evaluate("document.querySelectorAll('img[src=x]').length")

        assert "<img src=x" in shown
        assert "\x1b" not in shown
        assert "\u202e" not in shown
        assert injected == 0
        assert await page.title() == "Harness"
    assert shown.count("<script>") > 5
    assert dialogs == []


async def test_where_a_token_is_set_the_page_takes_it(tmp_path: Path, page: Page, guard: Identity) -> None:
    """Once, in the address; until then the page tells nothing about sessions."""
    door = Door(tmp_path, token="s3cret")
    async with SQLiteStore(door.home / "harness.db", actor="test") as store:
        await pretended(store, guard)
    door.open()
    try:
        await page.goto(f"{door.url}/sessions/w1")
        await page.wait_for_selector("[data-error=token]")
        hidden = await page.inner_text("body")
        await page.goto(f"{door.url}/sessions/w1?token=s3cret")
        await page.wait_for_selector("[data-id^='w1@']")

        assert "claude" not in hidden
        assert page.url == f"{door.url}/sessions/w1"
        await page.goto(f"{door.url}/")
        await page.wait_for_selector("[data-session]")
    finally:
        door.close()
