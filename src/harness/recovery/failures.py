"""What is wrong, and which ticket it belongs to. Pure.

A service that dies fails all of its checks, and one ticket is what a person wants to see. So failures are grouped by
their **subject**: the service they are about, or the check itself if no service is known. What makes two failures of a
subject the same is how bad they are, not which check happened to notice first:

| severity | evidence |
|---|---|
| down | the process ended, cannot be started, or gives no answer |
| degraded | it answers, and wrongly or slowly |
| blind | nobody can tell: a check cannot look, or does not work |

The fingerprint is kind + check + target + labels. For a service the kind is the severity and the check is `*`, so that
a hang noticed by one check today and by another tomorrow recurs as one; for a check alone they are its own.

A worse failure joins a ticket that somebody will still work on. If that ticket waits for a person (blocked, parked),
it gets one of its own: a service that dies while its slowness awaits approval is not overlooked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import quote

import msgspec

from harness.recovery.checks import Sample
from harness.recovery.facts import CheckResult
from harness.work import Status


class Severity(StrEnum):
    """How bad it is; see the module."""

    DOWN = "down"
    DEGRADED = "degraded"
    BLIND = "blind"


_RANK = {Severity.BLIND: 0, Severity.DEGRADED: 1, Severity.DOWN: 2}
_ACTED_ON = frozenset({Status.PENDING, Status.IN_PROGRESS, Status.VERIFYING})


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """One failure of one subject, as far as it is known when a ticket is considered."""

    subject: str  # the target, or the check if no target is known
    target: str  # the service; empty if none is known
    severity: Severity
    root: str  # what showed it first: the check's name, or `process:NAME`
    kind: str  # of the root: http, latency, tcp, process
    observed: str  # in words
    detected_us: int  # when the first evidence was seen
    ref: str = ""  # the event that proves it, as `stream#seq`
    priority: str = "high"
    labels: dict[str, str] = {}
    checks: tuple[str, ...] = ()  # of the subject, failing ones first

    @property
    def fingerprint(self) -> str:
        """kind:check:target:labels, percent-encoded, so that no part can pretend to be another."""
        kind, check = (self.severity.value, "*") if self.target else (self.kind, self.root)
        labels = ",".join(f"{_plain(name)}={_plain(value)}" for name, value in sorted(self.labels.items()))
        return f"{_plain(kind)}:{check if check == '*' else _plain(check)}:{_plain(self.target)}:{labels}"

    @property
    def title(self) -> str:
        """What the ticket is called."""
        what = {
            Severity.DOWN: f"{self.subject} is down",
            Severity.DEGRADED: f"{self.subject} does not work as it should",
            Severity.BLIND: f"{self.subject} cannot be checked",
        }[self.severity]
        return f"{what}: {self.observed}"[:200]


def _plain(text: str) -> str:
    return quote(text, safe="")


@dataclass(frozen=True, slots=True)
class OpenTicket:
    """As much of an open ticket as routing asks for."""

    id: str
    status: Status
    severity: Severity
    fingerprint: str


def home_of(failure: Failure, tickets: Iterable[OpenTicket]) -> OpenTicket | None:
    """The open ticket of the same subject that this failure belongs to; None if it needs one of its own."""
    tickets = tuple(tickets)
    same = next((ticket for ticket in tickets if ticket.fingerprint == failure.fingerprint), None)
    return same or next((ticket for ticket in tickets if _covers(ticket, failure)), None)


def _covers(ticket: OpenTicket, failure: Failure) -> bool:
    return ticket.status in _ACTED_ON or _RANK[ticket.severity] >= _RANK[failure.severity]


def severity_of(sample: Sample) -> Severity:
    """What one result says about how bad it is."""
    if sample.result is not CheckResult.FAIL:
        return Severity.BLIND
    return Severity.DEGRADED if sample.answered else Severity.DOWN


def worst(severities: Iterable[Severity]) -> Severity:
    """The worst of several; blind if there are none."""
    return max(severities, key=_RANK.__getitem__, default=Severity.BLIND)


def labels_of(failure: Failure) -> Mapping[str, str]:
    """What the ticket's item is found by."""
    return {
        **failure.labels, "subject": failure.subject, "target": failure.target, "severity": failure.severity.value,
        "check": failure.root,
    }  # fmt: skip
