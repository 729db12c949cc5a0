"""What an account and a provider allow: errors in words, usage limits and when they are over, tokens by model."""

from __future__ import annotations

import re
from typing import Literal

from harness.sessions.dialects.codex.items import brief
from harness.sessions.dialects.fields import Object, as_object, count, number, part, text
from harness.sessions.facts import Limited, Retried
from harness.sessions.reports import Cumulative

Outcome = Literal["success", "error", "interrupted", "limit", "refused"]

LIMIT = "usage_limit"
WARNING = "usage_warning"

_LIMITS = frozenset({"usageLimitExceeded", "sessionBudgetExceeded"})
_REFUSALS = frozenset({"cyberPolicy", "misalignmentPolicyViolation", "inferenceHookDenied", "tooManyDenials"})
_WARN_PERCENT = 90
_ERROR = 2_000
_COUNTS = ("input_tokens", "output_tokens", "cached_tokens", "cache_write_tokens", "reasoning_tokens")
_NOTHING = Cumulative(model="")
_MAX_THREADS = 10_000
_ATTEMPT = re.compile(r"\b(\d{1,4})/(\d{1,4})\b")


def kind_of(error: Object) -> str:
    """The code in a `TurnError`: a word, or the name of an object's only field."""
    info = error.get("codexErrorInfo")
    named = as_object(info)
    return str(next(iter(named), "")) if named is not None else text(error, "codexErrorInfo")


def error_text(error: Object) -> str:
    """A `TurnError` in words, with its code and the provider's status where there are any."""
    kind = kind_of(error)
    status = number(part(part(error, "codexErrorInfo"), kind), "httpStatusCode")
    code = f" ({kind}{f' {status:.0f}' if status is not None else ''})" if kind else ""
    said = "\n".join(each for each in (f"{text(error, 'message')}{code}".strip(), text(error, "additionalDetails")) if each)
    return brief(said, _ERROR)


def outcome_of(status: str, error: Object) -> Outcome:
    """How a turn ended."""
    if status == "completed":
        return "success"
    if status == "interrupted":
        return "interrupted"
    kind = kind_of(error)
    return "limit" if kind in _LIMITS else "refused" if kind in _REFUSALS else "error"


def retried(error: Object) -> Retried:
    """The program tries again: "Reconnecting... 2/5" and why."""
    attempt = _ATTEMPT.search(text(error, "message"))
    why = text(error, "additionalDetails") or error_text(error)
    return Retried(
        attempt=int(attempt[1]) if attempt else 1, maximum=int(attempt[2]) if attempt else None, error=brief(why, _ERROR)
    )


class Allowance:
    """The account's windows as they were last told; each warning and each limit is reported once for a window."""

    def __init__(self) -> None:
        self._windows: dict[tuple[str, str], Object] = {}
        self._told: set[tuple[str, str, str, int]] = set()

    def take(self, snapshot: Object) -> list[Limited]:
        """A `RateLimitSnapshot`. What it leaves out stays as it was."""
        limit = text(snapshot, "limitId")
        found: list[Limited] = []
        for name in ("primary", "secondary"):
            window = part(snapshot, name)
            if not window or len(self._windows) > 100:
                continue
            self._windows[limit, name] = window
            if (kind := _kind(window)) and self._new(limit, name, kind, count(window, "resetsAt")):
                found.append(Limited(kind=kind, until_us=_resets_us(window)))
        reached = text(snapshot, "rateLimitReachedType") or ("spend" if snapshot.get("spendControlReached") is True else "")
        if reached and self._new(limit, reached, LIMIT, 0):
            found.append(Limited(kind=LIMIT, until_us=self.until_us()))
        return found

    def until_us(self) -> int | None:
        """When all windows that are used up are open again; None if none is known to be used up."""
        used = [window for window in self._windows.values() if _kind(window) == LIMIT]
        moments = [moment for window in used if (moment := _resets_us(window)) is not None]
        return max(moments, default=None)

    def _new(self, limit: str, name: str, kind: str, resets: int) -> bool:
        mark = (limit, name, kind, resets)
        new = mark not in self._told and len(self._told) < 1_000
        self._told.add(mark) if new else None
        return new


def _kind(window: Object) -> str:
    used = number(window, "usedPercent") or 0
    return LIMIT if used >= 100 else WARNING if used >= _WARN_PERCENT else ""


def _resets_us(window: Object) -> int | None:
    resets = number(window, "resetsAt")
    return None if not resets or resets < 0 or resets > 1e11 else round(resets * 1e6)


class Meter:
    """Tokens by model, over a thread and its sub-agents' threads.

    Each thread counts for itself, whatever model it uses, so what is new in its total goes to the model of the moment.
    The program counts what a cache held, and what was written into one, as input too; here input is the rest.
    """

    def __init__(self) -> None:
        self._threads: dict[str, Cumulative] = {}
        self._models: dict[str, Cumulative] = {}

    def take(self, thread: str, model: str, total: Object, turn: str, *, before: bool) -> Cumulative:
        """A thread's total, as the sum of its model. `before`: it was used before this process began."""
        now = tokens_of(total)
        last = self._threads.get(thread, _NOTHING)
        so_far = self._models.get(model, _NOTHING)
        counts = {name: getattr(so_far, name) + max(0, getattr(now, name) - getattr(last, name)) for name in _COUNTS}
        told = Cumulative(model=model, turn=turn, before=before, **counts)
        if len(self._threads) < _MAX_THREADS or thread in self._threads:
            self._threads[thread] = now
        if len(self._models) < _MAX_THREADS or model in self._models:
            self._models[model] = told
        return told


def tokens_of(total: Object, model: str = "", turn: str = "") -> Cumulative:
    """A `TokenUsageBreakdown`, or the `usage` of `codex exec`."""

    def of(camel: str, snake: str) -> int:
        return count(total, camel) or count(total, snake)

    cached = of("cachedInputTokens", "cached_input_tokens")
    written = of("cacheWriteInputTokens", "cache_write_input_tokens")
    return Cumulative(
        model=model, turn=turn, input_tokens=max(0, of("inputTokens", "input_tokens") - cached - written),
        output_tokens=of("outputTokens", "output_tokens"), cached_tokens=cached, cache_write_tokens=written,
        reasoning_tokens=of("reasoningOutputTokens", "reasoning_output_tokens"),
    )  # fmt: skip
