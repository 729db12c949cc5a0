"""kill -9 while everything goes on at once: nothing finished runs twice, nothing is lost, the books balance."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Points = Callable[..., list[dict[str, Any]]]
SCENARIO = Path(__file__).with_name("mixed_scenario.py")


def test_kills_at_every_seventh_write_of_a_mixed_scenario(tmp_path: Path, run_points: Points) -> None:
    """Parallel steps, side effects, timers, a pause, approvals, a child, a sub-agent, forks."""
    points = run_points(SCENARIO, tmp_path, "points", "7", seconds=110)

    assert sum(point["killed"] for point in points) >= 12


@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_a_thousand_random_kills_of_a_mixed_scenario(tmp_path: Path, run_points: Points) -> None:
    """The same at any instant at all."""
    points = run_points(SCENARIO, tmp_path, "random", "1000", "7", seconds=1790)

    assert sum(point["killed"] for point in points) >= 1000
