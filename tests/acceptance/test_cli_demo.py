"""`harness demo` as a whole: real processes in a temporary home, broken, healed and proved, with nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

DEMO = (sys.executable, "-m", "harness", "demo")
pytestmark = pytest.mark.timeout(240)


def environment(folder: Path) -> dict[str, str]:
    """This environment, with `folder` for temporary files, which also marks every process of the demo."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HARNESS_")}
    return {**kept, "TMPDIR": str(folder)}


def marked(folder: Path) -> list[int]:
    """The living processes whose environment names the folder."""
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                inside = str(folder).encode() in (entry / "environ").read_bytes()
            except OSError:
                continue
            if inside:
                found.append(int(entry.name))
    return found


def demo(folder: Path, *words: str) -> tuple[int, Any, str]:
    """Run a demo to its end: exit code, the JSON of its last line, stderr."""
    done = subprocess.run(
        (*DEMO, "--once", "--json", *words), env=environment(folder), capture_output=True, text=True, timeout=200
    )
    return done.returncode, json.loads(done.stdout.splitlines()[-1]), done.stderr


@pytest.mark.parametrize(("chaos", "limit"), [("kill", 8.0), ("hang", 30.0), ("slow", 30.0), ("503", 30.0)])
def test_a_broken_service_heals_on_the_record(tmp_path: Path, chaos: str, limit: float) -> None:
    """Detected, ticketed, acted on and verified in this order; one object on stdout; nothing is left."""
    code, found, err = demo(tmp_path, "--chaos", chaos)

    (incident,) = found["incidents"]
    times = [incident[name] for name in ("detected_s", "ticket_s", "acted_s", "verified_s")]
    assert (code, found["ok"], err) == (0, True, "")
    assert list(found) == ["ok", "chaos", "times", "incidents", "ledger", "leaked", "model"]
    assert list(incident) == ["ticket", "detected_s", "ticket_s", "acted_s", "verified_s", "status"]
    assert times == sorted(times)
    assert incident["ticket_s"] < 10
    assert incident["verified_s"] < limit
    assert (incident["status"], found["model"], found["chaos"]) == ("completed", "rules", chaos)
    assert found["ledger"]["verified"] is True
    assert found["leaked"] == {"processes": 0, "ports": 0}
    assert list(tmp_path.iterdir()) == []
    assert marked(tmp_path) == []


def test_several_times_in_a_row(tmp_path: Path) -> None:
    """Each fault is one incident of its own, and the limits were raised for it."""
    code, found, _ = demo(tmp_path, "--times", "5")

    assert code == 0
    assert len({incident["ticket"] for incident in found["incidents"]}) == 5
    assert all(incident["status"] == "completed" for incident in found["incidents"])


def test_two_at_once_do_not_meet(tmp_path: Path) -> None:
    """Started at the same instant, they choose different ports, and both heal."""
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    both = [
        subprocess.Popen((*DEMO, "--once", "--json"), env=environment(folder), stdout=subprocess.PIPE, text=True)
        for folder in folders
    ]

    ends = [(json.loads(process.communicate(timeout=200)[0].splitlines()[-1]), process.returncode) for process in both]

    assert [(found["ok"], found["leaked"], code) for found, code in ends] == [(True, {"processes": 0, "ports": 0}, 0)] * 2


def test_somebody_elses_ports_are_left_alone(tmp_path: Path) -> None:
    """Whoever listens on 8000 and 8001 still does so afterwards, and was never spoken to."""
    held: list[socket.socket] = []
    for port in (8000, 8001):
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(("127.0.0.1", port))
            listening.listen()
            listening.setblocking(False)
            held.append(listening)
        except OSError:  # somebody else has it already, which is as good
            listening.close()
    try:
        code, found, _ = demo(tmp_path)

        assert (code, found["leaked"]) == (0, {"processes": 0, "ports": 0})
        for listening in held:
            with pytest.raises(BlockingIOError):
                listening.accept()
    finally:
        for listening in held:
            listening.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("seconds", [0.3, 0.7, 1.5, 3.0, 5.0])
def test_interrupted_at_any_moment_nothing_is_left(tmp_path: Path, seconds: float, number: signal.Signals) -> None:
    """No process, no folder, and exit code 130; whatever it was doing."""
    process = subprocess.Popen(
        DEMO, env=environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL
    )
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=seconds)
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()

    assert process.returncode in (130, -number)  # killed before it had begun anything
    assert b"Traceback" not in err
    assert list(tmp_path.iterdir()) == []
    assert marked(tmp_path) == []


def test_interrupted_twice_it_ends_at_once(tmp_path: Path) -> None:
    """A second Ctrl-C waits for no good order, and still leaves nothing."""
    process = subprocess.Popen(DEMO, env=environment(tmp_path), stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=2.5)
        process.send_signal(signal.SIGINT)
        time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 130
    finally:
        process.kill()
        process.wait()

    assert list(tmp_path.iterdir()) == []
    assert marked(tmp_path) == []


def test_kept_it_can_be_looked_at(tmp_path: Path) -> None:
    """The home stays, readable by every command, and verifies."""
    code, found, err = demo(tmp_path, "--keep")

    (kept,) = tmp_path.iterdir()
    ticket = found["incidents"][0]["ticket"]
    shown = subprocess.run(
        (sys.executable, "-m", "harness", "incident", "show", ticket, "--home", str(kept / ".harness")),
        capture_output=True, text=True, timeout=60, env=environment(tmp_path),
    )  # fmt: skip
    assert code == 0
    assert str(kept) in err
    assert "killed by signal 9" in shown.stdout
    assert "healed" in shown.stdout
