"""What a watcher can see of a session beside its events, and what can be done with it: its files, its program, its mode."""

from __future__ import annotations

import contextlib
from pathlib import Path

from harness.sessions.facts import Mode
from harness.sessions.ids import Folder
from harness.sessions.record import Session
from harness.sessions.watch.actions import Means, Sample

_KNOWN = ("claude", "codex")


def means_of(session: Session, *, relaunch: bool) -> frozenset[Means]:
    """What can be done with this session, as far as is known.

    A command that is no known agent program is never started anew: what it did, it would do again.
    """
    known = Path(session.cli).name in _KNOWN
    found: set[Means] = set()
    if session.mode in (Mode.STREAM, Mode.APP_SERVER):
        found |= {"probe", "interrupt", "outcomes", "progress"}
    elif session.mode == Mode.PTY:
        found |= {"interrupt", "outcomes", "progress"} if known else {"interrupt"}
    elif known:
        found |= {"outcomes", "progress"}
    if relaunch and known:
        found |= {"vendor", "fresh"} if session.vendor_session else {"fresh"}
    return frozenset(found)


def sampled(folder: Folder) -> Sample | None:
    """How much output there is and since when, and what the host says of the agent's progress, where it does."""
    size, newest = 0, 0
    for path in (folder.transcript, folder.errors):
        with contextlib.suppress(OSError):
            found = path.stat()
            size, newest = size + found.st_size, max(newest, found.st_mtime_ns // 1000)
    progress_us, in_tool = _pulse(folder.path / "pulse")
    return Sample(output_bytes=size, output_us=newest, progress_us=progress_us, in_tool=in_tool) if newest else None


def _pulse(path: Path) -> tuple[int | None, bool | None]:
    """`MICROSECONDS 0|1`: when the agent made progress last, and whether it is in a tool."""
    try:
        when, in_tool = path.read_text(encoding="ascii").split()
        return int(when), in_tool == "1"
    except (OSError, ValueError):
        return None, None
