"""Starting the long-running processes without carrying the command line's libraries in their memory.

`harness run`, `web`, `monitor`, `agent` and `service` live for days and are many; typer and rich would be a third of them.
`harness status` is asked often, and loading them takes longer than all that it does. The plain forms are read here, by the
table below; everything else (`--help`, a mistake) goes the usual way, which ends in the same. It owns no behaviour:
`entries`, `run` and `glance` lead to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Request(NamedTuple):
    """A long-running process that was asked for, with its options by name."""

    command: str
    values: dict[str, str]
    flags: frozenset[str]

    def number(self, name: str) -> int | None:
        """An option as a whole number; None if it was not given. Raises `UsageError`."""
        text = self.values.get(name)
        if text is None:
            return None
        if not text.isdigit():
            from harness.errors import UsageError

            raise UsageError(f"--{name} takes a whole number, not {text!r}")
        if int(text) > _MAX_PORT:
            from harness.errors import UsageError

            raise UsageError(f"--{name} takes a port up to {_MAX_PORT}, not {text}")
        return int(text)


_MAX_PORT = 65535  # the only numbers that these commands take are ports

VALUES: dict[str, frozenset[str]] = {
    "run": frozenset({"home", "port"}),
    "web": frozenset({"home", "host", "port", "session"}),
    "monitor": frozenset({"home"}),
    "agent": frozenset({"home", "model"}),
    "service": frozenset({"host", "port", "config"}),
    "status": frozenset({"id", "repo", "cli", "home"}),
}
FLAGS: dict[str, frozenset[str]] = {
    "run": frozenset({"no-service", "quiet", "demo"}),
    "web": frozenset({"demo"}),
    "monitor": frozenset(),
    "agent": frozenset(),
    "service": frozenset(),
    "status": frozenset({"all", "ended", "json"}),
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
    if request.command == "status":
        from harness.cli.glance import Look, show

        home, id_, repo, cli = (request.values.get(name) for name in ("home", "id", "repo", "cli"))
        all_, ended, json = (name in request.flags for name in ("all", "ended", "json"))
        return show(Look(home=home, id=id_, repo=repo, cli=cli, all=all_, ended=ended, json=json))
    from harness.cli import entries

    match request.command:
        case "run":
            from harness.cli.run import run

            return run(request)
        case "web":
            return entries.web(request)
        case "monitor":
            return entries.monitor(request)
        case "agent":
            return entries.agent(request)
        case "service":
            return entries.service(request)
        case other:
            raise AssertionError(other)
