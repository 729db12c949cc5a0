"""Files in which an agent program keeps its own record: which they are, and what is new in them. Nothing is ever written.

A file may grow, be cut, be exchanged or be no file at all: what cannot be read is as if it were not there.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable
from typing import Protocol

from harness.processes import Lines

MAX_LINE = 17 << 20
MAX_FILES = 1000
_SUBAGENT = re.compile(r"agent-[A-Za-z0-9_-]{1,100}\.jsonl")


class RecordFile:
    """One file, read from where it was left."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._offset = 0
        self._inode = 0
        self._lines = Lines(max_bytes=MAX_LINE)

    @property
    def there(self) -> bool:
        """Whether it could be read at any time."""
        return self._inode != 0

    def read(self, limit: int) -> tuple[list[bytes], bool]:
        """The lines that at most so many new bytes complete, and whether there may be more."""
        found = opened(self.path)
        if found is None:
            return [], False
        descriptor, about = found
        try:
            if about.st_ino != self._inode or about.st_size < self._offset:  # another one, or cut: from its beginning
                self._inode, self._offset, self._lines = about.st_ino, 0, Lines(max_bytes=MAX_LINE)
            data = os.pread(descriptor, min(limit, about.st_size - self._offset), self._offset)
        except OSError:
            return [], False
        finally:
            os.close(descriptor)
        self._offset += len(data)
        return self._lines.feed(data), bool(data) and self._offset < about.st_size


def opened(path: str) -> tuple[int, os.stat_result] | None:
    """A descriptor of a regular file, and what is known of it; None for all else: to open a FIFO is noticed by who reads it."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116 - a Path costs more than the look
            return None
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except (OSError, ValueError):
        return None
    try:
        about = os.fstat(descriptor)
    except OSError:
        os.close(descriptor)
        return None
    if stat.S_ISREG(about.st_mode):
        return descriptor, about
    os.close(descriptor)
    return None


class RecordFiles(Protocol):
    """Which files a program's record is in."""

    def belongs(self, name: str) -> None:
        """The program named what it works on: a file, or the session that is in one."""
        ...

    def given(self, prompt: str) -> None:
        """The program is given a prompt."""
        ...

    def paths(self) -> Iterable[str]:
        """Those that are known, after a look for new ones."""
        ...


class ClaudeFiles:
    """A file for each session, as hooks tell, and beside it a folder with those of its sub-agents."""

    def __init__(self, began: float) -> None:
        self._began = began
        self._transcripts: list[str] = []
        self._agents: dict[str, None] = {}

    def belongs(self, name: str) -> None:
        if name.endswith(".jsonl") and name not in self._transcripts and len(self._transcripts) < MAX_FILES:
            self._transcripts.append(name)

    def given(self, prompt: str) -> None:
        """Of no use: hooks name the file before anything is in it."""

    def paths(self) -> Iterable[str]:
        for transcript in self._transcripts:
            folder = f"{transcript.removesuffix('.jsonl')}/subagents"
            for entry in entries(folder):
                if entry.path in self._agents or len(self._agents) >= MAX_FILES or not _SUBAGENT.fullmatch(entry.name):
                    continue
                if changed(entry) >= self._began:  # an older one is of an earlier run
                    self._agents[entry.path] = None
        return [*self._transcripts, *self._agents]


def entries(folder: str) -> list[os.DirEntry[str]]:
    """What is in a folder; nothing if it cannot be read."""
    try:
        with os.scandir(folder) as found:
            return list(found)
    except (OSError, ValueError):
        return []


def changed(entry: os.DirEntry[str]) -> float:
    """When a file was written last, in seconds since 1970."""
    try:
        return entry.stat().st_mtime
    except OSError:
        return 0.0
