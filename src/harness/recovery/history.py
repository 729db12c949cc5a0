"""What was done so far, as far as the envelope asks: actions, fixes and failures as tables, and the pause.

Reads the ledger and decides nothing. Both sides that ask the envelope, the agent and the supervisor, come here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

from harness.clock import MICROSECONDS
from harness.errors import NotFound
from harness.ledger import Event, Statement, Store
from harness.recovery.declarations import Declarations
from harness.recovery.envelope import HOUR_US, Approval, PastAction, Situation, decide, digest_of, proposal_of
from harness.recovery.facts import (
    ActionCompleted,
    ActionRequested,
    ActionStarted,
    Decision,
    IncidentAttemptFailed,
    IncidentOpened,
    Origin,
    Outcome,
)
from harness.recovery.pause import paused_reason

_DDL = (
    """CREATE TABLE IF NOT EXISTS envelope_actions (id TEXT PRIMARY KEY, target TEXT NOT NULL, ticket TEXT NOT NULL,
    origin TEXT NOT NULL, started_us BIGINT NOT NULL, outcome TEXT, failed_us BIGINT)""",
    "CREATE INDEX IF NOT EXISTS envelope_actions_by_ticket ON envelope_actions (ticket)",
    "CREATE INDEX IF NOT EXISTS envelope_actions_by_time ON envelope_actions (started_us)",
    "CREATE INDEX IF NOT EXISTS envelope_actions_running ON envelope_actions (target) WHERE outcome IS NULL",
    "CREATE INDEX IF NOT EXISTS envelope_actions_failed ON envelope_actions (target, failed_us) WHERE failed_us IS NOT NULL",
    """CREATE TABLE IF NOT EXISTS envelope_incidents (ticket TEXT PRIMARY KEY, fingerprint TEXT NOT NULL,
    verified_us BIGINT)""",
    "CREATE INDEX IF NOT EXISTS envelope_incidents_fixed ON envelope_incidents (fingerprint, verified_us)",
)


@dataclass(frozen=True, slots=True)
class EnvelopeView:
    """Folds `service/…` and `incident/…` into what limits, recurrences and the breaker count.

    An erased event keeps what its type alone says: nothing of an action, the fix of a known incident.
    """

    name: str = "envelope"
    tables: tuple[str, ...] = ("envelope_actions", "envelope_incidents")
    ddl: tuple[str, ...] = _DDL
    prefixes: tuple[str, ...] = ("service/", "incident/")

    def fold(self, event: Event) -> Iterable[Statement]:
        """What the event changes. Pure; most types change nothing."""
        match event.type:
            case "incident.verified":
                sql = "UPDATE envelope_incidents SET verified_us = ? WHERE ticket = ?"
                return [(sql, (event.ts, event.stream.partition("/")[2]))]
            case _ if event.erased:
                return []
            case "action.started":
                return [_started(event, event.load(ActionStarted))]
            case "action.completed":
                return [_completed(event, event.load(ActionCompleted))]
            case "incident.opened":
                opened = event.load(IncidentOpened)
                sql = "INSERT INTO envelope_incidents VALUES (?, ?, NULL) ON CONFLICT (ticket) DO NOTHING"
                return [(sql, (opened.ticket, opened.fingerprint))]
            case "incident.attempt_failed":
                return [_attempt_failed(event, event.load(IncidentAttemptFailed))]
            case _:
                return []


ENVELOPE_VIEW = EnvelopeView()

APPROVAL = "approval"
"""The kind of a question whether an agent may act; its subject is the ticket's id."""
APPROVE = "approve"
DENY = "deny"

_FIXES = "SELECT verified_us FROM envelope_incidents WHERE fingerprint = ? AND verified_us > ?"
_FAILURES = "SELECT failed_us FROM envelope_actions WHERE target = ? AND failed_us > ?"


def _started(event: Event, fact: ActionStarted) -> Statement:
    sql = "INSERT INTO envelope_actions VALUES (?, ?, ?, ?, ?, NULL, NULL) ON CONFLICT (id) DO NOTHING"
    return sql, (fact.action_id, fact.target, fact.ticket, fact.origin.value, event.ts)


