"""What a child is given to know: an environment without secrets, and the marks by which its tree is found again."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping

TAG = "HARNESS_TAG"
"""What the process is for, as its owner names it; inherited by its descendants."""

SPAWN = "HARNESS_SPAWN"
"""One random word per spawn, after those of the trees that the owner itself runs in: `outer:inner`."""

SOCKETS = "HARNESS_SOCKETS"
"""Numbers of inherited listening sockets, separated by commas."""

_SECRET = re.compile(
    r"(?:KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|(?<!ASK)PASS|CREDENTIALS?|(?:^|_)PAT)(?=_|\d|$)", re.IGNORECASE
)
_WITH_PASSWORD = re.compile(r"://[^/@\s]*:[^/@\s]+@")
_OURS = frozenset({TAG, SPAWN, SOCKETS})


def clean_env(extra: Mapping[str, str] | None = None, *, keep: Collection[str] = ()) -> dict[str, str]:
    """This process's environment without secrets, plus `extra`, which always wins.

    Left out are names with a secret's word in them (…KEY, …TOKEN, …SECRET, …PASSWORD and such) and addresses with a
    password in them, unless `keep` names them.
    """
    kept = {name: value for name, value in os.environ.items() if name in keep or not is_secret(name, value)}
    return {name: value for name, value in kept.items() if name not in _OURS} | dict(extra or {})


def is_secret(name: str, value: str) -> bool:
    """Whether a variable looks like a secret, by its name or by a password in its address."""
    return bool(_SECRET.search(name) or _WITH_PASSWORD.search(value))


def new_spawn_word() -> str:
    return os.urandom(8).hex()


def marked(environment: Mapping[str, str], *, tag: str, word: str, detached: bool) -> dict[str, str]:
    """The environment with the marks of a new tree; a detached one is not part of the tree its owner runs in."""
    outer = "" if detached else os.environ.get(SPAWN, "")
    lineage = f"{outer}:{word}" if outer else word
    return {**environment, TAG: tag, SPAWN: lineage}


def words_of(environment: Mapping[str, str]) -> tuple[str, ...]:
    """The spawn words of all the trees that a process belongs to, the innermost last."""
    return tuple(word for word in environment.get(SPAWN, "").split(":") if word)
