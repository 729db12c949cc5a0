"""Running a blocking function beside the event loop, in threads that never keep the interpreter from exiting."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import os
import threading
from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")

_MAX_THREADS = 64
_IDLE_SECONDS = 10.0

_free = threading.BoundedSemaphore(_MAX_THREADS)
_idle: deque[_Worker] = deque()


async def in_thread(function: Callable[[], T]) -> T:
    """What the function gives or raises. When cancelled it returns at once, and the thread ends by itself.

    More than 64 at a time wait for each other.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()
    context = contextvars.copy_context()

    def work() -> None:
        with _free:
            try:
                result = context.run(function)
            except BaseException as error:  # noqa: BLE001 - it is the caller's, whatever it is
                _tell(loop, future, error=error)
            else:
                _tell(loop, future, result=result)

    try:
        worker = _idle.pop()
    except IndexError:
        worker = _Worker()
    worker.work.put(work)
    return await future


class _Worker(threading.Thread):
    """A thread that works for one after another and ends when nobody has wanted it for a while."""

    def __init__(self) -> None:
        super().__init__(name="harness tool", daemon=True)
        self.work: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self.start()

    def run(self) -> None:
        while True:
            try:
                work = self.work.get(timeout=_IDLE_SECONDS)
            except Empty:
                try:
                    _idle.remove(self)
                except ValueError:  # somebody took it just now, and its work is about to come
                    continue
                return
            work()
            del work  # it refers to what it worked on
            _idle.append(self)


if hasattr(os, "register_at_fork"):  # threads do not come along
    os.register_at_fork(after_in_child=_idle.clear)


def _tell(loop: asyncio.AbstractEventLoop, future: asyncio.Future[Any], *, result: Any = None, error: Any = None) -> None:
    def settle() -> None:
        if future.done():
            return
        if isinstance(error, StopIteration):  # a future cannot carry it
            future.set_exception(RuntimeError(f"the function raised {error!r}"))
        elif error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)

    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
        loop.call_soon_threadsafe(settle)
