"""`check/NAME`: changes of a check and what people said about it, never samples."""

from __future__ import annotations

from typing import Any, ClassVar

from msgspec import field

from harness.recovery.facts.vocabulary import DECLARED_KEY, DISMISSED_KEY, SILENCE_KEY, STATE_KEY, CheckResult, Fact


class CheckDeclared(Fact, frozen=True, kw_only=True):
    """What is checked. Written when it differs from what was declared last."""

    TYPE: ClassVar[str] = "check.declared"
    KEY: ClassVar[str | None] = DECLARED_KEY

    name: str
    query: str
    condition: str = ""
    target: str = ""
    description: str = ""
    enabled: bool = True
    interval_seconds: float = 5.0
    timeout_seconds: float = 3.0
    fail_after: int = 2
    fail_window: int = 3
    recover_after: int = 3
    priority: str = "high"
    labels: dict[str, str] = field(default_factory=dict[str, str])
    origin: str = "file"  # file: harness.toml | api: added while running
    removed: bool = False


class CheckChanged(Fact, frozen=True, kw_only=True):
    """A check's result or its hard state changed."""

    TYPE: ClassVar[str] = "check.changed"
    KEY: ClassVar[str | None] = STATE_KEY

    name: str
    result: CheckResult
    before: CheckResult | None = None  # None: the first result
    hard: bool = False  # the change is believed: enough results in a row, or hard evidence
    target: str = ""
    observed: str = ""  # in words: "status 503", "connection refused", "412 ms"
    evidence: dict[str, Any] = field(default_factory=dict[str, Any])
    sampled_us: int = 0
    reason: str = ""


class CheckSilenced(Fact, frozen=True, kw_only=True):
    """No tickets for this check or target for a while. The stream is `check/` and the check's or target's name."""

    TYPE: ClassVar[str] = "check.silenced"
    KEY: ClassVar[str | None] = SILENCE_KEY

    subject: str
    until_us: int  # in the past: the silence is over
    reason: str = ""
    by: str = ""


class CheckDismissed(Fact, frozen=True, kw_only=True):
    """The analyst wants no ticket for this failure now; it is asked again after `until_us`."""

    TYPE: ClassVar[str] = "check.dismissed"
    KEY: ClassVar[str | None] = DISMISSED_KEY

    subject: str  # the target, or the check if it has none
    fingerprint: str
    until_us: int
    by: str
    reason: str = ""
    run: str = ""
