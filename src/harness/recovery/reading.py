"""Files that a model may read: inside one root, never anything outside of it, and nothing that holds secrets.

A path is walked from the root's own descriptor, part by part, without following any link, so nothing that is swapped
in between looking and reading leads outside. What is read is fenced: it is data.
"""

from __future__ import annotations

import contextlib
import fnmatch
import os
import re
import stat
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import StepRejected
from harness.text import decoded, fenced

MAX_FILE_BYTES = 2 * 1024 * 1024
MAX_ENTRIES = 500
MAX_HITS = 100
MAX_LINES = 400
_MAX_SEARCHED = 5_000  # files
_MAX_DEPTH = 32
_SKIPPED = frozenset({".git", ".hg", ".svn", ".venv", "node_modules", "__pycache__", ".harness", ".ssh", ".aws", ".gnupg"})
_SECRET_FILES = (
    ".env", ".env.*", "*.env", "*.pem", "*.key", "*.p12", "*.pfx", "*.keystore", "id_rsa*", "id_dsa*", "id_ec*",
    "id_ed25519*", ".netrc", ".npmrc", ".pypirc", ".pgpass", "*credentials*", "secrets.*", "*.kdbx", "shadow",
)  # fmt: skip
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


@dataclass(frozen=True, slots=True)
class Entry:
    """One file or folder."""

    path: str
    folder: bool
    size: int


class FileRoot:
    """Reads below one folder. Every refusal is a `StepRejected` that says why, and nothing was opened outside."""

    def __init__(self, root: Path, *, home: Path | None = None, also: Sequence[str] = (), known: Sequence[str] = ()) -> None:
        """`home` is where Harness keeps its records, which are no reading, but for `also`; `known` are secrets to mask."""
        self.root = root
        self._home = _relative(root, home)
        self._also = frozenset(os.path.normpath(path) for path in also)
        self._known = tuple(known)

    def read(self, path: str, *, first: int = 1, lines: int = MAX_LINES) -> dict[str, object]:
        """Lines of a file, from `first` (from 1) on."""
        text = decoded(self._bytes(path))
        every = text.splitlines()
        first, count = max(1, first), max(1, min(lines, MAX_LINES))
        shown = every[first - 1 : first - 1 + count]
        return {
            "path": path,
            "first": first,
            "lines": len(shown),
            "of": len(every),
            "text": fenced("\n".join(shown), name=path, known=self._known),
        }

    def list(self, path: str = ".", *, pattern: str = "*") -> dict[str, object]:
        """What is in a folder, by name."""
        with self._folder(_parts(path)) as folder:
            found = [entry for entry in _entries(folder, _joined(path)) if fnmatch.fnmatch(_name(entry.path), pattern)]
        shown = [{"path": e.path + "/" * e.folder, "bytes": e.size} for e in found if self._visible(e.path)]
        return {"path": path, "entries": shown[:MAX_ENTRIES], "left_out": max(0, len(shown) - MAX_ENTRIES)}

    def search(self, text: str, path: str = ".", *, pattern: str = "*") -> dict[str, object]:
        """Lines that contain `text`, in any case, in files below a folder whose names fit the pattern."""
        if not text.strip():
            raise StepRejected("search_code needs a text to look for")
        wanted = text.lower()
        hits: list[str] = []
        searched = 0
        for entry in self._files(_joined(path), pattern):
            searched += 1
            for number, line in enumerate(self._quietly(entry.path).splitlines(), 1):
                if wanted in line.lower():
                    hits.append(f"{entry.path}:{number}: {line.strip()[:300]}")
            if len(hits) >= MAX_HITS or searched >= _MAX_SEARCHED:
                break
        found = fenced("\n".join(hits[:MAX_HITS]), name=f"search for {text[:80]}", known=self._known)
        return {"searched_files": searched, "hits": min(len(hits), MAX_HITS), "complete": len(hits) < MAX_HITS, "text": found}

    def _files(self, path: str, pattern: str, depth: int = 0) -> Iterator[Entry]:
        with self._folder(_parts(path)) as folder:
            entries = list(_entries(folder, path))
        for entry in entries:
            if entry.folder:
                if depth < _MAX_DEPTH and self._visible(entry.path):
                    with contextlib.suppress(StepRejected):
                        yield from self._files(entry.path, pattern, depth + 1)
            elif self._readable(entry.path) and entry.size <= MAX_FILE_BYTES and fnmatch.fnmatch(_name(entry.path), pattern):
                yield entry

    def _quietly(self, path: str) -> str:
        with contextlib.suppress(StepRejected):
            content = self._bytes(path)
            return "" if b"\0" in content[:8192] else decoded(content)
        return ""

    def _bytes(self, path: str) -> bytes:
        parts = _parts(path)
        if not parts:
            raise StepRejected(f"{path!r} is a folder; list_files shows what is in it")
        if not self._readable("/".join(parts)):
            raise StepRejected(f"{path!r} may hold secrets or Harness's own records, so it is not shown")
        with self._folder(parts[:-1]) as folder:
            descriptor = _open(parts[-1], folder, path)
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise StepRejected(f"{path!r} is no file")
            if found.st_size > MAX_FILE_BYTES:
                raise StepRejected(f"{path!r} has {found.st_size} bytes, {MAX_FILE_BYTES} are the limit; search_code may help")
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                return file.read(MAX_FILE_BYTES)
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def _folder(self, parts: Sequence[str]) -> Generator[int]:
        path = "/".join(parts) or "."
        descriptor = _open(str(self.root), None, ".", os.O_DIRECTORY)
        try:
            for part in parts:
                inner = _open(part, descriptor, path, os.O_DIRECTORY)
                os.close(descriptor)
                descriptor = inner
            yield descriptor
        finally:
            os.close(descriptor)

    def _visible(self, path: str) -> bool:
        """Whether a folder may be entered, or a file be named."""
        in_home = self._home is not None and (path == self._home or path.startswith(f"{self._home}/"))
        return path in self._also or not (in_home or _SKIPPED.intersection(path.split("/")))

    def _readable(self, path: str) -> bool:
        if path in self._also:
            return True
        name = _name(path).lower()
        return self._visible(path) and not any(fnmatch.fnmatch(name, pattern) for pattern in _SECRET_FILES)


