"""The merged log of `harness run`: what every service writes, and what Harness notices and does, line by line."""

from __future__ import annotations

import contextlib
import os
import queue
import sys
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.ledger import Store
    from harness.processes import Lines
    from harness.web.words import Tone

_PALETTE = (36, 35, 34, 32, 33, 96, 95, 94)
_WIDTH = 16
_MAX_WAITING = 20_000  # lines


class Printer:
    """Prints lines in a thread of its own, so that a frozen or vanished reader holds nobody up.

    Lines that a slow reader leaves no room for are counted and told; after the reader is gone all are dropped.
    """

    def __init__(self) -> None:
        self._lines: queue.Queue[str | None] = queue.Queue(_MAX_WAITING)
        self._dropped = 0
        self._thread = threading.Thread(target=self._run, name="merged log", daemon=True)
        self._thread.start()

    def put(self, line: str) -> None:
        """Print a line soon. Never waits."""
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self._dropped += 1

    def _run(self) -> None:
        try:
            while (line := self._lines.get()) is not None:
                if self._dropped:
                    dropped, self._dropped = self._dropped, 0
                    line = f"({dropped} lines were not shown: whoever reads them is too slow)\n{line}"
                sys.stdout.write(line + "\n")
                sys.stdout.flush()
        except (OSError, ValueError):  # nobody reads any more, or the disk that it went to is full
            with contextlib.suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what Python still holds can be flushed
            while self._lines.get() is not None:
                pass

    def close(self) -> None:
        """Print what waits, if that goes quickly."""
        with contextlib.suppress(queue.Full):
            self._lines.put(None, timeout=1)
        self._thread.join(timeout=2)


class MergedLog:
    """Prints lines as `time who text`; bytes of services are cut into lines and cleaned."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        self._lines: dict[str, Lines] = {}
        self._colours: dict[str, int] = {}
        self._printer = Printer()

    def close(self) -> None:
        """Print what waits and end."""
        self._printer.close()

    def say(self, text: str) -> None:
        """A line of Harness itself."""
        self._print("harness", text, bold=True)

    def output(self, name: str, data: bytes) -> None:
        """Bytes that a service wrote."""
        if self._quiet:
            return
        from harness.processes import Lines
        from harness.text import sanitise

        lines = self._lines.setdefault(name, Lines(max_bytes=4096))
        for line in lines.feed(data):
            self._print(name, sanitise(line.decode(errors="replace")).rstrip())

    async def follow(self, store: Store) -> None:
        """What the ledger tells from now on, in words."""
        from harness.web.words import words_of

        prefixes = ("service/", "check/", "incident/", "control/")
        async for event in store.follow(after=await store.tail(), streams=prefixes):
            told = words_of(event)
            if told is not None and told.tone not in ("quiet", "saw"):
                self._print(told.who, told.text, tone=told.tone)

    def _print(self, who: str, text: str, *, tone: Tone | None = None, bold: bool = False) -> None:
        now = time.strftime("%H:%M:%S")
        if not self._colour:
            self._printer.put(f"{now} {who:<{_WIDTH}} {text}")
            return
        shade = self._colours.setdefault(who, _PALETTE[len(self._colours) % len(_PALETTE)])
        body = {"bad": 31, "good": 32, "ask": 33}.get(tone.value if tone else "", 1 if bold else 0)
        self._printer.put(f"\x1b[2m{now}\x1b[0m \x1b[{shade}m{who:<{_WIDTH}}\x1b[0m \x1b[{body}m{text}\x1b[0m")
