"""What the host writes to Claude Code: messages, and requests of its own with what they were for."""

from __future__ import annotations

from harness.errors import UsageError
from harness.sessions.dialects.fields import Object, encoded
from harness.sessions.facts import Placing
from harness.sessions.reports import Outgoing

_PRIORITY = {Placing.QUEUE: "later", Placing.STEER: "next", Placing.INTERRUPT: "now"}


class Requests:
    """Control requests of the host: every one has an id of its own."""

    def __init__(self) -> None:
        self._count = 0
        self._open: dict[str, str] = {}

    def compose(self, subtype: str, fields: Object, *, purpose: str = "") -> bytes:
        """A request to write; `answered` tells its purpose when the answer comes."""
        self._count += 1
        request_id = f"harness-{purpose or subtype}-{self._count}"
        self._open[request_id] = purpose or subtype
        return encoded({"type": "control_request", "request_id": request_id, "request": {"subtype": subtype, **fields}})

    def answered(self, request_id: str) -> str:
        """What this answer is for; empty if we asked no such thing."""
        return self._open.pop(request_id, "")


def message_line(message: Outgoing) -> bytes:
    """A `user` line. What no person wrote is marked as a peer's, and is not searched for commands and file names.

    Raises `UsageError` for what cannot be said here.
    """
    if message.only_submit or not message.submit:
        raise UsageError("this session has no input line: a message to it is always submitted, and never without text")
    line: dict[str, object] = {
        "type": "user", "message": {"role": "user", "content": message.text}, "parent_tool_use_id": None,
        "uuid": message.message_id, "priority": _PRIORITY[message.placing],
    }  # fmt: skip
    origin = message.origin
    if origin.kind != "human":
        sender = f"{origin.cli} {origin.id}".strip() if origin.kind == "session" else "harness"
        line |= {"client_composed": True, "origin": {"kind": "peer", "from": sender or "unknown"}}
    try:
        return encoded(line)
    except UnicodeEncodeError as error:
        raise UsageError("the message is not valid Unicode text") from error
