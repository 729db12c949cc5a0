"""The capability that makes an agent of Pydantic AI a recorded one. What becomes of each call is `operations`'s."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Collection, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from pydantic_ai.agent import EventStreamHandler
from pydantic_ai.durable_exec import (
    JSON_CODEC,
    BaseDurabilityCapability,
    DurabilityEngineSpec,
    conversation_id_from_run_id,
)
from pydantic_ai.models import Model
from pydantic_ai.tools import AgentDepsT, RunContext, ToolDefinition

from harness.agents.pydantic_ai import runs
from harness.agents.pydantic_ai.operations import KernelOperations
from harness.agents.pydantic_ai.runs import DurableRun
from harness.errors import RunNotActive, UsageError
from harness.kernel import TenantContext, ToolTraits

if TYPE_CHECKING:
    from harness.kernel import Kernel, ReplayPolicy

_KINDS: frozenset[Literal["function", "mcp", "dynamic"]] = frozenset({"function", "mcp", "dynamic"})
_ASSUMED = ToolTraits()


class HarnessDurability(BaseDurabilityCapability[AgentDepsT]):
    """Makes what an agent does steps of a kernel's run: recorded, paid for, and never done twice.

    Work inside `async with durability.run("run-id"):` is recorded; outside of it the agent is a plain one. Run again
    under the same id after a crash, a run goes on where it stopped; run again after its end it gives the same result,
    asks no model and calls no tool. Code between steps runs again, as everywhere under a kernel.

    A tool is taken to have side effects, so that a call that was cut off is an unknown outcome and never simply
    repeated, unless it is named in `read_only`, or its `ToolTraits` in `tools` or in the tool's metadata (key "harness",
    the policy's fields) says otherwise; metadata of False leaves a tool unrecorded. `trust_read_only_hints` believes
    what MCP servers say of their own tools. A tool that needs a capability which the tenant lacks is not shown to the
    model. `models` and `event_stream_handler` are as for the framework's other durability capabilities.
    """

    engine_spec: ClassVar[DurabilityEngineSpec] = DurabilityEngineSpec(
        engine_name="Harness",
        durable_unit_noun="step",
        durable_container_noun="run",
        codec=JSON_CODEC,
        wrapped_toolset_kinds=_KINDS,
        unsupported_runtime_toolset_kinds=_KINDS,
        toolset_lifecycles={"function": "enter-always", "mcp": "enter-in-durable-unit", "dynamic": "enter-never"},
        tool_config_key="harness",
    )

    def __init__(
        self,
        kernel: Kernel,
        *,
        tenant: TenantContext,
        name: str | None = None,
        read_only: Collection[str] = (),
        tools: Mapping[str, ToolTraits] | None = None,
        trust_read_only_hints: bool = False,
        replay_policy: ReplayPolicy = "strict",
        models: Mapping[str, Model] | None = None,
        event_stream_handler: EventStreamHandler[AgentDepsT] | None = None,
    ) -> None:
        super().__init__(models=models, event_stream_handler=event_stream_handler, name=name)
        self._kernel = kernel
        self._tenant = tenant
        self._read_only = frozenset(read_only)
        self._policies = dict(tools or {})
        self._trust_hints = trust_read_only_hints
        self._replay_policy: ReplayPolicy = replay_policy

    @contextlib.asynccontextmanager
    async def run(
        self, run_id: str, *, parent_run: str | None = None, finish: bool = True, retry_failed: bool = False
    ) -> AsyncGenerator[DurableRun]:
        """Record the agent runs inside as steps of this run, which begins or goes on here.

        With `finish` it is over when the block ends without an error. `retry_failed` runs tools again whose failure is
        recorded, with the same idempotency key; a model whose failure ended the run is asked again in any case.
        """
        await self._kernel.open_run(tenant=self._tenant, run_id=run_id, parent_run=parent_run)
        await self._kernel.load_run(run_id=run_id)
        run = DurableRun(
            self._kernel, run_id=run_id, tenant=self._tenant, replay_policy=self._replay_policy, retry_failed=retry_failed
        )
        token = runs.current().set(run)
        try:
            with self._kernel.agent_span(self.name or "agent", run_id):
                yield run
        finally:
            runs.current().reset(token)
        if finish and (await self._kernel.get_run_status(run_id=run.run_id)).active:
            with contextlib.suppress(RunNotActive):  # somebody else was faster
                await self._kernel.finish_run(run_id=run.run_id, tenant=self._tenant)

    # What the framework asks

    @property
    def in_durable_context(self) -> bool:
        """Whether the calling task works in a run."""
        return runs.current_run() is not None

    def get_default_run_id(self) -> str | None:
        run = runs.current_run()
        return None if run is None else run.begin(self.name)

    def get_default_conversation_id(self, run_id: str) -> str | None:
        return conversation_id_from_run_id(run_id) if self.in_durable_context else None

    def get_durable_operation_backend(self) -> KernelOperations:
        return KernelOperations(self.name, self.policy_of)

    async def prepare_tools(self, ctx: RunContext[AgentDepsT], tool_defs: list[ToolDefinition]) -> list[ToolDefinition]:
        """Only what the tenant may call."""
        if not self.in_durable_context:
            return tool_defs
        return [tool for tool in tool_defs if self._allowed(self.policy_of(tool))]

    def _allowed(self, policy: ToolTraits | Literal[False]) -> bool:
        needed = None if policy is False else policy.requires_capability
        return needed is None or needed in self._tenant.capabilities

    def policy_of(self, tool: ToolDefinition) -> ToolTraits | Literal[False]:
        """What is decided about a tool; False: it is not recorded."""
        metadata: dict[str, Any] = tool.metadata or {}
        given = metadata.get("harness")
        if tool.name in self._policies:
            return self._policies[tool.name]
        if given is False:
            return False
        if given is not None:
            return _policy(tool.name, given)
        hints: Mapping[str, Any] = metadata.get("annotations") or {}
        if tool.name in self._read_only or (self._trust_hints and hints.get("readOnlyHint") is True):
            return ToolTraits(side_effect=False)
        return _ASSUMED


def _policy(name: str, given: object) -> ToolTraits:
    if isinstance(given, ToolTraits):
        return given
    if not isinstance(given, Mapping):
        raise UsageError(f"the metadata 'harness' of the tool {name!r} is a ToolTraits, its fields or False, not {given!r:.60}")
    try:
        return ToolTraits(**cast("Mapping[str, Any]", given))
    except TypeError as error:
        raise UsageError(f"the metadata 'harness' of the tool {name!r} makes no ToolTraits: {error}") from error
