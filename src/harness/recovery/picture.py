"""What is known of the services: a fold of the supervisor's events, and what it means for a check.

Pure, but for a look at whether a process is still there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from harness.errors import LedgerError
from harness.ledger import Event
from harness.processes import Identity
from harness.recovery.facts import (
    OWN_PREFIX,
    ServiceAdopted,
    ServiceBackingOff,
    ServiceBlocked,
    ServiceDeclared,
    ServiceExited,
    ServiceGaveUp,
    ServiceNotReady,
    ServiceReady,
    ServiceStarted,
    ServiceStarting,
    ServiceStopped,
    ServiceStopping,
    fact_of,
)


class Phase(StrEnum):
    """What a failing check means while the service is in it."""

    UNKNOWN = "unknown"  # no supervisor has said anything: the checks count
    UP = "up"  # it ought to work: the checks count
    COMING = "coming"  # being started or restarted: a failure says nothing yet
    RESTING = "resting"  # stopped on purpose: a failure is no surprise
    DOWN = "down"  # it ended, or cannot be started, and nobody but an action will start it: hard evidence


_TRANSIENT = {
    ServiceStarting.TYPE: "it is being started",
    ServiceStarted.TYPE: "it was started and is not ready yet",
    ServiceBackingOff.TYPE: "its supervisor is about to restart it",
    ServiceStopping.TYPE: "it is being stopped",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """One service, as of its newest event."""

    name: str
    phase: Phase = Phase.UNKNOWN
    state: str = ""  # the newest event's type
    words: str = ""  # the state in words
    identity: Identity | None = None
    declared: ServiceDeclared | None = None
    restarts: int = 0
    since_us: int = 0
    ref: str = ""  # the newest state's event
    facts: Mapping[str, str | int | float | bool | None] = field(default_factory=dict[str, str | int | float | bool | None])

    @property
    def own(self) -> bool:
        """Whether it is one of Harness's own processes, which nobody but the supervisor restarts."""
        return self.name.startswith(OWN_PREFIX)

    @property
    def removed(self) -> bool:
        """Whether nobody declares it any longer, so that nothing about it is anybody's business."""
        return self.declared is not None and self.declared.removed

    def running(self) -> bool:
        """Whether its process is there right now."""
        return self.identity is not None and self.identity.alive()

    def evidence(self) -> dict[str, object]:
        """The fields of a check of kind `process`; nothing if no supervisor has said anything."""
        if not self.state:
            return {}
        running = self.running()
        pid = self.identity.pid if self.identity and running else None
        return {"running": running, "state": self.state.partition(".")[2], "pid": pid, "restarts": self.restarts}

    def excuse(self) -> str:
        """Why a failing check says nothing about the service now; empty if it does."""
        return f"{self.name}: {self.words}" if self.phase in (Phase.COMING, Phase.RESTING) else ""


def apply(life: Life, event: Event) -> Life:
    """The service after one more event. Types that say nothing of its process, and odd payloads, change nothing."""
    try:
        fact = fact_of(event)
    except LedgerError:  # anybody can write to a stream; the monitor goes on
        return life
    if isinstance(fact, ServiceDeclared):
        return replace(life, declared=fact)
    phase, words, identity = life.phase, "", life.identity
    match fact:
        case ServiceStarting():
            phase, words, identity = Phase.COMING, _TRANSIENT[fact.TYPE], None
            life = replace(life, restarts=fact.restarts)
        case ServiceStarted():
            identity = Identity(pid=fact.pid, started=fact.started)
            ready = life.declared is not None and not life.declared.ready
            phase, words = (Phase.UP, "it runs") if ready else (Phase.COMING, _TRANSIENT[fact.TYPE])
        case ServiceAdopted():
            phase, words, identity = Phase.UP, "it runs, adopted", Identity(pid=fact.pid, started=fact.started)
        case ServiceReady():
            phase, words = Phase.UP, "it is ready"
        case ServiceNotReady():
            phase, words = Phase.UP, f"it did not become ready: {fact.reason}"
        case ServiceExited():
            phase, words = _exited(life, fact)
        case ServiceBackingOff():
            phase, words = Phase.COMING, _TRANSIENT[fact.TYPE]
        case ServiceGaveUp():
            phase, words = Phase.DOWN, f"its supervisor gave up after {fact.restarts} restarts: {fact.reason}"
        case ServiceBlocked(kind="dependency"):
            phase, words = Phase.COMING, f"it waits for what it depends on: {fact.reason}"
        case ServiceBlocked() if life.own:
            phase, words = Phase.COMING, f"its supervisor cannot start it now: {fact.reason}"
        case ServiceBlocked():
            phase, words = Phase.DOWN, f"it cannot be started: {fact.reason}"
        case ServiceStopping():
            phase, words = Phase.COMING, _TRANSIENT[fact.TYPE]
        case ServiceStopped():
            phase, words = Phase.RESTING, "it was stopped on purpose"
        case _:
            return life
    return replace(
        life, phase=phase, words=words, identity=identity, state=event.type, since_us=event.ts, ref=event.ref, facts=_told(fact)
    )  # fmt: skip


def _exited(life: Life, fact: ServiceExited) -> tuple[Phase, str]:
    how = f"signal {fact.signal}" if fact.signal is not None else f"code {fact.code}" if fact.code is not None else "its end"
    words = f"its process ended with {how} after {fact.ran_seconds:.1f} s"
    restart = life.declared.restart if life.declared else "agent"
    match restart:
        case "always":
            return Phase.COMING, words
        case "on-failure" if fact.code != 0:
            return Phase.COMING, words
        case "on-failure" | "never" if fact.code == 0:
            return Phase.RESTING, words
        case _:
            return Phase.DOWN, words


def _told(fact: object) -> dict[str, str | int | float | bool | None]:
    names = getattr(fact, "__struct_fields__", ())
    values = {name: getattr(fact, name) for name in names if name not in ("last_output", "tag")}
    return {name: value for name, value in values.items() if isinstance(value, str | int | float | bool | None)}
