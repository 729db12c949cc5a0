"""A program on a terminal of our own: its output goes to the transcript, to whoever looks on, and to what watches it.

Owns the process, the keyboard and the window. Every byte of output passes `_take`, so what is done there costs little: a
search for titles, and the bytes put aside. Which kind of program it is decides what is loaded: a shell needs no screen.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from harness.errors import ProcessError
from harness.processes import Process, RotatingLog, Size, Spec, spawn
from harness.sessions.dialects.titles import PasteMode, TitleScanner
from harness.sessions.reports import Decision, Outgoing, Progress, Report
from harness.sessions.transports.base import Tell
from harness.sessions.transports.keyboard import Keyboard
from harness.sessions.transports.line_program import LineProgram
from harness.sessions.transports.program import Program, TerminalSpec

_ECHO_SECONDS = 0.15  # what comes so soon after keys is their echo, and no progress
_REPAINT_SECONDS = 0.3
_OUTPUT = Progress(what="output")

__all__ = ["TerminalSpec", "TerminalTransport"]


class TerminalTransport:
    """See `Transport`."""

    name = "pty"

    def __init__(self, spec: TerminalSpec, *, transcript: RotatingLog) -> None:
        """Must be made in the event loop. Raises `UsageError` if the profile's screen rules cannot be used."""
        self._spec = spec
        self._transcript = transcript
        self._scanner = TitleScanner()
        self._tell: Tell = lambda _report: None
        self._viewer: Callable[[bytes], object] | None = None
        self._program = _program(spec, self._report)
        self._process: Process | None = None
        self._keyboard: Keyboard | None = None
        self._size = spec.size
        self._quiet_until = 0.0
        self.can = spec.profile.can

    async def start(self, tell: Tell) -> Process:
        self._tell = tell
        spec = self._spec
        try:
            argv = self._program.prepare(spec.argv)
            wanted = Spec(argv=argv, env=spec.env, cwd=spec.cwd, tag=spec.tag, pty=spec.size, detached=True)
            process = await spawn(wanted, on_output=self._take, log=self._transcript)
        except BaseException:
            self._program.close()
            raise
        self._process, self._keyboard = process, Keyboard(process)
        self._program.begin(process, self._keyboard)
        return process

    def _report(self, report: Report) -> None:
        self._tell(report)

    def _take(self, data: bytes) -> None:
        keyboard = self._keyboard
        if keyboard is None:
            return  # it cannot be: nothing is read before `start` has returned
        if self._viewer is not None:
            self._viewer(data)
        for signal in self._scanner.feed(data):
            if isinstance(signal, PasteMode):
                keyboard.bracketed = signal.on
            self._program.signal(signal)
        self._program.output(data)
        now = asyncio.get_running_loop().time()
        if now > self._quiet_until and now - keyboard.typed_at > _ECHO_SECONDS:
            self._tell(_OUTPUT)

    @property
    def _living(self) -> Process | None:
        return self._process if self._process is not None and self._process.exit is None else None

    async def deliver(self, message: Outgoing) -> None:
        if self._living is None:
            raise ProcessError("the program does not run")
        await self._program.deliver(message)

    async def interrupt(self) -> bool:
        return self._living is not None and await self._program.interrupt()

    async def decide(self, request: str, decision: Decision) -> None:
        await self._program.decide(request, decision)

    async def probe(self) -> bool:
        """Make it paint its window anew, which a living program does."""
        process = self._living
        if process is None or "probe" not in self.can:
            return False
        process.resize(Size(columns=self._size.columns, rows=self._size.rows + 1))
        process.resize(self._size)
        return True

    async def leave(self) -> bool:
        return self._living is not None and await self._program.leave()

    def keys(self, data: bytes) -> None:
        if self._living is not None and self._keyboard is not None:
            self._keyboard.press(data)
            self._program.typed(data)

    async def room(self) -> None:
        if self._keyboard is not None:
            await self._keyboard.room()

    def end_of_input(self) -> None:
        if self._living is not None:
            self._program.end_of_input()

    def resize(self, size: Size) -> None:
        self._size = size
        process = self._living
        if process is not None:
            self._quiet_until = asyncio.get_running_loop().time() + _REPAINT_SECONDS
            process.resize(size)
            self._program.resize(size)

    def viewers(self, follower: Callable[[bytes], object] | None) -> None:
        self._viewer = follower

    async def close(self) -> None:
        if self._keyboard is not None:
            self._keyboard.close()
        self._program.close()


def _program(spec: TerminalSpec, tell: Tell) -> Program:
    """What watches this kind of program. Raises `UsageError` for rules that cannot be used."""
    if not spec.profile.rules:
        return LineProgram(tell=tell)
    from harness.sessions.dialects.screens import load_rules
    from harness.sessions.transports.agent_program import AgentProgram
    from harness.sessions.transports.screen_watch import ScreenWatch

    rules = load_rules(spec.profile.rules, spec.home)
    if rules.has_composer:
        return AgentProgram(spec, rules, tell)
    return LineProgram(tell=tell, watch=lambda seen: ScreenWatch(rules, spec.size, seen))
