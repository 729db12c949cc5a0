"""An answer of a model while it comes: partial text for whoever reads along, and the recorded result at the end.

Partial text is a sample, not an event: it is nowhere but in this process, and what is recorded is the whole answer, once,
as without streaming. An attempt that is cut short is recorded as interrupted, and its text means nothing any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from typing import Any, Self
from weakref import WeakValueDictionary

import msgspec

from harness.errors import ModelMalformed, UsageError
from harness.kernel.ports import ModelPort, ModelRequest, ModelResult
from harness.kernel.results import StepModelResult
from harness.ledger import Store


class TextDelta(msgspec.Struct, frozen=True, kw_only=True):
    """The next piece of an answer's text.

    `restarted` says that the attempt before has failed: forget its text. `done` says that there is no more of this answer.
    """

    text: str
    step: str = ""
    attempt: int = 1  # counted from the first call of this stream
    restarted: bool = False
    done: bool = False
    replayed: bool = False  # the recorded text at once


class _Reader:
    """One follower's queue, in its own event loop."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[TextDelta] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()

    def give(self, delta: TextDelta) -> None:
        with contextlib.suppress(RuntimeError):  # its loop is closed
            self._loop.call_soon_threadsafe(self.queue.put_nowait, delta)


class LiveTexts:
    """The answers of one run that are coming just now, and who reads along. Safe to be used from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._texts: dict[str, TextDelta] = {}  # what was said so far, by step
        self._readers: set[_Reader] = set()

    def say(self, delta: TextDelta) -> None:
        """Tell every reader."""
        with self._lock:
            before = self._texts.get(delta.step)
            if delta.done:
                self._texts.pop(delta.step, None)
            else:
                text = delta.text if before is None or delta.restarted else before.text + delta.text
                self._texts[delta.step] = msgspec.structs.replace(delta, text=text, restarted=False)
            for reader in self._readers:
                reader.give(delta)

    async def follow(self) -> AsyncGenerator[TextDelta]:
        """What was said so far of the answers that are coming, then each piece. Never ends by itself."""
        reader = _Reader()
        with self._lock:
            known = list(self._texts.values())
            self._readers.add(reader)
        try:
            for delta in known:
                yield delta
            while True:
                yield await reader.queue.get()
        finally:
            with self._lock:
                self._readers.discard(reader)


_live: WeakValueDictionary[tuple[str, str], LiveTexts] = WeakValueDictionary()
_live_lock = threading.Lock()


def live_texts(store: Store, run_id: str) -> LiveTexts:
    """Those of a run of this ledger, the same for all kernels of this process."""
    place = store.location if store.location != "memory" else f"memory/{id(store)}"
    with _live_lock:
        known = _live.get((place, run_id))
        if known is None:
            known = _live[place, run_id] = LiveTexts()
        return known


class Sink:
    """Draws an answer from a port piece by piece, and passes the pieces on."""

    def __init__(self, live: LiveTexts) -> None:
        self.pieces: asyncio.Queue[TextDelta | None] = asyncio.Queue()
        self.said = False  # anything of the present attempt
        self._live = live
        self._attempt = 0
        self._step = ""

    async def draw(self, port: ModelPort, request: ModelRequest, step: str) -> ModelResult:
        """One attempt. A port that cannot stream says everything at once."""
        self._attempt += 1
        self._step = step
        if self._attempt > 1:
            self._say("", restarted=True)
        self.said = False
        try:
            return await self._drawn(port, request)
        finally:
            self._live.say(TextDelta(text="", step=step, attempt=self._attempt, done=True))

    async def _drawn(self, port: ModelPort, request: ModelRequest) -> ModelResult:
        stream: Callable[[ModelRequest], AsyncGenerator[str | ModelResult]] | None = getattr(port, "stream", None)
        result: ModelResult | None = None
        if stream is None:
            result = await port.complete(request)
        else:
            async with contextlib.aclosing(stream(request)) as parts:
                async for part in parts:
                    if isinstance(part, ModelResult):
                        result = part
                    elif part:
                        self._say(part)
        if result is None:
            raise ModelMalformed(f"the stream of {type(port).__name__} ended without a result")
        if result.text and not self.said:
            self._say(result.text)
        return result

    def _say(self, text: str, *, restarted: bool = False) -> None:
        self.said = True
        delta = TextDelta(text=text, step=self._step, attempt=self._attempt, restarted=restarted)
        self.pieces.put_nowait(delta)
        self._live.say(delta)

    def end(self, result: StepModelResult | None) -> None:
        """There is no more. What was recorded before, or drawn by another task, is said now."""
        if result is not None and result.text and not self._attempt:
            self.pieces.put_nowait(TextDelta(text=result.text, step=result.step, replayed=True))
        self.pieces.put_nowait(None)


class ModelStream:
    """One model step whose text can be read while it comes. Iterate it for the text, then await `result()`.

    The step goes on whether or not anybody reads. Use it as an async context manager, or `aclose()` it: leaving it before
    its end cancels the call, which is then recorded as interrupted.
    """

    def __init__(self, call: Coroutine[Any, Any, StepModelResult], sink: Sink) -> None:
        self._call = call
        self._sink = sink
        self._task: asyncio.Task[StepModelResult] | None = None
        self._over = False
        self._closed = False

    def _begun(self) -> asyncio.Task[StepModelResult]:
        if self._closed and self._task is None:
            raise UsageError("this stream was closed before it began; ask again")
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._call, name="harness model stream")
            self._task.add_done_callback(self._ended)
        return self._task

    def _ended(self, task: asyncio.Task[StepModelResult]) -> None:
        failed = task.cancelled() or task.exception() is not None
        self._sink.end(None if failed else task.result())

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> TextDelta:
        task = self._begun()
        if not self._over:
            piece = await self._sink.pieces.get()
            if piece is not None:
                return piece
            self._over = True
            task.result()  # raises what the step raises
        raise StopAsyncIteration

    async def result(self) -> StepModelResult:
        """The recorded result. Raises what `step_model` raises."""
        return await asyncio.shield(self._begun())

    def __await__(self) -> Generator[Any, Any, StepModelResult]:
        return self.result().__await__()

    async def text(self) -> str:
        """The whole text of the answer."""
        return (await self.result()).text

    async def __aenter__(self) -> Self:
        self._begun()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Give up what has not ended. Idempotent."""
        self._closed = True
        if self._task is None:
            self._call.close()
        elif not self._task.done():
            self._task.cancel()
            await asyncio.wait({self._task})
