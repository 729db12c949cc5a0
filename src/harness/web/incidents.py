"""`/api/incidents`: what happened, from the fault to its verification."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Query

from harness.recovery.incidents import incident_of, list_incidents
from harness.web.context import Here
from harness.web.events import EventRow, event_row
from harness.web.stories import IncidentRow, Line, incident_row, lines_of

router = APIRouter(prefix="/api/incidents", tags=["incidents"])


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeIncident:
    """An incident with its timeline, and the events that it is told from."""

    incident: IncidentRow
    timeline: Sequence[Line]
    events: Sequence[EventRow]


@router.get("")
async def incidents(here: Here, limit: Annotated[int, Query(ge=1, le=200)] = 20) -> list[IncidentRow]:
    """The newest incidents, newest first."""
    newest = await list_incidents(here.store, limit=limit)
    return [incident_row(await incident_of(here.store, found.ticket)) for found in newest]


@router.get("/{ticket}")
async def incident(here: Here, ticket: str) -> WholeIncident:
    """One incident with everything that the agent saw, thought and did."""
    found = await incident_of(here.store, ticket)
    return WholeIncident(
        incident=incident_row(found), timeline=lines_of(found), events=[event_row(event) for event in found.events]
    )
