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
    run, works in the same folder and answers a prompt that we have given. Those of sub-agents name the thread that they are of.
    """

    def __init__(self, env: Mapping[str, str], cwd: Path, began: float) -> None:
        home = env.get("CODEX_HOME") or str(Path(env.get("HOME") or "~").expanduser() / ".codex")
        self._folder = f"{home}/sessions"
        self._cwd = os.path.realpath(cwd)
        self._began = began
        self._prompts: set[str] = set()
        self._threads: dict[str, str] = {}  # with the path, once it is found
        self._agents: dict[str, str] = {}  # by thread, with the path
        self._roots: dict[str, str] = {}  # of each thread that was looked at, the one that a person sees

    def belongs(self, name: str) -> None:
        if name and name not in self._threads and len(self._threads) < MAX_FILES:
            self._threads[name] = self._path_of(name, _MAX_DAYS)

    def given(self, prompt: str) -> None:
        if not self._threads and len(self._prompts) < MAX_FILES:
            self._prompts.add(_compared(prompt))

    def paths(self) -> Iterable[str]:
        for thread, path in self._threads.items():
            self._threads[thread] = path or self._path_of(thread, _NEWEST_DAYS)
        self._look()
        return [path for path in (*self._threads.values(), *self._agents.values()) if path]

    def _path_of(self, thread: str, days: int) -> str:
        return next((entry.path for entry, name in self._rollouts(days) if name == thread), "")

    def _look(self) -> None:
        """Find the thread that nobody has named yet, and sub-agents."""
        for entry, thread in self._rollouts(_NEWEST_DAYS):
            if thread in self._threads or thread in self._agents:
                continue
            if thread not in self._roots:
                if changed(entry) >= self._began:
                    self._meet(thread, entry.path)
                else:
                    self._roots[thread] = ""
            if self._roots.get(thread) in self._threads and len(self._agents) < MAX_FILES:
                self._agents[thread] = entry.path

    def _meet(self, thread: str, path: str) -> None:
        """A rollout that is new; while it may become ours it is looked at again."""
        rollout = _head(path)
        if not rollout.thread:
            return  # its first line is not whole yet
        waits = not self._threads and rollout.root == thread and rollout.began >= self._began
        if not waits or os.path.realpath(rollout.cwd) != self._cwd:
            self._roots[thread] = rollout.root
        elif any(_compared(prompt) in self._prompts for prompt in rollout.prompts):
            self._threads[thread] = path

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
