"""Noticing that one file has changed, appeared or was exchanged, and then a second of quiet. No polling on Linux."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import sys
from collections.abc import Callable
from pathlib import Path

QUIET_SECONDS = 1.0
_LOOK_SECONDS = 1.0  # where the system has no inotify
_IN_CHANGES = 0x2 | 0x8 | 0x80 | 0x100 | 0x200  # modified, closed after writing, moved here, created, deleted


class FileWatch:
    """Calls back when a file is another one than before, at most once a second. Its folder must exist. Ends by `close`."""

    def __init__(self, path: Path, changed: Callable[[], object], *, quiet_seconds: float = QUIET_SECONDS) -> None:
        self._loop = asyncio.get_running_loop()
        self._path = path
        self._changed = changed
        self._quiet = quiet_seconds
        self._timer: asyncio.TimerHandle | None = None
        self._known = self._look()
        self._fd = _inotify(path.parent)
        if self._fd >= 0:
            self._loop.add_reader(self._fd, self._stirred)
        else:
            self._timer = self._loop.call_later(_LOOK_SECONDS, self._look_again)

    def _look(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns

    def _stirred(self) -> None:
        """Something in the folder changed; each change begins the second of quiet anew."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._fd, 65536)
        if self._look() != self._known:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_later(self._quiet, self._settled)

    def _settled(self) -> None:
        self._timer = None
        now = self._look()
        if now != self._known:
            self._known = now
            if now is not None:
                self._changed()

    def _look_again(self) -> None:
        self._settled()
        self._timer = self._loop.call_later(_LOOK_SECONDS, self._look_again)

    def close(self) -> None:
        """Stop watching. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1


def _inotify(folder: Path) -> int:
    if not sys.platform.startswith("linux"):
        return -1
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = int(libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
    if descriptor >= 0 and libc.inotify_add_watch(descriptor, os.fsencode(folder), _IN_CHANGES) < 0:
        os.close(descriptor)
        return -1
    return descriptor
