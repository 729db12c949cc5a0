"""Hooks of an agent program for one session only: what it is told to run, and what they drop. No user's file is touched.

Each hook is one line of POSIX sh, so that it costs a few milliseconds and needs nothing installed. It puts its JSON into a file
of the session's own folder and the file's name, as one line, into a FIFO that the host keeps open. It never waits for a host
that is gone: it opens the FIFO for reading as well, and whoever asks for leave looks whether the host lives, and gets an
end of file when it dies, upon which the program shows its own dialog. Owns the folder `hooks` in the session's folder.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import re
import shlex
import sys
import termios
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from harness.errors import NotFound, ProcessError, UsageError
from harness.processes import Lines
from harness.sessions.ids import write_private

ASKING = "PermissionRequest"
NOTIFY = "notify"
_FIFO = "drop"
_SETTINGS = "settings.json"
_NAME = re.compile(r"([A-Za-z]{1,40})\.(\d{1,10})")
_MAX_BYTES = 16 << 20  # of one hook's input; what a tool answered is in it
_ASK_SECONDS = 7 * 86_400  # the host's own deadline comes first
_DROP_SECONDS = 20
_READ_SECONDS = 0.005
_READ_TRIES = 400
_MAX_REASON = 2000  # all of the answer has to fit into a pipe
_ENTER = "cd {folder} 2>/dev/null && [ -p {fifo} ] || exit 0; umask 077; n={event}.$$; "
_DROP = 'cat >"$n" && echo "$n" 1<>{fifo}; exit 0'
_ASK = (
    'kill -0 {pid} 2>/dev/null || exit 0; mkfifo "$n.answer" && cat >"$n" && echo "$n" 1<>{fifo} && '
    '{{ IFS= read -r a <"$n.answer"; }} 2>/dev/null; rm -f "$n.answer"; [ -z "$a" ] || printf "%s\\n" "$a"; exit 0'
)
_NOTIFIED = (
    "for j; do :; done; (cd {folder} 2>/dev/null && [ -p {fifo} ] && umask 077 && n={event}.$$ && "
    'printf "%s" "$j" >"$n" && echo "$n" 1<>{fifo}) 2>/dev/null; [ $# -lt 2 ] || exec "$@"; exit 0'
)

Told = Callable[[str, bytes], object]
"""Called with a hook's name, which is unique in the session, and its input."""


class HookDrop:
    """The host's side. `open` makes the folder and begins to read; `close` lets every hook that waits go, with no answer."""

    def __init__(self, folder: Path, told: Told) -> None:
        self.folder = folder / "hooks"
        self._told = told
        self._fd = -1
        self._lines = Lines(max_bytes=4096)
        self._answers: dict[str, tuple[str, int]] = {}  # request: name of its FIFO, our end of it
        self._leaving: dict[int, str] = {}  # answered, and perhaps not read yet
        self._count = 0
        self._loop: asyncio.AbstractEventLoop | None = None

    def open(self) -> None:
        """Raises `ProcessError` if the folder or the FIFO cannot be made."""
        fifo = self.folder / _FIFO
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                fifo.unlink()
            os.mkfifo(fifo, 0o600)
            self._fd = os.open(fifo, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise ProcessError(f"{fifo}: cannot make the session's hooks: {error.strerror or error}") from error
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._fd, self._read)

    def command(self, event: str) -> str:
        """What the program is to run for an event."""
        body = _ENTER + (_ASK if event == ASKING else _DROP)
        return body.format(folder=shlex.quote(str(self.folder)), fifo=_FIFO, event=event, pid=os.getpid())

    def notify_command(self, then: Sequence[str] = ()) -> list[str]:
        """An argv that drops its last argument and then runs the user's own command, if there is one, with it."""
        script = _NOTIFIED.format(folder=shlex.quote(str(self.folder)), fifo=_FIFO, event=NOTIFY)
        return ["/bin/sh", "-c", script, "harness-notify", *then]

    def answer(self, request: str, text: str) -> None:
        """Let the hook that waits print this, or nothing if it is empty. Raises `NotFound` if none waits."""
        if request not in self._answers:
            raise NotFound(f"nobody waits for an answer to {request!r} any more")
        name, fd = self._answers.pop(request)
        with contextlib.suppress(OSError):  # it is gone: the program has shown and closed its own dialog
            os.write(fd, text.encode() + b"\n")
        self._leaving[fd] = name
        self._let_go(fd, _READ_TRIES)

    def _let_go(self, fd: int, tries: int) -> None:
        """Close our end once it is read, since what nobody has open is lost; a hook that was killed never reads."""
        if fd not in self._leaving:
            return
        if tries and _unread(fd) and self._loop is not None:
            self._loop.call_later(_READ_SECONDS, self._let_go, fd, tries - 1)
            return
        name = self._leaving.pop(fd)
        os.close(fd)
        if not tries:
            self._remove(f"{name}.answer")

    def release(self, requests: Sequence[str]) -> None:
        """These were settled without us: their hooks may go."""
        for request in requests:
            with contextlib.suppress(NotFound):
                self.answer(request, "")

    def close(self) -> None:
        """Idempotent."""
        self.release(tuple(self._answers))
        for fd in tuple(self._leaving):
            self._let_go(fd, 0)
        if self._fd >= 0:
            if self._loop is not None and not self._loop.is_closed():
                self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
        with contextlib.suppress(OSError):
            for left in self.folder.iterdir():
                if left.name in (_FIFO, _SETTINGS) or _NAME.fullmatch(left.name.removesuffix(".answer")):
                    self._remove(left.name)

    def _read(self) -> None:
        try:
            data = os.read(self._fd, 65536)
        except (BlockingIOError, InterruptedError):
            return
        for line in self._lines.feed(data):
            self._take(line.decode("ascii", "replace").strip())

    def _take(self, name: str) -> None:
        match = _NAME.fullmatch(name)
        if match is None:
            return
        self._count += 1
        request = f"{name}.{self._count}"  # a pid comes again
        if match[1] == ASKING:
            try:
                self._answers[request] = (
                    name,
                    os.open(self.folder / f"{name}.answer", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC),
                )
            except OSError:
                return  # it was killed meanwhile
        try:
            with (self.folder / name).open("rb") as file:
                data = file.read(_MAX_BYTES + 1)
        except OSError:
            data = b""
        self._remove(name)
        if data and len(data) <= _MAX_BYTES:
            self._told(request, data)
        else:
            self.release((request,))

    def _remove(self, name: str) -> None:
        with contextlib.suppress(OSError):
            (self.folder / name).unlink()


