"""Where Codex keeps its own record of a thread: a rollout, below a folder for each day."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path

from harness.sessions.dialects.codex.record import Rollout, read_rollout
from harness.sessions.transports.record_files import MAX_FILES, RecordFile, changed, entries

_MAX_DAYS = 5000
_NEWEST_DAYS = 2  # a session may begin before midnight
_HEAD = 256 << 10  # bytes of a rollout, in which its first prompt is
_ROLLOUT = re.compile(r"rollout-\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d-([0-9A-Za-z-]{1,80})\.jsonl")
_DATE = re.compile(r"\d{2,4}")


class CodexFiles:
    """The rollouts of one program. `began`: seconds since 1970; it is started then.

    The program names a thread when a turn of it is over. Until then a rollout is taken for ours if it is younger than this
    run, works in the same folder and answers a prompt that we have given.
    """

    def __init__(self, env: Mapping[str, str], cwd: Path, began: float) -> None:
        home = env.get("CODEX_HOME") or str(Path(env.get("HOME") or "~").expanduser() / ".codex")
        self._folder = f"{home}/sessions"
        self._cwd = os.path.realpath(cwd)
        self._began = began
        self._prompts: set[str] = set()
        self._threads: dict[str, str] = {}  # with the path, once it is found
        self._foreign: set[str] = set()

    def belongs(self, name: str) -> None:
        if name and name not in self._threads and len(self._threads) < MAX_FILES:
            self._threads[name] = self._path_of(name, _MAX_DAYS)

    def given(self, prompt: str) -> None:
        if not self._threads and len(self._prompts) < MAX_FILES:
            self._prompts.add(_compared(prompt))

    def paths(self) -> Iterable[str]:
        for thread, path in self._threads.items():
            self._threads[thread] = path or self._path_of(thread, _NEWEST_DAYS)
        if not self._threads and self._prompts:
            self._guess()
        return [path for path in self._threads.values() if path]

    def _path_of(self, thread: str, days: int) -> str:
        return next((entry.path for entry, name in self._rollouts(days) if name == thread), "")

    def _guess(self) -> None:
        for entry, thread in self._rollouts(_NEWEST_DAYS):
            if thread in self._foreign:
                continue
            rollout = _head(entry.path) if changed(entry) >= self._began else Rollout()
            if not rollout.thread or rollout.began < self._began or os.path.realpath(rollout.cwd) != self._cwd:
                self._foreign.add(thread)
            elif any(_compared(prompt) in self._prompts for prompt in rollout.prompts):
                self._threads[thread] = entry.path
                return

    def _rollouts(self, days: int) -> Iterator[tuple[os.DirEntry[str], str]]:
        for day in islice(self._days(), days):
            for entry in entries(day):
                if match := _ROLLOUT.fullmatch(entry.name):
                    yield entry, match[1]

    def _days(self) -> Iterator[str]:
        """The newest first."""
        for year in _dated(self._folder):
            for month in _dated(year):
                yield from _dated(month)


def _dated(folder: str) -> list[str]:
    return sorted((entry.path for entry in entries(folder) if _DATE.fullmatch(entry.name)), reverse=True)


def _head(path: str) -> Rollout:
    lines, _ = RecordFile(path).read(_HEAD)
    return read_rollout(lines)


def _compared(text: str) -> str:
    return " ".join(text.split())
