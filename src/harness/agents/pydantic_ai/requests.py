"""One model request of the framework as a recorded model step, asked through the framework's own model."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, cast

from pydantic import TypeAdapter
from pydantic_ai.durable_exec import JSON_CODEC, ModelRequestParams
from pydantic_ai.exceptions import AgentRunError, ModelAPIError, ModelHTTPError
from pydantic_ai.messages import ModelResponse, ModelResponsePart, TextPart, ToolCallPart
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.settings import ModelSettings
from pydantic_ai.usage import RequestUsage
from pydantic_core import to_jsonable_python

from harness.agents.pydantic_ai.messages import PROVIDER, Conversation, call_of
from harness.errors import ModelError, ModelMalformed, ModelUnavailable, UsageError
from harness.kernel import (
    ForeignRequest,
    ModelCallOptions,
    ModelRequest,
    ModelResult,
    Native,
    StepModelResult,
    StopReason,
    ToolDefinition,
    Usage,
)

Ask = Callable[[ModelRequestParams], Awaitable[ModelResponse]]

_RETRIED = frozenset({408, 409, 429})
_OPTIONS = {"temperature": "temperature", "top_p": "top_p", "max_tokens": "max_tokens", "seed": "seed"}
_TOLD_ELSEWHERE = frozenset({"function_tools", "output_tools", "instruction_parts"})  # as tools and messages
_STOPS: Mapping[str | None, StopReason] = {
    None: "end", "stop": "end", "length": "max_tokens", "content_filter": "refusal", "tool_call": "tool_calls",
}  # fmt: skip
_RESPONSE: TypeAdapter[ModelResponse] = TypeAdapter(ModelResponse)


def request_of(params: ModelRequestParams, ask: Ask) -> ForeignRequest:
    """What the step is asked: every input that could change the answer, and nothing that changes by itself."""
    conversation = Conversation(params.messages, params.model_request_parameters)
    settings = cast("dict[str, Any]", dict(params.model_settings or {}))
    shown = (*params.model_request_parameters.function_tools, *params.model_request_parameters.output_tools)
    tools = [ToolDefinition(name=t.name, description=t.description or "", input_schema=t.parameters_json_schema) for t in shown]
    return ForeignRequest(
        model=_model_name(params), messages=conversation.messages, port=_Port(params, conversation, ask), tools=tools,
        options=_options(settings), settings=_others(settings, params.model_request_parameters),
    )  # fmt: skip


def response_of(result: StepModelResult) -> ModelResponse:
    """The framework's answer from the step's; without its own form, which personal data may forbid, by what is left."""
    if result.native is not None and result.native.provider == PROVIDER:
        return cast("ModelResponse", JSON_CODEC.load(ModelResponse, result.native.blocks[0]))
    texts: list[ModelResponsePart] = [TextPart(result.text)] if result.text else []
    calls = [ToolCallPart(call.name, call.arguments_json, call.id) for call in result.tool_calls]
    used = result.usage
    usage = RequestUsage(
        input_tokens=used.input_tokens + used.cache_read_tokens + used.cache_write_tokens, output_tokens=used.output_tokens,
        cache_read_tokens=used.cache_read_tokens, cache_write_tokens=used.cache_write_tokens,
    )  # fmt: skip
    return ModelResponse([*texts, *calls], usage=usage, model_name=result.model or None)


def _model_name(params: ModelRequestParams) -> str:
    model = params.run_context.model
    return params.model_id or getattr(model, "model_id", None) or type(model).__name__


def _options(settings: Mapping[str, Any]) -> ModelCallOptions:
    found = {name: settings[key] for key, name in _OPTIONS.items() if settings.get(key) is not None}
    timeout = settings.get("timeout")
    if isinstance(timeout, int | float) and timeout > 0:
        found["timeout"] = float(timeout)
    return ModelCallOptions(stop=tuple(settings.get("stop_sequences") or ()), **found)


def _others(settings: Mapping[str, Any], parameters: ModelRequestParameters) -> dict[str, Any] | None:
    """Settings and parameters that the kernel has no name for, as far as they differ from what they are by default."""
    plain, others = ModelRequestParameters(), {k: v for k, v in settings.items() if k not in (*_OPTIONS, "stop_sequences")}
    if isinstance(others.get("timeout"), int | float):
        del others["timeout"]
    shape: dict[str, Any] = {}
    for field in dataclasses.fields(parameters):
        value = getattr(parameters, field.name)
        if field.name not in _TOLD_ELSEWHERE and not field.name.startswith("_") and value != getattr(plain, field.name):
            shape[field.name] = sorted(cast("set[str]", value)) if isinstance(value, set) else value
    told = {key: value for key, value in (("settings", others), ("parameters", shape)) if value}
    return to_jsonable_python(told, fallback=lambda value: type(value).__qualname__, bytes_mode="base64") if told else None


class _Port:
    """Asks the framework's model once."""

    def __init__(self, params: ModelRequestParams, conversation: Conversation, ask: Ask) -> None:
        self._params = params
        self._conversation = conversation
        self._ask = ask
        self._model = _model_name(params)

    async def complete(self, request: ModelRequest) -> ModelResult:
        """One attempt, with what middleware made of the request."""
        if request.model != self._model:
            raise UsageError(f"a middleware changed the model to {request.model!r}; under Pydantic AI the agent chooses it")
        messages, parameters = self._conversation.changed(request.messages)
        params = dataclasses.replace(
            self._params, messages=messages, model_request_parameters=parameters,
            model_settings=self._settings(request.options),
        )  # fmt: skip
        try:
            response = await self._ask(params)
        except (ModelError, UsageError):
            raise
        except ModelAPIError as error:
            raise _failure(error) from error
        except AgentRunError as error:
            raise ModelMalformed(_line(error)) from error
        return _result(response)

    def _settings(self, options: ModelCallOptions) -> ModelSettings | None:
        settings = cast("dict[str, Any]", dict(self._params.model_settings or {}))
        before = _options(settings)
        for key, name in (*_OPTIONS.items(), ("timeout", "timeout"), ("stop_sequences", "stop")):
            value = getattr(options, name)
            if value != getattr(before, name):
                settings[key] = list(cast("tuple[str, ...]", value)) if isinstance(value, tuple) else value
        return cast("ModelSettings", settings) if settings else self._params.model_settings


def _failure(error: ModelAPIError) -> ModelError:
    """What kind of failure it is: worth another attempt, or not."""
    if isinstance(error, ModelHTTPError):
        passing = error.status_code in _RETRIED or error.status_code >= 500
        return ModelUnavailable(_line(error)) if passing else ModelError(_line(error))
    return ModelUnavailable(_line(error))


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"


def _result(response: ModelResponse) -> ModelResult:
    usage, cached = response.usage, response.usage.cache_read_tokens + response.usage.cache_write_tokens
    calls = tuple(call_of(part) for part in response.parts if isinstance(part, ToolCallPart))
    native = Native(provider=PROVIDER, blocks=(_RESPONSE.dump_python(response, mode="json"),))
    stop = "tool_calls" if calls else _STOPS.get(response.finish_reason, "other")
    return ModelResult(
        text="".join(part.content for part in response.parts if isinstance(part, TextPart)), tool_calls=calls,
        usage=Usage(
            input_tokens=max(0, usage.input_tokens - cached), output_tokens=usage.output_tokens,
            cache_read_tokens=usage.cache_read_tokens, cache_write_tokens=usage.cache_write_tokens,
        ),
        stop_reason=stop, model=response.model_name or "", native=native,
    )  # fmt: skip
