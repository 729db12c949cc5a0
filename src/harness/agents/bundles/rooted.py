"""Files below one directory, and nothing else: no path leads out, whatever is renamed or linked meanwhile.

Every component is opened by itself, relative to the directory before it, without following links (`O_NOFOLLOW`). A link
is read and walked by hand from where it stands, and may not lead above the root. What was checked is therefore what is
used: there is no moment in between at which a link could be put in the way. A file is written beside its place and then
renamed over it, so that a link or a second name for it is replaced, never written through.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from harness.agents.bundles.paths import checked_parts, relative_parts
from harness.errors import UsageError

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_LINKS = 40


class OutsideRoot(ValueError):
    """A path leads out of the root."""


class Rooted:
    """The files below `root`. Paths are relative to it; all methods raise `OSError`, and `ValueError` for a bad path."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.path = Path(root).resolve()
        if not self.path.is_dir():
            raise UsageError(f"{root}: the sandbox root is no directory; make it first")

    def read(self, path: str, *, max_bytes: int) -> bytes:
        """A regular file's bytes. Raises `ValueError` for one that is longer."""
        with self._regular(path) as (file, size):
            if size > max_bytes:
                raise ValueError(f"{path} has {size} bytes, which is over the limit of {max_bytes}")
            return file.read(max_bytes)

    def read_end(self, path: str, *, max_bytes: int) -> bytes:
        """The last bytes of a regular file, from the beginning of a line on."""
        with self._regular(path) as (file, size):
            if size > max_bytes:
                file.seek(-max_bytes, os.SEEK_END)
                file.readline()
            return file.read(max_bytes)

    @contextmanager
    def _regular(self, path: str) -> Generator[tuple[BinaryIO, int]]:
        """A regular file to read, and its size."""
        with self._place(path) as (directory, name), _opened(directory, name, os.O_RDONLY | os.O_NONBLOCK) as fd:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                raise ValueError(f"{path} is no regular file")
            with os.fdopen(os.dup(fd), "rb") as file:
                yield file, found.st_size

    def write(self, path: str, data: bytes, *, executable: bool | None = None) -> bool:
        """Write a file whole or not at all, with the directories it needs; gives whether there was none before."""
        with self._place(path, make=True) as (directory, name):
            mode = _mode(directory, name)
            wanted = 0o644 if mode is None else mode
            if executable is not None:
                wanted = wanted | 0o111 if executable else wanted & ~0o111
            temporary = f".harness-{secrets.token_hex(8)}"
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(temporary, flags, 0o600, dir_fd=directory)
            try:
                with os.fdopen(fd, "wb") as file:
                    file.write(data)
                    os.fchmod(fd, wanted)
                    file.flush()
                    os.fsync(fd)
                os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(temporary, dir_fd=directory)
                raise
            return mode is None

    def remove(self, path: str) -> None:
        """Remove a file."""
        with self._place(path) as (directory, name):
            os.unlink(name, dir_fd=directory)

    def is_file(self, path: str) -> bool:
        """Whether there is a regular file."""
        try:
            with self._place(path) as (directory, name):
                mode = _mode(directory, name)
        except FileNotFoundError:
            return False
        return mode is not None

    def executable(self, path: str) -> bool:
        """Whether the file may be run."""
        with self._place(path) as (directory, name):
            return bool((_mode(directory, name) or 0) & 0o100)

    @contextmanager
    def entered(self, path: str) -> Generator[Path]:
        """A directory, as a path to start a process in: it stays that directory while the context lasts, whatever is renamed.

        Where the system has no such path it is the plain one.
        """
        with self._walked(relative_parts(path)) as walk:
            held = Path(f"/proc/self/fd/{walk.here}")
            yield held if held.exists() else self.path.joinpath(*walk.names)

    def names(self, path: str) -> list[str]:
        """What is in a directory; directories end in `/`."""
        with self._walked(relative_parts(path)) as walk, os.scandir(walk.here) as entries:
            return sorted(entry.name + ("/" if entry.is_dir(follow_symlinks=False) else "") for entry in entries)

    # Walking

    @contextmanager
    def _place(self, path: str, *, make: bool = False) -> Generator[tuple[int, str]]:
        """The directory that a file is in, and its name there, which is no link at this moment."""
        parts = relative_parts(path)
        if not parts:
            raise ValueError("the sandbox root is no file")
        with self._walked(parts[:-1], make=make) as walk:
            name = walk.settle(parts[-1])
            yield walk.here, name

    @contextmanager
    def _walked(self, parts: tuple[str, ...], *, make: bool = False) -> Generator[_Walk]:
        walk = _Walk(self.path, make=make)
        try:
            for part in parts:
                walk.step(part)
            yield walk
        finally:
            walk.close()


