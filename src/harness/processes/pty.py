"""Pseudo-terminals: making one, its size, and starting a program that has it as its controlling terminal."""

from __future__ import annotations

import fcntl
import os
import struct
import sys
import termios
from collections.abc import Callable
from typing import NamedTuple

from harness.processes.system import find_program


class Size(NamedTuple):
    """A terminal's window in characters; a headless one is 120 x 40, since programs misbehave at 0 x 0."""

    columns: int = 120
    rows: int = 40


def open_pty(size: Size) -> tuple[int, int]:
    """A new terminal of this size as (our side, the program's side)."""
    ours, theirs = os.openpty()
    set_size(ours, size)
    return ours, theirs


def set_size(fd: int, size: Size) -> None:
    """Change the window; the kernel tells the programs in it with SIGWINCH."""
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", size.rows, size.columns, 0, 0))


def unread(fd: int) -> int:
    """How many bytes wait here for a program to read. On the program's side: what was typed and not taken yet.

    A byte takes a moment from our side to there, so a nothing right after writing says nothing.
    """
    return int.from_bytes(fcntl.ioctl(fd, termios.FIONREAD, b"\0\0\0\0"), sys.byteorder)


def controlling(argv: tuple[str, ...]) -> tuple[tuple[str, ...], Callable[[], None] | None]:
    """How to start `argv` so that its stdin becomes its controlling terminal: (argv, function to run in the child).

    setsid(1) does it after exec, so that a big owner needs no fork; elsewhere the child does it between fork and exec.
    """
    program = find_setsid()
    if program is not None and not argv[0].startswith("-"):
        return (program, "-c", *argv), None
    return argv, _take_terminal


def find_setsid() -> str | None:
    """The program that starts another one as the leader of a session with a terminal; only Linux has it."""
    return find_program("setsid", os.environ.get("PATH", os.defpath)) if os.uname().sysname == "Linux" else None


def _take_terminal() -> None:
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
