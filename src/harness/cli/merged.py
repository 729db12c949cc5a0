"""The merged log of `harness run`: what every service writes, and what Harness notices and does, line by line."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.ledger import Store
    from harness.processes import Lines
    from harness.web.words import Tone

_PALETTE = (36, 35, 34, 32, 33, 96, 95, 94)
_WIDTH = 16


class MergedLog:
    """Prints lines as `time who text`; bytes of services are cut into lines and cleaned."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        self._lines: dict[str, Lines] = {}
        self._colours: dict[str, int] = {}

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
            print(f"{now} {who:<{_WIDTH}} {text}", flush=True)
            return
        shade = self._colours.setdefault(who, _PALETTE[len(self._colours) % len(_PALETTE)])
        body = {"bad": 31, "good": 32, "ask": 33}.get(tone.value if tone else "", 1 if bold else 0)
        print(f"\x1b[2m{now}\x1b[0m \x1b[{shade}m{who:<{_WIDTH}}\x1b[0m \x1b[{body}m{text}\x1b[0m", flush=True)
