"""The rehearsals by name: which program, with which flags, and what is rehearsed. Starts and installs them."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import NoReturn

PROGRAMS = ("terminal", "claude", "codex")


class Rehearsal:
    """One named way to behave, or not to."""

    def __init__(self, name: str, program: str, flags: str, meaning: str) -> None:
        self.name = name
        self.program = program
        self.flags = tuple(flags.split())
        self.meaning = meaning

    @property
    def installed_name(self) -> str:
        """What the program is called where it is to be found on PATH."""
        return self.program if self.program != "terminal" else self.name

    @property
    def argv(self) -> tuple[str, ...]:
        return (sys.executable, "-m", f"harness.sessions.rehearsal.{self.program}", *self.flags)


_ALL = (
    Rehearsal("terminal", "terminal", "", "a terminal program that behaves; --like claude, codex, gemini or shell"),
    Rehearsal("claude", "claude", "", "Claude Code that behaves: stream-json, one-shot and terminal"),
    Rehearsal("codex", "codex", "", "Codex that behaves: app-server, exec and terminal"),
    Rehearsal("slow-start", "terminal", "--starts-after 5", "says nothing for 5 s"),
    Rehearsal("swallowed-enter", "terminal", "--swallows 2", "ignores the first two Enters"),
    Rehearsal("false-prompt", "terminal", "--shows-prompt --tool 10", "shows a prompt and a quote while it is busy"),
    Rehearsal("spinner", "terminal", "--spins", "turns its spinner for ever"),
    Rehearsal("mute", "claude", "--hangs", "takes the message and never answers"),
    Rehearsal("frozen", "claude", "--freezes", "stops in mid-turn and reads nothing any more"),
    Rehearsal("silent-death", "claude", "--dies", "ends without a word in mid-turn"),
    Rehearsal("stderr-flood", "claude", "--stderr 27", "writes 27 MB to stderr"),
    Rehearsal("flood", "terminal", "--flood 27", "writes 27 MB to its terminal"),
    Rehearsal("huge-line", "claude", "--huge 16", "writes a line of 16 MB"),
    Rehearsal("garbage", "claude", "--garbage", "writes invalid UTF-8, control codes and long terminal commands"),
    Rehearsal("background-child", "terminal", "--exit 7 --child 30", "exits 7; a child holds the terminal for 30 s"),
    Rehearsal("stray-child", "claude", "--stray 60", "leaves a child in a session of its own behind"),
    Rehearsal("deaf", "terminal", "--ignores TERM,INT,HUP --lingers", "ignores signals and its own exit command"),
    Rehearsal("permission", "claude", "--asks Bash", "asks for permission and waits for ever"),
    Rehearsal("same-call", "claude", "--repeats 0", "makes the same tool call for ever"),
    Rehearsal("usage-limit", "claude", "--limit 60", "runs into a usage limit that resets after 60 s"),
    Rehearsal("retries", "claude", "--retries 5 --retry-delay 1", "announces five retries"),
    Rehearsal("lingering", "claude", "--lingers", "gives its result and does not end"),
    Rehearsal("no-resume", "claude", "--crashes-on-resume", "ends at once when it is resumed"),
)  # fmt: skip
REHEARSALS = {rehearsal.name: rehearsal for rehearsal in _ALL}


def replace_process(rehearsal: Rehearsal, words: list[str]) -> NoReturn:
    """Become the rehearsed program."""
    argv = [*rehearsal.argv, *words]
    sys.stdout.flush()
    os.execv(argv[0], argv)  # noqa: S606 - the interpreter that runs this, with modules of ours


def install(rehearsal: Rehearsal, words: list[str], folder: Path) -> Path:
    """Write a program to the folder that is called as the real one and rehearses this; an earlier one is replaced."""
    path = folder / rehearsal.installed_name
    command = " ".join(shlex.quote(word) for word in (*rehearsal.argv, *words))
    folder.mkdir(parents=True, exist_ok=True)
    new = folder / f".{path.name}.new"
    new.write_text(f'#!/bin/sh\nexec {command} "$@"\n', encoding="utf-8")
    new.chmod(0o755)
    new.replace(path)
    return path
