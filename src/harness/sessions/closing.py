"""The last events of a session's stream, whoever writes them: the host, the guard's child, or who finds it lost. Pure."""

from __future__ import annotations

from collections.abc import Collection

from harness.ledger import Draft, Free, Guard, Reserve, Unique
from harness.sessions import facts, ids
from harness.sessions.facts import MessageStatus
from harness.sessions.record import Session

NEVER_SENT = "the session ended before it was sent"
"""Why such a message was dropped; a run that continues this one sends it."""

_STATUS_AT_END: dict[MessageStatus, tuple[str, str]] = {
    MessageStatus.QUEUED: (facts.DROPPED, NEVER_SENT),
    MessageStatus.WRITTEN: (facts.LOST, "the session ended before there was a receipt"),
    MessageStatus.ACCEPTED: (facts.FAILED, "the session ended before its turn was over"),
}


def end_lock(key: str) -> str:
    """The unique key that a run's end holds, so that it has one."""
    return f"session-end/{key}"


def locks_of(session: Session) -> list[str]:
    """The unique keys that a living run may hold: its id, and the vendor's sessions that it was given or has told of.

    One of the latter may be another run's all the same; a program goes on with whatever session it likes.
    """
    vendors = [facts.vendor_lock(session.cli, vendor) for vendor in session.vendor_sessions]
    return [facts.id_lock(ids.id_of(session.key)), *vendors]


def last_events(
    session: Session, exited: facts.Exited, now_us: int, *, held: Collection[str] | None = None
) -> tuple[tuple[Draft, ...], tuple[Guard, ...]]:
    """What ends a session's stream, and the guards: it ends once, and its keys are free from then on.

    Messages that are open are closed with what is known of them; so are approvals. `held` are those of `locks_of` that
    this run does hold (None: all of them).
    """
    drafts: list[Draft] = []
    waiting = 0
    for message in session.messages.values():
        if message.status in _STATUS_AT_END:
            type_, reason = _STATUS_AT_END[message.status]
            waiting += message.status is MessageStatus.QUEUED
            drafts.append(Draft(type=type_, payload=facts.Moved(message_id=message.id, reason=reason, by=exited.by)))
    for approval in session.open_approvals:
        over = facts.ApprovalDecided(request=approval.request, decision="withdrawn", by=exited.by, reason="the session ended")
        drafts.append(Draft(type=facts.APPROVAL_DECIDED, payload=over))
    drafts.append(Draft(type=facts.SUMMARIZED, payload=summary_of(session, now_us)))
    drafts.append(Draft(type=facts.EXITED, payload=exited))
    locks = locks_of(session) if held is None else held
    guards: list[Guard] = [Unique(end_lock(session.key)), *(Free(lock) for lock in locks)]
    if waiting:
        guards.append(Reserve(facts.inbox_counter(session.key), -waiting, None))
    return tuple(drafts), tuple(guards)


def summary_of(session: Session, now_us: int) -> facts.Summarized:
    """The counts of a run."""
    totals = session.totals
    busy = totals.busy_us + (now_us - session.state_us if session.state is facts.State.BUSY else 0)
    return facts.Summarized(
        turns=totals.turns, messages=totals.messages, tools=totals.tools, errors=totals.errors,
        input_tokens=totals.input_tokens, output_tokens=totals.output_tokens, cost_usd=totals.cost_usd,
        wall_seconds=round(max(0, now_us - session.started_us) / 1e6, 3), busy_seconds=round(max(0, busy) / 1e6, 3),
        final_state=str(session.state),
    )  # fmt: skip
