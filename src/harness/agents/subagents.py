"""Agents that an agent calls like tools: each call is a run of its own in the same tree, under the same budget.

The child's run has an id that its parent's step determines. So a parent that was killed while a child was at work comes back
to the same child, which goes on where it was. What the child arrives at, also that it failed, is the result of the
parent's step; what only keeps it waiting is not (see `suspension`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from harness.agents.suspension import suspending
from harness.errors import (
    ApprovalRequired,
    BudgetExceeded,
    ModelError,
    ModelUnavailable,
    RunNotActive,
    StepFailed,
    StepRejected,
    ToolRejected,
    UsageError,
)
from harness.kernel import ModelCallOptions, OutputSchema, Tool, ToolExecutionContext, Usage

if TYPE_CHECKING:
    from harness.agents.agent import AgentResult, AutonomousAgent, ToolBundle
    from harness.agents.compaction import CompactionStrategy
    from harness.agents.context import ContextBuilder
    from harness.agents.memory import MemoryScope
    from harness.agents.skills import Skill
    from harness.kernel import Kernel

MAX_DEPTH = 3
_MAX_PARENT_BYTES = 200  # of a run's id, in the id of its child
PRESENT_MODEL: ContextVar[str] = ContextVar("harness_agent_model", default="default")


@dataclass(frozen=True, slots=True, kw_only=True)
class SubAgent:
    """An agent that another one may give a task to, by calling the tool `name` with it.

    `model` is the caller's unless another is named. It sees nothing of the caller's conversation and has no tools but its own
    and the kernel's. Calls of several sub-agents in one answer are worked on one after another, or with `at_once` together.
    """

    name: str
    description: str
    system_prompt: str = ""
    model: str | None = None
    output_schema: OutputSchema | None = None
    max_iterations: int = 15
    at_once: bool = False
    tools: ToolBundle | None = None
    visible_tool_names: Collection[str] | None = None
    model_options: ModelCallOptions | None = None
    skills: str | Path | Sequence[Skill | str | Path] | None = None
    memory: MemoryScope | None = "run"
    context_builder: ContextBuilder | None = None
    compaction: CompactionStrategy | None = None
    subagents: Sequence[SubAgent] = ()

    def __post_init__(self) -> None:
        if not self.description.strip():
            raise UsageError(f"sub-agent {self.name!r} needs a description: its caller knows nothing else of it")
        if self.max_iterations < 1:
            raise UsageError(f"sub-agent {self.name!r} needs at least one iteration, not {self.max_iterations}")


class Delegated(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is recorded of a sub-agent's work."""

    run_id: str
    outcome: str
    answer: Any = None
    error: str = ""
    usage: Usage = Usage()  # its own sub-agents' included

    def told(self) -> str:
        """What the caller reads."""
        if self.error:
            return f"error: {self.error}"
        return self.answer if isinstance(self.answer, str) else msgspec.json.encode(self.answer).decode()


def child_run(parent: str, name: str, step: str) -> str:
    """The id of the run that a step of the parent gives its task to."""
    digest = sha256(msgspec.json.encode((parent, step))).hexdigest()[:12]
    if len(parent.encode()) > _MAX_PARENT_BYTES:
        parent = sha256(parent.encode()).hexdigest()[:32]
    return f"{parent}::{name}::{digest}"


def subagent_tool(kernel: Kernel, spec: SubAgent, depth: int) -> Tool:
    """The tool by which an agent, itself `depth` levels below the first, gives a task to this one."""

    async def delegate(task: str, context: ToolExecutionContext) -> dict[str, Any]:
        if depth >= MAX_DEPTH:
            raise ToolRejected(f"sub-agents may be {MAX_DEPTH} levels deep, and this is the last; do it yourself")
        with suspending():
            delegated = await _delegated(kernel, spec, depth + 1, task, context)
        return msgspec.to_builtins(delegated)

    description = f"{spec.description}\nGive it the whole task in words: it knows nothing of this conversation."
    return Tool(delegate, name=spec.name, description=description)


async def _delegated(kernel: Kernel, spec: SubAgent, depth: int, task: str, context: ToolExecutionContext) -> Delegated:
    run_id = child_run(context.run_id, spec.name, context.step)
    await kernel.open_run(tenant=context.tenant, run_id=run_id, parent_run=context.run_id)
    await kernel.link_child(run_id=context.run_id, child_run=run_id)
    agent = _agent(kernel, spec, depth)
    try:
        with kernel.own_scope(""):
            result = await agent.run(
                run_id=run_id, tenant=context.tenant, model=spec.model or PRESENT_MODEL.get(), system_prompt=spec.system_prompt,
                prompt=task, output_schema=spec.output_schema, max_iterations=spec.max_iterations,
            )  # fmt: skip
    except (ApprovalRequired, BudgetExceeded, ModelUnavailable):
        raise
    except (ModelError, StepFailed, StepRejected, UsageError) as error:
        await _failed(kernel, run_id, str(error))
        return Delegated(run_id=run_id, outcome="failed", error=f"{spec.name} failed: {error}")
    except RunNotActive as error:
        if (await kernel.get_run_status(run_id=run_id)).status not in ("cancelled", "failed"):
            raise  # somebody paused it
        return Delegated(run_id=run_id, outcome="failed", error=f"{spec.name} was ended: {error}")
    return _arrived(spec, result)


def _agent(kernel: Kernel, spec: SubAgent, depth: int) -> AutonomousAgent:
    from harness.agents.agent import AutonomousAgent
    from harness.agents.compaction import CompactionStrategy

    return AutonomousAgent(
        kernel, name=spec.name, tools=spec.tools, visible_tool_names=spec.visible_tool_names, model_options=spec.model_options,
        skills=spec.skills, memory=spec.memory, context_builder=spec.context_builder,
        compaction=spec.compaction or CompactionStrategy(), subagents=spec.subagents, depth=depth,
    )  # fmt: skip


async def _failed(kernel: Kernel, run_id: str, reason: str) -> None:
    """Say that the child's run is over, unless it is."""
    if (await kernel.get_run_status(run_id=run_id)).active:
        with contextlib.suppress(RunNotActive):
            await kernel.finish_run(run_id=run_id, failed=True, reason=reason)


def _arrived(spec: SubAgent, result: AgentResult) -> Delegated:
    usage = result.total_usage
    if result.completed:
        answer = msgspec.to_builtins(result.output, enc_hook=_plain)
        return Delegated(run_id=result.run_id, outcome=result.outcome, answer=answer, usage=usage)
    last = f"; it wrote last: {result.text}" if result.text else ""
    error = f"{spec.name} ended without an answer ({result.outcome}){last}"
    return Delegated(run_id=result.run_id, outcome=result.outcome, error=error, usage=usage)


def _plain(value: object) -> object:
    dump = getattr(value, "model_dump", None)
    if callable(dump):
        return dump(mode="json")
    raise TypeError(f"{type(value).__name__} is no JSON value")
