"""What a replay asks instead of what was asked: other models, other prompts. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any, TypeAlias, cast

import msgspec

from harness.errors import UsageError
from harness.kernel.ports import Message
from harness.kernel.results import ModelInput, StepRecord


class PromptChange(msgspec.Struct, frozen=True, kw_only=True):
    """Other words in a recorded conversation; what is None stays as it was."""

    system: str | None = None  # in place of the system message, or as one before the first message
    user: str | None = None  # in place of the first user message, which is the task

    def apply(self, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        """The conversation in these words."""
        if self.user is not None:
            messages = _replaced(messages, "user", self.user)
        if self.system is not None:
            messages = _replaced(messages, "system", self.system)
        return messages


def _replaced(messages: tuple[Message, ...], role: str, text: str) -> tuple[Message, ...]:
    """With the first message of this role saying something else; a system message that there is none of comes first."""
    for index, message in enumerate(messages):
        if message.role == role:
            return (*messages[:index], msgspec.structs.replace(message, text=text), *messages[index + 1 :])
    return (Message.system(text), *messages) if role == "system" else (*messages, Message.user(text))


Words: TypeAlias = str | PromptChange
"""A text in place of the first user message, or a change."""

Prompt: TypeAlias = Words | Mapping[str, Words] | Callable[[StepRecord], Words | ModelInput | Iterable[Message] | None]
"""For every decision, for those whose step ids match a pattern such as `agent/turn-*`, or decided for each of them."""

Models: TypeAlias = str | Mapping[str, str]
"""One model for every decision, or others for the recorded ones by name."""


def messages_for(prompt: Prompt | None, step: StepRecord) -> tuple[Message, ...]:
    """What a decision is asked in the replay. Raises `UsageError` for what is no prompt."""
    given: Any = prompt
    if isinstance(prompt, Mapping):
        words = cast("Mapping[str, Words]", prompt)
        given = next((words[pattern] for pattern in words if fnmatchcase(step.step, pattern)), None)
    elif callable(prompt):
        given = prompt(step)
    match given:
        case None:
            return step.messages
        case str():
            return PromptChange(user=given).apply(step.messages)
        case PromptChange():
            return given.apply(step.messages)
        case ModelInput():
            return given.messages
        case _ if isinstance(given, Iterable):
            return ModelInput.from_messages(cast("Iterable[Message]", given)).messages
        case _:
            raise UsageError(f"a prompt for step {step.step!r} is a text, a PromptChange, messages or None, not {given!r:.80}")


def check_prompt(prompt: Prompt | None, steps: Iterable[str]) -> None:
    """Refuse patterns that no step matches, which are mistyped. Raises `UsageError`."""
    if not isinstance(prompt, Mapping):
        return
    names = list(steps)
    for pattern in cast("Mapping[str, Words]", prompt):
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UsageError(f"prompt: no model step matches {pattern!r}; there are: {', '.join(names[:10]) or 'none'}")


def model_for(model: Models | None, recorded: str) -> str:
    """Which model a decision is asked of in the replay."""
    if isinstance(model, Mapping):
        return model.get(recorded, recorded)
    return recorded if model is None else model
