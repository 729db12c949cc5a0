"""One thread that reads its input, keeps timers and performs turns: the ground under every rehearsed agent.

A turn is a generator that gives the seconds it waits, or None to wait until it is woken; closing it cuts it off.
"""

from __future__ import annotations

import json
import os
import select
import signal
import time
from collections.abc import Callable, Generator

Turn = Generator[float | None, None, None]

_READ_BYTES = 1 << 16


class Over(Exception):
    """The program is to end with this code."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Journal:
    """What happened, as lines of JSON that are on the disk before anything else happens. Without a path: nowhere."""

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600) if path else None

    def note(self, event: str, **values: object) -> None:
        """Append one line with the time, this process and the event."""
        if self._descriptor is not None:
            line = json.dumps({"at": time.time(), "pid": os.getpid(), "event": event, **values})
            os.write(self._descriptor, line.encode() + b"\n")
            os.fsync(self._descriptor)


class Lines:
    """Cuts a stream of bytes into lines that are not blank."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that are complete now, without their ends."""
        self._held += data
        *lines, rest = self._held.split(b"\n") if b"\n" in data else [self._held]
        self._held = rest
        return [bytes(line) for line in lines if line.strip()]


def here() -> str:
    """The working directory; `pathlib` would cost more time than the rest of the start."""
    return os.getcwd()  # noqa: PTH109


class Stage:
    """Reads descriptor 0 for `hear`; `gone` is called once when that ends."""

    def __init__(self, hear: Callable[[bytes], None], gone: Callable[[], None]) -> None:
        self._hear = hear
        self._gone = gone
        self._input = True
        self._watched: dict[int, Callable[[], None]] = {}
        self._timers: list[tuple[float, Callable[[], None]]] = []
        self._turn: Turn | None = None
        self._due: float | None = None
        reading, writing = _pipe()
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)  # a signal's handler may have set a timer
        self._watched[reading] = lambda: _drain(reading)

    @property
    def busy(self) -> bool:
        """Whether a turn is under way."""
        return self._turn is not None

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        """Call once, so many seconds from now."""
        self._timers.append((time.monotonic() + seconds, call))

    def watch(self, descriptor: int, call: Callable[[], None]) -> None:
        """Call whenever the descriptor can be read, until `unwatch`."""
        self._watched[descriptor] = call

    def unwatch(self, descriptor: int) -> None:
        self._watched.pop(descriptor, None)

    def perform(self, turn: Turn) -> None:
        """Begin a turn; only when none is under way."""
        assert self._turn is None
        self._turn, self._due = turn, time.monotonic()

    def wake(self) -> None:
        """Let the turn go on now."""
        self._due = time.monotonic()

    def cut(self) -> None:
        """End the turn where it stands."""
        turn, self._turn = self._turn, None
        if turn is not None:
            try:
                turn.close()
            except ValueError:  # a signal came while it was running: the program is about to end
                return

    def run(self) -> int:
        """Until somebody raises `Over`; gives its code."""
        try:
            while True:
                self._round()
        except Over as over:
            self._turn = None
            return over.code

    def _round(self) -> None:
        moments = [moment for moment, _ in self._timers]
        if self._turn is not None and self._due is not None:
            moments.append(self._due)
        timeout = max(0.0, min(moments) - time.monotonic()) if moments else None
        sources = ([0] if self._input else []) + list(self._watched)
        for descriptor in select.select(sources, [], [], timeout)[0]:
            if descriptor in self._watched:
                self._watched[descriptor]()
            elif descriptor == 0:
                self._read()
        now = time.monotonic()
        for timer in [timer for timer in self._timers if timer[0] <= now]:
            self._timers.remove(timer)
            timer[1]()
        if self._turn is not None and self._due is not None and self._due <= now:
            self._step()

    def _read(self) -> None:
        try:
            data = os.read(0, _READ_BYTES)
        except OSError:  # the terminal is gone
            data = b""
        if data:
            self._hear(data)
        else:
            self._input = False
            self._gone()

    def _step(self) -> None:
        turn = self._turn
        assert turn is not None
        try:
            pause = next(turn)
        except StopIteration:
            if self._turn is turn:
                self._turn = None
            return
        self._due = None if pause is None else time.monotonic() + pause


def _pipe() -> tuple[int, int]:
    ends = os.pipe()
    for end in ends:
        os.set_blocking(end, False)
    return ends


def _drain(descriptor: int) -> None:
    try:
        os.read(descriptor, 4096)
    except BlockingIOError:
        return
