"""What is wrong with a service by the evidence, and what to do about it: an ordered table of rules. Pure.

The evidence is what the reading tools give, as JSON. No rule knows which fault was injected; what fits no rule is
`unknown`, and unknown is for people. This table is also the runbook that is followed when a model is away.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

Remedy = Literal["restart_service", "revert_config", "none", "wait", "escalate"]

RECENT_CHANGE_SECONDS = 1800.0
"""So long a change of the configuration is the first suspect of a failure that came after it."""

_RUNNING = frozenset({"ready", "started", "adopted", "not_ready"})
_COMING = frozenset({"starting", "started", "stopping", "backing_off"})
_CONFIG_WORDS = re.compile(
    r"\bconfig(?:uration)?\b[^\n]{0,60}\b(?:invalid|bad|error|not usable|unknown|missing|parse|cannot|broken)"
    r"|\b(?:unknown key|misconfigur\w*|parse error)\b"
    r"|\b(?:invalid|bad|cannot (?:read|parse|load))\b[^\n]{0,60}\b(?:config\w*|toml|json|key)\b",
    re.IGNORECASE,
)
_NO_ANSWER = re.compile(r"no answer within|timed out|timeout", re.IGNORECASE)
_UNREACHABLE = re.compile(r"does not answer|refused|connection broke|closed without an answer|reset", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckSign:
    """One check, as far as rules ask."""

    name: str
    result: str
    latency: bool  # it looks at how long an answer takes
    detail: str = ""
    status: int | None = None  # newest HTTP status
    took_ms: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Signs:
    """The evidence in the form that rules read."""

    state: str = "unknown"
    process: str = "unknown"
    exit_code: int | None = None
    exit_signal: int | None = None
    exit_ago: float | None = None
    blocked: str = ""
    blocked_reason: str = ""
    config_changed_ago: float | None = None
    config_put_back: bool = False
    checks: tuple[CheckSign, ...] = ()
    log: str = ""
    tried: Mapping[str, int] = field(default_factory=dict[str, int])  # actions of this incident that were done, by kind

    @property
    def failing(self) -> tuple[CheckSign, ...]:
        return tuple(check for check in self.checks if check.result == "fail")

    @property
    def passing(self) -> bool:
        """Whether everything that is checked is seen to be well."""
        return bool(self.checks) and all(check.result == "pass" for check in self.checks)

    @property
    def runs(self) -> bool:
        return self.state in _RUNNING and self.process not in ("gone", "stopped by a signal")

    @property
    def suspect_change(self) -> bool:
        """Whether the configuration was changed lately and that has not been put back."""
        ago = self.config_changed_ago
        return (
            ago is not None and ago < RECENT_CHANGE_SECONDS and not self.config_put_back and not self.tried.get("revert_config")
        )

    def restarts(self) -> int:
        return self.tried.get("restart_service", 0)


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What is likely wrong, and the remedy."""

    rule: str
    remedy: Remedy
    reason: str

    @property
    def known(self) -> bool:
        return self.rule != "unknown"


Condition = Callable[[Signs], str]
"""The reason in words if the rule fits, else nothing."""


def _foreign_port(signs: Signs) -> str:
    return signs.blocked_reason or "its port is taken" if signs.blocked == "port_taken" else ""


def _well(signs: Signs) -> str:
    return "its process runs and all its checks pass now" if signs.runs and signs.passing else ""


def _bad_configuration(signs: Signs) -> str:
    if not signs.suspect_change or signs.exit_signal is not None:
        return ""
    complains = _CONFIG_WORDS.search("\n".join((signs.log, *(check.detail for check in signs.checks))))
    changed = f"its configuration was changed {signs.config_changed_ago:.0f} s ago"
    if complains:
        return f"{changed}, and it says: {' '.join(complains[0].split())[:120]}"
    if signs.exit_code not in (None, 0) or signs.blocked == "command":
        return f"{changed}, and it does not run since"
    if signs.failing and signs.runs:
        return f"{changed}, and {signs.failing[0].name} fails since"
    return ""


def _cannot_start(signs: Signs) -> str:
    return signs.blocked_reason or "its command cannot be run" if signs.blocked == "command" else ""


def _stopped_on_purpose(signs: Signs) -> str:
    return "somebody stopped it on purpose" if signs.state == "stopped" else ""


def _killed(signs: Signs) -> str:
    if signs.state in ("exited", "gave_up") and signs.exit_signal is not None and signs.restarts() < 2:
        return f"its process was ended by signal {signs.exit_signal}, not by a failure of its own"
    return ""


def _crashed(signs: Signs) -> str:
    if signs.state in ("exited", "gave_up") and signs.exit_signal is None and signs.restarts() < 1:
        return f"its process ended with code {signs.exit_code}" if signs.exit_code is not None else "its process is gone"
    return ""


def _frozen(signs: Signs) -> str:
    return (
        "its process is stopped by a signal and does nothing"
        if signs.process == "stopped by a signal" and signs.restarts() < 2
        else ""
    )


