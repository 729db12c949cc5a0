"""Running a blocking function beside the event loop, in a thread that never keeps the interpreter from exiting."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

_MAX_THREADS = 64
_free = threading.BoundedSemaphore(_MAX_THREADS)


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

    threading.Thread(target=work, name="harness tool", daemon=True).start()
    return await future


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

    try:
        loop.call_soon_threadsafe(settle)
    except RuntimeError:  # the loop is closed: nobody waits any more
        return
