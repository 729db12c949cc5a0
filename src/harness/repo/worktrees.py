"""Worktrees of one repository: made, listed and removed under one lock, so that two at once never meet half of one."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio

from harness.errors import ProcessError, UsageError
from harness.repo.git import Git

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_LOCK = "harness-worktrees.lock"
_LOCK_SECONDS = 60
_LOOK_AGAIN_SECONDS = 0.05  # a lock of another process tells nobody when it is free


@dataclass(frozen=True, slots=True, kw_only=True)
class Worktree:
    """One checkout of a repository."""

    path: Path
    branch: str
    head: str
    whole: bool  # False: git was interrupted while it made this one


class Worktrees:
    """The worktrees of the repository that `repository` is in."""

    def __init__(self, repository: Path) -> None:
        self._git = Git(repository)

    async def add(self, path: Path, *, branch: str, base: str = "HEAD") -> Worktree:
        """Check `base` out at `path` on a new branch, or on the branch if it exists.

        One that was left half made is made anew. Raises `UsageError` for a bad name or base, `ProcessError` with git's
        words if the path or the branch is in use.
        """
        check_worktree_name(branch.rpartition("/")[2])
        if base.startswith("-") or not (await self._git.try_run("rev-parse", "--verify", "--quiet", f"{base}^{{commit}}")).ok:
            raise UsageError(f"{base!r} is no commit of {self._git.directory}")
        async with self._alone():
            await self._clear(path)
            exists = (await self._git.try_run("rev-parse", "--verify", "--quiet", f"refs/heads/{branch}")).ok
            await self._git.run(
                "worktree", "add", "--quiet", *((str(path), branch) if exists else ("-b", branch, str(path), base))
            )
        found = await self.find(path)
        if found is None:
            raise ProcessError(f"git made no worktree at {path}")
        return found

    async def _clear(self, path: Path) -> None:
        """Remove what an interrupted `add` has left at this path."""
        left = await self.find(path)
        if left is not None and not left.whole:
            await self._git.try_run("worktree", "unlock", str(path))
            await self._git.try_run("worktree", "remove", "--force", str(path))
            if path.exists():
                await anyio.to_thread.run_sync(shutil.rmtree, path)
            await self._git.run("worktree", "prune")

    async def remove(self, path: Path, *, force: bool = False) -> None:
        """Remove a worktree. Raises `ProcessError` if it holds changes, unless `force`."""
        async with self._alone():
            await self._git.run("worktree", "remove", *(["--force"] if force else []), str(path))

    async def list(self) -> list[Worktree]:
        """All of them, the main one first."""
        text = await self._git.run("worktree", "list", "--porcelain", "-z")
        return [_worktree(block) for block in text.split("\0\0") if block.strip("\0")]

    async def find(self, path: Path) -> Worktree | None:
        """The worktree at this path."""
        wanted = path.resolve()
        return next((tree for tree in await self.list() if tree.path.resolve() == wanted), None)

    @asynccontextmanager
    async def _alone(self) -> AsyncGenerator[None]:
        """Hold the repository's lock. Raises `ProcessError` if somebody else keeps it too long."""
        path = await self._git.common_directory() / _LOCK
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            deadline = time.monotonic() + _LOCK_SECONDS
            while not _locked(fd):
                if time.monotonic() > deadline:
                    raise ProcessError(f"the worktrees of {path.parent} are being changed by another process for too long")
                await anyio.sleep(_LOOK_AGAIN_SECONDS)
            yield
        finally:
            os.close(fd)


def check_worktree_name(name: str) -> None:
    """Refuse a name that is not plain letters, digits, `.`, `_` and `-`, or that no branch may have. Raises `UsageError`."""
    if not _NAME.fullmatch(name):
        raise UsageError(f"a worktree's name is made of letters, digits, '.', '_' and '-', not {name!r}")
    if name.endswith((".", ".lock")) or ".." in name:
        raise UsageError(
            f"{name!r} is no worktree's name: its branch has it, too, and git takes no '..' in one, and no '.' or '.lock' "
            "at its end; choose another one, or a branch"
        )


def _locked(fd: int) -> bool:
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def _worktree(block: str) -> Worktree:
    told: dict[str, str] = {}
    for line in block.strip("\0").split("\0"):
        name, _, value = line.partition(" ")
        told[name] = value
    return Worktree(
        path=Path(told.get("worktree", "")), head=told.get("HEAD", ""),
        branch=told.get("branch", "").removeprefix("refs/heads/"),
        whole=told.get("locked") != "initializing" and "prunable" not in told,
    )  # fmt: skip
