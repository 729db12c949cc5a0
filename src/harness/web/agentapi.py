"""A session in the words of agentapi, for programs that speak that: an application of its own below each session.

Its calls, shapes and errors are those of agentapi 0.12. What a session can do and agentapi cannot say (approvals, an inbox,
states with sources) is at `/api/sessions`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from enum import StrEnum
from typing import Annotated, Any, Literal, cast

import msgspec
from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from harness.clock import iso
from harness.errors import Conflict, HarnessError, UsageError
from harness.ledger import Event
from harness.sessions import facts
from harness.sessions.client import Row, Sessions
from harness.sessions.client.terminal_feed import open_terminal
from harness.sessions.facts import ExitReason, MessageStatus, Mode
from harness.sessions.record import Session
from harness.web import errors, screens, streaming
from harness.web.context import Context, Here, Runs
from harness.web.conversation import Conversation, Said, agent_type
from harness.web.screens import Shot
from harness.web.session_rows import how_it_ended
from harness.web.sessions import living, run_of, with_terminal

BEGUN_SECONDS = 30.0
"""So long a message may take until the agent works on it."""
_ON_THE_WAY = frozenset({MessageStatus.QUEUED, MessageStatus.WRITTEN})
_BEGUN = frozenset({MessageStatus.ACCEPTED, MessageStatus.DONE})
_GOOD_ENDS = frozenset({ExitReason.SUCCESS, ExitReason.STOPPED})


class NotStable(Conflict):
    """The agent does not wait for a message."""


class NotBegun(HarnessError):
    """The agent has not begun to work on a message in time."""


class MessageType(StrEnum):
    """What `content` is: a message, or keys that are pressed at the terminal."""

    USER = "user"
    RAW = "raw"


class NewMessage(BaseModel):
    """What to say to the agent."""

    content: str
    type: MessageType


class Status(BaseModel):
    """Whether the agent waits for a message (`stable`) or works (`running`)."""

    status: Literal["stable", "running"]
    agent_type: str
    transport: Literal["pty", "acp"]  # `acp` stands for every structured protocol


class Message(BaseModel):
    """One message of the conversation."""

    id: int
    role: Literal["agent", "user"]
    content: str
    time: str


class Messages(BaseModel):
    """The conversation, from its beginning."""

    messages: list[Message]


class Sent(BaseModel):
    """It was done."""

    ok: bool = True


def install(app: FastAPI) -> None:
    """Serve it below every session of an application, whose state it shares."""
    below = FastAPI(
        title="agentapi", version="0.12", openapi_url=None, docs_url=None, redoc_url=None,
        description="One agent session, in the words of agentapi.",
    )  # fmt: skip
    below.state = app.state
    _install_errors(below)
    _install_calls(below)
    app.mount("/sessions/{session}/agentapi", below)


async def _run(request: Request, here: Here, sessions: Runs) -> Row:
    return await run_of(str(request.path_params["session"]), here, sessions)


Run = Annotated[Row, Depends(_run)]


def _install_calls(app: FastAPI) -> None:
    app.get("/status")(status)
    app.get("/messages")(messages)
    app.post("/message")(message)
    app.get("/events", response_class=StreamingResponse)(events)
    app.get("/internal/screen", response_class=StreamingResponse)(screen)

    @app.get("/openapi.json", include_in_schema=False)
    async def described(request: Request) -> JSONResponse:  # pyright: ignore[reportUnusedFunction]
        return JSONResponse({**app.openapi(), "servers": [{"url": request.scope.get("root_path", "")}]})


async def status(row: Run, here: Here, sessions: Runs) -> Status:
    """Whether the agent waits for a message."""
    row = await living(row, here, sessions)
    conversation = await _conversation(row, here)
    return Status(
        status=_word(conversation), agent_type=agent_type(row.cli), transport="pty" if row.mode == Mode.PTY else "acp"
    )  # fmt: skip


async def messages(row: Run, here: Here, sessions: Runs) -> Messages:
    """The conversation. What a program in a terminal says is what its screen shows."""
    conversation = await _conversation(row, here)
    if row.mode == Mode.PTY:
        _show(conversation, await screens.shot(sessions, row), here.store.clock.now_us())
    return Messages(messages=[Message.model_validate(_fields(said, "content")) for said in conversation.messages])


async def message(row: Run, here: Here, sessions: Runs, new: NewMessage) -> Sent:
    """Say something to an agent that waits for it; answers when the agent has begun to work on it."""
    row = await living(row, here, sessions)
    if new.type is MessageType.RAW:
        await _press(row, sessions, new.content)
        return Sent()
    if not new.content or new.content != new.content.strip():
        raise UsageError("content must not be empty, nor begin or end with white space")
    if not (await _conversation(row, here)).stable:
        raise NotStable("message can only be sent when the agent is waiting for user input", name=row.key)
    message_id = await sessions.send(row.key, new.content, ttl_seconds=BEGUN_SECONDS)
    await _until_begun(row, sessions, message_id)
    return Sent()


async def _press(row: Row, sessions: Sessions, keys: str) -> None:
    feed = await open_terminal(with_terminal(row, sessions))
    try:
        await feed.type(keys.encode())
        await feed.detach()
    finally:
        feed.close()


async def _until_begun(row: Row, sessions: Sessions, message_id: str) -> None:
    """Wait until the agent works on the message; one that it has not been given by then is taken back."""
    try:
        async with asyncio.timeout(BEGUN_SECONDS):
            until = frozenset(MessageStatus) - _ON_THE_WAY
            reached = (await sessions.message(row.key, message_id, until=until)).status
    except TimeoutError:
        reached = await sessions.withdraw(row.key, message_id, reason="the agent did not begin in time")
    if reached not in _BEGUN:
        found = (await sessions.get(row.key)).messages[message_id]
        why = f": {found.reason}" if found.reason else ""
        raise NotBegun(f"failed to send message: it is {found.status}{why}")


async def events(row: Run, here: Here, sessions: Runs) -> StreamingResponse:
    """The conversation so far and then what changes, as server-sent events. Ends with the session."""
    return streaming.sent(told(row, here, sessions))


async def told(row: Row, here: Context, sessions: Sessions) -> AsyncGenerator[bytes]:
    """The stream of `events`."""
    terminal = row.mode == Mode.PTY
    conversation = await _conversation(row, here)
    if terminal:
        _show(conversation, await screens.shot(sessions, row), here.store.clock.now_us())
    for said in conversation.messages:
        yield _update(said)
    if conversation.session.live:
        yield _status_change(conversation)
    stable = conversation.stable
    feed = sessions.follow(row.key, after=conversation.session.seq)
    both: AsyncGenerator[Event | Shot] = streaming.merged(feed, screens.shots(sessions, row)) if terminal else cast("Any", feed)
    async with contextlib.aclosing(streaming.with_silence(both)) as found:
        async for came in found:
            if came is None:
                yield streaming.STILL_HERE
                continue
            changed = (
                conversation.show(came.text, here.store.clock.now_us()) if isinstance(came, Shot) else conversation.fold(came)
            )
            for said in changed:
                yield _update(said)
            if conversation.stable != stable and conversation.session.live:
                stable = conversation.stable
                yield _status_change(conversation)
            if (error := _agent_error(came, conversation.session)) is not None:
                yield error


async def screen(row: Run, sessions: Runs) -> StreamingResponse:
    """What the terminal shows, and again whenever that changes."""
    with_terminal(row, sessions)
    return streaming.sent(shown(row, sessions))


async def shown(row: Row, sessions: Sessions) -> AsyncGenerator[bytes]:
    """The stream of `screen`."""
    both: AsyncGenerator[Event | Shot] = streaming.merged(sessions.follow(row.key), screens.shots(sessions, row))
    async with contextlib.aclosing(streaming.with_silence(both)) as found:
        async for came in found:
            if isinstance(came, Shot):
                yield streaming.message("screen", msgspec.json.encode({"screen": came.text}))
            elif came is None:
                yield streaming.STILL_HERE


# -- shapes


async def _conversation(row: Row, here: Context) -> Conversation:
    conversation = Conversation(Session(key=row.key), terminal=row.mode == Mode.PTY)
    for event in await here.store.read(facts.stream_of(row.key)):
        conversation.fold(event)
    return conversation


def _show(conversation: Conversation, shot: Shot | None, at_us: int) -> None:
    if shot is not None:
        conversation.show(shot.text, at_us)


def _word(conversation: Conversation) -> Literal["stable", "running"]:
    return "stable" if conversation.stable else "running"


def _fields(said: Said, words: str) -> dict[str, object]:
    return {"id": said.id, "role": said.role, words: said.content, "time": iso(said.time_us)}


def _update(said: Said) -> bytes:
    return streaming.message("message_update", msgspec.json.encode(_fields(said, "message")))


def _status_change(conversation: Conversation) -> bytes:
    now = {"status": _word(conversation), "agent_type": agent_type(conversation.session.cli)}
    return streaming.message("status_change", msgspec.json.encode(now))


def _agent_error(came: Event | Shot, session: Session) -> bytes | None:
    """What a person should know has gone wrong."""
    if isinstance(came, Shot):
        return None
    if came.type == facts.ESCALATED:
        message = f"a person is needed: {session.escalated}"
    elif came.type == facts.EXITED and session.exited is not None and session.exited.reason not in _GOOD_ENDS:
        message = f"the session has ended: {how_it_ended(session)}"
    else:
        return None
    return streaming.message(
        "agent_error", msgspec.json.encode({"message": message, "level": "error", "time": iso(came.ts)})
    )  # fmt: skip


# -- errors


def _install_errors(app: FastAPI) -> None:
    async def harness_error(request: Request, error: Exception) -> Response:
        status = _STATUS.get(type(error)) or errors.status_of(error)[0]
        return errors.problem(status, str(error))

    async def http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return errors.problem(error.status_code, str(error.detail))

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return errors.problem(422, "validation failed", errors.details_of(error))

    async def unexpected(request: Request, error: Exception) -> Response:
        return errors.problem(500, f"unexpected {type(error).__name__}; the web process's log has it")

    app.add_exception_handler(HarnessError, harness_error)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(Exception, unexpected)


_STATUS: dict[type[Exception], int] = {NotBegun: 504}
