"""What a rehearsed terminal program draws: lines that scroll, and a region below them that is painted over."""

from __future__ import annotations

import os
import termios
import time
import tty
from typing import Any

from harness.sessions.rehearsal import deeds
from harness.sessions.rehearsal.looks import Look
from harness.sessions.rehearsal.stage import here


class Screen:
    """One terminal, or a pipe that is treated like one."""

    def __init__(self, look: Look) -> None:
        self.look = look
        self._height = 0
        self._title = ""
        self._frame = 0
        self._before: list[Any] | None = None

    def open(self) -> None:
        """Take the terminal over as far as the look wants it."""
        if not self.look.raw:
            return
        if os.isatty(0):
            self._before = termios.tcgetattr(0)
            tty.setraw(0)
        self._put("\x1b[?2004h\x1b[?25l")
        self.scroll(self.look.ready)

    def close(self) -> None:
        """Give it back."""
        if self.look.raw:
            self._erase()
            self._put("\x1b[?2004l\x1b[?25h")
        if self._before is not None:
            termios.tcsetattr(0, termios.TCSANOW, self._before)

    def reset(self) -> None:
        """The window has another size: begin with an empty screen."""
        self._height = 0
        self._put("\x1b[2J\x1b[H")
        self.scroll(self.look.ready)

    def scroll(self, *lines: str) -> None:
        """Add lines above the region, which is gone until it is painted again."""
        self._erase()
        end = "\r\n" if self.look.raw else "\n"
        self._put("".join(f"{line}{end}" for line in lines))

    def idle(self, composer: str, *, limited_until: float = 0.0) -> None:
        """Show that the next message is waited for, or that a usage limit holds until then."""
        limited = limited_until > time.time() and self.look.limited.replace("{until}", clock(limited_until))
        if self.look.raw:
            self._paint([*self._composer(composer), limited or self._filled(self.look.footer)], self.look.idle_title)
        else:
            self._put(f"{self.look.prompt} ")

    def busy(self, composer: str, seconds: float, *, extra: tuple[str, ...] = (), notice: str = "") -> None:
        """Show the next picture of the spinner."""
        if not self.look.raw:
            return
        self._frame += 1
        line = notice or self.look.busy.replace("{s}", str(int(seconds)))
        titles = self.look.busy_titles
        below = () if self.look.boxed else (self._filled(self.look.footer),)
        self._paint([line, *extra, *self._composer(composer), *below], titles[self._frame % len(titles)])

    def asking(self, lines: tuple[str, ...], tool: str) -> None:
        """Show a dialog instead of the composer."""
        if self.look.raw:
            self._paint([line.replace("{t}", tool) for line in lines], self.look.asking_title)
        else:
            self._put("\n".join(lines).replace("{t}", tool) + " ")

    def _composer(self, text: str) -> list[str]:
        shown = text.split("\n")
        line = shown[0] if len(shown) == 1 else f"[Pasted text #1 +{len(shown) - 1} lines]"
        rule = "─" * 40 if self.look.boxed else ""
        return [rule, f"{self.look.prompt} {line}", rule]

    def _filled(self, text: str) -> str:
        return text.replace("{cwd}", here()).replace("{base}", here().rpartition("/")[2])

    def _paint(self, lines: list[str], title: str) -> None:
        self._erase()
        try:
            width = os.get_terminal_size(1).columns or 80
        except OSError:
            width = 80
        self._put("\r\n".join(line[: width - 2] for line in lines))
        self._height = len(lines)
        title = self._filled(title)
        if title != self._title:
            self._title = title
            self._put(f"\x1b]0;{title}\x07")

    def _erase(self) -> None:
        if self._height:
            self._put("\r" + (f"\x1b[{self._height - 1}A" if self._height > 1 else "") + "\x1b[J")
            self._height = 0

    def _put(self, text: str) -> None:
        deeds.write(1, text.encode("utf-8", "replace"))


def clock(moment: float) -> str:
    """A moment as hours and minutes."""
    return time.strftime("%H:%M", time.localtime(moment))
