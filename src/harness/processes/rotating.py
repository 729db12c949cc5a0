"""Writing output to rotated files, by one owner at a time. Reading is `log`'s."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

from harness.errors import ProcessError
from harness.processes.log import DIGITS, LogReader


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
        self._base = 0
        self._line_ended = True
        self.lost_bytes = 0
        self._unsaid = 0
        self._reason = ""
        self._can_move = hasattr(os, "splice")
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._open()
        except OSError as error:
            raise ProcessError(f"{path}: cannot write the log: {error.strerror or error}") from error

    def _open(self) -> None:
        self._fd = _create(self.path)
        self._base = self.segments()[-1].base
        size = self._size()
        self._line_ended = not size or os.pread(self._fd, 1, size - 1) == b"\n"

    def _size(self) -> int:
        """Asked each time: somebody may have emptied the file by hand."""
        return os.fstat(self._fd).st_size

    def write(self, data: bytes) -> None:
        """Append bytes as they are."""
        rest = memoryview(data)
        try:
            self._prepare()
            while rest:
                rest = rest[self._append(rest) :]
        except OSError as error:
            self._lose(len(rest), error)

    def take_from(self, fd: int, limit: int, *, show: bool) -> tuple[int, bytes] | None:
        """Move up to `limit` bytes from a pipe into the log without holding them: (how many, which ones if `show`).

        None where that cannot be done now, or by this system; (0, b"") at the pipe's end. Raises BlockingIOError if the
        pipe is empty.
        """
        if not self._can_move:
            return None
        try:
            self._prepare()
            size = self._size()
            count = os.splice(fd, self._fd, min(limit, self._max - size), offset_dst=size, flags=os.SPLICE_F_NONBLOCK)
        except BlockingIOError:
            raise
        except OSError as error:
            self._can_move = error.errno != errno.EINVAL  # a file system that cannot
            return None  # for the caller to read and write it, which counts what is lost
        if not count:
            return 0, b""
        end = os.pread(self._fd, count, size) if show else os.pread(self._fd, 1, size + count - 1)
        self._line_ended = end.endswith(b"\n")
        return count, end if show else b""

    def _prepare(self) -> None:
        """Have a file with room, and say what was lost before."""
        if self._fd < 0:
            self._open()
        if self._unsaid:
            said = f"[harness: {self._unsaid} bytes were lost here: {self._reason}]\n"
            os.pwrite(self._fd, (said if self._line_ended else f"\n{said}").encode(), self._size())
            self._line_ended = True
            self._unsaid = 0
        size = self._size()
        if size >= self._max or (self._line_ended and size > self._max - self._max // 16):
            self._rotate()

    def _append(self, data: memoryview) -> int:
        """Write what fits, up to a line's end if there is one; how many bytes."""
        size = self._size()
        room = self._max - size
        if len(data) > room:
            whole = bytes(data[: max(room, 0)]).rfind(b"\n") + 1
            if whole or (self._line_ended and size):
                room = whole
        count = os.pwrite(self._fd, data[:room], size) if room > 0 else 0
        if count:
            self._line_ended = data[count - 1] == 10
        if count == max(room, 0) and count < len(data):
            self._rotate()
        return count

    def _lose(self, count: int, error: OSError) -> None:
        self.lost_bytes += count
        self._unsaid += count
        self._reason = error.strerror or str(error)

    def _rotate(self) -> None:
        full, size = self._fd, self._size()
        self.path.rename(self.path.with_name(f"{self.path.name}.{self._base:0{DIGITS}d}"))
        self._base, self._fd = self._base + size, -1
        try:
            self._fd = _create(self.path)
            os.ftruncate(full, size)  # changes nothing but wakes followers that still watch the full file
        finally:
            os.close(full)
        for old in self.rotated()[: -self._keep]:
            with contextlib.suppress(OSError):
                old.path.unlink()

    def close(self) -> None:
        """Let go of the file; a later write opens it again. May be called again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _create(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
