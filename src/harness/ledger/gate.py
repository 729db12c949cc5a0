"""One writer at a time over several processes, in fair turn: two advisory file locks, *door* and *gate*.

A writer takes the door, then the gate, then leaves the door. So at most one waits at the gate, and the
holder that comes again queues behind it; nobody starves and nobody sleeps in between tries. Who enters signs
the gate's file, so that waiters can name the holder and a writer that comes back knows if nobody else was inside.
"""

from __future__ import annotations

import os
from fcntl import LOCK_EX, LOCK_NB, LOCK_UN, flock
from pathlib import Path

_TRY = LOCK_EX | LOCK_NB
_NAME_BYTES = 27


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
            flock(self._door, _TRY)
        except OSError:
            return False
        try:
            flock(self._gate, _TRY)
        except OSError:
            return False
        finally:
            flock(self._door, LOCK_UN)
        self._sign()
        return True

    def enter(self) -> None:
        """Wait in turn and enter. Blocks the thread. Raises `OSError` if the entry cannot be signed."""
        flock(self._door, LOCK_EX)
        try:
            flock(self._gate, LOCK_EX)
        finally:
            flock(self._door, LOCK_UN)
        self._sign()

    def _sign(self) -> None:
        """Write our name. Without it the one who was here before would not know that we were, so then we leave."""
        try:
            self.undisturbed = os.pread(self._gate, _NAME_BYTES, 0) == self._name
            if not self.undisturbed:
                os.pwrite(self._gate, self._name, 0)
        except OSError:
            self.leave()
            raise

    def ours(self) -> bool:
        """Whether nobody else has been inside since we were."""
        try:
            return os.pread(self._gate, _NAME_BYTES, 0) == self._name
        except OSError:
            return False

    def leave(self) -> None:
        """Let the next one in."""
        flock(self._gate, LOCK_UN)

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
