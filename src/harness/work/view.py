"""The items as a table: what the events of `item/` streams mean for questions like *which is the most urgent ready one*."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from harness.errors import LedgerError
from harness.ledger import Event, Statement, Value
from harness.work.facts import Claimed, Created, DependenciesChanged, Described, Erased, Moved, Prioritised
from harness.work.item import PRIORITIES, Item
from harness.work.transitions import STATUS_AFTER, TERMINAL, Status

T = TypeVar("T")

ERASED = "(erased)"
_ERASED_GATE = "erased"  # what its gates were is not known any more, so nobody completes it on their own word

_COLUMNS: dict[str, str] = {
    "id": "TEXT PRIMARY KEY",
    "seq": "BIGINT NOT NULL",  # head of its stream: what a decision about it expects
    "status": "TEXT NOT NULL",
    "waiting": "BIGINT NOT NULL",  # dependencies that are not completed
    "priority": "BIGINT NOT NULL",
    "title": "TEXT NOT NULL",
    "description": "TEXT NOT NULL",
    "payload": "TEXT NOT NULL",  # JSON
    "source_type": "TEXT NOT NULL",
    "source_id": "TEXT NOT NULL",
    "fingerprint": "TEXT",
    "gates": "TEXT NOT NULL",  # JSON
    "labels": "TEXT NOT NULL",  # JSON; for filters there is items_labels
    "depends_on": "TEXT NOT NULL",  # JSON; for questions there is items_depends
    "blocked_on": "TEXT",
    "attempts": "BIGINT NOT NULL",
    "occurrences": "BIGINT NOT NULL",
    "holder": "TEXT",
    "fence": "BIGINT NOT NULL",
    "expires_us": "BIGINT",
    "reason": "TEXT NOT NULL",
    "result": "TEXT NOT NULL",  # JSON
    "verified": "BIGINT NOT NULL",
    "created_us": "BIGINT NOT NULL",
    "updated_us": "BIGINT NOT NULL",
    "closed_us": "BIGINT",
    "words_seq": "BIGINT NOT NULL",  # which event the title, description and payload are from
    "moved_seq": "BIGINT NOT NULL",  # which event the reason is from
    "result_seq": "BIGINT NOT NULL",  # which event the result is from
}

PLACES: dict[str, str] = {
    "ready": "status = 'pending' AND waiting = 0",
    "waiting": "status = 'pending' AND waiting > 0",
    "claimed": "status = 'in_progress'",
    "held": "status IN ('verifying', 'blocked', 'parked')",
    "closed": "status IN ('completed', 'failed', 'cancelled')",
}
"""Where an item stands: in exactly one of these. Each has an index of its own, so that a change writes few pages."""

READY = PLACES["ready"]

_DDL = (
    f"CREATE TABLE IF NOT EXISTS items ({', '.join(f'{name} {kind}' for name, kind in _COLUMNS.items())})",
    f"CREATE INDEX IF NOT EXISTS items_ready ON items (priority DESC, created_us, id) WHERE {PLACES['ready']}",
    f"CREATE INDEX IF NOT EXISTS items_waiting ON items (priority DESC, created_us, id) WHERE {PLACES['waiting']}",
    f"CREATE INDEX IF NOT EXISTS items_claimed ON items (expires_us) WHERE {PLACES['claimed']}",
    f"CREATE INDEX IF NOT EXISTS items_held ON items (status, priority DESC, created_us, id) WHERE {PLACES['held']}",
    f"CREATE INDEX IF NOT EXISTS items_closed ON items (status, closed_us) WHERE {PLACES['closed']}",
    "CREATE INDEX IF NOT EXISTS items_by_source ON items (source_type, source_id)",
    "CREATE INDEX IF NOT EXISTS items_by_fingerprint ON items (fingerprint) WHERE fingerprint IS NOT NULL",
    "CREATE TABLE IF NOT EXISTS items_depends (item TEXT NOT NULL, needs TEXT NOT NULL, PRIMARY KEY (item, needs))",
    "CREATE INDEX IF NOT EXISTS items_dependents ON items_depends (needs, item)",
    """CREATE TABLE IF NOT EXISTS items_labels
        (item TEXT NOT NULL, name TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (item, name))""",
    "CREATE INDEX IF NOT EXISTS items_by_label ON items_labels (name, value, item)",
)

_INSERT = f"""INSERT INTO items ({", ".join(_COLUMNS)}) VALUES ({", ".join("?" * len(_COLUMNS))})
    ON CONFLICT (id) DO UPDATE SET seq = excluded.seq, updated_us = excluded.updated_us"""

_COUNT_WAITING = """waiting = (SELECT COUNT(*) FROM items_depends d LEFT JOIN items n ON n.id = d.needs
    WHERE d.item = items.id AND (n.status IS NULL OR n.status <> 'completed'))"""


@dataclass(frozen=True, slots=True)
class ItemView:
    """Folds the streams `item/…` into `items`, `items_depends` and `items_labels`.

    Erased words read `(erased)`, and so do those of another shape. A state is told by the event's type, so erasing
    one changes no state.
    """

    name: str = "items"
    tables: tuple[str, ...] = ("items", "items_depends", "items_labels")
    ddl: tuple[str, ...] = _DDL
    prefixes: tuple[str, ...] = ("item/",)

    def fold(self, event: Event) -> Iterable[Statement]:
        """What the event changes. Pure; unknown types only move the head."""
        match event.type:
            case "item.created":
                return _created(event)
            case "item.described":
                return _described(event)
            case "item.claimed":
                return _claimed(event)
            case "item.dependencies_changed":
                return _depends(event)
            case "item.prioritised":
                fact = _load(event, Prioritised)
                return (_set(event, {"priority": fact.priority} if fact else {}),)
            case "item.recurred":
                return (_set(event, {}, "occurrences = occurrences + 1"),)
            case "ledger.erased":
                return _erased(event)
            case type_ if type_ in STATUS_AFTER:
                return _moved(event, STATUS_AFTER[type_])
            case _:
                return (_set(event, {}),)


ITEM_VIEW = ItemView()


def _id(event: Event) -> str:
    return event.stream.partition("/")[2]


def _load(event: Event, shape: type[T]) -> T | None:
    """What the event says; None if it was erased, or if whoever wrote it meant something else.

    One event that nobody can read, imported say, must not keep every item from every reader.
    """
    if event.erased:
        return None
    try:
        return event.load(shape)
    except LedgerError:
        return None


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _set(event: Event, columns: Mapping[str, Value], *more: str) -> Statement:
    """An update of the event's item; its head and time always move."""
    columns = {"seq": event.seq, "updated_us": event.ts, **columns}
    assignments = ", ".join([*(f"{name} = ?" for name in columns), *more])
    return f"UPDATE items SET {assignments} WHERE id = ?", (*columns.values(), _id(event))


