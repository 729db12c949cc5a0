"""Unified diffs, applied by git itself: in a scratch copy of the files they name, never in place.

What git makes of the copy is written back by `Rooted`, so a patch can neither leave the root nor be half applied
because it does not fit. Owns no knowledge of agents.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.agents.bundles.paths import relative_parts
from harness.agents.bundles.rooted import Rooted
from harness.errors import ToolRejected
from harness.repo import Git

MAX_PATCH_BYTES = 4 << 20
MAX_FILE_BYTES = 16 << 20

_NAMES = re.compile(
    r"^(?:--- |\+\+\+ |rename from |rename to |copy from |copy to )(?P<one>[^\t\r\n]+)|^diff --git (?P<two>.+)$", re.MULTILINE
)
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """What a patch makes of the files: new contents by path; None for one that is removed."""

    files: Mapping[str, bytes | None]
    executable: Mapping[str, bool]


def named(patch: str, strip: int) -> set[str]:
    """The paths that a patch speaks of. Raises `ToolRejected` for one that leads out."""
    found: set[str] = set()
    for match in _NAMES.finditer(patch):
        words = [match["one"]] if match["one"] is not None else _both(match["two"])
        for word in words:
            keeps = match[0].startswith(("rename", "copy"))
            path = _path(word, 0 if keeps else strip)
            if path:
                found.add(path)
    return found


def _both(text: str) -> list[str]:
    """The two names of a `diff --git` line."""
    quoted = [match[0] for match in _QUOTED.finditer(text)]
    if len(quoted) == 2:
        return quoted
    half = len(text) // 2  # without a rename they are the same but for their first component
    return [text[:half], text[half + 1 :]] if " " in text else []


def _path(word: str, strip: int) -> str:
    word = word.strip()
    if word.startswith('"'):
        word = _unquoted(word)
    if word in ("/dev/null", ""):
        return ""
    if word.startswith("/"):
        raise ToolRejected(f"the patch names {word[:100]!r}, which is not below the sandbox root")
    try:
        return "/".join(relative_parts(word)[strip:])
    except ValueError as error:
        raise ToolRejected(f"the patch names a path that cannot be: {error}") from error


def _unquoted(word: str) -> str:
    """A name as git quotes it, with its escapes undone."""
    try:
        return word.strip('"').encode("latin-1", "backslashreplace").decode("unicode_escape").encode("latin-1").decode()
    except UnicodeError as error:
        raise ToolRejected(f"the patch names {word[:100]}, which is no name: {error}") from error


def stripped(patch: str) -> int:
    """How many components to take off the names: one of `a/x` and `b/x`, none of plain ones."""
    names = re.findall(r"^(?:---|\+\+\+) (?!/dev/null)(\S+)", patch, re.MULTILINE)
    if not names:
        return 1
    return 1 if all(name.strip('"').startswith(("a/", "b/")) for name in names) else 0


async def apply(rooted: Rooted, directory: str, patch: str) -> Changed:
    """What the patch makes of the files in `directory`. Raises `ToolRejected` with git's reason if it does not fit."""
    data = _checked(patch)
    strip = stripped(patch)
    with _scratch() as scratch:
        before = _copied(rooted, directory, named(patch, strip), scratch)
        answer = await Git(scratch).try_run("apply", "--whitespace=nowarn", f"-p{strip}", "-", stdin=data)
        if not answer.ok:
            raise ToolRejected(f"the patch does not apply: {_reason(answer.errors)}")
        return _read_back(scratch, before)


async def fits(rooted: Rooted, directory: str, patch: str, *, reverse: bool = False) -> bool:
    """Whether the patch could be applied now, or taken back."""
    data = _checked(patch)
    strip = stripped(patch)
    with _scratch() as scratch:
        _copied(rooted, directory, named(patch, strip), scratch)
        options = ["--check", f"-p{strip}", *(["--reverse"] if reverse else [])]
        return (await Git(scratch).try_run("apply", *options, "-", stdin=data)).ok


def _checked(patch: str) -> bytes:
    try:
        data = patch.encode()
    except UnicodeEncodeError as error:
        raise ToolRejected(f"the patch is not valid Unicode: {error}") from error
    if len(data) > MAX_PATCH_BYTES:
        raise ToolRejected(f"the patch has {len(data)} bytes, which is over the limit of {MAX_PATCH_BYTES}; divide it")
    if not data.strip():
        raise ToolRejected("the patch is empty")
    return data if data.endswith(b"\n") else data + b"\n"


@contextmanager
def _scratch() -> Generator[Path]:
    """An empty directory of its own, in no repository."""
    with tempfile.TemporaryDirectory(prefix="harness-patch-") as folder:
        yield Path(folder)


_Files = dict[str, tuple[bytes, bool]]  # contents, and whether it may be run, by path


def _copied(rooted: Rooted, directory: str, paths: set[str], scratch: Path) -> _Files:
    before: _Files = {}
    for path in paths:
        place = f"{directory}/{path}"
        try:
            if not rooted.is_file(place):
                continue
            before[path] = rooted.read(place, max_bytes=MAX_FILE_BYTES), rooted.executable(place)
        except (OSError, ValueError) as error:
            raise ToolRejected(f"the patch names {path!r}, which cannot be read: {error}") from error
        copy = scratch / path
        copy.parent.mkdir(parents=True, exist_ok=True)
        data, executable = before[path]
        copy.write_bytes(data)
        copy.chmod(0o755 if executable else 0o644)
    return before


def _read_back(scratch: Path, before: _Files) -> Changed:
    after: _Files = {}
    for file in sorted(scratch.rglob("*")):
        if file.is_symlink():
            raise ToolRejected(f"the patch makes a link of {file.relative_to(scratch)}; write a file instead")
        if file.is_file():
            after[file.relative_to(scratch).as_posix()] = file.read_bytes(), bool(file.stat().st_mode & 0o100)
    changed = {path: made for path, made in after.items() if before.get(path) != made}
    files: dict[str, bytes | None] = {path: None for path in before if path not in after}
    return Changed(
        files=files | {path: data for path, (data, _) in changed.items()},
        executable={path: executable for path, (_, executable) in changed.items()},
    )


def _reason(errors: str) -> str:
    lines = [line.removeprefix("error: ") for line in errors.splitlines() if line.strip()]
    return "; ".join(lines[:4]) or "git gives no reason"
