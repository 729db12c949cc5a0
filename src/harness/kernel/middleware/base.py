"""What a middleware is: five optional hooks around model and tool calls, and the rank that orders them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from harness.kernel.ports import Message, ModelCallOptions, ToolDefinition
from harness.kernel.tenant import TenantContext
from harness.ledger import Store

SCRUB, QUOTA, CAPABILITY, SAFETY, CUSTOM = range(5)
HOOKS = ("prepare_model", "before_model", "after_model", "prepare_tool_request", "prepare_tool_result")


@dataclass(frozen=True, kw_only=True)
class ModelInvocation:
    """A model call before it is made. A hook gives back this one or a changed copy (`dataclasses.replace`)."""

    run_id: str
    tenant: TenantContext
    model: str
    prompt: str  # the newest user text; a changed prompt replaces that text in `messages`
    messages: tuple[Message, ...]
    allowed_tools: tuple[ToolDefinition, ...] = ()
    options: ModelCallOptions = field(default_factory=ModelCallOptions)


class KernelMiddleware:
    """Base of all middleware; every hook is optional and does nothing here. A hook may be async or not.

    An object of any class that has one of these methods is a middleware as well. What a hook raises refuses the step.
    """

    rank: ClassVar[int] = CUSTOM

    def bound(self, store: Store) -> KernelMiddleware:
        """This middleware as one kernel uses it; the kernel's ledger is `store`."""
        return self

    async def prepare_model(self, invocation: ModelInvocation) -> ModelInvocation:
        """Change or refuse what is sent to the model. Runs on replay too, so it must be deterministic."""
        return invocation

    async def before_model(self, **kwargs: Any) -> None:
        """Refuse a call that would really be made: `run_id`, `tenant`, `model`, `step`, `prompt`, `reserved_usd`."""

    async def after_model(self, **kwargs: Any) -> None:
        """Look at a call that was made: `run_id`, `tenant`, `model`, `step`, `usage`, `output`, `text`, `tool_calls`."""

    async def prepare_tool_request(self, **kwargs: Any) -> str:
        """Change or refuse `arguments_json` of `tool_name`. Runs on replay too, so it must be deterministic."""
        return str(kwargs["arguments_json"])

    async def prepare_tool_result(self, **kwargs: Any) -> str:
        """Change `result_json` of `tool_name` before it is recorded and returned."""
        return str(kwargs["result_json"])
