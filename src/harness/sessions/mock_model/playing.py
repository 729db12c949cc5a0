"""Sends one answer as its turn wants it: late, held, refused, in pieces, or not to its end."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import msgspec

from harness.sessions.mock_model.answering import Answer
from harness.sessions.mock_model.asking import Asked
from harness.sessions.mock_model.gates import Gates
from harness.sessions.mock_model.http import Client
from harness.sessions.mock_model.script import Turn
from harness.sessions.mock_model.wire import Wire

_EVENTS = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """One answer on its way; `finish` is called before its last bytes leave, so that whoever has them finds it on record."""

    client: Client
    wire: Wire
    turn: Turn
    asked: Asked
    answer: Answer
    chunked: bool
    finish: Callable[[], None]

    async def play(self, gates: Gates) -> None:
        """Send it as its turn wants it."""
        turn, failure = self.turn, self.turn.failure
        if turn.delay:
            await self.client.pause(turn.delay)
        if turn.hold:
            await gates.passed(turn.hold, self.client)
        if turn.disconnect == "before":
            self.finish()
            self.client.cut()
        elif failure is not None and not (failure.midstream and self.asked.stream):
            self.finish()
            await self.client.send(failure.status, encoded(self.wire.refusal(failure)), json_headers(turn.headers))
        elif self.asked.stream:
            await self._stream()
        else:
            await self._whole()

    async def _whole(self) -> None:
        body = encoded(self.wire.whole(self.answer))
        headers = json_headers(self.turn.headers)
        if self.turn.disconnect is None:
            self.finish()
            await self.client.send(200, body, headers)
            return
        await self.client.begin(200, {**headers, "content-length": str(len(body))}, chunked=False)
        await self.client.piece(body[: len(body) // 2])
        self.finish()
        self.client.cut()

    async def _stream(self) -> None:
        frames = self._frames()
        await self.client.begin(200, _identified({**_EVENTS, **self.turn.headers}), chunked=self.chunked)
        for number, data in enumerate(frames, 1):
            if number > 1 and self.turn.chunk_delay:
                await self.client.pause(self.turn.chunk_delay)
            if number == len(frames):
                self.finish()
            await self.client.piece(data)
        if self.turn.disconnect is not None:
            self.client.cut()
        else:
            await self.client.end()

    def _frames(self) -> list[bytes]:
        """All of the stream, or its first half and what breaks it."""
        frames = list(self.wire.stream(self.answer))
        half = len(frames) // 2
        if self.turn.failure is not None:
            return [*frames[:half], self.wire.broken(self.answer, self.turn.failure, half)]
        return frames if self.turn.disconnect is None else frames[:half]


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
