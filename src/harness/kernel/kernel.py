"""The kernel's face: start and load runs, take steps, settle unknown outcomes, ask where a run stands."""

from __future__ import annotations

import contextlib
import copy
import sys
from collections.abc import Callable, Collection, Coroutine, Iterable
from typing import TYPE_CHECKING, Any, Self, TypeVar, get_args, overload

from harness.errors import NotFound, UsageError
from harness.kernel.artifacts import Artifacts
from harness.kernel.awaited_answers import Waiting
from harness.kernel.checking import check_choice, check_model_step, check_parts, check_tool_step, check_visible
from harness.kernel.foreign_methods import ForeignMethods
from harness.kernel.fork_methods import ForkMethods
from harness.kernel.forks import Forks
from harness.kernel.identity import current_scope, step_id, step_scope
from harness.kernel.insight_methods import InsightMethods
from harness.kernel.lifecycle import Lifecycle
from harness.kernel.matching import POLICIES, ReplayPolicy, core_hash
from harness.kernel.middleware import Stack
from harness.kernel.model_call import Ask, Caller
from harness.kernel.model_step import Drifted, ModelSteps
from harness.kernel.outputs import output_type
from harness.kernel.policy import KernelPolicy
from harness.kernel.policy_methods import PolicyMethods
from harness.kernel.ports import ModelCallOptions, ModelPort, OutputSchema, RiskLevel, ToolDefinition
from harness.kernel.quotas import Quotas
from harness.kernel.record_methods import RecordMethods
from harness.kernel.results import ModelInput, StepModelResult, StepToolResult
from harness.kernel.run_methods import RunMethods
from harness.kernel.runs import Entry, RunState
from harness.kernel.session_methods import SessionMethods
from harness.kernel.steps import Steps
from harness.kernel.stream_methods import StreamMethods
from harness.kernel.tenant import TenantContext
from harness.kernel.tool_call import ToolAsk, ToolCalls
from harness.kernel.tool_step import ToolSteps
from harness.kernel.tools import OnUnknown, Tool, ToolRegistry, canonical_arguments
from harness.kernel.toolsets import Toolsets
from harness.kernel.unknown import Outcome, Unknowns
from harness.kernel.workflow_methods import WorkflowMethods
from harness.ledger import Store

if TYPE_CHECKING:
    from harness.kernel.streaming import Sink
    from harness.kernel.tracing import Tracing
    from harness.people import Questions

F = TypeVar("F", bound=Callable[..., Any])

_DEFAULT_OPTIONS = ModelCallOptions()


