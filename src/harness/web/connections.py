"""How many connections the door holds, and for how long one that asks for nothing. An idle one costs no thread."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

if TYPE_CHECKING:
    _Protocol = Any
else:
    _Protocol = AutoHTTPProtocol

MAX_CONNECTIONS = 1024
"""That many requests and connections are there at once; one more is told so (503)."""
FIRST_REQUEST_SECONDS = 30.0


class PunctualProtocol(_Protocol):
    """uvicorn's HTTP, without patience for a connection that never asks for anything; uvicorn itself waits for ever."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)  # pyright: ignore[reportUnknownMemberType]
        self._lateness: asyncio.TimerHandle = self.loop.call_later(FIRST_REQUEST_SECONDS, self._give_up)

    def connection_lost(self, exc: Exception | None) -> None:
        self._lateness.cancel()
        super().connection_lost(exc)  # pyright: ignore[reportUnknownMemberType]

    def _give_up(self) -> None:
        upgraded = self.transport.get_protocol() is not self
        if self.cycle is None and not upgraded:
            self.transport.close()
