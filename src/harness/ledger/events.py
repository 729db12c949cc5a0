"""What an event is: its fields, its canonical bytes and its place in the chain. No I/O."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, NewType, TypeVar, cast

import msgspec

from harness.errors import LedgerError

Cursor = NewType("Cursor", str)
"""An opaque place in the order of the whole ledger; only the store that made one understands it."""

START = Cursor("")
"""The place before the first event."""

GENESIS = bytes(32)
"""The `prev` of a stream's first event."""

SALT_BYTES = 16
MAX_PAYLOAD_BYTES = 64 * 1024 * 1024

T = TypeVar("T")
_encode = msgspec.json.Encoder(order="sorted").encode
_decode = msgspec.json.Decoder().decode
_STREAM = re.compile(r"[a-z][a-z0-9_-]*/[^\x00-\x20\x7f]{1,400}")
_TYPE = re.compile(r"[a-z][a-z0-9_-]*(\.[a-z][a-z0-9_-]*)+")


def canonical(payload: object) -> bytes:
    """The payload's one JSON form: sorted keys, no spaces, UTF-8, no NaN or infinity.

    Raises `LedgerError` for what JSON cannot say.
    """
    try:
        data = _encode(payload)
    except (TypeError, ValueError, UnicodeEncodeError, RecursionError) as error:
        raise LedgerError(f"payload is not JSON: {error}") from error
    if b"null" in data:  # msgspec writes NaN as null, so only then is a closer look needed
        _refuse_nan(msgspec.to_builtins(payload, builtin_types=(msgspec.Raw,)))  # what is raw was checked when it was encoded
    if len(data) > MAX_PAYLOAD_BYTES:
        raise LedgerError(
            f"payload of {len(data)} bytes is over the limit of {MAX_PAYLOAD_BYTES}; store it as an artifact in parts"
        )
    return data


def _refuse_nan(value: Any) -> None:
    match value:
        case float() if not math.isfinite(value):
            raise LedgerError("payload is not JSON: NaN and infinity have no JSON form")
        case dict():
            for inner in cast("dict[str, Any]", value).values():
                _refuse_nan(inner)
        case list() | tuple():
            for inner in cast("list[Any]", value):
                _refuse_nan(inner)
        case _:
            pass


class Draft(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An event that is not written yet. The store adds position, sequence, time and hashes."""

    type: str  # noun.past_tense
    payload: msgspec.Struct | Mapping[str, Any] = {}
    key: str | None = None  # `latest(stream, key)` finds the newest event with this key
    parent: str | None = None  # what led to it, as `stream#seq`
    schema: int = 1  # version of the payload's shape
    actor: str | None = None  # None: the store's actor
    tenant: str | None = None  # None: the store's tenant
    ts: int | None = None  # None: now; UTC microseconds


class Event(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One thing that happened, as recorded."""

    position: int  # order over the whole ledger, for followers; not part of the hash
    stream: str
    seq: int  # within the stream, from 1, no gaps
    type: str
    ts: int  # UTC microseconds
    actor: str
    tenant: str
    parent: str | None
    key: str | None
    schema: int
    data: bytes | None  # the payload's canonical JSON; None once erased
    salt: bytes | None  # None once erased
    stored_digest: bytes | None  # only once erased: before that it follows from salt and data
    prev: bytes  # hash of the event before
    hash: bytes  # SHA-256 over the length-prefixed fields above
    cursor: Cursor = START  # where a follower goes on after this event

    @property
    def ref(self) -> str:
        """How other events name this one, as their `parent`."""
        return f"{self.stream}#{self.seq}"

    @property
    def digest(self) -> bytes:
        """SHA-256 of salt and canonical payload; the one thing that is left of an erased payload."""
        if self.data is None or self.salt is None:
            return self.stored_digest or b""
        return digest_of(self.salt, self.data)

    @property
    def event_type(self) -> str:
        """The documented name of `type`."""
        return self.type

    @property
    def erased(self) -> bool:
        """Whether the payload was removed on purpose; its digest and place in the chain remain."""
        return self.data is None

    @property
    def payload(self) -> dict[str, Any]:
        """The payload, decoded anew at each call; empty once erased."""
        return {} if self.data is None else _decode(self.data)

    def load(self, shape: type[T]) -> T:
        """The payload as a struct; unknown fields are ignored. Raises `LedgerError` if erased or of another shape."""
        if self.data is None:
            raise LedgerError(f"{self.ref}: the payload of this {self.type} was erased")
        try:
            return msgspec.json.decode(self.data, type=shape)
        except msgspec.DecodeError as error:
            raise LedgerError(f"{self.ref}: the payload of this {self.type} has another shape: {error}") from error


def check_names(stream: str, type_: str) -> None:
    """Refuse a stream or type that does not follow the naming rules."""
    if not _STREAM.fullmatch(stream):
        raise LedgerError(f"stream {stream!r} is not of the form noun/id (no spaces or control characters, 400 at most)")
    if not _TYPE.fullmatch(type_):
        raise LedgerError(f"event type {type_!r} is not of the form noun.past_tense")


def digest_of(salt: bytes, data: bytes) -> bytes:
    """SHA-256 of salt and canonical payload: what stays when the payload is erased."""
    return sha256(salt + data).digest()


def hash_of(
    stream: str, seq: int, type_: str, ts: int, actor: str, tenant: str,
    parent: str | None, key: str | None, schema: int, digest: bytes, prev: bytes,
) -> bytes:  # fmt: skip
    """SHA-256 over the fields, each written as its length in bytes, a colon, and its bytes.

    None is written as `-`, so it differs from the empty string. Order: stream, seq, type, ts, actor,
    tenant, parent, key, schema, digest, prev.
    """
    return hash_after(hash_head(stream, type_, actor, tenant), seq, ts, parent, key, schema, digest, prev)


def hash_head(stream: str, type_: str, actor: str, tenant: str) -> bytes:
    """The beginning of what `hash_of` hashes, which many events of a stream share."""
    return b"%b%b%b%b" % (_sized(stream), _sized(type_), _sized(actor), _sized(tenant))


def hash_after(
    head: bytes, seq: int, ts: int, parent: str | None, key: str | None, schema: int, digest: bytes, prev: bytes
) -> bytes:
    """The same as `hash_of`, given its beginning."""
    links = (b"-" if parent is None else _sized(parent)) + (b"-" if key is None else _sized(key))
    return hash_linked(head, seq, ts, schema, links, digest, prev)


def hash_linked(head: bytes, seq: int, ts: int, schema: int, links: bytes, digest: bytes, prev: bytes) -> bytes:
    """The same as `hash_of`, given its beginning, and parent and key as they are hashed."""
    numbers = b"%d,%d,%d" % (seq, ts, schema)
    return sha256(b"%b%d:%b%b%b%b" % (head, len(numbers), numbers, links, digest, prev)).digest()


def _sized(text: str) -> bytes:
    data = text.encode()
    return b"%d:%b" % (len(data), data)
