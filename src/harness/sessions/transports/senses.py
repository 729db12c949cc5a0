"""Everything that a program at a terminal lets on, put together: status, title, screen, hooks. Owns the turn and what is asked.

Each source's reading is told when it changes and apart from the others'; which one wins is not decided here. Hooks tell most
about turns and approvals; where there are none, the status protocol does, and where there is none either, the screen.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

from msgspec.structs import replace

from harness.sessions import facts
from harness.sessions.dialects.claude_hooks import ClaudeHooks
from harness.sessions.dialects.codex_notify import TurnTold
from harness.sessions.dialects.program_status import ProgramStatus
from harness.sessions.dialects.screens import Ask, Look
from harness.sessions.dialects.turns import Outcome, Turns
from harness.sessions.facts import Source, State
from harness.sessions.reports import ApprovalAsked, ApprovalSettled, Progress, Reading, Report
from harness.sessions.transports.readings import Readings

_SURE = 0.8
_SETTLES_SECONDS = 1.0  # after which a question that is no longer shown was answered at the terminal
_CUT_SECONDS = 0.5  # after which an idle program with an open turn was interrupted
_REST_SECONDS = 5.0  # the same where nobody is known to have interrupted it: a hook may be late
_LAST_WORDS_SECONDS = 0.4  # for `notify` to come with them
_KIND = {"permission": "permission", "question": "question", "auth": "dialog", "": "dialog"}
_LIMIT = re.compile(r"\bhit your usage limit\b|\busage limit (has been )?reached\b", re.IGNORECASE)
_OUTCOME: dict[str, Outcome] = {"done": "success", "error": "error", "idle": "interrupted"}


class Senses:
    """Takes what was seen and tells what it means."""

    def __init__(self, tell: Callable[[Report], object]) -> None:
        self.turns = Turns()
        self.hooks = ClaudeHooks(self.turns)
        self.hooks.works = lambda: self._status is not None and self._status.stage == "working"
        self.moved: Callable[[], object] = lambda: None  # called when a message may have been taken
        self.release: Callable[[list[str]], object] = lambda requests: None  # called with approvals that are settled
        self.entered = False  # somebody has pressed Enter since the last turn began
        self.cut = False  # the turn under way was asked to end
        self._spins = False  # its title says that it works
        self._words = ""  # what its screen shows of the last failed turn
        self._tell = tell
        self._loop = asyncio.get_running_loop()
        self.read = Readings(tell).read
        self._status: ProgramStatus | None = None
        self._dialog: Reading | None = None  # that the screen shows
        self._said = 0
        self._identity = ("", "")  # version and model, as it shows them
        self._shown = State.STARTING  # by the screen, when it was sure last
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._ask: tuple[str, Ask] | None = None
        self._asks = 0
        self._thread = ""

    # Telling

    def tell(self, reports: list[Report]) -> None:
        """Tell reports in order, readings only where they are new."""
        settled: list[str] = []
        for report in reports:
            if isinstance(report, Reading):
                self.read(report)
                continue
            if isinstance(report, ApprovalSettled):
                settled.append(report.request)
            elif isinstance(report, facts.TurnStarted | facts.TurnCompleted):
                self.cut = False
            self._tell(report)
        if settled:
            self.release(settled)
        if reports:
            self.moved()

    def _later(self, name: str, seconds: float, act: Callable[[], object]) -> None:
        def due() -> None:
            del self._timers[name]
            act()

        self._not_later(name)
        self._timers[name] = self._loop.call_later(seconds, due)

    def _not_later(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()

    def close(self) -> None:
        """Tell nothing more by itself. Idempotent."""
        for name in tuple(self._timers):
            self._not_later(name)

    # Hooks

    def hooked(self, data: bytes, request: str) -> None:
        """A hook of Claude Code came."""
        self.tell(self.hooks.feed(data, request))
        if self._status is not None:
            self._read_status(self._status)

    def notified(self, told: TurnTold, *, ours: bool = True) -> None:
        """Codex said that a turn is complete."""
        if not self._thread and ours:
            self._thread = told.thread
            self._tell(facts.Identified(vendor_session=told.thread))
        if told.thread == self._thread:
            self._not_later("over")
            self.tell(self.turns.over(told.prompts, turn=told.turn, summary=told.summary, proof="notify"))

    # The Program Status Protocol

    @property
    def status(self) -> ProgramStatus | None:
        """What the program said of itself last; None: it never did."""
        return self._status

    def told_status(self, status: ProgramStatus) -> None:
        """The program reported its own status."""
        if status.id:
            return  # of something that it runs
        before, self._status = self._status, status
        self._read_status(status)
        if before is not None and before.stage == "blocked" and status.stage != "blocked":
            self._later("settled", _SETTLES_SECONDS, lambda: self.tell(self.hooks.not_blocked()))
        elif status.stage == "blocked":
            self._not_later("settled")
        if self.hooks.live:
            self._status_beside_hooks(status)
        else:
            self._status_alone(status)

    def _read_status(self, status: ProgramStatus) -> None:
        """Its status, where nothing that is seen better says otherwise."""
        reading = _reading_of(status)
        if status.stage == "working" and self.hooks.live and self.hooks.background and not self.turns.turn:
            reading = replace(reading, state=State.PROMPT, confidence=0.9, detail="background work goes on")
        elif reading.state is State.PROMPT and self._dialog is not None:  # one that it has no status for
            seen = self._dialog
            reading = replace(reading, state=seen.state, detail=seen.detail, evidence=seen.evidence)
        self.read(reading)

    def _status_beside_hooks(self, status: ProgramStatus) -> None:
        """After Esc no hook comes, and the status is idle."""
        if status.stage in ("idle", "done", "error"):
            self.tell(self.hooks.rested())
            seconds = _CUT_SECONDS if status.stage == "idle" else 4 * _CUT_SECONDS
            self._later("over", seconds, lambda: self.tell(self._cut_short(_OUTCOME[status.stage], status.message)))
        else:
            self._not_later("over")

    def _cut_short(self, outcome: Outcome, words: str) -> list[Report]:
        if not self.turns.turn and not self.hooks.asked:
            return []
        if outcome == "interrupted":
            return self.hooks.cut_short()
        return self.turns.ended(outcome, error=words if outcome == "error" else "")

    def _status_alone(self, status: ProgramStatus) -> None:
        match status.stage:
            case "working" | "blocked":
                self._not_later("over")
                if self.turns.waiting or (self.entered and not self.turns.turn):
                    self.entered = False
                    self.tell(self.turns.taken(None, proof=f"status: {status.stage}"))
            case "done" | "error" | "idle":
                seconds = 0.0 if status.stage == "idle" else _LAST_WORDS_SECONDS
                self._later("over", seconds, lambda: self.tell(self._over(status)))
            case _:
                pass

    def _over(self, status: ProgramStatus) -> list[Report]:
        """The turn is over; of a failed one the words stand on the screen, if the status has none."""
        if status.stage != "error":
            return self.turns.ended(_OUTCOME[status.stage])
        words = status.message or self._words
        if _LIMIT.search(words):
            return [facts.Limited(kind="usage_limit"), *self.turns.ended("limit", error=words)]
        return self.turns.ended("error", error=words)

    # Title and screen

    def titled(self, reading: Reading) -> None:
        """Its window has another title."""
        self._spins = reading.state is State.BUSY
        self.read(reading)

    def looked(self, look: Look) -> None:
        """The screen was rendered and read."""
        self._identify(look)
        if look.said != self._said and look.reading.state is State.BUSY:
            self._tell(Progress(what="text"))
        self._said = look.said
        self.read(look.reading)
        parked = look.reading.state in (State.BLOCKED, State.LIMITED) and look.reading.confidence >= _SURE
        self._dialog = look.reading if parked else None
        self._words = look.error
        if self._status is not None:
            self._read_status(self._status)
        if not self.hooks.live:
            self._see_ask(look)
            if self._status is None:
                self._screen_alone(look)
        elif self._status is None:
            self._screen_beside_hooks(look)

    def _identify(self, look: Look) -> None:
        """Its version, and its model where no hook tells it better."""
        shown = (look.version or self._identity[0], look.model or self._identity[1])
        if shown != self._identity:
            self._identity = shown
            self._tell(facts.Identified(cli_version=shown[0], model="" if self.hooks.live else shown[1]))

    def _see_ask(self, look: Look) -> None:
        """A dialog that can be answered by keys only."""
        asked = None if self._ask is None else self._ask[1]
        if look.ask == asked:
            return
        if self._ask is not None:
            request, self._ask = self._ask[0], None
            self._tell(ApprovalSettled(request=request, reason="it is no longer on the screen"))
        if look.ask is not None:
            self._asks += 1
            request = f"screen-{self._asks}"
            self._ask = (request, look.ask)
            words = " ".join(look.ask.arguments.values())
            arguments = dict(look.ask.arguments)
            self._tell(
                ApprovalAsked(
                    request=request, tool=look.ask.tool, arguments=arguments, summary=words[:500], turn=self.turns.turn
                )
            )

    def asked_on_screen(self, request: str) -> Ask | None:
        """The dialog that this request is about, if it is the one that is shown."""
        return self._ask[1] if self._ask is not None and self._ask[0] == request else None

    def answered_on_screen(self) -> None:
        """Its answer was typed."""
        self._ask = None

    def _screen_alone(self, look: Look) -> None:
        """Turns by the screen alone: what begins to work has taken what was typed, and what is back at its prompt is done."""
        if look.reading.confidence < _SURE:
            return
        before, self._shown = self._shown, look.reading.state
        if look.reading.state is State.BUSY:
            self._not_later("over")
            if before is not State.BUSY and look.empty and (self.turns.waiting or (self.entered and not self.turns.turn)):
                self.entered = False
                self.tell(self.turns.taken(None, proof="screen: it began to work"))
        elif look.reading.state is State.PROMPT and self.turns.turn and not self.turns.waiting and "over" not in self._timers:
            outcome: Outcome = "interrupted" if self.cut else "success"
            self._later("over", _CUT_SECONDS, lambda: self.tell(self.turns.ended(outcome)))

    def _screen_beside_hooks(self, look: Look) -> None:
        """After Esc no hook comes; a program that rests at its prompt has ended its turn."""
        if look.reading.confidence < _SURE:
            return
        if look.reading.state is not State.PROMPT or self._spins:
            self._not_later("over")
        elif (self.turns.turn or self.hooks.asked) and not self.turns.waiting and "over" not in self._timers:
            seconds = _CUT_SECONDS if self.cut else _REST_SECONDS
            self._later("over", seconds, lambda: self.tell(self._cut_short("interrupted", "")))


def _reading_of(status: ProgramStatus) -> Reading:
    match status.stage:
        case "working":
            state, detail = State.BUSY, ""
        case "blocked":
            state, detail = State.BLOCKED, "trust" if "trust" in status.message else _KIND[status.kind]
        case "idle" | "done":
            state, detail = State.PROMPT, ""
        case "error":
            state, detail = State.PROMPT, "error"
        case "clear":
            return Reading(state=State.UNKNOWN, source=Source.PROTOCOL, confidence=0.0, evidence="it took its status back")
    return Reading(state=state, source=Source.PROTOCOL, confidence=0.95, detail=detail, evidence=status.message[:300])