class Kernel(
    RunMethods, SessionMethods, RecordMethods, ForkMethods, WorkflowMethods, InsightMethods, ForeignMethods, StreamMethods,
    PolicyMethods,
):  # fmt: skip
    """Executes steps of runs, records them, and gives recorded ones back without executing them again.

    `middleware` runs in a fixed order whatever order is given; `tool_port` is a `ToolRegistry` or has a method
    `registry()` that gives one. Use it as an async context manager or `close()` it: that gives unspent money and leases
    back. Forgetting to is harmless; the next kernel takes over as soon as this process is gone. The store stays open.
    Every method may be called from several tasks of one event loop.
    """

    def __init__(
        self,
        *,
        store: Store,
        model_port: ModelPort | None = None,
        tool_port: Any = None,
        middleware: Iterable[Any] | None = None,
        policy: KernelPolicy | None = None,
        tracing: Tracing | bool | None = None,
    ) -> None:
        check_parts(store, model_port, tool_port, policy, KernelPolicy)
        self._store = store
        self._port = model_port
        self.policy = policy or KernelPolicy()
        self.tools = ToolRegistry(tool_port.registry() if tool_port is not None else ())
        self._toolsets = Toolsets(self.tools)
        self._steps = Steps(store, self.policy)
        stack = Stack(() if middleware is None else middleware, store)
        self._stack = stack
        self._toolsets.requires = stack.requires
        self._steps.scrubbing = stack.scrubbing
        self._steps.quotas = Quotas(self._steps, stack.quotas)
        self._caller = Caller(self._steps, model_port, stack)
        self._model_steps = ModelSteps(self._caller)
        calls = ToolCalls(self._steps, self._toolsets, stack)
        self._unknowns = Unknowns(calls, self._questions)
        self._tool_steps = ToolSteps(calls, self._unknowns)
        self._lifecycle = Lifecycle(store, self._steps)
        self._artifacts = Artifacts(store, stack.scrubbing)
        self._forks = Forks(store, self._steps)
        self._people: Questions | None = None
        self._guard(calls, stack)
        self._tracing = self._traced(tracing, calls)
        self._closed = False

    def _guard(self, calls: ToolCalls, stack: Stack) -> None:
        """Let people be waited for, and policies decide."""
        self._steps.waiting = Waiting(self._steps, self._lifecycle, self._questions)
        if stack.policy:
            from harness.kernel.admission import Safety
            from harness.kernel.critics import Critics

            critics = Critics(self._model_steps, self._tool_steps)
            calls.safety = Safety(stack.policy, self._steps, self._lifecycle, self._questions, critics)

    def _traced(self, tracing: Tracing | bool | None, calls: ToolCalls) -> Tracing | None:
        """Have real calls traced, if that is wanted; otherwise nothing of it is even loaded."""
        if tracing is False or (tracing is None and "opentelemetry.trace" not in sys.modules):
            return None
        from harness.kernel.tracing import tracing_of

        found = tracing_of(tracing)
        if found is not None:
            found.watch(self._caller, calls)
        return found

    def _questions(self) -> Questions:
        if self._people is None:
            from harness.people import Questions

            self._people = Questions(self._store)
        return self._people

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Give back leases and unspent money, close the model port. Idempotent; leaves the store open."""
        if self._closed:
            return
        self._closed = True
        self._steps.leases.rest()
        for run in list(self._steps.runs.values()):
            if run.held and run.idle:
                await self._steps.release(run)
        close = getattr(self._port, "close", None)
        if close is not None:
            await close()

    def scope(self, name: str) -> contextlib.AbstractContextManager[tuple[str, ...]]:
        """Steps called inside have their own keys and are counted by themselves. Scopes nest, also over tasks."""
        return step_scope(name)

    def agent_span(self, name: str, run_id: str) -> contextlib.AbstractContextManager[None]:
        """What is called inside is traced as the work of this agent; nothing without tracing."""
        return contextlib.nullcontext() if self._tracing is None else self._tracing.agent(name, run_id)

    # Model steps

    def step_model(
        self,
        *,
        run_id: str,
        tenant: TenantContext,
        model: str,
        input: ModelInput,
        output_schema: OutputSchema | None = None,
        step_key: str | None = None,
        visible_tool_names: Collection[str] | None = None,
        model_options: ModelCallOptions | None = None,
        replay_policy: ReplayPolicy = "strict",
        parent_step_key: str | None = None,
        retry_failed_step: bool = False,
        tools: ToolRegistry | None = None,
        sink: Sink | None = None,
    ) -> Coroutine[Any, Any, StepModelResult]:
        """Ask a model, or give back what it said when this step was executed before.

        * The step's identity is allotted when this is called, so calls may be gathered: its `step_key`, or else its number
          among the model steps of its scope. `parent_step_key` is the step that led to it, and its scope.
        * `model` is a name that the port knows, `input` what is asked, such as `ModelInput.from_prompt(text)`. With
          `output_schema` (a type that pydantic can check, or a JSON schema) the result's `output` is checked.
        * The model is shown the tools that the tenant may call, or those of `visible_tool_names` among them. `tools` are the
          caller's own, before the kernel's.
        * `replay_policy` says what happens if the step was recorded with other inputs. Under "fork_on_drift" the result is
          that of a fork: go on with the result's `run_id`. A recorded failure is raised again unless `retry_failed_step`.
        * `sink` is for `stream_model`.

        Raises `ReplayConsistencyError` (other inputs under a recorded step), `ModelError` and `StepFailed`,
        `BudgetExceeded`, `RunNotActive`, what a middleware raises, and `LeaseHeld` if another kernel keeps the run for too
        long.
        """
        self._open()
        check_model_step(run_id, tenant, model, input, step_key, parent_step_key, model_options, visible_tool_names)
        if replay_policy not in POLICIES:
            raise UsageError(f"replay_policy is one of {', '.join(sorted(POLICIES))}, not {replay_policy!r}")
        scope = _scope(parent_step_key)
        step = self._steps.allot(run_id, scope, "model", step_key)

        async def take() -> StepModelResult:
            run = self._steps.runs.get(run_id) or await self._steps.open(run_id)
            self._steps.check_tenant(run, tenant)
            expected = output_type(output_schema)
            options = model_options or _DEFAULT_OPTIONS
            visible = None if visible_tool_names is None else tuple(sorted(visible_tool_names))
            toolset = self._toolsets.of(tenant, visible_tool_names, tools)
            core = core_hash(model, options, expected.digest, visible)
            if step in run.steps:
                result = self._model_steps.replayed(run, step, core, input.messages, expected, toolset.digest)
                if result is not None:
                    return result
            ask = Ask(
                tenant=tenant, step=step, model=model, messages=input.messages, schema=output_schema, expected=expected,
                options=options, toolset=toolset, visible=visible, policy=replay_policy, retry_failed=retry_failed_step,
                parent=self._steps.parent_of(run, scope, parent_step_key), sink=sink,
            )  # fmt: skip
            if replay_policy != "fork_on_drift":
                return await self._model_steps.step(run, ask)
            try:
                return await self._model_steps.step(run, copy.copy(ask))  # middleware changes what it gets
            except Drifted as drifted:
                return await self._forks.go_on(run, ask, drifted, self._model_steps.step)

        return take()

    # Tool steps

    def step_tool(
        self,
        *,
        run_id: str,
        tenant: TenantContext,
        tool_name: str,
        arguments: object = None,
        step_key: str | None = None,
        parent_step_key: str | None = None,
        timeout: float | None = None,
        tools: ToolRegistry | None = None,
        replay_rejections: bool = False,
        retry_failed_step: bool = False,
    ) -> Coroutine[Any, Any, StepToolResult]:
        """Run a tool, or give back what it gave when this step was executed before.

        `arguments` is a mapping, a pydantic model or JSON text; `timeout` is in seconds. A rejection is decided anew each
        time, unless `replay_rejections`; a recorded failure is raised again, unless `retry_failed_step`: then the tool runs
        again, with the same idempotency key. Raises `StepRejected` (arguments, unknown tool), `CapabilityDenied`, `StepFailed`,
        `OutcomeUnknown` (see `reconcile_tool`), and what `step_model` raises for runs and replay.
        """
        self._open()
        check_tool_step(run_id, tenant, tool_name, step_key, parent_step_key, timeout)
        scope = _scope(parent_step_key)
        step = self._steps.allot(run_id, scope, tool_name, step_key)

        async def take() -> StepToolResult:
            run = await self._run(run_id, tenant)
            ask = ToolAsk(
                tenant=tenant, step=step, name=tool_name, tool=self._toolsets.get(tool_name, tools), timeout=timeout,
                parent=self._steps.parent_of(run, scope, parent_step_key), replay_rejections=replay_rejections,
                retry_failed=retry_failed_step,
            )  # fmt: skip
            return await self._tool_steps.step(run, ask, arguments)

        return take()

    async def _run(self, run_id: str, tenant: TenantContext) -> RunState:
        run = self._steps.runs.get(run_id)
        if run is None:
            run = await self._steps.open(run_id)
        self._steps.check_tenant(run, tenant)
        return run

    async def reconcile_tool(
        self,
        *,
        run_id: str,
        tenant: TenantContext,
        tool_name: str,
        arguments: object = None,
        step_key: str | None = None,
        parent_step_key: str | None = None,
        step: str | None = None,
        outcome: Outcome | None = None,
        result: object = None,
        message: str = "",
        by: str = "",
        tools: ToolRegistry | None = None,
    ) -> StepToolResult | None:
        """Settle a side effect of unknown outcome.

        `outcome` says how: "completed" records that it happened, with `result`; "failed" that it did not, with `message`;
        "probe" asks the tool's probe; "retry" runs it again with the same idempotency key. Without one the tool is probed
        if it has a probe, else run again. The step is that of `step_key`, or of the id `step`, or the only unknown one of
        this tool (with these arguments, if given). Raises `StepRejected` if the outcome is known, `OutcomeUnknown` if it
        stays unknown. Gives the result, None for "failed". Where personal data is kept from the ledger, running the tool or
        its probe again needs the `arguments` themselves.
        """
        self._open()
        check_choice("outcome", outcome, get_args(Outcome))
        run = await self._run(run_id, tenant)
        if not run.held:
            await self._steps.leases.catch_up(run)
        if step is None and step_key is not None:
            step = step_id(_scope(parent_step_key), step_key)
        given = None if arguments is None else canonical_arguments(arguments)
        recorded = given
        if given is not None and self._steps.scrubbing is not None:
            recorded = await self._steps.scrubbing.json(tenant.tenant_id, given)
        if step is None:
            step = self._unknown_step(run, tool_name, recorded)
        ask = ToolAsk(tenant=tenant, step=step, name=tool_name, tool=self._toolsets.get(tool_name, tools))
        if recorded is not None and recorded is not given:
            ask.take(recorded, given)
        return await self._unknowns.reconcile(run, ask, outcome, result=result, message=message, by=by or self._store.actor)

    def _unknown_step(self, run: RunState, tool_name: str, wanted: bytes | None) -> str:
        def is_it(entry: Entry) -> bool:
            intent = None if entry.ended else entry.intent()
            return (
                intent is not None
                and intent.side_effect
                and intent.name == tool_name
                and (wanted is None or bytes(intent.arguments) == wanted)
            )

        found = [step for step, entry in run.steps.items() if is_it(entry)]
        if len(found) != 1:
            told = ", ".join(found) or "none"
            raise NotFound(f"run {run.run_id!r} has not one unknown step of {tool_name!r} but: {told}; say which by `step`")
        return found[0]

    @overload
    def tool(self, function: F, /) -> F: ...

    @overload
    def tool(
        self,
        *,
        name: str | None = None,
        description: str | None = None,
        requires_capability: str | None = None,
        side_effect: bool = False,
        tool_version: str = "1.0.0",
        schema_version: str = "1",
        risk_level: RiskLevel = "medium",
        on_unknown: OnUnknown = "ask",
        probe: Callable[..., Any] | None = None,
        timeout: float | None = None,
    ) -> Callable[[F], F]: ...

    def tool(
        self,
        function: F | None = None,
        *,
        name: str | None = None,
        description: str | None = None,
        requires_capability: str | None = None,
        side_effect: bool = False,
        tool_version: str = "1.0.0",
        schema_version: str = "1",
        risk_level: RiskLevel = "medium",
        on_unknown: OnUnknown = "ask",
        probe: Callable[..., Any] | None = None,
        timeout: float | None = None,
    ) -> F | Callable[[F], F]:
        """Register a function as a tool. Its schema comes from its type hints, its description from its docstring.

        A decorator with options, `@kernel.tool(side_effect=True)`, or without, `@kernel.tool`. A synchronous function runs
        in a thread. With `side_effect` its intent is recorded before it runs, and if its end is not, `on_unknown` says what
        to do. A parameter annotated `ToolExecutionContext` gets the call's idempotency key and is not shown to the model.
        `timeout` is in seconds.
        """

        def register(function: F) -> F:
            registered = Tool(
                function, name=name, description=description, requires_capability=requires_capability,
                side_effect=side_effect, tool_version=tool_version, schema_version=schema_version, risk_level=risk_level,
                on_unknown=on_unknown, probe=probe, timeout=timeout,
            )  # fmt: skip
            self.tools.add(registered)
            return function

        return register if function is None else register(function)

    def list_tools_for_tenant(
        self, *, tenant: TenantContext, visible_tool_names: Collection[str] | None = None
    ) -> tuple[ToolDefinition, ...]:
        """The tools that the tenant may see and call, by name."""
        check_visible(visible_tool_names or ())
        return self._toolsets.of(tenant, visible_tool_names).definitions

    async def describe_capabilities(
        self, *, tenant: TenantContext, visible_tool_names: Collection[str] | None = None
    ) -> dict[str, Any]:
        """What is decided about each tool and why; agrees with `list_tools_for_tenant`."""
        decisions = self._toolsets.decisions(tenant, visible_tool_names)
        return {
            "tenant_id": tenant.tenant_id,
            "capabilities": sorted(tenant.capabilities),
            "final_allowed_tools": [decision.tool_name for decision in decisions if decision.allowed],
            "decisions": [
                {
                    "tool_name": decision.tool_name,
                    "required_capability": decision.required_capability,
                    "decision": decision.decision,
                    "reason": decision.reason,
                }
                for decision in decisions
            ],
        }


def _scope(parent_step_key: str | None) -> tuple[str, ...]:
    scope = current_scope()
    return scope if parent_step_key is None else (*scope, parent_step_key)
