"""As much of HTTP/1.1 as programs and their SDKs need: requests with bounded heads and bodies, answers whole or in pieces.

Knows no route and no script.
"""

from __future__ import annotations

import asyncio
import re
import socket
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import parse_qsl

from harness.errors import HarnessError

MAX_HEAD_BYTES = 64 * 1024
MAX_BODY_BYTES = 64 * 1024 * 1024
IDLE_SECONDS = 300.0
"""A connection on which nothing is asked for so long is closed."""
TRANSFER_SECONDS = 60.0
"""A body has to arrive, and each piece of an answer to be taken, within this time."""

_PHRASES = {status.value: status.phrase for status in HTTPStatus}


class BadRequest(HarnessError):
    """A request that cannot be read; `status` is its answer, after which the connection is closed."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Gone(HarnessError):
    """The client has left, or does not take its answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request, with its body unpacked."""

    method: str
    path: str
    parameters: str  # what stands after the `?`
    headers: Mapping[str, str]  # names in lower case
    body: bytes
    old: bool  # HTTP/1.0, which knows no chunks and closes after each answer

    def parameter(self, name: str) -> str:
        """The first value of a parameter; empty without it."""
        return dict(reversed(parse_qsl(self.parameters))).get(name, "")

    @property
    def keep_alive(self) -> bool:
        return not self.old and "close" not in self.headers.get("connection", "").lower()


class _Watched(asyncio.StreamReaderProtocol):
    """A stream that says at once when its client has closed its side, also while it is being answered."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        super().__init__(reader)
        self.gone = asyncio.Event()

    def eof_received(self) -> bool | None:
        self.gone.set()
        return super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone.set()
        super().connection_lost(exc)


