"""Limits on what one process and its descendants may take of the machine, set before the program begins.

This module is also the small program that sets them: `python -I -S limits.py CPU MEMORY FILE OPEN -- argv…`, with `-` for
no limit. It replaces itself by the program, so nothing stands between the program and its owner.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

FAILED = 127


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceLimits:
    """What a process may take; None leaves it as it is. Each counts for each process of the tree by itself."""

    cpu_seconds: int | None = None
    memory_bytes: int | None = None  # of address space
    file_bytes: int | None = None  # the longest file it may write
    open_files: int | None = None

    def wrapped(self, argv: tuple[str, ...]) -> tuple[str, ...]:
        """The command that sets the limits and then becomes `argv`."""
        values = (self.cpu_seconds, self.memory_bytes, self.file_bytes, self.open_files)
        if not any(values):
            return argv
        told = ["-" if value is None else str(value) for value in values]
        return (sys.executable, "-I", "-S", str(Path(__file__)), *told, "--", *argv)


def main() -> int:
    """Set the limits and become the program."""
    import resource

    kinds = (resource.RLIMIT_CPU, resource.RLIMIT_AS, resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE)
    told, argv = sys.argv[1:5], sys.argv[6:]
    for kind, value in zip(kinds, told, strict=True):
        if value != "-":
            _lower(kind, int(value))
    try:
        os.execvp(argv[0], argv)  # noqa: S606 - that is what this program is for
    except OSError as error:
        print(f"{argv[0]}: cannot be started: {error.strerror}", file=sys.stderr)
    return FAILED


def _lower(kind: int, value: int) -> None:
    import resource

    _, hard = resource.getrlimit(kind)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))


if __name__ == "__main__":
    sys.exit(main())
