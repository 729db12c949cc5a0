"""What a program at a terminal waits for, as the system tells: the least trusted source, and the only one for plain commands.

Linux says in which system call each process sleeps. Of the terminal's foreground process group, one that sleeps in `read` on
the terminal is at its prompt. One that polls is most likely, and surely if it is line editing that polls stdin alone. Elsewhere
nothing can be read, and the state is unknown.
"""

from __future__ import annotations

import fcntl
import os
import platform
import sys
import termios
from pathlib import Path

import msgspec

from harness.sessions.facts import Source, State
from harness.sessions.reports import Reading

QUIET_SECONDS = 0.5  # without output, before a program that polls counts as waiting for a person
_MAX_PROCESSES = 32
_PTY_NUMBER = 0x80045430  # TIOCGPTN
_SHELLS = frozenset({"ash", "bash", "dash", "elvish", "fish", "ksh", "mksh", "nu", "sh", "xonsh", "zsh"})
_FOR_A_READER = frozenset({"less", "man", "more", "most", "nano", "nvim", "vi", "view", "vim"})
"""What is in front of a person who reads or edits: keys typed there are no message."""


class _Calls(msgspec.Struct, frozen=True, kw_only=True):
    """Numbers of system calls."""

    read: frozenset[int]
    select: frozenset[int]  # the first argument is how many descriptors are looked at
    poll: frozenset[int]
    wait: frozenset[int]  # for a child


_CALLS = {
    "x86_64": _Calls(
        read=frozenset({0, 19}), select=frozenset({23, 270}), poll=frozenset({7, 271, 232, 281, 441}), wait=frozenset({61, 247})
    ),
    "aarch64": _Calls(
        read=frozenset({63, 65}), select=frozenset({72}), poll=frozenset({73, 22, 441}), wait=frozenset({260, 95})
    ),
}


class Sleep(msgspec.Struct, frozen=True, kw_only=True):
    """Where a process of the foreground sleeps."""

    pid: int
    call: int
    first: int  # its first argument


class Waiter(msgspec.Struct, frozen=True, kw_only=True):
    """Who waits for input at the terminal, and how often it had gone to sleep when it was looked at."""

    pid: int
    call: int
    slept: int


def readable() -> bool:
    """Whether this system tells anything at all."""
    return sys.platform == "linux" and platform.machine() in _CALLS and Path("/proc/self/syscall").exists()


