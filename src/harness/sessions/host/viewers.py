"""Attached terminals: a Unix socket that carries the agent's terminal, and nothing else, to a few viewers.

Frames are a type letter, four bytes of length (big-endian) and a payload. From a viewer: `I` typed bytes, `R` rows and
columns (two bytes each), `D` detach. To a viewer: `O` output, `X` how the session ended, as JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import struct
import time
from collections.abc import Callable

import msgspec

from harness.processes import LogReader, Size
from harness.sessions import facts
from harness.sessions.ids import Folder, write_private
from harness.sessions.transports.base import Transport

MAX_VIEWERS = 64
MAX_FRAME = 1 << 20
HELD_BYTES = 4 << 20  # that a viewer may be behind before it is dropped
REPLAY_BYTES = 65536
ATTENDED_BYTES = HELD_BYTES >> 1  # for whoever started it in the foreground: what was written until they were there
_TYPING_SECONDS = 2.0
_HEAD = struct.Struct(">cI")


def frame(kind: bytes, payload: bytes) -> bytes:
    """One frame."""
    return _HEAD.pack(kind, len(payload)) + payload


class Viewers:
    """The socket of one session."""

    def __init__(self, folder: Folder, *, wake: Callable[[], object], attended: bool = False) -> None:
        self._folder = folder
        self._replay = ATTENDED_BYTES if attended else REPLAY_BYTES
        self._wake = wake
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
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
        return bool(self._writers) and time.monotonic() - self._typed < _TYPING_SECONDS

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._writers) >= MAX_VIEWERS or self._transport is None:
            writer.close()
            return
        log = LogReader(self._folder.transcript)
        end = log.end
        position, self._replay = max(log.start, end - self._replay), REPLAY_BYTES
        while position < end and (recent := log.read(position, min(end - position, REPLAY_BYTES))).data:
            writer.write(frame(b"O", recent.data))
            position = recent.offset + len(recent.data)
        self._writers.add(writer)
        self._transport.viewers(self._show)
        try:
            while await self._take(reader) != b"D":
                pass
        except (asyncio.IncompleteReadError, ConnectionError, ValueError):
            pass
        finally:
            self._drop(writer)

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
        for writer in tuple(self._writers):
            if writer.transport.get_write_buffer_size() > HELD_BYTES:
                self._drop(writer)
            else:
                writer.write(frame(b"O", data))

    def _drop(self, writer: asyncio.StreamWriter) -> None:
        self._writers.discard(writer)
        with contextlib.suppress(Exception):
            writer.transport.abort()
        if not self._writers and self._transport is not None:
            self._transport.viewers(None)

    async def close(self, exited: facts.Exited | None) -> None:
        """Tell every viewer how it ended, and let go of the socket."""
        if self._server is None:
            return
        self._server.close()
        told = {} if exited is None else {"code": exited.code, "signal": exited.signal, "reason": str(exited.reason)}
        for writer in tuple(self._writers):
            writer.write(frame(b"X", msgspec.json.encode(told)))
            writer.close()
        with contextlib.suppress(Exception):
            async with asyncio.timeout(1.0):
                await asyncio.gather(*(writer.wait_closed() for writer in self._writers), return_exceptions=True)
        with contextlib.suppress(OSError):
            self._folder.socket.unlink()


def note_size(folder: Folder, size: Size) -> None:
    """Write down the window's size, for whoever draws the screen from the transcript."""
    with contextlib.suppress(OSError):
        write_private(folder.path / "size", f"{size.columns}x{size.rows}")
