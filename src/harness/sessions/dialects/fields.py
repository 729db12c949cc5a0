"""Lines of JSON from outside, read without trust: whatever is missing or of another type reads as empty. Nothing raises."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import cast

import msgspec

Object = Mapping[str, object]

_EMPTY: Object = {}
_MAX_COUNT = 2**53


class NotJson(ValueError):
    """The line is no JSON."""


def decoded(line: bytes) -> object:
    """The value on this line. Raises `NotJson`.

    JavaScript writes halves of surrogate pairs where it has cut a text in two; they become `?`, so that a whole line
    (a turn's result, say) is not lost for half a letter.
    """
    try:
        return msgspec.json.decode(line)
    except (ValueError, RecursionError):
        pass
    try:
        value: object = json.loads(line.decode("utf-8", "replace"))
        whole = json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace")
        return msgspec.json.decode(whole)
    except (ValueError, RecursionError) as error:
        raise NotJson from error


def encoded(value: Object) -> bytes:
    """One line to write. Line ends that only some readers take for such are escaped."""
    data = msgspec.json.encode(value)
    return data.replace(b"\xe2\x80\xa8", b"\\u2028").replace(b"\xe2\x80\xa9", b"\\u2029") + b"\n"


def as_object(value: object) -> Object | None:
    """The value if it is an object."""
    return cast("Object", value) if isinstance(value, dict) else None


def object_on(line: bytes) -> Object:
    """The object on this line; empty if there is none."""
    try:
        return as_object(decoded(line)) or _EMPTY
    except NotJson:
        return _EMPTY


def part(of: Object, name: str) -> Object:
    """A field that is an object itself; empty if it is none."""
    return as_object(of.get(name)) or _EMPTY


def parts(of: Object, name: str) -> list[Object]:
    """The objects in a field that is a list."""
    value = of.get(name)
    if not isinstance(value, list):
        return []
    return [each for item in cast("list[object]", value) if (each := as_object(item)) is not None]


def text(of: Object, name: str) -> str:
    """A field that is a string; empty if it is none."""
    value = of.get(name)
    return value if isinstance(value, str) else ""


def texts(of: Object, name: str) -> tuple[str, ...]:
    """The strings in a field that is a list."""
    value = of.get(name)
    return tuple(item for item in cast("list[object]", value) if isinstance(item, str)) if isinstance(value, list) else ()


def number(of: Object, name: str) -> float | None:
    """A field that is a number of a size that JavaScript can count to."""
    value = of.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > _MAX_COUNT:
        return None
    return float(value)


def count(of: Object, name: str) -> int:
    """A field that counts something; 0 if it does not."""
    return max(0, int(number(of, name) or 0))


def truth(of: Object, name: str) -> bool:
    """Whether the field is `true`."""
    return of.get(name) is True


def seconds(of: Object, name: str) -> float | None:
    """A field that is a moment in ISO 8601, as seconds since 1970."""
    try:
        return datetime.fromisoformat(text(of, name)).timestamp()
    except (ValueError, OverflowError, OSError):
        return None


def words(of: Object, name: str) -> str:
    """Content as text: a string, or the text of the blocks in a list."""
    return text(of, name) or "\n".join(said for block in parts(of, name) if (said := text(block, "text")))
