"""Incidents as people read them: a row of times, and a timeline in words. Needs no web framework."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.web.words import Words, words_of

if TYPE_CHECKING:
    from harness.recovery.incidents import Incident


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line of a timeline; `seconds` are since the fault."""

    seconds: float
    words: Words
    ref: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """One incident's timeline, as people read it."""

    ticket: str
    title: str
    target: str
    status: str
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of the timeline in words; `seconds` are since the fault."""

    seconds: float
    tone: str
    who: str
    text: str
    detail: str
    event: str


@dataclass(frozen=True, slots=True, kw_only=True)
class IncidentRow:
    """An incident; the times are seconds since the fault, null for what did not happen."""

    ticket: str
    title: str
    target: str
    check: str
    status: str
    reason: str
    occurrences: int
    attempts: int
    decided_by: str
    runs: Sequence[str]
    actions: Sequence[str]
    detected_s: float | None
    ticket_s: float | None
    engaged_s: float | None
    acted_s: float | None
    verified_s: float | None
    closed_s: float | None


def story_of(incident: Incident) -> Story:
    """An incident in words."""
    told = ((event, words_of(event)) for event in incident.events)
    return Story(
        ticket=incident.ticket,
        title=incident.title,
        target=incident.target,
        status=incident.status,
        entries=tuple(
            Entry(seconds=incident.seconds(event), words=words, ref=event.ref) for event, words in told if words is not None
        ),
    )


def lines_of(incident: Incident) -> list[Line]:
    """The timeline as the API and the command line show it."""
    return [
        Line(
            seconds=entry.seconds,
            tone=entry.words.tone.value,
            who=entry.words.who,
            text=entry.words.text,
            detail=entry.words.detail,
            event=entry.ref,
        )
        for entry in story_of(incident).entries
    ]


def incident_row(incident: Incident) -> IncidentRow:
    """The incident as the API and the command line show it."""
    seconds = incident.times.seconds
    return IncidentRow(
        ticket=incident.ticket,
        title=incident.title,
        target=incident.target,
        check=incident.check,
        status=incident.status,
        reason=incident.reason,
        occurrences=incident.occurrences,
        attempts=incident.attempts,
        decided_by=incident.by,
        runs=incident.runs,
        actions=incident.actions,
        detected_s=seconds("detected"),
        ticket_s=seconds("ticket"),
        engaged_s=seconds("engaged"),
        acted_s=seconds("acted"),
        verified_s=seconds("verified"),
        closed_s=seconds("closed"),
    )