def _parts(path: str) -> list[str]:
    """The parts of a path below the root. Raises `StepRejected` for one that could mean anything else."""
    if "\0" in path or re.search(r"[\x00-\x1f\x7f]", path):
        raise StepRejected("a path holds no NUL or control characters")
    if path.startswith(("/", "~")) or "\\" in path:
        raise StepRejected(f"{path!r} must be relative to the project's root, with / between its parts")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise StepRejected(f"{path!r} leads out of the project's root; `..` is not allowed")
    if len(path) > 4096 or any(len(os.fsencode(part)) > 255 for part in parts):
        raise StepRejected("the path is too long")
    return parts


def _relative(root: Path, home: Path | None) -> str | None:
    if home is None:
        return None
    root, home = root.resolve(), home.resolve()
    return home.relative_to(root).as_posix() if home.is_relative_to(root) else None


def _joined(path: str) -> str:
    return "/".join(_parts(path))


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _open(name: str, folder: int | None, shown: str, flags: int = 0) -> int:
    # The root itself may be reached by a link: whoever declared it chose it.
    follow = ~os.O_NOFOLLOW if folder is None else ~0
    try:
        return os.open(name, (_OPEN | flags) & follow, dir_fd=folder)
    except FileNotFoundError:
        raise StepRejected(f"{shown!r} does not exist") from None
    except (OSError, ValueError) as error:
        why = "a symbolic link, which is not followed" if _is_link(name, folder) else getattr(error, "strerror", None) or error
        raise StepRejected(f"{shown!r} cannot be opened: {why}") from None


def _is_link(name: str, folder: int | None) -> bool:
    try:
        return stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except (OSError, ValueError):
        return False


def _entries(folder: int, path: str) -> list[Entry]:
    prefix = f"{path}/" if path else ""
    entries: list[Entry] = []
    with os.scandir(folder) as found:
        for each in found:
            with contextlib.suppress(OSError):
                if not each.is_symlink():
                    name = each.name.encode("utf-8", "replace").decode()
                    size = each.stat(follow_symlinks=False).st_size
                    entries.append(Entry(prefix + name, each.is_dir(follow_symlinks=False), size))
    return sorted(entries, key=lambda entry: entry.path)
