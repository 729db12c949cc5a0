"""Typing at a program's terminal: in order, in pieces, and nobody's keys in the middle of another's text."""

from __future__ import annotations

import asyncio
import re
from collections import deque

from harness.errors import ProcessError, UsageError
from harness.processes import Process

ENTER = b"\r"
INTERRUPT = b"\x03"
END_OF_FILE = b"\x04"
_PASTE, _PASTE_END = b"\x1b[200~", b"\x1b[201~"
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_PIECE = 4096
_PATIENCE_SECONDS = 30.0
_MAX_PRESSED = 1 << 20
_MUCH = 1 << 18
_AFTER_ESCAPE_SECONDS = 0.15  # what follows an Esc at once is taken for Alt and a letter


def check_text(text: str) -> None:
    """Refuse what would be keys rather than text. Raises `UsageError`."""
    found = _CONTROL.search(text)
    if found is not None:
        raise UsageError(f"a message has no control characters, and this one has {found[0]!r}: nothing was typed")


def as_typed(text: str, *, bracketed: bool) -> bytes:
    """The bytes of a text, as one paste where the program knows pastes."""
    data = text.encode("utf-8", "replace")
    return _PASTE + data + _PASTE_END if bracketed else data


class Keyboard:
    """Writes to one process's terminal. `turn` is held by whoever types more than one key that belong together."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self.turn = asyncio.Lock()
        self.bracketed = False  # whether the program has asked for pastes in brackets
        self.typed_at = float("-inf")  # the loop's time when anything was typed last
        self._loop = asyncio.get_running_loop()
        self._free_at = float("-inf")
        self._pressed: deque[bytes] = deque()
        self._count = 0
        self._room = asyncio.Event()
        self.line_ended = True  # by what was pressed last
        self._pump: asyncio.Task[None] | None = None

    async def type(self, data: bytes) -> None:
        """Return when the terminal has taken all of it. Raises `ProcessError` if the program does not read."""
        await asyncio.sleep(max(0.0, self._free_at - self._loop.time()))
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                for start in range(0, len(data), _PIECE):
                    self.typed_at = self._loop.time()
                    await self._process.write(data[start : start + _PIECE])
        except TimeoutError:
            raise ProcessError(f"the program has not read its terminal for {_PATIENCE_SECONDS:.0f} seconds") from None
        self.typed_at = self._loop.time()
        if data.endswith(b"\x1b"):
            self._free_at = self.typed_at + _AFTER_ESCAPE_SECONDS

    def press(self, data: bytes) -> None:
        """Keys of a person, or an answer to the program's own question: typed when it is their turn, without waiting here.

        What a program that does not read has been sent beyond a megabyte is dropped; `room` waits before that.
        """
        if self._count + len(data) > _MAX_PRESSED:
            return
        self._pressed.append(data)
        self._count += len(data)
        self.line_ended = data.endswith((b"\r", b"\n", END_OF_FILE))
        if self._pump is None or self._pump.done():
            self._pump = self._loop.create_task(self._press_all())

    async def room(self) -> None:
        """Return when most of what was pressed has been taken."""
        while self._count > _MUCH:
            self._room.clear()
            await self._room.wait()

    @property
    def idle(self) -> bool:
        """Whether all that was pressed has been taken."""
        return not self._count

    async def _press_all(self) -> None:
        while self._pressed:
            async with self.turn:
                data = b"".join(self._pressed)
                self._pressed.clear()
                try:
                    self.typed_at = self._loop.time()
                    await self._process.write(data)
                except ProcessError:
                    return  # it has exited, or is about to
                finally:
                    self._count -= len(data)
                    self._room.set()

    def close(self) -> None:
        """Forget what was not typed yet. Idempotent."""
        self._pressed.clear()
        self._count = 0
        self._room.set()
        if self._pump is not None:
            self._pump.cancel()
            self._pump = None
