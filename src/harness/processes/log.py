"""Reading output that is kept in rotated files: its last lines, searching it, following it. `rotating` writes it.

A byte has one offset for the life of the log. The file that is written to has the plain name; a full one is renamed
to `NAME.OFFSET`, the offset of its first byte, so readers in other processes find their place by the names alone.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import NamedTuple

from harness.errors import ProcessError

BLOCK_BYTES = 1 << 18
CUT_BYTES = 65536  # what is shown of a line that is longer
DIGITS = 15
_HELD_BYTES = 4 << 20
_LOOK_SECONDS = 0.5  # how long a follower trusts the silence of its file watch


class Chunk(NamedTuple):
    """Bytes and where they begin; a later offset than asked for means that older ones were rotated away."""

    offset: int
    data: bytes


class Line(NamedTuple):
    """One line without its end and where it begins; a very long one is cut."""

    offset: int
    data: bytes

    @property
    def text(self) -> str:
        return self.data.decode(errors="replace")


class Segment(NamedTuple):
    """One file of a log."""

    path: Path
    base: int  # the offset of its first byte
    size: int
    inode: int  # 0: it does not exist


class LogReader:
    """Reads a log that this or another process writes. A log that does not exist yet is empty."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def end(self) -> int:
        """The offset behind the last byte."""
        last = self.segments()[-1]
        return last.base + last.size

    @property
    def start(self) -> int:
        """The offset of the oldest byte that is kept."""
        return self.segments()[0].base

    def read(self, offset: int, limit: int = BLOCK_BYTES) -> Chunk:
        """Up to `limit` bytes from `offset` on, or from the oldest kept; empty at the end."""
        while True:
            segments = self.segments()
            offset = max(offset, segments[0].base)
            segment = next((s for s in segments if s.base <= offset < s.base + s.size), None)
            if segment is None:
                return Chunk(min(offset, segments[-1].base + segments[-1].size), b"")
            data = _read(segment, offset, limit)
            if data:
                return Chunk(offset, data)

    def tail(self, lines: int, *, max_bytes: int = 1 << 20) -> list[Line]:
        """The last lines, oldest first, of at most `max_bytes` altogether."""
        end = self.end
        oldest = max(self.start, end - max_bytes)
        begin, held = end, b""
        while begin > oldest and held.count(b"\n") <= lines:
            step = min(BLOCK_BYTES, begin - oldest)
            part = self._exactly(begin - step, step)
            if len(part) < step:  # rotated away meanwhile
                break
            begin, held = begin - step, part + held
        found = list(_split(held, begin))
        return found[-lines:] if lines > 0 else []

    def _exactly(self, offset: int, count: int) -> bytes:
        parts: list[bytes] = []
        while count > 0:
            chunk = self.read(offset, count)
            if chunk.offset != offset or not chunk.data:
                break
            parts.append(chunk.data)
            offset += len(chunk.data)
            count -= len(chunk.data)
        return b"".join(parts)

    def lines(self, after: int = 0, *, max_line_bytes: int = CUT_BYTES) -> Iterator[Line]:
        """Every line from an offset on, in bounded memory; of a longer line the rest is skipped."""
        held, length, begin, position = b"", 0, after, after
        while (chunk := self.read(position)).data:
            if chunk.offset != position:
                held, length, begin = b"", 0, chunk.offset
            position = chunk.offset + len(chunk.data)
            *whole, rest = chunk.data.split(b"\n")
            for part in whole:
                yield Line(begin, (held + part)[:max_line_bytes])
                begin += length + len(part) + 1
                held, length = b"", 0
            held = (held + rest)[:max_line_bytes]
            length += len(rest)
        if length:
            yield Line(begin, held)

    def search(self, text: str, *, limit: int = 100, ignore_case: bool = False) -> list[Line]:
        """The newest lines that contain `text`, oldest first; `ignore_case` means ASCII letters."""
        wanted = (text.lower() if ignore_case else text).encode()
        found: deque[Line] = deque(maxlen=limit)
        for block in self._blocks():
            data = block.data.lower() if ignore_case else block.data
            at = data.find(wanted)
            while at >= 0:
                begin, end = data.rfind(b"\n", 0, at) + 1, data.find(b"\n", at)
                end = len(data) if end < 0 else end
                found.append(Line(block.offset + begin, block.data[begin : min(end, begin + CUT_BYTES)]))
                at = data.find(wanted, end + 1) if end < len(data) - 1 else -1
        return list(found)

    def _blocks(self) -> Iterator[Chunk]:
        """The log in pieces that end with a line, unless a line is longer than any memory should be."""
        held, position = b"", 0
        while (chunk := self.read(position)).data:
            if chunk.offset != position:
                held = b""
            position = chunk.offset + len(chunk.data)
            data = held + chunk.data
            whole = data.rfind(b"\n") + 1 if len(data) < _HELD_BYTES else len(data)
            if whole:
                yield Chunk(position - len(data), data[:whole])
            held = data[whole:]
        if held:
            yield Chunk(position - len(held), held)

    async def follow(self, after: int | None = None) -> AsyncIterator[Chunk]:
        """Everything from an offset on (None: from now on), and then what is written, as it is written.

        A slow follower costs no memory and loses nothing that has not been rotated away. Ends when it is closed.
        """
        from harness.wake import Listener

        position = self.end if after is None else after
        while True:
            inode = _inode(self.path)  # first: if the file is exchanged between both, it is listened to anew
            listener = Listener(self.path)
            try:
                while True:
                    while (chunk := self.read(position)).data:
                        position = chunk.offset + len(chunk.data)
                        yield chunk
                    position = chunk.offset  # nearer, if somebody has emptied the file by hand
                    if _inode(self.path) != inode:
                        break
                    await listener.wait(_LOOK_SECONDS)
            finally:
                listener.close()

    def segments(self) -> list[Segment]:
        """The files, oldest first, the current one last; consistent although a writer may rotate meanwhile."""
        while True:
            rotated = self.rotated()
            current = _segment(self.path, rotated[-1].base + rotated[-1].size if rotated else 0)
            if self.rotated()[-1:] == rotated[-1:]:
                return [*rotated, current]

    def rotated(self) -> list[Segment]:
        """The full files, oldest first."""
        prefix = f"{self.path.name}."
        try:
            names = os.listdir(self.path.parent)  # noqa: PTH208 - names only
        except OSError:
            return []
        found = sorted(name for name in names if name.startswith(prefix) and len(name) == len(prefix) + DIGITS)
        bases = [(name, name[len(prefix) :]) for name in found]
        segments = [_segment(self.path.with_name(name), int(base)) for name, base in bases if base.isdigit()]
        return [segment for segment in segments if segment.inode]


def _segment(path: Path, base: int) -> Segment:
    try:
        found = path.stat()
    except OSError:
        return Segment(path=path, base=base, size=0, inode=0)
    return Segment(path=path, base=base, size=found.st_size, inode=found.st_ino)


def _inode(path: Path) -> int:
    return _segment(path, 0).inode


def _read(segment: Segment, offset: int, limit: int) -> bytes:
    """Bytes of a segment; empty if the file was rotated or removed since it was looked at."""
    try:
        fd = os.open(segment.path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise ProcessError(f"{segment.path}: cannot read the log: {error.strerror or error}") from error
    try:
        if os.fstat(fd).st_ino != segment.inode:
            return b""
        return os.pread(fd, min(limit, segment.base + segment.size - offset), offset - segment.base)
    finally:
        os.close(fd)


def _split(data: bytes, offset: int) -> Iterator[Line]:
    *whole, rest = data.split(b"\n")
    for line in whole:
        yield Line(offset, line)
        offset += len(line) + 1
    if rest:
        yield Line(offset, rest)
