"""Tokens and money as Claude Code counts them: sums over the vendor's session, in every result, by model."""

from __future__ import annotations

from msgspec.structs import replace

from harness.sessions.dialects.fields import Object, as_object, count, number, part
from harness.sessions.reports import Cumulative


class Meter:
    """Reads the counters of results, and where they stood before this process began to count.

    A continued session goes on from what was saved when its program last ended well; after a kill, and after `/clear`, it
    counts from the start again. So where the counters are first seen, or have gone back, what was used since the result
    before is taken off, and the rest is reported as used by others; of a session that is `resumed`, also if it is nothing.
    """

    def __init__(self, *, resumed: bool = False) -> None:
        self._resumed = resumed
        self._last: dict[str, Cumulative] = {}

    def read(self, result: Object, turn: str) -> list[Cumulative]:
        """What a result tells of each model whose counters have moved. Input tokens are those that no cache held."""
        found: list[Cumulative] = []
        fresh = part(result, "model_usage_since_last_result")
        for model, counters in part(result, "modelUsage").items():
            now = _read(model, as_object(counters) or {}, turn)
            before = self._last.get(model)
            if before == replace(now, turn=before.turn if before else ""):
                continue
            if before is None or _went_back(before, now):
                since = as_object(fresh.get(model))
                base = _without(now, _read(model, since, turn)) if since is not None else Cumulative(model=model, turn=turn)
                if before is not None or _total(base) or (self._resumed and since is not None):
                    found.append(replace(base, before=True))
            self._last[model] = now
            found.append(now)
        return found


def _read(model: str, counters: Object, turn: str) -> Cumulative:
    return Cumulative(
        model=model, turn=turn, input_tokens=count(counters, "inputTokens"), output_tokens=count(counters, "outputTokens"),
        cached_tokens=count(counters, "cacheReadInputTokens"), cache_write_tokens=count(counters, "cacheCreationInputTokens"),
        reasoning_tokens=count(counters, "thinkingTokens"), cost_usd=number(counters, "costUSD"),
    )  # fmt: skip


def _counts(of: Cumulative) -> tuple[int, int, int, int, int]:
    return of.input_tokens, of.output_tokens, of.cached_tokens, of.cache_write_tokens, of.reasoning_tokens


def _total(of: Cumulative) -> int:
    return sum(_counts(of))


def _went_back(before: Cumulative, now: Cumulative) -> bool:
    return any(new < old for old, new in zip(_counts(before), _counts(now), strict=True))


def _without(now: Cumulative, since: Cumulative) -> Cumulative:
    input_, output, cached, written, reasoned = (
        max(0, new - old) for new, old in zip(_counts(now), _counts(since), strict=True)
    )
    cost = None if now.cost_usd is None else max(0.0, now.cost_usd - (since.cost_usd or 0.0))
    return replace(
        now, input_tokens=input_, output_tokens=output, cached_tokens=cached, cache_write_tokens=written,
        reasoning_tokens=reasoned, cost_usd=cost,
    )  # fmt: skip
