"""A person's terminal on a session: relays bytes both ways until they detach or the session ends.

It loads neither asyncio nor the ledger while it does so, since a foreground session's viewer may stay for days. The
terminal is put back as it was on every way out.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import selectors
import signal
import socket
import struct
import sys
import termios
import time
import tty
from collections.abc import Callable, Generator, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any

from harness.errors import HarnessError
from harness.sessions.ids import Folder, id_of

if TYPE_CHECKING:
    from pathlib import Path

    from harness.settings import Settings

DETACHED = "detached"

_FRAME = struct.Struct(">cI")
_COUNT = struct.Struct(">Q")
_MAX_FRAME = 1 << 20
_READ_BYTES = 1 << 16
_END_SECONDS = 10.0  # for a session whose host went without a word: until somebody has recorded its end
_PATIENCE_SECONDS = 1.0  # between the two keys that mean to leave
_CTRL_BRACKET = rb"(?:\x1d|\x1b\[93;5u|\x1b\[27;5;93~)"  # Ctrl-], as terminals say it with and without keyboard protocols
_LEAVING = re.compile(_CTRL_BRACKET * 2)
_HALF = re.compile(_CTRL_BRACKET + rb"\Z")
_SCREENS = re.compile(rb"\x1b\[\?(?:1049|1047|47)([hl])")
_CALM = (
    b"\x1b[?25h\x1b[0m\x1b[?2004l\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1006l\x1b[?1004l\x1b[<u\x1b[>4;0m"
    b"\x1b[?1l\x1b>\x1b[?7h\x1b7\x1b[r\x1b8"
)
"""Takes back what an agent's program may have switched on: mouse, paste and key reports, a scroll region, a hidden cursor."""


def view(settings: Settings, key: str, *, ours: bool = False) -> int:
    """Show the session at this terminal until it ends (gives the agent's exit code) or is detached from (0).

    Without a terminal its output is shown and standard input goes to the agent; the end of that ends the agent's, too, if
    the session is `ours`: started here in the foreground. Raises `NotFound`, `HarnessError`.
    """
    folder = Folder(home=settings.home, key=key)
    try:
        connection = _connect(folder)
    except OSError:
        try:
            return _recorded_end(settings, key)
        finally:
            show_all(folder, ours=ours)
    with connection:
        viewer = Viewer(connection, folder.transcript, stdin=_number(sys.stdin, 0), stdout=_number(sys.stdout, 1), ours=ours)
        told = viewer.run()
    if told == DETACHED:
        print(f"\nharness: detached from {id_of(key)}; `harness attach --id {id_of(key)}` comes back", file=sys.stderr)
        return 0
    _say_skipped(viewer.skipped)
    return told if isinstance(told, int) else _recorded_end(settings, key)


def _say_skipped(count: int) -> None:
    if count:
        print(f"harness: {count} bytes were not shown: they were rotated away before they were read", file=sys.stderr)


def _number(stream: Any, otherwise: int) -> int:
    try:
        return int(stream.fileno())
    except (OSError, ValueError, AttributeError):
        return otherwise


def _connect(folder: Folder) -> socket.socket:
    """Reach the host's socket by a short path: an address holds hardly more than a hundred bytes."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        directory = os.open(folder.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            short = f"/proc/self/fd/{directory}/host.sock"
            connection.connect(short if os.path.isdir("/proc/self/fd") else str(folder.socket))  # noqa: PTH112
        finally:
            os.close(directory)
    except OSError:
        connection.close()
        raise
    return connection


def show_all(folder: Folder, *, ours: bool = True) -> None:
    """Write what a session has written whose host is not there (any more): all of it if it is ours, else its end."""
    from harness.processes import LogReader

    skipped = 0
    for descriptor, path in ((1, folder.transcript), (2, folder.errors)):
        position = 0 if ours else max(0, LogReader(path).end - _READ_BYTES)
        for part, missing in _rest(path, position):
            skipped += missing
            _write(descriptor, part)
    _say_skipped(skipped)


def _rest(path: Path, position: int) -> Iterator[tuple[bytes, int]]:
    """A log from an offset to its end, and how many bytes were rotated away before each part."""
    from harness.processes import LogReader

    log = LogReader(path)
    while (chunk := log.read(position)).data:
        yield chunk.data, chunk.offset - position
        position = chunk.offset + len(chunk.data)


def _recorded_end(settings: Settings, key: str) -> int:
    """The agent's exit code as recorded. Raises `HarnessError` if the session goes on without us, or is lost."""
    import asyncio

    from harness.ledger import open_store
    from harness.sessions.client.sessions import Sessions

    async def wait() -> int:
        async with open_store(settings.database, actor="viewer", create=False) as store:
            try:
                async with asyncio.timeout(_END_SECONDS):
                    exited = (await Sessions(store, settings.home).ended(key)).exited
            except TimeoutError as error:
                raise HarnessError(f"the host of {key} cannot be reached, but the session goes on") from error
            assert exited is not None
            if exited.reason == "lost":
                raise HarnessError(f"session {id_of(key)!r} is lost: {exited.detail}")
            return code_of({"code": exited.code, "signal": exited.signal})

    return asyncio.run(wait())


