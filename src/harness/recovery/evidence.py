"""What an agent may see of a service: its state, exits, configuration changes, actions, checks, samples and log.

Reads the ledger, the samples and the captured output; decides nothing, changes nothing. Everything that the service
itself wrote is fenced and without secrets. Faults that somebody injected are not told: an agent has to find them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.clock import MICROSECONDS, iso
from harness.ledger import Event, Store
from harness.recovery.checks import Sample
from harness.recovery.declarations import Declarations, Invariant
from harness.recovery.facts import (
    DECLARED_KEY,
    STATE_KEY,
    ActionCompleted,
    ActionRefused,
    ActionRequested,
    ActionStarted,
    CheckChanged,
    ConfigChanged,
    ServiceBlocked,
    ServiceExited,
    check_stream,
    fact_of,
    service_stream,
)
from harness.recovery.folders import log_path
from harness.recovery.picture import Life, apply
from harness.recovery.registry import declared_checks, invariant_of
from harness.recovery.samples import read_samples
from harness.text import cleaned, fenced

_EVENTS = 120  # of a service's stream, the newest
_RECENT = 8
MAX_LOG_LINES = 200
_LOG_BYTES = 256 * 1024  # of which less than a tenth is shown, but no secret is to be cut in two where it is
_PROCESS_STATES = {
    "R": "running", "S": "sleeping", "D": "waiting for the disk", "T": "stopped by a signal", "t": "stopped by a debugger",
    "Z": "gone", "X": "gone",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Evidence:
    """Looks at one home. `known` are secrets to mask."""

    store: Store
    declarations: Declarations
    home: Path
    known: Sequence[str] = ()

    async def service(self, name: str) -> dict[str, Any]:
        """What is known of one service now."""
        service = self.declarations.service(name)
        events = await self._events(name)
        life = Life(name=name)
        for event in events:
            life = apply(life, event)
        now = self.store.clock.now_us()
        seen: dict[str, Any] = {
            "service": name,
            "declared": service is not None,
            "state": life.state.partition(".")[2] or "unknown",
            "words": life.words,
            "since_seconds": _ago(now, life.since_us),
            "process": {
                "pid": life.identity.pid if life.identity else None,
                "state": process_state(life),
            },
            "last_exit": self._last_exit(events, now),
            "blocked": self._blocked(life, events),
            "config": self._config(events, now),
            "actions": self._actions(events, now),
            "checks": [await self._check(check, now) for check in await self.checked(name)],
        }
        if service is not None:
            seen["restart_policy"] = service.restart
            seen["depends_on"] = list(service.depends_on)
            seen["config_file"] = service.config
        return seen

    async def checks(self, target: str) -> list[dict[str, Any]]:
        """What the target's checks say now."""
        now = self.store.clock.now_us()
        return [await self._check(check, now) for check in await self.checked(target)]

    async def checked(self, target: str) -> list[Invariant]:
        """The enabled checks of a target: as the monitor recorded them, else as they are declared."""
        recorded = [invariant_of(fact) for fact in await declared_checks(self.store)]
        return [check for check in recorded or self.declarations.invariants if check.target == target and check.enabled]

    async def _events(self, name: str) -> list[Event]:
        stream = service_stream(name)
        head = await self.store.head(stream)
        if head is None:
            return []
        events = await self.store.read(stream, after=max(0, head.seq - _EVENTS))
        missing = [await self.store.latest(stream, key) for key in (DECLARED_KEY, STATE_KEY)]
        first = events[0].seq if events else 0
        return [event for event in missing if event is not None and event.seq < first] + events

    def _last_exit(self, events: Sequence[Event], now: int) -> dict[str, Any] | None:
        for event in reversed(events):
            fact = _fact(event)
            if isinstance(fact, ServiceExited):
                return {
                    "code": fact.code,
                    "signal": fact.signal,
                    "ran_seconds": round(fact.ran_seconds, 1),
                    "seconds_ago": _ago(now, event.ts),
                    "output": fenced(fact.last_output, name="last output", known=self.known, limit=2000),
                }
        return None

    def _blocked(self, life: Life, events: Sequence[Event]) -> dict[str, Any] | None:
        if life.state != ServiceBlocked.TYPE:
            return None
        for event in reversed(events):
            fact = _fact(event)
            if isinstance(fact, ServiceBlocked):
                return {"kind": fact.kind, "reason": cleaned(fact.reason, known=self.known, limit=500), "pid": fact.pid}
        return None

    def _config(self, events: Sequence[Event], now: int) -> dict[str, Any] | None:
        for event in reversed(events):
            fact = _fact(event)
            if isinstance(fact, ConfigChanged):
                return {
                    "path": fact.path,
                    "changed_seconds_ago": _ago(now, event.ts),
                    "changed_at": iso(event.ts),
                    "by_action": fact.action_id,
                    "put_back": bool(fact.reverts),
                    "version": fact.after,
                    "version_before": fact.before,
                    "diff": fenced(fact.diff, name=f"change of {fact.path}", known=self.known, limit=4000),
                }
        return None

    def _actions(self, events: Sequence[Event], now: int) -> list[dict[str, Any]]:
        """The newest actions with how they ended, oldest first."""
        found: dict[str, dict[str, Any]] = {}
        for event in events:
            match _fact(event):
                case ActionRequested() as asked:
                    found[asked.action_id] = {
                        "action_id": asked.action_id, "kind": asked.kind.value, "arguments": asked.arguments,
                        "by": asked.requested_by, "ticket": asked.ticket, "outcome": "requested", "detail": "",
                        "seconds_ago": _ago(now, event.ts),
                    }  # fmt: skip
                case ActionStarted() as begun if begun.action_id in found:
                    found[begun.action_id]["outcome"] = "going on"
                case ActionCompleted() as done if done.action_id in found:
                    detail = cleaned(done.detail, known=self.known, limit=500)
                    found[done.action_id] |= {"outcome": done.outcome.value, "detail": detail}
                case ActionRefused() as refused if refused.action_id in found:
                    found[refused.action_id] |= {"outcome": "refused", "detail": refused.reason}
                case _:
                    pass
        return list(found.values())[-_RECENT:]

    async def _check(self, check: Invariant, now: int) -> dict[str, Any]:
        newest = await self.store.latest(check_stream(check.name), STATE_KEY)
        changed = _fact(newest) if newest is not None else None
        samples = read_samples(self.home, check=check.name, limit=_RECENT)
        seen: dict[str, Any] = {
            "check": check.name,
            "query": check.query,
            "condition": check.condition,
            "result": "unknown",
            "hard": False,
            "detail": "",
            "recent": [sample.result.value for sample in samples],
            "latency_ms": [sample.took_ms for sample in samples],
            "statuses": [sample.evidence["status"] for sample in samples if "status" in sample.evidence],
            "age_seconds": _ago(now, samples[-1].ended_us) if samples else None,
        }
        if isinstance(changed, CheckChanged) and newest is not None:
            seen |= {
                "result": changed.result.value,
                "hard": changed.hard,
                "detail": self._said(changed.observed or changed.reason),
            }
        if samples and (newest is None or samples[-1].ended_us > newest.ts):
            seen |= {"result": samples[-1].result.value, "detail": self._said(samples[-1].detail)}
        return seen

    def _said(self, text: str) -> str:
        return cleaned(text, known=self.known, limit=300).replace("\n", " ")

    def metrics(self, target: str, *, check: str = "", seconds: float = 300.0) -> dict[str, Any]:
        """The newest results of the checks of a target in numbers."""
        now = self.store.clock.now_us()
        since = now - round(seconds * MICROSECONDS)
        samples = read_samples(self.home, check=check, target=target, since_us=since, limit=5000)
        named = {
            name: self._numbers([sample for sample in samples if sample.check == name], now)
            for name in sorted({sample.check for sample in samples})
        }
        return {"target": target, "seconds": seconds, "checks": named}

    def _numbers(self, samples: Sequence[Sample], now: int) -> dict[str, Any]:
        took = sorted(sample.took_ms for sample in samples)
        newest = [
            {
                "seconds_ago": _ago(now, sample.ended_us),
                "result": sample.result.value,
                "took_ms": sample.took_ms,
                "detail": self._said(sample.detail),
            }
            for sample in samples[-_RECENT:]
        ]
        p95 = took[min(len(took) - 1, len(took) * 95 // 100)]
        return {
            "samples": len(samples),
            "results": dict(Counter(sample.result.value for sample in samples)),
            "latency_ms": {"p50": took[len(took) // 2], "p95": p95, "max": took[-1]},
            "newest": newest,
        }

    def logs(self, name: str, *, lines: int = 50, search: str = "") -> dict[str, Any]:
        """The newest captured lines of a service, or the newest that contain `search`."""
        from harness.processes import LogReader

        reader = LogReader(log_path(self.home, name))
        lines = max(1, min(lines, MAX_LOG_LINES))
        found = reader.search(search, limit=lines, ignore_case=True) if search else reader.tail(lines, max_bytes=_LOG_BYTES)
        text = "\n".join(line.text for line in found)[-_LOG_BYTES:]
        return {"service": name, "lines": len(found), "log": fenced(text, name=f"log of {name}", known=self.known)}


def process_state(life: Life) -> str:
    """What the system says of the service's process; `unknown` where it does not say."""
    if life.identity is None or not life.running():
        return "gone"
    try:
        data = Path(f"/proc/{life.identity.pid}/stat").read_bytes()
    except OSError:
        return "unknown"
    return _PROCESS_STATES.get(data[data.rindex(b")") + 2 :][:1].decode(), "unknown")


def _fact(event: Event) -> object:
    return fact_of(event)


def _ago(now_us: int, then_us: int) -> float | None:
    return round((now_us - then_us) / MICROSECONDS, 1) if then_us else None
