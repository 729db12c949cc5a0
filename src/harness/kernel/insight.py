"""Telling how far a run is and why it is where it is, by index: the view of progress, the newest status, the newest
summary of its tasks. Reads only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from harness.clock import iso
from harness.kernel import inherited, records
from harness.kernel.artifacts import Artifacts
from harness.kernel.bounds import check_count
from harness.kernel.insight_results import ChildRun, CostLine, Note, RunExplanation, RunProgress, WaitingFor
from harness.kernel.lifecycle import Lifecycle
from harness.kernel.progress import PROGRESS_VIEW
from harness.kernel.results import RunStatus, Status
from harness.kernel.runs import stream_of
from harness.ledger import Event, Store

if TYPE_CHECKING:
    from harness.people import Questions

TASK_PROGRESS = "task_progress"
DECLARED_STEPS = "workflow_steps"  # the summary of what a workflow declared
_DONE = frozenset({"done", "completed", "complete"})
_MAX_TREE = 1000
_UNDER_WAY = frozenset({"started", "retried", "unknown", "interrupted"})


class Insight:
    """What is known of runs without reading their steps."""

    def __init__(self, store: Store, lifecycle: Lifecycle, artifacts: Artifacts) -> None:
        self._store = store
        self._lifecycle = lifecycle
        self._artifacts = artifacts

    async def progress(self, run_id: str) -> RunProgress:
        """How far a run is. Raises `NotFound`, `Unproven`."""
        status = await self._lifecycle.status(run_id)
        self._store.register(PROGRESS_VIEW)
        states, newest = await self._open(run_id)
        sums = "SELECT coalesce(sum(completed), 0) FROM progress_costs WHERE run = ?"
        completed = _int((await self._store.query(PROGRESS_VIEW, sums, run_id))[0][0])
        total, done, pending = await self._tasks(run_id)
        waiting, step, due = _waiting(status, newest)
        return RunProgress(
            run_id=run_id, tenant_id=status.tenant_id, status=status.status, reason=status.reason,
            percent=None if not total or done is None else 100.0 * done / total, tasks_total=total, tasks_done=done,
            pending_tasks=pending, steps={**states, **({"completed": completed} if completed else {})},
            current_step=next((step for step, state, _, _ in newest if state in _UNDER_WAY), None),
            waiting_for=waiting, waiting_step=step, due_us=due, started_us=status.started_us, updated_us=status.updated_us,
        )  # fmt: skip

    async def _open(self, run_id: str) -> tuple[dict[str, int], list[tuple[str, str, str, int | None]]]:
        """How many steps are open by state, and the newest of them as step, state, kind and due time."""
        by_state = "SELECT state, count(*) FROM progress_open WHERE run = ? GROUP BY state"
        counts = {str(state): _int(count) for state, count in await self._store.query(PROGRESS_VIEW, by_state, run_id)}
        listed = (
            "SELECT step, state, kind, due FROM progress_open WHERE run = ? AND state NOT IN ('failed', 'rejected')"
            " ORDER BY since DESC, step LIMIT 20"
        )
        rows = await self._store.query(PROGRESS_VIEW, listed, run_id)
        newest = [(str(step), str(state), str(kind), None if due is None else _int(due)) for step, state, kind, due in rows]
        return counts, newest

    async def _tasks(self, run_id: str) -> tuple[int | None, int | None, tuple[str, ...]]:
        declared = await self._artifacts.latest_summary(run_id, DECLARED_STEPS)
        if isinstance(declared, list) and declared:
            return await self._declared(run_id, [str(step) for step in cast("list[object]", declared)])
        recorded = await self._artifacts.latest_summary(run_id, TASK_PROGRESS)
        if recorded is None:
            recorded = await self._artifacts.get(run_id, TASK_PROGRESS)
        return tasks_of(recorded)

    async def _declared(self, run_id: str, steps: Sequence[str]) -> tuple[int, int, tuple[str, ...]]:
        pending: list[str] = []
        for step in steps:
            event = await inherited.newest(self._store, run_id, f"{step}#1")
            if event is None or event.type != records.STEP_COMPLETED:
                pending.append(step)
        return len(steps), len(steps) - len(pending), tuple(pending)

    # Explaining

    async def explain(self, run_id: str, questions: Questions, limit: int) -> RunExplanation:
        """Why a run is where it is. Raises `NotFound`, `Unproven`."""
        check_count("limit", limit)
        progress = await self.progress(run_id)
        costs = await self._costs(run_id)
        own = sum(line.cost_usd for line in costs)
        children = await self._tree(run_id)
        notes, left_out = await self._notes(run_id, limit)
        asked = await self._asked(run_id, questions)
        forked = await self._store.query(PROGRESS_VIEW, "SELECT forked FROM progress_runs WHERE id = ?", run_id)
        return RunExplanation(
            progress=progress, why=_why(progress, notes, asked), cost_usd=own,
            tree_cost_usd=own + sum(child.cost_usd for child in children), costs=costs, notes=notes, notes_left_out=left_out,
            open_questions=asked, children=children,
            forked_from=None if not forked or forked[0][0] is None else str(forked[0][0]),
        )  # fmt: skip

    async def _costs(self, run_id: str) -> tuple[CostLine, ...]:
        sql = (
            "SELECT kind, name, completed, failed, retried, cost, input, output FROM progress_costs WHERE run = ?"
            " ORDER BY cost DESC, kind, name"
        )
        return tuple(
            CostLine(
                kind=str(kind), name=str(name), completed=_int(completed), failed=_int(failed), retried=_int(retried),
                cost_usd=_int(cost) / 1_000_000, input_tokens=_int(read), output_tokens=_int(written),
            )
            for kind, name, completed, failed, retried, cost, read, written in await self._store.query(
                PROGRESS_VIEW, sql, run_id
            )
        )  # fmt: skip

    async def _tree(self, run_id: str) -> tuple[ChildRun, ...]:
        """All runs below this one, each after what caused it."""
        sql = (
            "SELECT r.id, r.status, r.forked, coalesce(sum(c.cost), 0), r.started FROM progress_runs r"
            " LEFT JOIN progress_costs c ON c.run = r.id WHERE r.parent = ? OR r.forked = ?"
            " GROUP BY r.id, r.status, r.forked, r.started ORDER BY r.started DESC, r.id DESC"
        )
        told: list[ChildRun] = []
        seen = {run_id}
        stack = [ChildRun(run_id=run_id, status="active", depth=0)]
        while stack and len(told) <= _MAX_TREE:
            at = stack.pop()
            told.append(at)
            for child, status, forked, cost, _ in await self._store.query(PROGRESS_VIEW, sql, at.run_id, at.run_id):
                if str(child) not in seen:
                    seen.add(str(child))
                    below = ChildRun(
                        run_id=str(child), status=cast("Status", status), depth=at.depth + 1, fork=forked is not None,
                        cost_usd=_int(cost) / 1_000_000,
                    )  # fmt: skip
                    stack.append(below)
        return tuple(told[1:])

    async def _notes(self, run_id: str, limit: int) -> tuple[tuple[Note, ...], int]:
        sql = "SELECT seq FROM progress_notes WHERE run = ? ORDER BY seq DESC LIMIT ?"
        seqs = [_int(row[0]) for row in await self._store.query(PROGRESS_VIEW, sql, run_id, limit)]
        count = "SELECT count(*) FROM progress_notes WHERE run = ?"
        known = _int((await self._store.query(PROGRESS_VIEW, count, run_id))[0][0])
        events = [await self._store.event(stream_of(run_id), seq) for seq in reversed(seqs)]
        return tuple(_note(event) for event in events if event is not None), known - len(seqs)

    async def _asked(self, run_id: str, questions: Questions) -> tuple[str, ...]:
        stream = stream_of(run_id)
        return tuple(
            f"{question.id}: {question.text}"
            for question in await questions.pending()
            if question.subject == stream or question.subject.startswith(f"{stream}#")
        )


def tasks_of(value: Any) -> tuple[int | None, int | None, tuple[str, ...]]:
    """How many tasks there are, how many are done, and the names of the others, as a run has recorded them.

    What says nothing of a total gives (None, None, ()): a number that nobody vouches for is no progress.
    """
    if isinstance(value, Mapping):
        fields = cast("Mapping[str, Any]", value)
        for name in ("units", "tasks"):
            if isinstance(fields.get(name), list | Mapping):
                return tasks_of(fields[name])
        total, done = fields.get("total"), fields.get("done", fields.get("completed"))
        if _count(total) and _count(done) and 0 <= done <= total:
            return total, done, ()
        return (None, None, ())
    if not isinstance(value, list):
        return (None, None, ())
    listed = cast("list[Any]", value)
    if not all(isinstance(task, Mapping) and isinstance(_state(cast("Mapping[str, Any]", task)), str) for task in listed):
        return (None, None, ())
    pending = [task for task in listed if _state(task) not in _DONE]
    names = tuple(str(task.get("id", task.get("name", ""))) for task in pending)
    return len(listed), len(listed) - len(pending), tuple(name for name in names if name)


def _state(task: Mapping[str, Any]) -> Any:
    return task.get("state", task.get("status"))


def _count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _int(value: object) -> int:
    return int(cast("int", value))


def _waiting(
    status: RunStatus, newest: Sequence[tuple[str, str, str, int | None]]
) -> tuple[WaitingFor | None, str | None, int | None]:
    if status.status == "paused":
        return "human", next((step for step, _, kind, _ in newest if kind == "pause"), None), None
    if status.status == "blocked":
        return "unblocking", None, None
    if not status.active:
        return None, None, None
    for step, state, kind, due in newest:
        if state == "unknown":
            return "reconciliation", step, None
        if due is not None:
            return "timer" if kind == "timer" else "retry", step, due
        if state == "started":
            return None, None, None
    return None, None, None


def _why(progress: RunProgress, notes: Sequence[Note], asked: Sequence[str]) -> str:
    match progress.waiting_for:
        case "human":
            return f"it was paused and waits for `resume`{f': {progress.reason}' if progress.reason else ''}"
        case "unblocking":
            return f"it was blocked and waits for `unblock_run`{f': {progress.reason}' if progress.reason else ''}"
        case "timer" | "retry":
            what = "sleeps" if progress.waiting_for == "timer" else f"tries {progress.waiting_step} again"
            return f"it {what} {'until' if what == 'sleeps' else 'at'} {iso(progress.due_us or 0)}"
        case "reconciliation":
            return f"the outcome of {progress.waiting_step} is unknown; reconcile it"
        case None:
            pass
    if progress.over:
        last = next((note for note in reversed(notes) if note.type == "step.failed"), None)
        because = f": {progress.reason}" if progress.reason else ""
        if progress.status == "failed" and not because and last is not None:
            because = f": {last.text}"
        return f"it is {progress.status}{because}"
    if asked:
        return "people were asked and have not answered"
    last = notes[-1] if notes else None
    if last is not None and last.type in ("step.rejected", "step.failed") and last.seq:
        return f"its newest trouble is {last.type} of {last.step}: {last.text}"
    return f"it is at work on {progress.current_step}" if progress.current_step else "it is active, and no step is under way"


def _note(event: Event) -> Note:
    return Note(
        seq=event.seq, ts_us=event.ts, type=event.type, step=_step(event), text="erased" if event.erased else _text(event)
    )


def _step(event: Event) -> str | None:
    return None if event.key in (None, records.STATUS_KEY) else event.key


_WORDS = ("name", "reason", "error", "message", "fork", "fields", "human_input", "by", "attempt", "holder", "before")


def _text(event: Event) -> str:
    """The payload's telling fields in one line."""
    payload = event.payload
    told = [f"{name}={payload[name]}" for name in _WORDS if payload.get(name) not in (None, "", [], ())]
    if (due := payload.get("next_at_us")) is not None:
        told.append(f"next attempt at {iso(due)}")
    if cost := payload.get("cost"):
        told.append(f"${cost / 1_000_000:.6g}")
    text = " ".join(" ".join(told).split())
    return text if len(text) <= 300 else f"{text[:299]}…"
