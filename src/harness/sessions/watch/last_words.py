"""Why an agent is dead, in lines for whoever watched it. Pure."""

from __future__ import annotations

from harness.sessions.facts import Exited, ExitReason
from harness.text import cleaned

_LINES = 3
_CHARACTERS = 200  # of a line


def last_words(exited: Exited) -> list[str]:
    """How it ended, then the last lines that it wrote; nothing of one that ended well."""
    if exited.reason is ExitReason.SUCCESS:
        return []
    how = f"{exited.reason}"
    if exited.code is not None:
        how += f", exit code {exited.code}"
    if exited.signal is not None and f"signal {exited.signal}" not in exited.detail:
        how += f", signal {exited.signal}"
    told = _lines(exited.detail)
    wrote = _lines(exited.tail)[-_LINES:]
    return [f"it has ended: {how}" + (f": {_clip(' '.join(told))}" if told else ""), *(f"| {_clip(line)}" for line in wrote)]


def _lines(text: str) -> list[str]:
    return [line for line in (each.strip() for each in cleaned(text).splitlines()) if line]


def _clip(line: str) -> str:
    line = line.replace("\t", " ")
    return line if len(line) <= _CHARACTERS else f"{line[: _CHARACTERS - 1]}…"
