"""A program with a composer and dialogs, as agent programs have them, for tests of what is typed at it.

    python terminal_program.py JOURNAL [OPTION...]

Each prompt that it takes is a line of JSON in the journal, and so is every key that it gets while a dialog is open. Options:

    --swallow N      the first N times Enter is pressed, nothing happens
    --deaf           Enter never does anything
    --ask-first      a dialog is open from the beginning
    --ask-on TEXT    a dialog opens as soon as this text is in the composer
    --asks           each prompt is followed by a dialog: y or n
    --works SECONDS  how long it works on a prompt; Esc ends that
    --status         it speaks the Program Status Protocol, if it is answered
    --leftover TEXT  is in the composer at first
    --no-paste       it knows no pastes
"""

from __future__ import annotations

import argparse
import json
import os
import select
import sys
import termios
import time
import tty
from pathlib import Path

PASTE, PASTE_END = "\x1b[200~", "\x1b[201~"
GLYPH = "\u276f"
QUESTION = "\x1b]7501;?\x1b\\"


class Program:
    """Its window, its composer, and what it does with keys."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.text: str = options.leftover
        self.said: list[str] = []
        self.dialog = bool(options.ask_first)
        self.busy_until = 0.0
        self.swallow: int = options.swallow
        self.pasting = False
        self.input = ""
        self.answered = False
        self.after_dialog = ""

    def write(self, text: str) -> None:
        data = text.encode()
        while data:
            data = data[os.write(1, data) :]

    def note(self, **what: object) -> None:
        with Path(self.options.journal).open("a", encoding="utf-8") as file:
            file.write(json.dumps(what) + "\n")

    def status(self, stage: str, kind: str = "") -> None:
        if self.answered:
            self.write(f"\x1b]7501;state={stage}:app=fake{':kind=' + kind if kind else ''}\x1b\\")

    def draw(self) -> None:
        size = os.get_terminal_size(1)
        lines = list(self.said)
        if self.dialog:
            lines += ["─" * size.columns, " Run this?", " Do you want to proceed?", f" {GLYPH} Yes", "   No", " Esc to cancel"]
            at = (len(lines) - 3, 2)
        else:
            if self.busy():
                lines += ["✻ Working…"]
            typed = self.text.split("\n")
            lines += [
                "─" * size.columns,
                f"{GLYPH} {typed[0]}",
                *["  " + line for line in typed[1:]],
                "─" * size.columns,
                "  footer",
            ]
            at = (len(lines) - 3, 2 + len(typed[-1]))
        self.write("\x1b[2J\x1b[H" + "\r\n".join(lines[-size.lines :]) + f"\x1b[{at[0] + 1};{at[1] + 1}H")

    def busy(self) -> bool:
        return self.busy_until > time.monotonic()

    def run(self) -> None:
        self.write("\x1b[?1049h" + ("" if self.options.no_paste else "\x1b[?2004h"))
        if self.options.status:
            self.write(QUESTION)
        self.draw()
        self.status("blocked" if self.dialog else "idle", "permission" if self.dialog else "")
        while True:
            wait = self.busy_until - time.monotonic()
            ready, _, _ = select.select([0], [], [], wait if wait > 0 else None)
            if not ready:
                self.done()
                continue
            data = os.read(0, 65536)
            if not data:
                return
            self.input += data.decode("utf-8", "replace")
            while self.input:
                if not self.key():
                    break

    def done(self) -> None:
        self.busy_until = 0.0
        self.said.append("● Done.")
        if self.options.asks:
            self.dialog = True
            self.after_dialog = "idle"
        self.draw()
        self.status("blocked" if self.dialog else "done", "permission" if self.dialog else "")

    def key(self) -> bool:
        """Take one key off the input; False if it is not complete."""
        if self.input.startswith(QUESTION):
            self.input = self.input[len(QUESTION) :]
            self.answered = True
            self.status("blocked" if self.dialog else "idle", "permission" if self.dialog else "")
            return True
        if self.dialog:
            return self.dialog_key()
        if self.pasting:
            text, end, rest = self.input.partition(PASTE_END)
            if not end:
                return False
            self.pasting, self.input = False, rest
            self.insert(text)
            return True
        if self.input.startswith(PASTE):
            self.pasting, self.input = True, self.input[len(PASTE) :]
            return True
        if PASTE.startswith(self.input) and self.input != "\x1b":
            return False
        letter, self.input = self.input[0], self.input[1:]
        if letter == "\x1b":
            if self.busy():
                self.busy_until = 0.0
                self.said.append("Interrupted")
                self.draw()
                self.status("idle")
        elif letter == "\r":
            self.enter()
        elif letter == "\x15":
            self.text = "\n".join(self.text.split("\n")[:-1])
            self.draw()
        elif letter == "\x04":
            self.write("\x1b[?1049l")
            sys.exit(0)
        else:
            self.insert(letter)
        return True

    def dialog_key(self) -> bool:
        letter, self.input = self.input[0], self.input[1:]
        self.note(key=letter)
        if letter in "yn\x1b":
            self.dialog = False
            self.draw()
            self.status("working" if self.busy() else "idle")
        return True

    def insert(self, text: str) -> None:
        self.text += text.replace("\r", "\n").replace("\t", "    ")
        if self.options.ask_on and self.options.ask_on in self.text:
            self.dialog = True
        self.draw()

    def enter(self) -> None:
        if self.options.deaf or self.swallow:
            self.swallow -= 1
            self.note(swallowed=self.text)
            return
        if self.text == "/exit":
            self.write("\x1b[?1049l")
            sys.exit(0)
        self.note(prompt=self.text)
        if self.text.startswith("/"):
            self.text = ""
            self.draw()
            return
        self.said.append(f"{GLYPH} {self.text.split(chr(10))[0]}")
        self.text = ""
        self.busy_until = time.monotonic() + self.options.works
        self.draw()
        self.status("working")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("journal")
    parser.add_argument("--swallow", type=int, default=0)
    parser.add_argument("--deaf", action="store_true")
    parser.add_argument("--ask-first", action="store_true")
    parser.add_argument("--ask-on", default="")
    parser.add_argument("--asks", action="store_true")
    parser.add_argument("--works", type=float, default=0.2)
    parser.add_argument("--status", action="store_true")
    parser.add_argument("--leftover", default="")
    parser.add_argument("--no-paste", action="store_true")
    before = termios.tcgetattr(0)
    tty.setraw(0)
    try:
        Program(parser.parse_args()).run()
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


if __name__ == "__main__":
    main()
