"""How far a run is, and why it is where it is: the values that `get_run_progress` and `explain_run` give."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

import msgspec

from harness.clock import iso
from harness.kernel.results import Status

WaitingFor = Literal["human", "unblocking", "timer", "retry", "reconciliation"]


class RunProgress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a run is. Times are UTC microseconds since 1970.

    `percent` is known only where the run has said what there is to do: in its summary (or artifact) `task_progress`, or
    as the steps that its workflow declared. It is 100 only if all of that is done, whatever the run's status.
    """

    run_id: str
    tenant_id: str
    status: Status
    reason: str = ""
    percent: float | None = None
    tasks_total: int | None = None
    tasks_done: int | None = None
    pending_tasks: tuple[str, ...] = ()  # of those that have names
    steps: dict[str, int] = {}  # how many by state: completed, failed, started, retried, …
    current_step: str | None = None  # the newest that has begun and not ended
    waiting_for: WaitingFor | None = None
    waiting_step: str | None = None
    due_us: int | None = None  # what is waited for, if it is a time
    started_us: int = 0
    updated_us: int = 0  # when anything was recorded

    @property
    def over(self) -> bool:
        """Whether nothing more will be executed."""
        return self.status in ("completed", "failed", "cancelled")

    @property
    def started_at(self) -> datetime:
        return datetime.fromtimestamp(self.started_us / 1_000_000, UTC)

    @property
    def updated_at(self) -> datetime:
        return datetime.fromtimestamp(self.updated_us / 1_000_000, UTC)

    def __str__(self) -> str:
        told = [f"run {self.run_id} is {self.status}{f' ({self.reason})' if self.reason else ''}"]
        if self.percent is not None:
            told.append(f"{self.tasks_done} of {self.tasks_total} tasks done ({self.percent:.0f} %)")
        if self.steps:
            told.append("steps: " + ", ".join(f"{count} {state}" for state, count in sorted(self.steps.items())))
        if self.waiting_for is not None:
            at = f" until {iso(self.due_us)}" if self.due_us is not None else ""
            told.append(f"waits for {self.waiting_for}{at}")
        elif self.current_step is not None and not self.over:
            told.append(f"at {self.current_step}")
        return "; ".join(told)


class CostLine(msgspec.Struct, frozen=True, kw_only=True):
    """What the steps of one name came to. An interrupted attempt counts at what was reserved for it."""

    kind: str  # model | tool | action | timer | pause
    name: str  # of the model, tool or action
    completed: int = 0
    failed: int = 0
    retried: int = 0  # attempts that were followed by another one
    cost_usd: float = 0.0
    input_tokens: int = 0  # cached ones included
    output_tokens: int = 0


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """One event worth telling."""

    seq: int
    ts_us: int
    type: str
    step: str | None = None
    text: str = ""


class ChildRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run that this one, or one of its children, caused."""

    run_id: str
    status: Status
    depth: int  # 1: caused by this run
    fork: bool = False
    cost_usd: float = 0.0


class RunExplanation(msgspec.Struct, frozen=True, kw_only=True):
    """Why a run is where it is. `str()` of it is for people."""

    progress: RunProgress
    why: str
    cost_usd: float  # of this run
    tree_cost_usd: float  # of this run and all below it
    costs: tuple[CostLine, ...]  # the dearest first
    notes: tuple[Note, ...]  # the oldest first, at most `limit` newest
    notes_left_out: int
    open_questions: tuple[str, ...]  # what people are asked about it
    children: tuple[ChildRun, ...]
    forked_from: str | None = None

    def of_type(self, *types: str) -> tuple[Note, ...]:
        """The notes of these event types, such as `step.drifted`."""
        return tuple(note for note in self.notes if note.type in types)

    @property
    def drifts(self) -> tuple[Note, ...]:
        return self.of_type("step.drifted")

    @property
    def forks(self) -> tuple[Note, ...]:
        return self.of_type("run.forked")

    @property
    def unknown_outcomes(self) -> tuple[Note, ...]:
        return self.of_type("step.unknown")

    def __str__(self) -> str:
        lines = [str(self.progress), f"why: {self.why}"]
        if self.forked_from is not None:
            lines.append(f"forked from {self.forked_from}")
        below = f", ${self.tree_cost_usd:.6g} with all below it" if self.children else ""
        lines.append(f"cost: ${self.cost_usd:.6g}{below}")
        lines += [f"  {_cost(line)}" for line in self.costs]
        lines += [f"asks people: {question}" for question in self.open_questions]
        lines += [
            f"{'  ' * child.depth}{'fork' if child.fork else 'child'} {child.run_id}: {child.status}, ${child.cost_usd:.6g}"
            for child in self.children
        ]
        if self.notes_left_out:
            lines.append(f"({self.notes_left_out} earlier events are not shown)")
        lines += [f"#{note.seq} {iso(note.ts_us)} {note.type}{f' {note.step}' if note.step else ''}: {note.text}".rstrip(": ")
                  for note in self.notes]  # fmt: skip
        return "\n".join(lines)


def _cost(line: CostLine) -> str:
    more = [f"{count} {word}" for word, count in (("failed", line.failed), ("tried again", line.retried)) if count]
    tokens = f", {line.input_tokens} tokens in, {line.output_tokens} out" if line.input_tokens or line.output_tokens else ""
    money = f", ${line.cost_usd:.6g}" if line.cost_usd or line.kind == "model" else ""
    return f"{line.kind} {line.name}: {', '.join([f'{line.completed} completed', *more])}{money}{tokens}"
