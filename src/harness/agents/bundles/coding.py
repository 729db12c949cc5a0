"""Tools for an agent that writes code: worktrees, files, patches, commits, tests, all below one directory.

Owns what the tools are and what they promise. How a path stays below the root is `rooted`'s, how a patch is applied
`patches`', how a command is limited `processes`'. A command that is allowed runs with this user's rights: the root
limits these tools, not the programs that they start.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.agents.bundles import patches
from harness.agents.bundles.arguments import RootedPath
from harness.agents.bundles.paths import check_argument
from harness.agents.bundles.rooted import Rooted
from harness.errors import NotFound, ToolRejected, UsageError
from harness.kernel import ToolExecutionContext, ToolRegistry
from harness.processes import Captured, ResourceLimits, Spec, capture, clean_env
from harness.repo import Git, Worktrees, check_worktree_name

WORKTREE = "coding:worktree"
READ = "coding:read"
WRITE = "coding:write"
EXECUTE = "coding:execute"

WORKTREES_FOLDER = "worktrees"
BRANCH_PREFIX = "harness/"
TRAILER = "Harness-Step"  # in a commit's message: the key of the step that made it

DEFAULT_TESTS = ("python", "-m", "pytest", "-q")
DEFAULT_COMMANDS = (
    ("python", "-m", "pytest"), ("python3", "-m", "pytest"), ("pytest",), ("ruff",), ("pyright",), ("mypy",),
    ("npm", "test"), ("go", "test"), ("cargo", "test"), ("ls",), ("git", "status"), ("git", "log"),
)  # fmt: skip
_ENVIRONMENT = {
    "CI": "1",
    "PYTHONDONTWRITEBYTECODE": "1",  # a file that is mended in the second in which it was compiled counts as the old one
}
_MAX_FILE_BYTES = 8 << 20
_MAX_LINES = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandLimits:
    """What a command may take. `seconds` is wall time; the others are those of `ResourceLimits`."""

    seconds: float = 600
    output_bytes: int = 256 << 10
    processes: ResourceLimits = field(
        default_factory=lambda: ResourceLimits(cpu_seconds=1200, file_bytes=1 << 30, open_files=4096)
    )


class CodingHarnessTools:
    """A tool port for agents that write code below `sandbox_root`, a directory or a git repository that exists.

    `commands` are the beginnings of command lines that may be run, `tests` is what `run_tests` runs if it is not told
    otherwise. Give it as `tool_port` to a kernel, or as `tools` to an agent.
    """

    def __init__(
        self,
        *,
        sandbox_root: str | os.PathLike[str],
        commands: Sequence[Sequence[str]] = DEFAULT_COMMANDS,
        tests: Sequence[str] = DEFAULT_TESTS,
        limits: CommandLimits | None = None,
    ) -> None:
        if not tests or any(not command for command in commands):
            raise UsageError("tests and each of commands need at least the program's name")
        self.root = Rooted(sandbox_root)
        self._commands = tuple(tuple(command) for command in commands)
        self._tests = tuple(tests)
        self._limits = limits or CommandLimits()
        self._registry = self._registered()

    def registry(self) -> ToolRegistry:
        """The tools."""
        return self._registry

    def _registered(self) -> ToolRegistry:
        tools = ToolRegistry()
        tools.tool(
            self.create_worktree, requires_capability=WORKTREE, side_effect=True, on_unknown="probe", probe=self._has_worktree
        )
        tools.tool(self.read_file, requires_capability=READ, risk_level="low")
        tools.tool(self.list_files, requires_capability=READ, risk_level="low")
        tools.tool(self.write_file, requires_capability=WRITE, side_effect=True, on_unknown="retry")
        tools.tool(self.apply_patch, requires_capability=WRITE, side_effect=True, on_unknown="probe", probe=self._has_patch)
        tools.tool(self.git_diff, requires_capability=READ, risk_level="low")
        tools.tool(self.git_commit, requires_capability=WRITE, side_effect=True, on_unknown="probe", probe=self._has_commit)
        tools.tool(self.run_tests, requires_capability=EXECUTE, risk_level="high")
        tools.tool(self.run_command, requires_capability=EXECUTE, side_effect=True, risk_level="high")
        return tools

    # Worktrees

    async def create_worktree(self, name: str, base: str = "HEAD", repository: RootedPath = ".") -> dict[str, Any]:
        """Make a git worktree on a new branch; gives its path. `base` is the commit to begin with."""
        try:
            check_worktree_name(name)
            with self.root.entered(repository) as folder:
                git = await self._repository(folder, repository)
                path = await self._worktree_path(git, name)
                tree = await Worktrees(git.directory).add(path, branch=f"{BRANCH_PREFIX}{name}", base=base)
        except (UsageError, ValueError, OSError) as error:
            raise ToolRejected(str(error)) from error
        return {"path": path.relative_to(self.root.path).as_posix(), "branch": tree.branch, "commit": tree.head}

    async def _repository(self, folder: Any, told: str) -> Git:
        top = await Git(folder).top()
        if top is None or (top != self.root.path and self.root.path not in top.parents):
            raise UsageError(f"{told!r} is in no git repository below the sandbox root")
        return Git(top)

    async def _worktree_path(self, git: Git, name: str) -> Any:
        """Where a worktree of this name stands. Git is told to overlook the folder, if it is in a repository itself."""
        folder = self.root.path / WORKTREES_FOLDER
        if folder.is_symlink():
            raise UsageError(f"{WORKTREES_FOLDER} is a link; worktrees are made in a real directory of the sandbox root")
        folder.mkdir(exist_ok=True)
        exclude = await git.common_directory() / "info" / "exclude"
        line = f"/{WORKTREES_FOLDER}/\n"
        if git.directory == self.root.path and line not in (exclude.read_text() if exclude.exists() else ""):
            exclude.parent.mkdir(exist_ok=True)
            with exclude.open("a") as file:
                file.write(line)
        return folder / name

    async def _has_worktree(self, name: str, repository: str = ".") -> dict[str, Any] | bool:
        with self.root.entered(repository) as folder:
            git = await self._repository(folder, repository)
            tree = await Worktrees(git.directory).find(self.root.path / WORKTREES_FOLDER / name)
        if tree is None or not tree.whole:
            return False
        return {"path": f"{WORKTREES_FOLDER}/{name}", "branch": tree.branch, "commit": tree.head}

    # Files

    def read_file(self, path: RootedPath, offset: int = 1, limit: int = _MAX_LINES) -> dict[str, Any]:
        """Read a text file: `limit` lines from line `offset` on, counted from 1."""
        if offset < 1 or not 1 <= limit <= _MAX_LINES:
            raise ToolRejected(f"offset is at least 1 and limit 1 to {_MAX_LINES}, not {offset} and {limit}")
        data = self._refusing(lambda: self.root.read(path, max_bytes=_MAX_FILE_BYTES), path)
        if b"\0" in data[:8192]:
            raise ToolRejected(f"{path} is no text file")
        lines = data.decode("utf-8", "replace").splitlines(keepends=True)
        shown = lines[offset - 1 : offset - 1 + limit]
        return {"content": "".join(shown), "lines": len(lines), "more": offset - 1 + limit < len(lines)}

    def list_files(self, path: RootedPath = ".") -> list[str]:
        """What is in a directory; directories end in '/'."""
        return self._refusing(lambda: self.root.names(path), path)

    def write_file(self, path: RootedPath, content: str) -> dict[str, Any]:
        """Write a file whole, with the directories it needs."""
        try:
            data = content.encode()
        except UnicodeEncodeError as error:
            raise ToolRejected(f"the content is not valid Unicode: {error}") from error
        if len(data) > _MAX_FILE_BYTES:
            raise ToolRejected(f"the content has {len(data)} bytes, which is over the limit of {_MAX_FILE_BYTES}")
        created = self._refusing(lambda: self.root.write(path, data), path)
        return {"path": path, "bytes": len(data), "created": created}

    async def apply_patch(self, patch: str, directory: RootedPath = ".") -> dict[str, Any]:
        """Apply a unified diff to the files in a directory, wholly or not at all."""
        changed = await patches.apply(self.root, directory, patch)
        for path, data in changed.files.items():
            place = f"{directory}/{path}"
            if data is None:
                self._refusing(lambda place=place: self.root.remove(place), path)
            else:
                made, executable = data, changed.executable[path]
                self._refusing(lambda place=place, d=made, x=executable: self.root.write(place, d, executable=x), path)
        written = sorted(path for path, data in changed.files.items() if data is not None)
        return {"written": written, "removed": sorted(set(changed.files) - set(written))}

    async def _has_patch(self, patch: str, directory: str = ".") -> bool | None:
        """Whether a patch was applied: it can be taken back, or it can still be applied; anything between is for a person."""
        if await patches.fits(self.root, directory, patch, reverse=True):
            return True
        return False if await patches.fits(self.root, directory, patch) else None

    def _refusing(self, work: Any, path: str) -> Any:
        """Do what the files allow; what they do not is a rejection in plain words."""
        try:
            return work()
        except (ValueError, NotFound) as error:
            raise ToolRejected(f"{path}: {error}") from error
        except OSError as error:
            raise ToolRejected(f"{path}: {(error.strerror or str(error)).lower()}") from error

    # Git

    async def git_diff(self, directory: RootedPath = ".") -> str:
        """What is changed and not committed, new files too, as a unified diff."""
        with _Entered(self.root, directory) as git, tempfile.TemporaryDirectory(prefix="harness-index-") as folder:
            own = Git(git.directory, index=Path(folder) / "index")  # two who look at once must not wait for each other
            await own.run("read-tree", "HEAD")
            await own.run("add", "--all", "--intent-to-add", ":/")
            return await own.run("diff", "--no-color", "--no-ext-diff", "--no-textconv", "HEAD", "--", ".")

    async def git_commit(self, message: str, context: ToolExecutionContext, directory: RootedPath = ".") -> dict[str, Any]:
        """Commit everything that is changed; gives the commit's id, or null if there is nothing to commit."""
        if not message.strip() or "\0" in message:
            raise ToolRejected("a commit needs a message, without NUL")
        with _Entered(self.root, directory) as git:
            await self._repository(git.directory, directory)
            commit = await git.commit(f"{message.strip()}\n\n{TRAILER}: {context.idempotency_key}\n")
        return {"commit": commit}

    async def _has_commit(self, context: ToolExecutionContext, directory: str = ".") -> dict[str, Any] | bool:
        with _Entered(self.root, directory) as git:
            trailer = f"^{TRAILER}: {context.idempotency_key}$"
            answer = await git.try_run("log", "-n", "1", "--format=%H", f"--grep={trailer}")
        found = answer.text.strip() if answer.ok else ""
        return {"commit": found} if found else False

    # Commands

    async def run_tests(self, argv: list[str] | None = None, directory: RootedPath = ".") -> dict[str, Any]:
        """Run the project's tests; `argv` replaces the usual command, if it is one that is allowed."""
        done = await self._run(tuple(argv) if argv else self._tests, directory, allowed=not argv)
        return {"passed": done.ok, **_told(done)}

    async def run_command(self, argv: list[str], directory: RootedPath = ".") -> dict[str, Any]:
        """Run a program that is allowed, without a shell."""
        return _told(await self._run(tuple(argv), directory))

    async def _run(self, argv: tuple[str, ...], directory: str, *, allowed: bool = False) -> Captured:
        if not allowed:
            self._check(argv)
        limits = self._limits
        try:
            with self.root.entered(directory) as folder:
                spec = Spec(
                    argv=limits.processes.wrapped(argv), tag=f"coding/{os.getpid()}", cwd=folder, env=clean_env(_ENVIRONMENT)
                )
                return await capture(spec, timeout_seconds=limits.seconds, max_output_bytes=limits.output_bytes)
        except (OSError, ValueError) as error:
            raise ToolRejected(f"{directory}: {error}") from error

    def _check(self, argv: tuple[str, ...]) -> None:
        """Refuse what does not begin as one of the commands, and what names something outside after that beginning."""
        command = next((command for command in self._commands if argv[: len(command)] == command), None)
        if command is None:
            told = ", ".join(" ".join(command) for command in self._commands) or "none"
            raise ToolRejected(f"{' '.join(argv)[:200]!r} is not allowed; commands begin with one of: {told}")
        for word in argv[len(command) :]:
            try:
                check_argument(word)
            except ValueError as error:
                raise ToolRejected(str(error)) from error


class _Entered:
    """git in a directory below the root, for as long as the context lasts."""

    def __init__(self, root: Rooted, directory: str) -> None:
        self._entered = root.entered(directory)
        self._directory = directory

    def __enter__(self) -> Git:
        try:
            folder = self._entered.__enter__()
        except (OSError, ValueError) as error:
            raise ToolRejected(f"{self._directory}: {error}") from error
        return Git(folder)

    def __exit__(self, *raised: Any) -> None:
        self._entered.__exit__(*raised)


def _told(done: Captured) -> dict[str, Any]:
    """How a command went."""
    return {
        "exit_code": done.exit.code,
        "signal": done.exit.signal,
        "timed_out": done.timed_out,
        "seconds": round(done.seconds, 3),
        "output": done.output.decode("utf-8", "replace"),
    }
