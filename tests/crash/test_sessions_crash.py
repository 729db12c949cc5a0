"""kill -9 of a session's host, guard, burier and client, at every write and at any instant; then another run goes on.

Each message has one final status and came to the agent once and in order, or is known to be lost or unknown. The ledger
verifies, ids and counters are free, and no process is left.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Points = Callable[..., list[dict[str, Any]]]
SCENARIO = Path(__file__).with_name("sessions_scenario.py")
TWINS = ("stream", "app-server", "pty", "shell")


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("twin", "victim", "phase", "points", "least"),
    [
        ("stream", "host", "after", "1 5 99", 6),
        ("app-server", "host", "inside", "1 9 99", 3),
        ("pty", "host", "before", "2 9 99", 2),
        ("shell", "host", "after", "3 14 99", 1),
        ("stream", "client", "before", "1 4 99", 3),
        ("stream", "guard", "after", "3 99 99", 1),
        ("app-server", "both", "after", "9 99 99", 1),
        ("stream", "burier", "inside", "1 1 2", 1),
        ("stream", "disk", "before", "7 14 99", 2),
    ],
)
def test_a_kill_at_a_write_loses_no_message_and_sends_none_twice(
    tmp_path: Path, run_points: Points, twin: str, victim: str, phase: str, points: str, least: int
) -> None:
    """Some of the writes; the nightly run takes them all."""
    found = run_points(SCENARIO, tmp_path, "points", twin, victim, phase, *points.split(), seconds=230)

    assert sum(point["killed"] for point in found) >= least


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("victim", ["host", "client", "guard", "both", "burier", "disk"])
@pytest.mark.parametrize("twin", TWINS)
def test_a_kill_at_every_write_of_a_session(tmp_path: Path, run_points: Points, twin: str, victim: str) -> None:
    """Before each commit, in its middle and after it, of every kind of program."""
    found = run_points(SCENARIO, tmp_path, "points", twin, victim, "before,inside,after", seconds=3590)

    assert sum(point["killed"] for point in found) >= (3 if victim == "burier" else 30)


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_three_hundred_random_kills_of_sessions(tmp_path: Path, run_points: Points) -> None:
    """The same at any instant at all."""
    found = run_points(SCENARIO, tmp_path, "random", "300", "7", seconds=3590)

    assert sum(point["killed"] for point in found) >= 150
