"""A session as a conversation of two, as agentapi tells it: folded from the session's events. Pure.

What a person has sent stands where it was written to the agent. What the agent says is what its protocol tells of it; a program
in a terminal says what its screen shows, of which only the newest is known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from harness.ledger import Event
from harness.sessions import facts
from harness.sessions.facts import State
from harness.sessions.record import Session

KNOWN_AGENTS = frozenset(
    {
        "claude", "goose", "aider", "codex", "gemini", "copilot", "amp", "cursor", "auggie", "amazonq", "opencode", "pi",
    }
)  # fmt: skip
"""What agentapi calls agents; every other one is `custom`."""


@dataclass(slots=True, kw_only=True)
class Said:
    """One message. `id` counts from 0 and stays."""

    id: int
    role: Literal["agent", "user"]
    content: str
    time_us: int


class Conversation:
    """Both sides of one session, and whether the agent waits for a message."""

    def __init__(self, session: Session, *, terminal: bool) -> None:
        self.session = session
        self.messages: list[Said] = []
        self._terminal = terminal
        self._recorded = ""  # what is on record of what the agent says now, which in a terminal is not what is shown of it

    @property
    def stable(self) -> bool:
        """Whether the agent waits at its prompt and nothing is on its way to it."""
        session = self.session
        under_way = any(message.open for message in session.messages.values())
        return session.state is State.PROMPT and not (under_way or session.turn)

    def fold(self, event: Event) -> list[Said]:
        """Take one event in; gives the messages that are new or have changed."""
        self.session.fold(event)
        told = event.load(facts.SHAPES[event.type]) if not event.erased and event.type in facts.SHAPES else None
        match told:
            case facts.Started() if self._terminal and not self.messages:
                return [self._add("agent", "", event)]
            case facts.Moved() if event.type == facts.WRITTEN:
                return self._sent(told.message_id, event)
            case facts.ItemCompleted() if told.kind == "text" and told.summary and not told.agent:
                return self._says(told.summary, event)
            case facts.TurnCompleted() if told.summary and not self._recorded:
                return self._says(told.summary, event)
            case _:
                return []

    def show(self, screen: str, at_us: int) -> list[Said]:
        """What the terminal shows now is what the agent says last."""
        newest = self._newest("agent")
        if newest is None or newest.content == screen:
            return []
        newest.content, newest.time_us = screen, at_us
        return [newest]

    def _sent(self, message_id: str, event: Event) -> list[Said]:
        message = self.session.messages.get(message_id)
        if message is None or message.only_submit:
            return []
        changed: list[Said] = []
        before = self._newest("agent")
        if self._terminal and before is not None and self._recorded:
            before.content = self._recorded
            changed.append(before)
        self._recorded = ""
        changed.append(self._add("user", message.text, event))
        return [*changed, self._add("agent", "", event)] if self._terminal else changed

    def _says(self, text: str, event: Event) -> list[Said]:
        self._recorded = f"{self._recorded}\n\n{text}" if self._recorded else text
        if self._terminal:
            return []
        newest = self._newest("agent") or self._add("agent", "", event)
        newest.content, newest.time_us = self._recorded, event.ts
        return [newest]

    def _newest(self, role: str) -> Said | None:
        return self.messages[-1] if self.messages and self.messages[-1].role == role else None

    def _add(self, role: Literal["agent", "user"], content: str, event: Event) -> Said:
        said = Said(id=len(self.messages), role=role, content=content, time_us=event.ts)
        self.messages.append(said)
        return said


def agent_type(cli: str) -> str:
    """The agent as agentapi calls it."""
    name = cli.rpartition("/")[2]
    return name if name in KNOWN_AGENTS else "custom"
