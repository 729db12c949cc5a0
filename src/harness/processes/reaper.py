"""Orphans: descendants that were handed to us because we are their subreaper. They are reaped as they exit."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
import weakref

from harness.processes import system
from harness.processes.identity import Row, read_children

_PR_SET_CHILD_SUBREAPER = 36  # prctl(2)

_children: set[int] = set()
"""Pids that `spawn` started and that their `Process` reaps itself."""

_state = {"subreaper": False}
_loops: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()


def become_subreaper(*, enabled: bool = True) -> bool:
    """Have orphaned descendants handed to this process instead of init; False where the system has no such thing.

    Who calls this runs an event loop in its main thread, which reaps them.
    """
    import ctypes

    try:
        done = ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, int(enabled), 0, 0, 0) == 0
    except (AttributeError, OSError):
        done = False
    _state["subreaper"] = done and enabled
    return done


def own_child(pid: int) -> None:
    """This pid is reaped by its owner object, not here."""
    _children.add(pid)


def disown_child(pid: int) -> None:
    _children.discard(pid)


def watch_orphans() -> None:
    """Reap orphans whenever a child exits. Only the main thread hears that; elsewhere they are reaped at the next stop."""
    loop = asyncio.get_running_loop()
    if not _state["subreaper"] or loop in _loops or threading.current_thread() is not threading.main_thread():
        return
    with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
        loop.add_signal_handler(signal.SIGCHLD, reap_orphans)
        _loops.add(loop)


def reap_orphans() -> None:
    """Reap exited children that nobody here started.

    Children that other code in this process has started live in our session; ours and their descendants never do.
    """
    if not _state["subreaper"]:
        return
    if system.WAITID and not _may_have_orphans():
        return
    for row in read_children():
        if row.dead and is_orphan(row):
            with contextlib.suppress(ChildProcessError):
                os.waitpid(row.pid, os.WNOHANG)


def _may_have_orphans() -> bool:
    """Whether an exited child is worth a look at the process table. One of ours is not: once it is reaped we look again."""
    try:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return found is not None and found.si_pid not in _children


def is_orphan(row: Row) -> bool:
    """Whether it was handed to us: a child that neither `spawn` nor other code in this process has started.

    Nobody is handed to who is neither a subreaper nor the first process; there every child is somebody's own.
    """
    own = os.getpid()
    if row.parent != own or not (_state["subreaper"] or own == 1):
        return False
    return row.session != os.getsid(0) and row.pid not in _children
