"""The view of how far runs are: what is done, what is open, what it cost, what is worth telling. Pure.

A completed step leaves a count, an open one a row, so that a run of any length is told from a few rows.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from harness.kernel import records
from harness.kernel.records import RunStarted, StepRejected, StepRetried, StepStarted
from harness.kernel.runs import STATUS_OF
from harness.kernel.session_records import CHILD_LINKED, SESSION_ENDED, SESSION_STARTED
from harness.ledger import Event, Statement

_ROUTINE = frozenset(
    {
        records.RUN_STARTED, records.STEP_STARTED, records.STEP_COMPLETED, records.TOOLSET_RECORDED, records.BUDGET_TAKEN,
        records.BUDGET_RETURNED, records.ARTIFACT_SET, records.SUMMARY_APPENDED, SESSION_STARTED, SESSION_ENDED,
        CHILD_LINKED,
    }
)  # fmt: skip

_OPEN = (
    "INSERT INTO progress_open VALUES (?,?,?,?,?,?,?) ON CONFLICT (run, step) DO UPDATE SET state = excluded.state,"
    " kind = excluded.kind, name = excluded.name, since = excluded.since, due = excluded.due"
)
_CHANGE = "UPDATE progress_open SET state = ?, since = ?, due = ? WHERE run = ? AND step = ?"
_CLOSE = "DELETE FROM progress_open WHERE run = ? AND step = ?"
_COUNT = (
    "INSERT INTO progress_costs VALUES (?,?,?,?,?,?,?,?,?) ON CONFLICT (run, kind, name) DO UPDATE SET"
    " completed = progress_costs.completed + excluded.completed, failed = progress_costs.failed + excluded.failed,"
    " retried = progress_costs.retried + excluded.retried, cost = progress_costs.cost + excluded.cost,"
    " input = progress_costs.input + excluded.input, output = progress_costs.output + excluded.output"
)
_LOST = (
    "UPDATE progress_costs SET retried = retried + 1, cost = cost + ? WHERE run = ?"
    " AND kind = (SELECT kind FROM progress_open WHERE run = ? AND step = ?)"
    " AND name = (SELECT name FROM progress_open WHERE run = ? AND step = ?)"
)


class _Usage(msgspec.Struct):
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0


class _Answer(msgspec.Struct):
    usage: _Usage = msgspec.field(default_factory=_Usage)


class _Ended(msgspec.Struct):
    """What the view needs of a step's end; the rest of the payload is skipped."""

    kind: str = ""
    name: str = ""
    cost: int = 0
    answer: _Answer | None = None


class _Forked(msgspec.Struct):
    fork_of: str | None = None


class ProgressView:
    """Runs, their open steps, their counts and costs by model and tool, and the places of what is worth telling."""

    name = "progress"
    tables: tuple[str, ...] = ("progress_runs", "progress_open", "progress_costs", "progress_notes")
    ddl: tuple[str, ...] = (
        "CREATE TABLE IF NOT EXISTS progress_runs (id TEXT PRIMARY KEY, tenant TEXT NOT NULL, status TEXT NOT NULL,"
        " started INTEGER NOT NULL, parent TEXT, forked TEXT)",
        "CREATE INDEX IF NOT EXISTS progress_runs_by_parent ON progress_runs (parent)",
        "CREATE INDEX IF NOT EXISTS progress_runs_by_forked ON progress_runs (forked)",
        "CREATE TABLE IF NOT EXISTS progress_open (run TEXT NOT NULL, step TEXT NOT NULL, state TEXT NOT NULL,"
        " kind TEXT NOT NULL, name TEXT NOT NULL, since INTEGER NOT NULL, due INTEGER, PRIMARY KEY (run, step))",
        "CREATE INDEX IF NOT EXISTS progress_open_by_due ON progress_open (due)",
        "CREATE TABLE IF NOT EXISTS progress_costs (run TEXT NOT NULL, kind TEXT NOT NULL, name TEXT NOT NULL,"
        " completed INTEGER NOT NULL, failed INTEGER NOT NULL, retried INTEGER NOT NULL, cost INTEGER NOT NULL,"
        " input INTEGER NOT NULL, output INTEGER NOT NULL, PRIMARY KEY (run, kind, name))",
        "CREATE TABLE IF NOT EXISTS progress_notes (run TEXT NOT NULL, seq INTEGER NOT NULL, type TEXT NOT NULL,"
        " PRIMARY KEY (run, seq))",
    )
    prefixes: tuple[str, ...] = ("run/",)

    def fold(self, event: Event) -> Iterable[Statement]:
        """What changes. An erased event still counts as what its type says, without name and cost."""
        run = event.stream.partition("/")[2]
        if event.type not in _ROUTINE:
            yield "INSERT INTO progress_notes VALUES (?,?,?) ON CONFLICT (run, seq) DO NOTHING", (run, event.seq, event.type)
        if event.type.startswith("step."):
            yield from _step(run, event.key or "", event)
        elif event.type == records.RUN_STARTED:
            yield _run(run, event)
        elif (status := STATUS_OF.get(event.type)) is not None:
            yield "UPDATE progress_runs SET status = ? WHERE id = ?", (status, run)


def _run(run: str, event: Event) -> Statement:
    parent = None if event.erased else event.load(RunStarted).parent_run
    forked = None if event.erased else event.load(_Forked).fork_of
    return (
        "INSERT INTO progress_runs VALUES (?,?,?,?,?,?) ON CONFLICT (id) DO NOTHING",
        (run, event.tenant, "active", event.ts, parent, forked),
    )


def _step(run: str, step: str, event: Event) -> Iterable[Statement]:
    match event.type:
        case records.STEP_COMPLETED:
            yield _CLOSE, (run, step)
            yield _counted(run, _Ended() if event.erased else event.load(_Ended), completed=1)
        case records.STEP_FAILED:
            ended = _Ended() if event.erased else event.load(_Ended)
            yield _OPEN, (run, step, "failed", ended.kind, ended.name, event.ts, None)
            yield _counted(run, ended, failed=1)
        case records.STEP_REJECTED:
            rejected = None if event.erased else event.load(StepRejected)
            kind, name = (rejected.kind, rejected.name) if rejected else ("", "")
            yield _OPEN, (run, step, "rejected", kind, name, event.ts, None)
        case records.STEP_STARTED:
            started = StepStarted(kind="tool", name="") if event.erased else event.load(StepStarted)
            due = started.due_us if started.kind == "timer" else None
            yield _OPEN, (run, step, "started", started.kind, started.name, event.ts, due)
            yield _counted(run, _Ended(kind=started.kind, name=started.name))
        case records.STEP_RETRIED:
            retried = None if event.erased else event.load(StepRetried)
            yield _LOST, (retried.cost if retried else 0, run, run, step, run, step)
            yield _CHANGE, ("retried", event.ts, retried.next_at_us if retried else None, run, step)
        case records.STEP_INTERRUPTED:
            yield _LOST, (0 if event.erased else event.load(_Ended).cost, run, run, step, run, step)
            yield _CHANGE, ("interrupted", event.ts, None, run, step)
        case records.STEP_UNKNOWN:
            yield _CHANGE, ("unknown", event.ts, None, run, step)
        case _:
            return


def _counted(run: str, ended: _Ended, *, completed: int = 0, failed: int = 0) -> Statement:
    used = ended.answer.usage if ended.answer is not None else _Usage()
    read = used.input_tokens + used.cache_read_tokens + used.cache_write_tokens
    return _COUNT, (run, ended.kind, ended.name, completed, failed, 0, ended.cost, read, used.output_tokens)


PROGRESS_VIEW = ProgressView()