class Client:
    """One connection: its requests one after the other, each with one answer."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, gone: asyncio.Event) -> None:
        self._reader = reader
        self._writer = writer
        self.gone = gone
        self._chunked = False
        writer.transport.set_write_buffer_limits(high=0)  # `drain` then means sent, so a cut loses nothing that was said

    async def pause(self, seconds: float) -> None:
        """Wait. Raises `Gone` as soon as the client leaves."""
        try:
            async with asyncio.timeout(seconds):
                await self.gone.wait()
        except TimeoutError:
            return
        raise Gone("the client left")

    @classmethod
    async def attend(cls, connection: socket.socket) -> Client:
        """The client at the other end of an accepted connection."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=MAX_HEAD_BYTES, loop=loop)
        transport, protocol = await loop.connect_accepted_socket(lambda: _Watched(reader), connection)
        return cls(reader, asyncio.StreamWriter(transport, protocol, reader, loop), protocol.gone)

    # -- requests

    async def read(self) -> Request | None:
        """The next request; None when there is none to come. Raises `BadRequest`."""
        try:
            async with asyncio.timeout(IDLE_SECONDS):
                head = await self._reader.readuntil(b"\r\n\r\n")
        except (TimeoutError, asyncio.IncompleteReadError, ConnectionError):
            return None
        except asyncio.LimitOverrunError as problem:
            raise BadRequest(431, f"the request's head has more than {MAX_HEAD_BYTES} bytes") from problem
        method, target, version, headers = _parsed_head(head)
        try:
            async with asyncio.timeout(TRANSFER_SECONDS):
                body = await self._body(headers)
        except (asyncio.IncompleteReadError, ConnectionError) as problem:
            raise Gone("the client left before its request was complete") from problem
        except TimeoutError as problem:
            raise BadRequest(408, "the request did not arrive in time") from problem
        path, _, parameters = target.partition("?")
        body = _unpacked(body, headers.get("content-encoding", "").lower())
        old = version == "HTTP/1.0"
        return Request(method=method, path=path, parameters=parameters, headers=headers, body=body, old=old)

    async def _body(self, headers: Mapping[str, str]) -> bytes:
        if headers.get("expect", "").lower() == "100-continue":
            self._writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if "chunked" in headers.get("transfer-encoding", "").lower():
            return await self._chunks()
        length = headers.get("content-length", "0")
        if not re.fullmatch(r"[0-9]{1,15}", length):
            raise BadRequest(400, f"{length[:40]!r} is no length")
        _check_size(int(length))
        return await self._reader.readexactly(int(length))

    async def _chunks(self) -> bytes:
        parts: list[bytes] = []
        total = 0
        while True:
            size = await self._chunk_size()
            total += size
            _check_size(total)
            if not size:
                while (await self._line()).strip():  # trailers
                    pass
                return b"".join(parts)
            parts.append(await self._reader.readexactly(size))
            await self._line()

    async def _chunk_size(self) -> int:
        size = re.fullmatch(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;.*)?\r\n", await self._line())
        if size is None:
            raise BadRequest(400, "a chunk does not begin with its size")
        return int(size[1], 16)

    async def _line(self) -> bytes:
        try:
            return await self._reader.readuntil(b"\r\n")
        except asyncio.LimitOverrunError as problem:
            raise BadRequest(400, "a line of the body has no end") from problem

    # -- answers

    async def send(self, status: int, body: bytes, headers: Mapping[str, str], *, head_only: bool = False) -> None:
        """A whole answer."""
        await self._write(_head(status, {**headers, "content-length": str(len(body))}) + (b"" if head_only else body))

    async def begin(self, status: int, headers: Mapping[str, str], *, chunked: bool) -> None:
        """The head of an answer that comes in pieces."""
        self._chunked = chunked
        await self._write(_head(status, {**headers, **({"transfer-encoding": "chunked"} if chunked else {})}))

    async def piece(self, data: bytes) -> None:
        await self._write(b"%x\r\n%s\r\n" % (len(data), data) if self._chunked else data)

    async def end(self) -> None:
        """After the last piece."""
        if self._chunked:
            await self._write(b"0\r\n\r\n")

    async def _write(self, data: bytes) -> None:
        if self.gone.is_set():
            raise Gone("the client left")
        self._writer.write(data)
        try:
            async with asyncio.timeout(TRANSFER_SECONDS):
                await self._writer.drain()
        except (ConnectionError, TimeoutError) as problem:
            raise Gone("the client does not take its answer") from problem

    def cut(self) -> None:
        """Close now, whatever was promised."""
        self._writer.transport.abort()

    async def close(self) -> None:
        """Close after what was said has been sent."""
        self._writer.close()
        try:
            async with asyncio.timeout(1):
                await self._writer.wait_closed()
        except (OSError, TimeoutError):
            self.cut()


def _parsed_head(head: bytes) -> tuple[str, str, str, dict[str, str]]:
    first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    words = first.split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        raise BadRequest(400, "this is no HTTP/1.1 request")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon:
            raise BadRequest(400, "a header has no value")
        headers[name.strip().lower()] = value.strip()
    return words[0], words[1], words[2], headers


def _head(status: int, headers: Mapping[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} {_PHRASES.get(status, 'Scripted')}", *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def _check_size(size: int) -> None:
    if size > MAX_BODY_BYTES:
        raise BadRequest(413, f"a request may have {MAX_BODY_BYTES} bytes, not {size}")


def _unpacked(body: bytes, encoding: str) -> bytes:
    if encoding in ("", "identity"):
        return body
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise BadRequest(415, f"a body in {encoding!r} cannot be read here; send it plain or as gzip")
    unpacker = zlib.decompressobj(wbits=47)  # gzip or zlib, as its head says
    try:
        unpacked = unpacker.decompress(body, MAX_BODY_BYTES)
    except zlib.error as problem:
        raise BadRequest(400, f"the body is not {encoding}: {problem}") from problem
    if unpacker.unconsumed_tail:
        raise BadRequest(413, f"the body unpacks to more than {MAX_BODY_BYTES} bytes")
    if not unpacker.eof:
        raise BadRequest(400, f"the body is not {encoding}: it has no end")
    return unpacked
