"""No protocol at all: a command that is given its prompt as an argument, says something, and exits."""

from __future__ import annotations

from harness.errors import NotFound, UsageError
from harness.sessions.reports import Decision, Outgoing, Progress, Step

_TEXT = Step(reports=(Progress(what="text"),))


class PlainDialect:
    """See `LineDialect`. Every line is a sign of progress; what it means nobody knows."""

    can: frozenset[str] = frozenset()
    failed = ""

    def opening(self) -> tuple[bytes, ...]:
        return ()

    def feed(self, line: bytes) -> Step:
        return _TEXT

    def message(self, message: Outgoing) -> bytes:
        raise UsageError("this program takes no messages after its first")

    def interrupt(self) -> bytes:
        return b""

    def decide(self, request: str, decision: Decision) -> bytes:
        raise NotFound(f"nobody waits for an answer to {request}")

    def probe(self) -> bytes:
        return b""

    def finish(self) -> bytes:
        return b""
