"""Group commit: who writes, when, and who is told. Knows nothing of what is written.

The first entry of a tick schedules the flush. One waiting caller with a free gate is served inline, by
the event loop's own thread; otherwise a writer thread enters the gate in turn and takes the whole queue.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Protocol

from harness.errors import Busy, LedgerError
from harness.ledger.chain import Prepared
from harness.ledger.store import Appended


class TurnTaking(Protocol):
    """What a gate can do; see `gate.Gate`."""

    def try_enter(self) -> bool: ...
    def enter(self) -> None: ...
    def leave(self) -> None: ...
    def holder_pid(self) -> int | None: ...


class Entry:
    """One append, or one job inside the writer's turn, and who waits for it."""

    __slots__ = ("awaited", "error", "future", "loop", "result", "since", "work")

    def __init__(self, work: Prepared | Callable[[], object], loop: asyncio.AbstractEventLoop, *, awaited: bool) -> None:
        self.work = work
        self.loop = loop
        self.future: asyncio.Future[object] = loop.create_future()
        self.awaited = awaited
        self.since = loop.time()
        self.result: Appended | object = None
        self.error: BaseException | None = None

    def resolve(self) -> None:
        """Tell the one who waits, in its own loop's thread."""
        if self.future.done():
            return
        if self.error is not None:
            self.future.set_exception(self.error)
            if not self.awaited:
                self.future.exception()  # a submitted entry's failure is the next append's to meet
        else:
            self.future.set_result(self.result)


class GroupCommit:
    """A queue of entries in front of `commit`, which writes a list of them and sets their results or errors."""

    def __init__(self, commit: Callable[[list[Entry]], None], gate: TurnTaking, *, name: str, busy_seconds: float) -> None:
        self._commit = commit
        self._gate = gate
        self._name = name
        self._busy_seconds = busy_seconds
        self._queue: list[Entry] = []
        self._scheduled = False
        self._threaded = False  # the queue is the thread's until it is empty
        self._closed = False
        self._armed = False  # a timer watches how long the queue waits at the gate
        self._lock = threading.Condition(threading.Lock())
        self._thread: threading.Thread | None = None

    def put(self, work: Prepared | Callable[[], object], *, awaited: bool) -> asyncio.Future[object]:
        """Queue work for the flush at the end of this tick."""
        loop = asyncio.get_running_loop()
        entry = Entry(work, loop, awaited=awaited)
        with self._lock:
            if self._closed:
                raise LedgerError(f"{self._name} is closed")
            self._queue.append(entry)
            if self._threaded:
                self._arm(loop, self._busy_seconds)
            if self._scheduled or self._threaded:
                return entry.future
            self._scheduled = True
        loop.call_soon(self._flush)
        return entry.future

    def _flush(self) -> None:
        with self._lock:
            self._scheduled = False
            if self._threaded or not self._queue:
                return
            alone = sum(entry.awaited for entry in self._queue) <= 1
            if not (alone and self._gate.try_enter()):
                self._to_thread()
                return
            entries, self._queue = self._queue, []
        try:
            self._commit(entries)
        finally:
            self._gate.leave()
        for entry in entries:
            entry.resolve()

    def _to_thread(self) -> None:
        """Hand the queue to the writer thread. Called with the lock held, in a loop's thread."""
        self._threaded = True
        self._arm(asyncio.get_running_loop(), self._busy_seconds)
        if self._thread is None:
            self._thread = threading.Thread(target=self._write, name=f"ledger {self._name}", daemon=True)
            self._thread.start()
        self._lock.notify_all()

    def _write(self) -> None:
        while True:
            with self._lock:
                while not self._threaded:
                    if self._closed:
                        return
                    self._lock.wait()
            self._gate.enter()
            try:
                with self._lock:
                    entries, self._queue = self._queue, []
                if entries:
                    self._commit(entries)
            finally:
                self._gate.leave()
            with self._lock:
                self._threaded = bool(self._queue)
            _announce(entries)

    def _arm(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        if not self._armed:
            self._armed = True
            loop.call_later(seconds, self._expire)

    def _expire(self) -> None:
        """Give up on what has waited at the gate for too long."""
        with self._lock:
            self._armed = False
            if not (self._threaded and self._queue):
                return
            loop = asyncio.get_running_loop()
            deadline = loop.time() - self._busy_seconds
            late = [entry for entry in self._queue if entry.since <= deadline]
            self._queue = [entry for entry in self._queue if entry.since > deadline]
            if self._queue:
                self._arm(loop, max(self._queue[0].since - deadline, 0.01))
        for entry in late:
            entry.error = Busy(self._name, holder_pid=self._gate.holder_pid(), waited_seconds=self._busy_seconds)
        _announce(late)

    async def drain(self) -> None:
        """Return when everything queued so far was written or refused."""
        while True:
            with self._lock:
                waiting = [entry.future for entry in self._queue]
            if not waiting:
                break
            await asyncio.wait(waiting)
        with self._lock:
            if not self._threaded:
                return
        await self.put(lambda: None, awaited=True)

    def close(self) -> None:
        """Refuse new entries and end the thread once its queue is empty."""
        with self._lock:
            self._closed = True
            self._lock.notify_all()
        if self._thread is not None:
            self._thread.join(timeout=self._busy_seconds)


def _announce(entries: list[Entry]) -> None:
    """Resolve entries from another thread: one wake-up for each loop."""
    loops: dict[asyncio.AbstractEventLoop, list[Entry]] = {}
    for entry in entries:
        loops.setdefault(entry.loop, []).append(entry)
    for loop, ours in loops.items():
        try:
            loop.call_soon_threadsafe(lambda ours=ours: [entry.resolve() for entry in ours])
        except RuntimeError:  # that loop is closed: nobody waits any more
            continue
