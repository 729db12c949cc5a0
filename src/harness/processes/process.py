"""One process that we own or have adopted: its exit, its input and output, and the end of its tree."""

from __future__ import annotations

import asyncio
import os
import signal as signals
from pathlib import Path
from typing import NamedTuple

from harness.errors import ProcessError
from harness.processes import pty, reaper
from harness.processes.exits import Watch
from harness.processes.identity import Identity
from harness.processes.output import Drain, Feed, remove_fifo
from harness.processes.tree import Stopped, Tree


class Exit(NamedTuple):
    """How a process ended: one of both is set; neither if it was not our child, since then nobody tells us."""

    code: int | None
    signal: int | None


UNKNOWN = Exit(code=None, signal=None)


class Ends:
    """Our ends of a child's pipes or terminal, owned by its `Process`."""

    def __init__(self, *, terminal: int | None = None, fifos: tuple[Path, ...] = ()) -> None:
        self.drains: list[Drain] = []
        self.feed: Feed | None = None
        self.terminal = terminal  # our side; the first drain reads and closes it
        self.program_side: int | None = None  # held open, so that a program that closes its terminal for a moment goes on
        self.fifos = fifos

    def close(self) -> None:
        """Let go of all of them; may be called again."""
        if self.feed is not None:
            self.feed.close()
        for drain in self.drains:
            drain.close()
        self.close_program_side()

    def close_program_side(self) -> None:
        if self.program_side is not None:
            os.close(self.program_side)
            self.program_side = None

    def remove_fifos(self) -> None:
        for fifo in self.fifos:
            remove_fifo(fifo)


class Process:
    """A process and its tree. Made by `spawn` and `adopt`; lives in the event loop that made it."""

    def __init__(self, identity: Identity, tree: Tree, ends: Ends, *, tag: str, child: bool) -> None:
        self.identity = identity
        self.tag = tag
        self.exit: Exit | None = None  # None: it has not exited, or its last output is not read yet
        self._tree = tree
        self._ends = ends
        self._child = child
        self._released = False
        self._exited = asyncio.Event()
        for drain in ends.drains:
            drain.ended = self._output_ended
        self._watch = Watch(identity, self._on_exit, child=child)

    @property
    def pid(self) -> int:
        return self.identity.pid

    @property
    def terminal(self) -> int | None:
        """The descriptor of our side of its terminal, for handing it over; None without one or once it has ended."""
        drains = self._ends.drains
        return self._ends.terminal if drains and drains[0].open else None

    @property
    def input_waiting(self) -> int | None:
        """How many bytes that were written to its terminal nobody has read yet; None without one, or if it was adopted.

        A byte is seen here a moment after `write`: ask again a millisecond later before believing a nothing.
        """
        side = self._ends.program_side
        return None if side is None else pty.unread(side)

    def __repr__(self) -> str:
        return f"<Process {self.pid} {self.tag!r} {'runs' if self.exit is None else self.exit}>"

    def _on_exit(self) -> None:
        self._tree.remember()  # before it is reaped: until then its session's number cannot belong to anybody else
        found = _reap(self.pid) if self._child else UNKNOWN
        self._drain_rest()
        if self._ends.feed is not None:
            self._ends.feed.close()
        self._ends.close_program_side()
        self._drain_rest()  # to the end, which a terminal has only now
        self.exit = found
        self._exited.set()
        self._output_ended()
        reaper.reap_orphans()

    def _output_ended(self) -> None:
        """Called when an output ends and when the process exits; after both, nothing is left to keep."""
        if self.exit is not None and not any(drain.open for drain in self._ends.drains):
            self.release(keep_fifos=False)

    def _drain_rest(self) -> None:
        for drain in self._ends.drains:
            drain.rest()

    async def wait(self) -> Exit:
        """Its exit, once it has exited and all that it had written is delivered. Descendants may still run.

        May be called by many and be cancelled.
        """
        await self._exited.wait()
        assert self.exit is not None
        return self.exit

    async def stop(self, *, grace_seconds: float, signal: int = signals.SIGTERM) -> Stopped:
        """End the process and all its descendants: `signal`, after `grace_seconds` SIGKILL; returns when all are gone.

        May be called again, and by several at once: a second call with less grace ends it sooner.
        Raises `ProcessError` naming those that cannot be ended.
        """
        stopped = await self._tree.end(grace_seconds=grace_seconds, signal=signal)
        if not self._released:
            await self.wait()
        self._drain_rest()
        self.release(keep_fifos=False)
        return stopped

    def signal(self, number: int) -> bool:
        """Send a signal to the process alone, not to its tree; False if it is gone."""
        return self.exit is None and self.identity.signal(number)

    async def write(self, data: bytes) -> None:
        """Send bytes to its input or terminal; returns when the system has taken them, which may have to wait for it to read.

        Raises `ProcessError` if it has no input or no longer reads it.
        """
        if self._ends.feed is None:
            raise ProcessError(f"process {self.pid} has no input that we hold: spawn it with stdin or a terminal")
        await self._ends.feed.write(data)

    def close_input(self) -> None:
        """End its input, as the end of a file would. A terminal has no end: write its end-of-file character instead."""
        if self._ends.feed is not None and self._ends.terminal is None:
            self._ends.feed.close()

    def resize(self, size: pty.Size) -> None:
        """Change its terminal's window; does nothing without a terminal."""
        terminal = self.terminal
        if terminal is not None:
            pty.set_size(terminal, size)

    def release(self, *, keep_fifos: bool = True) -> None:
        """Let go of it without ending it: for an owner that leaves it to the next one. May be called again.

        A process with a FIFO goes on; one with a pipe fails at its next write; one with a terminal is hung up.
        """
        self._released = True
        if self.exit is None:
            self._watch.close()
            reaper.disown_child(self.pid)
        self._ends.close()
        if not keep_fifos:
            self._ends.remove_fifos()


def _reap(pid: int) -> Exit:
    """Take the exit status of our child; unknown if somebody else took it."""
    try:
        _, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return UNKNOWN
    finally:
        reaper.disown_child(pid)
    code = os.waitstatus_to_exitcode(status)
    return Exit(code=code, signal=None) if code >= 0 else Exit(code=None, signal=-code)
