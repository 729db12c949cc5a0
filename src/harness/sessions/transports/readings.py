"""Readings as they are told: apart for each source, and only when they change."""

from __future__ import annotations

from collections.abc import Callable

from harness.sessions.facts import Source, State
from harness.sessions.reports import Reading, Report


class Readings:
    """Lets through what is new. A source that has never said anything need not say that it knows nothing."""

    def __init__(self, tell: Callable[[Report], object]) -> None:
        self._tell = tell
        self._last: dict[Source, tuple[State, str, float]] = {}

    def read(self, reading: Reading) -> None:
        """Tell a reading if its source said something else before."""
        now = (reading.state, reading.detail, reading.confidence)
        before = self._last.get(reading.source)
        if now == before or (before is None and reading.state is State.UNKNOWN):
            return
        self._last[reading.source] = now
        self._tell(reading)