class ProcessTable:
    """Reads the foreground of one terminal. `leader` is the session's own program, `terminal` our side of its terminal."""

    def __init__(self, leader: int, terminal: int) -> None:
        self._leader = leader
        self._terminal = terminal
        self._calls = _CALLS.get(platform.machine())
        self._device = _device(terminal)

    def read(self, quiet_seconds: float) -> Reading:
        """What the foreground waits for; `quiet_seconds`: how long nothing has come from it."""
        if self._calls is None or not self._device:
            return _unknown("the system does not tell")
        try:
            group = os.tcgetpgrp(self._terminal)
        except OSError:
            return _unknown("the terminal has ended")
        sleeps = self._sleeps(group)
        if sleeps is None:
            return _unknown(f"process group {group} cannot be read")
        for sleep in sleeps:
            if sleep is not None and sleep.call in self._calls.read and self._is_terminal(sleep.pid, sleep.first):
                return self._at_read(sleep)
        awake = [sleep for sleep in sleeps if sleep is None or sleep.call not in self._calls.wait]
        first = awake[0] if awake else None
        return _busy() if first is None or None in awake else self._polling(first, self._calls, group, quiet_seconds)

    def waiters(self) -> tuple[Waiter, ...]:
        """Who waits for input now; empty if nobody is known to."""
        if self._calls is None or not self._device:
            return ()
        waits = self._calls.read | self._calls.select | self._calls.poll
        try:
            sleeps = self._sleeps(os.tcgetpgrp(self._terminal)) or []
            waiting = [sleep for sleep in sleeps if sleep is not None and sleep.call in waits]
            at_read = [each for each in waiting if each.call in self._calls.read and self._is_terminal(each.pid, each.first)]
            return tuple(Waiter(pid=each.pid, call=each.call, slept=_slept(each.pid)) for each in at_read or waiting)
        except OSError:  # one has exited, or is another user's
            return ()

    def woke(self, waiter: Waiter) -> bool:
        """Whether it has awoken since: what lies in the terminal before it does has been read by nobody."""
        try:
            slept = _slept(waiter.pid)  # before the call: it may awake, read and sleep again between the two
            sleep = _sleep(waiter.pid, _contents(f"/proc/{waiter.pid}/syscall").split())
        except OSError:
            return True
        return sleep is None or sleep.call != waiter.call or slept != waiter.slept

    def canonical(self) -> bool:
        """Whether the terminal hands over whole lines, which it holds to 4095 bytes."""
        try:
            return bool(termios.tcgetattr(self._terminal)[3] & termios.ICANON)
        except termios.error:
            return False

    def _at_read(self, sleep: Sleep) -> Reading:
        name = _name(sleep.pid)
        if sleep.pid != self._leader and name in _FOR_A_READER:
            return _reading(State.BLOCKED, 0.8, f"{name} is in the foreground", "dialog")
        if self._hides():
            return _reading(State.BLOCKED, 0.8, f"{name} reads a line without echo", "question")
        return _reading(State.PROMPT, 0.9, f"{name} reads the terminal")

    def _polling(self, sleep: Sleep, calls: _Calls, group: int, quiet_seconds: float) -> Reading:
        name = _name(sleep.pid)
        if sleep.call in calls.select and sleep.first == 1 and self._is_terminal(sleep.pid, 0):
            return _reading(State.PROMPT, 0.8, f"{name} waits for stdin alone")
        if sleep.call not in calls.select and sleep.call not in calls.poll:
            return _busy(name)
        if name in _FOR_A_READER and sleep.pid != self._leader:
            return _reading(State.BLOCKED, 0.8, f"{name} is in the foreground", "dialog")
        if name in _SHELLS and sleep.pid == group and not self.canonical():
            return _reading(State.PROMPT, 0.8, f"{name} polls in the foreground")
        if quiet_seconds >= QUIET_SECONDS:
            return _reading(State.PROMPT, 0.5, f"{name} polls and is quiet")
        return _busy(name)

    def _hides(self) -> bool:
        """A line is read and not shown: a password."""
        try:
            flags = termios.tcgetattr(self._terminal)[3]
        except termios.error:
            return False
        return bool(flags & termios.ICANON) and not flags & termios.ECHO

    def _sleeps(self, group: int) -> list[Sleep | None] | None:
        """Of every process of the group; None in a place: it runs. None instead of a list: nothing can be read."""
        found: list[Sleep | None] = []
        left, seen = [group, self._leader], set[int]()  # a group's own leader may have gone before the others
        while left and len(seen) < _MAX_PROCESSES:
            pid = left.pop(0)
            if pid in seen:
                continue
            seen.add(pid)
            try:
                if pid == group or os.getpgid(pid) == group:
                    found.append(_sleep(pid, _contents(f"/proc/{pid}/syscall").split()))
                left += map(int, _contents(f"/proc/{pid}/task/{pid}/children").split())
            except OSError:
                continue  # it has exited, or the system keeps no list of children
        return found or None

    def _is_terminal(self, pid: int, descriptor: int) -> bool:
        try:
            target = str(Path(f"/proc/{pid}/fd/{descriptor}").readlink())
        except OSError:
            return False
        return target in (self._device, "/dev/tty")


def _sleep(pid: int, words: list[bytes]) -> Sleep | None:
    """`running`, or the number of the call and its arguments; -1 if it sleeps in none."""
    if len(words) < 2 or not words[0].isdigit():
        return None
    return Sleep(pid=pid, call=int(words[0]), first=int(words[1], 16))


def _slept(pid: int) -> int:
    """How often it has gone to sleep by itself. Raises `OSError`."""
    for line in _contents(f"/proc/{pid}/status").splitlines():
        if line.startswith(b"voluntary_ctxt_switches:"):
            return int(line.split()[1])
    return 0


def _name(pid: int) -> str:
    try:
        return _contents(f"/proc/{pid}/comm").decode("utf-8", "replace").strip()
    except OSError:
        return "?"


def _contents(path: str) -> bytes:
    """Of a small file of the system's. Raises `OSError`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 4096)
    finally:
        os.close(descriptor)


def _device(terminal: int) -> str:
    """The path of the program's side."""
    if not readable():
        return ""
    try:
        number = fcntl.ioctl(terminal, _PTY_NUMBER, b"\0\0\0\0")
    except OSError:
        return ""
    return f"/dev/pts/{int.from_bytes(number, sys.byteorder)}"


def _reading(state: State, confidence: float, evidence: str, detail: str = "") -> Reading:
    return Reading(state=state, source=Source.PROCESS, confidence=confidence, detail=detail, evidence=evidence)


def _busy(name: str = "") -> Reading:
    return _reading(State.BUSY, 0.6, f"{name} does not wait for input" if name else "the foreground runs")


def _unknown(evidence: str) -> Reading:
    return _reading(State.UNKNOWN, 0.0, evidence)
