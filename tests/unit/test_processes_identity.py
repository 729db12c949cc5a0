"""Reading the process table."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.processes import Identity, identity, system


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """A process that only waits."""
    with subprocess.Popen(["sleep", "300"]) as started:
        yield started
        started.kill()


@pytest.fixture(params=["as it is", "without /proc", "without /proc and pidfd"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The ways of asking the system."""
    monkeypatch.setattr(system, "PROC", request.param == "as it is")
    monkeypatch.setattr(system, "PIDFD", system.PIDFD and "pidfd" not in request.param)
    return request.param


def test_a_row_says_what_ps_says(way: str, child: subprocess.Popen[bytes]) -> None:
    """Parent, group and session by either way; the same start time each time."""
    row = identity.read_row(child.pid)

    assert row is not None
    assert (row.pid, row.parent, row.group, row.session) == (child.pid, os.getpid(), os.getpgrp(), os.getsid(0))
    assert row.identity == Identity.of(child.pid)
    assert not row.dead
    assert child.pid in {one.pid for one in identity.read_rows()}
    assert child.pid in {one.pid for one in identity.read_children()}


def test_a_zombie_is_not_alive_and_nobody_has_no_row(way: str, child: subprocess.Popen[bytes]) -> None:
    """Exited is exited, reaped or not."""
    known = Identity.of(child.pid)
    assert known.alive()

    assert known.signal(signal.SIGKILL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    zombie = identity.read_row(child.pid)
    child.wait()

    assert zombie is not None
    assert zombie.dead
    assert not known.alive()
    assert not known.signal(0)
    assert identity.read_row(child.pid) is None
    assert identity.read_environment(child.pid) == {}


def test_who_is_born_while_the_table_is_read_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table is listed again until nobody new is in it."""
    listings = iter([{1}, {1, os.getppid()}, {1, os.getpid(), os.getppid()}, {1, os.getpid()}])
    monkeypatch.setattr(identity, "_read_pids", lambda: next(listings))

    assert {row.pid for row in identity.read_rows()} == {1, os.getpid(), os.getppid()}


def test_names_with_spaces_and_parentheses_do_not_confuse() -> None:
    """A program may call itself `a) R 1 (b`."""
    fields = b"7 (a) R 1 (b) S 3 4 5 " + b"0 " * 15 + b"99 0\n"

    row = identity.parse_stat(7, fields)

    assert (row.parent, row.group, row.session, row.state, row.started) == (3, 4, 5, "S", 99)


@pytest.mark.skipif(not system.PROC, reason="this system does not tell")
def test_who_sleeps_and_has_no_child_rests(child: subprocess.Popen[bytes]) -> None:
    """A shell that waits for what it has started does not, nor does one that works, nor one that has gone."""
    shell = ["sh", "-c"]
    with (
        subprocess.Popen([*shell, "sleep 300; :"]) as waits,
        subprocess.Popen([*shell, "while :; do :; done"]) as works,
    ):
        deadline = time.monotonic() + 20
        while not Identity.of(child.pid).rests() or not Path(f"/proc/{waits.pid}/task/{waits.pid}/children").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        rests = [Identity.of(process.pid).rests() for process in (child, waits, works)]
        gone = Identity.of(works.pid)
        for pid in Path(f"/proc/{waits.pid}/task/{waits.pid}/children").read_text().split():
            os.kill(int(pid), signal.SIGKILL)  # its shell reaps it and goes, so that no orphan is left to us
        works.kill()

    assert rests == [True, False, False]
    assert not gone.rests()
