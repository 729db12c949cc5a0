"""Group commit: who writes, when, and who is told. Knows nothing of what is written.

The first append of a tick leads: it lets the others of its tick queue up behind it and then writes them all. When
nobody did so the last time it does not wait for others, but for one time in eight, which finds out if that changed.
With a free gate it writes inline, in the event loop's own thread, unless several wait and the disk is slow, so
that the loop would stand still; then, or at a closed gate, a writer thread takes the whole queue in its turn. It also
takes what loops of several threads have queued together, since each may only be told in its own.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Protocol

from harness.errors import Busy, LedgerError, StoreUnavailable
from harness.ledger.chain import Prepared

_SLOW_SECONDS = 0.005
_LOOK_ROUND = 8

Work = Prepared | Callable[[], object]


class TurnTaking(Protocol):
    """What a gate can do; see `gate.Gate`."""

    undisturbed: bool

    def try_enter(self) -> bool: ...
    def enter(self) -> None: ...
    def leave(self) -> None: ...
    def holder_pid(self) -> int | None: ...
    def close(self) -> None: ...


class Submitted(asyncio.Future[object]):
    """Resolved when submitted work is written or refused."""

    _kept = False

    def keep(self) -> None:
        """From now on a task that waits for it is cancelled only after that; costs less than a shield."""
        self._kept = True

    def cancel(self, msg: object = None) -> bool:
        return False if self._kept else super().cancel(msg)


class Entry:
    """One append, or one job inside the writer's turn, and who waits for it."""

    __slots__ = ("awaited", "done", "error", "future", "loop", "result", "since", "work")

    def __init__(self, work: Work, loop: asyncio.AbstractEventLoop, future: asyncio.Future[object] | None = None) -> None:
        self.work = work
        self.loop = loop
        self.awaited = future is None
        self.since = 0.0  # when it came to the gate, in its loop's time; 0 if it does not wait there
        self.future = future  # only if somebody must be woken
        self.done = False
        self.result: object = None
        self.error: BaseException | None = None

    def wake(self) -> asyncio.Future[object]:
        """The future that is resolved when the entry is written or refused."""
        if self.future is None:
            future: asyncio.Future[object] = asyncio.Future(loop=self.loop)
            self.future = future
        return self.future

    def resolve(self) -> None:
        """Tell the one who waits, in its own loop's thread."""
        self.done = True
        future = self.future
        if future is None or future.done():
            return
        if self.error is None:
            future.set_result(self.result)
            return
        future.set_exception(self.error)
        if not self.awaited:
            future.exception()  # a submitted entry's failure is for whoever awaits it, or for the next append to meet


