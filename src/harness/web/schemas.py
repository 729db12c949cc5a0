"""Bodies that the API takes. What it sends are the rows of `overview` and the incident's own shape."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from harness.recovery.facts import ChaosKind

Text = Annotated[str, Field(max_length=20_000)]
Name = Annotated[str, Field(min_length=1, max_length=200)]


class Source(StrEnum):
    """Where a ticket may come from."""

    HUMAN = "human"
    INVARIANT = "invariant"
    SLO = "slo"
    ANOMALY = "anomaly"
    SCHEDULED = "scheduled"
    WEBHOOK = "webhook"


class PriorityName(StrEnum):
    """How urgent a ticket is."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class NewTicket(_Body):
    """A ticket to open. With a `source_id`, type and id of the source together are open at most once."""

    title: Annotated[str, Field(min_length=1, max_length=500)]
    description: Text = ""
    priority: PriorityName = PriorityName.MEDIUM
    source_type: Source = Source.HUMAN
    source_id: Annotated[str, Field(max_length=200)] = ""
    depends_on: list[Name] = []
    labels: dict[str, str] = {}


class TicketChange(_Body):
    """What to change of a ticket; what is absent stays. A new status needs its `reason`."""

    status: str | None = None
    reason: Text = ""
    priority: PriorityName | None = None
    title: Annotated[str, Field(min_length=1, max_length=500)] | None = None
    description: Text | None = None
    note: Text | None = None


class NewNote(_Body):
    """Something to write down in a ticket's history."""

    text: Annotated[str, Field(min_length=1, max_length=20_000)]


class NewDependency(_Body):
    """Another ticket that has to be completed first."""

    depends_on: Name


class Answer(_Body):
    """A person's answer to what an agent wants to do."""

    reason: Text = ""
    question: str | None = None  # which one, when several are open


class Reason(_Body):
    """Why."""

    reason: Text = ""


class NewInvariant(_Body):
    """A check to register."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
    query: Annotated[str, Field(min_length=1, max_length=2_000)]
    condition: Annotated[str, Field(max_length=2_000)] = ""
    description: Text = ""
    target: Annotated[str, Field(max_length=64)] = ""
    enabled: bool = True
    interval_seconds: Annotated[float, Field(gt=0, le=86_400)] = 5.0


class Fault(_Body):
    """What to break, and for how long."""

    kind: ChaosKind
    heal_after_seconds: Annotated[float, Field(gt=0, le=3_600)] | None = None
