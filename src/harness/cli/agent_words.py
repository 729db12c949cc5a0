"""The words of `harness run <agent> …`: which are ours, which are the agent's. Pure; it starts nothing.

Options stand before or after the agent's name, an unknown one goes to the agent, and everything after `--` does. A value
that begins with `--` stands behind an equals sign. An option with an optional value (`--tmux [NAME]`, `--watch [PATH]`,
`--worktree [BRANCH]`) takes the next word unless that is a flag, or is needed as the agent's name.
"""

from __future__ import annotations

import math
from typing import Any

from harness.errors import UsageError

VALUES = frozenset(
    {
        "id", "description", "meta", "context", "mode", "stall-after", "max-resumes", "preset", "watch-file", "timeout",
        "inbox-ttl", "host", "port", "max-budget-usd", "max-turns", "max-wall", "resume", "home",
    }
)  # fmt: skip
MAY_BE_EMPTY = frozenset({"description", "context"})
FLAGS = frozenset({"detach", "json"})
OPTIONAL = frozenset({"tmux", "watch", "worktree"})
PROJECT_ONLY = frozenset({"no-service", "quiet", "demo"})


class AgentWords:
    """What was asked for. No dataclass: it would be half of what is loaded before the session's host is started."""

    def __init__(self, agent: str = "") -> None:
        self.agent = agent
        self.agent_args: list[str] = []
        self.values: dict[str, str] = {}
        self.flags: set[str] = set()
        self.optional: dict[str, str | None] = {}

    def duration(self, name: str) -> float | None:
        """An option as seconds; `90`, `90s`, `8m` and `1h` are such. Raises `UsageError`."""
        text = self.values.get(name)
        if text is None:
            return None
        from harness.sessions.watch.policy import seconds

        return seconds(text, name=f"--{name}")

    def whole(self, name: str, *, least: int = 0, most: int = 10**9) -> int | None:
        """An option as a whole number. Raises `UsageError`."""
        text = self.values.get(name)
        if text is None:
            return None
        if not text.isascii() or not text.isdigit() or not least <= int(text) <= most:
            raise UsageError(f"--{name} takes a whole number from {least} to {most}, not {text!r}")
        return int(text)

    def number(self, name: str) -> float | None:
        """An option as a number above zero. Raises `UsageError`."""
        text = self.values.get(name)
        if text is None:
            return None
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value > 0):
            raise UsageError(f"--{name} takes a number above 0, not {text!r}")
        return value

    def json(self, name: str) -> Any:
        """An option as JSON. Raises `UsageError`."""
        text = self.values.get(name)
        if text is None:
            return None
        import json

        try:
            return json.loads(text)
        except ValueError as error:
            raise UsageError(f"--{name} takes JSON: {error}") from error


def read(words: list[str]) -> AgentWords | None:
    """The words after `harness run`; None if no agent is named, which means the project. Raises `UsageError`."""
    found = AgentWords()
    rest = list(words)
    borrowed: list[str] = []  # optional values that may turn out to be the agent's name
    while rest:
        word = rest.pop(0)
        if word == "--":
            if not found.agent and rest and not (borrowed and rest[0].startswith("-")):
                found.agent = rest.pop(0)
            found.agent_args += rest
            break
        name, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--"):
            _take_plain(found, word)
        elif name in FLAGS:
            if equals:
                raise UsageError(f"--{name} takes no value; what is meant for the agent stands behind --")
            found.flags.add(name)
        elif name in VALUES:
            found.values[name] = value if equals else _next(name, rest)
            if not found.values[name] and name not in MAY_BE_EMPTY:
                raise UsageError(f"--{name} needs a value")
        elif name in OPTIONAL:
            if equals and not value:
                raise UsageError(f"--{name}= needs a value; without the = it may be left out")
            found.optional[name] = value if equals else None
            if not equals and rest and not rest[0].startswith("-"):
                found.optional[name] = rest.pop(0)
                if not found.agent:
                    borrowed.append(name)
        else:
            found.agent_args.append(word)
    if not found.agent and borrowed:
        found.agent = found.optional[borrowed[-1]] or ""
        found.optional[borrowed[-1]] = None
    return _checked(found)


def _next(name: str, rest: list[str]) -> str:
    """The option's value from the words that follow; another option is none."""
    if not rest:
        raise UsageError(f"--{name} needs a value")
    if rest[0].startswith("--"):
        raise UsageError(f"--{name} needs a value, and {rest[0]} is an option; as a value it is given as --{name}={rest[0]}")
    return rest.pop(0)


def _take_plain(found: AgentWords, word: str) -> None:
    if found.agent or word.startswith("-"):
        found.agent_args.append(word)
    else:
        found.agent = word


def _checked(found: AgentWords) -> AgentWords | None:
    if found.agent:
        return found
    ours = (set(found.values) - {"home", "port"}) | found.flags | set(found.optional)
    if ours:
        raise UsageError(
            f"--{sorted(ours)[0]} belongs to an agent, and none is named: harness run <agent> --{sorted(ours)[0]} …"
        )
    return None
