"""A system without what only Linux has: the package imports there and does its work by other means."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import asyncio, fcntl, os, pathlib, select, signal, sys

for module, names in {
    os: ("pidfd_open", "splice", "waitid"), signal: ("pidfd_send_signal",), fcntl: ("F_SETPIPE_SZ",),
    select: ("epoll", "poll", "kqueue"),
}.items():
    for name in names:
        if hasattr(module, name):
            delattr(module, name)

import harness.processes as p
from harness.processes import pty, reaper, system

for name in p.__all__:
    getattr(p, name)
system.PROC = False
pty.find_setsid = lambda: None
assert not (system.PIDFD or system.WAITID or system.KQUEUE)


async def main(folder):
    log = p.RotatingLog(folder / "out.log", max_bytes=1000)
    seen = []
    first = await p.spawn(p.Spec(argv=("sh", "-c", "echo one; exit 3"), tag="elsewhere/1", output=folder / "fifo"), log=log)
    assert await first.wait() == p.Exit(code=3, signal=None)
    argv = ("sh", "-c", "stty size; read x; echo got:$x")
    second = await p.spawn(p.Spec(argv=argv, tag="elsewhere/2", pty=p.Size()), on_output=seen.append)
    await second.write(b"two\\n")
    assert (await second.wait()).code == 0
    argv = ("sh", "-c", "(trap '' TERM; sleep 300) & sleep 300")
    third = await p.spawn(p.Spec(argv=argv, tag="elsewhere/3", output=folder / "fifo"))
    third.release()
    adopted = await p.adopt(third.identity, tag="elsewhere/3", output=folder / "fifo")
    while len(p.find("elsewhere/3")) < 3:
        await asyncio.sleep(0.01)
    stopped = await adopted.stop(grace_seconds=0.2)
    assert (stopped.needed, p.find("elsewhere/")) == ("kill", []), stopped
    assert [line.text for line in log.tail(5)] == ["one"]
    assert b"40 120" in b"".join(seen) and b"got:two" in b"".join(seen), seen


asyncio.run(asyncio.wait_for(main(pathlib.Path(sys.argv[1])), 30))
print("done")
"""


def test_it_works_without_what_only_linux_has(tmp_path: Path) -> None:
    """No pidfd, splice, waitid, epoll, /proc or setsid(1): spawn, terminal, log, adoption and stop do the same."""
    argv = [sys.executable, "-W", "error", "-c", SCRIPT, str(tmp_path)]

    found = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)

    assert (found.stdout, found.stderr) == ("done\n", "")
