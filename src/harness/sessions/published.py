"""Events v1: a session's ledger events as the JSON lines that other programs read. Pure.

Owns the public names and fields; `events.v1.schema.json` beside it and docs/events.md say the same, and a test holds the
three together. The version only grows: fields and types may be added, none is renamed, removed or given another meaning.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from harness.errors import LedgerError
from harness.ledger import Event
from harness.sessions import facts

SCHEMA_VERSION = 1
MESSAGE_CHARACTERS = 200
"""So much of a message is shown in `send`; its whole text is in the ledger."""


class Kind(NamedTuple):
    """A public type, and which fields of the payload it tells: always, or where there is something to tell."""

    type: str
    always: tuple[str, ...] = ()
    sometimes: tuple[str, ...] = ()


_DELIVERY = Kind("delivery", ("message_id",), ("reason", "turn", "by", "receipt"))

KINDS: dict[str, Kind] = {
    facts.STARTED: Kind("started", ("pid",), ("cli", "mode", "host_pid", "meta", "description", "cwd", "repo", "follows")),
    facts.GUARD_LOST: Kind("guard_lost", ("pid",)),
    facts.IDENTIFIED: Kind("identified", (), ("vendor_session", "model", "cli_version", "transcript", "capabilities")),
    facts.STATE_CHANGED: Kind("state", ("state", "source", "confidence"), ("detail", "until_us", "evidence")),
    facts.STATE_DISPUTED: Kind("state_disputed", ("state", "source", "other_state", "other_source"), ("evidence",)),
    facts.QUEUED: Kind("send", ("message_id", "forced", "placing", "submit", "only_submit", "expires_us"), ("origin",)),
    facts.WRITTEN: _DELIVERY,
    facts.ACCEPTED: _DELIVERY,
    facts.COMPLETED: _DELIVERY,
    facts.FAILED: _DELIVERY,
    facts.DROPPED: _DELIVERY,
    facts.EXPIRED: _DELIVERY,
    facts.WITHDRAWN: _DELIVERY,
    facts.LOST: _DELIVERY,
    facts.TURN_STARTED: Kind("turn_started", ("turn", "message_ids")),
    facts.ITEM_COMPLETED: Kind(
        "item_completed",
        ("kind", "ok"),
        ("name", "summary", "turn", "duration_ms", "exit_code", "paths", "call", "agent"),
    ),
    facts.TURN_COMPLETED: Kind(
        "task_complete", ("turn", "outcome", "message_ids", "more"), ("summary", "error", "duration_ms")
    ),
    facts.USAGE: Kind(
        "usage",
        ("input_tokens", "output_tokens", "cached_tokens", "cache_write_tokens", "reasoning_tokens"),
        ("cost_usd", "model", "turn"),
    ),
    facts.APPROVAL_REQUESTED: Kind(
        "approval_requested", ("request", "tool"), ("summary", "arguments", "question", "deadline_us", "turn")
    ),
    facts.APPROVAL_DECIDED: Kind("approval_decided", ("request", "decision", "by"), ("reason",)),
    facts.UNRECOGNISED: Kind("unrecognised", ("kind",), ("raw",)),
    facts.NOTED: Kind("notice", ("kind", "text")),
    facts.STALLED: Kind("stall", ("clock", "idle_seconds", "rung"), ("reason", "state")),
    facts.RESUMED: Kind("resume", ("number", "maximum", "how"), ("reason", "key")),
    facts.ESCALATED: Kind("escalated", ("reason",)),
    facts.LIMITED: Kind("limited", ("kind",), ("until_us",)),
    facts.RETRIED: Kind("retry", ("attempt",), ("maximum", "delay_seconds", "error")),
    facts.GIT: Kind("git", ("phase", "sha", "branch"), ("dirty",)),
    facts.STOP_REQUESTED: Kind("stop_requested", ("by", "timeout_seconds", "kill"), ("reason",)),
    facts.INTERRUPT_REQUESTED: Kind("interrupt_requested", ("by",), ("reason",)),
    facts.PROBE_REQUESTED: Kind("probe_requested", ("by",), ("reason",)),
    facts.EXITED: Kind("exited", ("reason", "by"), ("signal", "needed", "detail", "tail")),
    facts.SUMMARIZED: Kind(
        "summary",
        ("turns", "messages", "tools", "errors", "input_tokens", "output_tokens", "wall_seconds", "busy_seconds"),
        ("cost_usd", "final_state"),
    ),
}
"""What is public of each type of the ledger. `session.claimed` is not: `started` says what it says."""

_RENAMED = {"until_us": "until", "expires_us": "expires", "deadline_us": "deadline"}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST_US = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // timedelta(microseconds=1)
_BREAKS = ((b"\xc2\x85", b"\\u0085"), (b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"))
_encode = msgspec.json.Encoder().encode


def public(event: Event, key: str) -> dict[str, object] | None:
    """The event as other programs see it, keys in a fixed order; None if it is not public.

    `seq` is the event's place in the session's stream, so it has gaps where an event is not public. Of an erased event there is
    only the envelope, with `erased`; of one whose payload nobody can read, the envelope with `unreadable`.
    """
    kind = KINDS.get(event.type)
    if kind is None:
        return None
    shown: dict[str, object] = {
        "schema_version": SCHEMA_VERSION,
        "seq": event.seq,
        "ts": moment(event.ts),
        "id": key.partition("@")[0],
        "type": kind.type,
        "session": key,
    }
    if event.erased:
        return {**shown, "erased": True}
    try:
        told = event.load(facts.SHAPES[event.type])
    except LedgerError:
        return {**shown, "unreadable": True}
    return {**shown, **_special(event, told), **_fields(kind, told)}


def line(event: Event, key: str) -> bytes | None:
    """The same as one line of JSON in UTF-8, without its end; nothing in it is a line's end to any reader."""
    shown = public(event, key)
    if shown is None:
        return None
    data = _encode(shown)
    for plain, escaped in _BREAKS:
        data = data.replace(plain, escaped)
    return data


