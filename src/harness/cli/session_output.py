"""`harness logs`, `events`, `pane` and `attach`: what an agent wrote, what happened, what its window shows, and the window."""

from __future__ import annotations

import os
import re
import sys
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.app import App
from harness.cli.opening import execute, settings_of
from harness.cli.options import Home, Json
from harness.cli.output import json_line, now_us
from harness.cli.session_words import Id, Program, Repo, chosen, opened
from harness.errors import HarnessError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from harness.sessions.client import Row, Sessions

app = App()

_SKIPS = re.compile(r"\x1b\[(\d{0,9})C")  # the cursor some columns on: how a program at a terminal may write its spaces
_WIDEST = 500
_KEPT_BYTES = 64 << 20  # of a transcript's end, for the lines that are asked for


# -- logs


@app.command()
def logs(
    id_: Id,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many lines of the end.")] = 200,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes, until the session ends.")] = False,
    text_only: Annotated[bool, typer.Option("--plain", help="Without colours and other control codes.")] = False,
    errors: Annotated[bool, typer.Option("--errors", help="Its stderr, where that is a pipe of its own.")] = False,
    repo: Repo = None,
    cli: Program = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines.")] = False,
    home: Home = None,
) -> None:
    """Print what an agent wrote, as it came, rotated parts included; while it runs and afterwards.

    \b
    Examples:
      harness logs --id w1
      harness logs --id w1 --lines 50 --plain
      harness logs --id w1 --follow
    """
    printer = _Printer(text_only=text_only, as_json=as_json)

    async def work() -> None:
        async with opened(home, write=follow) as sessions:
            row = await chosen(sessions, id_, repo, cli)
            await _logs(sessions, row.key, lines, printer, follow=follow, errors=errors)

    execute(work)


class _Printer:
    """Writes output to stdout: as it is, or line by line where something is done to each."""

    def __init__(self, *, text_only: bool, as_json: bool) -> None:
        self._text_only = text_only
        self._as_json = as_json
        self._held = b""

    def take(self, data: bytes) -> None:
        if not (self._text_only or self._as_json):
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
            return
        *whole, self._held = (self._held + data).split(b"\n")
        for line in whole:
            self._line(line)
        sys.stdout.flush()

    def end(self) -> None:
        if self._held:
            self._line(self._held)
            sys.stdout.flush()

    def _line(self, line: bytes) -> None:
        from harness.text import sanitise

        text = line.decode(errors="replace").removesuffix("\r")
        if self._text_only:
            text = sanitise(_SKIPS.sub(lambda skip: " " * min(int(skip[1] or 1), _WIDEST), text))
        if self._as_json:
            json_line({"line": text})
        else:
            sys.stdout.write(f"{text}\n")


async def _logs(sessions: Sessions, key: str, lines: int, printer: _Printer, *, follow: bool, errors: bool) -> None:
    from harness.sessions.client import output, reader_of

    reader = reader_of(sessions, key, errors=errors)
    found = reader.tail(lines, max_bytes=_KEPT_BYTES)
    position = found[0].offset if found else reader.end
    while (chunk := reader.read(position)).data:
        printer.take(chunk.data)
        position = chunk.offset + len(chunk.data)
    if follow:
        async with aclosing(output(sessions, key, after=position, errors=errors)) as feed:
            async for chunk in feed:
                printer.take(chunk.data)
    printer.end()


# -- events


@app.command()
def events(
    id_: Id,
    follow: Annotated[
        bool | None, typer.Option("--follow/--no-follow", help="Go on until the session ends; on unless it has.")
    ] = None,
    snapshot: Annotated[bool, typer.Option("--snapshot", help="The same as --no-follow.")] = False,
    from_: Annotated[str | None, typer.Option("--from", metavar="<time>", help="From this moment on (ISO 8601).")] = None,
    repo: Repo = None,
    cli: Program = None,
    as_json: Json = False,
    home: Home = None,
) -> None:
    """Print what happened in a session as JSON lines, and what happens, until it ends.

    docs/events.md says what each type means. A session that is over prints its events and ends.

    \b
    Examples:
      harness events --id w1
      harness events --id w1 --snapshot
      harness events --id w1 --from 2026-11-29T08:00:00Z --no-follow
    """
    del as_json  # it prints nothing else
    since_us = _moment(from_)
    going_on = not snapshot and follow is not False

    async def work() -> None:
        async with opened(home, write=going_on) as sessions:
            row = await chosen(sessions, id_, repo, cli)
            await _events(sessions, row.key, since_us, follow=going_on)

    execute(work)


