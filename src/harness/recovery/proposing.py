"""An agent's wish to act, from its words to the supervisor's answer: checked, judged, asked for, requested once, awaited.

The idempotency key of the call names the action, so that the same call made again after a crash finds what it has
already asked for and waits for that; it never asks twice for one deed. Acting itself is the supervisor's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import anyio
import msgspec

from harness.clock import MICROSECONDS
from harness.errors import KeyTaken
from harness.ledger import Event, Store, Unique, Write
from harness.people import Questions, QuestionStatus
from harness.recovery import approvals
from harness.recovery.action_types import ACTION_TYPES, after_problem, before_problem, shape_problem
from harness.recovery.declarations import Declarations
from harness.recovery.engagement import Engagement
from harness.recovery.envelope import Limit, passes_by, proposal_of
from harness.recovery.evidence import Evidence
from harness.recovery.facts import (
    CONTROL,
    ActionCompleted,
    ActionKind,
    ActionRefused,
    ActionRequested,
    Decision,
    Fact,
    IncidentActionDecided,
    IncidentActionProposed,
    Level,
    Outcome,
    Value,
    Verdict,
    action_key,
    action_requested_key,
    draft,
    fact_of,
    incident_stream,
    service_stream,
)
from harness.recovery.history import judge_request
from harness.text import cleaned

_ROUNDS = 5  # of one proposal: asked again after a pause, or under a new claim
_START_SECONDS = 30.0  # the supervisor begins within this time, or not at all
_MARGIN_SECONDS = 30.0
_BUSY_SECONDS = 300.0

Answer = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Proposals:
    """Carries proposals of all runs of one responder."""

    store: Store
    declarations: Declarations
    evidence: Evidence

    async def propose(
        self, engagement: Engagement, kind: ActionKind, target: str, arguments: Mapping[str, Value], reason: str, *, key: str
    ) -> Answer:
        """What became of the proposal: `done`, `suggested` or `refused`, with the reason. Never raises for a bad proposal.

        Returns when the action is over. If a person has to approve first, parks the engagement and does not return.
        """
        request = _request(engagement, kind, target, arguments, cleaned(reason, limit=1000), key)
        request, under_way = await self._current(request)
        if under_way is None:
            if problem := await self._problem(engagement, request):
                return await self._refused(engagement, request, problem)
            await self._tell(engagement, f"proposed/{key}", _proposed(engagement, request))
        for _ in range(_ROUNDS):
            if under_way is None:
                decision, request = await self._decide(engagement, request)
                if decision.verdict is not Verdict.ALLOW:
                    return _told(request, decision)
                under_way = await self._request(engagement, request, decision)
            ended = await self._over(under_way)
            if not await self._void(engagement, under_way, ended):
                return await self._answer(request, ended)
            request, under_way = await self._current(request)
        return _told(request, _plain_refusal(f"asked for {_ROUNDS} times without ever being begun"))

    async def found(self, target: str, key: str) -> Answer | None:
        """What became of an action that was asked for with this key, if it is over; None if not."""
        for action_id in _ids(key):
            asked = await self._asked_for(action_id)
            ended = await self._ended(target, action_id)
            if asked is not None and ended is not None and ended.type == ActionCompleted.TYPE:
                return await self._answer(asked, ended)
        return None

    # Before

    async def _problem(self, engagement: Engagement, request: ActionRequested) -> str:
        """Why the proposal makes no sense as things are; empty if it does."""
        if problem := shape_problem(request.kind, request.arguments):
            return problem
        service = self.declarations.service(request.target)
        if service is None:
            return ""  # the envelope says it better
        state = await self.evidence.service(request.target)
        return before_problem(request.kind, request.arguments, service, state, asked_by_person=engagement.asked_by_person)

    async def _refused(self, engagement: Engagement, request: ActionRequested, reason: str) -> Answer:
        decision = _plain_refusal(reason)
        proposed = _proposed(engagement, request)
        decided = IncidentActionDecided(
            ticket=engagement.ticket, action_id=request.action_id, decision=decision, by="pre-check"
        )
        await self._tell(engagement, f"refused/{request.action_id}", proposed, decided)
        return _told(request, decision)

    async def _current(self, request: ActionRequested) -> tuple[ActionRequested, ActionRequested | None]:
        """The request under its newest id, and what was asked for under that id already, unless that was refused."""
        for action_id in _ids(proposal_of(request.action_id)):
            request = msgspec.structs.replace(request, action_id=action_id)
            asked = await self._asked_for(action_id)
            if asked is None:
                return request, None
            ended = await self._ended(request.target, action_id)
            if ended is None or ended.type == ActionCompleted.TYPE:
                return request, asked
        return request, None

    async def _asked_for(self, action_id: str) -> ActionRequested | None:
        held = await self.store.holder_of(action_requested_key(action_id))
        event = await self.store.event(*held) if held is not None else None
        fact = fact_of(event) if event is not None else None
        return fact if isinstance(fact, ActionRequested) else None

    async def _void(self, engagement: Engagement, asked: ActionRequested, ended: Event | None) -> bool:
        """Whether the request came to nothing for a reason that is over: a pause, a claim of before, a late supervisor."""
        refused = fact_of(ended) if ended is not None else None
        if ended is None or not isinstance(refused, ActionRefused):
            return False
        if refused.decision is not None:
            return passes_by(refused.decision)
        late = asked.deadline_us is not None and ended.ts >= asked.deadline_us
        return late or asked.token != engagement.claim.token

    # Deciding

    async def _decide(self, engagement: Engagement, request: ActionRequested) -> tuple[Decision, ActionRequested]:
        """The envelope's decision that can be acted on, after waiting for what passes and asking whom must be asked."""
        since = self.store.clock.monotonic()
        while True:
            seen = await self.store.tail()
            decision = await judge_request(self.store, self.declarations, request)
            if decision.verdict is Verdict.ASK:
                request = await self._asked(engagement, request, decision)
                continue
            await self._tell_decision(engagement, request, decision)
            patient = decision.limit == Limit.PAUSED or self.store.clock.monotonic() - since < _BUSY_SECONDS
            if not passes_by(decision) or not patient:
                return decision, request
            with anyio.move_on_after(_BUSY_SECONDS):
                await self._next_event(seen, CONTROL, "service/")

    async def _asked(self, engagement: Engagement, request: ActionRequested, decision: Decision) -> ActionRequested:
        """The request with its question, once that is answered; does not return before."""
        question = await approvals.ask(self.store, request)
        request = msgspec.structs.replace(request, question=question.id)
        await self._tell_decision(engagement, request, decision)
        if question.status is QuestionStatus.PENDING:
            engagement.park(question.id)
            await anyio.sleep_forever()
        return request

    async def _tell_decision(self, engagement: Engagement, request: ActionRequested, decision: Decision) -> None:
        by = "envelope"
        if request.question:
            by = (await Questions(self.store).get(request.question)).answered_by or by
        fact = IncidentActionDecided(
            ticket=engagement.ticket, action_id=request.action_id, decision=decision, by=by, question=request.question
        )  # fmt: skip
        await self._tell(engagement, f"decided/{request.action_id}/{decision.verdict}/{decision.limit}", fact)

    # Doing

    async def _request(self, engagement: Engagement, request: ActionRequested, decision: Decision) -> ActionRequested:
        """Ask the supervisor, once for each id."""
        now = self.store.clock.now_us()
        request = msgspec.structs.replace(
            request, lease=engagement.claim.lease, token=engagement.claim.token, decision=decision,
            deadline_us=now + round(_START_SECONDS * MICROSECONDS),
        )  # fmt: skip
        if request.question:
            await approvals.use(self.store, request)
        held = await self.store.holder_of(f"incident/{engagement.ticket}/proposed/{proposal_of(request.action_id)}")
        parent = f"{held[0]}#{held[1]}" if held else None
        guards = (Unique(action_requested_key(request.action_id)), engagement.fence)
        with contextlib.suppress(KeyTaken):
            await self.store.append(Write(service_stream(request.target), (draft(request, parent=parent),)), guards=guards)
        return request

    async def _over(self, request: ActionRequested) -> Event | None:
        """The end of an action that was asked for; None if it has none within its time."""
        seen = await self.store.tail()
        with anyio.move_on_after(self._patience(request.target)):
            while True:
                ended = await self._ended(request.target, request.action_id)
                if ended is not None:
                    return ended
                seen = await self._next_event(seen, service_stream(request.target))
        return await self._ended(request.target, request.action_id)

    def _patience(self, target: str) -> float:
        service = self.declarations.service(target)
        own = service.stop_timeout_seconds + service.ready_timeout_seconds if service else 0.0
        return _START_SECONDS + own + _MARGIN_SECONDS

    async def _ended(self, target: str, action_id: str) -> Event | None:
        newest = await self.store.latest(service_stream(target), action_key(action_id))
        return newest if newest is not None and newest.type in (ActionCompleted.TYPE, ActionRefused.TYPE) else None

    async def _next_event(self, seen: Any, *streams: str) -> Any:
        async with contextlib.aclosing(self.store.follow(after=seen, streams=streams)) as events:
            async for event in events:
                return event.cursor
        return seen

    async def _answer(self, request: ActionRequested, event: Event | None) -> Answer:
        ended = fact_of(event) if event is not None else None
        if isinstance(ended, ActionRefused):
            return _told(request, ended.decision or _plain_refusal(ended.reason))
        detail, outcome = "the supervisor has not said how it ended", Outcome.UNKNOWN
        if isinstance(ended, ActionCompleted):
            detail, outcome = cleaned(ended.detail, limit=500), ended.outcome
        answer: Answer = {
            "verdict": "done",
            "action_id": request.action_id,
            "kind": request.kind.value,
            "target": request.target,
            "outcome": outcome.value,
            "detail": detail,
            "reversible": ACTION_TYPES[request.kind].reversible,
        }
        if outcome is Outcome.SUCCEEDED:
            state = await self.evidence.service(request.target)
            answer["after"] = after_problem(request.kind, request.action_id, state) or "as intended"
        return answer

    async def _tell(self, engagement: Engagement, what: str, *facts: Fact) -> Event | None:
        write = Write(incident_stream(engagement.ticket), tuple(draft(fact) for fact in facts))
        guards = (Unique(f"incident/{engagement.ticket}/{what}"), engagement.fence)
        with contextlib.suppress(KeyTaken):
            return (await self.store.append(write, guards=guards)).first
        return None