def _created_columns(fact: Created | None, key: str | None) -> dict[str, Value]:
    fact = fact or Created(priority=PRIORITIES["medium"], fingerprint=key, gates=(_ERASED_GATE,))
    return {
        "priority": fact.priority,
        "source_type": fact.source_type,
        "source_id": fact.source_id,
        "fingerprint": fact.fingerprint,
        "gates": _json(fact.gates),
        "labels": _json(fact.labels),
    }


def _created(event: Event) -> list[Statement]:
    fact = _load(event, Created)
    columns: dict[str, Value] = {
        "id": _id(event), "seq": event.seq, "status": Status.PENDING.value, "waiting": 0, "title": "", "description": "",
        "payload": "{}", "depends_on": "[]", "blocked_on": None, "attempts": 0, "occurrences": 1, "holder": None, "fence": 0,
        "expires_us": None, "reason": "", "result": "null", "verified": 0, "created_us": event.ts, "updated_us": event.ts,
        "closed_us": None, "words_seq": 0, "moved_seq": 0, "result_seq": 0, **_created_columns(fact, event.key),
    }  # fmt: skip
    statements: list[Statement] = [(_INSERT, tuple(columns[name] for name in _COLUMNS))]
    for name, value in (fact.labels if fact else {}).items():
        statements.append(
            ("INSERT INTO items_labels VALUES (?, ?, ?) ON CONFLICT (item, name) DO NOTHING", (_id(event), name, value))
        )
    return statements


def _described(event: Event) -> list[Statement]:
    fact = _load(event, Described) or Described(title=ERASED)
    words: dict[str, Value] = {"title": fact.title, "description": fact.description, "payload": _json(fact.payload)}
    return [_set(event, {**words, "words_seq": event.seq})]


