"""Where code changes: git by its command line, and worktrees. Import from here, not from the modules inside."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.repo.git import Git, GitAnswer
    from harness.repo.worktrees import Worktree, Worktrees, check_worktree_name

_HOME = {
    "Git": "git",
    "GitAnswer": "git",
    "Worktree": "worktrees",
    "Worktrees": "worktrees",
    "check_worktree_name": "worktrees",
}

__all__ = ["Git", "GitAnswer", "Worktree", "Worktrees", "check_worktree_name"]


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
