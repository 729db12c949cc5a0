"""What `harness status` does: reads the table of sessions and prints it, without asking any host.

Where the ledger is a file and nothing is out of the ordinary it loads no more than sqlite3; else it opens the ledger as
every other command does.
"""

# pathlib would take longer to load than all of this
# ruff: noqa: PTH110, PTH118, PTH123

from __future__ import annotations

import os
import sys
import time
from os.path import join
from typing import NamedTuple

from harness import home as places
from harness.sessions.client.rows import HEADINGS, Row, cells, document, seen, select


class Look(NamedTuple):
    """What is asked for."""

    home: str | None = None
    id: str | None = None
    repo: str | None = None
    cli: str | None = None
    all: bool = False
    ended: bool = False
    json: bool = False


def show(look: Look) -> int:
    """Print the sessions; gives the exit code. Raises `NotFound` for an unknown id."""
    if look.repo is None and places.here() is None:
        look = look._replace(all=True)  # there is no repository around us
    home, rows = _peek(look) or _ask(look)
    listed, others = (rows, 0) if look.id is not None else _near(rows, look)
    now_us = time.time_ns() // 1000
    if look.json:
        import json

        text = json.dumps([document(row, home, now_us) for row in listed], ensure_ascii=False)
        sys.stdout.write(text + "\n")
    elif listed:
        _table([HEADINGS, *(cells(row, home, now_us) for row in listed)])
    else:
        _nothing(look, others)
    sys.stdout.flush()
    return 0


def _near(rows: list[Row], look: Look) -> tuple[list[Row], int]:
    """The sessions of the repository that is meant, and how many others run."""
    if look.all:
        return rows, 0
    repo = _repository(look)
    near = [row for row in rows if row.repo == repo]
    return near, sum(row.live for row in rows) - sum(row.live for row in near)


def _repository(look: Look) -> str:
    return places.find_repository(os.path.realpath(look.repo or "."))


def _nothing(look: Look, others: int) -> None:
    if look.all:
        print("No active sessions.")
        return
    print(f"No active sessions for {_repository(look)}.")
    if others:
        print(f"{others} in other repositories: `harness status --all` lists {'it' if others == 1 else 'them'}.")


def _table(rows: list[tuple[str, ...]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS) - 1)]
    room = _columns()
    for row in rows:
        line = "  ".join((*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1])).rstrip()
        print(line if room is None or len(line) <= room else line[: room - 1] + "…")


def _columns() -> int | None:
    """How much fits on a line of the terminal; None where it is none."""
    if not sys.stdout.isatty():
        return None
    try:
        return max(os.get_terminal_size(sys.stdout.fileno()).columns, 20)
    except OSError:
        return None


# -- reading


def _peek(look: Look) -> tuple[str, list[Row]] | None:
    """The home and the rows, if they can be had at once."""
    place = _plain_home(look.home)
    if place is None:
        return None
    from harness.ledger import peek_view

    database = join(place, "harness.db")
    if not os.path.exists(database):
        return None if look.id is not None else (place, [])
    sql, values = _statement(look)
    rows = peek_view(database, "sessions", sql, values, prefix="session/")
    if rows is None:
        return None
    found = seen(rows, shared=False)
    return None if look.id is not None and not _meant(found, look) else (place, found)


def _meant(rows: list[Row], look: Look) -> bool:
    """Whether the session with the id that was asked for is there, and of the program that was asked for."""
    return bool(rows) and look.cli in (None, rows[0].cli)


def _statement(look: Look) -> tuple[str, tuple[str, ...]]:
    return select(name=look.id) if look.id is not None else select(live=None if look.ended else True, cli=look.cli)


def _plain_home(given: str | None) -> str | None:
    """The home, if no setting can have moved the ledger out of it."""
    if os.environ.get("HARNESS_CONFIG") or os.environ.get("HARNESS_DATABASE"):
        return None
    start = places.here()
    if start is None:
        return None
    given = given or os.environ.get("HARNESS_HOME") or None
    home = os.path.realpath(join(start, given)) if given else None
    parent, _, name = (home or "").rpartition("/")
    root = (parent or "/") if name == places.HOME_NAME else places.find_root(start)
    try:
        with open(join(root, places.CONFIG_NAME), encoding="utf-8") as file:
            if any(line.strip().strip("\"'").startswith("database") for line in file):
                return None
    except FileNotFoundError:
        pass
    except (OSError, ValueError):
        return None
    return home or join(root, places.HOME_NAME)


def _ask(look: Look) -> tuple[str, list[Row]]:
    """The same from the ledger, opened for reading."""
    import asyncio
    from pathlib import Path

    from harness.ledger import is_address, open_store
    from harness.sessions.client import Sessions
    from harness.settings import load_settings

    settings = load_settings(home=look.home)

    async def work() -> list[Row]:
        async with open_store(settings.database, create=False, read_only=True) as store:
            sessions = Sessions(store, settings.home)
            if look.id is not None:
                return [await sessions.row(look.id, cli=look.cli)]
            return await sessions.list(live=None if look.ended else True, cli=look.cli)

    if look.id is None and not is_address(settings.database) and not Path(settings.database).exists():
        return str(settings.home), []
    return str(settings.home), asyncio.run(work())
