"""What ends an agent's pass over its run, but not the step that it happened in.

A tool of the agent's own may itself take steps: a sub-agent, a summary. When those cannot go on now (the model is away, a
person must answer, the budget is used up, the run is paused), the tool has not failed: it has not ended. Recorded as
a failure it would never be tried again. So it is left the way a cancellation leaves it, and a later pass goes on in it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator

from harness.errors import (
    ApprovalRequired,
    BudgetExceeded,
    HarnessError,
    LedgerError,
    ModelUnavailable,
    OutcomeUnknown,
    ReplayConsistencyError,
    RunNotActive,
)

WAITING = (
    ApprovalRequired, BudgetExceeded, LedgerError, ModelUnavailable, OutcomeUnknown, ReplayConsistencyError, RunNotActive,
)  # fmt: skip


class Suspended(BaseException):
    """Passes through a tool's step like a cancellation. Never leaves the agent, which raises `error` instead."""

    def __init__(self, error: HarnessError) -> None:
        super().__init__(str(error))
        self.error = error


@contextlib.contextmanager
def suspending() -> Generator[None]:
    """Inside a tool: what is no end of its step suspends it."""
    try:
        yield
    except WAITING as error:
        raise Suspended(error) from error
