"""What an agent knows when it begins: instructions, identity, skills, memory, what was done before, the task.

What may change between two passes over a run (memory, summaries, files of skills, sections of one's own) is collected once
and recorded as a step. So an agent that wrote to its memory finds the context it began with when it is resumed.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

import msgspec

from harness.agents.conversation import opening, shortened
from harness.errors import UsageError
from harness.kernel import Message

if TYPE_CHECKING:
    from harness.agents.memory import Memory
    from harness.agents.skills import Skills
    from harness.kernel import Kernel, TenantContext

MAX_SECTION_CHARACTERS = 8_000

SKILLS = "Skills"
MEMORY = "Memory"
EARLIER = "Earlier work"


class ContextRequest(msgspec.Struct, frozen=True, kw_only=True):
    """For whom a context is collected."""

    kernel: Kernel
    run_id: str
    tenant: TenantContext
    model: str
    prompt: str
    skills: Skills | None = None
    memory: Memory | None = None


Section = Callable[[ContextRequest], str | Awaitable[str]]
"""Gives the text of a part of the context; an empty one is left out."""


class ContextBuilder:
    """Assembles how a conversation begins: system prompt, identity, skills, memory, earlier work, own sections, task.

    `sections` are one's own, by title, in their order after the built-in ones; they are functions of a `ContextRequest`,
    sync or async. `summary_types` names the run's summaries that are shown as earlier work. Each section is cut down to
    `max_section_characters`. Subclass it to collect or to lay out otherwise: `build` must depend on its arguments alone.
    """

    def __init__(
        self,
        *,
        identity: str = "",
        sections: Mapping[str, Section] | None = None,
        summary_types: tuple[str, ...] = ("task_progress",),
        max_section_characters: int = MAX_SECTION_CHARACTERS,
    ) -> None:
        if max_section_characters < 1:
            raise UsageError(f"a section has at least one character, not {max_section_characters}")
        self.identity = identity
        self.sections = dict(sections or {})
        self.summary_types = summary_types
        self.max_section_characters = max_section_characters
        for title in self.sections:
            if title in (SKILLS, MEMORY, EARLIER):
                raise UsageError(f"{title!r} is a built-in section; give your own another title")

    async def collect(self, request: ContextRequest) -> dict[str, str]:
        """The sections that may be others the next time, by title. Called once for each run; what it gives is recorded."""
        found: dict[str, str] = {}
        if request.skills is not None:
            found[SKILLS] = request.skills.index()
        if request.memory is not None:
            found[MEMORY] = await request.memory.shown(request.run_id, request.tenant)
        found[EARLIER] = await self._earlier(request)
        for title, section in self.sections.items():
            text = section(request)
            found[title] = await text if inspect.isawaitable(text) else text
        return {title: shortened(text, self.max_section_characters) for title, text in found.items() if text}

    async def _earlier(self, request: ContextRequest) -> str:
        lines: list[str] = []
        for summary_type in self.summary_types:
            summary = await request.kernel.get_latest_run_summary(run_id=request.run_id, summary_type=summary_type)
            if summary is not None:
                text = summary if isinstance(summary, str) else msgspec.json.encode(summary).decode()
                lines.append(f"{summary_type}: {text}")
        return "\n".join(lines)

    def build(self, *, system_prompt: str, prompt: str, collected: Mapping[str, str]) -> list[Message]:
        """The beginning of the conversation. Pure."""
        parts = [system_prompt, self.identity, *(f"## {title}\n{text}" for title, text in collected.items())]
        return opening("\n\n".join(part for part in parts if part), prompt)
