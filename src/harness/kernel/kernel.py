"""The kernel's face: start and load runs, take steps, settle unknown outcomes, ask where a run stands."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable, Collection, Coroutine, Iterable
from typing import TYPE_CHECKING, Any, Self, TypeVar

from harness.errors import KernelError, NotFound, PolicyDenied, UsageError
from harness.kernel import records
from harness.kernel.artifacts import Artifacts
from harness.kernel.identity import current_scope, step_id, step_scope
from harness.kernel.lifecycle import Lifecycle
from harness.kernel.matching import POLICIES, ReplayPolicy, core_hash
from harness.kernel.middleware import Stack
from harness.kernel.model_call import Ask, Caller
from harness.kernel.model_step import ModelSteps
from harness.kernel.outputs import output_type
from harness.kernel.policy import KernelPolicy
from harness.kernel.ports import ModelCallOptions, ModelPort, OutputSchema, RiskLevel, ToolDefinition
from harness.kernel.results import ModelInput, RunHandle, RunStatus, StepModelResult, StepRecord, StepToolResult
from harness.kernel.runs import Entry, RunState, stream_of
from harness.kernel.steps import Steps
from harness.kernel.tenant import TenantContext
from harness.kernel.tool_call import ToolAsk, ToolCalls
from harness.kernel.tool_step import ToolSteps
from harness.kernel.tools import OnUnknown, Tool, ToolRegistry, canonical_arguments
from harness.kernel.toolsets import Toolsets
from harness.kernel.unknown import Outcome, Unknowns
from harness.ledger import Event, Store

if TYPE_CHECKING:
    from harness.people import Questions

F = TypeVar("F", bound=Callable[..., Any])

_DEFAULT_OPTIONS = ModelCallOptions()
_PAGE = 500


class Kernel:
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
    ) -> None:
        self._store = store
        self._port = model_port
        self.policy = policy or KernelPolicy()
        self.tools = ToolRegistry(tool_port.registry() if tool_port is not None else ())
        self._toolsets = Toolsets(self.tools)
        self._steps = Steps(store, self.policy)
        stack = Stack(middleware or ())
        self._model_steps = ModelSteps(Caller(self._steps, model_port, stack))
        calls = ToolCalls(self._steps, self._toolsets, stack)
        self._unknowns = Unknowns(calls, self._questions)
        self._tool_steps = ToolSteps(calls, self._unknowns)
        self._lifecycle = Lifecycle(store, self._steps)
        self._artifacts = Artifacts(store)
        self._people: Questions | None = None
        self._closed = False

    def _questions(self) -> Questions:
        if self._people is None:
            from harness.people import Questions

            self._people = Questions(self._store)
        return self._people

    @property
    def store(self) -> Store:
        """The ledger that the kernel writes to."""
        return self._store

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

    def _open(self) -> None:
        if self._closed:
            raise KernelError("this kernel is closed; make another one")

    # Runs

    async def start_run(self, *, tenant: TenantContext, run_id: str | None = None, parent_run: str | None = None) -> RunHandle:
        """Begin a run; without an id it gets one. `parent_run` is the run that caused it. Raises `RunExists`."""
        self._open()
        return await self._lifecycle.start(tenant, run_id, parent_run)

    async def load_run(self, *, run_id: str) -> RunHandle:
        """Begin a new pass over a run that exists: steps without a key are counted from the first again.

        The run is read and verified once. Raises `NotFound`, `Unproven`.
        """
        self._open()
        known = run_id in self._steps.runs
        run = await self._steps.open(run_id)
        if known and not run.held:
            await self._steps.leases.catch_up(run)
        self._steps.passes.pop(run_id, None)
        return RunHandle(run_id=run_id, tenant_id=run.tenant_id, parent_run=run.parent_run)

    async def open_run(self, *, tenant: TenantContext, run_id: str, parent_run: str | None = None) -> RunHandle:
        """Start the run, or go on with it if it exists; does not begin a new pass over it."""
        self._open()
        if await self._store.head(stream_of(run_id)) is None:
            with contextlib.suppress(KernelError):
                return await self.start_run(tenant=tenant, run_id=run_id, parent_run=parent_run)
        run = await self._steps.open(run_id)
        self._steps.check_tenant(run, tenant)
        return RunHandle(run_id=run_id, tenant_id=run.tenant_id, parent_run=run.parent_run)

    def scope(self, name: str) -> contextlib.AbstractContextManager[tuple[str, ...]]:
        """Steps called inside have their own keys and are counted by themselves. Scopes nest, also over tasks."""
        return step_scope(name)

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
    ) -> Coroutine[Any, Any, StepModelResult]:
        """Ask a model, or give back what it said when this step was executed before.

        The step's identity is allotted when this is called, so calls may be gathered. `tools` are the caller's own, before
        the kernel's. Raises `ReplayConsistencyError` (other inputs under a recorded step), `ModelError` and `StepFailed`
        (recorded failures, raised again on replay unless `retry_failed_step`), `BudgetExceeded`, `RunNotActive`, what a
        middleware raises, and `LeaseHeld` if another kernel keeps the run for too long.
        """
        self._open()
        if replay_policy not in POLICIES:
            raise UsageError(f"replay_policy is one of {', '.join(sorted(POLICIES))}, not {replay_policy!r}")
        if replay_policy == "fork_on_drift":
            raise UsageError("replay_policy 'fork_on_drift' is not supported yet; use 'strict' or 'allow_prompt_drift'")
        scope = _scope(parent_step_key)
        step = self._steps.allot(run_id, scope, "model", step_key)

        async def take() -> StepModelResult:
            run = await self._run(run_id, tenant)
            expected = output_type(output_schema)
            options = model_options or _DEFAULT_OPTIONS
            visible = None if visible_tool_names is None else tuple(sorted(visible_tool_names))
            toolset = self._toolsets.of(tenant, visible_tool_names, tools)
            core = core_hash(model=model, options=options, output_schema=expected.digest, visible=visible)
            result = self._model_steps.replayed(run, step, core, input.messages, expected, toolset.digest)
            if result is not None:
                return result
            ask = Ask(
                tenant=tenant, step=step, model=model, messages=input.messages, schema=output_schema, expected=expected,
                options=options, toolset=toolset, visible=visible, policy=replay_policy, retry_failed=retry_failed_step,
                parent=self._steps.parent_of(run, scope, parent_step_key),
            )  # fmt: skip
            return await self._model_steps.step(run, ask)

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
    ) -> Coroutine[Any, Any, StepToolResult]:
        """Run a tool, or give back what it gave when this step was executed before.

        `arguments` is a mapping, a pydantic model or JSON text; `timeout` is in seconds. A rejection is decided anew each
        time, unless `replay_rejections`. Raises `StepRejected` (arguments, unknown tool), `CapabilityDenied`, `StepFailed`,
        `OutcomeUnknown` (see `reconcile_tool`), and what `step_model` raises for runs and replay.
        """
        self._open()
        scope = _scope(parent_step_key)
        step = self._steps.allot(run_id, scope, tool_name, step_key)

        async def take() -> StepToolResult:
            run = await self._run(run_id, tenant)
            ask = ToolAsk(
                tenant=tenant, step=step, name=tool_name, tool=self._toolsets.get(tool_name, tools), timeout=timeout,
                parent=self._steps.parent_of(run, scope, parent_step_key), replay_rejections=replay_rejections,
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
        stays unknown. Gives the result, None for "failed".
        """
        self._open()
        run = await self._run(run_id, tenant)
        if not run.held:
            await self._steps.leases.catch_up(run)
        if step is None and step_key is not None:
            step = step_id(_scope(parent_step_key), step_key)
        if step is None:
            step = self._unknown_step(run, tool_name, arguments)
        ask = ToolAsk(tenant=tenant, step=step, name=tool_name, tool=self._toolsets.get(tool_name, tools))
        return await self._unknowns.reconcile(run, ask, outcome, result=result, message=message, by=by or self._store.actor)

    def _unknown_step(self, run: RunState, tool_name: str, arguments: object) -> str:
        wanted = None if arguments is None else canonical_arguments(arguments)

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
    ) -> Callable[[F], F]:
        """Register a function as a tool. Its schema comes from its type hints, its description from its docstring.

        A synchronous function runs in a thread. With `side_effect` its intent is recorded before it runs, and if its end is
        not, `on_unknown` says what to do. A parameter annotated `ToolExecutionContext` gets the call's idempotency key and
        is not shown to the model. `timeout` is in seconds.
        """

        def register(function: F) -> F:
            registered = Tool(
                function, name=name, description=description, requires_capability=requires_capability,
                side_effect=side_effect, tool_version=tool_version, schema_version=schema_version, risk_level=risk_level,
                on_unknown=on_unknown, probe=probe, timeout=timeout,
            )  # fmt: skip
            self.tools.add(registered)
            return function

        return register

    def list_tools_for_tenant(
        self, *, tenant: TenantContext, visible_tool_names: Collection[str] | None = None
    ) -> tuple[ToolDefinition, ...]:
        """The tools that the tenant may see and call, by name."""
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

    # What happened

    async def get_events(self, *, run_id: str) -> tuple[Event, ...]:
        """Every event of a run, in order. Raises `NotFound`."""
        events = await self._store.read(stream_of(run_id))
        if not events:
            raise NotFound(f"no run {run_id!r} in {self._store.location}")
        return tuple(events)

    async def get_steps(self, *, run_id: str) -> tuple[StepRecord, ...]:
        """Every step of a run, with what was asked and how it ended, in the order of their beginnings."""
        from harness.kernel.history import tell

        return tell(await self.get_events(run_id=run_id))

    async def stream_events(self, *, run_id: str, since_seq: int = 0, follow: bool = False) -> AsyncGenerator[Event]:
        """A run's events after `since_seq`; with `follow` also those that come, pushed. Raises `NotFound`."""
        stream = stream_of(run_id)
        if await self._store.head(stream) is None:
            raise NotFound(f"no run {run_id!r} in {self._store.location}")
        tail = await self._store.tail()
        while True:
            events = await self._store.read(stream, after=since_seq, limit=_PAGE)
            for event in events:
                since_seq = event.seq
                yield event
            if len(events) < _PAGE:
                break
        if follow:
            async with contextlib.aclosing(self._store.follow(after=tail, streams=(stream,))) as news:
                async for event in news:
                    if event.stream == stream and event.seq > since_seq:
                        since_seq = event.seq
                        yield event

    async def get_run_status(self, *, run_id: str) -> RunStatus:
        """Where a run stands, in O(1). Raises `NotFound`, `Unproven`."""
        return await self._lifecycle.status(run_id)

    async def list_active_runs(self, *, tenant_id: str | None = None) -> tuple[RunStatus, ...]:
        """The runs that are not over, the oldest first, by index."""
        return tuple(await self._lifecycle.active(tenant_id))

    # Life of a run

    async def pause(self, *, run_id: str, tenant: TenantContext | None = None, reason: str = "", context: Any = None) -> int:
        """Let no further step be executed until `resume`; steps at work end. Gives the event's sequence."""
        return await self._change(run_id, tenant, records.RUN_PAUSED, reason=reason, context=context)

    async def resume(
        self, *, run_id: str, tenant: TenantContext | None = None, human_input: Any = None, reason: str = ""
    ) -> int:
        """Let a paused run go on, with what the human said; `get_human_input` reads it."""
        return await self._change(run_id, tenant, records.RUN_RESUMED, reason=reason, human_input=human_input)

    async def get_human_input(self, *, run_id: str) -> Any:
        """What the human said when the run was resumed last; None if nothing was said since another change."""
        return await self._lifecycle.human_input(run_id)

    async def block_run(self, *, run_id: str, tenant: TenantContext | None = None, reason: str = "") -> int:
        """Let no further step be executed until `unblock_run`, because something is missing."""
        return await self._change(run_id, tenant, records.RUN_BLOCKED, reason=reason)

    async def unblock_run(self, *, run_id: str, tenant: TenantContext | None = None, reason: str = "") -> int:
        """What was missing is there."""
        return await self._change(run_id, tenant, records.RUN_UNBLOCKED, reason=reason)

    async def cancel_run(self, *, run_id: str, tenant: TenantContext | None = None, reason: str = "") -> int:
        """End a run for good: nothing more is executed. Steps at work end and are recorded."""
        return await self._change(run_id, tenant, records.RUN_CANCELLED, reason=reason)

    async def finish_run(
        self, *, run_id: str, tenant: TenantContext | None = None, failed: bool = False, reason: str = ""
    ) -> int:
        """Say that a run is over because it has done what it was for, or has failed."""
        return await self._change(run_id, tenant, records.RUN_FAILED if failed else records.RUN_COMPLETED, reason=reason)

    async def _change(self, run_id: str, tenant: TenantContext | None, type_: str, *, reason: str, **more: Any) -> int:
        self._open()
        if tenant is not None and (await self._lifecycle.status(run_id)).tenant_id != tenant.tenant_id:
            raise PolicyDenied(f"run {run_id!r} does not belong to tenant {tenant.tenant_id!r}")
        return await self._lifecycle.change(run_id, type_, reason=reason, by=self._store.actor, **more)

    # What a run leaves

    async def set_artifact(
        self, *, run_id: str, tenant: TenantContext, key: str, value: Any, schema_version: str | None = None
    ) -> int:
        """Record a new version of an artifact; gives its sequence. Raises `TypeError` for what is no JSON."""
        self._open()
        return await self._artifacts.set(run_id, tenant, key, value, schema_version)

    async def get_artifact(self, *, run_id: str, key: str) -> Any:
        """The newest version of an artifact, verified; None if there is none."""
        return await self._artifacts.get(run_id, key)

    async def list_artifacts(self, *, run_id: str) -> tuple[str, ...]:
        """The names of a run's artifacts."""
        return tuple(await self._artifacts.keys(run_id))

    async def append_run_summary(
        self, *, run_id: str, tenant: TenantContext, summary_type: str, summary: Any, step_key: str | None = None
    ) -> int:
        """Record a summary; gives its sequence. Raises `TypeError` for what is no JSON."""
        self._open()
        return await self._artifacts.append_summary(run_id, tenant, summary_type, summary, step_key)

    async def get_latest_run_summary(self, *, run_id: str, summary_type: str) -> Any:
        """The newest summary of this type; None if there is none."""
        return await self._artifacts.latest_summary(run_id, summary_type)


def _scope(parent_step_key: str | None) -> tuple[str, ...]:
    scope = current_scope()
    return scope if parent_step_key is None else (*scope, parent_step_key)
