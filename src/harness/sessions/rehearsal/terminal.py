"""A rehearsed agent in a terminal: it looks like the program of `--like`, takes keys and pastes, and calls no model."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from harness.sessions.rehearsal import deeds
from harness.sessions.rehearsal.arguments import Arguments, described
from harness.sessions.rehearsal.flags import BadFlag, Plan, for_turn
from harness.sessions.rehearsal.keys import Key, Keys
from harness.sessions.rehearsal.looks import LOOKS
from harness.sessions.rehearsal.screen import Screen, clock
from harness.sessions.rehearsal.stage import Journal, Over, Stage, Turn, here

if TYPE_CHECKING:
    from harness.sessions.rehearsal.hooks import Hooks
    from harness.sessions.rehearsal.records import Rollout, Transcript

VALUED = frozenset({
    "--settings", "--session-id", "--resume", "-r", "--model", "-m", "--permission-mode", "-c", "--config", "-C", "--cd", "-s",
    "--sandbox", "-a", "--ask-for-approval", "--append-system-prompt", "--mcp-config", "--add-dir", "--name",
})  # fmt: skip
_FALSE_PROMPT = ("> a line that somebody quoted", "  NORMAL", "> ")
_ESCAPE_SECONDS = 0.03


class Terminal:
    """One program in one terminal."""

    def __init__(self, arguments: Arguments, journal: Journal, *, resumed: str = "") -> None:
        self.plan: Plan = arguments.plan
        self.journal = journal
        self.look = LOOKS[self.plan.like]
        self.screen = Screen(self.look)
        self.stage = Stage(self._hear, self._input_ended)
        self.keys = Keys()
        self.hooks = _hooks(arguments, journal)
        self.resumed = resumed or arguments.value("--resume") or arguments.value("-r")
        self.session = self.resumed or arguments.value("--session-id") or f"rehearsal-{os.getpid()}"
        self.record = _record(self.plan, self.session, arguments.value("--model") or arguments.value("-m"))
        self.composer = ""
        self.last_text = -math.inf
        self.swallows = self.plan.swallows
        self.queue: list[str] = []
        self.turns = 0
        self.busy = False
        self.ended = False
        self.greeted = False
        self.question = ""  # trust, permission, or none
        self.answer: bool | None = None
        self.interrupts = 0
        self.limited_until = 0.0

    def run(self, prompt: str) -> int:
        """Until somebody ends it; gives the exit code."""
        if self.resumed:
            self.journal.note("resumed", session=self.resumed)
            if self.plan.crashes_on_resume:
                deeds.complain("No conversation found")
                return 1
        self._listen_to_signals()
        self.screen.open()
        try:
            if self.plan.dies_after >= 0:
                self.stage.after(self.plan.dies_after, lambda: deeds.end_silently(self.plan.code, self.journal))
            if prompt:
                self.queue.append(prompt)
            self.stage.after(0, self._ready)
            return self.stage.run()
        finally:
            self.screen.close()

    def _listen_to_signals(self) -> None:
        for name, act in (("TERM", self._on_death), ("HUP", self._on_death), ("INT", self._on_interrupt)):
            if name not in self.plan.ignores:
                signal.signal(signal.Signals[f"SIG{name}"], act)
        signal.signal(signal.SIGWINCH, self._on_resize)

    def _on_death(self, number: int, _frame: object) -> None:
        self.journal.note("signal", signal=number)
        with contextlib.suppress(OSError):  # the terminal may be gone
            self.screen.close()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    def _on_interrupt(self, number: int, _frame: object) -> None:
        self.journal.note("signal", signal=number)
        self.stage.after(0, self._interrupted)

    def _on_resize(self, _number: int, _frame: object) -> None:
        self.stage.after(0, self._resized)

    def _resized(self) -> None:
        size = os.get_terminal_size(1) if os.isatty(1) else os.terminal_size((80, 24))
        self.journal.note("resized", columns=size.columns, rows=size.lines)
        if self.look.raw:
            self.screen.reset()
            self._show()

    # -- what is typed

    def _hear(self, data: bytes) -> None:
        for key in self.keys.feed(data):
            self._press(key)
        if self.keys.undecided:
            self.stage.after(_ESCAPE_SECONDS, self._escaped)

    def _escaped(self) -> None:
        if self.keys.undecided:
            for key in self.keys.flush():
                self._press(key)

    def _press(self, key: Key) -> None:
        kind, data = key
        if self.question:
            self._decide(kind, data)
        elif kind in ("text", "paste"):
            self.composer += data.decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n")
            self.last_text = time.monotonic()
            self._show()
        elif kind == "enter":
            self._enter()
        elif kind == "escape" or data == b"\x03":
            self._interrupted(leaves=data == b"\x03")
        elif data == b"\x04" and not self.composer:
            self._interrupted(leaves=True)
        elif data in (b"\x7f", b"\x08"):
            self.composer = self.composer[:-1]
            self._show()
        elif data == b"\x15":
            self.composer = ""
            self._show()
        elif data == b"\t":
            self.composer += "    "
            self._show()

    def _enter(self) -> None:
        if time.monotonic() - self.last_text < self.look.enter_apart:
            self.journal.note("enter-as-line-end")
            self.composer += "\n"
        elif self.swallows > 0:
            self.swallows -= 1
            self.journal.note("enter-swallowed")
        else:
            self.interrupts = 0
            text, self.composer = self.composer, ""
            if text.strip() in self.look.leave:
                self._leave("prompt_input_exit")
            elif text.strip():
                self.queue.append(text.replace("\t", "    "))
            self._ready()
            return
        self._show()

    def _decide(self, kind: str, data: bytes) -> None:
        yes = data in (b"1", b"y", b"Y") or data.lower().startswith(b"y")
        no = kind == "escape" or data in (b"2", b"n", b"N", b"\x03")
        if kind == "enter" and self.look.raw:
            yes = self.look.trust_default if self.question == "trust" else True
            no = not yes
        if not (yes or no):
            return
        self.journal.note("decision", question=self.question, behavior="allow" if yes else "deny", how="keys")
        self.answer = yes
        if self.question == "trust":
            self.question = ""
            if no:
                raise Over(1)
            self._ready()
        self.stage.wake()

    def _interrupted(self, *, leaves: bool = True) -> None:
        if self.busy:
            self.journal.note("interrupt", busy=True)
            self.stage.cut()
            self._over("  ⎿ Interrupted")
            self._ready()
            return
        self.composer = ""
        self.interrupts += leaves
        if self.look.raw and self.interrupts >= self.look.interrupts_to_leave:
            self._leave("prompt_input_exit")
        self._show()

    def _input_ended(self) -> None:
        self.journal.note("input-ended")
        self.ended = True
        if not self.stage.busy:
            self._ready()

    def _leave(self, reason: str) -> None:
        self.journal.note("asked-to-leave", reason=reason)
        if not self.plan.lingers:
            self._hook("SessionEnd", reason=reason)
            raise Over(0)

    # -- what is shown

    def _ready(self) -> None:
        """At the prompt, or at the next message; at the very beginning perhaps at the question of trust."""
        if self.plan.asks_trust and self.answer is None:
            self.question = "trust"
            self.screen.asking(self.look.trust, "")
            return
        if not self.greeted:
            self.greeted = True
            self._hook("SessionStart", source="resume" if self.resumed else "startup", model=self.look.model)
        if self.queue and not self.stage.busy:
            self.stage.perform(self._turn(self.queue.pop(0)))
        elif self.queue and self.look.raw:
            self.screen.scroll(f"  Queued: {self.queue[-1].splitlines()[0]}")
        elif self.ended and not self.stage.busy:
            self._leave("other")
        self._show()

    def _show(self) -> None:
        if self.question == "permission":
            self.screen.asking(self.look.dialog, self.tool)
        elif self.busy or self.stage.busy:
            self._spin()
        else:
            self.screen.idle(self.composer, limited_until=self.limited_until)

    def _spin(self, notice: str = "") -> None:
        extra = _FALSE_PROMPT if self.busy and self.turn_plan.shows_prompt else ()
        self.screen.busy(self.composer, time.monotonic() - getattr(self, "began", time.monotonic()), extra=extra, notice=notice)

    # -- turns

    def _turn(self, text: str) -> Turn:
        self.turns += 1
        try:
            plan = for_turn(self.plan, self.turns, text)
        except BadFlag as error:
            plan = self.plan.harmless
            plan.answer = str(error)
        self.turn_plan, self.busy, self.began = plan, True, time.monotonic()
        self.journal.note("message", id="", text=text, how="typed", busy=False, turn=self.turns)
        if self.look.raw:
            self.screen.scroll(f"{self.look.prompt} {text.splitlines()[0]}")
        self._hook("UserPromptSubmit", prompt=text)
        if plan.shows_prompt and not self.look.raw:
            self.screen.scroll(*_FALSE_PROMPT)
        yield from self._work(plan.work)
        for attempt in range(1, plan.retries + 1):
            notice = f"  API error · retrying in {plan.retry_delay:g}s · attempt {attempt}/{max(10, plan.retries)}"
            self._spin(notice) if self.look.raw else self.screen.scroll(notice)
            yield plan.retry_delay
        yield from self._tools(plan)
        deeds.disturb(plan, self.journal)
        yield from deeds.trouble(plan, self.journal, self._spin)
        text += self._joined()
        if plan.limit > 0:
            self.limited_until = math.ceil(time.time() + plan.limit)
        if self.limited_until > time.time():
            self._hook("StopFailure", error="rate_limit")
            self._over(f"● You've hit your limit · resets {clock(self.limited_until)}")
        else:
            words = plan.answer or f"echo: {text}"
            self._over(f"● {words}" if self.look.raw else words)
            self._hook("Stop", last_assistant_message=words, background_tasks=[], session_crons=[], stop_hook_active=False)
            if self.record is not None:
                self.record.turn(text, words, plan.tokens)
            self._notify(text, words)
        if plan.exit >= 0:
            raise Over(plan.exit)
        self.stage.after(0, self._ready)

    def _joined(self) -> str:
        """Messages that were typed meanwhile join the turn under way, but where one types to a line program."""
        joined = ""
        while self.queue and self.look.raw:
            text = self.queue.pop(0)
            self.journal.note("message", id="", text=text, how="typed", busy=True, turn=self.turns)
            self._hook("UserPromptSubmit", prompt=text)
            joined += f"\n{text}"
        return joined

    def _over(self, *lines: str) -> None:
        self.busy, self.question = False, ""
        self.journal.note("turn-over", turn=self.turns)
        self.screen.scroll(*(part for line in lines for part in line.splitlines()))

    def _work(self, seconds: float) -> Turn:
        began = time.monotonic()
        while (left := began + seconds - time.monotonic()) > 0:
            self._spin()
            yield min(left, deeds.SPIN_SECONDS)

    def _tools(self, plan: Plan) -> Turn:
        if plan.tool > 0:
            yield from self._tool(f"sleep {plan.tool:g}", plan.tool)
        if plan.asks:
            yield from self._permission(plan)
        number = 0
        while plan.repeats == 0 or number < plan.repeats:
            number += 1
            yield from self._tool("make test", plan.pause)

    def _tool(self, command: str, seconds: float) -> Turn:
        arguments = {"tool_name": "Bash", "tool_input": {"command": command}, "tool_use_id": f"toolu_{time.monotonic_ns()}"}
        self._hook("PreToolUse", **arguments)
        self.screen.scroll(f"● Bash({command})")
        yield from self._work(seconds)
        self._hook("PostToolUse", **arguments, tool_response={"stdout": ""}, duration_ms=round(seconds * 1000))

    def _permission(self, plan: Plan) -> Turn:
        self.tool, self.question, self.answer = plan.asks, "permission", None
        asked = {"tool_name": plan.asks, "tool_input": {"command": "touch rehearsed"}, "permission_suggestions": list[str]()}
        self._hook("Notification", notification_type="permission_prompt", message="permission is needed")
        process = self.hooks.ask("PermissionRequest", self._common(**asked)) if self.hooks else None
        if process is not None and process.stdout is not None:
            self.stage.watch(process.stdout.fileno(), lambda: self._hook_answers(process))
        self._show()
        yield plan.withdraws or None
        while self.answer is None and not plan.withdraws:
            yield None
        self.question = ""
        if process is not None and process.stdout is not None:
            self.stage.unwatch(process.stdout.fileno())
            process.kill()
            process.wait()
        self.screen.scroll("  ⎿ done" if self.answer else "  ⎿ not allowed")

    def _hook_answers(self, process: subprocess.Popen[bytes]) -> None:
        from harness.sessions.rehearsal.hooks import decided

        assert process.stdout is not None
        self.stage.unwatch(process.stdout.fileno())
        behavior = decided(process.stdout.read())
        self.journal.note("decision", question="permission", behavior=behavior, how="hook")
        if behavior in ("allow", "deny") and self.answer is None:
            self.answer = behavior == "allow"
            self.stage.wake()

    # -- hooks

    def _common(self, **payload: object) -> dict[str, object]:
        path = self.record.path if self.record is not None else ""
        return {"session_id": self.session, "transcript_path": path, "permission_mode": "default", **payload}

    def _hook(self, event: str, **payload: object) -> None:
        if self.hooks:
            self.hooks.run(event, self._common(**payload))

    def _notify(self, text: str, words: str) -> None:
        if self.hooks:
            self.hooks.tell({
                "type": "agent-turn-complete", "thread-id": self.session, "turn-id": str(self.turns), "cwd": here(),
                "input-messages": [text], "last-assistant-message": words,
            })  # fmt: skip


def _hooks(arguments: Arguments, journal: Journal) -> Hooks | None:
    if not any(arguments.has(name) for name in ("--settings", "-c", "--config")):
        return None
    from harness.sessions.rehearsal.hooks import Hooks

    return Hooks.of(arguments, journal)


def _record(plan: Plan, session: str, model: str) -> Transcript | Rollout | None:
    if not plan.store or plan.like not in ("claude", "codex"):
        return None
    from harness.sessions.rehearsal.records import Rollout, Transcript

    return (Transcript if plan.like == "claude" else Rollout)(plan.store, session, model or f"{plan.like}-rehearsal")


def perform(arguments: Arguments, *, like: str = "", resumed: str = "") -> int:
    """Run the program that looks like this, and continues this session if one is named; gives its exit code."""
    arguments.plan.like = like or arguments.plan.like
    journal = Journal(arguments.plan.journal)
    deeds.begin(arguments.plan, journal, sys.argv)
    code = Terminal(arguments, journal, resumed=resumed).run(" ".join(arguments.words))
    journal.note("end", code=code)
    return code


def main(argv: list[str]) -> int:
    """Run the program; gives its exit code."""
    try:
        arguments = Arguments(argv, valued=VALUED)
    except BadFlag as error:
        deeds.complain(f"error: {error}")
        return 2
    if arguments.has("--help") or arguments.has("-h"):
        print(described("terminal"))
        return 0
    return perform(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
