"""What the code of a harness calls: steps, artifacts and summaries of the run that it is at work on.

Inside a session the run, the tenant and the model are the session's. Outside they are those of the last session, or
as given.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Coroutine, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from harness.agents.passes import HarnessContext, Pass, pass_of
from harness.errors import UsageError
from harness.kernel import Kernel, ModelInput, TenantContext

if TYPE_CHECKING:
    from harness.agents.agent import AgentResult, ToolBundle
    from harness.kernel import (
        Message,
        ModelCallOptions,
        OutputSchema,
        ReplayPolicy,
        StepModelResult,
        StepToolResult,
        ToolDefinition,
    )

DEFAULT_SYSTEM_PROMPT = "You work on your own until the task is done."


class HarnessSteps:
    """Methods of `BaseHarness`."""

    _kernel: Kernel
    _tenant: TenantContext | None
    _default_model: str
    _replay_policy: ReplayPolicy
    _last: HarnessContext | None

    def run_model(
        self,
        *,
        prompt: str | None = None,
        messages: Iterable[Message | Mapping[str, Any]] | None = None,
        input: ModelInput | None = None,
        output_schema: OutputSchema | None = None,
        model: str | None = None,
        step_key: str | None = None,
        visible_tool_names: Collection[str] | None = None,
        model_options: ModelCallOptions | None = None,
        replay_policy: ReplayPolicy | None = None,
        parent_step_key: str | None = None,
        retry_failed_step: bool | None = None,
        run_id: str | None = None,
        tenant: TenantContext | None = None,
    ) -> Coroutine[Any, Any, StepModelResult]:
        """Ask the model: exactly one of `prompt`, `messages` and `input`. See `Kernel.step_model`.

        A recorded failure is tried again if the session or the one before met an error, or as `retry_failed_step` says.
        """
        place, run_id, tenant = self._place(run_id, tenant)
        return self._kernel.step_model(
            run_id=run_id, tenant=tenant, model=model or (place.context.model if place else self._default_model),
            input=_asked(prompt, messages, input), output_schema=output_schema, step_key=step_key,
            visible_tool_names=visible_tool_names, model_options=model_options, parent_step_key=parent_step_key,
            replay_policy=replay_policy or self._replay_policy, retry_failed_step=_retries(place, retry_failed_step),
        )  # fmt: skip

    def run_tool(
        self,
        *,
        tool_name: str,
        arguments: object = None,
        step_key: str | None = None,
        parent_step_key: str | None = None,
        timeout: float | None = None,
        retry_failed_step: bool | None = None,
        run_id: str | None = None,
        tenant: TenantContext | None = None,
    ) -> Coroutine[Any, Any, StepToolResult]:
        """Run a tool of the kernel. See `Kernel.step_tool`; recorded failures are as in `run_model`."""
        place, run_id, tenant = self._place(run_id, tenant)
        return self._kernel.step_tool(
            run_id=run_id, tenant=tenant, tool_name=tool_name, arguments=arguments, step_key=step_key,
            parent_step_key=parent_step_key, timeout=timeout, retry_failed_step=_retries(place, retry_failed_step),
        )  # fmt: skip

    def run_autonomous_agent(
        self,
        *,
        prompt: str,
        system_prompt: str = DEFAULT_SYSTEM_PROMPT,
        output_schema: OutputSchema | None = None,
        model: str | None = None,
        tools: ToolBundle | None = None,
        visible_tool_names: Collection[str] | None = None,
        model_options: ModelCallOptions | None = None,
        replay_policy: ReplayPolicy | None = None,
        max_iterations: int = 15,
        step_key: str | None = None,
        run_id: str | None = None,
        tenant: TenantContext | None = None,
    ) -> Coroutine[Any, Any, AgentResult]:
        """Let an agent work in this run until it has an answer, which is the result's `output`.

        Without a `step_key` it is an agent of this session; with one its steps are the run's, and later sessions get its
        answer. The run stays open.
        """
        from harness.agents.agent import AutonomousAgent

        place, run_id, tenant = self._place(run_id, tenant)
        scopes = [step_key] if step_key is not None else []
        if step_key is None:
            session = [] if place is None or place.session is None else [f"session-{place.session.number}"]
            scopes = [*session, f"agent-{place.number('agent')}" if place else "agent"]
        model = model or (place.context.model if place else self._default_model)

        async def work() -> AgentResult:
            with contextlib.ExitStack() as stack:
                for scope in scopes[:-1]:
                    stack.enter_context(self._kernel.scope(scope))
                agent = AutonomousAgent(
                    self._kernel, name=scopes[-1], tools=tools, visible_tool_names=visible_tool_names,
                    model_options=model_options, replay_policy=replay_policy or self._replay_policy,
                )  # fmt: skip
                return await agent.run(
                    run_id=run_id, tenant=tenant, model=model, system_prompt=system_prompt, prompt=prompt,
                    output_schema=output_schema, max_iterations=max_iterations, finish=False,
                )  # fmt: skip

        return work()

    def list_tools(
        self, *, visible_tool_names: Collection[str] | None = None, tenant: TenantContext | None = None
    ) -> tuple[ToolDefinition, ...]:
        """The tools that the tenant may see and call."""
        tenant = tenant or self._tenant_of(pass_of(self))
        return self._kernel.list_tools_for_tenant(tenant=tenant, visible_tool_names=visible_tool_names)

    # What the run leaves

    def set_artifact(
        self,
        *,
        key: str,
        value: Any,
        schema_version: str | None = None,
        run_id: str | None = None,
        tenant: TenantContext | None = None,
    ) -> Coroutine[Any, Any, int]:
        """Record a new version of an artifact; gives its sequence. A session that is gone on with records it once."""
        place, run_id, tenant = self._place(run_id, tenant)
        return self._kernel.set_artifact(
            run_id=run_id, tenant=tenant, key=key, value=value, schema_version=schema_version,
            once=place.once(f"artifact::{key}") if place else "",
        )  # fmt: skip

    async def get_artifact(self, *, key: str, run_id: str | None = None) -> Any:
        """The newest version of an artifact, verified; None if there is none."""
        return await self._kernel.get_artifact(run_id=run_id or self._run_of(pass_of(self)), key=key)

    async def list_artifacts(self, *, run_id: str | None = None) -> tuple[str, ...]:
        """The names of the run's artifacts."""
        return await self._kernel.list_artifacts(run_id=run_id or self._run_of(pass_of(self)))

    def write_summary(
        self, summary_type: str, payload: Any, *, run_id: str | None = None, tenant: TenantContext | None = None
    ) -> Coroutine[Any, Any, int]:
        """Append a summary to the run; gives its sequence. A session that is gone on with appends it once."""
        place, run_id, tenant = self._place(run_id, tenant)
        return self._kernel.append_run_summary(
            run_id=run_id, tenant=tenant, summary_type=summary_type, summary=payload,
            once=place.once(f"summary::{summary_type}") if place else "",
        )  # fmt: skip

    async def read_summary(self, summary_type: str, *, run_id: str | None = None) -> Any:
        """The newest summary of this type; None if there is none."""
        run_id = run_id or self._run_of(pass_of(self))
        return await self._kernel.get_latest_run_summary(run_id=run_id, summary_type=summary_type)

    # Which run it is

    def _place(self, run_id: str | None, tenant: TenantContext | None) -> tuple[Pass | None, str, TenantContext]:
        place = pass_of(self)
        here = place if place is not None and run_id in (None, place.context.run_id) else None
        return here, run_id or self._run_of(place), tenant or self._tenant_of(place)

    def _run_of(self, place: Pass | None) -> str:
        context = place.context if place else self._last
        if context is None:
            raise UsageError(f"this {type(self).__name__} has worked on no run yet; say which one by run_id=")
        return context.run_id

    def _tenant_of(self, place: Pass | None) -> TenantContext:
        context = place.context if place else self._last
        tenant = context.tenant if context else self._tenant
        if tenant is None:
            raise UsageError(f"{type(self).__name__} has no tenant; give one to it, or to the call by tenant=")
        return tenant


def _asked(prompt: str | None, messages: Iterable[Message | Mapping[str, Any]] | None, input: ModelInput | None) -> ModelInput:
    if sum(given is not None for given in (prompt, messages, input)) != 1:
        raise UsageError("run_model needs exactly one of prompt=, messages= and input=")
    if messages is not None:
        return ModelInput.from_messages(messages)
    return input if input is not None else ModelInput.from_prompt(str(prompt))


def _retries(place: Pass | None, asked: bool | None) -> bool:
    if asked is not None:
        return asked
    return place is not None and place.session is not None and place.session.retries
