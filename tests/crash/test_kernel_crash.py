"""kill -9 at every write of a scripted run, and at random times: nothing finished runs twice, nothing is lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Points = Callable[..., list[dict[str, Any]]]
SCENARIO = Path(__file__).with_name("kernel_scenario.py")


def test_a_kill_at_every_write_loses_nothing_and_repeats_nothing(tmp_path: Path, run_points: Points) -> None:
    """Before and after each append: finished steps stay finished, effects happen once or are known to be unknown."""
    points = run_points(SCENARIO, tmp_path, "points", seconds=110)

    assert sum(point["killed"] for point in points) >= 60


@pytest.mark.nightly
@pytest.mark.timeout(600)
def test_a_thousand_random_kills(tmp_path: Path, run_points: Points) -> None:
    """The same at any instant at all."""
    points = run_points(SCENARIO, tmp_path, "random", "1000", "7", seconds=590)

    assert sum(point["killed"] for point in points) >= 500
