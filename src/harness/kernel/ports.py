"""The seam to a model: what is asked, what is answered, and two ports that need no provider.

Owns the vocabulary (`Message`, `ToolCall`, `ModelRequest`, `ModelResult`, …), the `ModelPort` promise, a mock and a
scripted port. Providers live in `kernel.providers`; recording, retries, budgets and replay are the kernel's.

The structs leave out fields at their default when encoded, so a field that is added later does not change the bytes,
and so not the hash, of what older versions recorded.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any, Literal, Protocol, Self, TypeAlias, cast, runtime_checkable

import msgspec

from harness.errors import ModelMalformed, UsageError
from harness.kernel.bounds import is_number

Role = Literal["system", "user", "assistant", "tool"]
StopReason = Literal["end", "tool_calls", "max_tokens", "stop_sequence", "refusal", "other"]
ReasoningEffort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
RiskLevel = Literal["low", "medium", "high", "critical"]
JSONSchema: TypeAlias = Mapping[str, Any]
OutputSchema: TypeAlias = type[Any] | JSONSchema
"""What the answer must look like: a pydantic model or any type that pydantic can check, or a JSON schema."""


class ToolCall(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A model asks for a tool. The arguments are kept as the model wrote them, which may not be JSON."""

    id: str  # unique within the conversation; the tool's result names it
    name: str
    arguments_json: str = "{}"

    def arguments(self) -> dict[str, Any]:
        """The arguments as a mapping. Raises `ValueError` saying what is wrong with them."""
        try:
            value = msgspec.json.decode(self.arguments_json.encode() or b"{}")
        except (msgspec.DecodeError, UnicodeEncodeError) as error:
            raise ValueError(f"the arguments of {self.name} are not JSON: {error}") from error
        if not isinstance(value, dict):
            raise ValueError(f"the arguments of {self.name} must be a JSON object, not {type(value).__name__}")
        return cast("dict[str, Any]", value)


