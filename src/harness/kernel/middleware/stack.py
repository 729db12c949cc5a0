"""The middleware of one kernel in its order, and the calls of its hooks.

Whatever order is given: scrubbing, quota, capability guard, safety policy, then custom ones as they came. A hook
that raises refuses the step; the kernel records that before the exception leaves.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from harness.errors import UsageError
from harness.kernel.middleware.base import CUSTOM, HOOKS, SAFETY, KernelMiddleware, ModelInvocation
from harness.kernel.middleware.capability import CapabilityGuardMiddleware
from harness.kernel.middleware.quota import QuotaMiddleware
from harness.kernel.ports import Message

if TYPE_CHECKING:
    from harness.kernel.middleware.safety import SafetyPolicy
    from harness.kernel.middleware.scrubbing import Scrubbing
    from harness.ledger import Store


class Stack:
    """Middleware in its order, with only the hooks that do something."""

    def __init__(self, middleware: Iterable[Any] = (), store: Store | None = None) -> None:
        ranked = sorted(_listed(middleware), key=_rank)
        self.items: Sequence[Any] = ranked if store is None else [_bound(item, store) for item in ranked]
        self.scrubbing: Scrubbing | None = next(
            (each for item in self.items if (each := getattr(item, "scrubbing", None))), None
        )
        self.quotas = tuple(each for item in self.items if isinstance(item, QuotaMiddleware) for each in item.quotas)
        self.requires: Mapping[str, str] = {
            name: capability
            for item in self.items
            if isinstance(item, CapabilityGuardMiddleware)
            for name, capability in item.requires.items()
        }
        self.policy: SafetyPolicy | None = _policy(self.items)
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
                invocation = dataclasses.replace(invocation, messages=reworded(invocation.messages, invocation.prompt))
        return invocation

    async def before_model(self, **kwargs: Any) -> None:
        for hook in self._before_model:
            await _done(hook(**kwargs))

    async def after_model(self, **kwargs: Any) -> None:
        for hook in self._after_model:
            await _done(hook(**kwargs))

    async def prepare_tool_request(self, *, arguments_json: str, **kwargs: Any) -> str:
        for hook in self._prepare_tool_request:
            arguments_json = _text(await _done(hook(arguments_json=arguments_json, **kwargs)), hook, "arguments_json")
        return arguments_json

    async def prepare_tool_result(self, *, result_json: str, **kwargs: Any) -> str:
        for hook in self._prepare_tool_result:
            result_json = _text(await _done(hook(result_json=result_json, **kwargs)), hook, "result_json")
        return result_json


def _listed(middleware: Iterable[Any]) -> list[Any]:
    """What was given, if all of it is middleware. Raises `UsageError` naming what is not."""
    if isinstance(middleware, str) or not isinstance(cast("object", middleware), Iterable):
        raise UsageError(
            f"middleware is a list of middleware objects, not {type(middleware).__name__}: write [{_told(middleware)}]"
        )
    listed = list(middleware)
    for item in listed:
        if isinstance(item, type):
            raise UsageError(f"middleware {item.__name__} is a class; give an object: {item.__name__}()")
        if isinstance(item, KernelMiddleware):
            continue
        hooks = [name for name in HOOKS if getattr(item, name, None) is not None]
        if not hooks:
            raise UsageError(f"{_told(item)} is no middleware: it has none of the hooks {', '.join(HOOKS)}")
        for name in hooks:
            if not callable(getattr(item, name)):
                raise UsageError(f"{_told(item)}.{name} is no method, so it is no hook")
    return listed


def _policy(items: Sequence[Any]) -> SafetyPolicy | None:
    """The one safety policy that says something."""
    found = [item.policy for item in items if getattr(item, "rank", CUSTOM) == SAFETY and getattr(item, "policy", None)]
    if len(found) > 1:
        raise UsageError("a kernel has one safety policy: put the rules of all into one SafetyPolicyMiddleware")
    return found[0] if found else None


def _rank(item: Any) -> int:
    rank = getattr(item, "rank", CUSTOM)
    return rank if isinstance(rank, int) else CUSTOM


def _bound(item: Any, store: Store) -> Any:
    """The item as this kernel uses it."""
    return item.bound(store) if isinstance(item, KernelMiddleware) else item


def _told(item: object) -> str:
    return f"{type(item).__name__}(…)"


async def _done(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


def _named(hook: Any) -> str:
    return getattr(hook, "__qualname__", None) or f"{type(hook).__name__}(…)"


def _kept(invocation: Any, hook: Any) -> ModelInvocation:
    if not isinstance(invocation, ModelInvocation):
        raise TypeError(f"{_named(hook)} must give back a ModelInvocation, not {type(invocation).__name__}")
    wrong = _wrong_part(invocation)
    if wrong:
        raise TypeError(f"{_named(hook)} gave back a ModelInvocation whose {wrong}")
    return invocation


def _wrong_part(invocation: ModelInvocation) -> str:
    prompt, messages = cast("object", invocation.prompt), cast("object", invocation.messages)
    if not isinstance(prompt, str):
        return f"prompt is {type(prompt).__name__} and no text"
    if not isinstance(messages, tuple) or not all(isinstance(each, Message) for each in cast("tuple[object, ...]", messages)):
        return "messages are no tuple of Message"
    return ""


def _text(given: object, hook: Any, name: str) -> str:
    """What a hook gave back, if it is a text. Raises `TypeError` naming the hook."""
    if not isinstance(given, str):
        raise TypeError(f"{_named(hook)} must give back {name} as text, not {type(given).__name__}")
    return given


def reworded(messages: tuple[Message, ...], prompt: str) -> tuple[Message, ...]:
    """The messages with another newest user text."""
    for index in range(len(messages) - 1, -1, -1):
        if messages[index].role == "user":
            return (*messages[:index], Message.user(prompt), *messages[index + 1 :])
    return (*messages, Message.user(prompt))
