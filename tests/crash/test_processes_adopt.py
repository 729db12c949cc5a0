"""Owners that are killed: their children go on, and the next owner finds, reads and ends them."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from harness.errors import ProcessError
from harness.processes import (
    Exit,
    Identity,
    LogReader,
    Process,
    RotatingLog,
    Spec,
    adopt,
    become_subreaper,
    find,
    spawn,
    system,
)

OWNER = """
import asyncio, json, sys
from pathlib import Path
from harness.processes import *

async def main(folder, tag, *argv):
    become_subreaper()
    log = RotatingLog(folder / "out.log", max_bytes=200_000, keep=1000)
    if argv:
        process = await spawn(Spec(argv=argv, tag=tag, output=folder / "fifo"), log=log)
        (folder / "identity").write_text(json.dumps([process.identity.pid, process.identity.started]))
    else:
        pid, started = json.loads((folder / "identity").read_text())
        await adopt(Identity(pid=pid, started=started), tag=tag, output=folder / "fifo", log=log)
    print("owned", flush=True)
    await asyncio.sleep(300)

asyncio.run(main(Path(sys.argv[1]), *sys.argv[2:]))
"""

COUNT = """
import os, sys, time
for n in range(0, int(sys.argv[1]), 50):
    os.write(1, b"".join(b"%08d %s\\n" % (m, b"x" * (m % 90)) for m in range(n, n + 50)))
    n % 1000 or time.sleep(0.005)
"""


@pytest.fixture
def tag(request: pytest.FixtureRequest) -> Iterator[str]:
    """A tag of this test's own; what is left with it at the end is killed."""
    name = f"test/{os.getpid()}/{request.node.name}"
    yield name
    for found in find(name):
        found.identity.signal(signal.SIGKILL)


def own(folder: Path, tag: str, *argv: str) -> subprocess.Popen[bytes]:
    """An owner in a process of its own that owns the child when this returns."""
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(folder), tag, *argv], stdout=subprocess.PIPE)
    assert owner.stdout is not None
    assert owner.stdout.readline() == b"owned\n"
    return owner


def kill(owner: subprocess.Popen[bytes]) -> None:
    owner.kill()
    owner.wait()
    assert owner.stdout is not None
    owner.stdout.close()


def identity_in(folder: Path) -> Identity:
    pid, started = json.loads((folder / "identity").read_text())
    return Identity(pid=pid, started=started)


async def check_lives(folder: Path, tag: str, kills: int, lines: int, seed: int) -> None:
    """Kill `kills` owners one after another while the child writes, then read the rest and look at every line."""
    chance = random.Random(seed)
    argv: tuple[str, ...] = (sys.executable, "-S", "-c", COUNT, str(lines))
    for _ in range(kills):
        owner = await anyio.to_thread.run_sync(own, folder, tag, *argv)
        argv = ()
        await anyio.sleep(chance.uniform(0, 0.06))
        kill(owner)
    identity = identity_in(folder)
    before = LogReader(folder / "out.log").end
    assert identity.alive()
    log = RotatingLog(folder / "out.log", max_bytes=200_000, keep=1000)

    process = await adopt(identity, tag=tag, output=folder / "fifo", log=log)
    with anyio.fail_after(60):
        found = await process.wait()
    log.close()

    assert found == Exit(code=None, signal=None)
    assert log.end > before
    numbers = [int(line.data[:8]) for line in log.lines()]
    assert numbers == list(range(lines))
    assert not (folder / "fifo").exists()


@pytest.mark.parametrize("seed", range(3))
async def test_no_line_is_lost_or_doubled_when_owners_are_killed(tmp_path: Path, tag: str, seed: int) -> None:
    """Three owners in a row are killed at random instants; the log has every line once, in order."""
    await check_lives(tmp_path, tag, kills=3, lines=60_000, seed=seed)


@pytest.mark.nightly
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", range(100, 150))
async def test_no_line_is_lost_or_doubled_often(tmp_path: Path, tag: str, seed: int) -> None:
    """The same with many more owners."""
    await check_lives(tmp_path, tag, kills=5, lines=300_000, seed=seed)