def code_of(exited: dict[str, Any]) -> int:
    """An exit code as a shell gives it: 128 + signal if a signal ended it, 1 if nobody knows."""
    if isinstance(exited.get("code"), int):
        return int(exited["code"])
    return 128 + int(exited["signal"]) if isinstance(exited.get("signal"), int) else 1


class Viewer:
    """One attached terminal."""

    def __init__(self, connection: socket.socket, transcript: Path, *, stdin: int, stdout: int, ours: bool = False) -> None:
        self._transcript = transcript
        self.position: int | None = 0 if ours else None  # in the transcript, of what is shown next; None: nobody has said
        self.skipped = 0  # bytes that nobody can show any more
        self._ends_input = ours and not os.isatty(stdin)  # a terminal that is closed has not said all that there is to say
        self._connection = connection
        self._stdin = stdin
        self._stdout = stdout
        self._keys = Keys()
        self._held = b""
        self._outgoing = b""
        self._other_screen = False
        self._selector = selectors.DefaultSelector()

    def run(self) -> int | str | None:
        """Relay until it is over: the exit code, `DETACHED`, or None if the host went without a word."""
        with self._selector, _raw(self._stdin, self._calm), _resized() as woken:
            self._connection.setblocking(False)
            self._selector.register(self._connection, selectors.EVENT_READ, self._receive)
            self._selector.register(woken, selectors.EVENT_READ, lambda: self._resize(woken))
            self._resize(None)
            self._open_stdin()
            told: int | str | None = None
            while told is None:
                for ready, mask in self._selector.select(self._keys.patience):
                    if mask & selectors.EVENT_WRITE:
                        self._flush()
                    told = ready.data() if mask & selectors.EVENT_READ else None
                    if told is not None:
                        break
                self._send(b"I", self._keys.late())
            if told != DETACHED:
                self._show_rest()
            return None if told == "" else told

    def _show_rest(self) -> None:
        """What the host, which waits for no slow reader, has left in the transcript."""
        if self.position is not None:
            for part, missing in _rest(self._transcript, self.position):
                self.skipped += missing
                self._show(part)

    def _show(self, data: bytes) -> None:
        for switch in _SCREENS.finditer(data):
            self._other_screen = switch[1] == b"h"
        _write(self._stdout, data)

    def _open_stdin(self) -> None:
        try:
            self._selector.register(self._stdin, selectors.EVENT_READ, self._type)
        except PermissionError:  # a file, which cannot be waited for and need not be
            while data := os.read(self._stdin, _READ_BYTES):
                self._send(b"I", data)
            self._end_input()
        except (OSError, ValueError):  # closed
            pass

    def _end_input(self) -> None:
        if self._ends_input:
            self._send(b"E", b"")

    def _calm(self) -> None:
        """Leave the terminal as a shell wants it."""
        if os.isatty(self._stdout):
            _write(self._stdout, (b"\x1b[?1049l" if self._other_screen else b"") + _CALM)

    def _receive(self) -> int | str | None:
        """Show what the host sends; an exit code, an empty text at an end without one."""
        try:
            data = self._connection.recv(_READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError:
            return ""
        if not data:
            return ""
        self._held += data
        while len(self._held) >= _FRAME.size:
            kind, length = _FRAME.unpack_from(self._held)
            if length > _MAX_FRAME:
                return ""
            end = _FRAME.size + length
            if len(self._held) < end:
                return None
            payload, self._held = self._held[_FRAME.size : end], self._held[end:]
            if kind == b"O":
                self._show(payload)
                self._pass(length)
            elif kind == b"P":
                self._goes_on_at(*_COUNT.unpack(payload))
            elif kind == b"S":
                (count,) = _COUNT.unpack(payload)
                self.skipped += count
                self._pass(count)
            elif kind == b"X":
                return code_of(json.loads(payload or b"{}"))
        return None

    def _goes_on_at(self, position: int) -> None:
        """Told at the beginning and at the end; what is ours and begins late has lost its beginning."""
        if self.position == 0:
            self.skipped += position
        self.position = position

    def _pass(self, count: int) -> None:
        if self.position is not None:
            self.position += count

    def _type(self) -> str | None:
        try:
            data = os.read(self._stdin, _READ_BYTES)
        except OSError:
            data = b""
        if not data:
            self._selector.unregister(self._stdin)
            self._end_input()
            return None
        typed, leaving = self._keys.take(data)
        if typed:
            self._send(b"I", typed)
        if leaving:
            self._send(b"D", b"")
            return DETACHED
        return None

    def _resize(self, woken: socket.socket | None) -> None:
        """Tell the host the size of this terminal; one without a size is not told."""
        if woken is not None:
            with contextlib.suppress(OSError):
                woken.recv(4096)
        for descriptor in (self._stdout, self._stdin):
            with contextlib.suppress(OSError):
                size = os.get_terminal_size(descriptor)
                if size.lines and size.columns:
                    self._send(b"R", struct.pack(">HH", min(size.lines, 65_535), min(size.columns, 65_535)))
                    return

    def _send(self, kind: bytes, payload: bytes) -> None:
        if payload or kind != b"I":
            self._outgoing += _FRAME.pack(kind, len(payload)) + payload
            self._flush()

    def _flush(self) -> None:
        try:
            while self._outgoing:
                self._outgoing = self._outgoing[self._connection.send(self._outgoing) :]
        except BlockingIOError:
            pass
        except OSError:  # what it said last can still be read
            self._outgoing = b""
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._outgoing else 0)
        if self._selector.get_key(self._connection).events != wanted:
            self._selector.modify(self._connection, wanted, self._receive)


