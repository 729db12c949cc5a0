"""Agent programs: start, talk to, watch and record them. Import from here, not from the modules inside.

A session is one run of an agent program under a host process of its own. Owns the streams `session/KEY` and the folders
`HOME/sessions/`. The host side (`guard`, `host`) and the client side (`client`) meet in the ledger only.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.sessions.starting import Launched, LaunchRequest, launch

_HOME = {
    "LaunchRequest": "starting",
    "Launched": "starting",
    "launch": "starting",
}

__all__ = ["LaunchRequest", "Launched", "launch"]


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
