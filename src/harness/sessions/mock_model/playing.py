"""Sends one answer as its turn wants it: late, held, refused, in pieces, or not to its end."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from contextlib import suppress

import msgspec

from harness.sessions.mock_model.answering import Answer
from harness.sessions.mock_model.asking import Asked
from harness.sessions.mock_model.gates import Gates
from harness.sessions.mock_model.http import Client, Gone, Request
from harness.sessions.mock_model.script import Turn
from harness.sessions.mock_model.wire import Wire

_EVENTS = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}


async def play(client: Client, request: Request, wire: Wire, gates: Gates, turn: Turn, asked: Asked, answer: Answer) -> None:
    """Send an answer as its turn wants it: late, held, refused, in pieces, or not to its end."""
    if turn.delay:
        await client.pause(turn.delay)
    if turn.hold:
        await gates.passed(turn.hold, client)
    failure = turn.failure
    if turn.disconnect == "before":
        client.cut()
    elif failure is not None and not (failure.midstream and asked.stream):
        await client.send(failure.status, encoded(wire.refusal(failure)), json_headers(turn.headers))
    elif asked.stream:
        await _stream(client, request, wire, turn, answer)
    else:
        await _whole(client, wire, turn, answer)


async def _whole(client: Client, wire: Wire, turn: Turn, answer: Answer) -> None:
    body = encoded(wire.whole(answer))
    headers = json_headers(turn.headers)
    if turn.disconnect is None:
        await client.send(200, body, headers)
        return
    await client.begin(200, {**headers, "content-length": str(len(body))}, chunked=False)
    await client.piece(body[: len(body) // 2])
    client.cut()


async def _stream(client: Client, request: Request, wire: Wire, turn: Turn, answer: Answer) -> None:
    frames = list(wire.stream(answer))
    broken = turn.failure is not None or turn.disconnect is not None
    await client.begin(200, _identified({**_EVENTS, **turn.headers}), chunked=not request.old)
    for number, data in enumerate(frames[: len(frames) // 2] if broken else frames):
        if number and turn.chunk_delay:
            await client.pause(turn.chunk_delay)
        await client.piece(data)
    if turn.failure is not None:
        await client.piece(wire.broken(answer, turn.failure, len(frames) // 2))
    if turn.disconnect is not None:
        client.cut()
    else:
        with suppress(Gone):  # it has all that was said, and needs no more
            await client.end()


def json_headers(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """The headers of an answer in JSON."""
    return _identified({"content-type": "application/json", **(more or {})})


def _identified(headers: Mapping[str, str]) -> dict[str, str]:
    """With the id that both providers give each request, under each one's name for it."""
    id_ = f"req_{secrets.token_hex(10)}"
    return {"request-id": id_, "x-request-id": id_, **headers}


def encoded(value: object) -> bytes:
    """A body in JSON."""
    return msgspec.json.encode(value)
