"""What a rehearsed agent does to whoever runs it: floods, garbage, children that stay, deaths without a word."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable

from harness.sessions.rehearsal.flags import Plan
from harness.sessions.rehearsal.stage import Journal, Turn, here

SPIN_SECONDS = 0.1
_LOOK_SECONDS = 0.01
_MEGABYTE = 1 << 20
GARBAGE = b"".join(
    (
        b"\xff\xfe\xc3(\xa0\xa1 broken \xed\xa0\x80 \xf5\x80\x80\x80\n",  # not UTF-8, in all the ways there are
        bytes(range(1, 9)) + b"\x0e\x0f\x7f\x80\x9b31m\n",  # control codes; no XOFF, it would stop the terminal itself
        b"\x1b]0;" + b"T" * 100_000 + b"\x07",  # a title without measure
        b"\x1b]52;c;" + b"QUJD" * 25_000 + b"\x1b\\",  # a clipboard nobody asked for
        b"\x1b]8;;http://example.invalid/" + b"a" * 50_000 + b"\x07link\x1b]8;;\x07",
        b"\x1bP+q" + b"41" * 10_000 + b"\x1b\\\x1b[999999999;999999999H\x1b[?9999h\x1b[>4;2m\n",
        b"\x1b]0;never ended" + b"." * 70_000 + b"\n\x18",
    )
)


def write(descriptor: int, data: bytes) -> None:
    """All of it, however slowly it is read."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def flood(descriptor: int, megabytes: float, *, width: int = 100) -> None:
    """Numbered lines of `width` bytes, so many megabytes of them in all."""
    left, number = round(megabytes * _MEGABYTE), 0
    while left > 0:
        lines = b"".join(b"%0*d\n" % (width - 1, number + each) for each in range(640))
        number += 640
        write(descriptor, lines if len(lines) < left else lines[: left - 1] + b"\n")
        left -= len(lines)


def huge(descriptor: int, megabytes: float) -> None:
    """One line of that size, with its end."""
    left = round(megabytes * _MEGABYTE)
    while left > 0:
        write(descriptor, b"x" * min(left, _MEGABYTE))
        left -= _MEGABYTE
    write(descriptor, b"\n")


def ignore(names: str) -> None:
    """Ignore the signals with these names, separated by commas."""
    for name in filter(None, names.split(",")):
        signal.signal(signal.Signals[f"SIG{name}"], signal.SIG_IGN)


def leave_child(seconds: float, journal: Journal) -> None:
    """Start a child in the background that keeps the terminal, or the pipes, open for so long."""
    if (pid := os.fork()) == 0:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        os.setpgid(0, 0)
        time.sleep(seconds)
        os._exit(0)
    journal.note("child", child=pid)


def leave_stray(seconds: float, journal: Journal) -> None:
    """Start a child in a session of its own that hears no TERM and holds nothing, for so long."""
    reading, writing = os.pipe()
    if (pid := os.fork()) == 0:
        os.setsid()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for descriptor in range(3):
            os.dup2(nowhere, descriptor)
        os.closerange(3, writing)
        os.closerange(writing, 1024)  # with it the parent learns that all is ready
        time.sleep(seconds)
        os._exit(0)
    os.close(writing)
    os.read(reading, 1)
    os.close(reading)
    journal.note("stray", child=pid)


def end_silently(code: int, journal: Journal) -> None:
    """End at once: nothing is said, flushed or restored."""
    journal.note("end", code=code)
    os._exit(code)


def trouble(plan: Plan, journal: Journal, alive: Callable[[], None]) -> Turn:
    """The turn that never ends, or ends with the program; `alive` shows that a spinner turns."""
    if plan.killed:
        journal.note("end", code=-9)
        os.kill(os.getpid(), signal.SIGKILL)
    if plan.dies:
        end_silently(plan.code, journal)
    if plan.freezes:
        journal.note("frozen")
    while plan.freezes:
        time.sleep(3600)
    while plan.spins:
        alive()
        yield SPIN_SECONDS
    while plan.holds and not os.path.exists(plan.holds):  # noqa: PTH110 - `pathlib` would cost more time than all the rest
        yield _LOOK_SECONDS
    while plan.hangs:
        yield None


def begin(plan: Plan, journal: Journal, argv: list[str]) -> None:
    """What goes wrong at the start, whatever the program is."""
    ignore(plan.ignores)
    journal.note("start", argv=argv, cwd=here(), session=os.environ.get("HARNESS_SESSION_ID", ""))
    if plan.starts_after > 0:
        time.sleep(plan.starts_after)


def disturb(plan: Plan, journal: Journal) -> None:
    """What a turn does beside its protocol: children, floods, garbage."""
    if plan.stray > 0:
        leave_stray(plan.stray, journal)
    if plan.child > 0:
        leave_child(plan.child, journal)
    if plan.stderr > 0:
        flood(2, plan.stderr)
    if plan.garbage:
        write(1, GARBAGE)
    if plan.flood > 0:
        flood(1, plan.flood)
    if plan.huge > 0:
        huge(1, plan.huge)


def complain(text: str) -> None:
    """One line on stderr."""
    print(text, file=sys.stderr, flush=True)
