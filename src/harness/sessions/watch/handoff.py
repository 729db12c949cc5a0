"""What an agent that was stopped in the midst of its work is told: what was cut, and to look before it acts. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeVar

from harness.sessions.analysis import Analysis, Turn
from harness.text import cleaned, clipped, fenced

LIMIT = 12_000
_TASK_LIMIT = 4_000
_WORDS_LIMIT = 2_000
_LISTED = 40

LOOK_FIRST = (
    "What was under way may be done, half done or not done at all: commands may have run, files may be half written. "
    "First find out what is there (version control, files, processes). Repeat nothing that has effects before you know. "
    "Then go on with the task. If it is done already, say so and do nothing more."
)
"""The heart of every such text."""

_NOT_AGAIN = "Do not make that call again: find out why it did not help, or say what you need."

_T = TypeVar("_T")
Why = Literal["interrupted", "limit", "ended"]


def resume_text(why: Why, reason: str, told: Analysis) -> str:
    """What the agent of the same session is told, which knows what it was doing."""
    match why:
        case "interrupted":
            first = f"Your last turn was ended from outside, because {reason}."
        case "limit":
            first = "A usage limit ended your last turn. It is over now."
        case "ended":
            first = f"Your program was ended in the midst of a turn and started anew, because {reason}."
    again = _NOT_AGAIN if "same tool call" in reason else ""
    return "\n\n".join(part for part in (first, _cut(told), again, LOOK_FIRST) if part)


def handoff(reason: str, told: Analysis) -> str:
    """What a new session is told, which knows nothing: the task, what was done, and where it was cut."""
    session = told.session
    about = session.claimed.description if session.claimed is not None else ""
    parts = [
        f"You take over from another session of this program, which was ended because {reason}. You do not have its memory.",
        f"It was described as: {cleaned(about, limit=500)}" if about else "",
        _tasks(told),
        _done(told),
        _cut(told),
        LOOK_FIRST,
    ]
    return clipped("\n\n".join(part for part in parts if part), LIMIT)


def _tasks(told: Analysis) -> str:
    """What it was asked to do, the first and the last of it if that is too much."""
    given = [message for message in told.session.messages.values() if message.origin.kind != "harness" and message.text.strip()]
    if not given:
        return ""
    texts = [cleaned(message.text, limit=_TASK_LIMIT // min(len(given), 4)) for message in _ends(given, 4)]
    return "It had been asked:\n\n" + "\n\n".join(texts)


def _done(told: Analysis) -> str:
    lines: list[str] = []
    if told.files:
        lines.append(f"Files that it changed: {', '.join(_ends(list(told.files), _LISTED))}.")
    if told.tools:
        counted = ", ".join(f"{tool.name} {tool.calls}" for tool in told.tools.values())
        lines.append(f"Tools that it called, and how often: {counted}.")
    if (turn := _speaker(told)) is not None:
        lines.append("Its last words were:\n\n" + fenced(turn.words, name="the session before", limit=_WORDS_LIMIT))
    return "\n".join(lines)


def _cut(told: Analysis) -> str:
    """What was under way: the newest turn, and the last thing that it is known to have done."""
    turn = told.turns[-1] if told.turns else None
    lines: list[str] = []
    asked = [told.messages[name].text for name in turn.messages if name in told.messages] if turn is not None else []
    if asked:
        lines.append(f"The turn that was cut was about: {cleaned(asked[-1], limit=600)}")
    rows = [row for row in told.timeline if row.kind in ("tool", "file", "text", "error")]
    if rows:
        lines.append(f"The last thing that is known of it is {rows[-1].kind}: {cleaned(rows[-1].text, limit=300)}")
    return "\n".join(lines)


def _speaker(told: Analysis) -> Turn | None:
    return next((turn for turn in reversed(told.turns) if turn.words), None)


def _ends(values: Sequence[_T], most: int) -> list[_T]:
    return [*values] if len(values) <= most else [*values[: most // 2], *values[-(most - most // 2) :]]
