"""`/health`, `/metrics`, `/api/stats`, and pausing: how the home is doing, for machines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse

from harness.recovery import pause as pausing
from harness.web import overview
from harness.web.context import Here
from harness.web.overview import Overview
from harness.web.schemas import Reason
from harness.web.statistics import Statistics, statistics

router = APIRouter(tags=["status"])
alive = APIRouter(tags=["status"])
"""What also a door for one session tells."""

Sample = tuple[Mapping[str, str], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """`ok` says that this door answers from the ledger; the rest says how things are behind it."""

    ok: bool
    supervised: bool
    paused: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Paused:
    """Whether agents are kept from acting, and since when, by whom and why."""

    paused: bool
    reason: str | None


@alive.get("/health")
async def health(here: Here) -> Health:
    """Whether this door works. Never needs a token."""
    return Health(ok=True, supervised=await overview.supervised(here.store), paused=await overview.paused(here.store))


@router.get("/api/stats")
async def stats(here: Here) -> Statistics:
    """Counts, and how long incidents took to be detected, engaged and verified."""
    return await statistics(here.store)


@router.get("/api/overview")
async def whole_overview(here: Here) -> Overview:
    """Services, checks and open tickets at once: what the page shows."""
    return await overview.overview(here.store)


@router.post("/api/pause")
async def pause(here: Here, why: Reason | None = None) -> Paused:
    """Keep agents from acting until unpaused."""
    await pausing.pause(here.store, by=here.actor, reason=why.reason if why else "")
    return Paused(paused=True, reason=await pausing.paused_reason(here.store))


@router.post("/api/unpause")
async def unpause(here: Here, why: Reason | None = None) -> Paused:
    """Let agents act again."""
    await pausing.unpause(here.store, by=here.actor, reason=why.reason if why else "")
    return Paused(paused=False, reason=None)


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(here: Here) -> PlainTextResponse:
    """The same for Prometheus, in its text format."""
    seen = await overview.overview(here.store)
    numbers = await statistics(here.store)
    text = "".join(_families(seen, numbers))
    return PlainTextResponse(text, media_type="text/plain; version=0.0.4; charset=utf-8")


def _families(seen: Overview, numbers: Statistics) -> Iterable[str]:
    yield _single("harness_supervised", "gauge", "Whether a supervisor is at work.", seen.supervised)
    yield _single("harness_paused", "gauge", "Whether agents are kept from acting.", seen.paused)
    ready = [({"service": row.name}, float(row.ready)) for row in seen.services]
    yield _family("harness_service_ready", "gauge", "Whether a service is ready.", ready)
    passing = [({"check": row.name, "target": row.target}, float(row.result == "pass")) for row in seen.checks]
    yield _family("harness_check_passing", "gauge", "Whether a check's newest result is a pass.", passing)
    tickets = [({"status": status}, float(count)) for status, count in seen.counts.items() if status != "ready"]
    yield _family("harness_tickets", "gauge", "Tickets by status.", tickets)
    yield _single("harness_incidents_total", "counter", "Incidents opened.", numbers.incidents)
    yield _single("harness_incidents_verified_total", "counter", "Incidents verified as healed.", numbers.verified)
    yield _single("harness_incidents_escalated_total", "counter", "Incidents handed to a person.", numbers.escalated)
    yield _single("harness_ledger_events_total", "counter", "Events in the ledger.", numbers.events)


def _single(name: str, kind: str, help_text: str, value: float) -> str:
    return _family(name, kind, help_text, [({}, float(value))])


def _family(name: str, kind: str, help_text: str, samples: Iterable[Sample]) -> str:
    lines = [f"# HELP {name} {help_text}", f"# TYPE {name} {kind}"]
    for labels, value in samples:
        inside = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
        lines.append(f"{name}{{{inside}}} {value:g}" if inside else f"{name} {value:g}")
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
