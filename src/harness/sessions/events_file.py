"""`events.jsonl`: the public events of one run in a file, for tools that can only read files. Owns that file's bytes.

It is a view of the ledger: whoever writes it gives it events in order, and it keeps those that it does not hold yet. It never
raises: what the disk refuses waits in memory and is written when there is room. One writer at a time.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import msgspec

from harness.ledger import Event
from harness.sessions import published

KEPT_BYTES = 1 << 20
"""So much may wait for the disk; what comes after that has to be given again."""
_BLOCK = 1 << 16
_LINES_AT_ONCE = 256


class _Place(msgspec.Struct):
    seq: int


class EventsFile:
    """The writer of `events.jsonl`; it goes on after the last event that the file holds, whoever wrote that."""

    def __init__(self, path: Path, key: str) -> None:
        """Opens the file, or tries again with every `advance`."""
        self.path = path
        self.key = key
        self.seq: int = 0  # of the newest event that was taken: it is in the file, or waits, or is not public
        self.problem = ""  # why something waits; empty: nothing does
        self._fd = -1
        self._waiting: deque[tuple[int, bytes]] = deque()
        self._waiting_bytes = 0
        self._done = 0  # bytes of the first that waits that are in the file
        self._refusing = False
        self.advance(())

    def advance(self, events: Sequence[Event]) -> bool:
        """Write those of these events that are new, in the stream's order and each once; whether nothing waits.

        An empty call tries again to write what waits. Only if more than `KEPT_BYTES` wait are later events refused; they are
        taken when they are given again, from the one after `seq` on.
        """
        for event in events:
            if event.seq > self.seq and (not self._refusing or event.seq == self.seq + 1):
                self._take(event)
        self._flush()
        if self._refusing and not self.problem:
            self.problem = f"{self.path}: the events after {self.seq} are to be given again"
        return not self.problem

    def close(self) -> None:
        """Let go of the file; a later `advance` opens it again. May be called again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _take(self, event: Event) -> None:
        line = published.line(event, self.key)
        if line is not None and self._waiting_bytes > KEPT_BYTES:
            self._flush()
        self._refusing = line is not None and self._waiting_bytes > KEPT_BYTES
        if self._refusing:
            return
        self.seq = event.seq
        if line is not None:
            self._waiting.append((event.seq, line + b"\n"))
            self._waiting_bytes += len(line) + 1

    def _flush(self) -> None:
        try:
            self._open()
            self._write()
        except OSError as error:
            self.problem = f"{self.path}: {error.strerror or error}"
        else:
            self.problem = ""

    def _open(self) -> None:
        if self._fd >= 0:
            return
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(self.path, flags, 0o600)
        try:
            os.fchmod(descriptor, 0o600)
            held = _repair(descriptor)
        except OSError:
            os.close(descriptor)
            raise
        self._fd, self._done = descriptor, 0
        self.seq = max(self.seq, held)
        while self._waiting and self._waiting[0][0] <= held:
            self._waiting_bytes -= len(self._waiting.popleft()[1])

    def _write(self) -> None:
        while self._waiting:
            lines = b"".join(line for _, line in islice(self._waiting, _LINES_AT_ONCE))
            count = self._done + os.write(self._fd, memoryview(lines)[self._done :])
            while self._waiting and count >= len(self._waiting[0][1]):
                size = len(self._waiting.popleft()[1])
                count -= size
                self._waiting_bytes -= size
            self._done = count


def _repair(descriptor: int) -> int:
    """Cut off what is no whole line of ours at the end; the `seq` of the last one that is, or 0."""
    size = os.fstat(descriptor).st_size
    end, _ = _last_line(descriptor, size)
    seq = 0
    while end and not seq:
        start, line = _last_line(descriptor, end - 1)
        try:
            seq = msgspec.json.decode(line, type=_Place).seq
        except (msgspec.DecodeError, UnicodeDecodeError):
            end = start
    if end < size:
        os.ftruncate(descriptor, end)
    return seq


def _last_line(descriptor: int, end: int) -> tuple[int, bytes]:
    """What stands between the last line's end before `end` and there, and where it begins."""
    at, found = end, b""
    while at:
        size = min(_BLOCK, at)
        at -= size
        found = os.pread(descriptor, size, at) + found
        cut = found.rfind(b"\n")
        if cut >= 0:
            return at + cut + 1, found[cut + 1 :]
    return 0, found
