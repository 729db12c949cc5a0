"""How the rehearsed terminal programs look: what the real ones show when idle, busy, and at a question. No I/O."""

# ruff: noqa: RUF001 - the signs are those that the programs show

from __future__ import annotations

from collections.abc import Sequence


class Look:
    """The face of one program. `{s}` in `busy` is the number of seconds, `{t}` in a dialog the tool."""

    def __init__(
        self, *, prompt: str, footer: str, busy: str, idle_title: str, busy_titles: Sequence[str], asking_title: str,
        ready: str, dialog: Sequence[str], trust: Sequence[str], trust_default: bool, leave: Sequence[str],
        enter_apart: float = 0.0, interrupts_to_leave: int = 2, raw: bool = True, model: str = "rehearsal",
        boxed: bool = True, limited: str = "",
    ) -> None:  # fmt: skip
        self.prompt = prompt
        self.footer = footer
        self.busy = busy
        self.idle_title = idle_title
        self.busy_titles = tuple(busy_titles)
        self.asking_title = asking_title
        self.ready = ready
        self.dialog = tuple(dialog)
        self.trust = tuple(trust)
        self.trust_default = trust_default  # what Enter alone means
        self.leave = tuple(leave)
        self.enter_apart = enter_apart  # seconds; an Enter that follows text sooner is a line end of a paste
        self.interrupts_to_leave = interrupts_to_leave
        self.raw = raw
        self.model = model
        self.limited = limited  # the footer while a usage limit holds it; `{until}` is when it resets
        self.boxed = boxed  # ruled lines above and below where one types


LOOKS: dict[str, Look] = {
    "claude": Look(
        prompt="❯", footer="  ? for shortcuts", busy="✻ Rehearsing… ({s}s · esc to interrupt)", idle_title="✳ Claude Code",
        busy_titles=("◐ Claude Code", "◓ Claude Code", "◑ Claude Code", "◒ Claude Code"), asking_title="✳ Claude Code",
        ready=" ✻ Welcome to Claude Code (rehearsal)",
        dialog=("─" * 60, " {t} command", "", "   touch rehearsed", "", " Do you want to proceed?", " ❯ 1. Yes",
                "   2. No, and tell Claude what to do differently", "", " Esc to cancel"),
        trust=(" Quick safety check: Is this a project you created or one you trust?", "", "   1. Yes, I trust this folder",
               " ❯ 2. No, exit", "", " Enter to confirm · Esc to cancel"),
        trust_default=False, leave=("/exit", "/quit"), limited="  ⚠ Usage limit reached · limit resets {until}",
    ),
    "codex": Look(
        prompt="›", footer="  gpt-rehearsal default · {cwd}", busy="• Working ({s}s • esc to interrupt)", idle_title="{base}",
        busy_titles=("⠋ {base}", "⠙ {base}", "⠹ {base}", "⠸ {base}", "⠼ {base}"), asking_title="[ ! ] Action Required",
        ready=" >_ OpenAI Codex (rehearsal)",
        dialog=("  Would you like to run the following command?", "", "  $ touch rehearsed", "", "› 1. Yes, proceed (y)",
                "  2. No, and tell Codex what to do differently (esc)", "", "  Press enter to confirm or esc to cancel"),
        trust=("  Trust this folder?", "", "› 1. Trust and continue", "  2. Exit", "", "  Press enter to continue"),
        trust_default=True, leave=("/quit", "/exit"), enter_apart=0.3, interrupts_to_leave=1, boxed=False,
    ),
    "gemini": Look(
        prompt=">", footer="  rehearsal  no sandbox", busy="⠏ Rehearsing (esc to cancel, {s}s)", idle_title="◇  Ready",
        busy_titles=("✦  Working…",), asking_title="✋  Action Required", ready=" Gemini CLI (rehearsal)",
        dialog=(" Allow execution of: 'touch rehearsed'?", "", " ● 1. Yes, allow once", "   2. No (esc)"),
        trust=(" Do you trust this folder?", "", " ● 1. Trust folder", "   2. Don't trust"),
        trust_default=True, leave=("/quit", "/exit"),
    ),
    "shell": Look(
        prompt="$", footer="", busy="", idle_title="", busy_titles=(), asking_title="", ready="",
        dialog=("{t}: touch rehearsed? [y/N]",), trust=("trust this folder? [y/N]",), trust_default=False,
        leave=("exit",), raw=False,
    ),
}  # fmt: skip