def _hung(signs: Signs) -> str:
    mute = next((check for check in signs.failing if _NO_ANSWER.search(check.detail)), None)
    return (
        f"its process is there and gives no answer: {mute.name}: {mute.detail}"
        if mute and signs.runs and signs.restarts() < 1
        else ""
    )


def _unreachable(signs: Signs) -> str:
    deaf = next((check for check in signs.failing if _UNREACHABLE.search(check.detail)), None)
    return (
        f"its process is there and cannot be reached: {deaf.name}: {deaf.detail}"
        if deaf and signs.runs and signs.restarts() < 1
        else ""
    )


def _server_errors(signs: Signs) -> str:
    bad = next((check for check in signs.failing if check.status is not None and check.status >= 500), None)
    return f"it runs and answers with status {bad.status} ({bad.name})" if bad and signs.runs and signs.restarts() < 1 else ""


def _slow(signs: Signs) -> str:
    late = next((check for check in signs.failing if check.latency), None)
    if late is None or not signs.runs or signs.restarts() >= 1:
        return ""
    took = f" and took {late.took_ms:.0f} ms" if late.took_ms is not None else ""
    return f"it runs and answers, but too slowly{took} ({late.name}: {late.detail})"


def _coming(signs: Signs) -> str:
    return f"it is {signs.state.replace('_', ' ')}" if signs.state in _COMING else ""


def _not_healed(signs: Signs) -> str:
    if not signs.failing and signs.state not in ("exited", "gave_up"):
        return ""
    done = ", ".join(f"{kind} {count} times" if count > 1 else kind for kind, count in sorted(signs.tried.items()))
    return f"{done} did not heal it, and no rule knows more" if done else ""


RULES: tuple[tuple[str, Condition, Remedy], ...] = (
    ("foreign-port", _foreign_port, "escalate"),
    ("well", _well, "none"),
    ("stopped-on-purpose", _stopped_on_purpose, "escalate"),
    ("bad-configuration", _bad_configuration, "revert_config"),
    ("cannot-start", _cannot_start, "escalate"),
    ("killed", _killed, "restart_service"),
    ("crashed", _crashed, "restart_service"),
    ("frozen", _frozen, "restart_service"),
    ("coming", _coming, "wait"),
    ("hung", _hung, "restart_service"),
    ("unreachable", _unreachable, "restart_service"),
    ("server-errors", _server_errors, "restart_service"),
    ("slow", _slow, "restart_service"),
    ("not-healed", _not_healed, "escalate"),
)
"""The first rule that fits counts."""

UNKNOWN = Diagnosis("unknown", "escalate", "the evidence fits no rule")


def diagnose(signs: Signs) -> Diagnosis:
    """The first rule that fits the evidence, or `unknown`."""
    for name, condition, remedy in RULES:
        if reason := condition(signs):
            return Diagnosis(name, remedy, reason)
    return UNKNOWN


def signs_of(status: Mapping[str, Any], *, log: str = "", ticket: str = "") -> Signs:
    """The signs in a `service_status` result and the log's text. What has another shape than expected is no sign."""
    exited, blocked, config = _mapping(status.get("last_exit")), _mapping(status.get("blocked")), _mapping(status.get("config"))
    state = _text(status.get("state")) or "unknown"
    gone = state in ("exited", "gave_up")
    return Signs(
        state=state,
        process=_text(_mapping(status.get("process")).get("state")) or "unknown",
        exit_code=_number(exited.get("code")) if gone else None,
        exit_signal=_number(exited.get("signal")) if gone else None,
        exit_ago=_float(exited.get("seconds_ago")),
        blocked=_text(blocked.get("kind")),
        blocked_reason=_text(blocked.get("reason")),
        config_changed_ago=_float(config.get("changed_seconds_ago")),
        config_put_back=bool(config.get("put_back")),
        checks=tuple(_check(_mapping(each)) for each in _list(status.get("checks"))),
        log="\n".join(part for part in (_text(exited.get("output")) if gone else "", log) if part),
        tried=_tried(status, ticket),
    )


def _tried(status: Mapping[str, Any], ticket: str) -> dict[str, int]:
    tried: dict[str, int] = {}
    for action in map(_mapping, _list(status.get("actions"))):
        done = _text(action.get("outcome")) in ("succeeded", "failed", "unknown", "going on")
        if done and ticket and action.get("ticket") == ticket:
            kind = _text(action.get("kind"))
            tried[kind] = tried.get(kind, 0) + 1
    return tried


def _check(seen: Mapping[str, Any]) -> CheckSign:
    statuses, took = _list(seen.get("statuses")), _list(seen.get("latency_ms"))
    return CheckSign(
        name=_text(seen.get("check")),
        result=_text(seen.get("result")) or "unknown",
        latency=_text(seen.get("query")).startswith("latency:"),
        detail=_text(seen.get("detail")),
        status=_number(statuses[-1]) if statuses else None,
        took_ms=_float(took[-1]) if took else None,
    )


def _mapping(value: Any) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else {}


def _list(value: Any) -> Sequence[Any]:
    return cast("Sequence[Any]", value) if isinstance(value, list | tuple) else ()


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _float(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
