"""Which process is meant: pid and start time, and the rows of the process table. It signals one process, never a tree."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from harness.errors import ProcessError
from harness.processes import system

if TYPE_CHECKING:
    import psutil

_DEAD = frozenset("ZX")
_EXEC_LOOKS = 50
_EXEC_SECONDS = 0.0005  # between looks at a process that is in the middle of an exec
_LISTINGS = 20  # of the process table, at most, until nobody new is in it


class Row(NamedTuple):
    """One process as the table has it; kinship by parent, group and session."""

    pid: int
    parent: int
    group: int
    session: int
    state: str  # one letter as in ps: R, S, D, T, Z, X
    started: int  # as in Identity

    @property
    def dead(self) -> bool:
        """Whether it has exited and only waits to be reaped."""
        return self.state in _DEAD

    @property
    def identity(self) -> Identity:
        return Identity(pid=self.pid, started=self.started)


class Identity(NamedTuple):
    """One process for all time until the next boot: a pid is used again, a pid with its start time is not."""

    pid: int
    started: int  # clock ticks since boot; without /proc: microseconds since 1970

    @classmethod
    def of(cls, pid: int) -> Identity:
        """The identity of a process that exists (a zombie does). Raises `ProcessError` if none has this pid."""
        row = read_row(pid)
        if row is None:
            raise ProcessError(f"no process has pid {pid}")
        return row.identity

    def alive(self) -> bool:
        """Whether it still runs; a zombie does not."""
        row = read_row(self.pid)
        return row is not None and row.started == self.started and not row.dead

    def rests(self) -> bool:
        """Whether it sleeps in its only thread and has no child; False where the system does not tell."""
        try:
            children = _read_strictly(f"/proc/{self.pid}/task/{self.pid}/children")
            threads = len(os.listdir(f"/proc/{self.pid}/task"))  # noqa: PTH208 - names only
        except OSError:
            return False
        row = read_row(self.pid)
        return row is not None and row.identity == self and row.state == "S" and threads == 1 and not children

    def signal(self, number: int) -> bool:
        """Send a signal to this process and no other, even if its pid is used again; False if it is gone.

        Raises `ProcessError` if this user may not.
        """
        try:
            return _signal_by_pidfd(self, number) if system.PIDFD else _signal_by_pid(self, number)
        except ProcessLookupError:
            return False
        except PermissionError as error:
            raise ProcessError(f"process {self.pid} belongs to another user and cannot be signalled") from error


def _signal_by_pidfd(identity: Identity, number: int) -> bool:
    fd = os.pidfd_open(identity.pid)
    try:
        if not identity.alive():
            return False
        signal.pidfd_send_signal(fd, number)
    finally:
        os.close(fd)
    return True


def _signal_by_pid(identity: Identity, number: int) -> bool:
    if not identity.alive():
        return False
    os.kill(identity.pid, number)
    return True


def read_row(pid: int) -> Row | None:
    """The process with this pid, or None."""
    if not system.PROC:
        return _read_with_psutil(pid)
    data = _read(f"/proc/{pid}/stat")
    return parse_stat(pid, data) if data else None


def read_children() -> Iterator[Row]:
    """The children of this process, exited ones too."""
    own = os.getpid()
    try:
        tasks = os.listdir("/proc/self/task")  # noqa: PTH208 - names only
        pids = [int(word) for task in tasks for word in _read_strictly(f"/proc/self/task/{task}/children").split()]
    except OSError:  # not every kernel lists them
        yield from (row for row in read_rows() if row.parent == own)
        return
    for pid in pids:
        row = read_row(pid)
        if row is not None:
            yield row


def read_rows() -> Iterator[Row]:
    """Every process that this user can see, in no order.

    The table cannot be read at one instant: who is born while it is read is looked at before this ends.
    """
    seen: set[int] = set()
    for _ in range(_LISTINGS):
        fresh = _read_pids() - seen
        if not fresh:
            return
        seen |= fresh
        for pid in fresh:
            row = read_row(pid)
            if row is not None:
                yield row


def _read_pids() -> set[int]:
    if not system.PROC:
        import psutil

        return set(psutil.pids())
    return {int(name) for name in os.listdir("/proc") if name.isdigit()}  # noqa: PTH208 - names only, and often


def parse_stat(pid: int, data: bytes) -> Row:
    """Fields of proc_pid_stat(5); the name in parentheses may hold spaces and parentheses itself."""
    fields = data[data.rindex(b")") + 2 :].split()
    state = fields[0].decode()
    if state == "Z" and int(fields[17]) > 1:  # only its first thread has ended
        state = "S"
    return Row(pid, int(fields[1]), int(fields[2]), int(fields[3]), state, int(fields[19]))


def read_environment(pid: int) -> dict[str, str]:
    """The environment that a process was started with; empty if it is gone, hidden or has overwritten it."""
    if not system.PROC:
        return _environment_with_psutil(pid)
    try:
        data = _read_strictly(f"/proc/{pid}/environ")
        for _ in range(_EXEC_LOOKS):
            if data:
                break
            in_exec = _in_exec(pid)
            if in_exec:
                time.sleep(_EXEC_SECONDS)
            data = _read_strictly(f"/proc/{pid}/environ")  # after the look at its state, which may have changed between both
            if not in_exec:
                break
    except OSError:  # gone, or another user's
        return {}
    pairs = (entry.partition(b"=") for entry in data.split(b"\0"))
    return {os.fsdecode(name): os.fsdecode(value) for name, equals, value in pairs if equals}


def _in_exec(pid: int) -> bool:
    """Whether a process is just becoming another program: it has memory, but no environment yet.

    The system lets the parent go on at that moment, so that a child is often seen so right after it was started.
    """
    data = _read(f"/proc/{pid}/stat")
    fields = data[data.rindex(b")") + 2 :].split() if data else []
    return len(fields) > 48 and fields[0] != b"Z" and fields[20] != b"0" and fields[48] == b"0"


def holds_file(pid: int, file: tuple[int, int]) -> bool:
    """Whether a process has the file with this (device, inode) open; False where that cannot be seen."""
    folder = f"/proc/{pid}/fd"
    try:
        names = os.listdir(folder)  # noqa: PTH208 - names only
    except OSError:
        return False
    for name in names:
        try:
            found = os.stat(f"{folder}/{name}")  # noqa: PTH116 - follows the link to an open pipe, which has no path
        except OSError:
            continue
        if (found.st_dev, found.st_ino) == file:
            return True
    return False


def _read(path: str) -> bytes:
    try:
        return _read_strictly(path)
    except OSError:
        return b""


def _read_strictly(path: str) -> bytes:
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - hundreds of reads a scan
        return file.read() or b""


def _read_with_psutil(pid: int) -> Row | None:
    import psutil

    try:
        process = psutil.Process(pid)
        with process.oneshot():
            return Row(pid, process.ppid() or 0, _group(pid), _session(pid), _letter(process), _started(process))
    except psutil.Error:
        return None


def _started(process: psutil.Process) -> int:
    return round(process.create_time() * 1_000_000)


def _letter(process: psutil.Process) -> str:
    import psutil

    status = process.status()
    return "Z" if status == psutil.STATUS_ZOMBIE else "X" if status == psutil.STATUS_DEAD else "S"


def _group(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except OSError:
        return 0


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except OSError:
        return 0


def _environment_with_psutil(pid: int) -> dict[str, str]:
    import psutil

    try:
        return dict(psutil.Process(pid).environ())
    except (psutil.Error, OSError):
        return {}
