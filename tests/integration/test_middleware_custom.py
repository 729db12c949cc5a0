"""Middleware that users write: of any class, async or not; and what a bad one does, which is one clear error."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from harness.errors import CapabilityDenied, OutcomeUnknown, StepFailed, UsageError
from harness.kernel import Kernel, MockModelPort, ModelInput, TenantContext
from harness.ledger import MemoryStore, SQLiteStore
from harness.middleware import (
    CapabilityGuardMiddleware,
    PIIScrubberMiddleware,
    PresidioDetector,
    QuotaMiddleware,
    SafetyPolicyMiddleware,
)
from harness.middleware.base import KernelMiddleware, ModelInvocation

Store = MemoryStore | SQLiteStore
TENANT = TenantContext(tenant_id="t", capabilities=frozenset({"shell"}))


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    made: Store = MemoryStore() if request.param == "memory" else SQLiteStore(tmp_path / "k.db")
    yield made
    await made.close()


async def kernel_with(store: Store, *middleware: Any, port: Any = None) -> Kernel:
    kernel = Kernel(store=store, model_port=port or MockModelPort(text="ok"), middleware=list(middleware))

    @kernel.tool()
    async def look(what: str) -> dict[str, str]:
        return {"saw": what}

    @kernel.tool(side_effect=True)
    async def act(what: str) -> str:
        return what

    await kernel.start_run(tenant=TENANT, run_id="r")
    return kernel


def ask(kernel: Kernel, prompt: str = "hi", **more: Any) -> Any:
    return kernel.step_model(run_id="r", tenant=TENANT, model="m", input=ModelInput.from_prompt(prompt), **more)


def use(kernel: Kernel, tool: str = "look", what: str = "x", **more: Any) -> Any:
    return kernel.step_tool(run_id="r", tenant=TENANT, tool_name=tool, arguments={"what": what}, **more)


class BlockKeywordMiddleware(KernelMiddleware):
    def __init__(self, keyword: str) -> None:
        self.keyword = keyword

    async def prepare_model(self, invocation: ModelInvocation) -> ModelInvocation:
        if self.keyword in invocation.prompt:
            raise ValueError(f"Prompt contains blocked keyword: {self.keyword}")
        return invocation

    async def before_model(self, **kwargs: Any) -> None:
        return None

    async def after_model(self, **kwargs: Any) -> None:
        return None

    async def prepare_tool_request(self, **kwargs: Any) -> str:
        return kwargs["arguments_json"]

    async def prepare_tool_result(self, **kwargs: Any) -> str:
        return kwargs["result_json"]


async def test_the_documented_keyword_middleware_works(store: Store) -> None:
    """With all built-in ones, which construct without arguments, in any order."""
    port = MockModelPort(text="ok")
    kernel = await kernel_with(
        store, BlockKeywordMiddleware("secret plan"), SafetyPolicyMiddleware(), CapabilityGuardMiddleware(), QuotaMiddleware(),
        PIIScrubberMiddleware(), port=port,
    )  # fmt: skip
    await ask(kernel, "a plan")
    await use(kernel)
    with pytest.raises(ValueError, match="blocked keyword"):
        await ask(kernel, "the secret plan")

    last = (await kernel.get_events(run_id="r"))[-1]
    assert (last.type, last.payload["error"]) == ("step.rejected", "ValueError")
    assert port.calls == 1


async def test_any_object_with_hooks_is_middleware(store: Store) -> None:
    """Of no class of ours, with plain methods, with only some of the hooks; each gets the documented words."""
    seen: dict[str, set[str]] = {}

    class Plain:
        def prepare_model(self, invocation: ModelInvocation) -> ModelInvocation:
            seen["prepare_model"] = {invocation.prompt, invocation.run_id}
            return invocation

        def before_model(self, **kwargs: Any) -> None:
            seen["before_model"] = set(kwargs)

        async def after_model(self, **kwargs: Any) -> None:
            seen["after_model"] = set(kwargs)

        def prepare_tool_request(self, *, arguments_json: str, **kwargs: Any) -> str:
            seen["prepare_tool_request"] = set(kwargs)
            return arguments_json.replace("x", "y")

        def prepare_tool_result(self, *, result_json: str, tool_name: str, **kwargs: Any) -> str:
            return result_json.replace("y", "z")

    kernel = await kernel_with(store, Plain())
    await ask(kernel)

    assert (await use(kernel)).result == {"saw": "z"}
    assert seen["prepare_model"] == {"hi", "r"}
    assert {"run_id", "tenant", "model", "step", "prompt", "reserved_usd"} <= seen["before_model"]
    assert {"run_id", "tenant", "model", "step", "usage", "output", "text", "tool_calls"} <= seen["after_model"]
    assert {"run_id", "tenant", "tool_name", "step"} <= seen["prepare_tool_request"]


def hook(name: str, given: Any) -> Any:
    """A middleware whose hook gives, or raises, this."""

    def called(*_: Any, **__: Any) -> Any:
        if isinstance(given, BaseException):
            raise given
        return given

    return type("Bad", (), {name: staticmethod(called)})()


@pytest.mark.parametrize(
    ("name", "given", "error", "told"),
    [
        ("prepare_model", None, TypeError, "must give back a ModelInvocation, not NoneType"),
        ("prepare_model", "hi", TypeError, "must give back a ModelInvocation, not str"),
        ("prepare_model", StopIteration("odd"), RuntimeError, "StopIteration"),
        ("before_model", KeyError("missing"), KeyError, "missing"),
        ("prepare_tool_request", None, TypeError, "must give back arguments_json as text, not NoneType"),
        ("prepare_tool_request", {"what": "x"}, TypeError, "as text, not dict"),
        ("prepare_tool_request", "no json", Exception, "no JSON object"),
        ("prepare_tool_request", "[1]", Exception, "a JSON object"),
    ],
)
async def test_a_bad_hook_before_the_call_refuses_the_step(store: Store, name: str, given: Any, error: Any, told: str) -> None:
    """One error that names the hook; the refusal is an event; nothing was called."""
    port = MockModelPort(text="ok")
    kernel = await kernel_with(store, hook(name, given), port=port)
    with pytest.raises(error, match=told):
        await (use(kernel) if "tool" in name else ask(kernel))

    last = (await kernel.get_events(run_id="r"))[-1]
    assert (last.type, last.payload["reason"]) == ("step.rejected", "middleware")
    assert port.calls == 0


@pytest.mark.parametrize("given", [None, b"{}", "no json", ValueError("broken")])
async def test_a_bad_hook_after_a_tool_never_hides_that_it_ran(store: Store, given: Any) -> None:
    """A pure step failed; of a side effect the outcome is to be settled, since it did happen."""
    kernel = await kernel_with(store, hook("prepare_tool_result", given))
    with pytest.raises(StepFailed):
        await use(kernel)
    with pytest.raises(OutcomeUnknown, match="it ran, but middleware did not take its result"):
        await use(kernel, "act", step_key="a")
    settled = await kernel.reconcile_tool(
        run_id="r", tenant=TENANT, tool_name="act", step_key="a", outcome="completed", result="x"
    )

    assert settled is not None
    assert settled.result == "x"


async def test_a_hook_that_refuses_an_answer_fails_the_step(store: Store) -> None:
    """The call was made and paid, so it is a failure, and stays one."""
    port = MockModelPort(text="bad words")
    kernel = await kernel_with(store, hook("after_model", PermissionError("bad words")), port=port)
    for _ in range(2):
        with pytest.raises(StepFailed, match="bad words"):
            await ask(kernel, step_key="a")

    assert port.calls == 1


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ([42], "int.* is no middleware: it has none of the hooks"),
        ([PIIScrubberMiddleware], r"PIIScrubberMiddleware is a class; give an object: PIIScrubberMiddleware\(\)"),
        (PIIScrubberMiddleware(), "middleware is a list"),
        ("pii", "middleware is a list"),
        ([type("Odd", (), {"before_model": 1})()], "before_model is no method"),
        ([object()], "none of the hooks"),
    ],
)
def test_what_is_no_middleware_is_refused_when_the_kernel_is_made(given: Any, told: str) -> None:
    """Not at the first step."""
    with pytest.raises(UsageError, match=told):
        Kernel(store=MemoryStore(), middleware=given)


async def test_the_guard_asks_capabilities_of_tools_that_declare_none(store: Store) -> None:
    """Not shown, explained as filtered, and not callable; listing, explaining and calling agree."""
    kernel = await kernel_with(store, CapabilityGuardMiddleware({"look": "eyes", "act": "shell"}))
    told = await kernel.describe_capabilities(tenant=TENANT)

    assert [tool.name for tool in kernel.list_tools_for_tenant(tenant=TENANT)] == told["final_allowed_tools"] == ["act"]
    assert told["decisions"][1]["required_capability"] == "eyes"
    await use(kernel, "act")
    with pytest.raises(CapabilityDenied, match="look needs the capability 'eyes'"):
        await use(kernel, "look")


def test_presidio_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it one sentence says what to install; with it its findings are ours."""
    monkeypatch.setitem(sys.modules, "presidio_analyzer", None)
    with pytest.raises(UsageError, match=r"pip install 'agentharness\[presidio\]'"):
        PresidioDetector()

    class Result:
        start, end, score, entity_type = 0, 3, 0.9, "PERSON"

    class Analyzer:
        def analyze(self, *, text: str, language: str, entities: object) -> list[Result]:
            return [Result()] if text.startswith("Ann") else []

    (found,) = PresidioDetector(analyzer=Analyzer()).find("Ann is here")
    assert tuple(found) == (0, 3, "PERSON")
