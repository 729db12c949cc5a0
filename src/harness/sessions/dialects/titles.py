"""What a program tells its terminal besides text: titles, its own status (OSC 7501), bracketed paste. Pure and bounded.

It reads a stream cut anywhere and costs next to nothing where there is nothing, since every byte of output goes through it.
"""

from __future__ import annotations

import re

import msgspec

from harness.text import sanitise

MAX_BYTES = 4096  # of one sequence; a longer one is no title, and the Program Status Protocol forbids it
_MAX_TITLE = 256

_STRING = re.compile(rb"\x1b\](\d{1,5});([^\x07\x18\x1a\x1b]{0,%d})(\x07|\x1b\\|[\x18\x1a]|(?=\x1b))" % MAX_BYTES)
_PASTE = re.compile(rb"\x1b\[\?(?:[0-9]{1,5};){0,8}2004(?:;[0-9]{1,5}){0,8}([hl])")
_UNFINISHED = re.compile(rb"\x1b(?:\](?:\d{1,5}(?:;[^\x07\x18\x1a\x1b]{0,%d}\x1b?)?)?|\[(?:\?[0-9;]{0,48})?)?\Z" % MAX_BYTES)
_HINT = re.compile(rb"\x1b(?:\]|\[\?(?:[0-9]{1,5};){0,8}2004)")  # a search costs less than looking for the words
_STATUS = b"7501"
_TITLES = (b"0", b"2")


class Title(msgspec.Struct, frozen=True):
    """The window's title is this from now on."""

    text: str


class StatusTold(msgspec.Struct, frozen=True):
    """The body of a report of the Program Status Protocol; see `program_status`."""

    body: str


class StatusAsked(msgspec.Struct, frozen=True):
    """It asks whether its terminal understands the Program Status Protocol."""


class PasteMode(msgspec.Struct, frozen=True):
    """Whether it wants pasted text in brackets (DECSET 2004)."""

    on: bool


Signal = Title | StatusTold | StatusAsked | PasteMode


class TitleScanner:
    """Finds signals in output; of what is not complete yet it holds `MAX_BYTES` and a few at most."""

    def __init__(self) -> None:
        self._held = b""

    def feed(self, data: bytes) -> list[Signal]:
        """The signals that are complete now; those of each kind in order."""
        if self._held:
            data = self._held + data
            self._held = b""
        signals: list[Signal] = []
        hint = _HINT.search(data)
        if hint is not None:
            signals += filter(None, map(_signal, _STRING.finditer(data, hint.start())))
            signals += [PasteMode(match[1] == b"h") for match in _PASTE.finditer(data, hint.start())]
        self._hold(data)
        return signals

    def _hold(self, data: bytes) -> None:
        start = data.rfind(b"\x1b", max(0, len(data) - MAX_BYTES - 16))
        if start < 0:
            return
        if start == len(data) - 1:  # it may be the first half of an end
            before = data.rfind(b"\x1b", max(0, start - MAX_BYTES - 16), start)
            start = before if before >= 0 and _UNFINISHED.match(data, before) else start
        match = _UNFINISHED.match(data, start)
        if match is not None:
            self._held = match[0]


def _signal(match: re.Match[bytes]) -> Signal | None:
    number, text, end = match.groups()
    if end not in (b"\x07", b"\x1b\\"):  # cancelled
        return None
    words = text.decode("utf-8", "replace")
    if number in _TITLES:
        return Title(sanitise(words)[:_MAX_TITLE])
    if number == _STATUS:
        return StatusAsked() if words.strip() == "?" else StatusTold(words)
    return None
