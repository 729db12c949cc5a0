"""What this system offers: /proc, pidfds, kqueue. Probed once at import; tests force the fallbacks by setting a flag."""

from __future__ import annotations

import os
import select
from pathlib import Path


def _probe_pidfd() -> bool:
    """A kernel before 5.3 and some containers' filters refuse what `os` offers, so it is tried."""
    if not hasattr(os, "pidfd_open"):
        return False
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError:
        return False
    return True


PIDFD = _probe_pidfd()
PROC = Path("/proc/self/stat").exists()
KQUEUE = hasattr(select, "kqueue")
WAITID = hasattr(os, "waitid")


def find_program(name: str, path: str) -> str | None:
    """The file that a name means on a PATH. As `shutil.which`, which would load three compressors into every host."""
    for folder in path.split(os.pathsep):
        found = os.path.join(folder, name)  # noqa: PTH118 - asked at every start
        if os.access(found, os.X_OK) and not os.path.isdir(found):  # noqa: PTH112
            return found
    return None
