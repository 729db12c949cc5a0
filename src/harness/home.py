"""Where a project's home is: found by names alone, before any setting is read. Loads nothing, for commands in a hurry.

`settings` finds the home by the same rules and reads what is configured; this module never reads a setting.
"""

# pathlib would take longer to load than all of this
# ruff: noqa: PTH110, PTH112, PTH113, PTH118, PTH119, PTH120, PTH123

from __future__ import annotations

import os
from os.path import isdir, isfile, join

CONFIG_NAME = "harness.toml"
HOME_NAME = ".harness"
GONE = "the current directory does not exist any more: change to one that does"


def here() -> str | None:
    """The current directory; None if it was deleted under us, see `GONE`."""
    try:
        return os.path.realpath(os.getcwd())  # noqa: PTH109
    except FileNotFoundError:
        return None


def find_root(start: str) -> str:
    """The project's root, found upwards as git finds its own; of a linked worktree it is the main worktree's."""
    for folder in _upwards(start):
        if isdir(join(folder, HOME_NAME)) or isfile(join(folder, CONFIG_NAME)) or isdir(join(folder, ".git")):
            return folder
        if isfile(join(folder, ".git")):
            return _main_worktree(folder)
    return start


def find_repository(start: str) -> str:
    """The root of the git working tree around a folder, a linked worktree's own; the folder itself where there is none."""
    for folder in _upwards(start):
        if os.path.exists(join(folder, ".git")):
            return folder
    return start


def _upwards(start: str) -> list[str]:
    folders = [start]
    while (parent := os.path.dirname(folders[-1])) != folders[-1]:
        folders.append(parent)
    return folders


def _main_worktree(folder: str) -> str:
    """A linked worktree's `.git` file names its folder inside the main one; a submodule's has no `commondir`."""
    try:
        kept = join(folder, _read(join(folder, ".git")).partition("gitdir:")[2].strip())
        common = os.path.realpath(join(kept, _read(join(kept, "commondir")).strip()))
    except (OSError, UnicodeDecodeError):
        return folder
    return os.path.dirname(common) if os.path.basename(common) == ".git" else folder


def _read(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()
