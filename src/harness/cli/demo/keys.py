"""Keys pressed at the demo's terminal, one at a time, without waiting for a line; the terminal is put back afterwards."""

from __future__ import annotations

import asyncio
import os
import sys
import termios
import tty
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

from harness.cli.demo.stage import is_interactive

CHAOS_KEYS = {"k": "kill", "h": "hang", "s": "slow", "5": "503"}


@asynccontextmanager
async def keys() -> AsyncGenerator[AsyncIterator[str]]:
    """The keys as they are pressed; without a terminal nothing comes, until cancelled."""
    pressed: asyncio.Queue[str] = asyncio.Queue()
    if not is_interactive():
        yield _taken(pressed)
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    loop = asyncio.get_running_loop()

    def read() -> None:
        text = os.read(descriptor, 16) or b"\x04"
        for char in text.decode(errors="ignore"):
            pressed.put_nowait(char)

    tty.setcbreak(descriptor)
    loop.add_reader(descriptor, read)
    try:
        yield _taken(pressed)
    finally:
        loop.remove_reader(descriptor)
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


async def _taken(pressed: asyncio.Queue[str]) -> AsyncIterator[str]:
    while True:
        yield await pressed.get()