def _claimed(event: Event) -> list[Statement]:
    fact = _load(event, Claimed)
    anew: dict[str, Value] = {"status": Status.IN_PROGRESS.value, "result": "null"}
    if fact is None:
        columns = {**anew, "holder": ERASED, "expires_us": event.ts}
        return [_set(event, columns, "attempts = attempts + 1", "fence = fence + 1")]
    columns = {
        **anew, "holder": fact.holder, "fence": fact.token, "expires_us": fact.expires_us, "attempts": fact.attempt,
    }  # fmt: skip
    if fact.reason:
        columns |= {"reason": fact.reason, "moved_seq": event.seq}
    return [_set(event, columns)]


def _moved(event: Event, status: Status) -> list[Statement]:
    fact = _load(event, Moved)
    columns: dict[str, Value] = {
        "status": status.value,
        "holder": None,
        "expires_us": None,
        "blocked_on": fact.because if fact and status is Status.BLOCKED else None,
        "closed_us": event.ts if status in TERMINAL else None,
        "reason": fact.reason if fact else ERASED,
        "verified": int(fact.verified) if fact else 0,
        "moved_seq": event.seq,
    }
    if fact is None or fact.result is not None:
        columns |= {"result": _json(fact.result if fact else None), "result_seq": event.seq}
    uncounted = ("attempts = attempts - 1",) if fact and not fact.counted else ()
    statements = [_set(event, columns, *uncounted)]
    if status is Status.COMPLETED:
        statements.append(
            (f"UPDATE items SET {_COUNT_WAITING} WHERE id IN (SELECT item FROM items_depends WHERE needs = ?)", (_id(event),))
        )
    return statements


def _depends(event: Event) -> list[Statement]:
    fact = _load(event, DependenciesChanged)
    if fact is None:
        return [_set(event, {})]
    item = _id(event)
    statements: list[Statement] = [
        ("DELETE FROM items_depends WHERE item = ? AND needs = ?", (item, needs)) for needs in fact.removed
    ]
    for needs in fact.added:
        statements.append(("INSERT INTO items_depends VALUES (?, ?) ON CONFLICT (item, needs) DO NOTHING", (item, needs)))
    statements.append(_set(event, {"depends_on": _json(fact.depends_on)}, _COUNT_WAITING))
    return statements


def _erased(event: Event) -> list[Statement]:
    """The words of the erased event leave the table too."""
    item, fact = _id(event), _load(event, Erased)
    statements = [_set(event, {})]
    if fact is None:
        return statements
    seq = fact.seq
    statements += [
        ("UPDATE items SET title = ?, description = '', payload = '{}' WHERE id = ? AND words_seq = ?", (ERASED, item, seq)),
        ("UPDATE items SET reason = ? WHERE id = ? AND moved_seq = ?", (ERASED, item, seq)),
        ("UPDATE items SET result = 'null' WHERE id = ? AND result_seq = ?", (item, seq)),
    ]
    if seq == 1:
        columns = {name: value for name, value in _created_columns(None, None).items() if name != "fingerprint"}
        statements.append(
            (f"UPDATE items SET {', '.join(f'{name} = ?' for name in columns)} WHERE id = ?", (*columns.values(), item))
        )
        statements.append(("DELETE FROM items_labels WHERE item = ?", (item,)))
    return statements


# Rows as items

_READ = [name for name in _COLUMNS if name not in ("words_seq", "moved_seq", "result_seq")]
COLUMNS = ", ".join(_READ)
"""What `item_of` reads, in its order."""

_DECODERS: dict[str, Callable[[str], Any]] = {
    "payload": msgspec.json.Decoder().decode,
    "result": msgspec.json.Decoder().decode,
    "gates": msgspec.json.Decoder(tuple[str, ...]).decode,
    "depends_on": msgspec.json.Decoder(tuple[str, ...]).decode,
    "labels": msgspec.json.Decoder(dict[str, str]).decode,
}


def item_of(row: tuple[Value, ...]) -> Item:
    """A row of `COLUMNS` as an item."""
    values: dict[str, Any] = dict(zip(_READ, row, strict=True))
    status = Status(values["status"])
    values["status"] = status
    values["ready"] = status is Status.PENDING and values["waiting"] == 0
    values["verified"] = bool(values["verified"])
    for name, decode in _DECODERS.items():
        values[name] = decode(values[name])
    return Item(**values)
