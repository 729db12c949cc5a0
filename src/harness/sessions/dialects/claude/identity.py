"""What Claude Code says about itself: session, model, version, capabilities, and where it keeps its own record."""

from __future__ import annotations

from harness.sessions.dialects.fields import Object, part, text, texts
from harness.sessions.facts import Identified

_MEMORY = "/memory"


def told_by(init: Object) -> Identified:
    """What an `init` line tells. The record lies beside the folder of the project's memory."""
    session = text(init, "session_id")
    memory = text(part(init, "memory_paths"), "auto").rstrip("/")
    transcript = f"{memory.removesuffix(_MEMORY)}/{session}.jsonl" if session and memory.endswith(_MEMORY) else ""
    return Identified(
        vendor_session=session, model=text(init, "model"), cli_version=text(init, "claude_code_version"),
        transcript=transcript, capabilities=texts(init, "capabilities"),
    )  # fmt: skip


class Identity:
    """What is known of the program so far."""

    def __init__(self) -> None:
        self._known = Identified()

    def news(self, told: Identified) -> list[Identified]:
        """What of this is new: nothing, or one report."""
        known = self._known
        fresh = Identified(
            vendor_session=_new(told.vendor_session, known.vendor_session), model=_new(told.model, known.model),
            cli_version=_new(told.cli_version, known.cli_version), transcript=_new(told.transcript, known.transcript),
            capabilities=told.capabilities if told.capabilities != known.capabilities else (),
        )  # fmt: skip
        if fresh == Identified():
            return []
        self._known = Identified(
            vendor_session=fresh.vendor_session or known.vendor_session, model=fresh.model or known.model,
            cli_version=fresh.cli_version or known.cli_version, transcript=fresh.transcript or known.transcript,
            capabilities=fresh.capabilities or known.capabilities,
        )  # fmt: skip
        return [fresh]


def _new(told: str, known: str) -> str:
    return told if told != known else ""
