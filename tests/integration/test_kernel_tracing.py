"""Spans of real calls, by the conventions for generative AI, and none for replay."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("opentelemetry.sdk")

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from harness.agents import AutonomousAgent
from harness.errors import ModelUnavailable, StepFailed
from harness.kernel import (
    Kernel,
    KernelPolicy,
    ModelCallOptions,
    ModelResult,
    ScriptedModelPort,
    TenantContext,
    ToolCall,
    ToolRegistry,
    Tracing,
    Usage,
)
from harness.ledger import MemoryStore

TENANT = TenantContext(tenant_id="ops")
SCRIPT = [
    ToolCall(id="1", name="look", arguments_json='{"path": "/secret"}'),
    ModelResult(text="all well, secret", usage=Usage(input_tokens=10, cache_read_tokens=5, output_tokens=3), model="m-2"),
]


class Bench:
    """A traced agent; every pass has a kernel of its own, as after a restart."""

    def __init__(self, *script: Any, capture_content: bool = False) -> None:
        self.spans = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self.spans))
        self.reader = InMemoryMetricReader()
        self.tracing = Tracing(
            tracer_provider=provider, meter_provider=MeterProvider([self.reader]), capture_content=capture_content
        )
        self.store = MemoryStore()
        self.port = ScriptedModelPort(script, by_history=True)

    async def run(self) -> str:
        tools = ToolRegistry()

        @tools.tool
        async def look(path: str) -> str:
            """Look at a file."""
            return f"seen {path}"

        policy = KernelPolicy(retry_base_seconds=0.001)
        async with Kernel(store=self.store, model_port=self.port, policy=policy, tracing=self.tracing) as kernel:
            result = await AutonomousAgent(kernel, tools=tools, model_options=ModelCallOptions(temperature=0.5)).run(
                run_id="r", tenant=TENANT, model="anthropic:m", system_prompt="Secret.", prompt="all secret?"
            )
        return result.text

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.spans.get_finished_spans() if span.name == name]


async def test_a_run_has_its_spans_and_its_replay_has_none() -> None:
    """invoke_agent holds two chats and a tool; run again, nothing is emitted a second time."""
    bench = Bench(*SCRIPT)
    await bench.run()
    names = sorted(span.name for span in bench.spans.get_finished_spans())

    await bench.run()

    assert names == ["chat m", "chat m", "execute_tool look", "invoke_agent agent"]
    assert len(bench.spans.get_finished_spans()) == 4
    (agent,) = bench.named("invoke_agent agent")
    others = [span for span in bench.spans.get_finished_spans() if span is not agent]
    assert all(span.parent is not None and span.parent.span_id == agent.context.span_id for span in others)


async def test_spans_tell_the_call_by_the_conventions_and_not_a_word_of_its_content() -> None:
    """Model, provider, options, tokens, run and step; what was said only where that is asked for."""
    bench, open_ = Bench(*SCRIPT), Bench(*SCRIPT, capture_content=True)
    await bench.run()
    await open_.run()
    chat = dict(bench.named("chat m")[1].attributes or {})

    assert chat == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "anthropic",
        "gen_ai.request.model": "m",
        "gen_ai.request.temperature": 0.5,
        "gen_ai.conversation.id": "r",
        "gen_ai.response.model": "m-2",
        "gen_ai.response.finish_reasons": ("end",),
        "gen_ai.usage.input_tokens": 15,
        "gen_ai.usage.output_tokens": 3,
        "gen_ai.usage.cache_read.input_tokens": 5,
        "gen_ai.usage.cache_creation.input_tokens": 0,
        "harness.step": "agent/turn-2",
        "harness.tenant.id": "ops",
    }
    assert "secret" not in "".join(span.to_json() for span in bench.spans.get_finished_spans()).lower()
    assert "all well, secret" in "".join(span.to_json() for span in open_.spans.get_finished_spans())


async def test_errors_and_retries_are_on_the_spans() -> None:
    """A call that failed is an error span, and the agent's span notes that it was tried again."""
    failures = [ModelUnavailable("away: secret words")]

    def flaky(_: Any) -> Any:
        return failures.pop() if failures else "well"

    bench = Bench(flaky)
    await bench.run()
    failed, well = bench.named("chat m")
    (agent,) = bench.named("invoke_agent agent")

    assert failed.status.status_code is StatusCode.ERROR
    assert (failed.attributes or {})["error.type"] == "ModelUnavailable"
    assert well.status.status_code is StatusCode.UNSET
    assert [event.name for event in agent.events] == ["harness.retry"]
    assert "secret" not in failed.to_json()


async def test_a_tool_that_fails_is_an_error_span() -> None:
    """Its type is told, its words are in the ledger."""
    bench = Bench()
    async with Kernel(store=bench.store, tracing=bench.tracing) as kernel:

        @kernel.tool()
        async def odd() -> str:
            raise ValueError("secret")

        await kernel.start_run(tenant=TENANT, run_id="r")
        with pytest.raises(StepFailed):
            await kernel.step_tool(run_id="r", tenant=TENANT, tool_name="odd")
    (span,) = bench.spans.get_finished_spans()

    assert (span.name, (span.attributes or {})["error.type"]) == ("execute_tool odd", "ValueError")


async def test_tokens_and_durations_are_measured() -> None:
    """The two metrics of the conventions, with few attributes."""
    bench = Bench(*SCRIPT)
    await bench.run()
    data = bench.reader.get_metrics_data()
    assert data is not None
    metrics = {m.name: m for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics}
    points = metrics["gen_ai.client.token.usage"].data.data_points
    totals = {point.attributes["gen_ai.token.type"]: point.sum for point in points}  # type: ignore[union-attr,index]

    assert totals["input"] == 15
    assert totals["output"] == 3
    assert metrics["gen_ai.client.operation.duration"].unit == "s"


async def test_without_a_provider_nothing_is_wrapped() -> None:
    """A kernel that is not traced makes its calls as they are."""
    async with Kernel(store=MemoryStore()) as kernel, Kernel(store=MemoryStore(), tracing=False) as off:
        assert kernel.agent_span("a", "r").__class__.__name__ == "nullcontext"
        assert off.agent_span("a", "r").__class__.__name__ == "nullcontext"
