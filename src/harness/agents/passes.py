"""Who is at work on what in this task: the passes of harnesses over their runs, one inside the other."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.kernel import Session, TenantContext


@dataclass(frozen=True, slots=True)
class HarnessContext:
    """What a session is about."""

    run_id: str
    tenant: TenantContext
    model: str
    run_created: bool = False  # by this very call
    session: int = 0  # which one of the run, from 1; 0 while tasks are being defined
    resumed: bool = False  # whether it goes on with a session that was cut short
    input: Mapping[str, Any] = field(default_factory=dict[str, Any])  # what a supervisor gave


@dataclass(frozen=True, slots=True)
class Link:
    """What asked for a session: the run of a supervisor, and which of its calls."""

    parent_run: str
    cause: str


class Pass:
    """A harness at work on a run."""

    def __init__(
        self, harness: object, context: HarnessContext, session: Session | None = None, prepared: object = None
    ) -> None:
        self.harness = harness
        self.context = context
        self.session = session
        self.prepared = prepared  # what the harness found out before there was a session
        self.verdicts: dict[str, bool] = {}  # whether the tests of a task have passed
        self._counts: dict[str, int] = {}

    def number(self, what: str) -> int:
        """Which one of its kind this is, from 1. A pass that goes on with a session counts the same."""
        self._counts[what] = self._counts.get(what, 0) + 1
        return self._counts[what]

    def once(self, what: str) -> str:
        """A name for what its session records once, however many passes that takes. Empty without a session."""
        return "" if self.session is None else f"session-{self.session.number}/{what}#{self.number(what)}"


_passes: ContextVar[tuple[Pass, ...]] = ContextVar("harness_passes", default=())
_link: ContextVar[Link | None] = ContextVar("harness_link", default=None)


def pass_of(harness: object) -> Pass | None:
    """The pass that this very harness is in, in this task."""
    return next((each for each in reversed(_passes.get()) if each.harness is harness), None)


@contextlib.contextmanager
def at_work(one: Pass) -> Generator[Pass]:
    """What is called inside belongs to this pass."""
    outside = _passes.set((*_passes.get(), one))
    try:
        yield one
    finally:
        _passes.reset(outside)


def link() -> Link | None:
    """What asked for the session that is about to begin."""
    return _link.get()


@contextlib.contextmanager
def linked(link: Link | None) -> Generator[None]:
    """A harness that is run inside is asked for by this."""
    outside = _link.set(link)
    try:
        yield
    finally:
        _link.reset(outside)
