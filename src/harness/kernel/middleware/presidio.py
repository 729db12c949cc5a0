"""Microsoft Presidio as a detector: names, places and what else its language models find (extra `presidio`)."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from harness.errors import UsageError
from harness.kernel.middleware.detectors import Finding


class PresidioDetector:
    """Finds what a Presidio analyzer finds with at least `threshold`; `entities` of None are all that it knows.

    Give `PIIScrubberMiddleware(more=[PresidioDetector()])`. Its language model decides, so another version of it may
    find something else in the same text; recorded steps would then count as asked otherwise. Raises `UsageError` if Presidio
    or its language model is missing.
    """

    def __init__(
        self, *, language: str = "en", entities: Collection[str] | None = None, threshold: float = 0.6, analyzer: Any = None
    ) -> None:
        self._language = language
        self._entities = None if entities is None else sorted(entities)
        self._threshold = threshold
        self._analyzer = analyzer if analyzer is not None else _analyzer()

    def find(self, text: str) -> Iterator[Finding]:
        for found in self._analyzer.analyze(text=text, language=self._language, entities=self._entities):
            if found.score >= self._threshold:
                yield Finding(found.start, found.end, str(found.entity_type))


def _analyzer() -> Any:
    try:
        from presidio_analyzer import (  # pyright: ignore[reportMissingImports]
            AnalyzerEngine,  # pyright: ignore[reportUnknownVariableType]
        )
    except ImportError as error:
        raise UsageError("PresidioDetector needs presidio-analyzer: pip install 'agentharness[presidio]'") from error
    try:
        return AnalyzerEngine()  # pyright: ignore[reportUnknownVariableType]
    except (OSError, ValueError) as error:
        raise UsageError(f"Presidio cannot start: {error}; it needs a spaCy model, such as en_core_web_lg") from error
