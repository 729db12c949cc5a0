"""What an agent's window shows, drawn here from its transcript; of one that speaks a protocol, what was said.

It asks no host and no tmux, so it works for every session, also one that hangs or is over.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from typing import TYPE_CHECKING

from harness.processes import LogReader
from harness.sessions import facts
from harness.sessions.client.streaming import output, reader_of
from harness.sessions.ids import Folder
from harness.text import sanitise

if TYPE_CHECKING:
    from harness.ledger import Event
    from harness.sessions.client.sessions import Sessions
    from harness.sessions.screen import Screen

_BACK_BYTES = (32 << 10, 256 << 10)  # so much of the end is drawn; more if that has not painted every line
_FRAME_SECONDS = 0.05  # what comes meanwhile is shown at once
_WINDOW = (120, 40)
_SIZE = re.compile(r"([1-9]\d{0,3})x([1-9]\d{0,3})\s*")
_FRESH = (b"\x1bc", b"\x1b[2J", b"\x1b[3J", b"\x1b[?1049h")  # after these nothing from before is seen
_BACK = b"\x1b[?1049l"  # this shows again what was there before
_SPOKEN_CHARACTERS = 400
_AGAIN_CHARACTERS = 60


def window(folder: Folder) -> tuple[int, int]:
    """Columns and rows of the agent's window."""
    try:
        match = _SIZE.fullmatch((folder.path / "size").read_text(encoding="ascii"))
    except (OSError, ValueError):
        match = None
    return (int(match[1]), int(match[2])) if match else _WINDOW


def last(lines: list[str], count: int | None) -> list[str]:
    """The screen without empty lines at its end, or exactly so many of its last lines."""
    end = len(lines)
    while end and not lines[end - 1]:
        end -= 1
    if count is None:
        return lines[:end]
    return [*lines[max(0, end - count) : end], *[""] * (count - min(end, count))]


class Pane:
    """One session's screen as far as it was looked at."""

    def __init__(self, sessions: Sessions, key: str, mode: str) -> None:
        self._sessions = sessions
        self._key = key
        self._plain = mode != facts.Mode.PTY  # a pipe's lines end without a carriage return
        self._size = window(sessions.folder(key))
        self._screen: Screen | None = None
        self._position = 0

    def draw(self) -> list[str]:
        """The screen as it is now, row by row."""
        reader = reader_of(self._sessions, self._key)
        size = window(self._sessions.folder(self._key))
        if self._screen is None or reader.end - self._position > _BACK_BYTES[-1] or reader.end < self._position:
            self._screen = self._drawn(reader, size)
        elif size != self._size:
            self._screen.resize(*size)
        self._size = size
        self._feed(self._screen, reader)
        return self._screen.lines()

    def _drawn(self, reader: LogReader, size: tuple[int, int]) -> Screen:
        """A new screen with the output's end."""
        from harness.sessions.screen import Screen

        near, far = _BACK_BYTES
        self._position, whole = beginning(reader, near)
        self._feed(screen := Screen(*size), reader)
        if not (whole or screen.repainted):
            self._position, _ = beginning(reader, far)
            self._feed(screen := Screen(*size), reader)
        return screen

    def _feed(self, screen: Screen, reader: LogReader) -> None:
        while (chunk := reader.read(self._position)).data:
            self._position = chunk.offset + len(chunk.data)
            screen.feed(chunk.data.replace(b"\n", b"\r\n") if self._plain else chunk.data)

    async def follow(self) -> AsyncGenerator[list[str]]:
        """The screen now, and anew whenever something was written; ends with the session."""
        yield self.draw()
        async with aclosing(output(self._sessions, self._key, after=self._position)) as feed:
            async for _ in feed:
                await asyncio.sleep(_FRAME_SECONDS)
                yield self.draw()


def beginning(reader: LogReader, back: int) -> tuple[int, bool]:
    """From where on to draw, so far from the end at most, and whether nothing that is to be seen was before.

    That is where the screen was last emptied, or where the output begins.
    """
    start = max(reader.start, reader.end - back)
    data = b""
    while (chunk := reader.read(start + len(data))).data and len(data) < 2 * back:
        if not data:
            start = chunk.offset
        data += chunk.data
    fresh = max(data.rfind(sign) for sign in _FRESH)
    if fresh > data.rfind(_BACK):
        return start + fresh, True
    return start, start <= reader.start


def speaks_protocol(mode: str) -> bool:
    """Whether the transcript is a protocol that nobody wants to read."""
    return mode in (facts.Mode.STREAM, facts.Mode.APP_SERVER)


def spoken(events: Iterable[Event]) -> list[str]:
    """What was said and done, in lines: of a session that has no screen."""
    talk = Talk()
    return [line for event in events for line in talk.see(event)]


class Talk:
    """What is said and done, event by event. A message is shown when it is queued, and once more if it is never sent."""

    def __init__(self) -> None:
        self._unsent: dict[str, str] = {}  # texts by message

    def see(self, event: Event) -> list[str]:
        """The lines that an event adds."""
        if event.erased or (shape := facts.SHAPES.get(event.type)) is None:
            return []
        told = event.load(shape)
        match told:
            case facts.Queued():
                self._unsent[told.message_id] = told.text
            case facts.Moved() if event.type != facts.WRITTEN:
                return self._moved(told, facts.STATUS_AFTER[event.type])
            case _:
                pass
        return _words(told)

    def _moved(self, told: facts.Moved, status: facts.MessageStatus) -> list[str]:
        text = self._unsent.pop(told.message_id, "")
        if not text or status in (facts.MessageStatus.ACCEPTED, facts.MessageStatus.DONE):
            return []
        words = " ".join(text.split())
        if len(words) > _AGAIN_CHARACTERS:
            words = f"{words[:_AGAIN_CHARACTERS]}…"
        return _clipped(f"[message {status}] ", f"{words}: {told.reason}" if told.reason else words)


def _words(told: object) -> list[str]:
    match told:
        case facts.Queued() if told.text:
            return _clipped("> ", told.text)
        case facts.ItemCompleted():
            mark = "" if told.kind == "text" else f"[{told.name or told.kind}{'' if told.ok else ' failed'}] "
            return _clipped(mark, told.summary or "")
        case facts.ApprovalRequested():
            return _clipped(f"[asks leave: {told.request}] ", f"{told.tool}: {told.summary}")
        case facts.ApprovalDecided():
            return _clipped(f"[{told.decision}] ", f"{told.request} by {told.by}")
        case facts.TurnCompleted() if told.outcome != "success":
            return _clipped(f"[turn ended: {told.outcome}] ", told.error)
        case facts.Exited():
            return _clipped(f"[{told.reason}] ", told.detail)
        case _:
            return []


def _clipped(mark: str, text: str) -> list[str]:
    text = sanitise(text)
    if len(text) > _SPOKEN_CHARACTERS:
        text = f"{text[:_SPOKEN_CHARACTERS]}…"
    return f"{mark}{text}".splitlines()
