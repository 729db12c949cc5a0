"""Arrays in PostgreSQL's binary form, built without the driver's general machinery: an append has sixteen of them."""

from __future__ import annotations

from collections.abc import Sequence
from struct import pack

from psycopg import pq
from psycopg.abc import AdaptContext, Buffer
from psycopg.adapt import Dumper

_TEXT, _TEXTS = 25, 1009
_BIGINT, _BIGINTS = 20, 1016
_BYTEA, _BYTEAS = 17, 1001


class Texts(bytes):
    """A `text[]`."""


class Numbers(bytes):
    """A `bigint[]`."""


class Blobs(bytes):
    """A `bytea[]`."""


def texts(values: Sequence[str | None]) -> Texts:
    """Strings and NULLs."""
    return Texts(_array(_TEXT, [None if value is None else value.encode() for value in values]))


def numbers(values: Sequence[int | None]) -> Numbers:
    """Integers of 64 bits and NULLs. Raises `OverflowError`."""
    try:
        return Numbers(_array(_BIGINT, [None if value is None else pack(">q", value) for value in values]))
    except Exception as error:
        raise OverflowError(f"a number of more than 64 bits: {error}") from error


def blobs(values: Sequence[bytes | None]) -> Blobs:
    """Bytes and NULLs."""
    return Blobs(_array(_BYTEA, values))


def utf8(values: Sequence[bytes | None]) -> Texts:
    """Strings that are encoded already."""
    return Texts(_array(_TEXT, values))


def _array(oid: int, values: Sequence[bytes | None]) -> bytes:
    if not values:
        return pack(">iiI", 0, 0, oid)
    parts = [pack(">iiIii", 1, int(None in values), oid, len(values), 1)]
    for value in values:
        if value is None:
            parts.append(b"\xff\xff\xff\xff")
        else:
            parts.append(pack(">i", len(value)))
            parts.append(value)
    return b"".join(parts)


class _Ready(Dumper):
    """Hands on bytes that are in the binary form already."""

    format = pq.Format.BINARY

    def dump(self, obj: bytes) -> Buffer | None:
        return obj


class _TextsDumper(_Ready):
    oid = _TEXTS


class _NumbersDumper(_Ready):
    oid = _BIGINTS


class _BlobsDumper(_Ready):
    oid = _BYTEAS


def register(context: AdaptContext) -> None:
    """Teach a connection these arrays."""
    context.adapters.register_dumper(Texts, _TextsDumper)
    context.adapters.register_dumper(Numbers, _NumbersDumper)
    context.adapters.register_dumper(Blobs, _BlobsDumper)
