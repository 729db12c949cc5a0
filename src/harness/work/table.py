"""Reading items: every question that the work package asks its view. Writes nothing."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal, cast

from harness.errors import NotFound
from harness.ledger import Store, Value
from harness.work.item import Filter, Item
from harness.work.transitions import TERMINAL, Status
from harness.work.view import COLUMNS, ITEM_VIEW, PLACES, READY, item_of

Order = Literal["urgent", "newest"]

_ORDERS: dict[Order, str] = {
    "urgent": "priority DESC, created_us, id",
    "newest": "created_us DESC, id DESC",
}
_EVERYTHING = Filter()
_STATES: dict[str, frozenset[Status]] = {
    "ready": frozenset({Status.PENDING}),
    "waiting": frozenset({Status.PENDING}),
    "claimed": frozenset({Status.IN_PROGRESS}),
    "held": frozenset({Status.VERIFYING, Status.BLOCKED, Status.PARKED}),
    "closed": TERMINAL,
}
_AT_ONCE = 500  # ids in one statement

_REACHABLE = """WITH RECURSIVE reach(id) AS (
    SELECT needs FROM items_depends WHERE item = ? UNION SELECT d.needs FROM items_depends d JOIN reach r ON d.item = r.id
) """


class Table:
    """Items by id, by question, by dependency."""

    def __init__(self, store: Store) -> None:
        self._store = store
        store.register(ITEM_VIEW)

    async def rows(self, sql: str, *values: Value) -> list[tuple[Value, ...]]:
        """Rows of any question."""
        return await self._store.query(ITEM_VIEW, sql, *values)

    async def items(self, rest: str, *values: Value) -> list[Item]:
        """Items that a condition and an order choose."""
        return [item_of(row) for row in await self.rows(f"SELECT {COLUMNS} FROM items {rest}", *values)]

    async def get(self, item_id: str) -> Item:
        """The item. Raises `NotFound`."""
        rows = await self.rows(f"SELECT {COLUMNS} FROM items WHERE id = ?", item_id)
        if not rows:
            raise NotFound(f"no item {item_id!r}")
        return item_of(rows[0])

    async def several(self, ids: Collection[str]) -> dict[str, Item]:
        """The items of these ids that exist."""
        found: dict[str, Item] = {}
        wanted = list(dict.fromkeys(ids))
        for start in range(0, len(wanted), _AT_ONCE):
            page = wanted[start : start + _AT_ONCE]
            for item in await self.items(f"WHERE id IN ({', '.join('?' * len(page))})", *page):
                found[item.id] = item
        return found

    async def dependents(self, item_id: str, *statuses: Status) -> list[Item]:
        """Items in one of these states that depend on it directly, by id."""
        marks = ", ".join("?" * len(statuses))
        where = f"WHERE id IN (SELECT item FROM items_depends WHERE needs = ?) AND status IN ({marks}) ORDER BY id"
        return await self.items(where, item_id, *(status.value for status in statuses))

    async def reachable(self, ids: Sequence[str]) -> list[Item]:
        """These items and everything they depend on, however far away."""
        found = await self.several(ids)
        for start in list(found):
            for item in await self.items(f"WHERE id IN ({_REACHABLE} SELECT id FROM reach)", start):
                found[item.id] = item
        return list(found.values())

    async def counts(self) -> dict[str, int]:
        """How many items are in each state, and how many are `ready`."""
        counts = dict.fromkeys((*(status.value for status in Status), "ready"), 0)
        sql = " UNION ALL ".join(
            f"SELECT '{place}', status, COUNT(*) FROM items WHERE {where} GROUP BY status" for place, where in PLACES.items()
        )
        for place, status, count in await self.rows(sql):
            counts[cast("str", status)] += cast("int", count)
            if place == "ready":
                counts["ready"] += cast("int", count)
        return counts

    async def claimable(self, match: Filter, now_us: int, *, but: Collection[str], skip: int) -> list[Item]:
        """The most urgent ready item, and those whose claim may have expired, but none of these.

        With `skip`, the so-manieth of those that are as urgent as the most urgent one, if there are so many.
        """
        where, values = conditions(match)
        if but:
            where.append(f"id NOT IN ({', '.join('?' * len(but))})")
            values += but
        ready = " AND ".join([READY, *where])
        chosen = f"SELECT {COLUMNS} FROM items WHERE {ready}"
        if skip:
            most = f"SELECT priority FROM items WHERE {ready} ORDER BY priority DESC LIMIT 1"
            first = f"{chosen} AND priority = ({most}) ORDER BY created_us, id LIMIT 1 OFFSET ?"
            first_values: list[Value] = [*values, *values, skip]
        else:
            first, first_values = f"{chosen} ORDER BY {_ORDERS['urgent']} LIMIT 1", values
        expired = " AND ".join(["status = 'in_progress'", "expires_us <= ?", *where])
        sql = f"SELECT * FROM ({first}) AS ready UNION ALL SELECT {COLUMNS} FROM items WHERE {expired}"
        return [item_of(row) for row in await self.rows(sql, *first_values, now_us, *values)]

    async def expiries(self, match: Filter) -> Sequence[tuple[str, int]]:
        """The claimed items and when their claims may expire, in microseconds."""
        where, values = conditions(match)
        claimed = " AND ".join(["status = 'in_progress'", *where])
        sql = f"SELECT id, expires_us FROM items WHERE {claimed}"
        return cast("Sequence[tuple[str, int]]", await self.rows(sql, *values))

    async def list(
        self,
        *,
        statuses: Collection[Status] = (),
        ready: bool | None = None,
        match: Filter = _EVERYTHING,
        fingerprint: str | None = None,
        holder: str | None = None,
        order: Order = "urgent",
        limit: int | None = None,
        offset: int = 0,
    ) -> list[Item]:
        """Items that fulfil every condition given."""
        where, values = conditions(match)
        for column, value in (("fingerprint", fingerprint), ("holder", holder)):
            if value is not None:
                where.append(f"{column} = ?")
                values.append(value)
        parts = places(statuses, ready)
        if not parts:
            return []
        sql = " UNION ALL ".join(f"SELECT {COLUMNS} FROM items WHERE {' AND '.join([part, *where])}" for part in parts)
        page = "" if limit is None and not offset else f"LIMIT {2**62 if limit is None else int(limit)} OFFSET {int(offset)}"
        rows = await self.rows(f"{sql} ORDER BY {_ORDERS[order]} {page}", *values * len(parts))
        return [item_of(row) for row in rows]


def places(statuses: Collection[Status], ready: bool | None) -> list[str]:
    """Conditions that cover these states, or all, each one answered from an index."""
    if not statuses and ready is None:
        return ["1 = 1"]
    wanted = frozenset(statuses or Status)
    parts: list[str] = []
    for place, states in _STATES.items():
        chosen = sorted(wanted & states)
        if not chosen or (ready is not None and ready is not (place == "ready")):
            continue
        narrower = "" if len(chosen) == len(states) else f" AND status IN ({', '.join(repr(state.value) for state in chosen)})"
        parts.append(f"{PLACES[place]}{narrower}")
    return parts


def conditions(match: Filter) -> tuple[list[str], list[Value]]:
    """A filter as SQL conditions and their values."""
    where: list[str] = []
    values: list[Value] = []
    if match.source_types:
        where.append(f"source_type IN ({', '.join('?' * len(match.source_types))})")
        values += match.source_types
    if match.source_id is not None:
        where.append("source_id = ?")
        values.append(match.source_id)
    if match.min_priority is not None:
        where.append("priority >= ?")
        values.append(match.min_priority)
    for name, value in match.labels.items():
        where.append("EXISTS (SELECT 1 FROM items_labels l WHERE l.item = items.id AND l.name = ? AND l.value = ?)")
        values += [name, value]
    return where, values
