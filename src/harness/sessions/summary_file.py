"""`session.json`: one run as its events tell it, in a file that is replaced as a whole. Owns its keys and its bytes.

It is a view for other tools; docs/events.md names its keys. `harness status` reads the ledger and not this.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import msgspec

from harness.sessions.facts import MessageStatus
from harness.sessions.published import SCHEMA_VERSION, exit_code, moment, shown_text
from harness.sessions.record import Message, Session

NAME = "session.json"


def document(session: Session) -> dict[str, object]:
    """The session as plain JSON, keys in a fixed order; what nothing has told yet is None, empty or 0."""
    claimed = session.claimed
    counted = Counter(session.forgotten) + Counter(message.status for message in session.messages.values())
    return {
        "schema_version": SCHEMA_VERSION,
        "id": session.id or session.key.partition("@")[0],
        "session": session.key,
        "seq": session.seq,
        "updated": _when(session.last_event_us),
        "live": session.live,
        "cli": session.cli,
        "mode": session.mode,
        "description": claimed.description if claimed else "",
        "meta": claimed.meta if claimed else None,
        "pid": session.pid or None,
        "host_pid": claimed.host_pid if claimed else None,
        "guard_pid": claimed.guard_pid if claimed else None,
        "argv": claimed.argv if claimed else (),
        "cwd": claimed.cwd if claimed else "",
        "repo": claimed.repo if claimed else "",
        "worktree": claimed.worktree if claimed else "",
        "branch": claimed.branch if claimed else "",
        "tmux": claimed.tmux if claimed else "",
        "attended": claimed.attended if claimed else False,
        "follows": claimed.follows if claimed else "",
        "limits": msgspec.to_builtins(claimed.limits) if claimed else {},
        "started": _when(session.started_us),
        "state": {
            "state": str(session.state),
            "detail": session.state_detail,
            "source": session.state_source,
            "confidence": session.state_confidence,
            "since": _when(session.state_us),
            "until": None if session.until_us is None else moment(session.until_us),
        },
        "vendor_session": session.vendor_session,
        "model": session.model,
        "cli_version": session.cli_version,
        "transcript": session.vendor_transcript,
        "turn": session.turn,
        "turn_started": _when(session.turn_started_us if session.turn else 0),
        "totals": {
            "turns": session.totals.turns,
            "tools": session.totals.tools,
            "errors": session.totals.errors,
            "input_tokens": session.totals.input_tokens,
            "output_tokens": session.totals.output_tokens,
            "cached_tokens": session.totals.cached_tokens,
            "reasoning_tokens": session.totals.reasoning_tokens,
            "cost_usd": session.totals.cost_usd,
            "busy_seconds": session.totals.busy_us / 1e6,
        },
        "messages": {str(status): counted[status] for status in MessageStatus},
        "inbox": [_open_message(message) for message in session.messages.values() if message.open],
        "approvals": [
            {"request": asked.request, "tool": asked.tool, "summary": asked.summary, "asked": moment(asked.asked_us)}
            for asked in session.open_approvals
        ],
        "resumes": session.resumes,
        "escalated": session.escalated,
        "stop_requested": session.stop is not None,
        "exited": _exited(session),
    }


def write(folder: Path, session: Session) -> bool:
    """Replace `session.json` in the session's folder (mode 0600), at once or not at all; whether the disk took it."""
    new = folder / f".{NAME}.{os.getpid()}"
    try:
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(msgspec.json.encode(document(session)) + b"\n")
            new.replace(folder / NAME)
        except OSError:
            new.unlink(missing_ok=True)
            raise
    except OSError:
        return False
    return True


def _when(us: int) -> str | None:
    return moment(us) if us else None


def _open_message(message: Message) -> dict[str, object]:
    return {
        "message_id": message.id,
        "status": str(message.status),
        "msg": shown_text(message.text),
        "placing": str(message.placing),
        "queued": moment(message.queued_us),
        "expires": moment(message.expires_us),
    }


def _exited(session: Session) -> dict[str, object] | None:
    told = session.exited
    if told is None:
        return None
    return {
        "code": exit_code(told),
        "signal": told.signal,
        "reason": str(told.reason),
        "needed": told.needed,
        "detail": told.detail,
        "at": moment(session.exited_us),
        "by": told.by,
    }
