"""Where the agent's repository stands: its commit, branch and whether there are changes, asked of git."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, cast

from harness.errors import HarnessError
from harness.sessions import facts


class Repository:
    """Looks at one working directory; outside a repository it sees nothing."""

    def __init__(self, cwd: Path) -> None:
        self._cwd = cwd
        self._last: facts.GitObserved | None = None
        self._none = False

    async def observe(self, phase: str) -> facts.GitObserved | None:
        """What git says, if it is worth an event: at the start, at the end, and when it has changed."""
        if self._none:
            return None
        seen = await self._look(cast('Literal["start", "change", "end"]', phase))
        if seen is None:
            self._none = True
            return None
        last, self._last = self._last, seen
        same = last is not None and (last.sha, last.branch, last.dirty) == (seen.sha, seen.branch, seen.dirty)
        return None if phase == "change" and same else seen

    async def _look(self, phase: Literal["start", "change", "end"]) -> facts.GitObserved | None:
        from harness.repo import Git

        git = Git(self._cwd, timeout_seconds=10)
        try:
            status = await git.try_run("status", "--porcelain=v2", "--branch", "--untracked-files=normal")
        except HarnessError:
            return None
        if not status.ok:
            return None
        sha = branch = ""
        dirty = False
        for line in status.text.splitlines():
            if line.startswith("# branch.oid "):
                sha = line.removeprefix("# branch.oid ")
            elif line.startswith("# branch.head "):
                branch = line.removeprefix("# branch.head ")
            elif not line.startswith("#"):
                dirty = True
        return facts.GitObserved(phase=phase, sha="" if sha == "(initial)" else sha, branch=branch, dirty=dirty)
