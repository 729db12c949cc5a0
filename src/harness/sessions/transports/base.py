"""The contract of a transport: a running agent program that can be talked to. One suite tests them all."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from harness.sessions.reports import Decision, Outgoing, Report

if TYPE_CHECKING:
    from harness.processes import Process, Size

Tell = Callable[[Report], None]


class Transport(Protocol):
    """One agent program under one host.

    * `start` gives the process once it runs; reports come from then on, in the order of what was read, in the loop.
    * `deliver` returns when the program's side has the bytes. It raises `UsageError` if the message cannot be said
      (nothing was written), `ProcessError` if the program does not take it (whether it has part of it is unknown).
      It is called by one task at a time, and only when the host has decided that now is the time.
    * A receipt is a report, never `deliver` returning.
    * `leave` asks the program to end in its own way and returns at once; `Process.stop` follows if it does not.
    """

    name: str
    can: frozenset[str]
    """Of: steer, interrupt, approve, receipts, usage, resume, probe, messages, screen, turns (it tells their start and end)."""

    async def start(self, tell: Tell) -> Process: ...

    async def deliver(self, message: Outgoing) -> None: ...

    async def interrupt(self) -> bool:
        """End the turn under way; False if there is none, or no way to."""
        ...

    async def decide(self, request: str, decision: Decision) -> None:
        """Answer an approval. Raises `NotFound` if nobody waits for it (any more)."""
        ...

    async def probe(self) -> bool:
        """Ask for a sign of life, which comes as a report; False if there is no such way."""
        ...

    async def leave(self) -> bool:
        """Begin the program's own exit; False if it has none that is safe now."""
        ...

    def keys(self, data: bytes) -> None:
        """Bytes that a person types at an attached terminal; ignored by transports without one."""
        ...

    async def room(self) -> None:
        """Return when more keys can be taken."""
        ...

    def end_of_input(self) -> None:
        """Whoever typed has nothing more to say; ends the input of a program that reads lines, and of no other."""
        ...

    def resize(self, size: Size) -> None: ...

    def viewers(self, follower: Callable[[bytes], object] | None) -> None:
        """Give the raw output to an attached terminal from now on; None ends it."""
        ...

    async def close(self) -> None:
        """Let go of everything but the process. Idempotent."""
        ...
