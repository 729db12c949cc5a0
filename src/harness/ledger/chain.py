"""From drafts to events: canonical bytes and salt first, place in the chain when it is known. No I/O."""

from __future__ import annotations

import os
from collections.abc import Sequence

from harness.errors import LedgerError
from harness.ledger.events import SALT_BYTES, Cursor, Draft, Event, canonical, check_names, digest_of, hash_of
from harness.ledger.guards import Guard
from harness.ledger.store import Write

_MAX_NAME_CHARACTERS = 1000
_MAX_REMEMBERED = 4096
_good: set[str] = set()  # names that were checked before; most appends use few


class Prepared:
    """An append whose payloads are encoded: all the work that needs no lock."""

    __slots__ = ("events", "guards")

    def __init__(self, writes: Sequence[Write], guards: Sequence[Guard], *, now_us: int, actor: str, tenant: str) -> None:
        self.guards = guards
        self.events = [PreparedEvent(write.stream, draft, now_us, actor, tenant) for write in writes for draft in write.events]
        if not self.events:
            raise LedgerError("an append needs at least one event")


class PreparedEvent:
    """One event but for its sequence and hashes."""

    __slots__ = ("actor", "data", "digest", "draft", "salt", "stream", "tenant", "ts")

    def __init__(self, stream: str, draft: Draft, now_us: int, actor: str, tenant: str) -> None:
        if stream not in _good or draft.type not in _good:
            check_names(stream, draft.type)
            _remember(stream, draft.type)
        self.stream = stream
        self.draft = draft
        self.actor = actor if draft.actor is None else draft.actor
        self.tenant = tenant if draft.tenant is None else draft.tenant
        self.ts = now_us if draft.ts is None else draft.ts
        for name in (self.actor, self.tenant, draft.key, draft.parent):
            if name is not None and name not in _good:
                check_text(name)
        self.data = canonical(draft.payload)
        self.salt = os.urandom(SALT_BYTES)
        self.digest = digest_of(self.salt, self.data)

    def chained(self, seq: int, prev: bytes, position: int) -> Event:
        """The event at its place in the chain."""
        draft = self.draft
        type_, parent, key, schema = draft.type, draft.parent, draft.key, draft.schema
        hash_ = hash_of(self.stream, seq, type_, self.ts, self.actor, self.tenant, parent, key, schema, self.digest, prev)
        return Event(
            position=position, stream=self.stream, seq=seq, type=type_, ts=self.ts, actor=self.actor, tenant=self.tenant,
            parent=parent, key=key, schema=schema, data=self.data, salt=self.salt, stored_digest=None, prev=prev, hash=hash_,
            cursor=Cursor(str(position)),
        )  # fmt: skip


def _remember(*names: str) -> None:
    if len(_good) > _MAX_REMEMBERED:
        _good.clear()
    _good.update(names)


def check_text(name: str) -> None:
    """Refuse an actor, tenant, key or parent that no ledger takes."""
    if len(name) > _MAX_NAME_CHARACTERS:
        raise LedgerError(f"actor, tenant, key and parent are at most {_MAX_NAME_CHARACTERS} characters, not {len(name)}")
    if "\0" in name:
        raise LedgerError("actor, tenant, key and parent may not contain NUL")
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise LedgerError(f"{name!r} is not valid Unicode: {error}") from error
    _remember(name)
