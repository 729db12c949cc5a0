"""Replaying decisions: each model step of a run asked again, of another model, in other words or under another policy.

Owns the replay's own run and what is asked in it. No tool runs: what the model asks for is looked up among the recorded
calls, and a call that was not made then is told as such. A program may be run instead of the single decisions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, TypeAlias, cast

import msgspec

from harness.errors import (
    BudgetExceeded,
    LedgerError,
    ModelUnavailable,
    PolicyDenied,
    ReplayConsistencyError,
    RunNotActive,
    UsageError,
)
from harness.kernel.diffing import ReplayDiff, StepDiff, compared, joined, outcome
from harness.kernel.history import tell
from harness.kernel.kernel import Kernel
from harness.kernel.model_call import Ask
from harness.kernel.outputs import output_type
from harness.kernel.policy import KernelPolicy
from harness.kernel.ports import ModelPort, ModelRequest, ModelResult, OutputSchema
from harness.kernel.recorded_calls import RecordedCalls, RecordedResults, shown
from harness.kernel.results import StepRecord
from harness.kernel.rewording import Models, Prompt, check_prompt, messages_for, model_for
from harness.kernel.runs import RunState, stream_of
from harness.kernel.story import Story
from harness.kernel.tenant import TenantContext
from harness.kernel.tool_call import ToolAsk
from harness.kernel.tool_step import ToolSteps
from harness.kernel.tools import ToolRegistry
from harness.kernel.toolsets import Toolset
from harness.ledger import Store

Policies: TypeAlias = KernelPolicy | Any
"""A `KernelPolicy`, or middleware (one or several) in place of the kernel's of the same classes."""
Program: TypeAlias = Callable[[Kernel, str], Awaitable[Any]]
"""Runs in the replay's run, whose id it is given, on a kernel whose tools give recorded results."""

_ENDED = frozenset({"completed", "failed"})
_STOPS = (BudgetExceeded, RunNotActive, ReplayConsistencyError, UsageError, LedgerError)


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked otherwise than it was."""

    model: Models | None = None
    prompt: Prompt | None = None
    output_schema: OutputSchema | None = None  # for steps whose own is not recorded


class Borrowed:
    """A model port that another kernel closes."""

    def __init__(self, port: ModelPort) -> None:
        self._port = port

    async def complete(self, request: ModelRequest) -> ModelResult:
        return await self._port.complete(request)


def policies(policy: Policies | None, own: KernelPolicy, middleware: Sequence[Any]) -> tuple[KernelPolicy, list[Any]]:
    """What holds in a replay: the kernel's own, but for what is given."""
    if policy is None:
        return own, list(middleware)
    if isinstance(policy, KernelPolicy):
        return policy, list(middleware)
    given = list(cast("Iterable[Any]", policy)) if isinstance(policy, Iterable) else [policy]
    classes: set[type] = {type(each) for each in given}
    return own, [*(each for each in middleware if type(each) not in classes), *given]


