"""One writer at a time over several processes, in fair turn: two advisory file locks, *door* and *gate*.

A writer takes the door, then the gate, then leaves the door. So at most one waits at the gate, and the
holder that comes again queues behind it; nobody starves and nobody sleeps in between tries.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path


class Gate:
    """The write gate of one ledger file, for one store object. Not re-entrant."""

    def __init__(self, database: Path) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        self._door = os.open(f"{database}-door", flags, 0o600)
        try:
            self._gate = os.open(f"{database}-gate", flags, 0o600)
        except OSError:
            os.close(self._door)
            raise
        self._name = b"%-20d" % os.getpid()

    def try_enter(self) -> bool:
        """Enter if nobody is inside or waiting; never blocks."""
        try:
            fcntl.flock(self._door, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        try:
            fcntl.flock(self._gate, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        finally:
            fcntl.flock(self._door, fcntl.LOCK_UN)
        self._sign()
        return True

    def enter(self) -> None:
        """Wait in turn and enter. Blocks the thread."""
        fcntl.flock(self._door, fcntl.LOCK_EX)
        try:
            fcntl.flock(self._gate, fcntl.LOCK_EX)
        finally:
            fcntl.flock(self._door, fcntl.LOCK_UN)
        self._sign()

    def _sign(self) -> None:
        with contextlib.suppress(OSError):  # a full disk must not keep a reader from being told who holds it
            os.pwrite(self._gate, self._name, 0)

    def leave(self) -> None:
        """Let the next one in."""
        fcntl.flock(self._gate, fcntl.LOCK_UN)

    def holder_pid(self) -> int | None:
        """Who entered last, for messages."""
        try:
            return int(os.pread(self._gate, 20, 0).strip() or b"0") or None
        except (OSError, ValueError):
            return None

    def close(self) -> None:
        """Close the files; whatever is held is let go."""
        os.close(self._door)
        os.close(self._gate)
