"""From drafts to events: canonical bytes and salt first, place in the chain when it is known. No I/O."""

from __future__ import annotations

import os
from collections.abc import Sequence
from hashlib import sha256

from harness.errors import LedgerError
from harness.ledger.events import SALT_BYTES, Draft, Event, canonical, check_names, hash_head, hash_linked
from harness.ledger.guards import Guard
from harness.ledger.store import Write

_MAX_NAME_CHARACTERS = 1000
_MAX_REMEMBERED = 4096
_heads: dict[tuple[str, str, str, str], bytes] = {}  # of names that were checked before; most appends use few
_urandom = os.urandom


class Prepared:
    """An append whose payloads are encoded: all the work that needs no lock."""

    __slots__ = ("events", "guards")

    def __init__(self, writes: Sequence[Write], guards: Sequence[Guard], *, now_us: int, actor: str, tenant: str) -> None:
        self.guards = guards
        self.events: list[PreparedEvent] = []
        for write in writes:
            for draft in write.events:
                self.events.append(PreparedEvent(write.stream, draft, now_us, actor, tenant))
        if not self.events:
            raise LedgerError("an append needs at least one event")


class PreparedEvent:
    """One event but for its sequence and hashes."""

    __slots__ = ("actor", "data", "digest", "draft", "head", "links", "salt", "stream", "tenant", "ts")

    def __init__(self, stream: str, draft: Draft, now_us: int, actor: str, tenant: str) -> None:
        if draft.actor is not None:
            actor = draft.actor
        if draft.tenant is not None:
            tenant = draft.tenant
        self.stream = stream
        self.draft = draft
        self.actor = actor
        self.tenant = tenant
        self.ts = now_us if draft.ts is None else draft.ts
        self.head = _heads.get((stream, draft.type, actor, tenant)) or _checked_head(stream, draft.type, actor, tenant)
        parent, key = draft.parent, draft.key
        self.links = (b"-" if parent is None else _checked(parent)) + (b"-" if key is None else _checked(key))
        self.data = data = canonical(draft.payload)
        self.salt = salt = _urandom(SALT_BYTES)
        self.digest = sha256(salt + data).digest()

    def chained(self, seq: int, prev: bytes, position: int) -> Event:
        """The event at its place in the chain."""
        draft = self.draft
        hash_ = hash_linked(self.head, seq, self.ts, draft.schema, self.links, self.digest, prev)
        return Event(
            position=position, stream=self.stream, seq=seq, type=draft.type, ts=self.ts, actor=self.actor, tenant=self.tenant,
            parent=draft.parent, key=draft.key, schema=draft.schema, data=self.data, salt=self.salt, stored_digest=None,
            prev=prev, hash=hash_, cursor=str(position),  # type: ignore[arg-type] - Cursor() would be a call more
        )  # fmt: skip


def _checked_head(stream: str, type_: str, actor: str, tenant: str) -> bytes:
    check_names(stream, type_)
    check_text(actor)
    check_text(tenant)
    if len(_heads) >= _MAX_REMEMBERED:
        _heads.clear()
    head = _heads[stream, type_, actor, tenant] = hash_head(stream, type_, actor, tenant)
    return head


def check_text(name: str) -> None:
    """Refuse an actor, tenant, key or parent that no ledger takes."""
    _checked(name)


def _checked(name: str) -> bytes:
    """An actor, tenant, key or parent as the hash takes it: its length, a colon, its bytes."""
    try:
        data = name.encode()
    except UnicodeEncodeError as error:
        raise LedgerError(f"{name!r} is not valid Unicode: {error}") from error
    if len(name) > _MAX_NAME_CHARACTERS:
        raise LedgerError(f"actor, tenant, key and parent are at most {_MAX_NAME_CHARACTERS} characters, not {len(name)}")
    if b"\0" in data:
        raise LedgerError("actor, tenant, key and parent may not contain NUL")
    return b"%d:%b" % (len(data), data)
