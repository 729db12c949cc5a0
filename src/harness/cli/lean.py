"""Starting the long-running processes without carrying the command line's libraries in their memory.

`harness run`, `web`, `monitor`, `agent` and `service` live for days and are many; typer and rich would be a third of them.
Their plain forms are read here, by the table below; everything else (`--help`, a mistake) goes the usual way, which ends in
`start` as well. It owns no behaviour: `run`, `web` and the rest do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A long-running process that was asked for, with its options by name."""

    command: str
    values: dict[str, str] = field(default_factory=dict[str, str])
    flags: frozenset[str] = frozenset()

    def number(self, name: str) -> int | None:
        """An option as a whole number; None if it was not given. Raises `UsageError`."""
        text = self.values.get(name)
        if text is None:
            return None
        if not text.isdigit():
            from harness.errors import UsageError

            raise UsageError(f"--{name} takes a whole number, not {text!r}")
        return int(text)


VALUES: dict[str, frozenset[str]] = {
    "run": frozenset({"home", "port"}),
    "web": frozenset({"home", "host", "port"}),
    "monitor": frozenset({"home"}),
    "agent": frozenset({"home", "model"}),
    "service": frozenset({"host", "port", "home"}),
}
FLAGS: dict[str, frozenset[str]] = {
    "run": frozenset({"no-service", "quiet"}),
    "web": frozenset({"demo"}),
    "monitor": frozenset(),
    "agent": frozenset(),
    "service": frozenset(),
}
SHORT = {"-q": "--quiet"}


def parse(words: Sequence[str]) -> Request | None:
    """Read the plain form of a long-running command; None for everything else."""
    if not words or words[0] not in VALUES:
        return None
    command, values, flags = words[0], dict[str, str](), set[str]()
    rest = list(words[1:])
    while rest:
        word = SHORT.get(rest[0], rest[0])
        del rest[0]
        name, separator, value = word.removeprefix("--").partition("=")
        if not word.startswith("--"):
            return None
        if name in FLAGS[command] and not separator:
            flags.add(name)
        elif name in VALUES[command] and (separator or rest):
            values[name] = value if separator else rest.pop(0)
        else:
            return None
    return Request(command=command, values=values, flags=frozenset(flags))


def start(request: Request) -> int:
    """Run the process until it ends; gives its exit code."""
    match request.command:
        case "run":
            from harness.cli.run import run as entry
        case "web":
            from harness.cli.processes import web as entry
        case "monitor":
            from harness.cli.processes import monitor as entry
        case "agent":
            from harness.cli.processes import agent as entry
        case "service":
            from harness.cli.processes import service as entry
        case other:
            raise AssertionError(other)
    return entry(request)
