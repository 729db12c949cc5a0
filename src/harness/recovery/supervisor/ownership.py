"""One supervisor for one home: a lock on this machine, and a lease on the ledger that fences every write of it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from pathlib import Path

from harness.errors import Conflict, LeaseHeld, ProcessError
from harness.ledger import Acquire, Fence, Store, Write
from harness.recovery import facts
from harness.recovery.folders import lock_path

LEASE_SECONDS = 60.0
RENEW_SECONDS = 20.0


class HomeLock:
    """Held as long as this process lives; the kernel lets go of it at its death, whatever the cause."""

    def __init__(self, home: Path) -> None:
        """Raises `ProcessError` that names the pid of the one who has it."""
        path = lock_path(home)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as problem:
            pid = os.read(self._descriptor, 32).decode(errors="replace").strip()
            os.close(self._descriptor)
            raise ProcessError(
                f"{home}: process {pid or 'unknown'} supervises this home already; stop it first, or choose another with --home"
            ) from problem
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def close(self) -> None:
        """Let go. Idempotent."""
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = -1


def supervisor_pid(home: Path) -> int | None:
    """Who supervises this home now; None if nobody does."""
    try:
        descriptor = os.open(lock_path(home), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        text = os.read(descriptor, 32).decode(errors="replace").strip()
        return int(text) if text.isdigit() else None
    finally:
        os.close(descriptor)
    return None


async def take_over(store: Store, home: Path, started: facts.SupervisorStarted) -> Fence:
    """Take the lease anew, as the home's lock allows, and say so; gives the fence of every later write.

    Raises `ProcessError` when a supervisor of another home holds it.
    """
    holder = f"{home.resolve()}@{socket.gethostname()}"
    while True:
        lease = await store.lease(facts.SUPERVISOR_LEASE)
        token = (lease.token if lease else 0) + 1
        try:
            await store.append(
                Write(facts.SUPERVISOR, (facts.draft(started),)),
                guards=(Acquire(facts.SUPERVISOR_LEASE, holder, token, LEASE_SECONDS),),
            )
        except LeaseHeld as held:
            raise ProcessError(f"{store.location}: {held.holder} supervises with this ledger already; stop it first") from held
        except Conflict:
            continue
        return Fence(facts.SUPERVISOR_LEASE, token)
