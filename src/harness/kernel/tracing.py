"""Spans and metrics of what is really done, by OpenTelemetry's semantic conventions for generative AI.

A span is made where a model is asked and where a tool is run, so replay makes none. A kernel without tracing pays
nothing for it: the calls are wrapped when the kernel is made, or not at all. `opentelemetry` is loaded then.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Awaitable, Callable, Generator, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

import msgspec

from harness.errors import ModelUnavailable
from harness.kernel.ports import ModelResult, Usage

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import Span, TracerProvider

    from harness.kernel.model_call import Ask, Caller
    from harness.kernel.runs import RunState
    from harness.kernel.tool_call import ToolAsk, ToolCalls
    from harness.kernel.tools import Tool, ToolExecutionContext

# The one table of names. https://opentelemetry.io/docs/specs/semconv/gen-ai/
OPERATION: Final = "gen_ai.operation.name"
PROVIDER: Final = "gen_ai.provider.name"
CONVERSATION: Final = "gen_ai.conversation.id"  # the run
AGENT_NAME: Final = "gen_ai.agent.name"
REQUEST_MODEL: Final = "gen_ai.request.model"
RESPONSE_MODEL: Final = "gen_ai.response.model"
FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"  # cached ones included
OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
CACHE_READ_TOKENS: Final = "gen_ai.usage.cache_read.input_tokens"
CACHE_WRITE_TOKENS: Final = "gen_ai.usage.cache_creation.input_tokens"
INPUT_MESSAGES: Final = "gen_ai.input.messages"
OUTPUT_MESSAGES: Final = "gen_ai.output.messages"
TOOL_NAME: Final = "gen_ai.tool.name"
TOOL_TYPE: Final = "gen_ai.tool.type"
TOOL_ARGUMENTS: Final = "gen_ai.tool.call.arguments"
TOOL_RESULT: Final = "gen_ai.tool.call.result"
TOKEN_TYPE: Final = "gen_ai.token.type"  # noqa: S105 - of tokens that are counted
ERROR_TYPE: Final = "error.type"
STEP: Final = "harness.step"  # the event of a span is the newest of this key in the run
TENANT: Final = "harness.tenant.id"
RETRY: Final = "harness.retry"  # an event of the agent's span
OPTIONS: Final[Mapping[str, str]] = {
    "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p",
    "max_tokens": "gen_ai.request.max_tokens",
    "seed": "gen_ai.request.seed",
    "stop": "gen_ai.request.stop_sequences",
}
TOKENS_METRIC: Final = "gen_ai.client.token.usage"
DURATION_METRIC: Final = "gen_ai.client.operation.duration"

_agent: ContextVar[_Agent | None] = ContextVar("harness_traced_agent", default=None)


class Tracing:
    """Whether and how a kernel's calls are traced: by the global providers, or by these.

    With `capture_content` the spans hold what was asked and answered; without it they hold no word of it. What a
    scrubber keeps from the ledger it keeps from the spans.
    """

    def __init__(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        capture_content: bool = False,
    ) -> None:
        from opentelemetry import metrics, trace

        self.capture_content = capture_content
        self.tracer = trace.get_tracer("harness", tracer_provider=tracer_provider)
        meter = metrics.get_meter("harness", meter_provider=meter_provider)
        self.tokens = meter.create_histogram(TOKENS_METRIC, unit="{token}", description="Tokens of model calls")
        self.duration = meter.create_histogram(DURATION_METRIC, unit="s", description="How long calls take")

    def watch(self, caller: Caller, calls: ToolCalls) -> None:
        """Trace every call that these make from now on."""
        caller.complete = _model(self, caller.complete)
        calls.run = _tool(self, calls.run)

    @contextlib.contextmanager
    def agent(self, name: str, run_id: str) -> Generator[None]:
        """What is called inside belongs to an `invoke_agent` span, which is made with the first real call."""
        agent = _Agent(self, name, run_id)
        token = _agent.set(agent)
        try:
            yield
        except Exception as error:
            agent.failed(error)
            raise
        finally:
            _agent.reset(token)
            agent.end()

    @contextlib.contextmanager
    def call(self, name: str, operation: str, attributes: dict[str, Any]) -> Generator[Span]:
        """A span around a real call, below the agent's, with its duration and how it failed."""
        from opentelemetry import trace

        agent = _agent.get()
        parent = None if agent is None else agent.begun()
        attributes = {OPERATION: operation, **attributes}
        kind = trace.SpanKind.CLIENT if operation == "chat" else trace.SpanKind.INTERNAL
        begun = time.perf_counter()
        span = self.tracer.start_span(name, context=parent, kind=kind, attributes=attributes)
        measured = {key: attributes[key] for key in (OPERATION, PROVIDER, REQUEST_MODEL, TOOL_NAME) if key in attributes}
        try:
            with trace.use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
                try:
                    yield span
                except BaseException as error:
                    fail(span, error)
                    measured[ERROR_TYPE] = type(error).__name__
                    if agent is not None and isinstance(error, ModelUnavailable):
                        agent.retrying(error)
                    raise
        finally:
            self.duration.record(time.perf_counter() - begun, measured)


