"""What a message may hold, who sends it, and the header that says so between sessions. No I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from harness.errors import Refused, UsageError
from harness.sessions.facts import INBOX_LIMIT, Origin
from harness.text import sanitise

MAX_MESSAGE_BYTES = 1 << 20
_HEADER = re.compile(r"\[harness relay from=\S+ id=\S+ at=\S+\]")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")


class InboxFull(Refused):
    """So many messages wait for the session that one more is refused; nothing was queued."""

    def __init__(self, refused: Refused) -> None:
        super().__init__(refused.counter, amount=refused.amount, reserved=refused.reserved, limit=refused.limit)
        self.args = (f"inbox full ({INBOX_LIMIT} pending messages)",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sender:
    """The session that a message comes from."""

    id: str
    cli: str

    @property
    def origin(self) -> Origin:
        return Origin(kind="session", cli=self.cli, id=self.id)


def sender_of(environment: Mapping[str, str]) -> Sender | None:
    """The session that a process with this environment belongs to; None for anybody else."""
    id_ = environment.get("HARNESS_ID") or environment.get("HARNESS_SESSION_ID", "").partition("@")[0]
    cli = environment.get("HARNESS_SESSION_CLI", "")
    if not environment.get("HARNESS_SESSION_ID") or not _NAME.fullmatch(id_):
        return None
    return Sender(id=id_, cli=cli if _NAME.fullmatch(cli) else "unknown")


def clean(text: str) -> str:
    """The text as it may be put before an agent: no control bytes but tabs and line ends. Raises `UsageError`."""
    cleaned = sanitise(text)
    if (size := len(cleaned.encode())) > MAX_MESSAGE_BYTES:
        raise UsageError(f"a message has at most {MAX_MESSAGE_BYTES} bytes, not {size}: put it into a file and name that")
    return cleaned


def relayed(text: str, sender: Sender, at_us: int) -> str:
    """The text under one header that says which session it comes from; one that is there already stays as it is."""
    if _HEADER.match(text):
        return text
    at = datetime.fromtimestamp(at_us // 1_000_000, UTC).isoformat().replace("+00:00", "Z")
    return f"[harness relay from={sender.cli} id={sender.id} at={at}]\n{text}"
