"""A kernel's run around a framework's agent runs: which run it is, and how the steps of each agent run are named."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING

from harness.errors import UsageError
from harness.kernel import Scope, TenantContext, ToolExecutionContext, current_scope

if TYPE_CHECKING:
    from harness.kernel import Kernel, ReplayPolicy

_current: ContextVar[DurableRun | None] = ContextVar("harness_pydantic_ai_run", default=None)
_call: ContextVar[ToolExecutionContext | None] = ContextVar("harness_pydantic_ai_call", default=None)


class DurableRun:
    """One pass over a kernel's run. `run_id` changes when the run goes on in a fork."""

    def __init__(
        self, kernel: Kernel, *, run_id: str, tenant: TenantContext, replay_policy: ReplayPolicy, retry_failed: bool
    ) -> None:
        self.kernel = kernel
        self.run_id = run_id
        self.tenant = tenant
        self.replay_policy: ReplayPolicy = replay_policy
        self.retry_failed = retry_failed
        self._root = run_id
        self._scopes: dict[str, Scope] = {}  # of agent runs, by the framework's id
        self._counts: dict[tuple[str, ...], int] = {}

    def begin(self, agent: str) -> str:
        """An id for an agent run that begins now: the same on every pass over the same program."""
        count = self._count((*current_scope(), agent))
        scope = (*current_scope(), agent if count == 1 else f"{agent}-{count}")
        id_ = ":".join((self._root, *scope))
        self._scopes[id_] = scope
        return id_

    def scope_of(self, agent: str, agent_run: str | None) -> Scope:
        """The scope of the steps of an agent run."""
        id_ = agent_run or ""
        if id_ not in self._scopes:  # its id was given by the caller
            self._scopes[id_] = (*current_scope(), agent, id_)
        return self._scopes[id_]

    def call_key(self, scope: Scope, turn: int, call_id: str) -> str:
        """The key of a tool call: the model's own id for it, which is recorded; some servers give the same one twice."""
        key = f"call-{turn}-{call_id}"
        count = self._count((*scope, key))
        return key if count == 1 else f"{key}-{count}"

    def _count(self, name: tuple[str, ...]) -> int:
        self._counts[name] = self._counts.get(name, 0) + 1
        return self._counts[name]


def current_run() -> DurableRun | None:
    """The run that the calling task works in."""
    return _current.get()


def tool_calls() -> ContextVar[ToolExecutionContext | None]:
    """Where the call of the tool that is running is found."""
    return _call


def current() -> ContextVar[DurableRun | None]:
    """Where the run that a task works in is found."""
    return _current


def tool_context() -> ToolExecutionContext:
    """For a tool: its call, with the idempotency key that is the same for every attempt. Raises `UsageError` elsewhere."""
    call = _call.get()
    if call is None:
        raise UsageError("there is no recorded tool call here; tool_context() is for tools that run within durability.run(…)")
    return call
