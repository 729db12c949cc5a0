"""What matters of a request to a model, whatever its protocol: who said what, and what may be answered with.

The protocols' modules fill these in; nothing here knows a protocol.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple, cast

from harness.errors import UsageError

SHELLS = (
    "Bash", "bash", "exec_command", "shell_command", "shell", "local_shell", "run_shell_command", "run_command",
    "execute_command", "run_terminal_cmd", "terminal",
)  # fmt: skip
"""What the agent programs call the tool that runs a command, the preferred first."""

_INSERTED = re.compile(
    r"<(system-reminder|environment_context|user_instructions|INSTRUCTIONS|turn_aborted|permissions instructions)>.*?</\1>"
    r"|^# AGENTS\.md instructions[^\n]*|\[Request interrupted by user[^\]\n]*\]",
    re.DOTALL,
)


class Malformed(UsageError):
    """A request's body is not what its protocol asks for; the message says where."""


class Speaker(StrEnum):
    """Who an entry of a conversation comes from."""

    USER = "user"
    MODEL = "model"
    TOOL = "tool"


class Said(NamedTuple):
    """One entry of a conversation; only a user's has its text."""

    by: Speaker
    text: str = ""


class Prompt(NamedTuple):
    """A user's text, and how many turns the model has taken since."""

    text: str
    turns_since: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A tool that the client offers."""

    name: str
    kind: str = "function"  # or `custom` (takes plain text), `local_shell`
    schema: Mapping[str, Any] = field(default_factory=dict[str, Any])
    namespace: str = ""

    @property
    def properties(self) -> Mapping[str, Any]:
        found = self.schema.get("properties")
        return cast("Mapping[str, Any]", found) if isinstance(found, dict) else {}

    @property
    def required(self) -> tuple[str, ...]:
        found = self.schema.get("required")
        return tuple(str(name) for name in cast("list[object]", found)) if isinstance(found, list) else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request to a model."""

    model: str
    stream: bool
    said: tuple[Said, ...] = ()
    tools: Mapping[str, Tool] = field(default_factory=dict[str, Tool])
    answer_schema: Mapping[str, Any] | None = None  # of the structured output that is asked for
    usage_in_stream: bool = True

    @property
    def side(self) -> bool:
        """Whether a program asks this beside its real work: for a title, a summary, or to see if the account works.

        Such a request offers no tools, or wants structured output and offers nothing to run commands with.
        """
        if not self.tools:
            return True
        return self.answer_schema is not None and not any(name in self.tools for name in SHELLS)

    @property
    def prompt(self) -> str:
        """What the user said last."""
        found = prompts_of(self.said)
        return found[0].text if found else ""


def offered(tools: Iterable[Tool]) -> dict[str, Tool]:
    """Tools by name; of two with one name the first counts."""
    found: dict[str, Tool] = {}
    for tool in tools:
        if tool.name:
            found.setdefault(tool.name, tool)
    return found


def by_user(text: str | None) -> Said:
    """A user's text without what programs put into it on their own."""
    return Said(Speaker.USER, _INSERTED.sub("", text or "").strip())


def prompts_of(said: Sequence[Said]) -> list[Prompt]:
    """The user's texts of the exchange that is going on, the latest first.

    An exchange begins with the texts that follow a finished turn of the model. Texts beside a tool's results, which
    were typed while the model worked, belong to it. Several entries of the model in a row are one turn.
    """
    found: list[Prompt] = []
    turns = 0
    for at in range(len(said) - 1, -1, -1):
        entry = said[at]
        before = said[at - 1].by if at else Speaker.MODEL
        if entry.by is Speaker.MODEL:
            turns += before is not Speaker.MODEL or at == 0
        elif entry.by is Speaker.USER:
            if entry.text:
                found.append(Prompt(entry.text, turns))
            if before is Speaker.MODEL and found:
                break
    return found
