"""Recomputing chains: what verifies and what does not, and in which words. No I/O."""

from __future__ import annotations

from hashlib import sha256
from typing import cast

import msgspec

from harness.ledger.events import GENESIS, Cursor, Draft, Event, digest_of, hash_after, hash_head
from harness.ledger.store import Problem

ERASED = "ledger.erased"
_MAX_HEADS = 1000


class Chain:
    """Recomputes one stream's chain, event after event, and collects what does not fit."""

    def __init__(self, stream: str) -> None:
        self.stream = stream
        self.seq = 0
        self.hash = GENESIS
        self.problems: list[Problem] = []
        self._heads: dict[tuple[str, str, str], bytes] = {}

    def problem(self, seq: int | None, kind: str, detail: str) -> None:
        """Note one place that does not verify."""
        self.problems.append(Problem(stream=self.stream, seq=seq, kind=kind, detail=detail))

    def add(
        self, seq: int, type_: str, ts: int, actor: str, tenant: str, parent: str | None, key: str | None, schema: int,
        data: bytes | None, salt: bytes | None, digest: bytes | None, prev: bytes, hash_: bytes,
    ) -> None:  # fmt: skip
        """Take the next event in order of sequence. `digest` is the one on record, if there is one."""
        if not isinstance(cast("object", seq), int):  # somebody wrote into the file
            self.problem(self.seq + 1, "changed", f"{seq!r} is no place in a stream")
            return
        gap = seq != self.seq + 1
        if gap:
            self.problem(self.seq + 1, "gap", f"{seq - self.seq - 1} events are missing before {seq}")
        try:
            found = digest if data is None else digest_of(salt or b"", data)
            same_payload = digest is None or found == digest
            head = self._head(type_, actor, tenant)
            same = same_payload and hash_after(head, seq, ts, parent, key, schema, found or b"", prev) == hash_
        except (TypeError, ValueError, AttributeError):
            self.problem(seq, "changed", "a field is of another kind than the one that was recorded")
            self.seq, self.hash = seq, hash_
            return
        if not same_payload:
            self.problem(seq, "changed", "the payload is not the one that was recorded")
        elif not same:
            self.problem(seq, "changed", "payload or fields are not the ones that were recorded")
        elif prev != self.hash and not gap:
            self.problem(seq, "rewritten", "it does not follow the event before")
        self.seq = seq
        self.hash = hash_

    def _head(self, type_: str, actor: str, tenant: str) -> bytes:
        place = (type_, actor, tenant)
        head = self._heads.get(place)
        if head is None:
            if len(self._heads) > _MAX_HEADS:
                self._heads.clear()
            head = self._heads[place] = hash_head(self.stream, type_, actor, tenant)
        return head

    def add_event(self, e: Event) -> None:
        """Take the next event."""
        try:
            if self._follows(e):
                self.seq, self.hash = e.seq, e.hash
                return
        except (TypeError, ValueError, AttributeError):
            pass  # a field is of another kind than was recorded
        self._look_closer(e)

    def _follows(self, e: Event) -> bool:
        """Whether it is what was recorded, and is just the next: so nearly all are."""
        data, salt, seq, prev = e.data, e.salt, e.seq, e.prev
        if data is None or salt is None or e.stored_digest is not None or prev != self.hash or seq != self.seq + 1:
            return False
        names = e.type, e.actor, e.tenant
        head = self._heads.get(names) or self._head(*names)
        parent, key = e.parent, e.key
        p = b"-" if parent is None else b"%d:%b" % (len(text := parent.encode()), text)
        k = b"-" if key is None else b"%d:%b" % (len(text := key.encode()), text)
        numbers = b"%d,%d,%d" % (seq, e.ts, e.schema)
        fields = b"%b%d:%b%b%b%b%b" % (head, len(numbers), numbers, p, k, sha256(salt + data).digest(), prev)
        return sha256(fields).digest() == e.hash  # as `events.hash_of` would have it

    def _look_closer(self, e: Event) -> None:
        self.add(
            e.seq, e.type, e.ts, e.actor, e.tenant, e.parent, e.key, e.schema, e.data, e.salt, e.stored_digest, e.prev, e.hash
        )

    def end(self, head_seq: int, head_hash: bytes) -> None:
        """Compare with what the ledger says the stream's head is."""
        if self.seq == 0:
            self.problem(None, "missing", f"none of {head_seq} events is left")
        elif self.seq < head_seq:
            self.problem(self.seq + 1, "truncated", f"events {self.seq + 1} to {head_seq} were cut off")
        elif self.seq > head_seq or self.hash != head_hash:
            self.problem(self.seq, "rewritten", "the stream's head is not the one that was recorded")


def erasure(seq: int, reason: str) -> Draft:
    """The event that records an erasure, in the stream itself."""
    return Draft(type=ERASED, payload={"seq": seq, "reason": reason})


def moved(event: Event, position: int) -> Event:
    """The same event at another place in the order of a ledger; its hash does not cover that place."""
    return msgspec.structs.replace(event, position=position, cursor=Cursor(str(position)))
