"""How a session ends: the ladder of a stop and the verdict on an exit."""

from __future__ import annotations

import asyncio
import signal
from typing import Literal

from harness.errors import HarnessError
from harness.processes import Exit, Process, Stopped
from harness.sessions import facts
from harness.sessions.facts import ExitReason
from harness.sessions.transports.base import Transport

_LEAVE_SHARE = 0.4  # of a stop's budget, for the agent's own exit
_HANG_UP_SECONDS = 0.5
_LEAVE_SECONDS = 15.0  # at most
_KILL_SHARE = 0.8  # of what is left, between TERM and KILL

Needed = Literal["", "exit", "term", "kill"]


class Ending:
    """One stop: the agent's own exit sequence, then TERM, then KILL of the whole tree, within the budget."""

    def __init__(
        self, request: facts.StopRequested, reason: ExitReason, process: Process | None, transport: Transport | None
    ) -> None:
        self._request = request
        self._reason = reason
        self._process = process
        self._transport = transport
        self._needed: Needed = ""
        self._hurry = asyncio.Event()
        self._done = asyncio.Event()
        if request.kill:
            self._hurry.set()

    @classmethod
    def none(cls) -> Ending:
        """Nobody asked: the agent exited by itself."""
        return cls(facts.StopRequested(by=""), ExitReason.SUCCESS, None, None)

    def hasten(self, request: facts.StopRequested) -> None:
        """A second stop with less time ends it sooner."""
        if request.kill or request.timeout_seconds < self._request.timeout_seconds:
            self._hurry.set()

    async def run(self) -> None:
        """Go down the ladder."""
        assert self._process is not None
        assert self._transport is not None
        budget = self._request.timeout_seconds
        try:
            if not self._hurry.is_set() and await self._leave(min(_LEAVE_SECONDS, budget * _LEAVE_SHARE)):
                self._needed = "exit"
                return
            grace = 0.0 if self._hurry.is_set() else budget * (1 - _LEAVE_SHARE) * _KILL_SHARE
            stopped = await self._end(grace)
            self._needed = "kill" if stopped.needed == "kill" else "term"
        finally:
            self._done.set()

    async def _leave(self, seconds: float) -> bool:
        """Whether the agent ended in its own way. One that does not even read what it is told is not waited for longer."""
        assert self._process is not None
        leaving = asyncio.ensure_future(self._way_out())
        waiting = asyncio.ensure_future(self._process.wait())
        hurry = asyncio.ensure_future(self._hurry.wait())
        deadline = asyncio.get_running_loop().time() + seconds
        try:
            await asyncio.wait({leaving, waiting, hurry}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if leaving.done() and leaving.result():
                left = deadline - asyncio.get_running_loop().time()
                await asyncio.wait({waiting, hurry}, timeout=max(left, 0), return_when=asyncio.FIRST_COMPLETED)
            return self._process.exit is not None
        finally:
            for task in (leaving, waiting, hurry):
                task.cancel()

    async def _way_out(self) -> bool:
        """Begin the program's own exit; whether it has one."""
        assert self._transport is not None
        try:
            return await self._transport.leave()
        except (HarnessError, OSError):  # it did not take all of it, and may end all the same
            return True

    async def _end(self, grace: float) -> Stopped:
        assert self._process is not None
        process = self._process
        gentle = asyncio.ensure_future(process.stop(grace_seconds=grace))
        hurry = asyncio.ensure_future(self._hurry.wait())
        try:
            await asyncio.wait({gentle, hurry}, timeout=_HANG_UP_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if not gentle.done():
                process.signal(signal.SIGHUP)  # a shell at its prompt ignores TERM, and ends when its terminal does
                await asyncio.wait({gentle, hurry}, return_when=asyncio.FIRST_COMPLETED)
            harder = await process.stop(grace_seconds=0) if not gentle.done() else None
            stopped = await gentle
            return harder if harder is not None and harder.needed == "kill" else stopped
        finally:
            hurry.cancel()

    async def done(self) -> None:
        """Return when the ladder has come to its end."""
        if self._process is not None:
            await self._done.wait()

    def verdict(self, exit_: Exit, rest: str) -> tuple[ExitReason, Needed, str]:
        """Why it ended, what was needed, and the words for it. `rest` says what the agent's leftovers needed."""
        if self._process is not None:
            return self._reason, self._needed, self._request.reason or f"asked by {self._request.by}"
        left = "" if rest == "nothing" else "it left processes behind, which were ended"
        if exit_.code == 0:
            return ExitReason.SUCCESS, "", left
        if exit_.signal is not None:
            return ExitReason.KILLED, "", left or f"signal {exit_.signal}, which Harness did not send"
        return ExitReason.FAILURE, "", left
