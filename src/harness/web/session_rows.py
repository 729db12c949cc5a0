"""Sessions as the API shows them: rows, one whole session, its messages and approvals. It reads and never writes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from harness.clock import iso
from harness.sessions.client import Row
from harness.sessions.ids import Folder
from harness.sessions.published import exit_code
from harness.sessions.record import Approval, Message, Session

CLIPPED = 2_000
"""So much of a message is shown where many things are; its own list shows all of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRow:
    """One run of an agent program. `live` says that nobody has recorded its end, `state` what it does as far as is known."""

    id: str
    key: str  # this run, also when its id is used again
    cli: str
    mode: str  # pty, stream, app-server or once
    live: bool
    state: str
    state_source: str
    state_confidence: float
    state_detail: str
    state_since: str
    until: str | None  # of a limit
    repo: str
    cwd: str
    description: str
    model: str
    vendor_session: str
    pid: int | None
    attended: bool
    tmux: str
    started: str
    last_event: str
    turns: int
    input_tokens: int
    output_tokens: int
    cost_usd: float | None
    exited: str | None
    exit_reason: str | None
    exit_code: int | None  # 128 + signal where a signal ended it
    exit_signal: int | None
    log_mtime: str | None  # of its output; null where its files are not on this machine
    log_idle_s: int | None
    output_log_path: str | None
    events_log_path: str | None


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


def session_row(row: Row, folder: Folder) -> SessionRow:
    """A row of the table of sessions, with what its files tell."""
    files = files_of(folder)
    written = None if files is None else _mtime(files / folder.transcript.name)
    return SessionRow(
        id=row.id, key=row.key, cli=row.cli, mode=row.mode, live=row.live, state=row.state, state_source=row.state_source,
        state_confidence=row.state_confidence, state_detail=row.state_detail, state_since=iso(row.state_us),
        until=_moment(row.until_us), repo=row.repo, cwd=row.cwd, description=row.description, model=row.model,
        vendor_session=row.vendor_session, pid=row.pid or None, attended=bool(row.attended), tmux=row.tmux,
        started=iso(row.started_us), last_event=iso(row.last_us), turns=row.turns, input_tokens=row.input_tokens,
        output_tokens=row.output_tokens, cost_usd=row.cost_usd, exited=_moment(row.exited_us), exit_reason=row.exit_reason,
        exit_code=128 + row.exit_signal if row.exit_code is None and row.exit_signal is not None else row.exit_code,
        exit_signal=row.exit_signal,
        log_mtime=None if written is None else iso(round(written * 1e6)),
        log_idle_s=None if written is None else max(0, int(time.time() - written)),
        output_log_path=None if files is None else str(files / folder.transcript.name),
        events_log_path=None if files is None else str(files / folder.events.name),
    )  # fmt: skip


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


def _mtime(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None


def _moment(us: int | None) -> str | None:
    return None if us is None else iso(us)