class Native(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A provider's own form of an assistant's turn (signed thinking, encrypted reasoning), to be sent back unchanged.

    Only the provider of this name may read `blocks`; all others use the message's text and tool calls.
    """

    provider: str
    blocks: tuple[Mapping[str, Any], ...] = ()


class Message(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One entry of a conversation.

    `tool_calls` and `native` belong to the assistant's messages; `tool_call_id` and `is_error` to a tool's result.
    """

    role: Role
    text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    is_error: bool = False
    native: Native | None = None

    @classmethod
    def system(cls, text: str) -> Self:
        return cls(role="system", text=text)

    @classmethod
    def user(cls, text: str) -> Self:
        return cls(role="user", text=text)

    @classmethod
    def assistant(cls, text: str = "", *, tool_calls: Sequence[ToolCall] = ()) -> Self:
        return cls(role="assistant", text=text, tool_calls=tuple(tool_calls))

    @classmethod
    def tool(cls, call: ToolCall, text: str, *, is_error: bool = False) -> Self:
        """The result of `call`."""
        return cls(role="tool", text=text, tool_call_id=call.id, is_error=is_error)


class ToolDefinition(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A tool as it is declared. A model sees `name`, `description` and `input_schema`, and nothing else."""

    name: str
    description: str = ""
    input_schema: JSONSchema = msgspec.field(default_factory=lambda: {"type": "object", "properties": {}})
    requires_capability: str | None = None
    side_effect: bool = False
    risk_level: RiskLevel = "medium"
    tool_version: str = "1.0.0"
    schema_version: str = "1"


class Usage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a call cost. Every token is counted in exactly one field, so `input_tokens` holds no cached ones."""

    input_tokens: int = 0
    output_tokens: int = 0  # reasoning included
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cost_usd: float | None = None  # None: the port does not know, which is not the same as free

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.output_tokens + self.cache_read_tokens + self.cache_write_tokens


class ModelCallOptions(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How to call. None leaves a choice to the provider; a provider that has no such option says so by `UsageError`."""

    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    timeout: float | None = None  # seconds for the whole call
    reasoning_effort: ReasoningEffort | None = None

    def __post_init__(self) -> None:
        for name, low in (("temperature", 0.0), ("top_p", 0.0), ("max_tokens", 1), ("timeout", 0.0)):
            value = getattr(self, name)
            if value is None:
                continue
            if not is_number(value) or value < low:
                raise UsageError(f"{name} is a number of at least {low:g}, not {value!r}")
        if self.timeout == 0:
            raise UsageError("timeout is a number of seconds above 0")
        if isinstance(self.stop, str) or not all(isinstance(text, str) for text in self.stop):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise UsageError(f"stop is several texts, not {self.stop!r}")
        if not isinstance(self.stop, tuple):  # pyright: ignore[reportUnnecessaryIsInstance]
            msgspec.structs.force_setattr(self, "stop", tuple(self.stop))


class ModelRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One call of a model: everything that a port may look at."""

    model: str
    messages: tuple[Message, ...]
    allowed_tools: tuple[ToolDefinition, ...] = ()
    output_schema: OutputSchema | None = None  # as the caller gave it; `json_schema` has one form of it
    options: ModelCallOptions = ModelCallOptions()
    run_id: str = ""  # for the port's own records; no input of the answer

    @property
    def prompt(self) -> str:
        """The newest user text."""
        return next((message.text for message in reversed(self.messages) if message.role == "user"), "")

    @property
    def tools(self) -> tuple[ToolDefinition, ...]:
        """The same as `allowed_tools`."""
        return self.allowed_tools

    @property
    def json_schema(self) -> dict[str, Any] | None:
        """`output_schema` as a JSON schema."""
        return None if self.output_schema is None else json_schema_of(self.output_schema)


class ModelResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A model's answer.

    `output` is the structured answer where one was asked for (JSON values, or an instance of the asked type; the
    kernel checks it against the schema), else None. An answer with `tool_calls` is not final, and has no `output`.
    """

    output: Any = None
    text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    usage: Usage = Usage()
    stop_reason: StopReason = "end"
    model: str = ""  # what the provider says it used; empty: what was asked for
    native: Native | None = None

    def message(self) -> Message:
        """The answer as the assistant's message, to go on with."""
        return Message(role="assistant", text=self.text, tool_calls=self.tool_calls, native=self.native)


@runtime_checkable
class ModelPort(Protocol):
    """A way to a model. Promises:

    * One call is one attempt: a port never retries by itself, since every attempt is on the ledger.
    * `ModelUnavailable` for what may pass (timeout, connection, 408, 409, 429, 5xx), `ModelMalformed` for an answer that
      is not what was asked for, `ModelError` for what will fail again (refused key, unknown model, bad request). One
      line each, without a secret. Anything else that leaves `complete` is a defect of the port.
    * It ends within `request.options.timeout` (or the port's own limit), and at once when it is cancelled.
    * It is safe to be called from several tasks of one event loop; it keeps nothing of one call for the next.
    * Not idempotent: a second call may answer, and cost, differently.

    A port that holds connections also has `async close()`, which the kernel calls when it is closed.
    """

    async def complete(self, request: ModelRequest) -> ModelResult: ...


@runtime_checkable
class StreamingModelPort(ModelPort, Protocol):
    """A port that can also give an answer while it comes. Promises, besides those of `ModelPort`:

    * `stream` gives pieces of the answer's text in order, and last the `ModelResult` that `complete` would have given.
    * It raises what `complete` raises, also in the middle; what it gave before is then worth nothing.
    * Closing it ends the call.
    """

    def stream(self, request: ModelRequest) -> AsyncGenerator[str | ModelResult]: ...


async def _in_words(result: ModelResult) -> AsyncGenerator[str | ModelResult]:
    for piece in re.findall(r"\S+\s*|\s+", result.text):
        yield piece
    yield result


def json_schema_of(schema: OutputSchema) -> dict[str, Any]:
    """The JSON schema of a type, or the mapping itself. Raises `UsageError` for what has none."""
    if isinstance(schema, Mapping):
        return dict(schema)
    from pydantic import PydanticInvalidForJsonSchema, PydanticSchemaGenerationError, TypeAdapter

    try:
        return TypeAdapter(schema).json_schema()
    except (PydanticInvalidForJsonSchema, PydanticSchemaGenerationError) as error:
        raise UsageError(f"{schema!r} has no JSON schema, so no model can be asked for it: {error.message}") from error


def text_of(output: object) -> str:
    """A structured answer as the JSON text that a model would have written."""
    if isinstance(output, str):
        return output
    dump = getattr(output, "model_dump_json", None)
    return cast("str", dump()) if callable(dump) else msgspec.json.encode(output).decode()


def structured(text: str, request: ModelRequest) -> Any:
    """The JSON value of a final answer where one was asked for, else None. Raises `ModelMalformed` if it is no JSON."""
    if request.output_schema is None:
        return None
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError) as error:
        raise ModelMalformed(f"the answer should be JSON after the asked schema, but {error}: {text[:80]!r}") from error


class MockModelPort:
    """Gives the same answer to every request, at no cost. `calls` counts them, `last` is the newest request."""

    def __init__(
        self,
        *,
        output: object = None,
        text: str | None = None,
        tool_calls: Sequence[ToolCall] = (),
        usage: Usage | None = None,
        error: Exception | None = None,
    ) -> None:
        self.result = ModelResult(
            output=output,
            text=("" if output is None else text_of(output)) if text is None else text,
            tool_calls=tuple(tool_calls),
            usage=usage or Usage(input_tokens=1, output_tokens=1, cost_usd=0.0),
            stop_reason="tool_calls" if tool_calls else "end",
            model="mock",
        )
        self.error = error
        self.calls = 0
        self.last: ModelRequest | None = None

    async def complete(self, request: ModelRequest) -> ModelResult:
        self.calls += 1
        self.last = request
        if self.error is not None:
            raise self.error
        return self.result

    async def stream(self, request: ModelRequest) -> AsyncGenerator[str | ModelResult]:
        """The same word by word."""
        async for piece in _in_words(await self.complete(request)):
            yield piece


Line: TypeAlias = ModelResult | ToolCall | Exception | str | Callable[[ModelRequest], Any]
"""One line of a script: an answer, a single tool call, an error to raise, a text, or a function of the request that
gives any of these, perhaps after some time."""


class ScriptedModelPort:
    """Answers from a script, one line a call; for tests and rehearsals. `requests` are those it got.

    With `by_history` the line is chosen by the number of the conversation's assistant messages instead of by the
    number of calls, so a conversation that goes on in another process goes on in the script. After the last line
    `default` answers, or the call raises `ModelMalformed`.
    """

    def __init__(self, script: Sequence[Line], *, by_history: bool = False, default: Line | None = None) -> None:
        self.script = tuple(script)
        self.default = default
        self.by_history = by_history
        self.requests: list[ModelRequest] = []

    async def complete(self, request: ModelRequest) -> ModelResult:
        turn = sum(m.role == "assistant" for m in request.messages) if self.by_history else len(self.requests)
        self.requests.append(request)
        line = self.script[turn] if turn < len(self.script) else self.default
        if line is None:
            raise ModelMalformed(f"the script has {len(self.script)} lines and no default, but turn {turn + 1} was asked for")
        return await _spoken(line, request)

    async def stream(self, request: ModelRequest) -> AsyncGenerator[str | ModelResult]:
        """The same word by word."""
        async for piece in _in_words(await self.complete(request)):
            yield piece


async def _spoken(line: Line, request: ModelRequest) -> ModelResult:
    match line:
        case ModelResult():
            return line
        case ToolCall():
            return ModelResult(tool_calls=(line,), stop_reason="tool_calls", model="script")
        case str():
            return ModelResult(text=line, output=structured(line, request), model="script")
        case Exception():
            raise line
        case _:
            said = line(request)
            if inspect.isawaitable(said):
                said = await said
            return await _spoken(cast("Line", said), request)
