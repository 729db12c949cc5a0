"""Whether an agent may use a tool without asking a person. Pure.

Rules look like the agent programs' own: `Bash`, `Bash(git status*)`, `Write(src/*)`; a deny outranks an ask, which
outranks an allow, and what no rule names is asked.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from posixpath import normpath
from typing import Any, Literal, cast

import msgspec

from harness.errors import UsageError

Verdict = Literal["allow", "deny", "ask"]
_RULE = re.compile(r"([A-Za-z0-9_.:*-]+)(?:\((.*)\))?", re.DOTALL)
_SUBJECTS = ("command", "cmd", "file_path", "path", "url", "pattern", "query", "skill")
_PATHS = frozenset({"file_path", "path"})  # judged by where they lead: src/../../etc is not below src
_SUSPECT = re.compile(r"[;&|`\n<>()]|\$[({]")  # without these a line is one command, however it is quoted
_EXPANDS = re.compile(r"`|\$[({[]")  # between double quotes, too; what quotes mean within is hard to tell
_CHAINS = re.compile(r"[;&|`\n<>()#]|\$[({['\"]")  # `$'…'` has quotes of its own, and a comment has none
_PIECES = re.compile(r"""'[^']*'|"(?:[^"\\]|\\.)*"|\\[^;&|`\n<>()#]|[^'"\\]+""", re.DOTALL)


class ApprovalRules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is decided without a person, and how long a person has."""

    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    ask: tuple[str, ...] = ()
    deadline_seconds: float = 600.0


def check_rules(rules: ApprovalRules) -> None:
    """Raise `UsageError` for a rule that could never match."""
    for rule in (*rules.allow, *rules.deny, *rules.ask):
        if _RULE.fullmatch(rule) is None:
            raise UsageError(f"approval rule {rule!r} is not of the form Tool or Tool(pattern)")
    if not 0 <= rules.deadline_seconds <= 1e7:
        raise UsageError(f"an approval's deadline of {rules.deadline_seconds} seconds makes no sense")


def judge(rules: ApprovalRules, tool: str, arguments: object) -> tuple[Verdict, str]:
    """The verdict and the rule that gave it; an empty rule means that none named it."""
    subject = _subject(arguments)
    for verdict, listed in (("deny", rules.deny), ("ask", rules.ask), ("allow", rules.allow)):
        rule = _matching(listed, tool, subject, narrow=verdict == "allow")
        if rule:
            return cast("Verdict", verdict), rule
    return "ask", ""


def _subject(arguments: object) -> str:
    if not isinstance(arguments, Mapping):
        return ""
    given = cast("Mapping[str, Any]", arguments)
    for name in _SUBJECTS:
        value = given.get(name)
        if isinstance(value, str):
            return normpath(value) if value and name in _PATHS else value
        if isinstance(value, list):
            return " ".join(str(part) for part in cast("list[object]", value))
    return ""


def chained(line: str) -> bool:
    """Whether a shell could run more than one command for this line, or write to a file; in doubt it could."""
    place = 0 if _SUSPECT.search(line) else len(line)
    while place < len(line):
        piece = _PIECES.match(line, place)
        if piece is None:  # a quote without an end
            return True
        text, place = piece[0], piece.end()
        if text[0] == '"':
            if _EXPANDS.search(text):
                return True
        elif text[0] not in "'\\" and _CHAINS.search(text + line[place : place + 1].strip("\\")):
            return True
    return False


def _matching(rules: Iterable[str], tool: str, subject: str, *, narrow: bool) -> str:
    """The first rule that names this call. A narrow one never covers several commands with a pattern for one."""
    for rule in rules:
        found = _RULE.fullmatch(rule)
        if found is None or not fnmatchcase(tool, found[1]):
            continue
        if found[2] is None:
            return rule
        if narrow and chained(subject):
            continue
        if fnmatchcase(subject, found[2].replace(":*", "*")):
            return rule
    return ""
