"""A program under a terminal transport, and all that it let on, for tests."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.processes import Process
from harness.sessions.facts import Source, State
from harness.sessions.reports import Outgoing, Progress, Reading, Receipt, Report
from harness.sessions.transports.terminal import TerminalTransport

PATIENCE_SECONDS = 30.0


class Running:
    """A program under a transport, and all that it let on."""

    def __init__(self, transport: TerminalTransport, folder: Path) -> None:
        self.transport = transport
        self.folder = folder
        self.reports: list[Report] = []
        self.shown = b""
        self.process: Process
        self._came = asyncio.Event()

    async def start(self) -> None:
        self.transport.viewers(self._show)
        self.process = await self.transport.start(self._take)

    def _take(self, report: Report) -> None:
        self.reports.append(report)
        self._came.set()

    def _show(self, data: bytes) -> None:
        self.shown += data
        self._came.set()

    async def until(self, condition: Callable[[], object]) -> None:
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while not condition():
                    self._came.clear()
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(0.05):
                            await self._came.wait()
        except TimeoutError:
            said = [report for report in self.reports if not isinstance(report, Progress)]
            raise AssertionError(f"it never came; reports: {said}; output: {self.shown[-2000:]!r}") from None

    def all(self, kind: type[Any]) -> list[Any]:
        return [report for report in self.reports if isinstance(report, kind)]

    def state(self, source: Source) -> State | None:
        return next((reading.state for reading in reversed(self.all(Reading)) if reading.source is source), None)

    async def reads(self, state: State, source: Source, *, since: int = 0) -> Reading:
        """The newest reading of a source, once it is this."""
        await self.until(
            lambda: self.state(source) is state and any(isinstance(each, Reading) for each in self.reports[since:])
        )
        return next(each for each in reversed(self.all(Reading)) if each.source is source)

    async def prompt(self, source: Source = Source.PROCESS) -> None:
        await self.reads(State.PROMPT, source)

    async def send(self, text: str, id_: str = "m1", **how: Any) -> None:
        await self.transport.deliver(Outgoing(message_id=id_, text=text, **how))

    def stages(self, id_: str = "m1") -> list[str]:
        return [receipt.stage for receipt in self.all(Receipt) if receipt.message_id == id_]

    async def shows(self, text: bytes) -> None:
        await self.until(lambda: text in self.shown)

    def journal(self) -> list[dict[str, str]]:
        with contextlib.suppress(FileNotFoundError):
            return [json.loads(line) for line in (self.folder / "journal").read_text().splitlines()]
        return []

    def prompts(self) -> list[str]:
        return [each["prompt"] for each in self.journal() if "prompt" in each]