class ReplayKernel(Kernel):
    """A kernel that answers tool calls from a story, for one replay of it."""

    def __init__(
        self, story: Story, *, store: Store, model_port: ModelPort | None, tools: ToolRegistry, policy: KernelPolicy,
        middleware: Sequence[Any], checks_tools: bool,
    ) -> None:  # fmt: skip
        port = None if model_port is None else Borrowed(model_port)
        super().__init__(store=store, model_port=port, tool_port=tools, middleware=middleware, policy=policy)
        self._story = story
        self._checks_tools = checks_tools
        self._results = RecordedResults(story.steps.values())
        calls = RecordedCalls(self._steps, self._toolsets, self._stack)
        calls.results = self._results
        self._tool_steps = ToolSteps(calls, self._unknowns)

    async def begin(self, tenant: TenantContext | None, new_run_id: str | None) -> tuple[RunState, TenantContext]:
        """The replay's run, and for whom it is. One that was begun before is gone on with."""
        first, started = self._story.first, self._story.started
        if tenant is None:
            tenant = TenantContext(
                tenant_id=first.tenant, capabilities=frozenset(started.capabilities if started else ()),
                budget_usd_limit=started.budget_usd_limit if started else None,
            )  # fmt: skip
        elif tenant.tenant_id != first.tenant:
            raise PolicyDenied(f"run {self._story.run_id!r} belongs to tenant {first.tenant!r}, not to {tenant.tenant_id!r}")
        return await self._forks.begin_replay(self._story.run_id, self._story.head, tenant, new_run_id), tenant

    # Decision by decision

    def check(self, changes: Changes) -> None:
        """Refuse what cannot be asked, before anything is begun. Raises `UsageError`."""
        check_prompt(changes.prompt, [step.step for step in self._story.steps.values() if is_decision(step)])

    async def decide(self, run: RunState, tenant: TenantContext, changes: Changes) -> None:
        """Ask every model step again, with what it was asked but for the changes."""
        for record in list(self._story.steps.values()):
            if is_decision(record):
                ask = self._asked(record, tenant, changes)
                self._caller.expect(ask.model, round(record.cost_usd * 1_000_000))
                await self._ask(run, ask)
            elif self._checks_tools and record.kind == "tool" and record.arguments is not None:
                await self._check(run, record, tenant)

    def _asked(self, record: StepRecord, tenant: TenantContext, changes: Changes) -> Ask:
        shapes = self._story.shapes
        wanted: OutputSchema | None = None
        if record.output_schema:
            wanted = shapes.schemas.get(record.output_schema, changes.output_schema)
            if wanted is None:
                raise UsageError(f"the output schema of step {record.step!r} is not recorded; give it as output_schema=")
        definitions = shapes.toolsets.get(record.tools)
        if definitions:
            toolset = Toolset([shown(definition) for definition in definitions])
        else:
            toolset = self._toolsets.of(tenant, record.visible_tool_names if record.tools else ())
        owner = record.inherited_from or self._story.run_id
        return Ask(
            tenant=tenant, step=record.step, model=model_for(changes.model, record.name),
            messages=messages_for(changes.prompt, record), schema=wanted, expected=output_type(wanted), options=record.options,
            toolset=toolset, visible=record.visible_tool_names, policy="strict", retry_failed=False,
            parent=f"{stream_of(owner)}#{record.seq}",
        )  # fmt: skip

    async def _ask(self, run: RunState, ask: Ask) -> None:
        again = dataclasses.replace(ask, retry_failed=True)
        try:
            await self._model_steps.step(run, ask)
        except ModelUnavailable as error:  # no answer is no decision: a later call asks again
            if not error.replayed:
                raise
            await self._model_steps.step(run, again)
        except _STOPS:
            raise
        except Exception:
            entry = run.steps.get(ask.step)
            if entry is None or not entry.ended:
                raise

    async def _check(self, run: RunState, record: StepRecord, tenant: TenantContext) -> None:
        """Whether the tool call would still be allowed. A refusal is recorded."""
        ask = ToolAsk(tenant=tenant, step=record.step, name=record.name, tool=self._toolsets.get(record.name))
        try:
            await self._tool_steps.check(run, ask, record.arguments)
        except _STOPS:
            raise
        except Exception:
            entry = run.steps.get(ask.step)
            if entry is None or not entry.ended:
                raise

    # The difference

    async def diff(self, run: RunState, *, program: bool) -> ReplayDiff:
        """The recorded run beside the replay."""
        after = {step.step: step for step in tell(await self._store.read(run.stream))}
        before = {
            name: msgspec.structs.replace(step, inherited_from=None)
            for name, step in self._story.steps.items()
            if program or step.kind != "model" or is_decision(step) or step.state in _ENDED
        }
        if not program:  # a tool call that was not refused stands as it was recorded
            after = {**{name: step for name, step in before.items() if step.kind != "model" and step.name}, **after}
        steps = joined(before, after, self._compared)
        return ReplayDiff(before_run=self._story.run_id, after_run=run.run_id, steps=steps)

    def _compared(self, before: StepRecord, after: StepRecord) -> StepDiff:
        unrecorded = self._results.unknown(after.tool_calls)
        return compared(before, after, outcome(before, after), unrecorded)


def is_decision(step: StepRecord) -> bool:
    """Whether a step is a model's decision that can be made again: it ended, and its input is not erased."""
    return step.kind == "model" and step.state in _ENDED and bool(step.messages)
