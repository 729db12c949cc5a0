"""Sessions as the API shows them: rows, one whole session, its messages and approvals. It reads and never writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from harness.clock import iso
from harness.sessions import Folder
from harness.sessions.client import Row
from harness.sessions.client.rows import document
from harness.sessions.published import exit_code
from harness.sessions.record import Approval, Message, Session

CLIPPED = 2_000
"""So much of a message is shown where many things are; its own list shows all of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """Sums over the run."""

    input: int
    output: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a run ended; `code` is 128 + signal where a signal ended it, null where nobody knows."""

    code: int | None
    signal: int | None
    reason: str | None
    at: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRow:
    """One run of an agent program, as `harness status --json` tells it. `live`: nobody has recorded its end."""

    id: str
    session: str  # the key of this run, also when its id is used again
    cli: str
    mode: str  # pty, stream, app-server or once
    pid: int | None
    port: int | None
    live: bool
    state: str
    detail: str
    source: str
    confidence: float
    since: str | None
    until: str | None  # of a limit
    repo: str
    cwd: str
    description: str
    started_at: str | None
    age_s: int
    log_mtime: str | None  # of its output; this and the next three are null where its files are not on this machine
    log_idle_s: int | None
    output_log_path: str | None
    events_log_path: str | None
    vendor_session: str | None
    model: str | None
    turns: int
    tokens: Tokens
    cost_usd: float | None
    attended: bool
    tmux: str | None
    exited: Ending | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageRow:
    """One message to the agent and what became of it."""

    id: str
    status: str
    text: str
    text_truncated: bool
    placing: str
    origin: Mapping[str, str]
    forced: bool
    submit: bool
    queued: str
    expires: str
    changed: str
    reason: str
    turn: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalRow:
    """One thing that the agent asked leave for. Without a `decision` it waits, until `deadline`."""

    request: str
    tool: str
    summary: str
    arguments: Any
    asked: str
    deadline: str | None
    question: str | None
    decision: str | None
    by: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageRow:
    """Sums over the run."""

    input_tokens: int
    output_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    cost_usd: float | None
    turns: int
    tools: int
    messages: int
    errors: int
    busy_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitsRow:
    """What the host enforces; null: no limit."""

    max_budget_usd: float | None
    max_turns: int | None
    max_wall_seconds: float | None
    inbox_ttl_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeSession(SessionRow):
    """Everything about one run."""

    argv: tuple[str, ...]
    meta: Any
    cli_version: str
    vendor_transcript: str
    follows: str
    worktree: str
    branch: str
    turn: str  # under way; empty: none
    turn_started: str | None
    stopping: bool
    escalated: str
    resumes: int
    exit_detail: str
    exit_needed: str  # to stop it: exit, term or kill
    limits: LimitsRow
    usage: UsageRow
    inbox: list[MessageRow]  # that are not over, the oldest first
    approvals: list[ApprovalRow]  # those that wait first


def session_row(row: Row, folder: Folder, now_us: int) -> SessionRow:
    """A row of the table of sessions, with what its files tell."""
    told: dict[str, Any] = document(row, str(folder.home), now_us)
    if files_of(folder) is None:
        told.update(dict.fromkeys(("log_mtime", "log_idle_s", "output_log_path", "events_log_path")))
    told["tokens"] = Tokens(**told["tokens"])
    told["exited"] = None if told["exited"] is None else Ending(**told["exited"])
    return SessionRow(**{name: told[name] for name in SessionRow.__dataclass_fields__})


def whole_session(row: SessionRow, session: Session) -> WholeSession:
    """All that its stream tells."""
    claimed, exited = session.claimed, session.exited
    totals = session.totals
    known = sorted(session.approvals.values(), key=lambda approval: (bool(approval.decision), -approval.asked_us))
    return WholeSession(
        **{name: getattr(row, name) for name in SessionRow.__dataclass_fields__},
        argv=() if claimed is None else claimed.argv, meta=None if claimed is None else claimed.meta,
        cli_version=session.cli_version, vendor_transcript=session.vendor_transcript,
        follows="" if claimed is None else claimed.follows, worktree="" if claimed is None else claimed.worktree,
        branch="" if claimed is None else claimed.branch, turn=session.turn,
        turn_started=iso(session.turn_started_us) if session.turn else None,
        stopping=session.stop is not None and session.live, escalated=session.escalated, resumes=session.resumes,
        exit_detail="" if exited is None else exited.detail, exit_needed="" if exited is None else exited.needed,
        limits=LimitsRow(
            max_budget_usd=None if claimed is None else claimed.limits.max_budget_usd,
            max_turns=None if claimed is None else claimed.limits.max_turns,
            max_wall_seconds=None if claimed is None else claimed.limits.max_wall_seconds,
            inbox_ttl_seconds=0.0 if claimed is None else claimed.inbox_ttl_seconds,
        ),
        usage=UsageRow(
            input_tokens=totals.input_tokens, output_tokens=totals.output_tokens, cached_tokens=totals.cached_tokens,
            reasoning_tokens=totals.reasoning_tokens, cost_usd=totals.cost_usd, turns=totals.turns, tools=totals.tools,
            messages=totals.messages, errors=totals.errors, busy_seconds=round(totals.busy_us / 1e6, 3),
        ),
        inbox=[message_row(message, clip=CLIPPED) for message in session.messages.values() if message.open],
        approvals=[approval_row(approval) for approval in known],
    )  # fmt: skip


def message_row(message: Message, *, clip: int | None = None) -> MessageRow:
    """A message; with `clip`, so many of its characters."""
    text = message.text if clip is None else message.text[:clip]
    return MessageRow(
        id=message.id, status=message.status, text=text, text_truncated=len(text) < len(message.text), placing=message.placing,
        origin={"kind": "human", **msgspec.to_builtins(message.origin)}, forced=message.forced, submit=message.submit,
        queued=iso(message.queued_us), expires=iso(message.expires_us), changed=iso(message.changed_us),
        reason=message.reason, turn=message.turn,
    )  # fmt: skip


def approval_row(approval: Approval) -> ApprovalRow:
    """An approval."""
    return ApprovalRow(
        request=approval.request, tool=approval.tool, summary=approval.summary, arguments=approval.arguments,
        asked=iso(approval.asked_us), deadline=_moment(approval.deadline_us),
        question=approval.question.removeprefix("question/") or None, decision=approval.decision or None, by=approval.by,
        reason=approval.reason,
    )  # fmt: skip


def how_it_ended(session: Session) -> str:
    """Its end in a few words; empty while it goes on."""
    if session.exited is None:
        return ""
    code = exit_code(session.exited)
    return str(session.exited.reason) if code is None else f"{session.exited.reason}, code {code}"


def files_of(folder: Folder) -> Path | None:
    """The folder with this run's files; None if they are not on this machine, or not any more."""
    path = folder.path
    try:
        return path if (path / "key").read_text(encoding="ascii") == folder.key else None
    except (OSError, UnicodeDecodeError):
        return None


def _moment(us: int | None) -> str | None:
    return None if us is None else iso(us)
