"""A row of the table of sessions: reading, judging and showing it. Light: `harness status` reads rows with this alone."""

# pathlib and datetime would take longer to load than all of this
# ruff: noqa: PTH116, PTH118, PTH123

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from os.path import join
from typing import Any, NamedTuple


class Row(NamedTuple):
    """One run of a session as the view has it; the fields are the table's columns, in their order."""

    key: str
    id: str
    cli: str
    mode: str
    repo: str
    description: str
    machine: str
    guard_pid: int
    guard_started: int
    pid: int
    started_us: int
    state: str
    state_detail: str
    state_source: str
    state_confidence: float
    state_us: int
    until_us: int | None
    vendor_session: str
    model: str
    turns: int
    input_tokens: int
    output_tokens: int
    cost_usd: float | None
    last_us: int
    exit_code: int | None
    exit_signal: int | None
    exit_reason: str | None
    exited_us: int | None
    attended: int
    tmux: str
    cwd: str
    port: int  # of its own web door; 0: it has none

    @property
    def live(self) -> bool:
        """Whether nobody has recorded its end."""
        return self.exited_us is None


LISTING = f"SELECT {', '.join(Row._fields)} FROM sessions"
_NEWEST_FIRST = "ORDER BY started_us DESC, key DESC"
_LIVING_FIRST = "ORDER BY CASE WHEN exited_us IS NULL THEN 0 ELSE 1 END, started_us DESC, key DESC LIMIT 1"


def select(
    *, name: str | None = None, live: bool | None = None, repo: str | None = None, cli: str | None = None
) -> tuple[str, tuple[str, ...]]:
    """The statement for one run, by key or as the newest of an id (a living one first), or for many, newest first."""
    if name is not None:
        return f"{LISTING} WHERE {'key' if '@' in name else 'id'} = ? {_LIVING_FIRST}", (name,)
    wanted = [(column, value) for column, value in (("repo", repo), ("cli", cli)) if value is not None]
    where = [f"{column} = ?" for column, _ in wanted]
    if live is not None:
        where.append(f"exited_us IS {'' if live else 'NOT '}NULL")
    condition = f"WHERE {' AND '.join(where)} " if where else ""
    return f"{LISTING} {condition}{_NEWEST_FIRST}", tuple(value for _, value in wanted)


def seen(rows: Iterable[Sequence[Any]], *, shared: bool) -> list[Row]:
    """Rows as they are to be shown: a session that nobody owns any more is lost, also if nobody has recorded it yet.

    `shared` says that the ledger may be one of several machines.
    """
    return [_seen(Row._make(row), shared) for row in rows]


def _seen(row: Row, shared: bool) -> Row:
    if not row.live or not row.guard_pid:
        return row
    from harness.sessions.ids import process_gone

    if not process_gone(row.machine, row.guard_pid, row.guard_started, shared=shared):
        return row
    return row._replace(state="lost", state_detail="its host died", state_source="process", state_confidence=1.0, until_us=None)


# -- for machines


def document(row: Row, home: str, now_us: int) -> dict[str, object]:
    """The row as JSON tells it, keys in a fixed order; None is what nobody knows."""
    folder = folder_of(home, row.key)
    written_us = _written_us(join(folder, "transcript.log"))
    return {
        "id": row.id,
        "session": row.key,
        "cli": row.cli,
        "mode": row.mode,
        "pid": row.pid or None,
        "port": row.port or None,
        "live": row.live,
        "state": row.state,
        "detail": row.state_detail,
        "source": row.state_source,
        "confidence": row.state_confidence,
        "since": moment(row.state_us),
        "until": moment(row.until_us),
        "repo": row.repo,
        "cwd": row.cwd,
        "description": row.description,
        "started_at": moment(row.started_us),
        "age_s": _seconds(row.started_us, row.exited_us or now_us),
        "log_mtime": moment(written_us),
        "log_idle_s": None if written_us is None else _seconds(written_us, now_us),
        "output_log_path": join(folder, "transcript.log"),
        "events_log_path": join(folder, "events.jsonl"),
        "vendor_session": row.vendor_session or None,
        "model": row.model or None,
        "turns": row.turns,
        "tokens": {"input": row.input_tokens, "output": row.output_tokens},
        "cost_usd": row.cost_usd,
        "attended": bool(row.attended),
        "tmux": row.tmux or None,
        "exited": None if row.live else _exited(row),
    }


def _exited(row: Row) -> dict[str, object]:
    code = 128 + row.exit_signal if row.exit_code is None and row.exit_signal is not None else row.exit_code
    return {"code": code, "signal": row.exit_signal, "reason": row.exit_reason, "at": moment(row.exited_us)}


def folder_of(home: str, key: str) -> str:
    """Where the run's files are now: as `ids.Folder.path`."""
    sessions = join(home, "sessions")
    current, archived = join(sessions, key.partition("@")[0]), join(sessions, key)
    try:
        with open(join(current, "key"), encoding="ascii") as file:
            own = file.read() == key
    except (OSError, ValueError):
        own = False
    return archived if not own and os.path.isdir(archived) else current  # noqa: PTH112


def moment(us: int | None) -> str | None:
    """A time as ISO 8601 in UTC, with microseconds."""
    if us is None:
        return None
    seconds, rest = divmod(us, 1_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{rest:06d}Z"


def _written_us(path: str) -> int | None:
    try:
        return os.stat(path).st_mtime_ns // 1000
    except OSError:
        return None


def _seconds(then_us: int, now_us: int) -> int:
    return max(0, (now_us - then_us) // 1_000_000)


# -- for people

HEADINGS = ("ID", "CLI", "PID", "PORT", "AGE", "IDLE", "STATE", "REPO", "DESC")


def cells(row: Row, home: str, now_us: int) -> tuple[str, ...]:
    """The row's cells below `HEADINGS`; `-` where there is nothing."""
    written_us = _written_us(join(folder_of(home, row.key), "transcript.log")) if row.live else None
    idle = "" if written_us is None else _span(_seconds(written_us, now_us))
    pid, port = (str(number) if number and row.live else "" for number in (row.pid, row.port))
    told = (
        row.id, row.cli, pid, port, _span(_seconds(row.started_us, now_us)), idle, _state(row),
        row.repo.rstrip("/").rpartition("/")[2], row.description,
    )  # fmt: skip
    return tuple(_plain(cell) or "-" for cell in told)


def _state(row: Row) -> str:
    if row.state == "blocked" and row.state_detail:
        return f"blocked({row.state_detail})"
    if row.state == "limited" and row.until_us is not None:
        return f"limited({time.strftime('%H:%M', time.localtime(row.until_us // 1_000_000))})"
    if row.state == "exited" and (row.exit_code or row.exit_signal):
        return f"exited({row.exit_code or 128 + (row.exit_signal or 0)})"
    return row.state


def _span(seconds: int) -> str:
    """A time in one unit: `12s`, `3m`, `5h`, `2d`."""
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def _plain(text: str) -> str:
    """Text on one line that can steer no terminal."""
    if text.isascii() and text.isprintable():
        return text
    from harness.text import sanitise

    return " ".join(sanitise(text).split())
