"""kill -9 at every write of a supervisor and its tasks, at random times, and with two of them at once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCENARIO = Path(__file__).with_name("harness_scenario.py")


def _killed(folder: Path, *arguments: str, seconds: float) -> int:
    """How many were killed; nothing may be wrong with any."""
    done = subprocess.run(
        [sys.executable, str(SCENARIO), str(folder), *arguments], timeout=seconds, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    points = [json.loads(line) for line in done.stdout.splitlines()]
    assert [point for point in points if point["wrong"]] == [], done.stderr
    return sum(point["killed"] for point in points)


@pytest.mark.timeout(300)
def test_a_kill_after_every_write_does_each_task_exactly_once(tmp_path: Path) -> None:
    """No task is lost, none is done twice, no child runs ahead of its parent, nothing finished is repeated."""
    assert _killed(tmp_path, "after", seconds=290) >= 45


@pytest.mark.timeout(300)
def test_two_processes_do_each_task_once_though_one_is_killed(tmp_path: Path) -> None:
    """One works, the other waits, and takes over."""
    assert _killed(tmp_path, "two", "10", "3", seconds=290) >= 5


@pytest.mark.nightly
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("arguments", [("before",), ("random", "1000", "7"), ("two", "300", "7")])
def test_a_thousand_random_kills(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """The same at any instant at all."""
    assert _killed(tmp_path, *arguments, seconds=1790) >= 45
