"""Items against a model of them: any order of any calls, by anybody, at any time."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from harness.clock import VirtualClock
from harness.errors import DependencyCycle, Duplicate, Fenced, IllegalTransition, LeaseHeld
from harness.ledger import MemoryStore
from harness.work import ITEM_VIEW, OPEN, RULES, TERMINAL, Claim, Items, Role, Status

T = TypeVar("T")

TTL_SECONDS = 60.0
HOLDERS = st.sampled_from(["ada", "bob", "eve"])
BROKEN = {Status.FAILED, Status.CANCELLED}


@dataclass
class Modelled:
    """What an item should be."""

    id: str
    number: int
    priority: int
    fingerprint: str | None
    gated: bool
    needs: set[str] = field(default_factory=set)
    status: Status = Status.PENDING
    by_dependency: bool = False
    holder: str | None = None
    token: int = 0
    expires: float = 0.0
    occurrences: int = 1


class ItemMachine(RuleBasedStateMachine):
    """Every rule does one thing to the items and to the model, and both must agree whether it is allowed."""

    items_made = Bundle("items_made")
    claims_made = Bundle("claims_made")

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.clock = VirtualClock()
        self.model: dict[str, Modelled] = {}

    @initialize()
    def start(self) -> None:
        self.store = MemoryStore(clock=self.clock)
        self.items = Items(self.store)

    def run(self, asked: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(asked)

    def teardown(self) -> None:
        assert self.run(self.store.check(ITEM_VIEW)) == []
        assert self.run(self.store.verify())
        self.run(self.store.close())
        self.runner.close()

    # What the model knows

    def ready(self, item: Modelled) -> bool:
        return item.status is Status.PENDING and all(self.model[each].status is Status.COMPLETED for each in item.needs)

    def broken(self, item: Modelled) -> bool:
        return any(self.model[each].status in BROKEN for each in item.needs)

    def reaches(self, start: str, goal: str) -> bool:
        return start == goal or any(self.reaches(each, goal) for each in self.model[start].needs)

    def taken(self, fingerprint: str | None) -> bool:
        return fingerprint is not None and any(
            item.fingerprint == fingerprint and item.status in OPEN for item in self.model.values()
        )

    def claimable(self) -> list[Modelled]:
        now = self.clock.monotonic()
        expired = [item for item in self.model.values() if item.status is Status.IN_PROGRESS and item.expires <= now]
        return [item for item in self.model.values() if self.ready(item)] + expired

    def follow(self, item: Modelled, to: Status) -> None:
        """What a change of state means for the model."""
        was, item.status = item.status, to
        item.holder, item.by_dependency = None, False
        dependents = [each for each in self.model.values() if item.id in each.needs]
        for each in dependents:
            if to in BROKEN and each.status is Status.PENDING:
                each.status, each.by_dependency = Status.BLOCKED, True
            if was in BROKEN and each.status is Status.BLOCKED and each.by_dependency and not self.broken(each):
                each.status, each.by_dependency = Status.PENDING, False

    # What anybody may do

    @rule(
        target=items_made,
        priority=st.sampled_from([1, 5, 20]),
        fingerprint=st.sampled_from([None, None, "f", "g"]),
        gated=st.booleans(),
        needs=st.lists(items_made, max_size=2, unique=True),
    )
    def create(self, priority: int, fingerprint: str | None, gated: bool, needs: list[str]) -> Any:
        number = len(self.model)
        try:
            made = self.run(
                self.items.create(
                    title=f"item {number}", id=f"i{number}", priority=priority, fingerprint=fingerprint,
                    gates=("g",) if gated else (), depends_on=needs,
                )
            )  # fmt: skip
        except Duplicate:
            assert self.taken(fingerprint)
            return multiple()
        assert not self.taken(fingerprint)
        item = Modelled(made.id, number, priority, fingerprint, gated, set(needs))
        self.model[made.id] = item
        if self.broken(item):
            item.status, item.by_dependency = Status.BLOCKED, True
        return made.id

    @rule(item_id=items_made)
    def recur(self, item_id: str) -> None:
        item = self.model[item_id]
        try:
            self.run(self.items.recur(item_id, "again"))
        except IllegalTransition:
            assert item.status in TERMINAL
        else:
            assert item.status in OPEN
            item.occurrences += 1

    @rule(item_id=items_made, on=items_made)
    def depend(self, item_id: str, on: str) -> None:
        item = self.model[item_id]
        settled = item.status not in {Status.PENDING, Status.BLOCKED, Status.PARKED}
        try:
            self.run(self.items.depend(item_id, on))
        except IllegalTransition:
            assert settled
        except DependencyCycle:
            assert self.reaches(on, item_id)
        else:
            assert on in item.needs or not (settled or self.reaches(on, item_id))
            item.needs.add(on)
            if item.status is Status.PENDING and self.broken(item):
                item.status, item.by_dependency = Status.BLOCKED, True

    @rule(item_id=items_made, on=items_made)
    def undepend(self, item_id: str, on: str) -> None:
        item = self.model[item_id]
        settled = item.status not in {Status.PENDING, Status.BLOCKED, Status.PARKED}
        try:
            self.run(self.items.undepend(item_id, on))
        except IllegalTransition:
            assert settled
            assert on in item.needs
        else:
            had = on in item.needs
            item.needs.discard(on)
            if had and item.status is Status.BLOCKED and item.by_dependency and not self.broken(item):
                item.status, item.by_dependency = Status.PENDING, False

    @rule(target=claims_made, holder=HOLDERS)
    def claim(self, holder: str) -> Any:
        candidates = self.claimable()
        claim = self.run(self.items.claim(holder, ttl_seconds=TTL_SECONDS))
        if claim is None:
            assert candidates == []
            return multiple()
        best = min(candidates, key=lambda item: (-item.priority, item.number))
        assert self.model[claim.item.id].priority == best.priority
        return self.took(claim)

    @rule(target=claims_made, holder=HOLDERS, item_id=items_made)
    def claim_this(self, holder: str, item_id: str) -> Any:
        item = self.model[item_id]
        mine = item.status is Status.IN_PROGRESS and item.holder == holder
        try:
            claim = self.run(self.items.claim(holder, item_id=item_id, ttl_seconds=TTL_SECONDS))
        except LeaseHeld:
            assert item.status is Status.IN_PROGRESS
            assert item.holder != holder
            assert item not in self.claimable()
            return multiple()
        except IllegalTransition:
            assert not self.ready(item)
            assert item.status is not Status.IN_PROGRESS
            return multiple()
        assert mine or item in self.claimable()
        assert claim is not None
        return self.took(claim)

    def took(self, claim: Claim) -> Claim:
        item = self.model[claim.item.id]
        assert claim.token == item.token + 1
        item.status, item.holder, item.token = Status.IN_PROGRESS, claim.holder, claim.token
        item.expires = self.clock.monotonic() + TTL_SECONDS
        return claim

    @rule(seconds=st.sampled_from([1, 20, 61]))
    def wait(self, seconds: int) -> None:
        self.clock.advance(seconds)

    def holds(self, claim: Claim) -> bool:
        item = self.model[claim.item.id]
        return item.status is Status.IN_PROGRESS and item.token == claim.token

    @rule(claim=claims_made)
    def renew(self, claim: Claim) -> None:
        try:
            self.run(self.items.renew(claim))
        except Fenced:
            assert not self.holds(claim)
        else:
            assert self.holds(claim)
            self.model[claim.item.id].expires = self.clock.monotonic() + TTL_SECONDS

    @rule(claim=claims_made)
    def note(self, claim: Claim) -> None:
        try:
            self.run(self.items.note(claim.item.id, "x", claim=claim))
        except Fenced:
            assert not self.holds(claim)
        else:
            assert self.holds(claim)

    @rule(claim=consumes(claims_made), to=st.sampled_from([each for each in Status if each is not Status.IN_PROGRESS]))
    def finish(self, claim: Claim, to: Status) -> None:
        item = self.model[claim.item.id]
        try:
            self.run(self.items.transition(claim.item.id, to, reason="worker", claim=claim))
        except Fenced:
            assert not self.holds(claim)
        except IllegalTransition:
            assert self.holds(claim)
            assert not allowed(Status.IN_PROGRESS, to, Role.WORKER, item.gated)
        else:
            assert self.holds(claim)
            assert allowed(Status.IN_PROGRESS, to, Role.WORKER, item.gated)
            self.follow(item, to)

    @rule(item_id=items_made, to=st.sampled_from(Status), role=st.sampled_from([Role.PERSON, Role.SYSTEM, Role.VERIFIER]))
    def change(self, item_id: str, to: Status, role: Role) -> None:
        item = self.model[item_id]
        legal = to is not Status.IN_PROGRESS and allowed(item.status, to, role, item.gated)
        try:
            self.run(self.items.transition(item_id, to, reason="so", role=role))
        except IllegalTransition:
            assert not legal or (to is Status.PENDING and self.broken(item))
        except Duplicate:
            assert item.status in TERMINAL
            assert self.taken(item.fingerprint)
        else:
            assert legal
            self.follow(item, to)

    # What always holds

    @invariant()
    def the_items_are_what_the_model_says(self) -> None:
        if not self.model:
            return
        listed = self.run(self.items.list(limit=None))
        assert len(listed) == len(self.model)
        for item in listed:
            model = self.model[item.id]
            assert (item.status, item.ready, item.holder, item.fence) == (
                model.status, self.ready(model), model.holder, model.token,
            )  # fmt: skip
            assert item.waiting == sum(self.model[each].status is not Status.COMPLETED for each in model.needs)
            assert (set(item.depends_on), item.occurrences) == (model.needs, model.occurrences)

    @invariant()
    def nothing_pending_waits_for_something_broken(self) -> None:
        for item in self.model.values():
            assert not (item.status is Status.PENDING and self.broken(item))

    @invariant()
    def a_fingerprint_is_open_once(self) -> None:
        held = [item.fingerprint for item in self.model.values() if item.fingerprint and item.status in OPEN]
        assert len(held) == len(set(held))

    @invariant()
    def each_item_is_counted_in_one_place(self) -> None:
        if self.model:
            counts = self.run(self.items.counts())
            ready = counts.pop("ready")
            assert sum(counts.values()) == len(self.model)
            assert ready == sum(self.ready(item) for item in self.model.values())


def allowed(origin: Status, target: Status, role: Role, gated: bool) -> bool:
    """What the table says."""
    return any(
        (each.origin, each.target) == (origin, target) and role in each.roles and not (gated and each.ungated) for each in RULES
    )


TestItems = ItemMachine.TestCase
TestItems.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
