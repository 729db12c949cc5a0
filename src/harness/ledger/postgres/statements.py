"""The SQL of the store: named statements in `.sql` files, for one schema."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from importlib import resources
from typing import Any

from harness.ledger.events import Cursor, Event
from harness.ledger.guards import Lease
from harness.ledger.store import Head

_PLACE = re.compile(r"\{(\w+)\}")
_NAMED = re.compile(r"^-- (\w+): .*\n", re.MULTILINE)
_COLUMNS = """e.position, s.name, e.seq, e.type, e.ts, e.actor, coalesce(e.labelled, e.tenant), e.parent, e.key, e.schema,
    convert_to(e.data, 'UTF8'), e.salt, e.digest, e.prev, e.hash, e.xid::text"""
_LAST = "\U0010ffff"


@functools.cache
def script(name: str) -> dict[str, str]:
    """The named statements of one file, as they are written there."""
    text = resources.files("harness.ledger.postgres").joinpath(f"{name}.sql").read_text(encoding="utf-8")
    parts = _NAMED.split(text)[1:]
    return dict(zip(parts[::2], (part.strip() for part in parts[1::2]), strict=True))


def filled(text: str, **names: str) -> str:
    """A statement with its `{names}` put in; what is put in is left as it is."""
    return _PLACE.sub(lambda match: names.get(match[1], match[0]), text)


class Statements:
    """The statements of one schema by name, as attributes of nothing: `statements["head"]`."""

    def __init__(self, schema: str) -> None:
        self.schema = schema
        self._ready = {name: filled(text, schema=schema, columns=_COLUMNS) for name, text in script("statements").items()}

    def __getitem__(self, name: str) -> str:
        return self._ready[name]

    def chosen(self, name: str, count: int, prefixes: Sequence[str], types: Sequence[str]) -> tuple[str, list[object]]:
        """A statement that reads events with these prefixes and types, and the values behind its first `count`."""
        where, values = self.condition(count, prefixes, types)
        return filled(self._ready[name], where=where), values

    def condition(self, count: int, prefixes: Sequence[str], types: Sequence[str]) -> tuple[str, list[object]]:
        """What chooses events with these prefixes and types, and the values behind the first `count`."""
        where: list[str] = []
        values: list[object] = []
        if prefixes and "" not in prefixes:
            spans: list[str] = []
            for prefix in prefixes:
                values += span(prefix)
                spans.append(f"(s.name >= ${count + len(values) - 1} AND s.name < ${count + len(values)})")
            where.append(f"AND ({' OR '.join(spans)})")
        if types:
            values.append(list(types))
            where.append(f"AND e.type = ANY(${count + len(values)}::text[])")
        return " ".join(where), values


def span(prefix: str) -> tuple[str, str]:
    """The names that begin with a prefix, as a half-open range."""
    return prefix, prefix + _LAST


def event_of(row: Sequence[Any]) -> Event:
    """A row of the columns as an event."""
    position, stream, seq, type_, ts, actor, tenant, parent, key, schema, data, salt, digest, prev, hash_, xid = row
    return Event(
        position=position, stream=stream, seq=seq, type=type_, ts=ts, actor=actor, tenant=tenant, parent=parent, key=key,
        schema=schema, data=data, salt=salt, stored_digest=digest, prev=prev, hash=hash_, cursor=Cursor(f"{xid}-{position}"),
    )  # fmt: skip


def head_of(row: Sequence[Any]) -> Head:
    """A row of a stream's place."""
    name, seq, hash_, position, ts = row
    return Head(stream=name, seq=seq, hash=hash_, position=position, ts=ts)


def lease_of(row: Sequence[Any]) -> Lease:
    """A row of a lease."""
    name, token, holder, expires = row
    return Lease(name=name, token=token, holder=holder, expires_us=expires)
