"""What happens inside one SQLite write transaction: guards, rows, heads, views. Runs in any thread, one at a time."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Sequence
from typing import cast

import msgspec

from harness.clock import Clock
from harness.errors import Conflict, HarnessError, LedgerError, NotFound
from harness.ledger.chain import Prepared
from harness.ledger.database import unavailable
from harness.ledger.events import GENESIS, Event, digest_of
from harness.ledger.folding import Folding
from harness.ledger.group import Entry
from harness.ledger.guards import Effects, Fence, Guard, Lease, judge
from harness.ledger.proof import moved
from harness.ledger.store import Appended

_INSERT_EVENT = "INSERT INTO events VALUES (?,?,?,?,?,?,?,?,?,?,CAST(? AS TEXT),?,?,?,?)"
_INSERT_STREAM = "INSERT INTO streams VALUES (?,?,?,?,?,?)"
_UPDATE_STREAM = "UPDATE streams SET seq = ?, hash = ?, position = ?, ts = ? WHERE id = ? AND seq < ?"
_NEWEST = "SELECT seq, hash, position, ts FROM events WHERE stream = ? ORDER BY seq DESC LIMIT 1"
_HEAD_EVERY = 32  # writing the head with each event would cost a page more in each commit
_MAX_CACHED_HEADS = 20_000
_NOT_THE_DATABASE = (sqlite3.InterfaceError, sqlite3.ProgrammingError, sqlite3.DataError)  # a value that it cannot hold


class StreamHead(msgspec.Struct):
    """The head of a stream as this writer knows it."""

    id: int
    seq: int
    hash: bytes
    position: int
    ts: int
    written: int  # up to this sequence the streams table knows it; 0: not at all


class Known(msgspec.Struct):
    """What a writer remembers between transactions, as long as nobody else writes."""

    looked: bool = False
    position: int = 0  # the newest event's
    next_stream: int = 1
    heads: dict[str, StreamHead] = msgspec.field(default_factory=dict[str, StreamHead])
    leases: dict[str, Lease] = msgspec.field(default_factory=dict[str, Lease])


class Writer:
    """Writes lists of entries; the store gives it turns."""

    def __init__(self, connection: sqlite3.Connection, folding: Folding, clock: Clock, location: str) -> None:
        self.connection = connection
        self._folding = folding
        self._clock = clock
        self._location = location
        self._known = Known()
        self._floor: int | None = None  # no event gets a position below
        self._touched: dict[str, StreamHead] = {}
        self._wrote = False

    # Rows, for guards

    def head_seq(self, stream: str) -> int:
        head = self._head(stream)
        return head.seq if head else 0

    def known_seq(self, stream: str) -> int:
        """Where the stream was when this writer was last at work; 0 if it does not know. May be asked at any time."""
        head = self._known.heads.get(stream)
        return head.seq if head is not None else 0

    def key(self, name: str) -> tuple[str, int] | None:
        row = self.connection.execute("SELECT stream, seq FROM keys WHERE name = ?", (name,)).fetchone()
        return cast("tuple[str, int] | None", row)

    def lease(self, name: str) -> Lease | None:
        if (known := self._known.leases.get(name)) is not None:
            return known
        row = self.connection.execute("SELECT name, token, holder, expires FROM leases WHERE name = ?", (name,)).fetchone()
        if row is None:
            return None
        lease = self._known.leases[name] = Lease(name=row[0], token=row[1], holder=row[2], expires_us=row[3])
        return lease

    def counter(self, name: str) -> int:
        row = self.connection.execute("SELECT amount FROM counters WHERE name = ?", (name,)).fetchone()
        return int(row[0]) if row else 0

    # Transactions

    def commit(self, entries: Sequence[Entry], *, undisturbed: bool) -> bool:
        """Write the entries in one transaction and set each one's result or error. Gives whether events were written.

        `undisturbed` says that nobody else wrote since the last time. An entry that cannot be written at all takes
        the others down with it; then each is written in a transaction of its own, so that it fails alone.
        """
        written: list[Event] = []
        self._wrote = False
        execute = self.connection.execute
        try:
            execute("BEGIN IMMEDIATE")
            if not (undisturbed and self._known.looked and len(self._known.heads) < _MAX_CACHED_HEADS):
                self._look_around()
            for entry in entries:
                self._run(entry, written)
            if written:
                self._flush(written)
            execute("COMMIT")
        except sqlite3.Error as error:
            if isinstance(error, _NOT_THE_DATABASE):
                return self._one_by_one(entries, error)
            self._undo(entries, unavailable(error, self._location))
            return False
        except Exception as error:  # noqa: BLE001  # whoever waits for the entries gets it
            return self._one_by_one(entries, error)
        except BaseException as error:
            self._undo(entries, error)
            raise
        return self._wrote

    def _one_by_one(self, entries: Sequence[Entry], error: Exception) -> bool:
        """One of the entries cannot be written: find which by writing each for itself."""
        self._undo(entries, _unwritable(error))
        wrote = False
        if len(entries) > 1:
            for entry in entries:
                entry.error = None
                wrote |= self.commit([entry], undisturbed=False)
        return wrote

    def _undo(self, entries: Sequence[Entry], error: BaseException) -> None:
        self._wrote = False
        self._known = Known()
        self._touched = {}
        self._folding.forget()
        if self.connection.in_transaction:
            with contextlib.suppress(sqlite3.Error):
                self.connection.execute("ROLLBACK")
        for entry in entries:
            entry.result = None
            entry.error = error

    def _look_around(self) -> None:
        """Forget what another connection may have changed."""
        connection = self.connection
        self.write_heads()
        if self._floor is None:  # it looks at every stream, so once: a tail that was cut before stays a hole
            (self._floor,) = connection.execute("SELECT coalesce(max(position), 0) FROM streams").fetchone()
        last, next_stream = connection.execute(
            "SELECT max(coalesce((SELECT max(position) FROM events), 0), ?), coalesce((SELECT max(id) FROM streams), 0) + 1",
            (self._floor,),
        ).fetchone()
        self._known = Known(looked=True, position=last, next_stream=next_stream)

    def _head(self, stream: str) -> StreamHead | None:
        known = self._known.heads.get(stream)
        if known is not None:
            return known
        listed = self.connection.execute("SELECT id, seq, hash, position, ts FROM streams WHERE name = ?", (stream,)).fetchone()
        if listed is None:
            return None
        newest = self.connection.execute(_NEWEST, (listed[0],)).fetchone()
        # A stream that was cut below what is listed goes on behind the gap, so that the cut shows.
        place = newest if newest is not None and newest[0] >= listed[1] else listed[1:]
        head = self._known.heads[stream] = StreamHead(listed[0], *place, written=listed[1])
        return head

    def _run(self, entry: Entry, written: list[Event]) -> None:
        work = entry.work
        try:
            if isinstance(work, Prepared):
                events = self._append(work)
                written += events
                entry.result = Appended(events)
            else:
                self._flush(written)
                written.clear()
                entry.result = self._job(work)
        except sqlite3.Error as error:
            if isinstance(work, Prepared) or not self.connection.in_transaction:
                raise
            entry.error = unavailable(error, self._location)
        except Exception as error:
            if isinstance(work, Prepared) and not isinstance(error, HarnessError):
                raise
            entry.error = error

    def _job(self, job: Callable[[], object]) -> object:
        """Run a job so that its failure undoes its own writes only."""
        connection, before = self.connection, self._known.position
        connection.execute("SAVEPOINT job")
        try:
            result = job()
        except BaseException:
            if connection.in_transaction:  # else SQLite undid all of it already, and so do we
                connection.execute("ROLLBACK TO job")
                connection.execute("RELEASE job")
                self._forget_after(before)
            raise
        connection.execute("RELEASE job")
        return result

    def _forget_after(self, position: int) -> None:
        """Forget what was undone, and what is remembered of it."""
        self._touched = {}
        self._folding.forget()
        self._known.heads = {name: head for name, head in self._known.heads.items() if head.position <= position}
        self._look_around()

    def _append(self, work: Prepared) -> tuple[Event, ...]:
        guards = work.guards
        if guards and not (len(guards) == 1 and self._fence_holds(guards[0])):
            stream = work.events[0].stream
            self._apply(judge(guards, self, first=(stream, self.head_seq(stream) + 1), now_us=self._clock.now_us()))
        known, touched = self._known, self._touched
        events: list[Event] = []
        for prepared in work.events:
            stream = prepared.stream
            head = known.heads.get(stream) or self._head(stream) or self._new_stream(stream)
            known.position += 1
            event = prepared.chained(head.seq + 1, head.hash, known.position)
            head.seq, head.hash, head.position, head.ts = event.seq, event.hash, event.position, event.ts
            touched[stream] = head
            events.append(event)
        return tuple(events)

    def _fence_holds(self, guard: Guard) -> bool:
        """Whether it is the fence of a lease that is known to be held: most appends have this and nothing else."""
        if type(guard) is not Fence:
            return False
        lease = self._known.leases.get(guard.lease)
        return lease is not None and lease.token == guard.token and lease.holder is not None

    def _new_stream(self, name: str) -> StreamHead:
        head = self._known.heads[name] = StreamHead(self._known.next_stream, 0, GENESIS, 0, 0, 0)
        self._known.next_stream += 1
        return head

    def _apply(self, effects: Effects) -> None:
        execute = self.connection.execute
        for name, place in effects.keys.items():
            if place is None:
                execute("DELETE FROM keys WHERE name = ?", (name,))
            else:
                execute("INSERT OR REPLACE INTO keys VALUES (?,?,?)", (name, *place))
        for lease in effects.leases.values():
            self.put_lease(lease)
        for name, amount in effects.counters.items():
            execute("INSERT OR REPLACE INTO counters VALUES (?,?)", (name, amount))

    def put_lease(self, lease: Lease) -> None:
        """Write a lease's row."""
        self.connection.execute(
            "INSERT OR REPLACE INTO leases VALUES (?,?,?,?)", (lease.name, lease.token, lease.holder, lease.expires_us)
        )
        self._known.leases[lease.name] = lease

    def _flush(self, written: Sequence[Event]) -> None:
        """Write the rows of events, their streams' heads and what views make of them."""
        if not written:
            return
        heads = self._touched
        connection = self.connection
        self._wrote = True
        if len(written) == 1:
            connection.execute(_INSERT_EVENT, _row(written[0], heads))
        else:
            connection.executemany(_INSERT_EVENT, [_row(event, heads) for event in written])
        for name, head in heads.items():
            if head.written == 0:
                connection.execute(_INSERT_STREAM, (head.id, name, head.seq, head.hash, head.position, head.ts))
                head.written = head.seq
            elif head.seq - head.written >= _HEAD_EVERY:
                self._write_head(head)
        self._touched = {}
        self._folding.advance(connection, written)

    def _write_head(self, head: StreamHead) -> None:
        self.connection.execute(_UPDATE_STREAM, (head.seq, head.hash, head.position, head.ts, head.id, head.seq))
        head.written = head.seq

    def write_heads(self) -> None:
        """List every head where it is, so that a cut tail shows. Only inside a transaction."""
        for head in self._known.heads.values():
            if head.written < head.seq:
                self._write_head(head)

    def erase(self, stream: str, seq: int, record: Prepared) -> Event:
        """Null one event's payload, over-writing its bytes, and record that. Only inside a job. Raises `NotFound`."""
        place = "seq = ? AND stream = (SELECT id FROM streams WHERE name = ?)"
        row = self.connection.execute(f"SELECT salt, CAST(data AS BLOB) FROM events WHERE {place}", (seq, stream)).fetchone()
        if row is None:
            raise NotFound(f"no event {stream}#{seq}")
        salt, data = row
        if data is not None:
            update = f"UPDATE events SET digest = ?, data = NULL, salt = NULL WHERE {place}"
            self.connection.execute(update, (digest_of(salt, data), seq, stream))
        events = self._append(record)
        self._flush(events)
        return events[0]

    def restore(self, events: Sequence[Event]) -> None:
        """Write streams of another ledger as they are, at new positions. Only inside a job."""
        if not events:
            raise LedgerError("there is nothing to restore")
        for stream in dict.fromkeys(event.stream for event in events):
            if (at := self.head_seq(stream)) != 0:
                raise Conflict(f"{stream} exists already, with {at} events; import into another ledger", name=stream, actual=at)
            self._touched[stream] = self._new_stream(stream)
        here = [moved(event, self._known.position + index) for index, event in enumerate(events, start=1)]
        for event in here:
            head = self._touched[event.stream]
            head.seq, head.hash, head.position, head.ts = event.seq, event.hash, event.position, event.ts
        self._known.position = here[-1].position
        self._flush(here)


def _unwritable(error: Exception) -> Exception:
    """The words for a value that no row can hold, such as an endless time or a number of more than 64 bits."""
    return error if isinstance(error, HarnessError) else LedgerError(f"this cannot be written: {error}")


def _row(e: Event, heads: dict[str, StreamHead]) -> tuple[object, ...]:
    digest = None if e.data is not None else e.stored_digest
    return (
        e.position, heads[e.stream].id, e.seq, e.type, e.ts, e.actor, e.tenant, e.parent, e.key, e.schema,
        e.data, e.salt, digest, e.prev, e.hash,
    )  # fmt: skip
