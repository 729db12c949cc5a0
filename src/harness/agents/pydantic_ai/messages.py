"""A framework's conversation as the kernel knows one, and back.

Every part that a model reads becomes one `Message`, so what a step was asked can be hashed, recorded, searched and
compared; times, run ids and other things that no model sees are left out, since they differ on every replay. What a
middleware changed in the texts is put back into the framework's own messages before they are sent.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from pydantic_ai.messages import (
    InstructionPart,
    ModelMessage,
    ModelRequest,
    ModelResponse,
    SystemPromptPart,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models import ModelRequestParameters
from pydantic_core import to_jsonable_python

from harness.errors import UsageError
from harness.kernel import Message, Native, ToolCall, to_json

PROVIDER = "pydantic-ai"
_UNSEEN = frozenset({"timestamp", "run_id", "conversation_id", "metadata"})  # by models, and other ones on every replay

Put = Callable[[Message], None]


@dataclass(frozen=True, slots=True)
class _Slot:
    """One message, and where a changed text of it belongs."""

    message: Message
    put: Put | None = None  # None: it cannot be changed


class Conversation:
    """What one model request asks, in both forms."""

    def __init__(self, messages: Sequence[ModelMessage], parameters: ModelRequestParameters) -> None:
        self._given = messages
        self._parameters = parameters
        self._instructions = list(parameters.instruction_parts or ())
        self._parts: list[list[Any]] = [list(message.parts) for message in messages]
        self._slots = [*self._standing(), *self._all()]
        self.messages: tuple[Message, ...] = tuple(slot.message for slot in self._slots)

    def changed(self, messages: Sequence[Message]) -> tuple[list[ModelMessage], ModelRequestParameters]:
        """The framework's messages and parameters with the texts of these. Raises `UsageError` for any other change."""
        if tuple(messages) == self.messages:
            return list(self._given), self._parameters
        if len(messages) != len(self._slots):
            raise UsageError("a middleware added or removed messages; under Pydantic AI it may change their texts only")
        for slot, message in zip(self._slots, messages, strict=True):
            if message != slot.message:
                if slot.put is None or message.role != slot.message.role:
                    raise UsageError(f"a middleware changed what cannot be changed: a {slot.message.role} message")
                slot.put(message)
        rebuilt = [_with_parts(message, parts) for message, parts in zip(self._given, self._parts, strict=True)]
        return rebuilt, dataclasses.replace(self._parameters, instruction_parts=self._instructions or None)

    # Slots

    def _standing(self) -> Iterable[_Slot]:
        """The instructions, which stand before everything."""
        if not self._instructions:
            told = next((m.instructions for m in reversed(self._given) if isinstance(m, ModelRequest)), None)
            self._instructions = [InstructionPart(told)] if told else []
        for index, part in enumerate(self._instructions):
            yield _Slot(Message.system(part.content), self._to_instruction(index))

    def _to_instruction(self, index: int) -> Put:
        def put(message: Message) -> None:
            self._instructions[index] = dataclasses.replace(self._instructions[index], content=message.text)

        return put

    def _all(self) -> Iterable[_Slot]:
        for at, message in enumerate(self._given):
            if isinstance(message, ModelRequest):
                for index, part in enumerate(message.parts):
                    yield from self._asked(at, index, part)
            else:
                yield from self._answered(at, message)

    def _asked(self, at: int, index: int, part: Any) -> Iterable[_Slot]:
        match part:
            case SystemPromptPart():
                yield _Slot(Message.system(part.content), self._to_content(at, index))
            case UserPromptPart(content=str()):
                yield _Slot(Message.user(cast("str", part.content)), self._to_content(at, index))
            case UserPromptPart():
                for number, item in enumerate(part.content):
                    put = self._to_item(at, index, number) if isinstance(item, str) else None
                    yield _Slot(Message.user(item if isinstance(item, str) else _opaque(item)), put)
            case ToolReturnPart():
                told = Message(
                    role="tool", text=part.model_response_str(), tool_call_id=part.tool_call_id,
                    is_error=part.outcome != "success",
                )  # fmt: skip
                yield _Slot(told, self._to_content(at, index))
            case _:
                yield _Slot(Message.user(_opaque(part)))

    def _answered(self, at: int, response: ModelResponse) -> Iterable[_Slot]:
        """An answer is one message, unless it has several texts."""
        texts = [index for index, part in enumerate(response.parts) if isinstance(part, TextPart)]
        calls = [index for index, part in enumerate(response.parts) if isinstance(part, ToolCallPart)]
        for index in texts[:-1]:
            yield _Slot(Message.assistant(cast("TextPart", response.parts[index]).content), self._to_content(at, index))
        message = Message(
            role="assistant", text=cast("TextPart", response.parts[texts[-1]]).content if texts else "",
            tool_calls=tuple(call_of(cast("ToolCallPart", response.parts[index])) for index in calls),
            native=_rest(part for part in response.parts if not isinstance(part, TextPart | ToolCallPart)),
        )  # fmt: skip

        def put(changed: Message) -> None:
            for index, call in zip(calls, changed.tool_calls, strict=True):
                self._parts[at][index] = dataclasses.replace(self._parts[at][index], args=call.arguments_json)
            if texts:
                self._parts[at][texts[-1]] = dataclasses.replace(self._parts[at][texts[-1]], content=changed.text)

        yield _Slot(message, put)

    def _to_content(self, at: int, index: int) -> Put:
        def put(message: Message) -> None:
            self._parts[at][index] = dataclasses.replace(self._parts[at][index], content=message.text)

        return put

    def _to_item(self, at: int, index: int, number: int) -> Put:
        def put(message: Message) -> None:
            part = self._parts[at][index]
            content = [message.text if place == number else item for place, item in enumerate(part.content)]
            self._parts[at][index] = dataclasses.replace(part, content=content)

        return put


def call_of(part: ToolCallPart) -> ToolCall:
    """A call that a model asks for."""
    return ToolCall(id=part.tool_call_id, name=part.tool_name, arguments_json=part.args_as_json_str())


def _with_parts(message: ModelMessage, parts: list[Any]) -> ModelMessage:
    if isinstance(message, ModelRequest):
        return dataclasses.replace(message, parts=parts, instructions=None)  # they are in the parameters
    return dataclasses.replace(message, parts=parts)


def _rest(parts: Iterable[Any]) -> Native | None:
    """What else an answer holds, such as thinking, by its digest: the answer that brought it is recorded in full."""
    blocks = tuple({"digest": _digest(part), "kind": part.part_kind} for part in parts)
    return Native(provider=PROVIDER, blocks=blocks) if blocks else None


def _opaque(part: Any) -> str:
    """Something that is no text, in one line that changes whenever it does."""
    kind = getattr(part, "part_kind", None) or getattr(part, "kind", type(part).__name__)
    return f"[{kind} {_digest(part)}]"


def _digest(part: Any) -> str:
    data = to_json(_seen(to_jsonable_python(part, fallback=repr, bytes_mode="base64")))
    return hashlib.sha256(data).hexdigest()[:32]


def _seen(value: Any) -> Any:
    """A JSON value without what no model sees."""
    match value:
        case dict():
            return {k: _seen(v) for k, v in cast("dict[str, Any]", value).items() if k not in _UNSEEN}
        case list():
            return [_seen(item) for item in cast("list[Any]", value)]
        case _:
            return value
