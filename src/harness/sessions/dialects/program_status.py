"""The Program Status Protocol (OSC 7501): a program says itself whether it works, waits or asks. Pure.

The specification is at superlogical.com/rex/docs/build/program-status (revision 0.4). Claude Code speaks it to a terminal
that answers its question for it, Codex always. Only the record of the program itself is read; those of its background tasks
carry an id. What a report says is untrusted text.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Literal, cast

import msgspec

QUESTION = b"\x1b]7501;?\x1b\\"
"""What a program asks, and what a terminal that understands answers."""

Stage = Literal["idle", "working", "done", "blocked", "error", "clear"]

_STAGES = frozenset({"idle", "working", "done", "blocked", "error", "clear"})
_KINDS = frozenset({"permission", "question", "auth"})
_PAIR = re.compile(r"([a-z]{1,16})=([A-Za-z0-9_.,+/=-]*)\Z")
_MAX_MESSAGE = 2732


class ProgramStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One report about the program itself or, with an id, about something that it runs."""

    stage: Stage
    kind: Literal["", "permission", "question", "auth"] = ""  # of blocked: what it waits for
    message: str = ""
    app: str = ""
    id: str = ""


def parse_status(body: str) -> ProgramStatus | None:
    """Read the body of a report; None for one that a terminal has to ignore."""
    pairs: dict[str, str] = {}
    for part in body.split(":"):
        match = _PAIR.match(part.strip())
        if match is not None:
            pairs[match[1]] = match[2]
    stage = pairs.get("state", "")
    if stage not in _STAGES:
        return None
    message = _decoded(pairs.get("msg", ""))
    if message is None:
        return None
    kind = pairs.get("kind", "")
    return ProgramStatus(
        stage=cast("Stage", stage),
        kind=cast("Literal['permission', 'question', 'auth']", kind) if stage == "blocked" and kind in _KINDS else "",
        message=message,
        app=pairs.get("app", "")[:32],
        id=pairs.get("id", "")[:128],
    )


def _decoded(text: str) -> str | None:
    """Base64 of one line of UTF-8; None if it is anything else."""
    if len(text) > _MAX_MESSAGE:
        return None
    try:
        words = base64.b64decode(text + "=" * (-len(text) % 4), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None
    return None if any(letter < " " or "\x7f" <= letter < "\xa0" for letter in words) else words
