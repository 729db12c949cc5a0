"""Items of work: the face of this package. Every change is one append; every answer is a view of the events.

What it does not do: working on an item (`loop`, `recovery`), and looking whether it was done well (the verifier).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from harness.errors import Conflict, Duplicate, IllegalTransition, UsageError
from harness.ledger import Draft, Event, Expect, Fence, Lease, Store, Write
from harness.work.claims import Claims
from harness.work.creating import create, described, wanted
from harness.work.deciding import TRIES, decided
from harness.work.facts import Noted, Prioritised, Recurred
from harness.work.item import Claim, Filter, Item, clean, fingerprint_key, priority_of, stream_of
from harness.work.linking import depend, undepend
from harness.work.moving import Move, move
from harness.work.table import Order, Table
from harness.work.transitions import OPEN, Role, Status

DEFAULT_TTL_SECONDS = 60.0
_EVERYTHING = Filter()


class Items:
    """Create, claim, change and find items. Objects of this class may be many, in many processes, on one ledger.

    `role` is in which capacity changes are made that no claim speaks for. A change that somebody else's
    change has overtaken is decided anew, so `Conflict` is raised only after very many tries.
    """

    def __init__(self, store: Store, *, role: Role = Role.PERSON) -> None:
        self._store = store
        self._role = role
        self._table = Table(store)
        self._claims = Claims(store, self._table)

    # Creating

    async def create(
        self,
        *,
        title: str,
        description: str = "",
        priority: int | str = "medium",
        source_type: str = "human",
        source_id: str = "",
        fingerprint: str | None = None,
        depends_on: Iterable[str] = (),
        gates: Iterable[str] = (),
        labels: Mapping[str, str] | None = None,
        payload: Mapping[str, Any] | None = None,
        id: str | None = None,
        parent: str | None = None,
        actor: str | None = None,
    ) -> Item:
        """A new pending item; blocked at once if something it depends on has failed.

        Raises `Duplicate` if an open item has the fingerprint, `ItemExists`, `NotFound` for an unknown
        dependency, `DependencyCycle`, `UsageError`.
        """
        want = wanted(
            title=title, description=description, priority=priority, source_type=source_type, source_id=source_id,
            fingerprint=fingerprint, depends_on=depends_on, gates=gates, labels=labels or {}, payload=payload or {},
            id=id, parent=parent, actor=actor,
        )  # fmt: skip
        return await create(self._store, self._table, want)

    async def create_or_recur(
        self, *, title: str, fingerprint: str, detail: str = "", data: Mapping[str, Any] | None = None, **others: Any
    ) -> tuple[Item, bool]:
        """The open item with this fingerprint, with one occurrence more, or a new one. Also gives whether it is new.

        Counts are exact: each call is either one creation or one recurrence. `others` are `create`'s.
        """
        for _ in range(TRIES):
            held = await self._store.holder_of(fingerprint_key(clean(fingerprint)))
            try:
                if held is None:
                    return await self.create(title=title, fingerprint=fingerprint, **others), True
                return await self.recur(held[0].partition("/")[2], detail, data=data), False
            except (Duplicate, IllegalTransition):  # opened or closed in between
                continue
        raise Conflict(f"items with fingerprint {fingerprint!r} open and close all the time; try again")

    # Finding

    async def get(self, item_id: str) -> Item:
        """The item as of now. Raises `NotFound`."""
        return await self._table.get(item_id)

    async def find(self, fingerprint: str) -> Item | None:
        """The open item with this fingerprint."""
        held = await self._store.holder_of(fingerprint_key(clean(fingerprint)))
        return None if held is None else await self._table.get(held[0].partition("/")[2])

    async def history(self, item_id: str) -> list[Event]:
        """Everything that happened to the item, in order. Raises `NotFound`."""
        await self._table.get(item_id)
        return await self._store.read(stream_of(item_id))

    async def dependents(self, item_id: str) -> list[Item]:
        """Every item that depends on this one directly, whatever its state."""
        return await self._table.dependents(item_id, *Status)

    async def counts(self) -> dict[str, int]:
        """How many items are in each state, and how many are `ready`."""
        return await self._table.counts()

    # Claiming

    async def claim(
        self,
        holder: str,
        *,
        item_id: str | None = None,
        ttl_seconds: float = DEFAULT_TTL_SECONDS,
        match: Filter = _EVERYTHING,
        parent: str | None = None,
    ) -> Claim | None:
        """The most urgent ready item for this holder, or one whose holder's lease expired. None if there is none.

        Among equally urgent ones the oldest comes first, unless others claim at the same instant. With `item_id`
        it is that item: what the holder had, it may take again. Then it raises `NotFound`, `LeaseHeld`
        or `IllegalTransition` rather than giving None.
        """
        if item_id is not None:
            return await self._claims.claim_one(item_id, holder, ttl_seconds=ttl_seconds, parent=parent)
        return await self._claims.claim(holder, ttl_seconds=ttl_seconds, match=match, parent=parent)

    async def wait_claim(
        self,
        holder: str,
        *,
        ttl_seconds: float = DEFAULT_TTL_SECONDS,
        match: Filter = _EVERYTHING,
        parent: str | None = None,
    ) -> Claim:
        """As `claim`, and waits for something to claim: for an item's event or the end of a lease.

        A claim that was written before a scope was cancelled is given to the caller all the same, to be released.
        A task that is cancelled by itself (`asyncio.Task.cancel`) may leave a claim that ends with its lease only.
        """
        return await self._claims.wait(holder, ttl_seconds=ttl_seconds, match=match, parent=parent)

    async def renew(self, claim: Claim, *, ttl_seconds: float | None = None) -> Lease:
        """Lengthen the claim from now on. Not an event. Raises `Fenced` if it was lost."""
        return await self._claims.renew(claim, ttl_seconds)

    async def heartbeat(self, claim: Claim) -> None:
        """Renew the claim until cancelled. Raises `Fenced` once it is lost, so run it beside the work in one task group."""
        await self._claims.heartbeat(claim)

    async def release(self, claim: Claim, reason: str, *, counted: bool = True, parent: str | None = None) -> Item:
        """Give the item back. `counted=False` takes the attempt back: it was nobody's failure. Raises `Fenced`."""
        asked = Move(
            item_id=claim.item.id,
            to=Status.PENDING,
            reason=reason,
            role=Role.WORKER,
            claim=claim,
            counted=counted,
            parent=parent,
        )
        return await move(self._store, self._table, asked)

    # Changing

    async def transition(
        self,
        item_id: str,
        to: Status | str,
        *,
        reason: str,
        claim: Claim | None = None,
        role: Role | None = None,
        result: Any = None,
        parent: str | None = None,
        actor: str | None = None,
    ) -> Item:
        """Bring the item into another state; `transitions.RULES` says who may.

        With a claim, as its worker; raises `Fenced` if the claim was lost. Without, as `role`: a claim that
        somebody holds ends with it. What depends on an item that fails is blocked in the same append, and
        unblocked when it is reopened. Raises `NotFound`, `IllegalTransition`, `Duplicate` (reopening a taken fingerprint).
        """
        asked = Move(
            item_id=item_id, to=_status(to), reason=reason, role=Role.WORKER if claim else role or self._role, claim=claim,
            result=result, parent=parent, actor=actor,
        )  # fmt: skip
        return await move(self._store, self._table, asked)

    async def recur(self, item_id: str, detail: str = "", *, data: Mapping[str, Any] | None = None) -> Item:
        """Count that the same was reported again. Raises `IllegalTransition` if the item is closed, `NotFound`."""

        async def count() -> None:
            item = await self._table.get(item_id)
            if item.status not in OPEN:
                raise IllegalTransition(f"item {item.id} is {item.status}: what recurs now is a new item")
            fact = Recurred(detail=clean(detail), data=dict(data or {}))
            await self._store.append(
                Write(stream_of(item.id), (Draft(type="item.recurred", payload=fact),)),
                guards=[Expect(stream_of(item.id), item.seq)],
            )

        await decided(count)
        return await self._table.get(item_id)

    async def note(
        self,
        item_id: str,
        text: str,
        *,
        claim: Claim | None = None,
        author: str | None = None,
        data: Mapping[str, Any] | None = None,
        parent: str | None = None,
    ) -> Event:
        """Write something down in the item's history. With a claim, raises `Fenced` if it was lost."""
        item = await self._table.get(item_id)
        fact = Noted(text=clean(text), token=claim.token if claim else None, data=dict(data or {}))
        write = Write(stream_of(item.id), (Draft(type="item.noted", payload=fact, parent=parent, actor=author),))
        guards = [Fence(claim.lease, claim.token)] if claim else []
        return (await self._store.append(write, guards=guards)).first

    async def edit(
        self,
        item_id: str,
        *,
        title: str | None = None,
        description: str | None = None,
        payload: Mapping[str, Any] | None = None,
        priority: int | str | None = None,
        actor: str | None = None,
    ) -> Item:
        """Change the item's words or urgency; None leaves as it is. Raises `NotFound`, `UsageError`."""

        async def change() -> None:
            item = await self._table.get(item_id)
            words = described(
                item.title if title is None else title,
                item.description if description is None else description,
                item.payload if payload is None else payload,
            )
            drafts: list[Draft] = []
            if (words.title, words.description, words.payload) != (item.title, item.description, item.payload):
                drafts.append(Draft(type="item.described", payload=words, actor=actor))
            if priority is not None and priority_of(priority) != item.priority:
                fact = Prioritised(priority=priority_of(priority))
                drafts.append(Draft(type="item.prioritised", payload=fact, actor=actor))
            if drafts:
                stream = stream_of(item.id)
                await self._store.append(Write(stream, tuple(drafts)), guards=[Expect(stream, item.seq)])

        await decided(change)
        return await self._table.get(item_id)

    async def depend(self, item_id: str, on: str, *, actor: str | None = None) -> Item:
        """The item cannot be begun before `on` is completed. Raises `DependencyCycle`, `IllegalTransition`, `NotFound`."""
        return await depend(self._store, self._table, item_id, on, actor)

    async def undepend(self, item_id: str, on: str, *, actor: str | None = None) -> Item:
        """The item does not need `on` any more; if that had blocked it, it may go on."""
        return await undepend(self._store, self._table, item_id, on, actor)

    async def list(
        self,
        *,
        status: Status | str | Collection[Status] | None = None,
        ready: bool | None = None,
        source_type: str | None = None,
        source_id: str | None = None,
        labels: Mapping[str, str] | None = None,
        fingerprint: str | None = None,
        holder: str | None = None,
        order: Order = "urgent",
        limit: int | None = 100,
        offset: int = 0,
    ) -> list[Item]:
        """Items that fulfil every condition given, the most urgent first. `limit` None: all."""
        return await self._table.list(
            statuses=_statuses(status),
            ready=ready,
            match=Filter(source_types=(source_type,) if source_type else (), source_id=source_id, labels=labels or {}),
            fingerprint=fingerprint,
            holder=holder,
            order=order,
            limit=limit,
            offset=offset,
        )


def _status(value: Status | str) -> Status:
    try:
        return Status(value)
    except ValueError:
        raise UsageError(f"status {value!r}: one of {', '.join(Status)}") from None


def _statuses(value: Status | str | Collection[Status] | None) -> frozenset[Status]:
    match value:
        case None:
            return frozenset()
        case str():
            return frozenset({_status(value)})
        case _:
            return frozenset(_status(each) for each in value)
