"""The order of middleware, and what hooks may do."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import pytest

from harness.kernel import CapabilityGuardMiddleware, KernelMiddleware, Message, ModelInvocation, TenantContext
from harness.kernel.middleware import CAPABILITY, CUSTOM, QUOTA, SAFETY, SCRUB, Stack

TENANT = TenantContext(tenant_id="t")


def _invocation(*messages: Message) -> ModelInvocation:
    return ModelInvocation(run_id="r", tenant=TENANT, model="m", prompt=messages[-1].text, messages=messages)


class Named(KernelMiddleware):
    def __init__(self, name: str, rank: int) -> None:
        self.name = name
        self.rank = rank  # type: ignore[misc]


def test_the_order_is_fixed_whatever_is_given() -> None:
    """Scrub, quota, capability, safety, then custom ones as they came."""
    given = [Named("c1", CUSTOM), Named("safety", SAFETY), Named("c2", CUSTOM), Named("pii", SCRUB), Named("quota", QUOTA)]

    stack = Stack([*given, CapabilityGuardMiddleware()])

    assert [getattr(item, "name", "guard") for item in stack.items] == ["pii", "quota", "guard", "safety", "c1", "c2"]
    assert CapabilityGuardMiddleware.rank == CAPABILITY


def test_middleware_without_hooks_costs_nothing() -> None:
    """A hook that nobody overrides is not called, so replay need not stop for it."""
    stack = Stack([KernelMiddleware(), CapabilityGuardMiddleware()])

    assert not stack.prepares_models
    assert not stack.prepares_tools


async def test_a_changed_prompt_replaces_the_newest_user_text() -> None:
    """A hook may change the prompt alone, or the messages; async or not."""

    class Upper(KernelMiddleware):
        async def prepare_model(self, invocation: ModelInvocation) -> ModelInvocation:
            return dataclasses.replace(invocation, prompt=invocation.prompt.upper())

    class Signed:
        def prepare_model(self, invocation: ModelInvocation) -> ModelInvocation:
            return dataclasses.replace(invocation, messages=(*invocation.messages, Message.system("signed")))

    stack = Stack([Upper(), Signed()])
    changed = await stack.prepare_model(_invocation(Message.system("be brief"), Message.user("hi")))

    assert [message.text for message in changed.messages] == ["be brief", "HI", "signed"]


async def test_a_hook_that_gives_nothing_back_is_told() -> None:
    """Forgetting to return the invocation is a clear error."""

    class Forgetful(KernelMiddleware):
        async def prepare_model(self, invocation: ModelInvocation) -> Any:
            return None

    with pytest.raises(TypeError, match=r"Forgetful\.prepare_model must give back a ModelInvocation"):
        await Stack([Forgetful()]).prepare_model(_invocation(Message.user("hi")))


async def test_tool_hooks_pass_json_on() -> None:
    """Arguments and results go through every hook in order."""

    class Adds(KernelMiddleware):
        rank: ClassVar[int] = CUSTOM

        def __init__(self, mark: str) -> None:
            self.mark = mark

        async def prepare_tool_request(self, **kwargs: Any) -> str:
            return kwargs["arguments_json"] + self.mark

        async def prepare_tool_result(self, **kwargs: Any) -> str:
            return kwargs["result_json"] + self.mark

    stack = Stack([Adds("1"), Adds("2")])

    assert await stack.prepare_tool_request(arguments_json="a", tool_name="t") == "a12"
    assert await stack.prepare_tool_result(result_json="r", tool_name="t") == "r12"