def moment(us: int) -> str:
    """A time as ISO 8601 in UTC, with microseconds, such as `2026-11-29T20:44:01.000250Z`."""
    at = _EPOCH + timedelta(microseconds=min(max(us, 0), _LATEST_US))
    return at.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def shown_text(text: str) -> str:
    """The beginning of a message; `…` stands for the rest."""
    return text if len(text) <= MESSAGE_CHARACTERS else text[:MESSAGE_CHARACTERS] + "…"


def exit_code(told: facts.Exited) -> int | None:
    """The agent's code as a shell gives it: 128 + signal if a signal ended it; None if nobody knows."""
    if told.code is None and told.signal is not None:
        return 128 + told.signal
    return told.code


def schema() -> bytes:
    """The JSON Schema (draft 2020-12) of one line."""
    return Path(__file__).with_name("events.v1.schema.json").read_bytes()


def renamed(name: str) -> str:
    """The public name of a field of the payload: a time is told as ISO 8601, so its unit goes."""
    return _RENAMED.get(name, name)


def _special(event: Event, told: msgspec.Struct) -> dict[str, object]:
    """What is not a field of the payload as it stands."""
    match told:
        case facts.Queued():
            return {"msg": shown_text(told.text), "msg_truncated": len(told.text) > MESSAGE_CHARACTERS}
        case facts.Moved():
            return {"status": str(facts.STATUS_AFTER[event.type])}
        case facts.Exited():
            return {"code": exit_code(told)}
        case facts.Usage():
            total: dict[str, object] = {
                "input_tokens": told.total_input_tokens,
                "output_tokens": told.total_output_tokens,
            }
            return {"cumulative": total if told.total_cost_usd is None else {**total, "cost_usd": told.total_cost_usd}}
        case _:
            return {}


def _fields(kind: Kind, told: msgspec.Struct) -> dict[str, object]:
    fields = {renamed(name): _plain(name, getattr(told, name)) for name in kind.always}
    for name in kind.sometimes:
        value = _plain(name, getattr(told, name))
        if value not in (None, "", (), [], {}):
            fields[renamed(name)] = value
    return fields


def _plain(name: str, value: Any) -> object:
    return moment(value) if name in _RENAMED and value is not None else msgspec.to_builtins(value)
