"""A program that speaks lines of JSON over pipes: its dialect does the talking, this moves the bytes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from harness.errors import ProcessError
from harness.processes import Lines, Process, RotatingLog, Size, Spec, spawn
from harness.sessions.dialects.base import LineDialect
from harness.sessions.facts import Source, State
from harness.sessions.reports import Decision, Outgoing, Progress, Reading, Step, Useless
from harness.sessions.transports.base import Tell

MAX_LINE_BYTES = 64 << 20
_OUTPUT = Progress(what="output")


class PipesSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What to start and where its output is kept."""

    argv: tuple[str, ...]
    env: dict[str, str]
    cwd: Path
    tag: str
    name: str = "pipes"
    input: bool = True  # False: /dev/null, for a program that is given its one prompt as an argument


class PipesTransport:
    """See `Transport`. stdout is the protocol, stderr has a pipe and a log of its own, and both are always drained."""

    def __init__(self, spec: PipesSpec, dialect: LineDialect, *, transcript: RotatingLog, errors: RotatingLog) -> None:
        self._spec = spec
        self._dialect = dialect
        self._transcript = transcript
        self._errors = errors
        self._lines = Lines(max_bytes=MAX_LINE_BYTES)
        self._process: Process | None = None
        self._tell: Tell = lambda _report: None
        self._viewer: Callable[[bytes], object] | None = None
        self._unsent: list[bytes] = []
        self._failed = ""
        self.name = spec.name
        told = {"messages", "steer", "interrupt", "probe", "approve"} if not spec.input else set[str]()
        self.can = (dialect.can | {"turns"}) - told

    async def start(self, tell: Tell) -> Process:
        self._tell = tell
        spec = self._spec
        wanted = Spec(argv=spec.argv, env=spec.env, cwd=spec.cwd, tag=spec.tag, stdin=spec.input, detached=True)
        self._process = await spawn(wanted, on_output=self._take, on_error=self._errors.write, log=self._transcript)
        if spec.input:
            for line in self._dialect.opening():
                await self._write(line)
        else:
            tell(Reading(state=State.BUSY, source=Source.PROTOCOL, evidence="it was given its prompt"))
        return self._process

    def _take(self, data: bytes) -> None:
        self._tell(_OUTPUT)
        if self._viewer is not None:
            self._viewer(data)
        for line in self._lines.feed(data):
            if line.strip():
                self._feed(line)

    def _feed(self, line: bytes) -> None:
        step: Step = self._dialect.feed(line)
        for report in step.reports:
            self._tell(report)
        if (failed := self._dialect.failed) and not self._failed:
            self._failed = failed
            self._tell(Useless(reason=failed))
        if step.replies:
            self._reply(step.replies)

    def _reply(self, replies: tuple[bytes, ...]) -> None:
        """Answer at once, in order; what the pipe does not take now is written by the next one who waits."""
        import asyncio

        waits = bool(self._unsent)
        self._unsent += replies
        if not waits:
            self._replying = asyncio.ensure_future(self._send_replies())  # kept: a task that nobody holds may vanish

    async def _send_replies(self) -> None:
        while self._unsent:
            try:
                await self._write(self._unsent[0])
            except ProcessError:  # it is gone or going, and its exit will be told
                self._unsent.clear()
                return
            del self._unsent[0]

    async def _write(self, data: bytes) -> None:
        if self._process is None:
            raise ProcessError("the program has not been started")
        await self._process.write(data)

    async def deliver(self, message: Outgoing) -> None:
        await self._write(self._dialect.message(message))

    async def interrupt(self) -> bool:
        data = self._dialect.interrupt() if "interrupt" in self.can else b""
        if data:
            await self._write(data)
        return bool(data)

    async def decide(self, request: str, decision: Decision) -> None:
        await self._write(self._dialect.decide(request, decision))

    async def probe(self) -> bool:
        data = self._dialect.probe() if "probe" in self.can else b""
        if data:
            await self._write(data)
        return bool(data)

    async def leave(self) -> bool:
        process = self._process
        if process is None or process.exit is not None or not self._spec.input:
            return False
        data = self._dialect.interrupt() + self._dialect.finish()  # else it would finish its turn first
        if data:
            await self._write(data)
        process.close_input()
        return True

    def keys(self, data: bytes) -> None:
        """There is no terminal to type at."""

    async def room(self) -> None:
        """Nor anything that could be full."""

    def end_of_input(self) -> None:
        """Nor one whose input could end."""

    def resize(self, size: Size) -> None:
        """There is no window."""

    def viewers(self, follower: Callable[[bytes], object] | None) -> None:
        self._viewer = follower

    async def close(self) -> None:
        rest = self._lines.flush()
        for line in rest:
            if line.strip():
                self._feed(line)
        self._unsent.clear()
