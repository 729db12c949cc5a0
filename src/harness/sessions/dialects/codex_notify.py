"""What Codex's `notify` program is told: that a turn is complete, in which thread, with which last words. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

_TITLE_REQUEST = "Generate a concise, single-line task title"  # Codex names its threads in threads of their own


class _Told(msgspec.Struct, frozen=True, rename="kebab"):
    type: str = ""
    thread_id: str = ""
    turn_id: str = ""
    input_messages: list[Any] = []
    last_assistant_message: str | None = ""


class TurnTold(msgspec.Struct, frozen=True, kw_only=True):
    """A turn of the thread that a person sees is complete."""

    thread: str
    turn: str
    summary: str
    prompts: tuple[str, ...] = ()  # what it answered


def parse_notification(data: bytes) -> TurnTold | None:
    """Read what `notify` was called with; None if it tells of anything else than a turn that a person asked for."""
    try:
        told = msgspec.json.decode(data, type=_Told)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    last = told.input_messages[-1] if told.input_messages else ""
    if told.type != "agent-turn-complete" or (isinstance(last, str) and last.startswith(_TITLE_REQUEST)):
        return None
    prompts = tuple(each for each in told.input_messages if isinstance(each, str))
    return TurnTold(thread=told.thread_id, turn=told.turn_id, summary=told.last_assistant_message or "", prompts=prompts)
