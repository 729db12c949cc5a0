"""Orphans: descendants that were handed to us because we are their subreaper. They are reaped as they exit."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
import weakref

from harness.processes.identity import Row, read_row, read_rows

_PR_SET_CHILD_SUBREAPER = 36  # prctl(2)

_children: set[int] = set()
"""Pids that `spawn` started and that their `Process` reaps itself."""

_state = {"subreaper": False}
_loops: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()


def become_subreaper() -> bool:
    """Have orphaned descendants handed to this process instead of init; False where the system has no such thing."""
    import ctypes

    try:
        done = ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    except (AttributeError, OSError):
        done = False
    _state["subreaper"] = done
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
    own = read_row(os.getpid())
    for row in read_rows():
        if own is not None and _is_orphan(row, own):
            with contextlib.suppress(ChildProcessError):
                os.waitpid(row.pid, os.WNOHANG)


def _is_orphan(row: Row, own: Row) -> bool:
    return row.parent == own.pid and row.dead and row.session != own.session and row.pid not in _children
