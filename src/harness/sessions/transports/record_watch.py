"""Reads a program's own record when there is reason to: what it has used stands there and nowhere else. Owns when, not what.

Hooks and output are the reasons; a program that is silent is not looked at. It may write after it has said that a turn is
over, so there are a few more looks after each reason. Large files are read a piece at a time, between other things.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from harness.sessions import facts
from harness.sessions.reports import Report
from harness.sessions.transports.record_files import RecordFile, RecordFiles

_AFTER_SECONDS = (0.15, 0.35, 0.7, 1.5)  # Claude Code writes up to half a second after its hook
_OUTPUT_SECONDS = 1.0
_PIECE = 64 << 10  # bytes; larger ones stay in the host's memory once they were used
_LAST_PIECES = 256  # that are read when the program has ended


class Record(Protocol):
    """What is made of the lines. Pure."""

    def feed(self, line: bytes, source: str = "") -> None: ...

    def told(self) -> list[Report]: ...


class RecordWatch:
    """The record of one program. Lives in the event loop that makes it."""

    def __init__(self, record: Record, files: RecordFiles, tell: Callable[[Report], object]) -> None:
        self._record = record
        self._files = files
        self._tell = tell
        self._loop = asyncio.get_running_loop()
        self._open: dict[str, RecordFile] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._reading: asyncio.Handle | None = None
        self._left: list[RecordFile] = []  # to be read in this look
        self._rest: list[float] = []  # seconds to the looks that follow
        self._stirred = False
        self._over = False  # a turn is: something must have been used
        self._complained = self._closed = False

    def belongs(self, name: str) -> None:
        """What the program works on; see `RecordFiles`."""
        self._files.belongs(name)

    def given(self, prompt: str) -> None:
        """The program is given a prompt."""
        self._files.given(prompt)

    def stir(self) -> None:
        """The program has let something out; costs next to nothing."""
        self._stirred = True
        if self._timer is None and not self._closed:
            self._timer = self._loop.call_later(_OUTPUT_SECONDS, self._due)

    def look(self, *, over: bool = False) -> None:
        """Something has happened that may be on the record, or will be in a moment. `over`: a turn has ended."""
        if self._closed:
            return
        self._rest = list(_AFTER_SECONDS)
        self._over = self._over or over
        if self._timer is not None:
            self._timer.cancel()
        self._due()

    def _due(self) -> None:
        self._timer = None
        if self._reading is None:
            self._left = self._found()
            self._read()
        if self._rest:
            self._timer = self._loop.call_later(self._rest.pop(0), self._due)
            return
        self._complain()
        if self._stirred:  # since the last look was planned
            self._stirred = False
            self._timer = self._loop.call_later(_OUTPUT_SECONDS, self._due)

    def _found(self) -> list[RecordFile]:
        for path in self._files.paths():
            if path not in self._open:
                self._open[path] = RecordFile(path)
        return list(self._open.values())

    def _read(self) -> None:
        """One piece; the loop goes round before the next."""
        self._reading = None
        if self._left and not self._take(self._left[-1]):
            self._left.pop()
        if self._left:
            self._reading = self._loop.call_soon(self._read)

    def _take(self, file: RecordFile) -> bool:
        """Whether there may be more in it."""
        lines, more = file.read(_PIECE)
        for line in lines:
            self._record.feed(line, file.path)
        for report in self._record.told():
            self._tell(report)
        return more

    def _complain(self) -> None:
        if self._over and not self._complained and not any(file.there for file in self._open.values()):
            self._complained = True
            self._tell(facts.Noted(kind="uncounted", text="what it uses is not known: it keeps no record that could be found"))

    def close(self) -> None:
        """Read what is left, and stop. Idempotent."""
        if self._closed:
            return
        self._closed = True
        for handle in (self._timer, self._reading):
            if handle is not None:
                handle.cancel()
        pieces = _LAST_PIECES
        for file in self._found():
            while pieces and self._take(file):
                pieces -= 1
