"""From drafts to events: canonical bytes and salt first, place in the chain when it is known. No I/O."""

from __future__ import annotations

import os
from collections.abc import Sequence

from harness.errors import LedgerError
from harness.ledger.events import SALT_BYTES, Cursor, Draft, Event, canonical, check_names, digest_of, hash_of
from harness.ledger.guards import Guard
from harness.ledger.store import Write

_MAX_NAME_BYTES = 1000


class Prepared:
    """An append whose payloads are encoded: all the work that needs no lock."""

    __slots__ = ("events", "guards")

    def __init__(self, writes: Sequence[Write], guards: Sequence[Guard], *, now_us: int, actor: str, tenant: str) -> None:
        if not any(write.events for write in writes):
            raise LedgerError("an append needs at least one event")
        self.guards = tuple(guards)
        self.events = [
            _prepare(write.stream, draft, now_us=now_us, actor=actor, tenant=tenant)
            for write in writes
            for draft in write.events
        ]


class PreparedEvent:
    """One event but for its sequence and hashes."""

    __slots__ = ("actor", "data", "digest", "key", "parent", "salt", "schema", "stream", "tenant", "ts", "type")

    def __init__(
        self, stream: str, type_: str, ts: int, actor: str, tenant: str, parent: str | None,
        key: str | None, schema: int, data: bytes, salt: bytes, digest: bytes,
    ) -> None:  # fmt: skip
        self.stream = stream
        self.type = type_
        self.ts = ts
        self.actor = actor
        self.tenant = tenant
        self.parent = parent
        self.key = key
        self.schema = schema
        self.data = data
        self.salt = salt
        self.digest = digest

    def chained(self, *, seq: int, prev: bytes, position: int) -> Event:
        """The event at its place in the chain."""
        digest = self.digest
        hash_ = hash_of(
            self.stream, seq, self.type, self.ts, self.actor, self.tenant, self.parent, self.key, self.schema, digest, prev
        )
        return Event(
            position=position, stream=self.stream, seq=seq, type=self.type, ts=self.ts, actor=self.actor, tenant=self.tenant,
            parent=self.parent, key=self.key, schema=self.schema, data=self.data, salt=self.salt, digest=digest, prev=prev,
            hash=hash_, cursor=Cursor(str(position)),
        )  # fmt: skip


def _prepare(stream: str, draft: Draft, *, now_us: int, actor: str, tenant: str) -> PreparedEvent:
    check_names(stream, draft.type)
    actor = draft.actor if draft.actor is not None else actor
    tenant = draft.tenant if draft.tenant is not None else tenant
    for name in (actor, tenant, draft.key, draft.parent):
        _check_text(name)
    data = canonical(draft.payload)
    salt = os.urandom(SALT_BYTES)
    return PreparedEvent(
        stream, draft.type, now_us if draft.ts is None else draft.ts, actor, tenant, draft.parent, draft.key,
        draft.schema, data, salt, digest_of(salt, data),
    )  # fmt: skip


def _check_text(name: str | None) -> None:
    if name is None:
        return
    if len(name) > _MAX_NAME_BYTES:
        raise LedgerError(f"actor, tenant, key and parent are at most {_MAX_NAME_BYTES} characters, not {len(name)}")
    if "\0" in name or not name.isascii():
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise LedgerError(f"{name!r} is not valid Unicode: {error}") from error
        if "\0" in name:
            raise LedgerError("actor, tenant, key and parent may not contain NUL")