class _Walk:
    """A walk from the root downward, holding every directory on the way, so that `..` in a link leads back the same way."""

    def __init__(self, root: Path, *, make: bool) -> None:
        self._held = [os.open(root, _DIRECTORY & ~os.O_NOFOLLOW)]
        self.names: list[str] = []
        self._make = make
        self._links = 0

    @property
    def here(self) -> int:
        return self._held[-1]

    def close(self) -> None:
        for fd in self._held:
            os.close(fd)
        self._held = []

    def step(self, name: str) -> None:
        """Enter a directory, or what a link to one leads to."""
        if name == "..":
            if len(self._held) == 1:
                raise OutsideRoot("a link leads out of the sandbox root")
            os.close(self._held.pop())
            self.names.pop()
            return
        target = self._enter(name)
        if target is not None:
            for part in self._target(target):
                self.step(part)

    def _enter(self, name: str) -> str | None:
        """Enter a directory; gives the target if it is a link."""
        for _ in range(_MAX_LINKS):
            try:
                self._held.append(os.open(name, _DIRECTORY, dir_fd=self.here))
            except FileNotFoundError:
                if not self._make:
                    raise
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, 0o755, dir_fd=self.here)
                continue
            except OSError as error:
                if error.errno not in (errno.ELOOP, errno.ENOTDIR):
                    raise
                target = _link(self.here, name)
                if target is not None:
                    return target
                if error.errno == errno.ENOTDIR:
                    raise
                continue  # it was a link, and is none any more
            self.names.append(name)
            checked_parts(tuple(self.names))
            return None
        raise OutsideRoot(f"{name!r} changes while it is being opened")

    def settle(self, name: str) -> str:
        """The name of a file here, after its links: each leads on, from the directory where it stands."""
        while True:
            target = _link(self.here, name)
            if target is None:
                checked_parts((*self.names, name))
                return name
            *parts, name = self._target(target) or [""]
            for part in parts:
                self.step(part)
            if name in ("", ".."):
                raise OutsideRoot("a link leads to a directory, not to a file")

    def _target(self, target: str) -> list[str]:
        self._links += 1
        if self._links > _MAX_LINKS:
            raise OutsideRoot("too many links, one after another")
        if target.startswith("/"):
            raise OutsideRoot(f"a link leads to {target[:100]!r}, out of the sandbox root")
        return [part for part in target.split("/") if part not in ("", ".")]


def _link(directory: int, name: str) -> str | None:
    """What a link says; None if it is no link, or not there."""
    try:
        return os.readlink(name, dir_fd=directory)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.EINVAL:
            return None
        raise


@contextmanager
def _opened(directory: int, name: str, flags: int) -> Generator[int]:
    try:
        fd = os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OutsideRoot(f"{name!r} became a link while it was being opened") from None
        raise
    try:
        yield fd
    finally:
        os.close(fd)


def _mode(directory: int, name: str) -> int | None:
    """The permissions of a regular file; None if there is none. Raises `ValueError` for anything else."""
    try:
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(f"{name!r} is no regular file")
    return stat.S_IMODE(found.st_mode)
