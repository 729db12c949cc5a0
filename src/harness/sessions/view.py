"""The table of sessions: one row for each run, for listing without reading any stream."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from harness.ledger import Event, Statement
from harness.sessions import facts

COLUMNS = (
    "key", "id", "cli", "mode", "repo", "description", "machine", "guard_pid", "guard_started", "pid", "started_us", "state",
    "state_detail", "state_source", "state_confidence", "state_us", "until_us", "vendor_session", "model", "turns",
    "input_tokens", "output_tokens", "cost_usd", "last_us", "exit_code", "exit_signal", "exit_reason", "exited_us",
    "attended", "tmux", "cwd", "port",
)  # fmt: skip

_DDL = """CREATE TABLE IF NOT EXISTS sessions (
    key TEXT PRIMARY KEY, id TEXT NOT NULL, cli TEXT NOT NULL, mode TEXT NOT NULL, repo TEXT NOT NULL,
    description TEXT NOT NULL, machine TEXT NOT NULL, guard_pid BIGINT NOT NULL, guard_started BIGINT NOT NULL,
    pid BIGINT NOT NULL, started_us BIGINT NOT NULL, state TEXT NOT NULL, state_detail TEXT NOT NULL,
    state_source TEXT NOT NULL, state_confidence DOUBLE PRECISION NOT NULL, state_us BIGINT NOT NULL, until_us BIGINT,
    vendor_session TEXT NOT NULL, model TEXT NOT NULL, turns BIGINT NOT NULL, input_tokens BIGINT NOT NULL,
    output_tokens BIGINT NOT NULL, cost_usd DOUBLE PRECISION, last_us BIGINT NOT NULL, exit_code BIGINT, exit_signal BIGINT,
    exit_reason TEXT, exited_us BIGINT, attended BIGINT NOT NULL, tmux TEXT NOT NULL, cwd TEXT NOT NULL,
    port BIGINT NOT NULL)"""

_INSERT = f"INSERT INTO sessions ({', '.join(COLUMNS)}) VALUES ({','.join('?' * len(COLUMNS))}) ON CONFLICT (key) DO NOTHING"
_STATE = """UPDATE sessions SET state = ?, state_detail = ?, state_source = ?, state_confidence = ?, state_us = ?, until_us = ?,
    last_us = ? WHERE key = ? AND exited_us IS NULL"""
_GUARD = "UPDATE sessions SET guard_pid = ?, guard_started = ?, last_us = ? WHERE key = ?"
_IDENTIFIED = """UPDATE sessions SET vendor_session = CASE WHEN ? = '' THEN vendor_session ELSE ? END,
    model = CASE WHEN ? = '' THEN model ELSE ? END, last_us = ? WHERE key = ?"""
_USAGE = """UPDATE sessions SET input_tokens = input_tokens + ?, output_tokens = output_tokens + ?,
    cost_usd = CASE WHEN ? IS NULL THEN cost_usd ELSE coalesce(cost_usd, 0) + ? END, last_us = ? WHERE key = ?"""
_EXITED = """UPDATE sessions SET state = ?, state_detail = ?, state_source = 'host', state_confidence = 1.0, state_us = ?,
    exit_code = ?, exit_signal = ?, exit_reason = ?, exited_us = ?, last_us = ? WHERE key = ?"""


class SessionsView:
    """One row for each run of a session; an erased start leaves a row without words."""

    name = "sessions"
    tables: tuple[str, ...] = ("sessions",)
    ddl: tuple[str, ...] = (
        _DDL,
        "CREATE INDEX IF NOT EXISTS sessions_by_id ON sessions (id, started_us)",
        "CREATE INDEX IF NOT EXISTS sessions_live ON sessions (started_us) WHERE exited_us IS NULL",
    )
    prefixes: tuple[str, ...] = ("session/",)

    def fold(self, event: Event) -> Iterable[Statement]:
        """What the event changes in the session's row."""
        key = event.stream.partition("/")[2]
        told: msgspec.Struct | None = None
        if not event.erased and (shape := facts.SHAPES.get(event.type)) is not None:
            told = event.load(shape)
        match told:
            case None if event.type == facts.CLAIMED:
                return [_insert(key, event.ts, None)]
            case facts.Claimed():
                return [_insert(key, event.ts, told)]
            case facts.Started():
                return [("UPDATE sessions SET pid = ?, last_us = ? WHERE key = ?", (told.pid, event.ts, key))]
            case facts.GuardLost():
                return [(_GUARD, (told.pid, told.started, event.ts, key))]
            case facts.StateChanged():
                values = (
                    str(told.state),
                    told.detail,
                    str(told.source),
                    told.confidence,
                    event.ts,
                    told.until_us,
                    event.ts,
                    key,
                )
                return [(_STATE, values)]
            case facts.Identified():
                vendor, model = told.vendor_session, told.model
                return [(_IDENTIFIED, (vendor, vendor, model, model, event.ts, key))]
            case facts.Usage():
                cost = told.cost_usd
                return [(_USAGE, (told.input_tokens, told.output_tokens, cost, cost, event.ts, key))]
            case facts.TurnCompleted():
                return [("UPDATE sessions SET turns = turns + 1, last_us = ? WHERE key = ?", (event.ts, key))]
            case facts.Exited():
                return [_exited(key, event.ts, told)]
            case _:
                return [("UPDATE sessions SET last_us = ? WHERE key = ?", (event.ts, key))]


def _insert(key: str, ts: int, told: facts.Claimed | None) -> Statement:
    id_ = key.partition("@")[0]
    known = told or facts.Claimed(
        id=id_,
        cli="",
        mode=facts.Mode.PTY,
        argv=(),
        cwd="",
        machine="",
        guard_pid=0,
        guard_started=0,
        host_pid=0,
        host_started=0,
    )
    return _INSERT, (
        key, id_, known.cli, str(known.mode), known.repo, known.description, known.machine, known.guard_pid,
        known.guard_started, 0, ts, str(facts.State.STARTING), "", str(facts.Source.HOST), 1.0, ts, None,
        known.vendor_session, "", 0, 0, 0, None, ts, None, None, None, None, int(known.attended), known.tmux, known.cwd,
        known.port,
    )  # fmt: skip


def _exited(key: str, ts: int, told: facts.Exited) -> Statement:
    lost = told.reason is facts.ExitReason.LOST
    state = facts.State.LOST if lost else facts.State.EXITED
    values = (str(state), told.detail, ts, told.code, told.signal, str(told.reason), ts, ts, key)
    return _EXITED, values


SESSIONS_VIEW = SessionsView()
