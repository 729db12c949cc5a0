"""Bringing items into being, each once."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from harness.errors import Conflict, ItemExists, KeyTaken, UsageError
from harness.ledger import Draft, Expect, Guard, Store, Unique, Write
from harness.work.deciding import blocked, decided, duplicate, expected, linked
from harness.work.dependencies import broken, refuse_circle
from harness.work.facts import Created, DependenciesChanged, Described
from harness.work.item import Item, check_id, clean, fingerprint_key, priority_of, stream_of
from harness.work.table import Table
from harness.work.transitions import Status

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # none that look like another
_ID_LETTERS = 8


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """An item that is not there yet."""

    id: str | None
    created: Created
    described: Described
    depends_on: tuple[str, ...]
    parent: str | None
    actor: str | None


def wanted(
    *,
    title: str,
    description: str,
    priority: int | str,
    source_type: str,
    source_id: str,
    fingerprint: str | None,
    depends_on: Iterable[str],
    gates: Iterable[str],
    labels: Mapping[str, str],
    payload: Mapping[str, Any],
    id: str | None,
    parent: str | None,
    actor: str | None,
) -> Wanted:
    """Words and numbers as they are kept. Raises `UsageError`."""
    created = Created(
        priority=priority_of(priority),
        source_type=clean(source_type),
        source_id=clean(source_id),
        fingerprint=clean(fingerprint) if fingerprint else None,
        gates=tuple(clean(gate) for gate in gates),
        labels={clean(name): clean(value) for name, value in labels.items()},
    )
    return Wanted(
        id=None if id is None else check_id(id), created=created, described=described(title, description, payload),
        depends_on=tuple(dict.fromkeys(depends_on)), parent=parent, actor=actor,
    )  # fmt: skip


def described(title: str, description: str, payload: Mapping[str, Any]) -> Described:
    """An item's words as they are kept. Raises `UsageError` without a title."""
    if not clean(title).strip():
        raise UsageError("an item needs a title")
    return Described(title=clean(title), description=clean(description), payload=dict(payload))


async def create(store: Store, table: Table, want: Wanted) -> Item:
    """The item, newly written. Raises `Duplicate`, `ItemExists`, `NotFound`, `DependencyCycle`."""
    item_id = await decided(lambda: _create(store, table, want))
    return await table.get(item_id)


async def _create(store: Store, table: Table, want: Wanted) -> str:
    item_id = want.id or "".join(secrets.choice(_ALPHABET) for _ in range(_ID_LETTERS))
    refuse_circle(item_id, want.depends_on, {})
    stream, actor, fingerprint = stream_of(item_id), want.actor, want.created.fingerprint
    dependencies = [await table.get(each) for each in want.depends_on]
    drafts = [
        Draft(type="item.created", payload=want.created, key=fingerprint, parent=want.parent, actor=actor),
        Draft(type="item.described", payload=want.described, actor=actor),
    ]
    if dependencies:
        fact = DependenciesChanged(depends_on=want.depends_on, added=want.depends_on)
        drafts.append(Draft(type="item.dependencies_changed", payload=fact, actor=actor))
    if lost := broken(dependencies):
        drafts.append(blocked(Status.PENDING, lost[0], actor))
    writes = [Write(stream, tuple(drafts))]
    writes += [
        linked(each, item_id, "item.dependent_added", actor) for each in dependencies if each.status is not Status.COMPLETED
    ]
    guards: list[Guard] = [Expect(stream, 0), *expected(dependencies)]
    if fingerprint is not None:
        guards.append(Unique(fingerprint_key(fingerprint)))
    try:
        await store.append(*writes, guards=guards)
    except KeyTaken as error:
        raise duplicate(fingerprint, error) from error
    except Conflict as error:
        if want.id is not None and error.name == stream:
            raise ItemExists(f"item {item_id} exists already") from error
        raise
    return item_id
