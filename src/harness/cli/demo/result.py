"""What the demo found: the object that `--json` prints, and whether all of it holds."""

from __future__ import annotations

from dataclasses import dataclass

from harness.cli.demo.stage import Leaked


@dataclass(frozen=True, slots=True, kw_only=True)
class IncidentTimes:
    """One incident; seconds since the fault, null for what did not happen."""

    ticket: str
    detected_s: float | None
    ticket_s: float | None
    acted_s: float | None
    verified_s: float | None
    status: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """Whether the ledger verifies."""

    verified: bool
    events: int
    streams: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The demo's result."""

    ok: bool
    chaos: str
    times: int
    incidents: tuple[IncidentTimes, ...]
    ledger: Record
    leaked: Leaked
    model: str


def outcome(
    *, chaos: str, times: int, incidents: tuple[IncidentTimes, ...], ledger: Record, leaked: Leaked, model: str
) -> Outcome:
    """Put together; `ok` only if every incident was verified, the record verifies and nothing is left."""
    healed = len(incidents) >= times and all(each.status == "completed" and each.verified_s is not None for each in incidents)
    clean = leaked.processes == 0 and leaked.ports == 0
    return Outcome(
        ok=healed and ledger.verified and clean,
        chaos=chaos, times=times, incidents=incidents, ledger=ledger, leaked=leaked, model=model,
    )  # fmt: skip
