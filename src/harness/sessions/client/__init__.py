"""Whoever is no host: lists, messages, stops, follows and buries sessions. Import from here.

It talks to a host through the ledger and the session's bell, never by a call, so a host that hangs costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.sessions.client.messages import MAX_MESSAGE_BYTES, InboxFull, Sender, relayed, sender_of
    from harness.sessions.client.panes import Pane, Talk, last, speaks_protocol, spoken
    from harness.sessions.client.retention import Old
    from harness.sessions.client.rows import Row, moment
    from harness.sessions.client.sessions import Sessions, agent_runs
    from harness.sessions.client.streaming import output, reader_of
    from harness.sessions.client.until import Until, Waiting
    from harness.sessions.client.viewing import view
    from harness.sessions.published import line as public_line

_HOME = {
    "MAX_MESSAGE_BYTES": "messages",
    "InboxFull": "messages",
    "Old": "retention",
    "Pane": "panes",
    "Row": "rows",
    "Sender": "messages",
    "Sessions": "sessions",
    "Talk": "panes",
    "Until": "until",
    "Waiting": "until",
    "agent_runs": "sessions",
    "last": "panes",
    "moment": "rows",
    "output": "streaming",
    "reader_of": "streaming",
    "relayed": "messages",
    "sender_of": "messages",
    "speaks_protocol": "panes",
    "spoken": "panes",
    "view": "viewing",
}

__all__ = [
    "MAX_MESSAGE_BYTES",
    "InboxFull",
    "Old",
    "Pane",
    "Row",
    "Sender",
    "Sessions",
    "Talk",
    "Until",
    "Waiting",
    "agent_runs",
    "last",
    "moment",
    "output",
    "public_line",
    "reader_of",
    "relayed",
    "sender_of",
    "speaks_protocol",
    "spoken",
    "view",
]


def __getattr__(name: str) -> object:
    if name == "public_line":
        from harness.sessions.published import line

        return line
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