class GroupCommit:
    """A queue of entries in front of `commit`, which writes a list of them and sets their results or errors."""

    def __init__(self, commit: Callable[[list[Entry]], None], gate: TurnTaking, *, name: str, busy_seconds: float) -> None:
        self._commit = commit
        self._gate = gate
        self._name = name
        self._busy_seconds = busy_seconds
        self._queue: list[Entry] = []
        self._alone = False  # the last flush served one
        self._hasty = 0  # how often in a row we did not wait for others
        self._led: asyncio.AbstractEventLoop | None = None  # where somebody will flush at the end of this tick
        self._mixed = False  # entries of several loops are queued
        self._handle: asyncio.Handle | None = None  # the flush that a submit asked for
        self._threaded = False  # the queue is the thread's until it is empty
        self._armed: asyncio.AbstractEventLoop | None = None  # where a timer watches how long the queue waits at the gate
        self._at_gate = False  # the thread waits to be let in
        self._blocked_seconds = 0.0  # how long a commit has waited for the disk lately
        self._turn_lock = threading.Lock()  # before the gate, which does not tell our own threads apart
        self.turn = 0  # grows by one before we enter and when we have left; while it is odd, what the writer knows is not sure
        self._closed = False
        self._lock = threading.Lock()
        self._news = threading.Condition(self._lock)  # for the thread
        self._thread: threading.Thread | None = None

    def submit(self, work: Work) -> Submitted:
        """Queue work for the flush at the end of this tick, or write it at once where nobody seems to join."""
        loop = asyncio.get_running_loop()
        future = Submitted(loop=loop)
        with self._lock:
            leads = self._queue_up(Entry(work, loop, future))
            hasty = leads and self._in_haste()
            if leads and not hasty:
                self._handle = loop.call_soon(self._flush)
        if hasty:
            self._flush()
        return future

    async def put(self, work: Work) -> object:
        """Queue work, and return its result when it is written; lead the flush if nobody does."""
        entry = Entry(work, asyncio.get_running_loop())
        with self._lock:
            leads = self._queue_up(entry)
            if self._handle is not None:  # a submit asked for a flush; we are about to do it
                self._handle.cancel()
                self._handle = None
                leads = True
            future = None if leads else entry.wake()
        if future is not None:
            return await future
        try:
            if not self._in_haste():
                await asyncio.sleep(0)
        finally:  # also when cancelled: what is queued is written
            self._flush()
        if not entry.done:
            return await entry.wake()
        if entry.error is not None:
            raise entry.error
        return entry.result

    def _in_haste(self) -> bool:
        """Whether not to wait for others this time, since nobody came the last time."""
        self._hasty = (self._hasty + 1) % _LOOK_ROUND if self._alone else 0
        return self._hasty > 0

    def _queue_up(self, entry: Entry) -> bool:
        """Add to the queue; gives whether the caller must see to the flush. Called with the lock held."""
        if self._closed:
            raise LedgerError(f"{self._name} is closed")
        self._queue.append(entry)
        if self._threaded:
            entry.since = entry.loop.time()
            self._arm(entry.loop, self._busy_seconds)
            return False
        if self._led is entry.loop:
            return False
        self._mixed = self._led is not None  # and its leader may have ended with that loop
        self._led = entry.loop
        return True

    def _flush(self) -> None:
        with self._lock:
            self._led = None
            self._handle = None
            entries = self._queue
            if self._threaded or not entries:
                return
            inline = not self._mixed and (len(entries) == 1 or self._blocked_seconds < _SLOW_SECONDS)
            self._mixed = False
            if not (inline and self._enter_at_once()):
                self._to_thread()
                return
            self._queue = []
            self._alone = len(entries) == 1
        try:
            if len(entries) <= 2:  # that waits as long as it must, so there is nothing to learn
                self._commit(entries)
            else:
                self._timed_commit(entries)
        finally:
            self._leave()
            for entry in entries:
                entry.resolve()

    def _enter_at_once(self) -> bool:
        """Enter if nobody is inside, in another process or another thread of ours."""
        if not self._turn_lock.acquire(blocking=False):
            return False
        self.turn += 1  # before the gate is signed: then nothing shows any more that others were inside
        try:
            if self._gate.try_enter():
                return True
        except OSError:  # the thread will meet it again, and tell
            pass
        self.turn += 1
        self._turn_lock.release()
        return False

    def _leave(self) -> None:
        self.turn += 1
        self._gate.leave()
        self._turn_lock.release()

    def _timed_commit(self, entries: list[Entry]) -> None:
        began, worked = time.perf_counter(), time.thread_time()
        self._commit(entries)
        blocked = (time.perf_counter() - began) - (time.thread_time() - worked)
        self._blocked_seconds += (blocked - self._blocked_seconds) / 8

    def _to_thread(self) -> None:
        """Hand the queue to the writer thread. Called with the lock held, in a loop's thread."""
        for entry in self._queue:
            entry.wake()
            entry.since = entry.loop.time()
        self._threaded = True
        self._alone = False
        self._arm(asyncio.get_running_loop(), self._busy_seconds)
        if self._thread is None:
            self._thread = threading.Thread(target=self._write, name=f"ledger {self._name}", daemon=True)
            self._thread.start()
        self._news.notify_all()

    def _write(self) -> None:
        while True:
            with self._lock:
                while not self._threaded:
                    if self._closed:
                        return
                    self._news.wait()
                self._at_gate = True
            entries = self._turn()
            with self._lock:
                self._threaded = bool(self._queue)
                deserted = self._closed and self._at_gate
            _announce(entries)
            if deserted:  # `close` did not wait for us, so what it could not let go of is ours
                self._gate.close()
                return

    def _turn(self) -> list[Entry]:
        """Wait for the gate and write whatever is queued by then."""
        problem: OSError | None = None
        self._turn_lock.acquire()
        self.turn += 1
        try:
            self._gate.enter()
        except OSError as error:
            problem = error
            self.turn += 1
            self._turn_lock.release()
        with self._lock:
            entries, self._queue = self._queue, []
            self._at_gate = self._closed
        if problem is not None:
            refused = StoreUnavailable(f"{self._name}: the write gate cannot be used: {problem.strerror}", reason="full")
            for entry in entries:
                entry.error = refused
            return entries
        try:
            if entries:
                self._timed_commit(entries)
        finally:
            self._leave()
        return entries

    def _arm(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        if self._armed is not loop and not loop.is_closed():
            self._armed = loop
            loop.call_later(seconds, self._expire)

    def _expire(self) -> None:
        """Give up on what has waited at the gate for too long."""
        with self._lock:
            self._armed = None
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
        with self._lock:
            idle = not self._queue and not self._threaded
        if not idle:
            await self.put(_nothing)

    def close(self) -> None:
        """Refuse what is queued and whatever comes, end the thread, and close the gate.

        A thread that waits at the gate cannot be woken: it closes the gate when it gets in, and writes nothing.
        """
        with self._lock:
            self._closed = True
            refused, self._queue = self._queue, []
            deserted = self._at_gate
            self._news.notify_all()
        for entry in refused:
            entry.error = LedgerError(f"{self._name} is closed")
        _announce(refused)
        if deserted:
            return
        if self._thread is not None:
            self._thread.join()
        with self._turn_lock:
            self._gate.close()


def _nothing() -> None:
    """A job that only takes its turn."""


def _announce(entries: list[Entry]) -> None:
    """Resolve entries from another thread: one wake-up for each loop."""
    loops: dict[asyncio.AbstractEventLoop, list[Entry]] = {}
    for entry in entries:
        loops.setdefault(entry.loop, []).append(entry)
    for loop, ours in loops.items():
        try:
            loop.call_soon_threadsafe(_resolve, ours)
        except RuntimeError:  # that loop is closed: nobody waits any more
            continue


def _resolve(entries: list[Entry]) -> None:
    for entry in entries:
        entry.resolve()
