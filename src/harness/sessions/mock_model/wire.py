"""What a protocol has to be able to do, and how its server-sent events are framed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from harness.sessions.mock_model.answering import Answer
from harness.sessions.mock_model.asking import Asked
from harness.sessions.mock_model.script import Failure

Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wire:
    """One protocol."""

    name: str
    read: Callable[[bytes], Asked]  # raises `Malformed`
    whole: Callable[[Answer], Json]  # the answer as one object
    stream: Callable[[Answer], Iterator[bytes]]  # the same in frames
    refusal: Callable[[Failure], Json]  # the body of an error
    broken: Callable[[Answer, Failure, int], bytes]  # an error after that many frames of a stream


def frame(data: object, *, event: str = "") -> bytes:
    """One server-sent event."""
    text = data if isinstance(data, bytes) else msgspec.json.encode(data)
    return b"".join((f"event: {event}\n".encode() if event else b"", b"data: ", text, b"\n\n"))


def failure_message(failure: Failure) -> str:
    """What an error says when the script does not."""
    return failure.message or f"scripted error {failure.status}"
