"""JSON for what callers give: canonical bytes, or a clear refusal. Pure."""

from __future__ import annotations

import math
from typing import Any, cast

import msgspec


def _dumped(value: object) -> object:
    """What stands inside of something else and only pydantic can write."""
    dump = getattr(value, "model_dump", None)
    if not callable(dump) or isinstance(value, type):
        raise TypeError(f"{type(value).__name__} is no JSON value")
    return dump(mode="json")


_encode = msgspec.json.Encoder(order="sorted", enc_hook=_dumped).encode


def to_json(value: Any) -> bytes:
    """The canonical JSON of a value that msgspec or pydantic can write. Raises `TypeError`."""
    dump = getattr(value, "model_dump", None)
    try:
        plain = dump(mode="json") if callable(dump) else value
        data = _encode(plain)
        if b"null" in data:  # msgspec writes NaN as null, so only then is a closer look needed
            _refuse_nan(msgspec.to_builtins(plain, enc_hook=_dumped))
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise TypeError(f"{type(value).__name__} is no JSON: {error}") from error
    return data


def to_plain_json(value: Any) -> bytes:
    """As `to_json`, but only for what JSON itself knows, so that reading gives what was written. Raises `TypeError`."""
    import json

    dump = getattr(value, "model_dump", None)
    try:
        return _encode(json.loads(json.dumps(dump(mode="json") if callable(dump) else value, allow_nan=False)))
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise TypeError(f"{type(value).__name__} is no JSON: {error}") from error


def resorted(data: bytes) -> bytes:
    """JSON text in its canonical form."""
    return _encode(msgspec.json.decode(data))


def _refuse_nan(value: Any) -> None:
    match value:
        case float() if not math.isfinite(value):
            raise ValueError("NaN and infinity have no JSON form")
        case dict():
            for inner in cast("dict[Any, Any]", value).values():
                _refuse_nan(inner)
        case list() | tuple():
            for inner in cast("list[Any]", value):
                _refuse_nan(inner)
        case _:
            pass
