"""The agent's steps under the kernel: their keys, and which failures are the model's to deal with."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.agents.conversation import tool_error, tool_result
from harness.errors import ModelError, ModelMalformed, StepFailed, StepRejected
from harness.kernel import ModelInput
from harness.kernel.ports import Message, ModelCallOptions, OutputSchema, ToolCall

if TYPE_CHECKING:
    from harness.kernel import Kernel, ReplayPolicy, StepModelResult, TenantContext, ToolRegistry


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSteps:
    """The steps of one agent in one run. In the agent's scope a turn is `turn-N`, and its calls are `turn-N/call-M`."""

    kernel: Kernel
    run_id: str
    tenant: TenantContext
    model: str
    output_schema: OutputSchema | None
    tools: ToolRegistry | None
    visible: Collection[str] | None
    options: ModelCallOptions | None
    replay_policy: ReplayPolicy
    result_limit: int  # characters

    async def think(self, turn: int, messages: Sequence[Message]) -> StepModelResult:
        """Ask the model. A recorded failure is no answer, so a later run asks again; a misfit answer stays one."""
        try:
            return await self._ask(turn, messages, again=False)
        except ModelMalformed:
            raise
        except (ModelError, StepFailed) as error:
            if not error.replayed:
                raise
        return await self._ask(turn, messages, again=True)

    async def _ask(self, turn: int, messages: Sequence[Message], *, again: bool) -> StepModelResult:
        return await self.kernel.step_model(
            run_id=self.run_id, tenant=self.tenant, model=self.model, input=ModelInput.from_messages(messages),
            output_schema=self.output_schema, step_key=f"turn-{turn}", visible_tool_names=self.visible,
            model_options=self.options, replay_policy=self.replay_policy, retry_failed_step=again, tools=self.tools,
        )  # fmt: skip

    async def use(self, turn: int, number: int, call: ToolCall) -> Message:
        """Do what the model asked for. What it got wrong, and what went wrong, is the result it reads."""
        try:
            if self.visible is not None and call.name not in self.visible:
                raise StepRejected(f"no tool is named {call.name!r}; there are: {', '.join(sorted(self.visible)) or 'none'}")
            done = await self.kernel.step_tool(
                run_id=self.run_id, tenant=self.tenant, tool_name=call.name, arguments=call.arguments_json or "{}",
                step_key=f"call-{number}", parent_step_key=f"turn-{turn}", tools=self.tools, replay_rejections=True,
            )  # fmt: skip
        except (StepRejected, StepFailed) as error:
            return tool_error(call, error, self.result_limit)
        return tool_result(call, done.result_json, self.result_limit)
