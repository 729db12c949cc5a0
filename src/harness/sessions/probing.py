"""What an installed agent program can do for us, as far as it says so itself: quick, offline, and without its model.

It is asked for its version, its help and, if it has one, the schema of its protocol, in an empty home of its own, so that
nothing of the user's is touched. What a program really does is tried by `trials`. Owns no opinion on which version is good.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import msgspec

from harness.errors import HarnessError
from harness.processes import Spec, capture

KNOWN = ("claude", "codex")
"""The agent programs that are looked for."""

PATIENCE_SECONDS = 20.0
_MAX_BYTES = 8 << 20
_VERSION = re.compile(r"\d+\.\d+\.\d+[\w.-]*")
_PRIVATE = ("ANTHROPIC_", "CLAUDE_", "OPENAI_", "CODEX_", "HARNESS_")


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """One capability: whether there are signs of it, and which were looked for."""

    name: str
    has: bool
    sign: str


class Probed(msgspec.Struct, frozen=True, kw_only=True):
    """One program. `problem` says why nothing could be found out."""

    program: str
    path: str
    version: str = ""
    found: tuple[Found, ...] = ()
    problem: str = ""

    @property
    def modes(self) -> tuple[str, ...]:
        """The modes for which there are signs."""
        return tuple(each.name.removeprefix("mode ") for each in self.found if each.has and each.name.startswith("mode "))

    @property
    def lacks(self) -> tuple[str, ...]:
        """The capabilities for which there is no sign."""
        return tuple(each.name for each in self.found if not each.has)


_CLAUDE: Mapping[str, tuple[str, ...]] = {
    "mode stream": ("--input-format", "stream-json", "--replay-user-messages"),
    "mode pty": ("--permission-mode",),
    "mode once": ("--print", "--output-format"),
    "hooks": ("--settings",),
    "approvals": ("--input-format", "--permission-mode"),  # they come through the input; the flag for it may be a hidden one
    "resume": ("--resume", "--session-id"),
    "budget": ("--max-budget-usd",),
}
_CODEX: Mapping[str, tuple[str, ...]] = {
    "mode pty": ("--no-daemon",),
    "mode once": ("exec", "--ask-for-approval"),
    "hooks": ("--config",),
}
_CODEX_SCHEMA: Mapping[str, tuple[str, ...]] = {
    "mode app-server": ("thread/start", "turn/start", "thread/status/changed"),
    "approvals": ("item/commandExecution/requestApproval", "item/fileChange/requestApproval"),
    "resume": ("thread/resume",),
    "steer": ("turn/steer",),
    "interrupt": ("turn/interrupt",),
    "usage": ("thread/tokenUsage/updated",),
    "limits": ("account/rateLimits/updated",),
}
_SCHEMA_FILES = ("ClientRequest.json", "ServerRequest.json", "ServerNotification.json")


async def probe_programs(paths: Mapping[str, str] | None = None) -> list[Probed]:
    """The known programs that are installed: those on PATH, or these paths by name; a missing one is left out."""
    given = {name: shutil.which(name) or "" for name in KNOWN} if paths is None else paths
    return list(await asyncio.gather(*(probe_program(name, path) for name, path in given.items() if path)))


async def probe_program(program: str, path: str) -> Probed:
    """Ask one program. Never raises for what it does: `Probed.problem` tells."""
    with tempfile.TemporaryDirectory(prefix="harness-probe-", ignore_cleanup_errors=True) as folder:
        asking = _Asking(program, path, Path(folder))
        try:
            version = _VERSION.search(await asking.output("--version"))
            if version is None:
                return Probed(program=program, path=path, problem="it does not tell its version")
            told = await asking.output("--help")
            found = _signs(_CLAUDE, told) if program == "claude" else await _codex(asking, told)
        except (HarnessError, OSError) as error:
            return Probed(program=program, path=path, problem=str(error))
    return Probed(program=program, path=path, version=version[0], found=found)


async def _codex(asking: _Asking, told: str) -> tuple[Found, ...]:
    schema = asking.folder / "schema"
    await asking.output("app-server", "generate-json-schema", "--out", str(schema))
    texts = [path.read_text(encoding="utf-8") for name in _SCHEMA_FILES if (path := schema / name).exists()]
    return _signs(_CODEX, told) + _signs(_CODEX_SCHEMA, "\n".join(texts))


def _signs(wanted: Mapping[str, tuple[str, ...]], text: str) -> tuple[Found, ...]:
    return tuple(
        Found(name=name, has=all(_within(sign, text) for sign in signs), sign=", ".join(signs))
        for name, signs in wanted.items()
    )


def _within(sign: str, text: str) -> bool:
    return re.search(rf"(?<![\w/-]){re.escape(sign)}(?![\w/-])", text) is not None


class _Asking:
    """Runs one program with some arguments, in a home that is empty."""

    def __init__(self, program: str, path: str, folder: Path) -> None:
        self.folder = folder
        self._program = program
        self._path = path
        own = ("HOME", "CLAUDE_CONFIG_DIR", "CODEX_HOME", "TMPDIR", "CLAUDE_CODE_TMPDIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME")
        self._env = {name: value for name, value in os.environ.items() if not name.startswith(_PRIVATE)}
        self._env |= dict.fromkeys(own, str(folder)) | {"DISABLE_AUTOUPDATER": "1", "COLUMNS": "100", "NO_COLOR": "1"}

    async def output(self, *arguments: str) -> str:
        """What it prints. Raises `HarnessError` if it cannot be started or does not end in time."""
        spec = Spec(argv=(self._path, *arguments), env=self._env, cwd=self.folder, tag=f"probe/{self._program}/{os.getpid()}")
        told = await capture(spec, timeout_seconds=PATIENCE_SECONDS, max_output_bytes=_MAX_BYTES)
        if told.timed_out:
            raise HarnessError(f"`{self._program} {arguments[0]}` has not ended within {PATIENCE_SECONDS:g} s")
        return told.output.decode(errors="replace")