def _unread(fd: int) -> int:
    return int.from_bytes(fcntl.ioctl(fd, termios.FIONREAD, b"\0\0\0\0"), sys.byteorder)


def with_settings(argv: tuple[str, ...], drop: HookDrop, events: Sequence[str]) -> tuple[str, ...]:
    """Claude Code's command line with `--settings` for a file that has our hooks, and all that the user's own one says.

    Raises `UsageError` if the user's settings cannot be read.
    """
    program, *arguments = argv
    given, rest = _settings_among(arguments)
    settings = _loaded(given)
    hooks: dict[str, Any] = dict(settings.get("hooks") or {})
    for event in events:
        seconds = _ASK_SECONDS if event == ASKING else _DROP_SECONDS
        ours = {"matcher": "", "hooks": [{"type": "command", "command": drop.command(event), "timeout": seconds}]}
        hooks[event] = [*(hooks.get(event) or []), ours]
    file = drop.folder / _SETTINGS
    write_private(file, json.dumps({**settings, "hooks": hooks}, indent=1))
    return (program, "--settings", str(file), *rest)


def _settings_among(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """The value of the last `--settings`, and the arguments without it. What comes after `--` is no flag."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    given, rest = "", list[str]()
    place = 0
    while place < end:
        argument = arguments[place]
        if argument == "--settings" and place + 1 < end:
            given = arguments[place + 1]
            place += 1
        elif argument.startswith("--settings="):
            given = argument.partition("=")[2]
        else:
            rest.append(argument)
        place += 1
    return given, [*rest, *arguments[end:]]


def _loaded(given: str) -> dict[str, Any]:
    if not given:
        return {}
    try:
        text = given if given.lstrip().startswith("{") else Path(given).read_text(encoding="utf-8")
        loaded: object = json.loads(text)
    except (OSError, ValueError) as error:
        raise UsageError(f"--settings {given[:100]}: {error}") from error
    if not isinstance(loaded, dict) or not isinstance(cast("dict[str, Any]", loaded).get("hooks") or {}, dict):
        raise UsageError(f"--settings {given[:100]}: not an object, or its hooks are none")
    return cast("dict[str, Any]", loaded)


def with_notify(argv: tuple[str, ...], drop: HookDrop, env: Mapping[str, str]) -> tuple[str, ...]:
    """Codex's command line with `notify` for this session, which also runs what the user's configuration names there.

    Codex's other hooks have to be trusted by a person first: for hooks of one session it would show a dialog at its start.
    """
    program, *arguments = argv
    if any(argument.startswith("notify=") for argument in arguments):
        return argv  # the user's own for this session; state and turns are told by the terminal as well
    command = drop.notify_command(_own_notify(env))
    return (program, "-c", f"notify={json.dumps(command)}", *arguments)


def _own_notify(env: Mapping[str, str]) -> list[str]:
    home = env.get("CODEX_HOME") or str(Path(env.get("HOME") or "~").expanduser() / ".codex")
    try:
        config: dict[str, object] = tomllib.loads((Path(home) / "config.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    command = config.get("notify")
    if not isinstance(command, list):
        return []
    return [word for word in cast("list[object]", command) if isinstance(word, str)]


def allowed() -> str:
    """What a PermissionRequest hook prints to allow."""
    return _decision({"behavior": "allow"})


def denied(reason: str, *, interrupt: bool) -> str:
    """What it prints to deny; the program is told the reason."""
    decision: dict[str, object] = {"behavior": "deny", "message": (reason or "denied")[:_MAX_REASON]}
    return _decision({**decision, "interrupt": True} if interrupt else decision)


def _decision(decision: Mapping[str, object]) -> str:
    return json.dumps({"hookSpecificOutput": {"hookEventName": ASKING, "decision": decision}})
