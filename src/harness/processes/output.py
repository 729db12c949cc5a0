"""What a child writes and reads: draining its output without loss or stall, feeding its input, splitting lines."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import stat
from collections.abc import Callable
from pathlib import Path

from harness.errors import ProcessError
from harness.processes.rotating import RotatingLog

READ_BYTES = 65536
TURN_BYTES = 4 * READ_BYTES  # what one descriptor may take of a turn of the loop
CAPACITY_BYTES = 4 * READ_BYTES  # of the pipe: what a child can write while its owner is away

Follower = Callable[[bytes], object]


class Drain:
    """Reads a descriptor whenever there is something, until it ends; owns and closes the descriptor.

    Every byte goes, in order, first to the log and then to the follower. From a pipe to a log it moves inside the system, so
    that no instant at which we are killed loses any. What a follower raises goes to the loop's exception handler.
    """

    def __init__(self, fd: int, *, log: RotatingLog | None = None, follower: Follower | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._fd = fd
        self._log = log
        self._follower = follower
        self.ended: Callable[[], object] | None = None  # called once, when the output has ended
        os.set_blocking(fd, False)
        found = os.fstat(fd)
        self.file = (found.st_dev, found.st_ino)
        self._moves = log is not None and stat.S_ISFIFO(found.st_mode)
        self._loop.add_reader(fd, self._turn)

    @property
    def open(self) -> bool:
        """Whether more may come."""
        return self._fd >= 0

    def _turn(self) -> None:
        self._pump(TURN_BYTES)

    def rest(self) -> None:
        """Take what is there now: all that a process wrote before it exited. Bounded, since others may go on writing."""
        taken = 0
        while self.open and taken < 8 * CAPACITY_BYTES:
            count = self._pump(TURN_BYTES)
            if not count:
                return
            taken += count

    def _pump(self, limit: int) -> int:
        """Take up to `limit` bytes, as many as there are; how many."""
        parts: list[bytes] = []
        count = 0
        ended = False
        while count < limit and not ended:
            try:
                taken, part = self._take(limit - count)
            except (BlockingIOError, InterruptedError):
                break
            except OSError:  # EIO: every program has left the terminal
                taken, part = 0, b""
            ended = not taken
            count += taken
            parts.append(part)
        if count and self._follower is not None:
            self._tell(self._follower, b"".join(parts))
        if ended:
            self._end()
        return count

    def _take(self, limit: int) -> tuple[int, bytes]:
        """How many bytes were taken, and, if somebody follows, which. Raises OSError if there are none now."""
        if self._moves and self._log is not None:
            moved = self._log.take_from(self._fd, limit, show=self._follower is not None)
            if moved is not None:
                return moved
        data = os.read(self._fd, READ_BYTES)
        if self._log is not None:
            self._log.write(data)
        return len(data), data

    def _tell(self, follower: Follower, data: bytes) -> None:
        try:
            follower(data)
        except Exception as error:  # noqa: BLE001 - a follower's mistake must not stall the child
            self._loop.call_exception_handler({"message": "a follower of a process's output failed", "exception": error})

    def _end(self) -> None:
        self.close()
        if self.ended is not None:
            self.ended()

    def close(self) -> None:
        """Stop reading; may be called again."""
        if self._fd >= 0:
            if not self._loop.is_closed():
                self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1


class Feed:
    """Writes to a child's input in order, waiting where the child is slow; owns the descriptor if told so."""

    def __init__(self, fd: int, *, owns: bool) -> None:
        self._loop = asyncio.get_running_loop()
        self._fd = fd
        self._owns = owns
        self._lock = asyncio.Lock()
        self._waiting: asyncio.Future[None] | None = None
        os.set_blocking(fd, False)

    async def write(self, data: bytes) -> None:
        """Return when the system has taken all of it. Raises `ProcessError` if the child no longer reads."""
        async with self._lock:
            view = memoryview(data)
            while view:
                view = view[await self._some(view) :]

    async def _some(self, view: memoryview) -> int:
        while self._fd >= 0:
            try:
                return os.write(self._fd, view)
            except (BlockingIOError, InterruptedError):
                await self._writable()
            except OSError as error:
                raise ProcessError("the process has closed its input") from error
        raise ProcessError("the process's input is closed")

    async def _writable(self) -> None:
        waiting = self._waiting = self._loop.create_future()
        self._loop.add_writer(self._fd, self._wake)
        try:
            await waiting
        finally:
            self._waiting = None
            if self._fd >= 0:
                self._loop.remove_writer(self._fd)

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def close(self) -> None:
        """End the input; who waits in `write` gets an error. May be called again."""
        if self._fd >= 0:
            if not self._loop.is_closed():
                self._loop.remove_writer(self._fd)
            if self._owns:
                os.close(self._fd)
            self._fd = -1
            self._wake()


class Lines:
    """Splits bytes into lines without their ends; a line over the limit comes in pieces, so nothing is kept for ever."""

    def __init__(self, *, max_bytes: int = 1 << 20) -> None:
        self._max = max_bytes
        self._held = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that are complete now."""
        found: list[bytes] = []
        *whole, rest = data.split(b"\n")
        for part in whole:
            if self._held or len(part) > self._max:
                self._hold(part, found)
                found += self.flush()
            else:
                found.append(part)
        self._hold(rest, found)
        return found

    def flush(self) -> list[bytes]:
        """What is left without a line end, if anything."""
        found = [bytes(self._held)] if self._held else []
        self._held.clear()
        return found

    def _hold(self, data: bytes, found: list[bytes]) -> None:
        self._held += data
        while len(self._held) > self._max:
            found.append(bytes(self._held[: self._max]))
            del self._held[: self._max]


def open_pipe() -> tuple[int, int]:
    """A pipe as (our end, the child's end)."""
    ours, theirs = os.pipe()
    enlarge(ours)
    return ours, theirs


def make_fifo(path: Path) -> tuple[int, int]:
    """A new FIFO as (our end, the child's end). An old one there is replaced; anything else is refused.

    The child's end is open for reading too, so that writing never fails while no owner reads: it waits for the next one.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        remove_fifo(path)
        os.mkfifo(path, 0o600)
        ours = open_fifo(path)
    except OSError as error:
        raise ProcessError(f"{path}: cannot make a FIFO here: {error.strerror or error}") from error
    try:
        return ours, os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        os.close(ours)
        raise ProcessError(f"{path}: cannot open the FIFO: {error.strerror or error}") from error


def open_fifo(path: Path, *, follow: bool = False) -> int:
    """Our end of a FIFO that exists; a link is refused unless `follow`. Raises OSError or `ProcessError`."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW))
    if not stat.S_ISFIFO(os.fstat(fd).st_mode):
        os.close(fd)
        raise ProcessError(f"{path} is not a FIFO")
    enlarge(fd)
    return fd


def remove_fifo(path: Path) -> None:
    """Remove the FIFO if there is one; a file of another kind is left alone."""
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISFIFO(path.lstat().st_mode):
            path.unlink()


def enlarge(fd: int) -> None:
    """Give the pipe more room where the system allows it."""
    if hasattr(fcntl, "F_SETPIPE_SZ"):
        with contextlib.suppress(OSError):
            fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, CAPACITY_BYTES)