def _ids(key: str) -> list[str]:
    """The ids under which one proposal may be requested, in order."""
    return [key, *(f"{key}.{number}" for number in range(2, _ROUNDS + 1))]


def _request(
    engagement: Engagement, kind: ActionKind, target: str, arguments: Mapping[str, Value], reason: str, key: str
) -> ActionRequested:
    return ActionRequested(
        action_id=key, kind=kind, target=target, arguments=dict(arguments), requested_by=f"agent ({engagement.by})",
        reason=reason, ticket=engagement.ticket, fingerprint=engagement.item.fingerprint or "",
    )  # fmt: skip


def _proposed(engagement: Engagement, request: ActionRequested) -> IncidentActionProposed:
    return IncidentActionProposed(
        ticket=engagement.ticket, action_id=request.action_id, kind=request.kind, target=request.target,
        arguments=request.arguments, reason=request.reason, attempt=engagement.attempt, by=engagement.by, run=engagement.run,
    )  # fmt: skip


def _plain_refusal(reason: str) -> Decision:
    return Decision(verdict=Verdict.REFUSE, level=Level.OFF, reason=reason)


def _told(request: ActionRequested, decision: Decision) -> Answer:
    """A proposal that was not carried out, as the model reads it."""
    suggested = decision.verdict is Verdict.SUGGEST
    return {
        "verdict": "suggested" if suggested else "refused",
        "action_id": request.action_id,
        "kind": request.kind.value,
        "target": request.target,
        "reason": decision.reason,
        "limit": decision.limit,
        "next": "a person has to do it: update_ticket_status('escalated')"
        if suggested
        else "look for another way, or escalate",
    }
