"""An agent program on a terminal of our own: its output goes to the transcript, to whoever looks on, and to `Senses`.

Owns the process and the wiring. Every byte of output passes `_take`, so what is done there costs little: a search for titles,
and the bytes put aside for the screen. All else is done later, and only as often as it is of use.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from harness.errors import NotFound, ProcessError
from harness.processes import Process, RotatingLog, Size, Spec, spawn
from harness.sessions.dialects.claude_hooks import EVENTS, QUESTION_TOOL
from harness.sessions.dialects.codex_notify import parse_notification
from harness.sessions.dialects.program_status import QUESTION, parse_status
from harness.sessions.dialects.screens import load_rules
from harness.sessions.dialects.titles import PasteMode, Signal, StatusAsked, StatusTold, Title, TitleScanner
from harness.sessions.facts import Source, State
from harness.sessions.reports import ApprovalAsked, Decision, Outgoing, Progress, Reading, Report
from harness.sessions.transports.base import Tell
from harness.sessions.transports.composer import Composer
from harness.sessions.transports.hooks import ASKING, NOTIFY, HookDrop, allowed, denied, with_notify, with_settings
from harness.sessions.transports.keyboard import ENTER, Keyboard
from harness.sessions.transports.line_program import LineProgram
from harness.sessions.transports.profiles import TerminalProfile
from harness.sessions.transports.screen_watch import ScreenWatch
from harness.sessions.transports.senses import Senses

_ECHO_SECONDS = 0.15  # what comes so soon after keys is their echo, and no progress
_REPAINT_SECONDS = 0.3
_OUTPUT = Progress(what="output")


class TerminalSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What to start, and how it is watched. `home`: where the user's own screen rules are."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: Path
    tag: str
    size: Size
    folder: Path  # the session's own
    profile: TerminalProfile
    home: Path | None = None


class _Parts(msgspec.Struct, kw_only=True):
    """What there is while a program runs: `composer` or `line`, and `watch` where there are screen rules."""

    senses: Senses
    drop: HookDrop | None = None
    watch: ScreenWatch | None = None
    process: Process | None = None
    keyboard: Keyboard | None = None
    composer: Composer | None = None
    line: LineProgram | None = None

    def close(self) -> None:
        for part in (self.keyboard, self.watch, self.line, self.drop, self.senses):
            if part is not None:
                part.close()


class TerminalTransport:
    """See `Transport`."""

    name = "pty"

    def __init__(self, spec: TerminalSpec, *, transcript: RotatingLog) -> None:
        """Raises `UsageError` if the profile's screen rules cannot be used."""
        self._spec = spec
        self._transcript = transcript
        self._rules = load_rules(spec.profile.rules, spec.home) if spec.profile.rules else None
        self._scanner = TitleScanner()
        self._tell: Tell = lambda _report: None
        self._viewer: Callable[[bytes], object] | None = None
        self._questions: set[str] = set()  # requests that ask no leave: to allow them is to leave them to a person
        self._parts: _Parts | None = None
        self._size = spec.size
        self._quiet_until = 0.0
        composes = self._rules is not None and self._rules.has_composer
        self.can: frozenset[str] = spec.profile.can | (frozenset({"turns"}) if composes else frozenset[str]())

    async def start(self, tell: Tell) -> Process:
        self._tell = tell
        spec = self._spec
        parts = self._parts = _Parts(senses=Senses(self._report))
        try:
            argv = self._hook(parts)
            if self._rules is not None:
                parts.watch = ScreenWatch(self._rules, spec.size, parts.senses.looked)
            wanted = Spec(argv=argv, env=spec.env, cwd=spec.cwd, tag=spec.tag, pty=spec.size, detached=True)
            parts.process = process = await spawn(wanted, on_output=self._take, log=self._transcript)
        except BaseException:
            parts.close()
            raise
        keyboard = parts.keyboard = Keyboard(process)
        if parts.watch is None or not parts.watch.reader.has_composer:
            source = Source.PROCESS if parts.watch is None else Source.SCREEN
            parts.line = LineProgram(process, keyboard, tell=tell, read=self._read_line, source=source)
        else:
            parts.composer = Composer(
                spec.profile, keyboard, parts.watch, parts.senses.turns,
                tell=parts.senses.tell, hooked=lambda: parts.senses.hooks.live,
            )  # fmt: skip
            parts.senses.moved = parts.composer.progress
        return process

    def _hook(self, parts: _Parts) -> tuple[str, ...]:
        """The command line with hooks for this session, where the program has any. Raises `UsageError`, `ProcessError`."""
        spec = self._spec
        if not spec.profile.hooks:
            return spec.argv
        drop = parts.drop = HookDrop(spec.folder, self._hooked)
        parts.senses.release = drop.release
        drop.open()
        if spec.profile.hooks == "claude":
            return with_settings(spec.argv, drop, EVENTS)
        return with_notify(spec.argv, drop, spec.env)

    def _report(self, report: Report) -> None:
        if isinstance(report, ApprovalAsked) and report.tool == QUESTION_TOOL:
            self._questions.add(report.request)
        self._tell(report)

    def _read_line(self, reading: Reading) -> None:
        """A line program's reading; what its screen says after it is looked for at once."""
        if self._parts is not None:
            self._parts.senses.read(reading)
            if self._parts.watch is not None and reading.source is Source.SCREEN:
                self._parts.watch.feed(b"")

    # What comes from the program

    def _take(self, data: bytes) -> None:
        parts = self._parts
        if parts is None or parts.keyboard is None:
            return
        if self._viewer is not None:
            self._viewer(data)
        for signal in self._scanner.feed(data):
            self._signal(signal, parts.senses, parts.keyboard)
        if parts.watch is not None:
            parts.watch.feed(data)
        if parts.line is not None:
            parts.line.output()
        now = asyncio.get_running_loop().time()
        if now > self._quiet_until and now - parts.keyboard.typed_at > _ECHO_SECONDS:
            self._tell(_OUTPUT)

    def _signal(self, signal: Signal, senses: Senses, keyboard: Keyboard) -> None:
        match signal:
            case PasteMode(on):
                keyboard.bracketed = on
            case Title(text) if self._rules is not None:
                senses.read(self._rules.title(text))
            case StatusTold(body) if self._rules is not None:
                status = parse_status(body)
                if status is not None:
                    senses.told_status(status)
            case StatusAsked() if self._spec.profile.answers_status:
                keyboard.press(QUESTION)
            case _:
                pass

    def _hooked(self, request: str, data: bytes) -> None:
        if self._parts is None:
            return
        if not request.startswith(f"{NOTIFY}."):
            self._parts.senses.hooked(data, request if request.startswith(ASKING) else "")
            return
        told = parse_notification(data)
        if told is not None:
            self._parts.senses.notified(told)

    # What goes to the program

    def _living(self) -> _Parts | None:
        parts = self._parts
        return parts if parts is not None and parts.process is not None and parts.process.exit is None else None

    async def deliver(self, message: Outgoing) -> None:
        parts = self._living()
        if parts is not None and parts.composer is not None:
            await parts.composer.deliver(message)
        elif parts is not None and parts.line is not None:
            await parts.line.deliver(message)
        else:
            raise ProcessError("the program does not run")

    async def interrupt(self) -> bool:
        """At an idle prompt the keys for it mean something else: a menu, or the program's end."""
        parts = self._living()
        if parts is None or parts.keyboard is None:
            return False
        if parts.line is not None and parts.line.at_prompt:
            return False
        if parts.watch is not None and (await parts.watch.look()).reading.state is State.PROMPT:
            return False
        async with parts.keyboard.turn:
            await parts.keyboard.type(self._spec.profile.interrupt)
        return True

    async def decide(self, request: str, decision: Decision) -> None:
        parts = self._living()
        if parts is not None and parts.drop is not None and parts.senses.hooks.answered(request):
            parts.drop.answer(request, self._hook_answer(request, decision, parts.senses))
        elif parts is not None and (ask := parts.senses.asked_on_screen(request)) is not None:
            assert parts.watch is not None
            assert parts.keyboard is not None
            async with parts.keyboard.turn:
                if (await parts.watch.look()).ask != ask:  # another dialog, or none: keys would decide what nobody has
                    raise NotFound(f"what {request!r} asked is no longer on the screen")
                parts.senses.answered_on_screen()
                await parts.keyboard.type(ask.allow if decision.allow else ask.deny)
        else:
            raise NotFound(f"nobody waits for an answer to {request!r} any more")

    def _hook_answer(self, request: str, decision: Decision, senses: Senses) -> str:
        question = request in self._questions
        self._questions.discard(request)
        if not decision.allow:
            return denied(decision.reason, interrupt=decision.interrupt)
        if question:
            return ""  # there is nothing to allow: its dialog stays, for a person at the terminal
        if not senses.hooks.asked:
            senses.read(Reading(state=State.BUSY, source=Source.HOOK, confidence=0.9, evidence="it was allowed"))
        return allowed()

    async def probe(self) -> bool:
        """Make it paint its window anew, which a living program does."""
        parts = self._living()
        if parts is None or parts.process is None or "probe" not in self.can:
            return False
        parts.process.resize(Size(columns=self._size.columns, rows=self._size.rows + 1))
        parts.process.resize(self._size)
        return True

    async def leave(self) -> bool:
        parts = self._living()
        return parts is not None and parts.composer is not None and await parts.composer.leave()

    def keys(self, data: bytes) -> None:
        parts = self._living()
        if parts is None or parts.keyboard is None:
            return
        if ENTER in data:
            parts.senses.entered = True
        parts.keyboard.press(data)
        if parts.line is not None:
            parts.line.typed()

    def resize(self, size: Size) -> None:
        self._size = size
        parts = self._living()
        if parts is None or parts.process is None:
            return
        self._quiet_until = asyncio.get_running_loop().time() + _REPAINT_SECONDS
        parts.process.resize(size)
        if parts.watch is not None:
            parts.watch.resize(size)

    def viewers(self, follower: Callable[[bytes], object] | None) -> None:
        self._viewer = follower

    async def close(self) -> None:
        if self._parts is not None:
            self._parts.close()
