"""What the kernel gives and takes: inputs of steps, their results, runs and their status. Values only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, Self, cast

import msgspec

from harness.errors import UsageError
from harness.kernel.ports import Message, ModelCallOptions, Native, StopReason, ToolCall, Usage

Status = Literal["active", "paused", "blocked", "cancelled", "completed", "failed"]


class ModelInput(msgspec.Struct, frozen=True, kw_only=True):
    """What a model is asked: one text, or a conversation."""

    messages: tuple[Message, ...]

    @classmethod
    def from_prompt(cls, prompt: str) -> Self:
        """A single user message."""
        if not isinstance(prompt, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise UsageError(f"a prompt is a text, not {type(prompt).__name__}")
        return cls(messages=(Message(role="user", text=prompt),))

    @classmethod
    def from_messages(cls, messages: Iterable[Message | Mapping[str, Any]]) -> Self:
        """A conversation: `Message`s, or mappings with `role` and `content` (or `text`)."""
        if isinstance(messages, str | bytes | Mapping):
            raise UsageError("messages are a list of messages; for one text there is ModelInput.from_prompt")
        listed = tuple(message if isinstance(message, Message) else _message(message) for message in messages)
        if not listed:
            raise UsageError("a conversation needs at least one message")
        return cls(messages=listed)

    @property
    def prompt(self) -> str:
        """The newest user text."""
        return newest_prompt(self.messages)


def newest_prompt(messages: Iterable[Message]) -> str:
    """The newest user text of a conversation."""
    return next((message.text for message in reversed(tuple(messages)) if message.role == "user"), "")


def _message(given: Any) -> Message:
    if not isinstance(given, Mapping):
        raise UsageError(f"a message is a Message or a mapping with `role` and `content`, not {type(given).__name__}")
    fields: dict[str, Any] = dict(cast("Mapping[str, Any]", given))
    if "content" in fields:
        fields["text"] = fields.pop("content")
    try:
        return msgspec.convert(fields, Message)
    except msgspec.ValidationError as error:
        raise UsageError(f"no message: {error}; it needs `role` and `content`") from error


class StepModelResult(msgspec.Struct, frozen=True, kw_only=True):
    """A model step's result. `output` is of the asked schema; None if none was asked or the model asks for tools."""

    run_id: str
    seq: int  # of the event that recorded the result
    output: Any = None
    text: str = ""
    usage: Usage = Usage()
    tool_calls: tuple[ToolCall, ...] = ()
    stop_reason: StopReason = "end"
    model: str = ""
    native: Native | None = None
    step: str = ""  # the step's id
    attempt: int = 1
    cost_usd: float = 0.0
    replayed: bool = False
    replayed_with_drift: bool = False
    forked_from_run_id: str | None = None
    drift_fields: tuple[str, ...] = ()

    def message(self) -> Message:
        """The answer as the assistant's message, to go on with."""
        return Message(role="assistant", text=self.text, tool_calls=self.tool_calls, native=self.native)


class StepToolResult(msgspec.Struct, frozen=True, kw_only=True):
    """A tool step's result."""

    run_id: str
    seq: int  # of the event that recorded the result
    tool_name: str
    result_json: str
    step: str = ""  # the step's id
    attempt: int = 1
    replayed: bool = False

    @property
    def result(self) -> Any:
        """The result as a value."""
        return msgspec.json.decode(self.result_json)


class RunHandle(msgspec.Struct, frozen=True, kw_only=True):
    """A run that exists."""

    run_id: str
    tenant_id: str
    parent_run: str | None = None
    root_run: str = ""  # the first of the tree of runs it belongs to; itself if nobody caused it
    forked_from_run_id: str | None = None  # the run whose steps up to the event `forked_at_seq` are its beginning
    forked_at_seq: int = 0
    replay_of: str | None = None  # the run whose decisions it makes again


class RunStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Where a run stands."""

    run_id: str
    tenant_id: str
    status: Status
    reason: str = ""
    last_seq: int
    started_us: int
    changed_us: int  # when the status changed
    updated_us: int  # when anything was recorded

    @property
    def active(self) -> bool:
        return self.status == "active"


class StepRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One step as the ledger tells it, for timelines and explanations."""

    step: str
    kind: Literal["model", "tool", "action", "timer", "pause"]
    name: str
    state: Literal["started", "completed", "failed", "rejected", "unknown", "interrupted", "retried"]
    seq: int
    started_us: int
    ended_us: int | None = None
    attempt: int = 1
    messages: tuple[Message, ...] = ()  # what the model saw
    arguments: dict[str, Any] | None = None
    output: Any = None
    text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    usage: Usage | None = None
    result: Any = None
    error: str = ""
    message: str = ""
    cost_usd: float = 0.0
    options: ModelCallOptions = ModelCallOptions()
    output_schema: str = ""  # digest
    tools: str = ""  # digest of what a model was shown
    visible_tool_names: tuple[str, ...] | None = None
    side_effect: bool = False
    tool_version: str = ""
    inherited_from: str | None = None  # the run that recorded it, if this one is a fork of that


def decoded(raw: msgspec.Raw) -> Any:
    """A recorded JSON value; None if there is none."""
    return msgspec.json.decode(data) if (data := bytes(raw)) else None
