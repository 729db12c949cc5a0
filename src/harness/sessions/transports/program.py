"""What a terminal transport needs of the program in it: the contract, and what is to be started."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec

from harness.processes import Size
from harness.sessions.dialects.titles import Signal
from harness.sessions.reports import Decision, Outgoing
from harness.sessions.transports.profiles import TerminalProfile

if TYPE_CHECKING:
    from harness.processes import Process
    from harness.sessions.transports.keyboard import Keyboard


class TerminalSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What to start, and how it is watched. `home`: where the user's own screen rules are."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: Path
    tag: str
    size: Size
    folder: Path  # the session's own
    profile: TerminalProfile
    home: Path | None = None
    vendor_session: str = ""  # that it continues, if that is known


class Program(Protocol):
    """A kind of program at a terminal. What it lets on, it tells as reports; see `Transport` for what is asked of it.

    `prepare` comes before the program is started and gives its command line; `begin` right after; `close` at any time.
    """

    def prepare(self, argv: tuple[str, ...]) -> tuple[str, ...]: ...

    def begin(self, process: Process, keyboard: Keyboard) -> None: ...

    def output(self, data: bytes) -> None:
        """Bytes of its output. Called for every chunk, so it must cost next to nothing."""
        ...

    def signal(self, signal: Signal) -> None: ...

    async def deliver(self, message: Outgoing) -> None: ...

    async def interrupt(self) -> bool: ...

    async def decide(self, request: str, decision: Decision) -> None: ...

    async def leave(self) -> bool: ...

    def typed(self, data: bytes) -> None:
        """A person has typed this."""
        ...

    def end_of_input(self) -> None:
        """Whoever typed has nothing more to say."""
        ...

    def resize(self, size: Size) -> None: ...

    def close(self) -> None: ...
