"""A shell, a REPL, any command that reads lines: its state by the process table, its receipts by what is left unread.

The receipt is exact: the system counts the bytes that wait in the terminal, and none waits once the program has read its line.
Before they wait there they are on their way, and nothing counts them: so whoever waited at the terminal must have awoken, too.
A message of several lines is several lines to such a program, unless it knows pastes: they are sent in one piece, and it reads
them one after the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from harness.errors import NotFound, UsageError
from harness.processes import Process, Size
from harness.sessions.dialects.titles import Signal
from harness.sessions.facts import Source, State
from harness.sessions.reports import Decision, Outgoing, Reading, Receipt, Report
from harness.sessions.transports.keyboard import END_OF_FILE, ENTER, INTERRUPT, Keyboard, as_typed, check_text
from harness.sessions.transports.process_table import QUIET_SECONDS, ProcessTable, Waiter
from harness.sessions.transports.readings import Readings

if TYPE_CHECKING:
    from harness.sessions.dialects.screens import Look
    from harness.sessions.transports.screen_watch import ScreenWatch

_MAX_LINE = 4095  # of a terminal that hands over lines, with its end; the rest of a longer one is lost
_FIRST_SECONDS = 0.001  # for bytes to pass from our side of the terminal to the other
_SURE_SECONDS = 0.05  # after which nothing waiting means that it was read, where nobody was known to wait and nothing is echoed
_SURELY_SECONDS = 1.0  # the same where somebody waits, and does not awake
_FIRST_END_SECONDS = 0.05  # between looks whether somebody reads on after the end of the input
_SLOWEST_END_SECONDS = 2.0
_SLOWEST_RECEIPT_SECONDS = 0.1
_FIRST_LOOK_SECONDS = 0.005
_SLOWEST_LOOK_SECONDS = 0.25
_IDLE_LOOK_SECONDS = 20.0


class LineProgram:
    """See `Program`. `watch` makes what reads its screen, where the system does not tell what processes wait for."""

    def __init__(
        self, *, tell: Callable[[Report], object], watch: Callable[[Callable[[Look], object]], ScreenWatch] | None = None
    ) -> None:
        self._tell = tell
        self._read = Readings(tell).read
        self._loop = asyncio.get_running_loop()
        self._watch = None if watch is None else watch(lambda look: self._read(look.reading))
        self._process: Process | None = None
        self._keyboard: Keyboard | None = None
        self._table: ProcessTable | None = None
        self._output_at = self._loop.time()
        self._wait = _FIRST_LOOK_SECONDS
        self._timer: asyncio.TimerHandle | None = None
        self._receipts: set[asyncio.Task[None]] = set()
        self._ending: asyncio.Task[None] | None = None
        self._closed = False

    def prepare(self, argv: tuple[str, ...]) -> tuple[str, ...]:
        return argv

    def begin(self, process: Process, keyboard: Keyboard) -> None:
        self._process, self._keyboard = process, keyboard
        terminal = process.terminal
        self._table = ProcessTable(process.pid, terminal) if terminal is not None and self._watch is None else None
        self._look_in(self._wait)

    def output(self, data: bytes) -> None:
        self._output_at = self._loop.time()
        if self._watch is not None:
            self._watch.feed(data)
        elif self._wait > _FIRST_LOOK_SECONDS * 4:
            self._look_soon()

    def signal(self, signal: Signal) -> None:
        """Titles and statuses may be any program's that runs in it."""

    def typed(self, data: bytes) -> None:
        self._look_soon()

    def end_of_input(self) -> None:
        """From now on whoever reads the terminal is told that its input has ended, as in a pipe."""
        if self._ending is None:
            self._ending = self._loop.create_task(self._end_input())

    async def _end_input(self) -> None:
        """A sign for the end that is typed ahead is lost where a program is only starting: it is typed to who waits."""
        seconds = _FIRST_END_SECONDS
        while self._process is not None and self._keyboard is not None and self._process.terminal is not None:
            if self._table is None or (self._keyboard.idle and not self._process.input_waiting and self._reads_on()):
                lines = self._table is None or self._table.canonical()
                handed_over = self._keyboard.line_ended  # a line that was begun is, first
                self._keyboard.press(END_OF_FILE if handed_over or lines else ENTER)
                self._keyboard.line_ended = True
            await asyncio.sleep(seconds)
            seconds = min(seconds * 1.5, _SLOWEST_END_SECONDS)

    def _reads_on(self) -> bool:
        """Whether somebody waits for a line, shown or not."""
        if self._table is None:
            return False
        reading = self._table.read(self._loop.time() - self._output_at)
        return reading.state is State.PROMPT or (reading.state is State.BLOCKED and reading.detail == "question")

    async def interrupt(self) -> bool:
        """A prompt has nothing to interrupt."""
        if self._keyboard is None or self._state() is State.PROMPT:
            return False
        async with self._keyboard.turn:
            await self._keyboard.type(INTERRUPT)
        self._look_soon()
        return True

    async def decide(self, request: str, decision: Decision) -> None:
        raise NotFound(f"a plain command asks no leave, so nobody waits for an answer to {request!r}")

    async def leave(self) -> bool:
        """There is no way out that is safe to type: what is an exit for one program is a message to another."""
        return False

    def resize(self, size: Size) -> None:
        if self._watch is not None:
            self._watch.resize(size)

    def _state(self) -> State:
        if self._table is None or self._process is None or self._process.terminal is None:
            return State.UNKNOWN
        return self._table.read(self._loop.time() - self._output_at).state

    def _look_soon(self) -> None:
        self._wait = _FIRST_LOOK_SECONDS
        self._look_in(self._wait)

    def _look_in(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if not self._closed:
            self._timer = self._loop.call_later(seconds, self._look)

    def _look(self) -> None:
        if self._table is None or self._process is None or self._process.terminal is None or self._closed:
            return
        quiet = self._loop.time() - self._output_at
        reading = self._table.read(quiet)
        self._read(reading)
        if reading.state in (State.PROMPT, State.BLOCKED):
            self._wait = _SLOWEST_LOOK_SECONDS
            self._look_in(_IDLE_LOOK_SECONDS)
            return
        self._look_in(min(self._wait, QUIET_SECONDS - quiet + _FIRST_SECONDS) if quiet < QUIET_SECONDS else self._wait)
        self._wait = min(self._wait * 2, _SLOWEST_LOOK_SECONDS)

    async def deliver(self, message: Outgoing) -> None:
        """Type a message. Raises `UsageError` for what such a terminal cannot take, `ProcessError` if nobody reads it."""
        assert self._keyboard is not None
        check_text(message.text)
        bracketed = self._keyboard.bracketed and ("\n" in message.text or "\t" in message.text)
        data = b"" if message.only_submit else as_typed(message.text, bracketed=bracketed)
        if not bracketed:
            self._check_lines(data)
        ends = message.submit or message.only_submit
        async with self._keyboard.turn:
            began, waiters = self._loop.time(), () if self._table is None else self._table.waiters()
            await self._keyboard.type(data + ENTER if ends else data)
        if not ends:
            self._tell(Receipt(stage="done", message_id=message.message_id, proof="it was typed, and not submitted"))
            return
        receipt = self._loop.create_task(self._receipt(message.message_id, began, waiters))
        self._receipts.add(receipt)
        receipt.add_done_callback(self._receipts.discard)

    def _check_lines(self, data: bytes) -> None:
        if self._table is None or not self._table.canonical():
            return
        longest = max(map(len, data.split(b"\n")), default=0)
        if longest >= _MAX_LINE:
            raise UsageError(
                f"this program reads lines of at most {_MAX_LINE - 1} bytes from its terminal, and one of the message has "
                f"{longest}: put it into a file and name the file"
            )

    async def _receipt(self, message_id: str, began: float, waiters: tuple[Waiter, ...]) -> None:
        """Tell as soon as the program has read what was typed."""
        seconds, seen = _FIRST_SECONDS, False
        while True:
            await asyncio.sleep(seconds)
            waiting = self._process.input_waiting if self._process is not None else None
            if waiting is None:
                return  # the program has exited
            seen = seen or waiting > 0 or self._arrived(began, waiters)
            if seen and not waiting:
                break
            seconds = min(seconds * 2, _SLOWEST_RECEIPT_SECONDS)
        self._tell(Receipt(stage="accepted", message_id=message_id, proof="the program has read it from its terminal"))
        source = Source.PROCESS if self._watch is None else Source.SCREEN
        self._read(Reading(state=State.BUSY, source=source, confidence=0.6, evidence="it has just read a line"))
        self._look_soon()
        if self._watch is not None:
            self._watch.feed(b"")  # so that it looks again

    def _arrived(self, began: float, waiters: tuple[Waiter, ...]) -> bool:
        """Whether what was typed has come to the program's side of the terminal, where none of it waits."""
        passed = self._loop.time() - began
        if waiters and self._table is not None:  # none of them may be the one that reads, where a program has threads
            return any(map(self._table.woke, waiters)) or passed > _SURELY_SECONDS
        return self._output_at > began or passed > _SURE_SECONDS

    def close(self) -> None:
        """Stop watching. Idempotent."""
        self._closed = True
        if self._watch is not None:
            self._watch.close()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for task in (*self._receipts, *([] if self._ending is None else [self._ending])):
            task.cancel()
