"""Output kept in rotated files: written by the owner, read, searched and followed by anybody.

A byte has one offset for the life of the log. The file that is written to has the plain name; a full one is renamed
to `NAME.OFFSET`, the offset of its first byte, so readers in other processes find their place by the names alone.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from harness.errors import ProcessError

BLOCK_BYTES = 1 << 18
_DIGITS = 15
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Segment:
    path: Path
    base: int
    size: int
    inode: int


class LogReader:
    """Reads a log that this or another process writes. A log that does not exist yet is empty."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def end(self) -> int:
        """The offset behind the last byte."""
        last = self._segments()[-1]
        return last.base + last.size

    @property
    def start(self) -> int:
        """The offset of the oldest byte that is kept."""
        return self._segments()[0].base

    def read(self, offset: int, limit: int = BLOCK_BYTES) -> Chunk:
        """Up to `limit` bytes from `offset` on, or from the oldest kept; empty at the end."""
        while True:
            segments = self._segments()
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

    def lines(self, after: int = 0, *, max_line_bytes: int = 65536) -> Iterator[Line]:
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
        """The newest lines that contain `text`, oldest first."""
        wanted = (text.lower() if ignore_case else text).encode()
        return list(deque((line for line in self.lines() if wanted in _folded(line.data, ignore_case)), maxlen=limit))

    async def follow(self, after: int | None = None) -> AsyncIterator[Chunk]:
        """Everything from an offset on (None: from now on), and then what is written, as it is written.

        A slow follower costs no memory and loses nothing that has not been rotated away. Ends when it is closed.
        """
        from harness.wake import Listener

        position = self.end if after is None else after
        while True:
            listener = Listener(self.path)
            inode = _inode(self.path)
            try:
                while True:
                    while (chunk := self.read(position)).data:
                        position = chunk.offset + len(chunk.data)
                        yield chunk
                    if _inode(self.path) != inode:
                        break
                    await listener.wait(_LOOK_SECONDS)
            finally:
                listener.close()

    def _segments(self) -> list[_Segment]:
        """The files, oldest first, the current one last; consistent although a writer may rotate meanwhile."""
        while True:
            rotated = self._rotated()
            current = _segment(self.path, rotated[-1].base + rotated[-1].size if rotated else 0)
            if self._rotated()[-1:] == rotated[-1:]:
                return [*rotated, current]

    def _rotated(self) -> list[_Segment]:
        prefix = f"{self.path.name}."
        try:
            names = os.listdir(self.path.parent)  # noqa: PTH208 - names only
        except OSError:
            return []
        found = sorted(name for name in names if name.startswith(prefix) and len(name) == len(prefix) + _DIGITS)
        bases = [(name, name[len(prefix) :]) for name in found]
        segments = [_segment(self.path.with_name(name), int(base)) for name, base in bases if base.isdigit()]
        return [segment for segment in segments if segment.inode]


class RotatingLog(LogReader):
    """The writer of a log: one at a time. Files never grow above `max_bytes`; `keep` full ones stay besides the current one.

    `write` never raises: what the disk refuses is counted in `lost_bytes` and said in the log as soon as it takes bytes again.
    """

    def __init__(self, path: Path, max_bytes: int = 10 << 20, keep: int = 5) -> None:
        """Raises `ProcessError` if the file cannot be opened."""
        if max_bytes < 1 or keep < 1:
            raise ProcessError(f"{path}: a log needs at least 1 byte a file and 1 file to keep, not {max_bytes} and {keep}")
        super().__init__(path)
        self._max = max_bytes
        self._keep = keep
        self._fd = -1
        self._size = 0
        self._base = 0
        self._line_ended = True
        self.lost_bytes = 0
        self._unsaid = 0
        self._reason = ""
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._open()
        except OSError as error:
            raise ProcessError(f"{path}: cannot write the log: {error.strerror or error}") from error

    def _open(self) -> None:
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        current = self._segments()[-1]
        self._base, self._size = current.base, os.fstat(self._fd).st_size
        self._line_ended = not self._size or os.pread(self._fd, 1, self._size - 1) == b"\n"

    def write(self, data: bytes) -> None:
        """Append bytes as they are."""
        try:
            if self._fd < 0:
                self._open()
            if self._unsaid:
                self._append(f"\n[harness: {self._unsaid} bytes of output were lost here: {self._reason}]\n".encode())
                self._unsaid = 0
        except OSError as error:
            self._lose(len(data), error)
            return
        position = self._base + self._size
        try:
            self._append(data)
        except OSError as error:
            self._lose(len(data) - (self._base + self._size - position), error)

    def _lose(self, count: int, error: OSError) -> None:
        self.lost_bytes += count
        self._unsaid += count
        self._reason = error.strerror or str(error)

    def _append(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            room = self._max - self._size
            if len(rest) <= room:
                self._put(rest)
                return
            cut = data.rfind(b"\n", len(data) - len(rest), len(data) - len(rest) + room) + 1 - (len(data) - len(rest))
            if cut <= 0:  # a line that does not fit starts a new file, unless it has begun in this one or fits in none
                cut = 0 if self._line_ended and self._size else room
            self._put(rest[:cut])
            self._rotate()
            rest = rest[cut:]

    def _put(self, data: memoryview) -> None:
        while data:
            count = os.write(self._fd, data)
            self._size += count
            self._line_ended = data[count - 1] == 10
            data = data[count:]

    def _rotate(self) -> None:
        full, size = self._fd, self._size
        self.path.rename(self.path.with_name(f"{self.path.name}.{self._base:0{_DIGITS}d}"))
        self._base, self._size, self._fd, self._line_ended = self._base + size, 0, -1, True
        try:
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            os.ftruncate(full, size)  # changes nothing but wakes followers that still watch the full file
        finally:
            os.close(full)
        for old in self._rotated()[: -self._keep]:
            with contextlib.suppress(OSError):
                old.path.unlink()

    def close(self) -> None:
        """Let go of the file; a later write opens it again. May be called again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _segment(path: Path, base: int) -> _Segment:
    try:
        found = path.stat()
    except OSError:
        return _Segment(path=path, base=base, size=0, inode=0)
    return _Segment(path=path, base=base, size=found.st_size, inode=found.st_ino)


def _inode(path: Path) -> int:
    return _segment(path, 0).inode


def _read(segment: _Segment, offset: int, limit: int) -> bytes:
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


def _folded(data: bytes, ignore_case: bool) -> bytes:
    return data.decode(errors="replace").lower().encode() if ignore_case else data
