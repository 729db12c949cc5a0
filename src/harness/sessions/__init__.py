"""Agent programs: start, talk to, watch and record them. Import from here, not from the modules inside.

A session is one run of an agent program under a host process of its own. Owns the streams `session/KEY` and the folders
`HOME/sessions/`. The host side (`guard`, `host`) and the client side (`client`) meet in the ledger only. What is said about
a session is in `facts`, what its events tell in `record`, both open to everybody; so are `published`, `watch`,
`client`, `guide`, `probing`, `trials`, `rehearsal` and `mock_model`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.sessions.burying import bury, session_gone
    from harness.sessions.ids import Folder, check_id, free_id, write_private
    from harness.sessions.request import LaunchRequest
    from harness.sessions.settings import SessionSettings
    from harness.sessions.starting import INHERITED, AgentDied, Launched, Launching, launch
    from harness.sessions.view import SESSIONS_VIEW
    from harness.sessions.watch.watcher import Watcher

_HOME = {
    "INHERITED": "starting",
    "AgentDied": "starting",
    "bury": "burying",
    "check_id": "ids",
    "free_id": "ids",
    "Folder": "ids",
    "launch": "starting",
    "Launched": "starting",
    "Launching": "starting",
    "LaunchRequest": "request",
    "session_gone": "burying",
    "SESSIONS_VIEW": "view",
    "SessionSettings": "settings",
    "Watcher": "watch.watcher",
    "write_private": "ids",
}

__all__ = [
    "INHERITED",
    "SESSIONS_VIEW",
    "AgentDied",
    "Folder",
    "LaunchRequest",
    "Launched",
    "Launching",
    "SessionSettings",
    "Watcher",
    "bury",
    "check_id",
    "free_id",
    "launch",
    "session_gone",
    "write_private",
]


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
