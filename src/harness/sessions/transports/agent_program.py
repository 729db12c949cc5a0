"""A program with a composer and dialogs, as known by its screen rules: Claude Code, Codex, or one that a user described.

Owns how its parts work together: hooks, screen, composer, and `Senses`, which makes sense of what they see.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from harness.clock import SystemClock
from harness.errors import NotFound
from harness.processes import Process, Size
from harness.sessions.dialects.claude_hooks import EVENTS, QUESTION_TOOL
from harness.sessions.dialects.codex_notify import parse_notification
from harness.sessions.dialects.program_status import QUESTION, parse_status
from harness.sessions.dialects.screens import ScreenReader
from harness.sessions.dialects.titles import PasteMode, Signal, StatusAsked, StatusTold, Title
from harness.sessions.facts import Identified, Source, State
from harness.sessions.reports import ApprovalAsked, Cumulative, Decision, Outgoing, Reading, Report
from harness.sessions.transports.composer import Composer
from harness.sessions.transports.hooks import ASKING, NOTIFY, HookDrop, allowed, denied, with_notify, with_settings
from harness.sessions.transports.keyboard import ENTER, Keyboard
from harness.sessions.transports.program import TerminalSpec
from harness.sessions.transports.record_watch import RecordWatch
from harness.sessions.transports.screen_watch import ScreenWatch
from harness.sessions.transports.senses import Senses

_TURN_OVER = "Stop"  # and StopFailure


class AgentProgram:
    """See `Program`. Lives in the event loop that makes it."""

    def __init__(self, spec: TerminalSpec, rules: ScreenReader, tell: Callable[[Report], object]) -> None:
        self._spec = spec
        self._rules = rules
        self._forward = tell
        self._senses = Senses(self._tell)
        self._drop = HookDrop(spec.folder, self._hooked) if spec.profile.hooks else None
        self._watch = ScreenWatch(rules, spec.size, self._senses.looked)
        self._questions: set[str] = set()  # requests that ask no leave: to allow them is to leave them to a person
        self._keyboard: Keyboard | None = None
        self._composer: Composer | None = None
        self._record: RecordWatch | None = None

    def prepare(self, argv: tuple[str, ...]) -> tuple[str, ...]:
        drop, hooks = self._drop, self._spec.profile.hooks
        if drop is None:
            return argv
        self._senses.release = drop.release
        drop.open()
        self._record = self._record_of(argv)
        return with_settings(argv, drop, EVENTS) if hooks == "claude" else with_notify(argv, drop, self._spec.env)

    def _record_of(self, argv: tuple[str, ...]) -> RecordWatch:
        """What it uses stands in its own record only. What is there already is not this run's."""
        spec, began = self._spec, SystemClock().now_us() / 1e6
        if spec.profile.hooks == "claude":
            from harness.sessions.dialects.claude.record import ClaudeRecord
            from harness.sessions.transports.record_files import ClaudeFiles

            return RecordWatch(ClaudeRecord(began), ClaudeFiles(began), self._forward)
        from harness.sessions.dialects.codex.record import CodexRecord
        from harness.sessions.transports.rollout_files import CodexFiles

        watch = RecordWatch(CodexRecord(began), CodexFiles(spec.env, spec.cwd, began), self._used)
        watch.belongs(spec.vendor_session)
        for argument in argv[1:]:  # one of them is the prompt, if there is one
            watch.given(argument)
        return watch

    def begin(self, process: Process, keyboard: Keyboard) -> None:
        senses = self._senses
        self._keyboard = keyboard
        self._composer = Composer(
            self._spec.profile, keyboard, self._watch, senses.turns, tell=senses.tell, hooked=lambda: senses.hooks.live
        )
        senses.moved = self._composer.progress

    def _tell(self, report: Report) -> None:
        if isinstance(report, ApprovalAsked) and report.tool == QUESTION_TOOL:
            self._questions.add(report.request)
        self._forward(report)
        if isinstance(report, Identified) and self._record is not None:
            self._record.belongs(report.transcript)

    def _used(self, report: Report) -> None:
        turn = self._senses.turns.turn
        self._forward(replace(report, turn=turn) if isinstance(report, Cumulative) else report)

    # What comes from it

    def output(self, data: bytes) -> None:
        self._watch.feed(data)
        if self._record is not None:
            self._record.stir()

    def signal(self, signal: Signal) -> None:
        match signal:
            case Title(text):
                self._senses.titled(self._rules.title(text))
            case StatusTold(body):
                status = parse_status(body)
                if status is not None:
                    self._senses.told_status(status)
            case StatusAsked() if self._spec.profile.answers_status and self._keyboard is not None:
                self._keyboard.press(QUESTION)
            case StatusAsked() | PasteMode():
                pass

    def _hooked(self, request: str, data: bytes) -> None:
        if not request.startswith(f"{NOTIFY}."):
            self._senses.hooked(data, request if request.startswith(f"{ASKING}.") else "")
            if self._record is not None:
                self._record.look(over=request.startswith(_TURN_OVER))
            return
        told = parse_notification(data)
        if told is not None:
            if self._record is not None:
                self._record.belongs(told.thread)
                self._record.look(over=True)
            self._senses.notified(told)

    # What goes to it

    async def deliver(self, message: Outgoing) -> None:
        assert self._composer is not None
        if self._record is not None:
            self._record.given(message.text)
        await self._composer.deliver(message)

    async def interrupt(self) -> bool:
        """At an idle prompt its key means something else: a menu of earlier messages."""
        assert self._keyboard is not None
        if not self._senses.turns.turn and (await self._watch.look()).reading.state is State.PROMPT:
            return False
        self._senses.cut = True
        async with self._keyboard.turn:
            await self._keyboard.type(self._spec.profile.interrupt)
        return True

    async def decide(self, request: str, decision: Decision) -> None:
        if self._drop is not None and self._senses.hooks.answered(request):
            self._drop.answer(request, self._hook_answer(request, decision))
            return
        ask = self._senses.asked_on_screen(request)
        if ask is None or self._keyboard is None:
            raise NotFound(f"nobody waits for an answer to {request!r} any more")
        async with self._keyboard.turn:
            if (await self._watch.look()).ask != ask:  # another dialog, or none: keys would decide what nobody has
                raise NotFound(f"what {request!r} asked is no longer on the screen")
            self._senses.answered_on_screen()
            await self._keyboard.type(ask.allow if decision.allow else ask.deny)

    def _hook_answer(self, request: str, decision: Decision) -> str:
        question = request in self._questions
        self._questions.discard(request)
        if not decision.allow:
            return denied(decision.reason, interrupt=decision.interrupt)
        if question:
            return ""  # there is nothing to allow: its dialog stays, for a person at the terminal
        if not self._senses.hooks.asked:
            self._senses.read(Reading(state=State.BUSY, source=Source.HOOK, confidence=0.9, evidence="it was allowed"))
        return allowed()

    async def leave(self) -> bool:
        return self._composer is not None and await self._composer.leave()

    def typed(self, data: bytes) -> None:
        if ENTER in data:
            self._senses.entered = True

    def end_of_input(self) -> None:
        """It talks to people, who come back."""

    def resize(self, size: Size) -> None:
        self._watch.resize(size)

    def close(self) -> None:
        self._watch.close()
        if self._record is not None:
            self._record.close()
        if self._drop is not None:
            self._drop.close()
        self._senses.close()
