"""Says whether a repair holds; nobody else writes `completed`. Runs inside the monitor, on its results.

A ticket in `verifying` is watched until all checks of its subject have passed, freshly, newer than the action, through
the window (then it is completed), or until that fails or takes too long. Then what can be reverted is, and it goes
back for the next attempt, or after the last one to a person with a hand-over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from harness.clock import MICROSECONDS
from harness.errors import IllegalTransition, KeyTaken, NotFound
from harness.ledger import Event, Store, Unique, Write
from harness.recovery.board import Board
from harness.recovery.checks import Sample
from harness.recovery.facts import (
    ActionCompleted,
    ActionKind,
    ActionRequested,
    IncidentAttemptFailed,
    IncidentEscalated,
    IncidentVerified,
    IncidentVerifying,
    Outcome,
    action_requested_key,
    draft,
    service_stream,
)
from harness.recovery.incidents import events_since
from harness.recovery.picture import Life, Phase
from harness.recovery.tickets import GATE, Tickets, tell_once
from harness.recovery.verifying import Standing, Verification, begun
from harness.work import Item, Role, Status

_PEOPLE = ("human", "webhook", "scheduled")


@dataclass(slots=True)
class _Case:
    """One verification that is going on."""

    verification: Verification
    item: Item
    subject: str
    origin: Status  # where the ticket came from
    news: asyncio.Event = field(default_factory=asyncio.Event)
    over: bool = False  # somebody else changed the ticket


class Verifier:
    """See the module. `hurry` makes the subject's checks look often."""

    def __init__(
        self,
        store: Store,
        board: Board,
        tickets: Tickets,
        *,
        hurry: Callable[[str], None],
        window_seconds: float,
        limit_seconds: float,
        attempts: int,
    ) -> None:
        self._store = store
        self._board = board
        self._items = tickets.items
        self._hurry = hurry
        self._window = window_seconds
        self._limit = limit_seconds
        self._attempts = attempts
        self._cases: dict[str, _Case] = {}
        self._actions: dict[str, Event] = {}

    def verifying(self, subject: str) -> bool:
        """Whether a ticket of this subject is being verified."""
        return any(case.subject == subject for case in self._cases.values())

    # What comes in

    def saw(self, sample: Sample) -> None:
        """A result of any check."""
        for case in self._cases.values():
            after = case.verification.saw(sample)
            if after is not case.verification:
                case.verification = after
                case.news.set()

    def service_changed(self, life: Life) -> None:
        """A service's process changed."""
        for case in self._cases.values():
            if case.subject == life.name and life.phase is not Phase.UP:
                case.verification = case.verification.broke(life.since_us, life.words)
                case.news.set()

    def action_over(self, event: Event) -> None:
        """An action was completed."""
        self._actions[event.load(ActionCompleted).ticket] = event

    def left(self, ticket: str) -> None:
        """The ticket is no longer in `verifying`, by whoever's doing."""
        if ticket in self._cases:
            self._cases[ticket].over = True
            self._cases[ticket].news.set()

    # The work

    async def verify(self, ticket: str) -> None:
        """Watch one ticket until it is decided. Does nothing if that is going on already or it is not in `verifying`."""
        if ticket in self._cases:
            return
        item = await self._items.get(ticket)
        if item.status is not Status.VERIFYING:
            return
        subject = item.labels.get("subject") or item.labels.get("target") or ""
        if not subject and GATE not in item.gates and item.source_type not in _PEOPLE:
            return  # somebody else's kind of work
        needed = {known.check.name: known.check.policy.recover for known in self._board.of_subject(subject)}
        if not needed:
            await self._block(item, "no check covers this, so a person has to say whether it is done")
            return
        case = await self._begin(item, subject, needed)
        self._cases[ticket] = case
        try:
            self._hurry(subject)
            await self._watch(case)
        finally:
            del self._cases[ticket]

    async def _begin(self, item: Item, subject: str, needed: dict[str, int]) -> _Case:
        submitted = await self._newest_move(item)
        action = await self._action_of(item, subject)
        fact = action.load(ActionCompleted) if action else None
        now_us = self._store.clock.now_us()
        verification = begun(
            ticket=item.id, attempt=item.attempts, action_id=fact.action_id if fact else "",
            after_us=action.ts if action else submitted.ts, window_us=round(self._window * MICROSECONDS),
            deadline_us=now_us + round(self._limit * MICROSECONDS), needed=needed,
        )  # fmt: skip
        for known in self._board.of_subject(subject):
            for sample in known.recent:
                verification = verification.saw(sample)
        told = IncidentVerifying(
            ticket=item.id, attempt=item.attempts, action_id=verification.action_id, checks=tuple(needed),
            window_seconds=self._window,
        )  # fmt: skip
        await tell_once(self._store, item.id, f"verifying-{submitted.seq}", told, parent=submitted.ref)
        origin = Status(submitted.payload.get("origin", Status.IN_PROGRESS))
        return _Case(verification=verification, item=item, subject=subject, origin=origin)

    async def _watch(self, case: _Case) -> None:
        while not case.over:
            case.news.clear()
            standing = case.verification.standing()
            if standing.holds and not self._flapping(case):
                await self._complete(case, standing)
                return
            life = self._board.life(case.subject)
            if life.phase in (Phase.DOWN, Phase.RESTING) and life.since_us > case.verification.after_us - 1:
                await self._reject(case, life.words)
                return
            if case.verification.overdue(self._store.clock.now_us()):
                await self._reject(case, standing.reason or "its checks are flapping")
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(0.5):
                    await case.news.wait()

    def _flapping(self, case: _Case) -> bool:
        return any(known.judgement.flapping for known in self._board.of_subject(case.subject))

    async def _complete(self, case: _Case, standing: Standing) -> None:
        item, verification = case.item, case.verification
        fact = IncidentVerified(
            ticket=item.id, attempt=item.attempts, action_id=verification.action_id, passes=dict(standing.passes or {}),
            since_us=standing.since_us, window_seconds=self._window,
        )  # fmt: skip
        await tell_once(self._store, item.id, f"verified-{item.seq}", fact)
        reason = f"all {len(verification.needed)} checks passed for {self._window:g} s"
        await self._move(item, Status.COMPLETED, reason, {"passes": fact.passes, "action": verification.action_id})

    async def _reject(self, case: _Case, reason: str) -> None:
        item, verification = case.item, case.verification
        reverted = await self._revert(item)
        failed = IncidentAttemptFailed(
            ticket=item.id, attempt=item.attempts, reason=reason, action_id=verification.action_id, reverted=reverted
        )  # fmt: skip
        await tell_once(self._store, item.id, f"rejected-{item.seq}", failed)
        if case.origin is Status.BLOCKED:
            await self._move(item, Status.BLOCKED, f"it had healed by itself, but not for long: {reason}")
        elif item.attempts < self._attempts:
            await self._move(item, Status.PENDING, f"attempt {item.attempts} did not hold: {reason}")
        else:
            await self._escalate(case, f"{item.attempts} attempts did not hold, the last one because {reason}")

    async def _escalate(self, case: _Case, reason: str) -> None:
        item = case.item
        checks = self._board.of_subject(case.subject)
        known = [
            f"{known.check.name} is {known.judgement.state}: {known.newest.detail or 'pass'}"
            for known in checks
            if known.newest
        ]
        tried = await self._tried(item, case.subject)
        fact = IncidentEscalated(
            ticket=item.id, reason=reason, known=(item.title, *known), tried=tuple(tried),
            ruled_out=tuple(f"{each} did not make the checks pass" for each in tried),
            next_commands=(
                f"harness incident show {item.id}", f"harness services logs {case.subject}",
                f"harness checks list --target {case.subject}", f"harness services restart {case.subject}",
            ),
        )  # fmt: skip
        await tell_once(self._store, item.id, f"escalated-{item.seq}", fact)
        await self._move(item, Status.BLOCKED, reason)

    async def _block(self, item: Item, reason: str) -> None:
        await tell_once(self._store, item.id, f"escalated-{item.seq}", IncidentEscalated(ticket=item.id, reason=reason))
        await self._move(item, Status.BLOCKED, reason)

    async def _move(self, item: Item, to: Status, reason: str, result: object = None) -> None:
        with suppress(IllegalTransition, NotFound):  # a person was faster, and is right
            await self._items.transition(item.id, to, role=Role.VERIFIER, reason=reason, result=result)

    # What happened before

    async def _newest_move(self, item: Item) -> Event:
        history = await self._items.history(item.id)
        return next((event for event in reversed(history) if event.type == "item.submitted"), history[-1])

    async def _action_of(self, item: Item, subject: str) -> Event | None:
        """The ticket's newest completed action, also one that an earlier monitor saw."""
        if item.id not in self._actions:
            for event in await self._completed(item, subject):
                self._actions[item.id] = event
        return self._actions.get(item.id)

    async def _completed(self, item: Item, subject: str) -> list[Event]:
        events = await events_since(self._store, service_stream(subject), item.created_us)
        over = [event for event in events if event.type == ActionCompleted.TYPE and not event.erased]
        return [event for event in over if event.load(ActionCompleted).ticket == item.id]

    async def _tried(self, item: Item, subject: str) -> list[str]:
        facts = [event.load(ActionCompleted) for event in await self._completed(item, subject)]
        return [f"{fact.kind} on {fact.target}: {fact.outcome}, {fact.detail}" for fact in facts]

    async def _revert(self, item: Item) -> bool:
        """Ask for the old configuration if the attempt changed it. The envelope decides about that as about any action."""
        event = self._actions.get(item.id)
        fact = event.load(ActionCompleted) if event else None
        if fact is None or fact.kind is not ActionKind.SET_CONFIG or fact.outcome is not Outcome.SUCCEEDED:
            return False
        request = ActionRequested(
            action_id=f"revert-{fact.action_id}", kind=ActionKind.REVERT_CONFIG, target=fact.target, requested_by="monitor",
            reason=f"{fact.action_id} did not make the checks pass", ticket=item.id, fingerprint=item.fingerprint or "",
        )  # fmt: skip
        with suppress(KeyTaken):
            guards = (Unique(action_requested_key(request.action_id)),)
            await self._store.append(Write(service_stream(fact.target), (draft(request),)), guards=guards)
        return True
