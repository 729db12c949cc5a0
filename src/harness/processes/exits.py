"""Noticing that a process has exited, by event where the system has one. It reaps nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import threading
from collections.abc import Callable, Iterable
from typing import Any

from harness.processes import system
from harness.processes.identity import Identity

_POLL_SECONDS = 0.1  # only where the system has no event for a process that is not our child


class Watch:
    """Calls back once, in the loop, when a process has exited; `close` ends it early. Must be made inside the loop."""

    def __init__(self, identity: Identity, callback: Callable[[], None], *, child: bool = False) -> None:
        self._loop = asyncio.get_running_loop()
        self._identity = identity
        self._callback: Callable[[], None] | None = callback
        self._fd = -1
        self._queue: Any = None  # a kqueue, where the system has it
        self._timer: asyncio.TimerHandle | None = None
        try:
            self._start(child=child)
        except ProcessLookupError:
            self._loop.call_soon(self._fire)

    def _start(self, *, child: bool) -> None:
        if system.PIDFD:
            self._fd = os.pidfd_open(self._identity.pid)
            if child or self._identity.alive():
                self._loop.add_reader(self._fd, self._fire)
            else:  # the pid is used again, or it is a zombie already
                self._loop.call_soon(self._fire)
        elif system.KQUEUE:
            self._start_kqueue()
        elif child and system.WAITID:
            threading.Thread(target=self._wait_in_thread, name=f"wait-{self._identity.pid}", daemon=True).start()
        else:
            self._poll()

    def _start_kqueue(self) -> None:
        kqueue: Any = select  # the names exist where the system has kqueue
        self._queue = kqueue.kqueue()
        event = kqueue.kevent(
            self._identity.pid,
            filter=kqueue.KQ_FILTER_PROC,
            flags=kqueue.KQ_EV_ADD | kqueue.KQ_EV_ONESHOT,
            fflags=kqueue.KQ_NOTE_EXIT,
        )
        self._queue.control([event], 0, 0)
        self._loop.add_reader(self._queue.fileno(), self._fire)

    def _wait_in_thread(self) -> None:
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PID, self._identity.pid, os.WEXITED | os.WNOWAIT)
        with contextlib.suppress(RuntimeError):  # the loop is closed, so nobody is interested
            self._loop.call_soon_threadsafe(self._fire)

    def _poll(self) -> None:
        if self._identity.alive():
            self._timer = self._loop.call_later(_POLL_SECONDS, self._poll)
        else:
            self._loop.call_soon(self._fire)

    def _fire(self) -> None:
        callback, self._callback = self._callback, None
        self.close()
        if callback is not None:
            callback()

    def close(self) -> None:
        """Stop watching; may be called again."""
        self._callback = None
        if self._timer is not None:
            self._timer.cancel()
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
        if self._queue is not None:
            self._loop.remove_reader(self._queue.fileno())
            self._queue.close()
            self._queue = None


async def all_gone(identities: Iterable[Identity], *, timeout_seconds: float) -> bool:
    """Wait until all of them have exited; False if that takes longer."""
    left = set(identities)
    done = asyncio.Event()
    watches: list[Watch] = []

    def gone(identity: Identity) -> None:
        left.discard(identity)
        if not left:
            done.set()

    try:
        watches.extend(Watch(identity, lambda identity=identity: gone(identity)) for identity in tuple(left))
        if left:
            async with asyncio.timeout(timeout_seconds):
                await done.wait()
    except TimeoutError:
        return False
    finally:
        for watch in watches:
            watch.close()
    return True