class Keys:
    """What a person types, with Ctrl-] twice in a row taken out: that means to leave."""

    def __init__(self) -> None:
        self._held = b""  # one Ctrl-], which may be the first of two
        self._since = 0.0

    @property
    def patience(self) -> float | None:
        """How long to wait for the second one."""
        return max(0.0, self._since + _PATIENCE_SECONDS - time.monotonic()) if self._held else None

    def take(self, data: bytes) -> tuple[bytes, bool]:
        """What goes to the agent, and whether the person leaves."""
        data, self._held = self._held + data, b""
        leaving = _LEAVING.search(data)
        if leaving is not None:
            return data[: leaving.start()], True
        half = _HALF.search(data)
        if half is not None:
            data, self._held, self._since = data[: half.start()], half[0], time.monotonic()
        return data, False

    def late(self) -> bytes:
        """One Ctrl-] that was not followed by another in time is meant for the agent."""
        if self.patience != 0.0:
            return b""
        held, self._held = self._held, b""
        return held


def _write(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(descriptor, rest) :]
        except BlockingIOError:
            selector = selectors.DefaultSelector()
            with selector:
                selector.register(descriptor, selectors.EVENT_WRITE)
                selector.select()


@contextlib.contextmanager
def _raw(stdin: int, calm: Callable[[], None]) -> Generator[None]:
    """Give every key to the agent; put the terminal back on every way out, signals included."""
    if not os.isatty(stdin):
        yield
        return
    before = termios.tcgetattr(stdin)

    def leave(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    handlers = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        tty.setraw(stdin, termios.TCSADRAIN)
        yield
    finally:
        with contextlib.suppress(OSError):
            calm()
        with contextlib.suppress(termios.error):
            termios.tcsetattr(stdin, termios.TCSADRAIN, before)
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _resized() -> Generator[socket.socket]:
    """A socket that becomes readable when the terminal's size has changed."""
    woken, waker = socket.socketpair()
    for each in (woken, waker):
        each.setblocking(False)

    def wake(_number: int, _frame: FrameType | None) -> None:
        with contextlib.suppress(OSError):
            waker.send(b".")

    handler: Any = signal.signal(signal.SIGWINCH, wake)
    try:
        yield woken
    finally:
        signal.signal(signal.SIGWINCH, handler)
        woken.close()
        waker.close()
