"""What was asked and answered: kept within bounds for whoever looks, and written to a log if one is wanted."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any
from urllib.parse import parse_qsl, urlencode

import msgspec

from harness.errors import UsageError
from harness.text import secret_name

MAX_KEPT = 10_000
MAX_KEPT_BYTES = 64 * 1024 * 1024
"""Bodies beyond this are forgotten, the oldest first; the rest of what is known about a request stays."""

_NOTHING = msgspec.Raw(b"null")


class Received(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A request, and what became of it."""

    number: int
    at: float  # seconds since 1970
    scenario: str
    protocol: str  # `anthropic`, `responses`, `chat`, `count_tokens`, `models`, `other`
    method: str
    path: str
    headers: dict[str, str]
    model: str = ""
    stream: bool = False
    tools: list[str] = []
    side: bool = False
    turn: str = ""
    prompt: str = ""
    answer: dict[str, Any] = {}
    outcome: str = ""  # empty while it is being answered; then `answered`, `error 429`, `disconnected`, `client left` …
    raw_body: msgspec.Raw = msgspec.field(default=_NOTHING, name="body")

    @property
    def body(self) -> Any:
        """The whole request, decoded."""
        return msgspec.json.decode(self.raw_body)

    @property
    def main(self) -> bool:
        """Whether it was part of a program's real work, and used a turn."""
        return bool(self.turn) and not self.side


class Records:
    """The newest requests. `changed` guards it and is notified of every change; it may be used from any thread."""

    def __init__(self, changed: threading.Condition, log: Path | None) -> None:
        self._changed = changed
        self._kept: deque[Received] = deque()
        self._bare = 0  # so many of the oldest have lost their body
        self._bytes = 0
        self._count = 0
        self._log = None if log is None else _opened(log)

    def all(self) -> list[Received]:
        with self._changed:
            return list(self._kept)

    def forget(self) -> None:
        """Begin anew; numbers go on."""
        with self._changed:
            self._kept.clear()
            self._bare = self._bytes = 0

    def next_number(self) -> int:
        with self._changed:
            self._count += 1
            return self._count

    def add(self, received: Received) -> None:
        """Keep a request that has just been understood."""
        with self._changed:
            self._kept.append(received)
            self._bytes += _size(received)
            if len(self._kept) > MAX_KEPT:
                self._bytes -= _size(self._kept.popleft())
                self._bare = max(0, self._bare - 1)
            while self._bytes > MAX_KEPT_BYTES:
                oldest = self._kept[self._bare]
                self._bytes -= _size(oldest)
                oldest.raw_body = _NOTHING
                self._bytes += _size(oldest)
                self._bare += 1
            self._changed.notify_all()

    def finish(self, received: Received, outcome: str) -> None:
        """Say what became of it."""
        with self._changed:
            received.outcome = outcome
            if self._log is not None:
                self._log.write(msgspec.json.encode(received) + b"\n")
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            if self._log is not None:
                self._log.close()
                self._log = None


def _size(received: Received) -> int:
    return memoryview(received.raw_body).nbytes


def shown_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Headers without credentials."""
    return {name: "[hidden]" if _secret(name) else value for name, value in headers.items()}


def shown_path(path: str, parameters: str) -> str:
    """What was asked for, without credentials in its parameters."""
    if not parameters:
        return path
    pairs = parse_qsl(parameters, keep_blank_values=True)
    return f"{path}?{urlencode([(name, 'hidden' if _secret(name) else value) for name, value in pairs])}"


def kept_body(body: bytes) -> msgspec.Raw:
    """The body as JSON; what is none is kept as text."""
    if not body:
        return _NOTHING
    try:
        msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return msgspec.Raw(msgspec.json.encode(body[:100_000].decode("utf-8", "replace")))
    return msgspec.Raw(body)


def _secret(name: str) -> bool:
    return name.lower() in ("key", "cookie", "api-key") or secret_name(name)


def _opened(log: Path) -> IO[bytes]:
    """The log, readable for its owner alone: it holds prompts."""
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError as problem:
        raise UsageError(f"{log}: cannot be written: {problem.strerror}") from problem
    return os.fdopen(descriptor, "ab", buffering=0)
