"""What runs here: spawn, own, drain, stop and adopt processes. Import from here, not from the modules inside.

It loads asyncio and nothing heavier (no anyio, msgspec or psutil on Linux), since small hosts are built on it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.processes.capturing import Captured, capture
    from harness.processes.environment import clean_env, marked, new_spawn_word
    from harness.processes.exits import Watch
    from harness.processes.identity import Identity, read_environment
    from harness.processes.limits import ResourceLimits
    from harness.processes.log import Chunk, Line, LogReader
    from harness.processes.output import Lines
    from harness.processes.process import Exit, Process
    from harness.processes.pty import Size
    from harness.processes.reaper import become_subreaper
    from harness.processes.rotating import RotatingLog
    from harness.processes.starting import Spec, adopt, spawn
    from harness.processes.tree import Found, Stopped, end_tagged, find

_HOME = {
    "adopt": "starting",
    "become_subreaper": "reaper",
    "Captured": "capturing",
    "Chunk": "log",
    "capture": "capturing",
    "clean_env": "environment",
    "end_tagged": "tree",
    "Exit": "process",
    "find": "tree",
    "Found": "tree",
    "Identity": "identity",
    "ResourceLimits": "limits",
    "Line": "log",
    "Lines": "output",
    "LogReader": "log",
    "marked": "environment",
    "new_spawn_word": "environment",
    "Process": "process",
    "read_environment": "identity",
    "RotatingLog": "rotating",
    "Size": "pty",
    "spawn": "starting",
    "Spec": "starting",
    "Stopped": "tree",
    "Watch": "exits",
}

__all__ = [
    "Captured",
    "Chunk",
    "Exit",
    "Found",
    "Identity",
    "Line",
    "Lines",
    "LogReader",
    "Process",
    "ResourceLimits",
    "RotatingLog",
    "Size",
    "Spec",
    "Stopped",
    "Watch",
    "adopt",
    "become_subreaper",
    "capture",
    "clean_env",
    "end_tagged",
    "find",
    "marked",
    "new_spawn_word",
    "read_environment",
    "spawn",
]


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
