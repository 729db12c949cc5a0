"""What an agent program really does in each of its modes, tried out against the scripted model: nothing is asked of a real one.

Each aspect is tried as a host would use it, through the mode's transport, in a home of its own. Owns the aspects and their
order; how a program is run offline is `offline`'s, and what it says of itself `probing`'s.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TypeVar

import msgspec

from harness.errors import HarnessError
from harness.processes import Process, RotatingLog, Size
from harness.sessions import facts, ids, programs
from harness.sessions.facts import Mode, Placing, State
from harness.sessions.mock_model import MockModel
from harness.sessions.offline import Offline, heard
from harness.sessions.probing import probe_program
from harness.sessions.reports import ApprovalAsked, Cumulative, Decision, Outgoing, Progress, Reading, Receipt, Report
from harness.sessions.request import LaunchRequest
from harness.sessions.state import Board
from harness.sessions.transports.base import Transport

ASPECTS: Mapping[str, str] = {
    "prompt": "it is seen that it waits for a message",
    "messages": "a message of several lines comes whole, once, with a receipt",
    "tools": "its tool calls are on record",
    "approvals": "it asks leave, and takes the answer",
    "steer": "a message joins the turn under way",
    "interrupt": "a turn is ended, and the next message is taken",
    "usage": "its tokens are counted",
    "resume": "another process goes on with what was said",
    "limits": "a usage limit is known as one",
    "exit": "it ends in its own way, with code 0",
}
MODES: Mapping[str, tuple[Mode, ...]] = {
    "claude": (Mode.STREAM, Mode.PTY, Mode.ONCE),
    "codex": (Mode.APP_SERVER, Mode.PTY, Mode.ONCE),
}
PATIENCE_SECONDS = 20.0
_RECEIPT_SECONDS = 3.0  # some programs give a receipt only when a message has joined
_WORDS = ("one", "two", "three")
_LINES = "a first line\n  and a second: "
Told = TypeVar("Told", bound=Report)


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """What one program does in one mode, by aspect. `problem`: what cut the trial short."""

    program: str
    version: str
    mode: Mode
    does: Mapping[str, bool]
    problem: str = ""


async def try_program(program: str, path: str, mode: Mode, folder: Path) -> Trial:
    """Try all aspects, in a folder that is empty. It takes some seconds; everything that was started is ended."""
    probed = await probe_program(program, path)
    bench = _Bench(program, path, mode, folder)
    problem = probed.problem
    if not problem:
        with MockModel() as bench.model:
            try:
                await (bench.try_once() if mode is Mode.ONCE else bench.try_talking())
            except (HarnessError, OSError) as error:
                problem = str(error)
            finally:
                await bench.end()
    return Trial(program=program, version=probed.version, mode=mode, does=bench.does, problem=problem)


class _Run:
    """One process under its transport, and what it let on."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.reports: list[Report] = []
        self.board = Board()
        self.process: Process | None = None
        self._came = asyncio.Event()

    async def start(self) -> None:
        self.process = await self.transport.start(self._take)

    def _take(self, report: Report) -> None:
        if isinstance(report, Reading):
            self.board.take(report, self._now_us())
        if not isinstance(report, Progress):
            self.reports.append(report)
        self._came.set()

    @staticmethod
    def _now_us() -> int:
        return round(asyncio.get_running_loop().time() * 1e6)

    def state(self) -> State:
        self.board.settle(self._now_us())
        return self.board.state.state

    def all(self, kind: type[Told]) -> list[Told]:
        return [report for report in self.reports if isinstance(report, kind)]

    def over(self, *ids_: str) -> facts.TurnCompleted | None:
        """The turn that has answered all of these."""
        return next((turn for turn in self.all(facts.TurnCompleted) if set(ids_) <= set(turn.message_ids)), None)

    async def until(self, holds: Callable[[], object], seconds: float | None = None) -> bool:
        """Whether this comes to hold in time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_SECONDS if seconds is None else seconds):
                while not holds():
                    self._came.clear()
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(0.1):  # what the state is, may change without a report
                            await self._came.wait()
                return True
        return False

    async def say(self, text: str, placing: Placing = Placing.QUEUE) -> str:
        """Send a message as soon as it can be, and give its id."""
        if placing is Placing.QUEUE:
            await self.until(lambda: self.state() is State.PROMPT)
        id_ = str(uuid.uuid4())
        await self.transport.deliver(Outgoing(message_id=id_, text=text, placing=placing))
        return id_

    async def turn(self, text: str) -> bool:
        """Whether a message is answered."""
        id_ = await self.say(text)
        return await self.until(lambda: self.over(id_))


class _Bench:
    """A program in one mode, with everything that it needs."""

    model: MockModel

    def __init__(self, program: str, path: str, mode: Mode, folder: Path) -> None:
        self.does: dict[str, bool] = dict.fromkeys(ASPECTS, False)
        self._program = program
        self._path = folder / program  # by this name it is known
        self._path.symlink_to(Path(path).absolute())
        self._mode = mode
        self._folder = folder
        self._work = folder / "work"
        self._work.mkdir()
        self._runs: list[_Run] = []

    async def _run(self, *, resume: str = "", context: str = "", plan: bool = False) -> _Run:
        offline = Offline(self._program, self._folder / "own", cwd=self._work, url=self.model.url, plan=plan)
        self.model.load(offline.script(_WORDS))
        request = LaunchRequest(
            home=str(self._folder), database="", cli=str(self._path), agent_args=offline.arguments(self._mode),
            mode=self._mode, cwd=str(self._work), vendor_session=resume, context=context,
        )  # fmt: skip
        plan_ = programs.plan(request, id_="trial")
        folder = ids.Folder(home=self._folder, key=ids.new_key("trial"))
        folder.take()
        place = programs.Place(
            folder=folder, cwd=self._work, env={**offline.environment, **plan_.env}, tag=facts.stream_of(folder.key),
            size=Size(columns=120, rows=40), transcript=RotatingLog(folder.transcript), errors=RotatingLog(folder.errors),
        )  # fmt: skip
        run = _Run(plan_.make(place))
        self._runs.append(run)
        await run.start()
        return run

    async def end(self) -> None:
        """End whatever was started."""
        for run in self._runs:
            if run.process is not None:
                await run.process.stop(grace_seconds=1.0)
            await run.transport.close()

    async def _try(self, aspect: str, trial: Callable[[_Run], Awaitable[object]], run: _Run) -> None:
        """One aspect; a program that refuses it does not do it."""
        with contextlib.suppress(HarnessError, TimeoutError):
            self.does[aspect] = bool(await trial(run))

    async def try_talking(self) -> None:
        """All aspects of a program that takes messages."""
        run = await self._run()
        if not await run.until(lambda: run.state() is State.PROMPT):
            return
        self.does["prompt"] = True
        trials: Mapping[str, Callable[[_Run], Awaitable[object]]] = {
            "messages": self._messages, "tools": self._tools, "approvals": self._approvals, "steer": self._steer,
            "interrupt": self._interrupt,
        }  # fmt: skip
        for aspect, trial in trials.items():
            await self._try(aspect, trial, run)
        self.does["usage"] = bool(run.all(Cumulative))
        session = next((told.vendor_session for told in run.all(facts.Identified) if told.vendor_session), "")
        await self._try("exit", self._exit, run)
        if not session:
            return
        again = await self._run(resume=session, plan=True)
        await self._try("resume", self._resume, again)
        await self._try("limits", self._limits, again)

    async def try_once(self) -> None:
        """The aspects of a program that is given its one prompt: the others need somebody to talk to."""
        run = await self._run(context="works one")
        self.does["exit"] = await run.until(lambda: self._exited(run) == 0)
        self.does["tools"] = self._saw_tool(run)
        self.does["usage"] = bool(run.all(Cumulative))
        session = next((told.vendor_session for told in run.all(facts.Identified) if told.vendor_session), "")
        again = await self._run(resume=session, context="says two")
        self.does["resume"] = await again.until(lambda: self._exited(again) == 0) and bool(session) and self._heard("works one")
        limited = await self._run(context="limited one", plan=True)
        await limited.until(lambda: self._exited(limited) is not None)
        self.does["limits"] = bool(limited.all(facts.Limited))

    @staticmethod
    def _exited(run: _Run) -> int | None:
        return run.process.exit.code if run.process is not None and run.process.exit is not None else None

    def _heard(self, text: str) -> bool:
        return heard(self.model.requests, text) == 1

    @staticmethod
    def _saw_tool(run: _Run) -> bool:
        return any(item.kind == "tool" and item.ok for item in run.all(facts.ItemCompleted))

    async def _messages(self, run: _Run) -> bool:
        text = f"{_LINES}says one"
        id_ = await run.say(text)
        answered = await run.until(lambda: run.over(id_))
        receipts = [receipt.stage for receipt in run.all(Receipt) if receipt.message_id == id_]
        return answered and "accepted" in receipts and self._heard(text)

    async def _tools(self, run: _Run) -> bool:
        return await run.turn("works one") and self._saw_tool(run)

    async def _approvals(self, run: _Run) -> bool:
        id_ = await run.say("asks one")
        if not await run.until(lambda: run.all(ApprovalAsked)):
            return False
        await run.until(lambda: run.state() is State.BLOCKED)
        asked = not (self._work / "one").exists()
        await run.transport.decide(run.all(ApprovalAsked)[0].request, Decision(allow=True))
        return await run.until(lambda: run.over(id_)) and asked and (self._work / "one").exists()

    async def _steer(self, run: _Run) -> bool:
        if "steer" not in run.transport.can:
            return False
        first = await run.say("holds one")
        await asyncio.to_thread(self.model.wait_held, "one", timeout_seconds=PATIENCE_SECONDS)
        steering = await run.say("says two", Placing.STEER)
        await run.until(lambda: any(each.message_id == steering for each in run.all(Receipt)), _RECEIPT_SECONDS)
        self.model.release("one")
        return await run.until(lambda: run.over(first, steering)) and self._heard("says two")

    async def _interrupt(self, run: _Run) -> bool:
        id_ = await run.say("holds two")
        await asyncio.to_thread(self.model.wait_held, "two", timeout_seconds=PATIENCE_SECONDS)
        asked = await run.transport.interrupt()
        await run.until(lambda: run.over(id_))
        turn = run.over(id_)
        return asked and turn is not None and turn.outcome == "interrupted" and await run.turn("says three")

    async def _exit(self, run: _Run) -> bool:
        await run.until(lambda: run.state() is State.PROMPT)
        return await run.transport.leave() and await run.until(lambda: self._exited(run) == 0)

    async def _resume(self, run: _Run) -> bool:
        return await run.turn("says three") and heard(self.model.requests, _LINES) == 1

    async def _limits(self, run: _Run) -> bool:
        await run.say("limited one")
        return await run.until(lambda: run.all(facts.Limited))
