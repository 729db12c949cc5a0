"""Bundles: streams as JSON lines that verify on their own, here or by `tools/verify_bundle.py`.

The first line says what the bundle is; then one line for each event, its payload as the exact text that was
hashed; the last line says where each stream ends, so that a cut bundle is known as one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any

import msgspec

from harness.clock import iso
from harness.errors import LedgerError, NotFound, Unproven
from harness.ledger.chain import check_text
from harness.ledger.events import Event, check_names
from harness.ledger.proof import Chain
from harness.ledger.store import Store

FORMAT = "harness.bundle"
VERSION = 1
_PAGE = 500


async def export_bundle(store: Store, streams: Sequence[str]) -> AsyncIterator[str]:
    """The bundle's lines, without line ends. Raises `NotFound` before the first line."""
    streams = tuple(dict.fromkeys(streams))
    heads = [await store.head(stream) for stream in streams]
    for stream, head in zip(streams, heads, strict=True):
        if head is None:
            raise NotFound(f"{store.location}: no stream {stream!r}")
    yield _line({"format": FORMAT, "version": VERSION, "created": iso(store.clock.now_us()), "streams": list(streams)})
    ends: dict[str, dict[str, Any]] = {}
    for head in heads:
        assert head is not None
        after = 0
        while after < head.seq:
            events = await store.read(head.stream, after=after, limit=min(_PAGE, head.seq - after))
            for event in events:
                yield line_of(event)
            after = events[-1].seq
        ends[head.stream] = {"seq": head.seq, "hash": head.hash.hex()}
    yield _line({"ends": ends})


def _line(value: object) -> str:
    return msgspec.json.encode(value).decode()


def line_of(event: Event) -> str:
    """One event as a bundle's line."""
    return _line(
        {
            "stream": event.stream,
            "seq": event.seq,
            "type": event.type,
            "ts": event.ts,
            "actor": event.actor,
            "tenant": event.tenant,
            "parent": event.parent,
            "key": event.key,
            "schema": event.schema,
            "data": None if event.data is None else event.data.decode(),
            "salt": None if event.salt is None else event.salt.hex(),
            "digest": event.digest.hex(),
            "prev": event.prev.hex(),
            "hash": event.hash.hex(),
        }
    )


_Number = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class _Line(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    stream: str
    seq: _Number
    type: str
    ts: _Number
    actor: str
    tenant: str
    parent: str | None
    key: str | None
    schema: _Number
    data: str | None
    salt: str | None
    digest: str
    prev: str
    hash: str

    def event(self) -> Event:
        """The event, at no place yet. Raises `LedgerError` or `ValueError` for one that no ledger would have taken."""
        check_names(self.stream, self.type)
        for name in (self.actor, self.tenant, self.key, self.parent):
            if name is not None:
                check_text(name)
        if (self.data is None) != (self.salt is None):
            raise LedgerError("payload and salt are erased together or not at all")
        if self.data is not None:
            msgspec.json.decode(self.data, type=dict[str, Any])
        return Event(
            position=0, stream=self.stream, seq=self.seq, type=self.type, ts=self.ts, actor=self.actor, tenant=self.tenant,
            parent=self.parent, key=self.key, schema=self.schema, data=None if self.data is None else self.data.encode(),
            salt=None if self.salt is None else bytes.fromhex(self.salt), stored_digest=bytes.fromhex(self.digest),
            prev=bytes.fromhex(self.prev), hash=bytes.fromhex(self.hash),
        )  # fmt: skip


class _End(msgspec.Struct, frozen=True):
    seq: int
    hash: str


class _Ends(msgspec.Struct, frozen=True):
    ends: dict[str, _End]


def parse_bundle(text: str) -> dict[str, list[Event]]:
    """The verified streams of a bundle, given whole.

    Raises `LedgerError` for what is no bundle, `Unproven` for one that does not verify.
    """
    lines = text.split("\n")  # not splitlines: payloads may hold other line separators
    numbered = enumerate((line for line in lines if line.strip()), start=1)
    _header(next(numbered, (0, ""))[1])
    streams: dict[str, list[Event]] = {}
    ends: _Ends | None = None
    for number, line in numbered:
        if ends is not None:
            raise LedgerError(f"line {number}: something follows the bundle's end")
        try:
            if line.startswith('{"ends"'):
                ends = msgspec.json.decode(line, type=_Ends)
                continue
            event = msgspec.json.decode(line, type=_Line).event()
        except (msgspec.DecodeError, ValueError, RecursionError, LedgerError) as error:
            raise LedgerError(f"line {number}: not a line of a bundle: {error}") from error
        streams.setdefault(event.stream, []).append(event)
    if ends is None:
        raise Unproven("the bundle has no last line: it was cut off", kind="truncated")
    for stream, end in ends.ends.items():
        _verify(stream, streams.get(stream, []), end)
    if extra := streams.keys() - ends.ends.keys():
        raise Unproven(f"the bundle's last line does not know {min(extra)}", stream=min(extra), kind="rewritten")
    return streams


def _header(line: str) -> None:
    try:
        header = msgspec.json.decode(line, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError) as error:
        raise LedgerError(f"line 1: not a bundle: {error}") from error
    if header.get("format") != FORMAT:
        raise LedgerError("line 1: not a bundle of a Harness ledger")
    if header.get("version") != VERSION:
        raise LedgerError(f"line 1: a bundle of version {header.get('version')}; this Harness knows {VERSION}")


def _verify(stream: str, events: Sequence[Event], end: _End) -> None:
    chain = Chain(stream)
    for event in events:
        chain.add_event(event)
    chain.end(end.seq, chain.hash if end.hash == chain.hash.hex() else b"")
    if chain.problems:
        first = chain.problems[0]
        raise Unproven(f"{stream}#{first.seq}: {first.kind}: {first.detail}", stream=stream, seq=first.seq, kind=first.kind)
