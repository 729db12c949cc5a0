"""Asking a critic about a tool call, as a recorded step of the run. Only an explicit yes is one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import msgspec

from harness.errors import ModelError, OutcomeUnknown, ReplayConsistencyError, StepFailed
from harness.kernel.middleware.policies import Critic
from harness.kernel.model_call import Ask
from harness.kernel.model_step import ModelSteps
from harness.kernel.outputs import output_type
from harness.kernel.ports import Message, ModelCallOptions
from harness.kernel.runs import RunState
from harness.kernel.tool_call import ToolAsk
from harness.kernel.tool_step import ToolSteps
from harness.kernel.tools import Tool
from harness.kernel.toolsets import Toolset
from harness.text import fenced

_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {"approved": {"type": "boolean"}, "reason": {"type": "string"}},
    "required": ["approved", "reason"],
    "additionalProperties": False,
}
_NO_TOOLS = Toolset(())


class Critics:
    """How the critics of one kernel are asked."""

    def __init__(self, model_steps: ModelSteps, tool_steps: ToolSteps) -> None:
        self._model_steps = model_steps
        self._tool_steps = tool_steps

    async def ask(self, run: RunState, ask: ToolAsk, critic: Critic, step: str) -> tuple[str, str]:
        """The step's id, and why the critic said no; empty for yes. Who cannot be asked has not said yes."""
        try:
            if critic.model is not None:
                said = await self._model(run, ask, critic, step)
            else:
                said = await self._function(run, ask, critic, step)
        except (ModelError, StepFailed, OutcomeUnknown, ReplayConsistencyError) as error:
            return step, f"the critic could not be asked: {error}"
        return step, _reason(said)

    async def _model(self, run: RunState, ask: ToolAsk, critic: Critic, step: str) -> object:
        assert critic.model is not None
        call = fenced(ask.arguments_json.decode(), name=f"arguments of {ask.name}")
        prompt = f"{critic.instructions}\n\nAn agent wants to call the tool {ask.name}.\n{call}\nMay it be done?"
        asked = Ask(
            tenant=ask.tenant, step=step, model=critic.model, messages=(Message.user(prompt),), schema=_SCHEMA,
            expected=output_type(_SCHEMA), options=ModelCallOptions(), toolset=_NO_TOOLS, visible=(), policy="strict",
            retry_failed=True,
        )  # fmt: skip
        return (await self._model_steps.step(run, asked)).output

    async def _function(self, run: RunState, ask: ToolAsk, critic: Critic, step: str) -> object:
        function = critic.function
        assert function is not None

        async def critic_of(tool: str, arguments: dict[str, Any]) -> Any:
            import inspect

            said = function(tool, arguments)
            return await said if inspect.isawaitable(said) else said

        asked = ToolAsk(
            tenant=ask.tenant, step=step, name="critic", tool=Tool(critic_of, name="critic"), retry_failed=True,
            exempt=True,
        )  # fmt: skip
        given = msgspec.json.decode(ask.arguments_json if ask.given is None else ask.given)
        return (await self._tool_steps.step(run, asked, {"tool": ask.name, "arguments": given})).result


def _reason(said: object) -> str:
    if said is True:
        return ""
    if isinstance(said, str) and said.strip():
        return f"the critic said no: {said.strip()}"
    if isinstance(said, Mapping):
        named = cast("Mapping[str, object]", said)
        if named.get("approved") is True:
            return ""
        return f"the critic said no: {named.get('reason') or 'without a reason'}"
    return "the critic said no"
