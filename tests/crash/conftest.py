"""Running a scenario that is killed and resumed at many points, in a program of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def run_points() -> Callable[..., list[dict[str, Any]]]:
    """Runs a scenario's program, and gives its points if none of them has anything wrong."""

    def run(scenario: Path, folder: Path, *arguments: str, seconds: float) -> list[dict[str, Any]]:
        done = subprocess.run(
            [sys.executable, str(scenario), str(folder), *arguments], timeout=seconds, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        points = [json.loads(line) for line in done.stdout.splitlines()]
        assert [point for point in points if point["wrong"]] == [], done.stderr
        return points

    return run
