"""Middleware: hooks around model and tool calls, and the order in which they run.

Whatever order is given: scrubbing, quota, capability guard, safety policy, then custom ones as they came. A hook
that raises refuses the step; the kernel records that before the exception leaves. A hook may be async or not.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from harness.kernel.ports import Message, ModelCallOptions, ToolDefinition
from harness.kernel.tenant import TenantContext

SCRUB, QUOTA, CAPABILITY, SAFETY, CUSTOM = range(5)


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
    """Base of all middleware; every hook is optional and does nothing here."""

    rank: ClassVar[int] = CUSTOM

    async def prepare_model(self, invocation: ModelInvocation) -> ModelInvocation:
        """Change or refuse what is sent to the model. Runs on replay too, so it must be deterministic."""
        return invocation

    async def before_model(self, **kwargs: Any) -> None:
        """Refuse a call that would really be made: `run_id`, `tenant`, `model`, `reserved_usd`."""

    async def after_model(self, **kwargs: Any) -> None:
        """Look at a call that was made: `run_id`, `tenant`, `model`, `usage`, `output`, `tool_calls`."""

    async def prepare_tool_request(self, **kwargs: Any) -> str:
        """Change or refuse `arguments_json` of `tool_name`. Runs on replay too, so it must be deterministic."""
        return str(kwargs["arguments_json"])

    async def prepare_tool_result(self, **kwargs: Any) -> str:
        """Change `result_json` of `tool_name` before it is recorded and returned."""
        return str(kwargs["result_json"])


class CapabilityGuardMiddleware(KernelMiddleware):
    """Says by its place that tools are guarded by capability. The kernel always guards them, with or without it."""

    rank: ClassVar[int] = CAPABILITY


class Stack:
    """Middleware in its order, with only the hooks that do something."""

    def __init__(self, middleware: Iterable[Any] = ()) -> None:
        self.items: Sequence[Any] = sorted(middleware, key=lambda item: getattr(item, "rank", CUSTOM))
        self._prepare_model = self._hooks("prepare_model")
        self._before_model = self._hooks("before_model")
        self._after_model = self._hooks("after_model")
        self._prepare_tool_request = self._hooks("prepare_tool_request")
        self._prepare_tool_result = self._hooks("prepare_tool_result")
        self.prepares_models = bool(self._prepare_model)
        self.admits_models = bool(self._before_model)
        self.watches_models = bool(self._after_model)
        self.prepares_tools = bool(self._prepare_tool_request)
        self.prepares_results = bool(self._prepare_tool_result)

    def _hooks(self, name: str) -> list[Any]:
        idle = getattr(KernelMiddleware, name)
        hooks = [getattr(item, name, None) for item in self.items]
        return [hook for hook in hooks if hook is not None and getattr(hook, "__func__", hook) is not idle]

    async def prepare_model(self, invocation: ModelInvocation) -> ModelInvocation:
        for hook in self._prepare_model:
            before = invocation
            invocation = _kept(await _done(hook(invocation)), hook)
            if invocation.prompt != before.prompt and invocation.messages == before.messages:
                invocation = dataclasses.replace(invocation, messages=_reworded(invocation.messages, invocation.prompt))
        return invocation

    async def before_model(self, **kwargs: Any) -> None:
        for hook in self._before_model:
            await _done(hook(**kwargs))

    async def after_model(self, **kwargs: Any) -> None:
        for hook in self._after_model:
            await _done(hook(**kwargs))

    async def prepare_tool_request(self, *, arguments_json: str, **kwargs: Any) -> str:
        for hook in self._prepare_tool_request:
            arguments_json = await _done(hook(arguments_json=arguments_json, **kwargs))
        return arguments_json

    async def prepare_tool_result(self, *, result_json: str, **kwargs: Any) -> str:
        for hook in self._prepare_tool_result:
            result_json = await _done(hook(result_json=result_json, **kwargs))
        return result_json


async def _done(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


def _kept(invocation: Any, hook: Any) -> ModelInvocation:
    if not isinstance(invocation, ModelInvocation):
        raise TypeError(f"{hook.__qualname__} must give back a ModelInvocation, not {type(invocation).__name__}")
    return invocation


def _reworded(messages: tuple[Message, ...], prompt: str) -> tuple[Message, ...]:
    """The messages with another newest user text."""
    for index in range(len(messages) - 1, -1, -1):
        if messages[index].role == "user":
            return (*messages[:index], Message.user(prompt), *messages[index + 1 :])
    return (*messages, Message.user(prompt))
