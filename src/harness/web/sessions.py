"""`/api/sessions`: what agents are doing, and what a person asks of them.

Nothing here waits for a host: a request is an event, and what becomes of it is told by the session's own events.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Header, Query
from fastapi.responses import PlainTextResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from harness.errors import Conflict, NotFound, UsageError
from harness.processes import LogReader
from harness.sessions import Folder, bury, facts, published, session_gone
from harness.sessions.client import Row, Sessions, panes
from harness.sessions.facts import MessageStatus, Placing, State
from harness.sessions.record import Message, Session
from harness.text import sanitise
from harness.web import screens, streaming
from harness.web.context import Context, Here, Runs
from harness.web.session_rows import (
    MessageRow,
    SessionRow,
    WholeSession,
    files_of,
    message_row,
    session_row,
    whole_session,
)

router = APIRouter(prefix="/api/sessions", tags=["sessions"])

Reason = Annotated[str, Field(max_length=2_000)]
_ENDED_CODE = 204  # the browser's EventSource does not come again after it


class Which(StrEnum):
    """Which sessions are listed, or which messages."""

    TRUE = "true"
    FALSE = "false"
    ALL = "all"

    @property
    def wanted(self) -> bool | None:
        return {"true": True, "false": False}.get(self.value)


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class NewMessage(_Body):
    """A message to the agent. It waits at most `ttl` seconds; the session's own time without it."""

    text: Annotated[str, Field(max_length=1 << 20)] = ""
    placing: Placing = Placing.QUEUE
    force: bool = False  # also where the agent's state is not known
    submit: bool = True  # false: the text is put into the composer only
    submit_only: bool = False  # no text: Enter alone
    ttl: Annotated[float, Field(gt=0, le=366 * 86_400)] | None = None


class Stop(_Body):
    """How to end a session: its own exit, then TERM, then KILL, within the time; or at once."""

    timeout_seconds: Annotated[float, Field(gt=0, le=3_600)] = 30.0
    kill: bool = False
    reason: Reason = ""


class Why(_Body):
    """Why."""

    reason: Reason = ""


class Verdict(_Body):
    """A person's answer to what the agent asks leave for."""

    allow: bool
    reason: Reason = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """It is on record; the session's host acts on it."""

    ok: bool = True
    id: str
    session: str
    status: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptedMessage:
    """The message is on record; `GET …/messages` and the session's events tell what becomes of it."""

    ok: bool = True
    message_id: str
    status: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """The answer is on record; the event `approval_decided` says that the agent has it."""

    ok: bool = True
    request: str
    decision: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ScreenShot:
    """What a terminal shows, row by row from the top."""

    ok: bool = True
    id: str
    session: str
    captured_at: str
    columns: int
    rows: int
    lines: list[str]
    text: str


async def _run(session: str, here: Here, sessions: Runs) -> Row:
    """The run that an id or a key means, as far as this door is for it. Raises `NotFound`."""
    return await run_of(session, here, sessions)


async def run_of(name: str, here: Context, sessions: Sessions) -> Row:
    """The run that a name means. Raises `NotFound`, also for others than the one that the door is for."""
    if here.only and name not in (here.only, here.only.partition("@")[0]):
        raise NotFound(f"no session {name!r} at this door: it is for {here.only}")
    return await sessions.row(here.only or name)


Run = Annotated[Row, Depends(_run)]


async def living(row: Row, here: Context, sessions: Sessions) -> Row:
    """The row itself. Raises `Conflict` if the run is over, which is recorded here if nobody is left to do it."""
    if row.live and row.state == State.LOST and session_gone(here.store, await sessions.get(row.key)):
        await bury(here.store, row.key)
        row = await sessions.row(row.key)
    if not row.live:
        raise Conflict(f"session {row.id} has ended ({row.exit_reason})", name=row.key)
    return row


