"""What workflows take and give: retry policies, serializers, results. Values only."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, Protocol

import msgspec

from harness.errors import UsageError
from harness.kernel.bounds import check_count, check_number

WorkflowStatus = Literal["completed", "failed", "paused", "blocked", "cancelled", "sleeping"]
TimerKind = Literal["timer", "retry"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often an action is tried, and how long it waits in between. Each attempt is on the ledger.

    The wait doubles (or grows by `factor`) from `base_seconds` up to `max_seconds`. What is raised of `non_retryable`
    is final at once. With `retry_failed` a failure that is recorded already is tried again; else it is raised again.
    """

    max_attempts: int = 3
    base_seconds: float = 1.0
    factor: float = 2.0
    max_seconds: float = 60.0
    non_retryable: tuple[type[Exception], ...] = ()
    retry_failed: bool = False

    def __post_init__(self) -> None:
        check_count("max_attempts", self.max_attempts)
        for name, least in (("base_seconds", 0), ("factor", 1), ("max_seconds", 0)):
            check_number(name, getattr(self, name), least)
        kinds: tuple[object, ...] = self.non_retryable
        if not isinstance(kinds, tuple) or not all(isinstance(kind, type) and issubclass(kind, Exception) for kind in kinds):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise UsageError(f"non_retryable is a tuple of exception classes, not {kinds!r}")

    def wait_seconds(self, attempt: int) -> float:
        """How long to wait after this attempt failed."""
        try:
            return min(self.max_seconds, self.base_seconds * self.factor ** (attempt - 1))
        except OverflowError:
            return self.max_seconds

    def is_final(self, error: Exception) -> bool:
        """Whether another attempt is no use."""
        return isinstance(error, self.non_retryable)


ONCE = RetryPolicy(max_attempts=1)


class Serializer(Protocol):
    """Writes an action's result as text and reads it back."""

    def dumps(self, value: Any, /) -> str | bytes: ...

    def loads(self, text: str, /) -> Any: ...


class WorkflowPause(msgspec.Struct, frozen=True, kw_only=True):
    """Why a workflow waits for a person, and since when."""

    run_id: str  # the one to resume: the workflow's own, or that of a child
    reason: str = ""
    context: Any = None
    since_us: int = 0


class WorkflowResult(msgspec.Struct, frozen=True, kw_only=True):
    """How a call of `run_workflow` ended. `output` is what the workflow returned, if it did.

    "paused", "blocked" and "sleeping" are not the end: call `run_workflow` again after `resume`, after `unblock_run`, or
    when the time `due_us` has come.
    """

    run_id: str
    status: WorkflowStatus
    output: Any = None
    reason: str = ""
    pause: WorkflowPause | None = None
    due_us: int | None = None
    replayed: bool = False  # the workflow was over before this call: nothing was executed

    @property
    def completed(self) -> bool:
        return self.status == "completed"


class Timer(msgspec.Struct, frozen=True, kw_only=True):
    """A time that a run waits for: of a sleep, or of the next attempt at a step."""

    run_id: str
    tenant_id: str
    step: str
    kind: TimerKind
    due_us: int

    @property
    def due(self) -> datetime:
        """The time in UTC."""
        return datetime.fromtimestamp(self.due_us / 1_000_000, UTC)
