"""kill -9 at every write of a scripted run, and at random times: nothing finished runs twice, nothing is lost."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCENARIO = Path(__file__).with_name("kernel_scenario.py")


def _points(folder: Path, *arguments: str, seconds: float) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, str(SCENARIO), str(folder), *arguments], timeout=seconds, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    points = [json.loads(line) for line in done.stdout.splitlines()]
    assert [point for point in points if point["wrong"]] == [], done.stderr
    return points


def test_a_kill_at_every_write_loses_nothing_and_repeats_nothing(tmp_path: Path) -> None:
    """Before and after each append: finished steps stay finished, effects happen once or are known to be unknown."""
    points = _points(tmp_path, "points", seconds=110)

    assert sum(point["killed"] for point in points) >= 60


@pytest.mark.nightly
@pytest.mark.timeout(600)
def test_a_thousand_random_kills(tmp_path: Path) -> None:
    """The same at any instant at all."""
    points = _points(tmp_path, "random", "1000", "7", seconds=590)

    assert sum(point["killed"] for point in points) >= 500