@router.get("")
async def list_sessions(
    here: Here,
    sessions: Runs,
    live: Annotated[Which, Query(description="those that run (true), that are over (false), or all")] = Which.TRUE,
    repo: Annotated[str | None, Query(description="root of a repository")] = None,
    cli: Annotated[str | None, Query(description="the agent program")] = None,
    limit: Annotated[int, Query(ge=1, le=1_000)] = 200,
) -> list[SessionRow]:
    """Sessions, the newest first."""
    rows = await sessions.list(live=live.wanted, repo=repo, cli=cli)
    chosen, now_us = [row for row in rows if here.only in ("", row.key)], here.store.clock.now_us()
    return [session_row(row, sessions.folder(row.key), now_us) for row in chosen[:limit]]


@router.get("/{session}")
async def show_session(row: Run, here: Here, sessions: Runs) -> WholeSession:
    """One session by its id (its newest run) or key: state, inbox, approvals, usage, limits."""
    shown = session_row(row, sessions.folder(row.key), here.store.clock.now_us())
    return whole_session(shown, await sessions.get(row.key))


@router.post("/{session}/messages", status_code=202)
async def send_message(row: Run, here: Here, sessions: Runs, new: NewMessage) -> AcceptedMessage:
    """Put a message into the session's inbox. It is durable when this answers; delivery is told by the session's events."""
    if new.text and new.submit_only:
        raise UsageError("submit_only is Enter alone: it goes with no text")
    row = await living(row, here, sessions)
    message_id = await sessions.send(
        row.key, new.text, placing=new.placing, forced=new.force, submit=new.submit, only_submit=new.submit_only,
        ttl_seconds=new.ttl,
    )  # fmt: skip
    return AcceptedMessage(message_id=message_id, status=MessageStatus.QUEUED)


@router.get("/{session}/messages")
async def list_messages(
    row: Run,
    sessions: Runs,
    open: Annotated[Which, Query(description="those that are not over (true), that are (false), or all")] = Which.ALL,
    limit: Annotated[int, Query(ge=1, le=1_000)] = 200,
) -> list[MessageRow]:
    """The session's messages with what became of them, the oldest first; of too many the newest."""
    messages = (await sessions.get(row.key)).messages.values()
    chosen = [message for message in messages if open.wanted in (None, message.open)]
    return [message_row(message) for message in chosen[-limit:]]


@router.get("/{session}/messages/{message}")
async def show_message(row: Run, sessions: Runs, message: str) -> MessageRow:
    """One message."""
    return message_row(_message(await sessions.get(row.key), message))


def _message(session: Session, message_id: str) -> Message:
    found = session.messages.get(message_id)
    if found is None:
        raise NotFound(f"{session.key} has no message {message_id!r}; GET /api/sessions/{session.id}/messages lists them")
    return found


@router.delete("/{session}/messages/{message}")
async def withdraw_message(row: Run, sessions: Runs, message: str) -> AcceptedMessage:
    """Take a message back. Refused (409) once it is on its way to the agent, or over otherwise."""
    _message(await sessions.get(row.key), message)
    status = await sessions.withdraw(row.key, message, reason="taken back over HTTP")
    if status is not MessageStatus.WITHDRAWN:
        raise Conflict(f"message {message} cannot be taken back: it is {status}", name=message)
    return AcceptedMessage(message_id=message, status=status)


@router.post("/{session}/stop", status_code=202)
async def stop(row: Run, here: Here, sessions: Runs, how: Stop | None = None) -> Accepted:
    """Ask for the session's end, which the event `exited` tells. Asking again, or for what has ended, does no harm."""
    wish = how or Stop()
    try:
        await living(row, here, sessions)
    except Conflict:
        return Accepted(id=row.id, session=row.key, status="exited")
    await sessions.stop(row.key, by=here.actor, timeout_seconds=wish.timeout_seconds, kill=wish.kill, reason=wish.reason)
    return Accepted(id=row.id, session=row.key, status="stopping")


@router.post("/{session}/interrupt", status_code=202)
async def interrupt(row: Run, here: Here, sessions: Runs, why: Why | None = None) -> Accepted:
    """Ask for the end of the turn under way."""
    await sessions.interrupt((await living(row, here, sessions)).key, by=here.actor, reason=why.reason if why else "")
    return Accepted(id=row.id, session=row.key, status="interrupting")