@pytest.mark.parametrize("lacks", ["", "PIDFD", "PIDFD PROC"])
async def test_an_adopted_tree_is_stopped_whole(tmp_path: Path, tag: str, lacks: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Children and daemons that the dead owner's child has started end with it, wherever they were handed to."""
    script = "(setsid sh -c 'trap \"\" TERM; while :; do sleep 300; done' &) ; sleep 300 & sleep 300"
    kill(await anyio.to_thread.run_sync(own, tmp_path, tag, "sh", "-c", script))
    with anyio.fail_after(10):
        while len(find(tag)) < 5:  # two shells and three that sleep
            await anyio.sleep(0.01)
    for flag in lacks.split():
        monkeypatch.setattr(system, flag, False)
    identity = Identity.of(identity_in(tmp_path).pid)

    process = await adopt(identity, tag=tag, output=tmp_path / "fifo")
    with anyio.fail_after(20):
        stopped = await process.stop(grace_seconds=0.5)
        await process.wait()

    assert (stopped.needed, find(tag)) == ("kill", [])
    assert stopped.ended == 5


async def test_a_child_writes_on_while_nobody_owns_it(tmp_path: Path, tag: str) -> None:
    """Without an owner a write neither fails nor kills; more than the FIFO holds waits for the next one."""
    code = "import os; [os.write(1, b'x' * 1000) for _ in range(1000)]; open('done', 'w').close()"
    kill(
        await anyio.to_thread.run_sync(
            own, tmp_path, tag, "sh", "-c", f'cd {tmp_path}; sleep 0.3; {sys.executable} -Sc "{code}"'
        )
    )
    parts: list[bytes] = []

    with anyio.fail_after(20):
        while _waiting(tmp_path / "fifo") < 200_000:
            await anyio.sleep(0.01)
        assert not (tmp_path / "done").exists()
        process = await adopt(identity_in(tmp_path), tag=tag, output=tmp_path / "fifo", on_output=parts.append)
        await process.wait()

    assert (tmp_path / "done").exists()
    assert sum(map(len, parts)) == 1_000_000


def _waiting(fifo: Path) -> int:
    """How many bytes wait in a FIFO."""
    fd = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        return struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, b"\0" * 4))[0]
    finally:
        os.close(fd)


async def test_a_removed_fifo_is_found_through_its_process(tmp_path: Path, tag: str) -> None:
    """Somebody tidied up the directory: where the system shows open files, reading goes on none the less."""
    kill(await anyio.to_thread.run_sync(own, tmp_path, tag, "sh", "-c", "sleep 0.2; echo still here; sleep 300"))
    (tmp_path / "fifo").unlink()
    seen = anyio.Event()

    process = await adopt(identity_in(tmp_path), tag=tag, output=tmp_path / "fifo", on_output=lambda _: seen.set())

    with anyio.fail_after(20):
        await seen.wait()
        await process.stop(grace_seconds=5)


async def test_who_carries_another_tag_is_not_adopted(tmp_path: Path, tag: str) -> None:
    """The error names both."""
    process = await spawn(Spec(argv=("sleep", "300"), tag=tag))

    with pytest.raises(ProcessError, match=f"is '{tag}', not 'other'"):
        await adopt(process.identity, tag="other")

    await process.stop(grace_seconds=5)


async def test_one_that_died_meanwhile_is_adopted_as_exited(tmp_path: Path, tag: str) -> None:
    """Nothing is known of its exit, and stop ends the daemon it left, by the tag."""
    kill(await anyio.to_thread.run_sync(own, tmp_path, tag, "sh", "-c", "(setsid sleep 300 &) ; exec sleep 300"))
    identity = identity_in(tmp_path)
    with anyio.fail_after(10):
        while len(find(tag)) < 2:
            await anyio.sleep(0.01)
        identity.signal(signal.SIGKILL)
        while identity.alive():
            await anyio.sleep(0.01)

        process: Process = await adopt(identity, tag=tag, output=tmp_path / "fifo")
        assert await process.wait() == Exit(code=None, signal=None)
        stopped = await process.stop(grace_seconds=5)

    assert (stopped.needed, stopped.ended) == ("term", 1)
    assert find(tag) == []


async def test_a_release_leaves_it_to_the_next_owner(tmp_path: Path, tag: str) -> None:
    """An owner that goes in order leaves a child with a FIFO running, and the next one takes it up."""
    parts: list[bytes] = []
    words = f"until [ -e {tmp_path}/adopted ]; do sleep 0.05; done; read x; echo $x."
    process = await spawn(Spec(argv=("sh", "-c", words), tag=tag, stdin=True, output=tmp_path / "fifo"))
    process.release()

    with anyio.fail_after(20):
        adopted = await adopt(process.identity, tag=tag, output=tmp_path / "fifo", on_output=parts.append)
        (tmp_path / "adopted").touch()
        await adopted.wait()

    assert b"".join(parts) == b".\n"
    with contextlib.suppress(ChildProcessError):  # reaped already, if another test of this process made it a subreaper
        os.waitpid(process.pid, 0)


async def test_a_subreaper_gets_the_children_of_a_killed_owner(tmp_path: Path, tag: str) -> None:
    """An outer owner ends a killed inner one with all that the inner one had started, whatever its tags."""
    become_subreaper()
    try:
        script = OWNER.replace("asyncio.sleep(300)", "asyncio.sleep(300)")
        argv = (
            sys.executable,
            "-c",
            script,
            str(tmp_path),
            f"{tag}/inner",
            "sh",
            "-c",
            "trap '' TERM; sleep 300 & wait; sleep 300",
        )
        ready = anyio.Event()
        outer = await spawn(Spec(argv=argv, tag=tag), on_output=lambda _: ready.set())
        with anyio.fail_after(20):
            await ready.wait()
            outer.signal(signal.SIGKILL)
            await outer.wait()
            assert identity_in(tmp_path).alive()
            stopped = await outer.stop(grace_seconds=0.3)

        assert stopped.needed == "kill"
        assert find(tag) == []
    finally:
        become_subreaper(enabled=False)
