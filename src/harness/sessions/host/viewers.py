"""Attached terminals: a Unix socket that carries the agent's terminal, and nothing else, to a few viewers.

Frames are a type letter, four bytes of length (big-endian) and a payload. From a viewer: `I` typed bytes, `E` the end of its
input, `R` rows and columns (two bytes each), `D` detach. To a viewer: `P` where in the transcript its output goes on (eight
bytes), `O` output, `S` so many bytes (eight) are skipped, since they were rotated away, `X` how the session ended, as JSON.
All output that the disk took is in the transcript: a viewer that is slow gets it from there, and one that is cut off reads on
by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import struct
import time
from collections.abc import Callable

import msgspec

from harness.errors import HarnessError
from harness.processes import LogReader, Size
from harness.sessions import facts
from harness.sessions.ids import Folder, write_private
from harness.sessions.transports.base import Transport

MAX_VIEWERS = 64
MAX_FRAME = 1 << 20
HELD_BYTES = 256 << 10  # on their way to a viewer; what comes then is left in the transcript until it has caught up
REPLAY_BYTES = 65536
_TYPING_SECONDS = 2.0
_HEAD = struct.Struct(">cI")
_COUNT = struct.Struct(">Q")


def frame(kind: bytes, payload: bytes) -> bytes:
    """One frame."""
    return _HEAD.pack(kind, len(payload)) + payload


class Attached:
    """One viewer, from an offset of the transcript on. Nothing is left out but what was rotated away.

    What no disk would take is shown only to one that is not behind.
    """

    def __init__(self, writer: asyncio.StreamWriter, log: LogReader, position: int) -> None:
        self._writer = writer
        self._log = log
        self._sent = position  # up to here of the transcript; what no disk would take is in none
        self._say_position()
        self._catching_up: asyncio.Task[None] | None = asyncio.ensure_future(self._catch_up())

    def _say_position(self) -> None:
        self._writer.write(frame(b"P", _COUNT.pack(self._sent)))

    def show(self, data: bytes) -> None:
        """Send what is in the transcript since a moment."""
        if self._catching_up is not None:
            return  # it will be read
        if self._writer.transport.get_write_buffer_size() <= HELD_BYTES:
            self._writer.write(frame(b"O", data))
            self._sent = self._log.end
        else:
            self._catching_up = asyncio.ensure_future(self._catch_up())

    async def _catch_up(self) -> None:
        try:
            while True:
                await self._writer.drain()
                chunk = self._log.read(self._sent, REPLAY_BYTES)
                if not chunk.data:  # nothing was awaited since it was read: what comes next is shown as it comes
                    break
                if chunk.offset > self._sent:
                    self._writer.write(frame(b"S", _COUNT.pack(chunk.offset - self._sent)))
                self._writer.write(frame(b"O", chunk.data))
                self._sent = chunk.offset + len(chunk.data)
        except (HarnessError, OSError):  # it has gone, or the transcript has: it sees the end of the connection
            self._writer.transport.abort()
        self._catching_up = None

    def end(self, told: bytes) -> None:
        """Say how it ended; one that is behind reads the rest by itself."""
        if self._catching_up is not None:
            self._catching_up.cancel()
        self._say_position()
        self._writer.write(frame(b"X", told))
        self._writer.close()

    async def gone(self) -> None:
        """Return when all was sent."""
        await self._writer.wait_closed()

    def drop(self) -> None:
        """Let go of it at once."""
        if self._catching_up is not None:
            self._catching_up.cancel()
        with contextlib.suppress(Exception):
            self._writer.transport.abort()


class Viewers:
    """The socket of one session. Whoever started it in the foreground (`attended`) is shown all of it, others its end first."""

    def __init__(self, folder: Folder, *, wake: Callable[[], object], attended: bool = False) -> None:
        self._folder = folder
        self._all = attended
        self._wake = wake
        self._server: asyncio.Server | None = None
        self._viewers: set[Attached] = set()
        self._transport: Transport | None = None
        self._typed = 0.0

    async def open(self, transport: Transport) -> None:
        """Begin to take viewers. The process stands in the session's folder meanwhile: a socket's path must be short."""
        self._transport = transport
        path = self._folder.path
        back = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
        mask = os.umask(0o177)
        try:
            os.chdir(path)
            self._server = await asyncio.start_unix_server(self._serve, "host.sock", limit=MAX_FRAME)
        finally:
            os.umask(mask)
            os.fchdir(back)
            os.close(back)

    def typing(self) -> bool:
        """Whether a person may be in the middle of a line."""
        return bool(self._viewers) and time.monotonic() - self._typed < _TYPING_SECONDS

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._viewers) >= MAX_VIEWERS or self._transport is None:
            writer.close()
            return
        log = LogReader(self._folder.transcript)
        position = log.start if self._all else max(log.start, log.end - REPLAY_BYTES)
        self._all = False
        viewer = Attached(writer, log, position)
        self._viewers.add(viewer)
        self._transport.viewers(self._show)
        try:
            while await self._take(reader) != b"D":
                pass
        except (asyncio.IncompleteReadError, ConnectionError, ValueError):
            pass
        finally:
            self._drop(viewer)

    async def _take(self, reader: asyncio.StreamReader) -> bytes:
        kind, length = _HEAD.unpack(await reader.readexactly(_HEAD.size))
        if length > MAX_FRAME:
            raise ValueError("a frame is too long")
        payload = await reader.readexactly(length)
        transport = self._transport
        if transport is not None and kind == b"I" and payload:
            self._typed = 0.0 if payload.endswith((b"\r", b"\n")) else time.monotonic()
            transport.keys(payload)
            self._wake()
            await transport.room()
        elif transport is not None and kind == b"E":
            transport.end_of_input()
        elif transport is not None and kind == b"R" and length == 4:
            rows, columns = struct.unpack(">HH", payload)
            if rows and columns:
                self._resize(transport, Size(columns=columns, rows=rows))
        return kind

    def _resize(self, transport: Transport, size: Size) -> None:
        """Also to the size that it has: a program paints its whole window anew when that seems to change."""
        transport.resize(Size(columns=size.columns, rows=size.rows + 1))
        transport.resize(size)
        note_size(self._folder, size)

    def _show(self, data: bytes) -> None:
        for viewer in tuple(self._viewers):
            viewer.show(data)

    def _drop(self, viewer: Attached) -> None:
        self._viewers.discard(viewer)
        viewer.drop()
        if not self._viewers and self._transport is not None:
            self._transport.viewers(None)

    async def close(self, exited: facts.Exited | None) -> None:
        """Tell every viewer how it ended, and let go of the socket."""
        if self._server is None:
            return
        self._server.close()
        told = {} if exited is None else {"code": exited.code, "signal": exited.signal, "reason": str(exited.reason)}
        for viewer in tuple(self._viewers):
            viewer.end(msgspec.json.encode(told))
        with contextlib.suppress(Exception):
            async with asyncio.timeout(1.0):
                await asyncio.gather(*(viewer.gone() for viewer in self._viewers), return_exceptions=True)
        with contextlib.suppress(OSError):
            self._folder.socket.unlink()


def note_size(folder: Folder, size: Size) -> None:
    """Write down the window's size, for whoever draws the screen from the transcript."""
    with contextlib.suppress(OSError):
        write_private(folder.path / "size", f"{size.columns}x{size.rows}")
