"""When a line program has read what was typed: not before whoever waited at its terminal has awoken."""

from __future__ import annotations

import asyncio
import os
import pty
import subprocess
import sys
import time
from types import SimpleNamespace
from typing import Any

import pytest

from harness.sessions.facts import Placing, State
from harness.sessions.reports import Outgoing, Receipt
from harness.sessions.transports.line_program import LineProgram
from harness.sessions.transports.process_table import ProcessTable, Waiter, readable


class Table:
    """Somebody waits, and awakes when told."""

    def __init__(self, *waiters: Waiter) -> None:
        self.awake = False
        self._waiters = waiters

    def waiters(self) -> tuple[Waiter, ...]:
        return self._waiters

    def woke(self, waiter: Waiter) -> bool:
        return self.awake

    def canonical(self) -> bool:
        return True

    def read(self, quiet_seconds: float) -> Any:
        return SimpleNamespace(state=State.UNKNOWN, source="process", confidence=0.0, detail="", evidence="", until_us=None)


async def deliver(table: Table, *, waiting: int = 0) -> tuple[LineProgram, list[Any]]:
    told: list[Any] = []
    program = LineProgram(tell=told.append)
    program._table = table  # type: ignore[assignment]
    program._process = SimpleNamespace(input_waiting=waiting, terminal=None)  # type: ignore[assignment]

    async def take(data: bytes) -> None:
        assert data == b"go\r"

    program._keyboard = SimpleNamespace(turn=asyncio.Lock(), type=take, bracketed=False)  # type: ignore[assignment]
    await program.deliver(Outgoing(message_id="m", text="go", placing=Placing.QUEUE))
    return program, told


async def test_what_is_still_on_its_way_is_not_taken_for_read() -> None:
    """Nothing waits in the terminal, for nothing has come to it yet; what the program says late of before is no sign either."""
    table = Table(Waiter(pid=1, call=0, slept=3))
    program, told = await deliver(table)
    program.output(b"late words\r\n")
    await asyncio.sleep(0.3)
    assert [each for each in told if isinstance(each, Receipt)] == []

    table.awake = True
    await asyncio.sleep(0.25)

    assert [(each.stage, each.message_id) for each in told if isinstance(each, Receipt)] == [("accepted", "m")]
    program.close()


async def test_what_nobody_waited_for_is_read_when_none_of_it_is_left() -> None:
    program, told = await deliver(Table())
    await asyncio.sleep(0.3)

    assert [each.stage for each in told if isinstance(each, Receipt)] == ["accepted"]
    program.close()


@pytest.mark.skipif(not readable(), reason="this system does not tell what processes wait for")
@pytest.mark.parametrize("script", ["input()", "import select; select.select([0], [], [])"])
def test_a_program_that_waits_is_seen_to_awake(script: str) -> None:
    """Only by what is typed, and also where it sleeps again at once."""
    ours, theirs = pty.openpty()
    words = [sys.executable, "-c", f"while True: {script}"]
    with subprocess.Popen(words, stdin=theirs, stdout=theirs, stderr=theirs, preexec_fn=lambda: _leads(theirs)) as program:
        table = ProcessTable(program.pid, ours)
        deadline = time.monotonic() + 20
        while not (waiters := table.waiters()) or table.read(1.0).state is not State.PROMPT:
            assert time.monotonic() < deadline
            time.sleep(0.01)

        time.sleep(0.1)
        assert [table.woke(each) for each in waiters] == [False]
        os.write(ours, b"go\n")
        while not table.woke(waiters[0]):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert [each.pid for each in waiters] == [program.pid]
        program.kill()
    os.close(ours)
    os.close(theirs)
    assert table.woke(waiters[0])


def _leads(terminal: int) -> None:
    import fcntl
    import termios

    os.setsid()
    fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
