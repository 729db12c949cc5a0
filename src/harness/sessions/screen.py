"""What a terminal shows: bytes of output in, lines of text out. Owns the guard around pyte, which is loaded only here.

pyte raises on sequences that it half knows, prints what it does not know at all, and reads letter by letter, so what says
nothing about text (colours, titles, modes) is taken out before. Colours are not kept.
"""

from __future__ import annotations

import codecs
import re
from functools import cache
from typing import TYPE_CHECKING
from unicodedata import combining

if TYPE_CHECKING:
    from pyte import Screen as PyteScreen
    from pyte import Stream as PyteStream

_MAX_HELD = 4096  # of a sequence whose end has not come
_MAX_REPEAT = 512
_MAX_CELLS = 8192
_USELESS = re.compile(
    "\x1b[]PX^_][^\x07\x18\x1a\x1b]*(?:\x07|\x18|\x1a|\x1b\\\\|(?=\x1b))"  # OSC, DCS, SOS, PM, APC
    "|\x1b\\[[<=>][0-?]*[ -/]*[@-~]"  # private: keyboard protocols, which pyte raises on
    "|\x1b\\[[0-?]*[!-/][ -/]*[@-~]"  # with intermediates, of which pyte prints the last letter
    "|\x1b\\[[0-9;:?]*[mntucq]"  # colours, questions to the terminal
    "|\x1b[()*+][0-9A-Za-z]"  # character sets
    "|[\x00-\x06\x10-\x1a\x1c-\x1f\x7f-\x9f]"  # controls that do nothing, or that pyte loses the rest of a text on
)
_MODES = re.compile("\x1b\\[\\?([0-9;]*)([hl])")
_UNFINISHED = re.compile("\x1b(?:\\[[0-?]*[ -/]*|[]PX^_][^\x07\x18\x1a\x1b]*\x1b?|[()*+]?)\\Z")
_END_OF_STRING = re.compile("\x07|\x18|\x1a|\x1b\\\\|(?=\x1b[^\\\\])")
_ALTERNATE = frozenset({"47", "1047", "1049"})
_KEPT_MODES = frozenset({"6", "7"})  # where the cursor is and whether lines wrap


class Screen:
    """One terminal's contents. Whatever is fed, nothing is raised and memory stays bounded."""

    def __init__(self, columns: int, rows: int) -> None:
        self._size = (max(1, columns), max(1, rows))
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self._in_string = False  # inside one that was too long to hold
        self._main = _Buffer(*self._size)
        self._other: _Buffer | None = None
        self._untouched = set(range(self._size[1]))

    def feed(self, data: bytes) -> None:
        """Take output in, cut anywhere."""
        text = self._cleaned(self._held + self._decoder.decode(data))
        place = 0
        for match in _MODES.finditer(text):
            self._buffer.feed(text[place : match.start()])
            self._set_modes(frozenset(match[1].split(";")), on=match[2] == "h")
            place = match.end()
        self._buffer.feed(text[place:])
        self._untouched -= self._buffer.take_dirty()

    def _cleaned(self, text: str) -> str:
        self._held = ""
        if self._in_string:
            end = _END_OF_STRING.search(text)
            if end is None:
                self._held = "\x1b" if text.endswith("\x1b") else ""
                return ""
            self._in_string = False
            text = text[end.end() :]
        text = _USELESS.sub("", text)
        unfinished = _UNFINISHED.search(text)
        if unfinished is not None:
            text, held = text[: unfinished.start()], unfinished[0]
            if len(held) > _MAX_HELD:
                self._in_string = True
            else:
                self._held = held
        return text

    def _set_modes(self, modes: frozenset[str], *, on: bool) -> None:
        if modes & _ALTERNATE:
            self._other = _Buffer(*self._size) if on else None
            self._untouched.clear()  # a new screen is empty and an old one is known
        for mode in modes & _KEPT_MODES:
            self._buffer.feed(f"\x1b[?{mode}{'h' if on else 'l'}")

    @property
    def _buffer(self) -> _Buffer:
        return self._other or self._main

    @property
    def repainted(self) -> bool:
        """Whether every line has been written since the beginning, so that nothing from before is missing."""
        return not self._untouched

    @property
    def cursor(self) -> tuple[int, int]:
        """Its row and column, from 0."""
        return self._buffer.cursor

    def lines(self) -> list[str]:
        """All rows from the top, without spaces at their ends."""
        return self._buffer.lines(self._size)

    def resize(self, columns: int, rows: int) -> None:
        """Change the window; what no longer fits is lost until the program paints it again."""
        self._size = (max(1, columns), max(1, rows))
        for buffer in (self._main, self._other):
            if buffer is not None:
                buffer.resize(*self._size)
        self._untouched &= set(range(self._size[1]))


