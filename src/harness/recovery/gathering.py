"""What the analyst gets to see of a failure: the board, the newest samples, the service's own log and configuration."""

from __future__ import annotations

import os
from pathlib import Path

from harness.recovery.analyst import CheckEvidence, Evidence
from harness.recovery.board import Board, Known
from harness.recovery.checks import Sample
from harness.recovery.failures import Failure
from harness.recovery.picture import Phase
from harness.recovery.samples import read_samples
from harness.text import decoded

LOG_BYTES = 6_000
CONFIGURATION_BYTES = 4_000
_SAMPLES = 12


def gather(board: Board, failure: Failure, *, home: Path, root: Path, earlier: tuple[str, ...] = ()) -> Evidence:
    """The evidence as it is now. What cannot be read is left out."""
    life = board.life(failure.target)
    declared = life.declared
    samples = read_samples(home, target=failure.target) if failure.target else read_samples(home, check=failure.root)
    restart = declared.restart if declared else None
    since_us = life.since_us if life.phase is Phase.DOWN else 0  # looks at a process that has ended since mislead
    fresh = [sample for sample in samples if sample.started_us >= since_us]
    return Evidence(
        failure=failure,
        process={**life.facts, "state": life.words, "running": life.running(), "restart": restart} if life.state else {},
        checks=tuple(_told(known, fresh) for known in board.of_subject(failure.subject)),
        earlier=earlier,
        log=_end_of(root / declared.log, LOG_BYTES) if declared and declared.log else "",
        configuration=_end_of(root / declared.config, CONFIGURATION_BYTES) if declared and declared.config else "",
    )


def _told(known: Known, samples: list[Sample]) -> CheckEvidence:
    mine = [sample for sample in samples if sample.check == known.check.name][-_SAMPLES:]
    newest = mine[-1] if mine else None
    return CheckEvidence(
        name=known.check.name,
        query=known.check.query.text,
        condition=known.check.condition.text,
        state=known.judgement.state.value,
        recent=tuple(sample.result.value for sample in mine),
        detail=newest.detail if newest else "",
        values_ms=tuple(sample.took_ms for sample in mine),
    )


def _end_of(path: Path, limit: int) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - limit))
            return decoded(file.read(limit))
    except OSError:
        return ""