def _moment(text: str | None) -> int:
    """A moment as microseconds since 1970; one without a zone is meant in this machine's. Raises `HarnessError`."""
    if text is None:
        return 0
    from datetime import datetime, timedelta

    try:
        at = datetime.fromisoformat(text).astimezone()
        return (at - datetime.fromtimestamp(0, at.tzinfo)) // timedelta(microseconds=1)
    except (ValueError, OverflowError, OSError) as error:
        raise HarnessError(f"--from takes a moment as in 2026-11-29T08:00:00Z, not {text!r}") from error


async def _events(sessions: Sessions, key: str, since_us: int, *, follow: bool) -> None:
    """Print the public ones. Raises `HarnessError` where the stream has a hole."""
    from harness.sessions.client import public_line

    expected = 1
    async with aclosing(sessions.follow(key) if follow else sessions.events(key)) as feed:
        async for event in feed:
            if event.seq != expected:
                raise HarnessError(
                    f"the stream of {key} is cut: event {expected} is missing; `harness ledger verify` says more"
                )
            expected += 1
            line = public_line(event, key) if event.ts >= since_us else None
            if line is not None:
                sys.stdout.buffer.write(line + b"\n")
                sys.stdout.buffer.flush()


# -- pane


@app.command()
def pane(
    id_: Id,
    lines: Annotated[int | None, typer.Option("--lines", "-n", min=1, help="Exactly so many lines of its end.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Draw it anew whenever it changes.")] = False,
    repo: Repo = None,
    cli: Program = None,
    as_json: Json = False,
    home: Home = None,
) -> None:
    """Print what an agent's window shows, drawn from its output: with or without tmux, while it runs and afterwards.

    Of an agent that speaks a protocol and has no window it prints what was said and done.

    \b
    Examples:
      harness pane --id w1
      harness pane --id w1 --lines 20 --json
    """

    async def work() -> None:
        async with opened(home, write=follow) as sessions:
            row = await chosen(sessions, id_, repo, cli)
            show = _Show(row, lines, as_json=as_json, again=follow)
            if not follow:
                show.frame(await _drawn(sessions, row))
                return
            async with aclosing(_frames(sessions, row)) as feed:
                async for frame in feed:
                    show.frame(frame)

    execute(work)


async def _drawn(sessions: Sessions, row: Row) -> list[str]:
    from harness.sessions.client import Pane, speaks_protocol, spoken

    if speaks_protocol(row.mode):
        return spoken([event async for event in sessions.events(row.key)])
    return Pane(sessions, row.key, row.mode).draw()


def _frames(sessions: Sessions, row: Row) -> AsyncGenerator[list[str]]:
    from harness.sessions.client import Pane, speaks_protocol

    return _spoken_frames(sessions, row) if speaks_protocol(row.mode) else Pane(sessions, row.key, row.mode).follow()


async def _spoken_frames(sessions: Sessions, row: Row) -> AsyncGenerator[list[str]]:
    from harness.sessions.client import Talk

    talk = Talk()
    said: list[str] = []
    async with aclosing(sessions.follow(row.key)) as feed:
        async for event in feed:
            more = talk.see(event)
            said = [*said, *more][-10_000:]
            if more:
                yield said


class _Show:
    """Prints frames; on a terminal each over the one before."""

    def __init__(self, row: Row, lines: int | None, *, as_json: bool, again: bool) -> None:
        self._row = row
        self._lines = lines
        self._as_json = as_json
        self._over = again and sys.stdout.isatty()
        self._before: list[str] | None = None

    def frame(self, drawn: list[str]) -> None:
        """Print it, unless it is as it was."""
        from harness.sessions.client import last, moment

        shown = last(drawn, self._lines)
        if shown == self._before:
            return
        self._before = shown
        text = "".join(f"{line}\n" for line in shown)
        if self._as_json:
            told = {"ok": True, "id": self._row.id, "captured_at": moment(now_us()), "lines": len(shown), "text": text}
            json_line(told)
            return
        sys.stdout.write(f"\x1b[H\x1b[2J{text}" if self._over else text)
        sys.stdout.flush()


# -- attach


@app.command()
def attach(id_: Id, home: Home = None) -> None:
    """Sit down at a running agent's terminal. Ctrl-] twice leaves it, and the agent goes on.

    Ends with the agent's exit code if it ends meanwhile.

    \b
    Examples:
      harness attach --id w1
    """
    from harness.sessions.client.viewing import view

    async def work() -> Row:
        async with opened(home, write=False) as sessions:
            return await chosen(sessions, id_)

    row = execute(work)
    if not row.live:
        raise HarnessError(f"session {row.id!r} has ended; `harness logs --id {row.id}` prints what it wrote")
    if row.mode != "pty":
        raise HarnessError(f"session {row.id!r} has no terminal, for its agent speaks a protocol: `harness pane` shows it")
    if os.environ.get("HARNESS_SESSION_ID") == row.key:
        raise HarnessError(f"this is session {row.id!r} itself: its terminal would show itself")
    raise typer.Exit(view(settings_of(home), row.key))
