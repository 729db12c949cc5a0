"""Who may take a run's lease over: a process that is gone here, never one of another machine."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from harness.kernel import holders
from harness.processes import Identity


class Kernel:
    """A kernel's side of its leases."""

    def __init__(self, *, lets_go: bool) -> None:
        self._lets_go = lets_go

    def lets_go(self, run_id: str) -> bool:
        return self._lets_go


def name_of_a_process_that_is_gone() -> str:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = Identity.of(child.pid).started
    child.communicate(b"\n")
    return f"{holders._place()}:{child.pid}.{started}:0000"  # pyright: ignore[reportPrivateUsage]


def test_a_process_that_is_gone_here_is_taken_over() -> None:
    """Its pid is nobody's, or of one that began at another time."""
    assert holders.may_take_over(name_of_a_process_that_is_gone(), "r")


@pytest.mark.parametrize("part", range(3))
def test_a_holder_of_another_machine_is_not(part: int) -> None:
    """Another name, another start of the machine or another process table: its pid says nothing here."""
    place, _, rest = name_of_a_process_that_is_gone().partition(":")
    parts = place.split("/")
    parts[part] = f"{parts[part]}x"

    assert len(parts) == 3
    assert not holders.may_take_over(f"{'/'.join(parts)}:{rest}", "r")


def test_a_kernel_of_this_process_is_asked() -> None:
    """It lets go of what it is not at work on."""
    willing, busy = Kernel(lets_go=True), Kernel(lets_go=False)

    assert holders.may_take_over(holders.name_of(willing), "r")
    assert not holders.may_take_over(holders.name_of(busy), "r")
    assert str(os.getpid()) in holders.name_of(busy)
