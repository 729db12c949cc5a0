"""One writer at a time over several processes, in fair turn: two advisory file locks, *door* and *gate*.

A writer takes the door, then the gate, then leaves the door. So at most one waits at the gate, and the
holder that comes again queues behind it; nobody starves and nobody sleeps in between tries. Who enters signs
the gate's file, so that waiters can name the holder and a writer that comes back knows if nobody else was inside.
"""

from __future__ import annotations

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
        self._name = b"%-11d%s" % (os.getpid(), os.urandom(8).hex().encode())
        self.undisturbed = False  # nobody else was inside since we were

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
        return self._sign()

    def enter(self) -> None:
        """Wait in turn and enter. Blocks the thread. Raises `OSError` if the entry cannot be signed."""
        fcntl.flock(self._door, fcntl.LOCK_EX)
        try:
            fcntl.flock(self._gate, fcntl.LOCK_EX)
        finally:
            fcntl.flock(self._door, fcntl.LOCK_UN)
        self._sign()

    def _sign(self) -> bool:
        """Write our name. Without it the one who was here before would not know that we were, so then we leave."""
        try:
            self.undisturbed = os.pread(self._gate, len(self._name), 0) == self._name
            if not self.undisturbed:
                os.pwrite(self._gate, self._name, 0)
        except OSError:
            self.leave()
            raise
        return True

    def leave(self) -> None:
        """Let the next one in."""
        fcntl.flock(self._gate, fcntl.LOCK_UN)

    def holder_pid(self) -> int | None:
        """Who entered last, for messages."""
        try:
            return int(os.pread(self._gate, 11, 0).strip() or b"0") or None
        except (OSError, ValueError):
            return None

    def close(self) -> None:
        """Close the files; whatever is held is let go."""
        os.close(self._door)
        os.close(self._gate)