@router.post("/{session}/approvals/{request_id:path}", status_code=202)
async def decide(row: Run, here: Here, sessions: Runs, request_id: str, verdict: Verdict) -> Decided:
    """Allow or deny what the agent asks leave for, once and before its deadline."""
    row = await living(row, here, sessions)
    await sessions.decide(row.key, request_id, allow=verdict.allow, by=here.actor, reason=verdict.reason)
    return Decided(request=request_id, decision="allow" if verdict.allow else "deny")


@router.get("/{session}/events", response_class=StreamingResponse, responses={204: {"description": "It is over."}})
async def events(
    row: Run,
    sessions: Runs,
    after: Annotated[int, Query(ge=0, description="a `seq`; 0: from the first on")] = 0,
    follow: Annotated[bool, Query(description="false: what there is, and no more")] = True,
    last_event_id: Annotated[str | None, Header()] = None,
) -> Response:
    """The session's events (docs/events.md) as server-sent events, up to `exited`.

    Each message's id is its `seq`; send it back as Last-Event-ID to go on after it. Nothing is left after the end: 204.
    """
    start = _start(last_event_id, after)
    session = await sessions.get(row.key)
    if start > session.seq:
        raise UsageError(f"{row.key} has no event {start} yet: its newest is {session.seq}")
    if start == session.seq and not session.live:
        return Response(status_code=_ENDED_CODE)
    return streaming.sent(_events(sessions, session, start, follow=follow))


def _start(last_event_id: str | None, after: int) -> int:
    if last_event_id is None:
        return after
    if not last_event_id.isascii() or not last_event_id.isdecimal() or len(last_event_id) > 18:
        raise UsageError(f"Last-Event-ID is the number of one of the session's events, not {last_event_id[:80]!r}")
    return int(last_event_id)


async def _events(sessions: Sessions, session: Session, after: int, *, follow: bool) -> AsyncIterator[bytes]:
    yield b"retry: 1000\n\n"
    if after >= session.seq and not follow:
        return
    async with contextlib.aclosing(streaming.with_silence(sessions.follow(session.key, after=after))) as found:
        async for event in found:
            if event is None:
                yield streaming.STILL_HERE
                continue
            shown = published.public(event, session.key)
            line = published.line(event, session.key)
            if shown is not None and line is not None:
                yield streaming.message(str(shown["type"]), line, id_=str(event.seq))
            if event.type == facts.EXITED or (not follow and event.seq >= session.seq):
                return


@router.get("/{session}/screen")
async def screen(
    row: Run,
    sessions: Runs,
    lines: Annotated[int | None, Query(ge=1, le=1_000, description="exactly the last so many")] = None,
) -> ScreenShot:
    """What the session's terminal shows, or showed when it ended."""
    with_terminal(row, sessions)
    shot = await screens.shot(sessions, row)
    if shot is None:
        raise NotFound(f"the files of {row.key} are not on this machine")
    shown = shot.lines if lines is None else panes.last(shot.lines, lines)
    return ScreenShot(
        id=row.id, session=row.key, captured_at=shot.captured_at, columns=shot.columns, rows=shot.rows, lines=shown,
        text="\n".join(shown).rstrip(),
    )  # fmt: skip


def with_terminal(row: Row, sessions: Sessions) -> Folder:
    """The folder of a session that has a terminal. Raises `Conflict` for one that has none."""
    if row.mode != facts.Mode.PTY:
        raise Conflict(f"session {row.id} has no terminal: its program speaks {row.mode}", name=row.key)
    return sessions.folder(row.key)


@router.get("/{session}/logs", response_class=PlainTextResponse)
async def logs(
    row: Run,
    sessions: Runs,
    lines: Annotated[int, Query(ge=1, le=100_000)] = 200,
    plain: Annotated[bool, Query(description="without control codes")] = False,
    of: Annotated[Literal["output", "errors"], Query(description="its output, or its stderr where that is apart")] = "output",
) -> PlainTextResponse:
    """The last lines of what the program wrote, of at most 1 MiB."""
    folder = sessions.folder(row.key)
    files = files_of(folder)
    if files is None:
        raise NotFound(f"the files of {row.key} are not on this machine")
    path = files / (folder.transcript.name if of == "output" else folder.errors.name)
    text = "".join(f"{line.text}\n" for line in LogReader(path).tail(lines))
    headers = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}
    return PlainTextResponse(sanitise(text) if plain else text, headers=headers)
