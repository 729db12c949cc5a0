"""Who holds a run's lease: a name that says which process, and whether that one can still come back."""

from __future__ import annotations

import functools
import os
import secrets
from pathlib import Path
from typing import Protocol
from weakref import WeakValueDictionary

from harness.processes import Identity


class Holder(Protocol):
    """A kernel's side of its leases."""

    def lets_go(self, run_id: str) -> bool:
        """Give up the lease of a run that another kernel of this process wants, unless it is at work on it."""
        ...


_here: WeakValueDictionary[str, Holder] = WeakValueDictionary()


def name_of(holder: Holder) -> str:
    """A name for a kernel of this process, which stands for it as long as it lives."""
    nonce = secrets.token_hex(4)
    _here[nonce] = holder
    pid = os.getpid()
    return f"{_place()}:{pid}.{Identity.of(pid).started}:{nonce}"


@functools.cache
def _place() -> str:
    """The machine since it was started, and its process table; a pid means nothing elsewhere.

    Machines may share a name, and the number of the first process table is the same on all of them.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:  # no Linux
        import psutil

        boot = str(round(psutil.boot_time()))
    try:
        table = str(os.stat("/proc/self/ns/pid").st_ino)  # noqa: PTH116 - follows the link to what has no path
    except OSError:
        table = "0"
    return f"{os.uname().nodename}/{boot}/{table}"


def may_take_over(holder: str, run_id: str) -> bool:
    """Whether this holder is gone for good, or is of this process and lets the run go."""
    place, _, rest = holder.partition(":")
    process, _, nonce = rest.partition(":")
    pid, _, started = process.partition(".")
    if place != _place() or not pid.isdigit() or not started.isdigit():
        return False
    if int(pid) != os.getpid():
        return not Identity(pid=int(pid), started=int(started)).alive()
    other = _here.get(nonce)
    return other is None or other.lets_go(run_id)
