"""Running a program to its end within limits of time and output, and telling how it went. Nobody of its tree is left."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass

from harness.errors import ProcessError
from harness.processes.process import Exit, Process
from harness.processes.starting import Spec, spawn

GRACE_SECONDS = 2.0
MAX_OUTPUT_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Captured:
    """How a program ended. `output` is what it wrote, without the middle of what was too much."""

    exit: Exit
    output: bytes
    errors: bytes = b""  # stderr, if it was split off
    left_out_bytes: int = 0
    timed_out: bool = False
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        return self.exit.code == 0 and not self.timed_out


class Ends:
    """The first and the last part of what is written, so that a flood costs no memory."""

    def __init__(self, limit: int) -> None:
        self._half = max(1, limit // 2)
        self._first = bytearray()
        self._last = bytearray()
        self.left_out = 0

    def feed(self, data: bytes) -> None:
        """Take what comes next."""
        room = self._half - len(self._first)
        if room > 0:
            self._first += data[:room]
            data = data[room:]
        self._last += data
        if len(self._last) > 2 * self._half:
            self._cut()

    def _cut(self) -> None:
        over = len(self._last) - self._half
        if over > 0:
            self.left_out += over
            del self._last[:over]

    def text(self) -> bytes:
        """Both parts, with a line between them that says how much is missing."""
        self._cut()
        if not self.left_out:
            return bytes(self._first + self._last)
        return bytes(self._first) + b"\n[... %d bytes left out ...]\n" % self.left_out + bytes(self._last)


async def capture(
    spec: Spec,
    *,
    timeout_seconds: float,
    stdin: bytes | None = None,
    max_output_bytes: int = MAX_OUTPUT_BYTES,
    split: bool = False,
) -> Captured:
    """Run a program until it ends, or end it and its whole tree after `timeout_seconds` or when cancelled.

    What it started and left behind is ended with it. With `split` its stderr is kept apart. Raises `ProcessError` if it
    cannot be started.
    """
    output, errors = Ends(max_output_bytes), Ends(max_output_bytes)
    began = time.monotonic()
    process = await spawn(
        spec._replace(stdin=stdin is not None), on_output=output.feed, on_error=errors.feed if split else None
    )
    timed_out = False
    try:
        async with asyncio.timeout(timeout_seconds):
            if stdin is not None:
                await _feed(process, stdin)
            await process.wait()
    except TimeoutError:
        timed_out = True
    finally:
        await _end(process)
    assert process.exit is not None  # `stop` returns when everybody is gone
    return Captured(
        exit=process.exit, output=output.text(), errors=errors.text(), left_out_bytes=output.left_out + errors.left_out,
        timed_out=timed_out, seconds=time.monotonic() - began,
    )  # fmt: skip


async def _feed(process: Process, data: bytes) -> None:
    """Give it its input; one that does not read all of it is not wrong."""
    with contextlib.suppress(ProcessError):
        await process.write(data)
    process.close_input()


async def _end(process: Process) -> None:
    """End the tree, also while we are cancelled."""
    stopping = asyncio.ensure_future(process.stop(grace_seconds=GRACE_SECONDS))
    cancelled = False
    while not stopping.done():
        try:
            await asyncio.shield(stopping)
        except asyncio.CancelledError:
            cancelled = True
    stopping.result()
    if cancelled:
        raise asyncio.CancelledError