def tracing_of(given: Tracing | bool | None) -> Tracing | None:
    """The tracing that a kernel is to use. None means: if this process has set a tracer provider."""
    if isinstance(given, Tracing):
        return given
    if given is None:
        trace = sys.modules.get("opentelemetry.trace")
        given = trace is not None and not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
    return Tracing() if given else None


def fail(span: Span, error: BaseException) -> None:
    """Say on a span how its call failed; the words of the error are in the ledger."""
    from opentelemetry.trace import Status, StatusCode

    span.set_attribute(ERROR_TYPE, type(error).__name__)
    span.add_event("exception", {"exception.type": type(error).__name__})
    span.set_status(Status(StatusCode.ERROR, type(error).__name__))


class _Agent:
    """An agent at work, whose span begins with its first real call: a replay has none."""

    def __init__(self, tracing: Tracing, name: str, run_id: str) -> None:
        self._tracing = tracing
        self._name = name
        self._run_id = run_id
        self._begun_ns = time.time_ns()
        self._outer = _agent.get()
        self._span: Span | None = None

    def begun(self) -> Any:
        """The context to make spans in."""
        from opentelemetry import trace

        if self._span is None:
            attributes = {OPERATION: "invoke_agent", AGENT_NAME: self._name, CONVERSATION: self._run_id}
            parent = self._outer.begun() if self._outer is not None else None
            name = f"invoke_agent {self._name}"
            self._span = self._tracing.tracer.start_span(name, context=parent, attributes=attributes, start_time=self._begun_ns)
        return trace.set_span_in_context(self._span)

    def retrying(self, error: Exception) -> None:
        if self._span is not None:
            self._span.add_event(RETRY, {ERROR_TYPE: type(error).__name__})

    def failed(self, error: Exception) -> None:
        if self._span is not None:
            fail(self._span, error)

    def end(self) -> None:
        if self._span is not None:
            self._span.end()


_Complete = Callable[["RunState", "Ask"], Awaitable[ModelResult]]


def _model(tracing: Tracing, complete: _Complete) -> Any:
    async def traced(run: RunState, ask: Ask) -> ModelResult:
        attributes = _asked(run, ask)
        if tracing.capture_content:
            attributes[INPUT_MESSAGES] = msgspec.json.encode(ask.messages).decode()
        with tracing.call(f"chat {attributes[REQUEST_MODEL]}", "chat", attributes) as span:
            result = await complete(run, ask)
            span.set_attributes(_answered(result))
            if tracing.capture_content:
                span.set_attribute(OUTPUT_MESSAGES, msgspec.json.encode((result.message(),)).decode())
            _count(tracing, attributes[REQUEST_MODEL], result.usage)
            return result

    return traced


def _asked(run: RunState, ask: Ask) -> dict[str, Any]:
    provider, _, model = ask.model.partition(":") if ":" in ask.model else ("harness", "", ask.model)
    attributes: dict[str, Any] = {
        PROVIDER: provider, REQUEST_MODEL: model, CONVERSATION: run.run_id, STEP: ask.step, TENANT: run.tenant_id,
    }  # fmt: skip
    for option, name in OPTIONS.items():
        value = getattr(ask.options, option)
        if value is not None and value != ():
            attributes[name] = value
    return attributes


def _answered(result: ModelResult) -> dict[str, Any]:
    usage = result.usage
    attributes: dict[str, Any] = {
        INPUT_TOKENS: _input_tokens(usage), OUTPUT_TOKENS: usage.output_tokens, FINISH_REASONS: (result.stop_reason,),
    }  # fmt: skip
    if result.model:
        attributes[RESPONSE_MODEL] = result.model
    if usage.cache_read_tokens or usage.cache_write_tokens:
        attributes |= {CACHE_READ_TOKENS: usage.cache_read_tokens, CACHE_WRITE_TOKENS: usage.cache_write_tokens}
    return attributes


def _input_tokens(usage: Usage) -> int:
    return usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens


def _count(tracing: Tracing, model: str, usage: Usage) -> None:
    for kind, count in (("input", _input_tokens(usage)), ("output", usage.output_tokens)):
        tracing.tokens.record(count, {OPERATION: "chat", REQUEST_MODEL: model, TOKEN_TYPE: kind})


def _tool(tracing: Tracing, call: Callable[..., Awaitable[bytes]]) -> Any:
    async def traced(
        run: RunState, ask: ToolAsk, tool: Tool, bound: Mapping[str, Any], *, context: ToolExecutionContext
    ) -> bytes:
        attributes: dict[str, Any] = {
            TOOL_NAME: tool.name, TOOL_TYPE: "function", CONVERSATION: run.run_id, STEP: ask.step, TENANT: run.tenant_id,
        }  # fmt: skip
        if tracing.capture_content:
            attributes[TOOL_ARGUMENTS] = ask.arguments_json.decode()
        with tracing.call(f"execute_tool {tool.name}", "execute_tool", attributes) as span:
            result = await call(run, ask, tool, bound, context=context)
            if tracing.capture_content:
                span.set_attribute(TOOL_RESULT, result.decode())
            return result

    return traced
