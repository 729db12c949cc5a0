"""What a responder does next about a ticket, from its events alone. Pure: no clock, no I/O.

An attempt is counted by what agents began and handed over, not by claims, so whoever goes on with it after a crash
goes on with the same run and does nothing twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from harness.ledger import Event
from harness.recovery.facts import (
    ActionCompleted,
    IncidentActionDecided,
    IncidentActionProposed,
    IncidentAttemptFailed,
    IncidentConcluded,
    IncidentEngaged,
    IncidentEscalated,
    IncidentOpened,
    Verdict,
    fact_of,
)
from harness.work import Item

MAX_ATTEMPTS = 10
"""A ticket that was begun so often goes to a person, whatever else holds: nothing is repaired without end."""

_HANDED_OVER = frozenset(
    {"item.submitted", "item.blocked", "item.failed", "item.cancelled", "item.completed", "item.reopened", "item.rejected"}
)


@dataclass(frozen=True, slots=True)
class Plan:
    """The attempt to work on: a new one, or one that was begun and not handed over."""

    attempt: int
    engaged: IncidentEngaged | None = None  # the newest of the attempt
    conclusion: IncidentConcluded | None = None  # the newest of the run that is engaged

    @property
    def exhausted(self) -> bool:
        return self.attempt > MAX_ATTEMPTS


@dataclass(frozen=True, slots=True)
class Handover:
    """Where an attempt's ticket goes, and why."""

    to: Literal["verifying", "blocked"]
    reason: str


def plan(incident: Iterable[Event], item: Iterable[Event]) -> Plan:
    """The attempt to go on with, by the timeline of the incident and the history of its item."""
    engaged: IncidentEngaged | None = None
    at = 0
    conclusions: list[IncidentConcluded] = []
    for event in incident:
        match fact_of(event):
            case IncidentEngaged() as fact:
                engaged, at = fact, event.position
            case IncidentConcluded() as fact:
                conclusions.append(fact)
            case _:
                pass
    if engaged is None:
        return Plan(1)
    if any(event.type in _HANDED_OVER and event.position > at for event in item):
        return Plan(engaged.attempt + 1)
    return Plan(engaged.attempt, engaged, conclusion_of(engaged.run, conclusions))


def conclusion_of(run: str, conclusions: Iterable[IncidentConcluded]) -> IncidentConcluded | None:
    """What a run said last about how the ticket stands."""
    newest = None
    for conclusion in conclusions:
        if conclusion.run == run:
            newest = conclusion
    return newest


def conclusions_in(events: Iterable[Event]) -> list[IncidentConcluded]:
    """Everything that agents said about how the ticket stands, in order."""
    return [fact for fact in map(fact_of, events) if isinstance(fact, IncidentConcluded)]


def hand_over(conclusion: IncidentConcluded | None, *, ended: str, words: str) -> Handover:
    """Where the ticket goes when its agent has ended in the way `ended` with these last words.

    Words alone complete nothing: an agent that does not say how the ticket stands has not fixed it.
    """
    if conclusion is None:
        said = f"; its last words: {words}" if words else ""
        return Handover("blocked", f"the agent ended ({ended}) without saying how the ticket stands{said}"[:1500])
    if conclusion.fixed:
        return Handover("verifying", conclusion.reason or "the agent says it is fixed")
    return Handover("blocked", conclusion.reason or "the agent gave up")


def escalation(item: Item, incident: Sequence[Event], actions: Iterable[ActionCompleted], reason: str) -> IncidentEscalated:
    """What a person is handed: what is known, what was tried, what is ruled out, and the commands to go on with."""
    known: list[str] = [item.title]
    ruled_out: list[str] = []
    for fact in map(fact_of, incident):
        match fact:
            case IncidentOpened():
                known.append(f"observed: {fact.observed}")
            case IncidentConcluded():
                known.append(f"attempt {fact.attempt} by {fact.by}: {fact.reason}")
            case IncidentAttemptFailed():
                ruled_out.append(f"attempt {fact.attempt}: {fact.reason}")
            case IncidentActionDecided() if fact.decision.verdict in (Verdict.REFUSE, Verdict.SUGGEST):
                ruled_out.append(f"{fact.decision.verdict} by {fact.by}: {fact.decision.reason}")
            case _:
                pass
    tried = [f"{action.kind} on {action.target}: {action.outcome}, {action.detail}" for action in actions]
    return IncidentEscalated(
        ticket=item.id,
        reason=reason,
        known=tuple(dict.fromkeys(known)),
        tried=tuple(tried),
        ruled_out=tuple(dict.fromkeys(ruled_out)),
        next_commands=(*_suggested(incident), *_commands(item)),
    )


def _suggested(incident: Sequence[Event]) -> list[str]:
    """The commands of actions that were proposed and only suggested."""
    suggested = {
        fact.action_id
        for fact in map(fact_of, incident)
        if isinstance(fact, IncidentActionDecided) and fact.decision.verdict is Verdict.SUGGEST
    }
    proposed = [fact for fact in map(fact_of, incident) if isinstance(fact, IncidentActionProposed)]
    restarts = [fact.target for fact in proposed if fact.action_id in suggested and fact.kind == "restart_service"]
    return [f"harness services restart {target}" for target in dict.fromkeys(restarts)]


def _commands(item: Item) -> tuple[str, ...]:
    target = item.labels.get("target", "")
    about = (f"harness services logs {target}", f"harness checks list --target {target}") if target else ()
    return (
        f"harness incident show {item.id}",
        *about,
        f"harness tickets note {item.id} TEXT",
        f"harness tickets close {item.id}",
    )
