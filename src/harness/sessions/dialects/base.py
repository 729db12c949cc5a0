"""The contract of a dialect that is spoken in lines of JSON over pipes. One suite tests them all on recorded lines."""

from __future__ import annotations

from typing import Protocol

from harness.sessions.reports import Decision, Outgoing, Step


class LineDialect(Protocol):
    """A protocol without I/O. Lines come without their end; what is to be written ends with one.

    * `feed` never raises: garbage is an `Unrecognised` report, and what is not JSON a `Noted` one.
    * Unknown types and fields are ignored or reported; nothing is dropped silently but heartbeats.
    * Composers raise `UsageError` for what the protocol cannot say, before anything is written.
    """

    can: frozenset[str]
    """Of: steer, interrupt, approve, receipts, usage, resume, probe, messages (more than the first)."""

    @property
    def failed(self) -> str:
        """Why the program runs and will never take a message; empty: it may."""
        ...

    def opening(self) -> tuple[bytes, ...]:
        """What to write as soon as the program runs."""
        ...

    def feed(self, line: bytes) -> Step: ...

    def message(self, message: Outgoing) -> bytes:
        """A message that starts a turn, or joins the one under way if it is placed as `steer`."""
        ...

    def interrupt(self) -> bytes:
        """End the turn under way. Empty if there is none that can be ended."""
        ...

    def decide(self, request: str, decision: Decision) -> bytes:
        """Answer an approval. Raises `NotFound` if nobody waits for it."""
        ...

    def probe(self) -> bytes:
        """Something harmless that a living program answers; empty if there is no such thing."""
        ...

    def finish(self) -> bytes:
        """The program's own way to end; its input is closed afterwards."""
        ...
