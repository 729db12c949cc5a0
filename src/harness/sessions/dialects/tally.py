"""Tokens by model, added up from a program's own record, and where this run began to use them. Pure."""

from __future__ import annotations

from harness.sessions.reports import Cumulative, Report

Counts = tuple[int, int, int, int, int]
"""Tokens: input that no cache held, output, read from a cache, written into one, reasoned."""

NOTHING: Counts = (0, 0, 0, 0, 0)
_MAX_MODELS = 1_000


def plus(one: Counts, other: Counts, times: int = 1) -> Counts:
    """The sum, or with `times` -1 the difference."""
    (a, b, c, d, e), (v, w, x, y, z) = one, other
    return a + times * v, b + times * w, c + times * x, d + times * y, e + times * z


class Tally:
    """Adds up, and tells each model's counters when they have moved.

    Where a model's counters begin is told before they are told first, also if it is at nothing: a run that this one
    continues may have counted more of it than this record knows.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Counts] = {}
        self._told: dict[str, Counts] = {}
        self._before: dict[str, Counts] = {}  # used before this run, and not told yet

    def add(self, model: str, counts: Counts, *, before: bool = False) -> None:
        """Tokens of a model; `before`: this run has not used them."""
        if model not in self._sums and len(self._sums) >= _MAX_MODELS:
            return
        self._sums[model] = plus(self._sums.get(model, NOTHING), counts)
        if before:
            self._before[model] = plus(self._before.get(model, NOTHING), counts)

    def told(self, turn: str) -> list[Report]:
        """The counters that have moved since they were told."""
        reports: list[Report] = []
        for model, sums in self._sums.items():
            last = self._told.get(model)
            before = self._before.pop(model, NOTHING)
            base = plus(last or NOTHING, before)
            if last is None or before != NOTHING:
                reports.append(_cumulative(model, base, turn, before=True))
            if sums != base:
                reports.append(_cumulative(model, sums, turn))
            self._told[model] = sums
        return reports


def _cumulative(model: str, counts: Counts, turn: str, *, before: bool = False) -> Cumulative:
    input_, output, cached, written, reasoned = counts
    return Cumulative(
        model=model, turn=turn, before=before, input_tokens=input_, output_tokens=output, cached_tokens=cached,
        cache_write_tokens=written, reasoning_tokens=reasoned,
    )  # fmt: skip
