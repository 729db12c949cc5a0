"""The git command line, so that nothing in a repository that an agent may have written is run by asking about it.

Hooks, file system monitors, signing programs and prompts are off. Owns no knowledge of worktrees or agents.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from harness.errors import ProcessError
from harness.processes import Spec, capture, clean_env

_SAFE = (
    "-c", f"core.hooksPath={os.devnull}",
    "-c", "core.fsmonitor=false",
    "-c", "commit.gpgSign=false",
    "-c", "core.quotePath=false",
    "-c", "gc.auto=0",
)  # fmt: skip
_NOBODY = {"NAME": "Harness", "EMAIL": "harness@localhost"}
_MAX_OUTPUT_BYTES = 32 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class GitAnswer:
    """What git said."""

    code: int
    output: bytes
    errors: str

    @property
    def ok(self) -> bool:
        return self.code == 0

    @property
    def text(self) -> str:
        return self.output.decode("utf-8", "replace")


class Git:
    """git in one directory; with `index` it uses that file as its index and leaves the repository's alone."""

    def __init__(self, directory: Path, *, timeout_seconds: float = 120, index: Path | None = None) -> None:
        self.directory = directory
        self._timeout = timeout_seconds
        self._index = {} if index is None else {"GIT_INDEX_FILE": str(index)}

    async def try_run(self, *arguments: str, stdin: bytes | None = None) -> GitAnswer:
        """Run git and give what it says, whatever it is. Raises `ProcessError` if it cannot run or does not end in time."""
        spec = Spec(
            argv=("git", *_SAFE, *arguments), tag=f"git/{os.getpid()}", cwd=self.directory, env=_environment() | self._index
        )
        done = await capture(spec, timeout_seconds=self._timeout, stdin=stdin, max_output_bytes=_MAX_OUTPUT_BYTES, split=True)
        if done.timed_out:
            raise ProcessError(f"git {arguments[0]} in {self.directory} did not end within {self._timeout:g} s")
        if done.left_out_bytes:
            raise ProcessError(f"git {arguments[0]} in {self.directory} said {done.left_out_bytes} bytes too much")
        code = done.exit.code if done.exit.code is not None else 128 + (done.exit.signal or 0)
        return GitAnswer(code=code, output=done.output, errors=done.errors.decode("utf-8", "replace").strip())

    async def run(self, *arguments: str, stdin: bytes | None = None) -> str:
        """What git says. Raises `ProcessError` with git's own words if it fails."""
        answer = await self.try_run(*arguments, stdin=stdin)
        if not answer.ok:
            raise ProcessError(f"git {arguments[0]}: {answer.errors or f'exit code {answer.code}'}")
        return answer.text

    async def top(self) -> Path | None:
        """The root of the worktree that the directory is in; None if it is in none."""
        answer = await self.try_run("rev-parse", "--show-toplevel")
        return Path(answer.text.rstrip("\n")) if answer.ok else None

    async def common_directory(self) -> Path:
        """The repository's own directory, which all its worktrees share."""
        return (self.directory / (await self.run("rev-parse", "--git-common-dir")).rstrip("\n")).resolve()

    async def commit(self, message: str) -> str | None:
        """Commit everything there is; gives the commit's id, None if there is nothing to commit."""
        await self.run("add", "--all")
        if (await self.try_run("diff", "--cached", "--quiet")).ok:
            return None
        await self.run(*await self._identity(), "commit", "--quiet", "--no-verify", "--file=-", stdin=message.encode())
        return (await self.run("rev-parse", "HEAD")).strip()

    async def _identity(self) -> tuple[str, ...]:
        """Who commits, where nobody has said so."""
        if (await self.try_run("config", "user.email")).ok:
            return ()
        return ("-c", f"user.name={_NOBODY['NAME']}", "-c", f"user.email={_NOBODY['EMAIL']}")


def _environment() -> dict[str, str]:
    """No prompt, plain words, and none of the variables that a surrounding git sets for its own repository."""
    kept = {name: value for name, value in clean_env().items() if not name.startswith("GIT_")}
    return kept | {"GIT_TERMINAL_PROMPT": "0", "GIT_PAGER": "cat", "GIT_EDITOR": "true", "LC_ALL": "C.UTF-8"}
