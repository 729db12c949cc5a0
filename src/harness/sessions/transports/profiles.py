"""What is special about each program at a terminal: its screen rules, its hooks, its keys. Data only.

A program without screen rules is a *line program*: a shell, a REPL, any command. A user makes one of another kind known by
writing HOME/screens/NAME.toml.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from harness.sessions.dialects.rule_files import find_rules
from harness.sessions.transports import process_table

_ESCAPE, _CLEAR_LINE, _END_OF_FILE = b"\x1b", b"\x15", b"\x04"
_CAN = frozenset({"interrupt", "receipts", "messages", "screen"})
_AGENT_CAN = _CAN | {"probe", "turns"}


class TerminalProfile(msgspec.Struct, frozen=True, kw_only=True):
    """How one program is watched and typed to."""

    name: str
    rules: str = ""  # of its screen; none: it is known by what its processes wait for
    hooks: Literal["", "claude", "codex"] = ""
    answers_status: bool = False  # its question whether we understand the Program Status Protocol
    enter_after_seconds: float = 0.0  # between a text and Enter
    clear: bytes = b""  # what empties the line that is being typed
    interrupt: bytes = b""  # what ends the turn under way
    leave: tuple[bytes, ...] = ()  # typed one after the other at an idle prompt; none: it has no exit that is safe to type
    can: frozenset[str] = _CAN


CLAUDE = TerminalProfile(
    name="claude",
    rules="claude",
    hooks="claude",
    answers_status=True,
    enter_after_seconds=0.1,  # it takes both at once; a moment more than none, for a busy machine
    clear=_CLEAR_LINE,
    interrupt=_ESCAPE,
    leave=(b"/exit", b"\r"),
    can=_AGENT_CAN | {"steer", "approve", "resume", "usage"},
)
CODEX = TerminalProfile(
    name="codex",
    rules="codex",
    hooks="codex",
    enter_after_seconds=0.35,  # sooner, and Enter is taken for a part of what was pasted
    clear=_CLEAR_LINE,
    interrupt=_ESCAPE,
    leave=(_END_OF_FILE,),
    can=_AGENT_CAN | {"steer", "approve", "resume", "usage"},
)
PLAIN = TerminalProfile(name="command")


def profile_of(name: str, home: Path | None = None) -> TerminalProfile:
    """The profile of a program by its name, with the user's own rules for it if there are any."""
    known = {"claude": CLAUDE, "codex": CODEX}.get(name)
    if known is not None:
        return known
    if name != "shell" and find_rules(name, home) is not None:
        return TerminalProfile(
            name=name, rules=name, answers_status=True, enter_after_seconds=0.35, clear=_CLEAR_LINE, interrupt=_ESCAPE,
            can=_AGENT_CAN,
        )  # fmt: skip
    return PLAIN if process_table.readable() else TerminalProfile(name=name, rules="shell")
