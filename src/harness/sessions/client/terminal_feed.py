"""A session's live terminal for asyncio programs: its host's socket, as bytes that come and bytes that are typed.

The frames are those of `host.viewers`: a type letter, four bytes of length, a payload.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import struct
import sys
from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from typing import Any, cast

from harness.errors import NotFound, ProcessError
from harness.sessions.ids import Folder

MAX_FRAME = 8 << 20
_HEAD = struct.Struct(">cI")
_SENT_SECONDS = 5.0


class TerminalFeed:
    """One connection to a session's terminal; open it with `open_terminal`. `ended` is what the host said of the end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.ended: dict[str, Any] | None = None

    async def output(self) -> AsyncGenerator[bytes]:
        """What the program writes: first the last of what it wrote before. Ends with the session or the connection."""
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                kind, length = cast("tuple[bytes, int]", _HEAD.unpack(await self._reader.readexactly(_HEAD.size)))
                if length > MAX_FRAME:
                    raise ProcessError(f"the session's host sent a frame of {length} bytes: it is not ours")
                payload = await self._reader.readexactly(length)
                if kind == b"O":
                    yield payload
                elif kind == b"X":
                    self.ended = cast("dict[str, Any]", json.loads(payload))
                    return

    async def type(self, data: bytes) -> None:
        """Type into the terminal, as a person would."""
        await self._send(b"I", data)

    async def resize(self, *, columns: int, rows: int) -> None:
        """Give the window a size; also the one that it has makes the program paint it anew."""
        await self._send(b"R", struct.pack(">HH", rows, columns))

    async def detach(self) -> None:
        """Leave in good order: when this returns, the host has taken all that was typed. Not while `output` is read.

        Raises `ProcessError` if the host does not answer.
        """
        await self._send(b"D", b"")
        try:
            async with asyncio.timeout(_SENT_SECONDS):
                with contextlib.suppress(ConnectionError):
                    while await self._reader.read(65536):
                        pass
        except TimeoutError as error:
            raise ProcessError(f"the session's host has not answered within {_SENT_SECONDS:g} s") from error

    async def _send(self, kind: bytes, payload: bytes) -> None:
        with contextlib.suppress(ConnectionError):
            self._writer.write(_HEAD.pack(kind, len(payload)) + payload)
            await self._writer.drain()

    def close(self) -> None:
        """Let go of the connection at once."""
        self._writer.transport.abort()


async def open_terminal(folder: Folder) -> TerminalFeed:
    """Connect to the session's terminal. Raises `NotFound` if nobody listens: it has ended, or runs elsewhere."""
    where = folder.path
    try:
        if (where / "key").read_text(encoding="ascii") != folder.key:  # another run's, of another machine
            raise FileNotFoundError(where)
        with _short(where / folder.socket.name) as path:
            reader, writer = await asyncio.open_unix_connection(path, limit=MAX_FRAME)
    except OSError as error:
        raise NotFound(f"session {folder.key} has no live terminal on this machine") from error
    return TerminalFeed(reader, writer)


@contextlib.contextmanager
def _short(path: Path) -> Generator[str]:
    """A name of the socket that fits: the kernel takes 108 bytes at most, and folders may be deep."""
    if not sys.platform.startswith("linux"):
        yield str(path)
        return
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{path.name}"
    finally:
        os.close(descriptor)
