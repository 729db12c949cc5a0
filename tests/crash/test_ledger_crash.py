"""Ledger and items after kill -9 at every commit: nothing lost, nothing twice, everything in one state, every chain good."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

Order = Callable[..., dict[str, Any]]

HERE = Path(__file__).parent
ITEM_COMMITS = 70
LEDGER_COMMITS = 12
PHASES = ("inside", "after")
CLOSED_ONCE = {"item.completed", "item.cancelled"}


def zygote(scenario: str) -> Iterator[Order]:
    """A process that imported everything; each order forks a run that is killed and one that resumes."""
    process = subprocess.Popen(
        [sys.executable, HERE / "crashing.py", scenario], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None

    def order(at: int, phase: str, **more: object) -> dict[str, Any]:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps({"at": at, "phase": phase, **more}) + "\n")
        process.stdin.flush()
        answer = json.loads(process.stdout.readline())
        for part in ("first", "left", "run", "final"):
            assert answer[part].get("error") is None, answer[part]["error"]
        return answer

    try:
        yield order
        process.stdin.close()
        assert process.wait(timeout=30) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture(scope="module")
def items() -> Iterator[Order]:
    yield from zygote("items_scenario")


@pytest.fixture(scope="module")
def ledger() -> Iterator[Order]:
    yield from zygote("ledger_scenario")


@pytest.fixture(scope="module")
def undisturbed(items: Order) -> dict[str, Any]:
    """The items scenario without a kill: what every other run must come to."""
    return items(0, "")


def test_the_scenario_has_as_many_commits_as_points(undisturbed: dict[str, Any]) -> None:
    """Whoever changes the scenario sets ITEM_COMMITS anew, so that no commit is left out."""
    sys.path.insert(0, str(HERE))
    try:
        from items_scenario import EXPECTED
    finally:
        sys.path.remove(str(HERE))

    assert len(undisturbed["first"]["events_after"]) == ITEM_COMMITS
    assert undisturbed["final"]["items"] == EXPECTED


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("at", range(1, ITEM_COMMITS + 1))
def test_items_survive_a_kill(items: Order, undisturbed: dict[str, Any], at: int, phase: str) -> None:
    """What was committed is there, what was not is gone, and a fresh process brings everything to the same end."""
    written = [0, *undisturbed["first"]["events_after"]]

    told = items(at, phase)

    left, final = told["left"], told["final"]
    assert told["signal"] == signal.SIGKILL
    assert left["events"] == undisturbed["left"]["events"][: written[at if phase == "after" else at - 1]]
    assert final["events"][: len(left["events"])] == left["events"]
    for seen in (left, final):
        assert seen["problems"] == []
        assert seen.get("contradictions", []) == []
        assert seen.get("view", []) == []
        assert seen.get("counted", 0) == len(seen.get("items", ()))
    assert final["items"] == undisturbed["final"]["items"]
    assert final["occurrences"] == undisturbed["final"]["occurrences"]
    assert final["notes"] == undisturbed["final"]["notes"]
    assert final["secret"] is False
    closings = [stream for stream, _, type_ in final["events"] if type_ in CLOSED_ONCE]
    assert len(closings) == len(set(closings)) == len(final["items"])


@pytest.mark.parametrize("durability", ["process", "full"])
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("at", range(1, LEDGER_COMMITS + 1))
def test_a_group_of_writers_survives_a_kill(ledger: Order, at: int, phase: str, durability: str) -> None:
    """Appends are whole or not there; what was acknowledged is there; counters, keys and leases agree with the events."""
    told = ledger(at, phase, durability=durability)

    assert told["signal"] == signal.SIGKILL
    for seen in (told["left"], told["final"]):
        assert seen["problems"] == []
        places = {(stream, seq) for stream, seq, _ in seen["events"]}
        assert len(places) == len(seen["events"])
        assert {tuple(place) for place in seen.get("acknowledged", ())} <= places
        numbers = seen.get("numbers", {})
        for stream, found in numbers.items():
            assert found == list(range(1, len(found) + 1))
            assert (
                found
                == numbers[
                    stream.replace("run/", "tenant/") if stream.startswith("run/") else stream.replace("tenant/", "run/")
                ]
            )
        appends = len(places) // 2
        assert seen.get("spent", 0) == 3 * appends
        assert seen.get("keys", 0) == appends
        assert set(seen.get("leases", {})) == {
            stream.replace("run/", "task/") for stream in numbers if stream.startswith("run/")
        }
    assert {len(found) for found in told["final"]["numbers"].values()} == {12}
    assert len(told["final"]["numbers"]) == 10


@pytest.mark.nightly
@pytest.mark.timeout(900)
def test_a_thousand_random_kills_lose_nothing(tmp_path: Path) -> None:
    """Two processes at a time work one queue and are killed at random instants, again and again."""
    finished = subprocess.run(
        [sys.executable, HERE / "random_kills.py", tmp_path, "1000", "20251120"],
        stdout=subprocess.PIPE, timeout=850, check=True, text=True,
    )  # fmt: skip
    told = json.loads(finished.stdout)

    assert told["kills"] == 1000
    assert told["problems"] == []
    assert told["view"] == []
    assert told["lost"] == []
    assert told["contradictions"] == []
    assert told["acknowledged"] > 1000
    assert told["completed"] > 100
    assert told["twice"] == []
