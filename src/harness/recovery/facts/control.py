"""`control/…`: who supervises and monitors this home, and whether agents may act."""

from __future__ import annotations

from typing import ClassVar

from harness.recovery.facts.vocabulary import PAUSE_KEY, STATE_KEY, Fact


class RecoveryPaused(Fact, frozen=True, kw_only=True):
    """No agent acts until unpaused; survives every restart."""

    TYPE: ClassVar[str] = "recovery.paused"
    KEY: ClassVar[str | None] = PAUSE_KEY

    by: str
    reason: str = ""


class RecoveryUnpaused(Fact, frozen=True, kw_only=True):
    """Agents may act again."""

    TYPE: ClassVar[str] = "recovery.unpaused"
    KEY: ClassVar[str | None] = PAUSE_KEY

    by: str
    reason: str = ""


class MonitorStarted(Fact, frozen=True, kw_only=True):
    """A monitor looks from now on."""

    TYPE: ClassVar[str] = "monitor.started"
    KEY: ClassVar[str | None] = STATE_KEY

    pid: int
    started: int
    checks: int


class SupervisorStarted(Fact, frozen=True, kw_only=True):
    """A supervisor took this home over."""

    TYPE: ClassVar[str] = "supervisor.started"
    KEY: ClassVar[str | None] = STATE_KEY

    pid: int
    started: int
    services: tuple[str, ...]
    adopted: int = 0


class SupervisorStopped(Fact, frozen=True, kw_only=True):
    """It ended everything it owned and let go."""

    TYPE: ClassVar[str] = "supervisor.stopped"
    KEY: ClassVar[str | None] = STATE_KEY

    pid: int
    reason: str
