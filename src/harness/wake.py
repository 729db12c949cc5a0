"""Waiting for a file to change, without polling: inotify on Linux, kqueue on macOS.

A `Bell` is a file that writers touch and listeners wait on. Its content means nothing: whoever is woken
looks for itself. Where the system has neither mechanism, a wait simply lasts until its timeout.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import functools
import os
import select
import struct
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

_IN_ACCESS = 0x1
_IN_MODIFY = 0x2
_IN_CLOEXEC = 0o2000000
_IN_NONBLOCK = 0o4000
_IN_Q_OVERFLOW = 0x4000
_EVENT = struct.Struct("iIII")


class _Inotify:
    """One instance for all listeners of an event loop: a user has 128 of them, and a machine may have many sessions."""

    def __init__(self, loop: asyncio.AbstractEventLoop, descriptor: int) -> None:
        self._loop = loop
        self._descriptor = descriptor
        self._listeners: dict[int, set[Listener]] = {}  # by watch: two of one file have the same

    @classmethod
    def watch(cls, loop: asyncio.AbstractEventLoop, path: Path, listener: Listener) -> tuple[_Inotify, int] | None:
        """Ring a listener whenever the file is read or written; None where that cannot be had."""
        libc = _libc()
        if libc is None:
            return None
        shared = _of_loops.get(loop)
        if shared is None:
            descriptor = int(libc.inotify_init1(_IN_NONBLOCK | _IN_CLOEXEC))
            if descriptor < 0:
                return None
            shared = _of_loops[loop] = cls(loop, descriptor)
            loop.add_reader(descriptor, shared._read)
        number = int(libc.inotify_add_watch(shared._descriptor, os.fsencode(path), _IN_ACCESS | _IN_MODIFY))
        if number < 0:
            shared._close_if_unused()
            return None
        shared._listeners.setdefault(number, set()).add(listener)
        return shared, number

    def forget(self, number: int, listener: Listener) -> None:
        """End what `watch` began."""
        left = self._listeners.get(number)
        if left is None:
            return
        left.discard(listener)
        if not left:
            del self._listeners[number]
            libc = _libc()
            assert libc is not None
            libc.inotify_rm_watch(self._descriptor, number)
        self._close_if_unused()

    def _close_if_unused(self) -> None:
        if self._listeners or _of_loops.pop(self._loop, None) is None:
            return
        if not self._loop.is_closed():
            self._loop.remove_reader(self._descriptor)
        os.close(self._descriptor)

    def _read(self) -> None:
        try:
            data = os.read(self._descriptor, 65536)
        except BlockingIOError:
            return
        place = 0
        while place < len(data):
            number, mask, _, length = _EVENT.unpack_from(data, place)
            place += _EVENT.size + length
            rung = self._listeners.values() if mask & _IN_Q_OVERFLOW else [self._listeners.get(number, ())]
            for listeners in rung:
                for listener in tuple(listeners):
                    listener.ring()


_of_loops: dict[asyncio.AbstractEventLoop, _Inotify] = {}


@functools.cache
def _libc() -> Any:
    """The C library where it has inotify."""
    return ctypes.CDLL(None, use_errno=True) if sys.platform.startswith("linux") else None


_READ_RINGS = sys.platform.startswith("linux")


class _Kqueue:
    """The same by kqueue; holds the file open, as the mechanism demands."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        kqueue: Any = select  # the names exist where the system has kqueue
        self._queue: Any = kqueue.kqueue()
        event = kqueue.kevent(
            self._file,
            filter=kqueue.KQ_FILTER_VNODE,
            flags=kqueue.KQ_EV_ADD | kqueue.KQ_EV_CLEAR,
            fflags=kqueue.KQ_NOTE_WRITE,
        )
        self._queue.control([event], 0)

    def fileno(self) -> int:
        return int(self._queue.fileno())

    def drain(self) -> None:
        self._queue.control(None, 16, 0)

    def close(self) -> None:
        self._queue.close()
        os.close(self._file)


class Listener:
    """Wakes a task when the bell rings. A ring while nobody waits is kept for the next wait."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._loop = asyncio.get_running_loop()
        self._rung = asyncio.Event()
        self._kqueue: _Kqueue | None = None
        self._watched: tuple[_Inotify, int] | None = None
        self._attach()

    @property
    def _attached(self) -> bool:
        return self._watched is not None or self._kqueue is not None

    def _attach(self) -> None:
        self._watched = _Inotify.watch(self._loop, self._path, self)
        if self._watched is None and hasattr(select, "kqueue"):
            with contextlib.suppress(OSError):
                self._kqueue = _Kqueue(self._path)
                self._loop.add_reader(self._kqueue.fileno(), self.ring)

    def ring(self) -> None:
        """Wake whoever waits."""
        if self._kqueue is not None:
            self._kqueue.drain()
        self._rung.set()

    async def wait(self, timeout_seconds: float) -> bool:
        """Whether the bell rang before the time was over."""
        if not self._attached:
            self._attach()  # the file may exist by now
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._rung.wait()
        except TimeoutError:
            return False
        self._rung.clear()
        return True

    def close(self) -> None:
        """Let go of the descriptors. Idempotent."""
        watched, self._watched = self._watched, None
        if watched is not None:
            watched[0].forget(watched[1], self)
        kqueue, self._kqueue = self._kqueue, None
        if kqueue is not None:
            if not self._loop.is_closed():
                self._loop.remove_reader(kqueue.fileno())
            kqueue.close()


class Bell:
    """A file that processes ring and listen to.

    On Linux a ring is a read of one byte, which wakes listeners as well as a write does and leaves nothing for the
    disk: a write would change the file's time, and the next fsync of any file would pay for that.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def hang(self) -> None:
        """Make the file, so that others can listen before the first ring."""
        if self._descriptor is None:
            with contextlib.suppress(OSError):
                self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                os.pwrite(self._descriptor, b".", 0)

    def ring(self) -> None:
        """Wake every listener in every process. Never fails: a lost ring is found by the next look."""
        if self._descriptor is None:
            self.hang()
        descriptor = self._descriptor
        if descriptor is not None:
            try:
                if not (_READ_RINGS and os.pread(descriptor, 1, 0)):
                    os.pwrite(descriptor, b".", 0)
            except OSError:
                return

    @contextlib.contextmanager
    def listen(self) -> Generator[Listener]:
        """Listen in the running event loop; rings from now on count."""
        listener = Listener(self.path)
        try:
            yield listener
        finally:
            listener.close()

    def close(self) -> None:
        """Let go of the file. Idempotent."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
