"""The tasks of a run: what they are, how a definition and what is recorded become one list, and their states. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, cast

from harness.errors import UsageError

TaskState = Literal["pending", "in_progress", "done"]
_STATES: tuple[TaskState, ...] = ("pending", "in_progress", "done")

Tasks = tuple["TaskUnit", ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TaskUnit:
    """One thing to do. `in_progress` is a task that a session is at, or was at when it was cut short."""

    id: str
    description: str
    state: TaskState = "pending"

    def __post_init__(self) -> None:
        for name in ("id", "description"):
            value: object = getattr(self, name)
            if not isinstance(value, str) or not value.strip():
                raise UsageError(f"a task's {name} is a text that is not empty, not {value!r}")
        if self.state not in _STATES:
            raise UsageError(f"task {self.id!r} is {', '.join(_STATES[:-1])} or {_STATES[-1]}, not {self.state!r}")


def defined(given: object, source: str) -> Tasks:
    """The tasks that a definition gives, each still to be done. Raises `UsageError` that names what is wrong."""
    if not isinstance(given, Iterable) or isinstance(given, (str, bytes, Mapping)):  # pyright: ignore[reportUnknownArgumentType]
        raise UsageError(f"{source} gives a sequence of TaskUnit, not {given!r}"[:300])
    units = [_unit(each, source) for each in cast("Iterable[object]", given)]
    seen: set[str] = set()
    for unit in units:
        if unit.id in seen:
            raise UsageError(f"{source} gives two tasks with the id {unit.id!r}; a task's id is its own")
        seen.add(unit.id)
    return tuple(with_state(unit, "pending") for unit in units)


def _unit(each: object, source: str) -> TaskUnit:
    if isinstance(each, TaskUnit):
        return each
    raise UsageError(f"{source} gives {each!r}, which is no TaskUnit"[:300])


def merged(recorded: Tasks, definition: Tasks) -> Tasks:
    """All tasks that were ever defined, in the order they came up. What is not done takes its newest description."""
    newest = {unit.id: unit for unit in definition}
    kept = [
        unit if unit.state == "done" or unit.id not in newest else with_state(newest[unit.id], unit.state) for unit in recorded
    ]
    known = {unit.id for unit in recorded}
    return (*kept, *(unit for unit in definition if unit.id not in known))


def next_of(units: Tasks) -> TaskUnit | None:
    """What to do now: the task that was interrupted, else the first that is pending."""
    for state in ("in_progress", "pending"):
        for unit in units:
            if unit.state == state:
                return unit
    return None


def marked(units: Tasks, task_id: str, state: TaskState) -> Tasks:
    """The same tasks with one of them in another state."""
    return tuple(with_state(unit, state) if unit.id == task_id else unit for unit in units)


def with_state(unit: TaskUnit, state: TaskState) -> TaskUnit:
    """The task in this state."""
    return unit if unit.state == state else dataclasses.replace(unit, state=state)


def to_summary(units: Tasks) -> dict[str, Any]:
    """How tasks are recorded."""
    return {"units": [dataclasses.asdict(unit) for unit in units]}


def from_summary(summary: Any, run_id: str) -> Tasks:
    """The recorded tasks; none if there is no record. Raises `UsageError` for a summary that says something else."""
    if summary is None:
        return ()
    listed: object = cast("dict[str, object]", summary).get("units") if isinstance(summary, dict) else summary
    try:
        return tuple(TaskUnit(**unit) for unit in cast("Sequence[dict[str, Any]]", listed))
    except (TypeError, UsageError) as error:
        raise UsageError(
            f"the summary task_progress of run {run_id!r} lists no tasks ({error}); something else was recorded under this name"
        ) from error