def _completed(event: Event, fact: ActionCompleted) -> Statement:
    failed = None if fact.outcome is Outcome.SUCCEEDED else event.ts
    sql = "UPDATE envelope_actions SET outcome = ?, failed_us = ? WHERE id = ?"
    return sql, (fact.outcome.value, failed, fact.action_id)


def _attempt_failed(event: Event, fact: IncidentAttemptFailed) -> Statement:
    """An action that succeeded and healed nothing is a failure too; without an id, the incident's newest one."""
    newest = "(SELECT id FROM envelope_actions WHERE ticket = ? ORDER BY started_us DESC, id LIMIT 1)"
    if fact.action_id:
        sql = "UPDATE envelope_actions SET failed_us = ? WHERE failed_us IS NULL AND id = ?"
        return sql, (event.ts, fact.action_id)
    return f"UPDATE envelope_actions SET failed_us = ? WHERE failed_us IS NULL AND id = {newest}", (event.ts, fact.ticket)


async def situation(store: Store, declarations: Declarations, request: ActionRequested, *, approval: Approval) -> Situation:
    """What is true now of a requested action, as the envelope wants to know it."""
    now, envelope = store.clock.now_us(), declarations.envelope
    limits = envelope.limits_of(request.target)
    return Situation(
        now_us=now,
        action_id=request.action_id,
        kind=request.kind,
        target=request.target,
        ticket=request.ticket,
        origin=request.origin,
        level=envelope.level(request.target, request.kind),
        limits=limits,
        known=declarations.service(request.target) is not None,
        paused=await paused_reason(store),
        approval=approval,
        actions=await _actions(store, request, now),
        fixes_us=await _times(store, _FIXES, request.fingerprint, now, limits.recurrence_seconds),
        failures_us=await _times(store, _FAILURES, request.target, now, limits.breaker_seconds),
    )


async def _actions(store: Store, request: ActionRequested, now_us: int) -> tuple[PastAction, ...]:
    rows = await store.query(
        ENVELOPE_VIEW,
        "SELECT id, target, ticket, started_us, outcome FROM envelope_actions "
        "WHERE origin = ? AND (ticket = ? OR started_us > ? OR outcome IS NULL)",
        Origin.AGENT.value, request.ticket, now_us - HOUR_US,
    )  # fmt: skip
    return tuple(
        PastAction(
            action_id=cast("str", id_), target=cast("str", target), ticket=cast("str", ticket),
            started_us=cast("int", started_us),
            outcome=None if outcome is None else Outcome(cast("str", outcome)),
        )
        for id_, target, ticket, started_us, outcome in rows
    )  # fmt: skip


async def _times(store: Store, sql: str, about: str, now_us: int, window_seconds: float) -> tuple[int, ...]:
    rows = await store.query(ENVELOPE_VIEW, sql, about, now_us - round(window_seconds * MICROSECONDS))
    return tuple(cast("int", row[0]) for row in rows)


async def judge_request(store: Store, declarations: Declarations, request: ActionRequested) -> Decision:
    """What the envelope says to a request right now. The supervisor asks this before it executes; so does the agent before."""
    store.register(ENVELOPE_VIEW)
    return decide(await situation(store, declarations, request, approval=await approval_of(store, request)))


async def approval_of(store: Store, request: ActionRequested) -> Approval:
    """What a person said to the question that a request rests on.

    An answer counts for the one action it was asked for, and only if the arguments are those that were shown.
    """
    if not request.question:
        return Approval.NONE
    from harness.people import Questions, QuestionStatus

    try:
        question = await Questions(store).get(request.question)
    except NotFound:
        return Approval.NONE
    bound = question.kind == APPROVAL and question.subject == request.ticket and question.digest == digest_of(request)
    if (
        not bound
        or question.status is not QuestionStatus.ANSWERED
        or question.used_by not in (None, proposal_of(request.action_id))
    ):
        return Approval.NONE
    return Approval.GRANTED if question.answer == APPROVE else Approval.DENIED
