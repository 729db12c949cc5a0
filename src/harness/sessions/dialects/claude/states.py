"""What the agent is doing, as Claude Code says it or, where it does not, as its messages show."""

from __future__ import annotations

from harness.sessions.dialects.claude.items import brief
from harness.sessions.dialects.fields import Object, count, number, text, truth
from harness.sessions.facts import Limited, Noted, Retried, Source, State
from harness.sessions.reports import Progress, Reading, Report

_WORD = 80


def reading(state: State, evidence: str, *, detail: str = "", confidence: float = 1.0) -> Reading:
    """What the protocol says of the state."""
    return Reading(state=state, source=Source.PROTOCOL, detail=detail, confidence=confidence, evidence=evidence)


class States:
    """The state that the program told last, and a usage limit that holds it.

    The program calls itself idle when a limit has ended its turn; it is limited until the limit ends or another turn runs.
    """

    def __init__(self) -> None:
        self._said = ""  # as the program called it last; empty: it does not say
        self._limit: Reading | None = None

    @property
    def told(self) -> bool:
        """Whether this program tells its state at all."""
        return bool(self._said)

    @property
    def working(self) -> bool:
        """Whether it has said that something is under way."""
        return self._said in ("running", "requires_action")

    @property
    def limited(self) -> bool:
        """Whether a usage limit holds the turn under way, or has ended the last one."""
        return self._limit is not None

    def changed(self, said: str) -> list[Report] | None:
        """A `session_state_changed` line; None if the state is one that we do not know."""
        evidence = f"session_state_changed {said}"
        match said:
            case "running":
                if not self.working:
                    self._limit = None
                found = reading(State.BUSY, evidence)
            case "requires_action":
                found = reading(State.BLOCKED, evidence, detail="permission")
            case "idle":
                found = self._limit or reading(State.PROMPT, evidence)
            case _:
                return None
        self._said = said
        return [found]

    def shown(self, state: State, evidence: str) -> list[Report]:
        """What a message shows of the state of a program that does not tell it."""
        if self._said:
            return []
        if state is State.PROMPT and self._limit is not None:
            return [self._limit]
        return [reading(state, evidence, confidence=0.9)]

    def rate_limit(self, info: Object) -> list[Report]:
        """A `rate_limit_event` line."""
        status, kind = text(info, "status"), brief(text(info, "rateLimitType"), _WORD) or "usage"
        if status == "rejected" and not truth(info, "isUsingOverage"):
            resets = number(info, "resetsAt")
            until_us = round(resets * 1e6) if resets is not None and resets > 0 else None
            self._limit = Reading(
                state=State.LIMITED,
                source=Source.PROTOCOL,
                detail=kind,
                until_us=until_us,
                evidence="rate_limit_event rejected",
            )
            return [Limited(kind=kind, until_us=until_us), self._limit]
        freed = self._freed("rate_limit_event")
        if status == "allowed":
            return [Progress(what="heartbeat"), *freed]
        used = number(info, "utilization")
        told = f"{kind}: {status}" if used is None else f"{kind}: {status}, {used:.0%} used"
        return [Noted(kind="rate_limit", text=brief(told)), *freed]

    def answered(self, line: Object) -> list[Report]:
        """An `assistant` line: if the model has answered after all, a limit that was announced does not hold this turn."""
        failed = text(line, "error") or truth(line, "is_api_error_message")
        return [] if failed else self._freed("assistant")

    def _freed(self, evidence: str) -> list[Report]:
        if self._limit is None:
            return []
        self._limit = None
        return [reading(State.PROMPT if self._said == "idle" else State.BUSY, evidence)]


def retried(line: Object) -> list[Report]:
    """An `api_retry` line: the provider failed, and the program tries again by itself."""
    status, delay = number(line, "error_status"), number(line, "retry_delay_ms")
    error = text(line, "error")
    told = Retried(
        attempt=count(line, "attempt"), maximum=count(line, "max_retries") or None,
        delay_seconds=None if delay is None else max(0.0, delay / 1000),
        error=brief(f"{status:.0f} {error}" if status is not None else error),
    )  # fmt: skip
    return [told, reading(State.BUSY, "api_retry")]
