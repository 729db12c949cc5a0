"""The agent's steps under the kernel: their keys, and which failures are the model's to deal with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from harness.agents.compaction import Compacted, CompactionStrategy, compacted_of, request
from harness.agents.conversation import tool_error, tool_result
from harness.agents.subagents import Delegated
from harness.agents.suspension import Suspended, suspending
from harness.agents.toolbox import COMPACTION, CONTEXT, Toolbox
from harness.errors import (
    ApprovalRequired,
    BudgetExceeded,
    HarnessError,
    ModelError,
    ModelMalformed,
    StepFailed,
    StepRejected,
    UsageError,
)
from harness.kernel import Message, ModelCallOptions, ModelInput, OutputSchema, Tool, ToolCall, ToolRegistry

if TYPE_CHECKING:
    from harness.agents.context import ContextBuilder, ContextRequest
    from harness.kernel import Kernel, ReplayPolicy, StepModelResult, StepToolResult, TenantContext

_NO_TOOLS = ToolRegistry()


@dataclass(frozen=True, slots=True, kw_only=True)
class Used:
    """What came of one tool call."""

    message: Message
    delegated: Delegated | None = None  # if it went to a sub-agent


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSteps:
    """The steps of one agent in one run.

    In the agent's scope the beginning is `context`, a turn is `turn-N`, its calls are `turn-N/call-M`, and the M-th
    compaction is `compaction-M`, in which the model is asked as `compaction-M/summary`.
    """

    kernel: Kernel
    run_id: str
    tenant: TenantContext
    model: str
    output_schema: OutputSchema | None
    toolbox: Toolbox
    options: ModelCallOptions | None
    replay_policy: ReplayPolicy
    result_limit: int  # characters

    # The model

    async def think(self, turn: int, messages: Sequence[Message], loaded: frozenset[str]) -> StepModelResult:
        """Ask the model. A recorded failure is no answer, so a later run asks again; a misfit answer stays one."""
        try:
            return await self._ask(turn, messages, loaded, again=False)
        except ModelMalformed:
            raise
        except (ModelError, StepFailed) as error:
            if not error.replayed:
                raise
        return await self._ask(turn, messages, loaded, again=True)

    async def _ask(self, turn: int, messages: Sequence[Message], loaded: frozenset[str], *, again: bool) -> StepModelResult:
        return await self.kernel.step_model(
            run_id=self.run_id, tenant=self.tenant, model=self.model, input=ModelInput.from_messages(messages),
            output_schema=self.output_schema, step_key=f"turn-{turn}", visible_tool_names=self.toolbox.visible,
            model_options=self.options, replay_policy=self.replay_policy, retry_failed_step=again,
            tools=self.toolbox.registry(loaded),
        )  # fmt: skip

    # Tools

    async def use(self, turn: int, number: int, call: ToolCall, loaded: frozenset[str]) -> Used:
        """Do what the model asked for. What it got wrong, and what went wrong, is the result it reads.

        A refusal by whatever stands before the tools is such a result too, also if it is no error of ours.
        """
        try:
            if self.toolbox.hidden(call.name):
                raise StepRejected(
                    f"no tool is named {call.name!r}; there are: {', '.join(sorted(self.toolbox.visible or ()))}"
                )
            done = await self._call(turn, number, call, loaded)
        except Suspended as suspended:
            raise suspended.error from suspended
        except ApprovalRequired:
            raise
        except (StepRejected, StepFailed) as error:
            return Used(message=tool_error(call, error, self.result_limit))
        except HarnessError:
            raise
        except Exception as error:  # noqa: BLE001 - a middleware's refusal, which the kernel has recorded
            return Used(message=tool_error(call, error, self.result_limit))
        if self.toolbox.is_subagent(call.name):
            return self._delegated(call, done)
        return Used(message=tool_result(call, done.result_json, self.result_limit))

    async def _call(self, turn: int, number: int, call: ToolCall, loaded: frozenset[str]) -> StepToolResult:
        return await self.kernel.step_tool(
            run_id=self.run_id, tenant=self.tenant, tool_name=call.name, arguments=call.arguments_json or "{}",
            step_key=f"call-{number}", parent_step_key=f"turn-{turn}", tools=self.toolbox.registry(loaded),
            replay_rejections=True,
        )  # fmt: skip

    def _delegated(self, call: ToolCall, done: StepToolResult) -> Used:
        delegated = msgspec.json.decode(done.result_json, type=Delegated)
        told = tool_result(call, msgspec.json.encode(delegated.told()).decode(), self.result_limit)
        message = msgspec.structs.replace(told, is_error=bool(delegated.error))
        return Used(message=message, delegated=delegated)

    # Around the turns

    async def begin(self, builder: ContextBuilder, request: ContextRequest, *, recorded: bool) -> Mapping[str, str]:
        """The sections of the context; collected once and recorded, if any of them may change."""
        if not recorded:
            return {}

        async def assemble_context() -> list[tuple[str, str]]:  # pairs, since a recorded object has no order
            with suspending():
                return list((await builder.collect(request)).items())

        return dict((await self._own(CONTEXT, assemble_context, "context")).result)

    async def compact(self, number: int, strategy: CompactionStrategy, older: Sequence[Message]) -> Compacted:
        """Have older turns summarised. That this failed is recorded like a summary, so that it stays so."""

        async def compact_conversation(messages: int) -> dict[str, Any]:
            with suspending():
                return msgspec.to_builtins(await self._summarised(number, strategy, older))

        done = await self._own(COMPACTION, compact_conversation, f"compaction-{number}", messages=len(older))
        return compacted_of(done.result)

    async def _own(self, name: str, function: Callable[..., Any], step_key: str, **arguments: Any) -> StepToolResult:
        """A step of the agent itself. One that failed is tried again: what may stay a failure is its result."""
        tools = ToolRegistry([Tool(function, name=name, description="")])
        try:
            return await self.kernel.step_tool(
                run_id=self.run_id, tenant=self.tenant, tool_name=name, arguments=arguments, step_key=step_key, tools=tools,
                retry_failed_step=True,
            )  # fmt: skip
        except Suspended as suspended:
            raise suspended.error from suspended

    async def _summarised(self, number: int, strategy: CompactionStrategy, older: Sequence[Message]) -> Compacted:
        options = msgspec.structs.replace(self.options or ModelCallOptions(), max_tokens=strategy.max_summary_tokens, stop=())
        try:
            answer = await self.kernel.step_model(
                run_id=self.run_id, tenant=self.tenant, model=strategy.summarize_with_model or self.model,
                input=ModelInput.from_messages(request(strategy, older)), step_key="summary",
                parent_step_key=f"compaction-{number}", visible_tool_names=(), model_options=options,
                replay_policy="strict" if self.replay_policy == "fork_on_drift" else self.replay_policy, tools=_NO_TOOLS,
            )  # fmt: skip
        except (ApprovalRequired, BudgetExceeded):
            raise
        except (ModelError, StepFailed, StepRejected, UsageError) as error:
            return Compacted(error=str(error))
        usage = msgspec.structs.replace(answer.usage, cost_usd=None)
        error = "" if answer.text.strip() else "the model wrote nothing"
        return Compacted(summary=answer.text.strip(), error=error, usage=usage, cost_usd=answer.cost_usd)