class _Buffer:
    """One of a terminal's two screens, as pyte keeps it."""

    def __init__(self, columns: int, rows: int) -> None:
        self._screen, self._stream = _make(columns, rows)
        self._screen.dirty.clear()

    def feed(self, text: str) -> None:
        while text:
            try:
                self._stream.feed(text)
                return
            except Exception:  # noqa: BLE001 - pyte's own mistakes: it is at fault up to the next escape, not beyond
                rest = text.find("\x1b", 1)
                text = text[rest:] if rest > 0 else ""

    def take_dirty(self) -> set[int]:
        dirty = set(self._screen.dirty)
        self._screen.dirty.clear()
        return dirty

    @property
    def cursor(self) -> tuple[int, int]:
        return self._screen.cursor.y, self._screen.cursor.x

    def lines(self, size: tuple[int, int]) -> list[str]:
        columns, rows = size
        found: list[str] = []
        for row in range(rows):
            cells = self._screen.buffer.get(row)
            if not cells:
                found.append("")
                continue
            width = min(columns, max(cells) + 1)
            found.append("".join(cells[column].data for column in range(width)).rstrip())
        return found

    def resize(self, columns: int, rows: int) -> None:
        self._screen.resize(rows, columns)


def _make(columns: int, rows: int) -> tuple[PyteScreen, PyteStream]:
    screen_type, stream_type = _types()
    screen = screen_type(columns, rows)
    return screen, stream_type(screen)


@cache
def _types() -> tuple[type[PyteScreen], type[PyteStream]]:
    """A pyte screen that also scrolls on request, as full-screen programs do, and bears letters without width."""
    import pyte
    from pyte import modes
    from pyte.screens import Char
    from wcwidth import wcwidth

    class Cells(dict[str, Char]):
        """Letters as pyte keeps them, of one column and without looks; `KeyError` for others."""

        def __missing__(self, letter: str) -> Char:
            if wcwidth(letter) != 1 or len(self) > _MAX_CELLS:
                raise KeyError(letter)
            return self.setdefault(letter, Char(letter))

    known = Cells()

    class Scrolling(pyte.Screen):
        def draw(self, data: str) -> None:
            self.last_drawn = data[-1:]
            try:
                cells = [known[letter] for letter in data]
            except KeyError:  # pyte knows about wide ones, but forgets what comes after one without a width
                super().draw("".join(letter for letter in data if wcwidth(letter) > 0 or combining(letter)))
                return
            if modes.IRM in self.mode or modes.DECAWM not in self.mode:
                super().draw(data)
                return
            self._place(cells)

        def _place(self, cells: list[Char]) -> None:
            """As pyte does it, a line at a time instead of a letter."""
            cursor, start = self.cursor, 0
            while start < len(cells):
                if cursor.x >= self.columns:
                    self.dirty.add(cursor.y)
                    self.carriage_return()
                    self.linefeed()
                part = cells[start : start + self.columns - cursor.x]
                self.buffer[cursor.y].update(zip(range(cursor.x, cursor.x + len(part)), part, strict=True))
                cursor.x += len(part)
                start += len(part)
                self.dirty.add(cursor.y)

        def repeat(self, count: int | None = None, *_rest: int, **_private: bool) -> None:
            self.draw(getattr(self, "last_drawn", "") * min(count or 1, _MAX_REPEAT))

        def scroll_up(self, count: int | None = None, *_rest: int, **_private: bool) -> None:
            self._scroll(count, down=False)

        def scroll_down(self, count: int | None = None, *_rest: int, **_private: bool) -> None:
            self._scroll(count, down=True)

        def _scroll(self, count: int | None, *, down: bool) -> None:
            top, bottom = self.margins or (0, self.lines - 1)
            at = self.cursor.y
            self.cursor.y = top if down else bottom
            for _ in range(min(count or 1, self.lines)):
                if down:
                    self.reverse_index()
                else:
                    self.index()
            self.cursor.y = at

    class Stream(pyte.Stream):
        csi = {**pyte.Stream.csi, "S": "scroll_up", "T": "scroll_down", "b": "repeat"}  # noqa: RUF012 - pyte's own attribute

    return Scrolling, Stream


def render(data: bytes, columns: int, rows: int) -> list[str]:
    """The screen that this output leaves, row by row; output that begins in the middle gives what can be told of it."""
    screen = Screen(columns, rows)
    screen.feed(data)
    return screen.lines()
