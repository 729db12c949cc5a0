"""The words of a command line that real programs and rehearsals share: the flags of both, and the prompt."""

from __future__ import annotations

import os
from collections.abc import Collection

from harness.sessions.rehearsal import flags
from harness.sessions.rehearsal.flags import Plan


class Arguments:
    """A command line: the rehearsal's `plan`, the program's own options, and `words` that are no option.

    Raises `BadFlag` for a wrong flag of the rehearsal; the program's own are never wrong.
    """

    def __init__(self, argv: list[str], *, valued: Collection[str]) -> None:
        plan = Plan()
        if told := os.environ.get(flags.VARIABLE):
            import shlex

            plan, _ = flags.parse(shlex.split(told))
        self.plan, rest = flags.parse(argv, plan)
        self.words: list[str] = []
        self._options: dict[str, list[str]] = {}
        while rest:
            word = rest.pop(0)
            if word == "--":
                self.words += rest
                break
            if not word.startswith("-") or word == "-":
                self.words.append(word)
                continue
            name, separator, value = word.partition("=") if word.startswith("--") else (word, "", "")
            if name in valued and not separator and rest:
                value = rest.pop(0)
            self._options.setdefault(name, []).append(value)

    def has(self, name: str) -> bool:
        return name in self._options

    def value(self, name: str) -> str:
        """The option's last value; empty if it was not given."""
        return self.values(name)[-1] if self.has(name) else ""

    def values(self, name: str) -> list[str]:
        return self._options.get(name, [])


def described(program: str) -> str:
    """What `--help` prints."""
    return f"Usage: {program} [FLAGS] [PROMPT]\n\nA rehearsed {program}: it calls no model.\n\n{flags.described()}"
