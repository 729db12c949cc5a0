"""Ending whole trees: whatever a child did to get away, when `stop` returns nobody is left.

Each test runs as the system is, and again with what other systems lack taken away.
"""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import anyio
import pytest

from harness.processes import Exit, Identity, Process, Spec, become_subreaper, end_tagged, find, spawn, system
from harness.processes.identity import read_row

LACKS = {
    "nothing": (),
    "subreaper": ("SUBREAPER",),
    "pidfd": ("PIDFD",),
    "pidfd-waitid-subreaper": ("PIDFD", "WAITID", "SUBREAPER"),
    "proc-pidfd-subreaper": ("PROC", "PIDFD", "SUBREAPER"),
}


@pytest.fixture(params=LACKS, ids=lambda name: f"lacks-{name}")
def lacks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The system without some of its features."""
    for flag in LACKS[request.param]:
        if flag != "SUBREAPER":
            monkeypatch.setattr(system, flag, False)
    if "SUBREAPER" not in LACKS[request.param]:
        assert become_subreaper()
    yield request.param
    become_subreaper(enabled=False)


@pytest.fixture
def tag(request: pytest.FixtureRequest) -> Iterator[str]:
    """A tag of this test's own; whoever is left with it at the end is killed, and that fails the test."""
    name = f"test/{os.getpid()}/{request.node.name}"
    yield name
    left = [found for found in find(name) if found.identity.signal(signal.SIGKILL)]
    assert left == []


async def start(tag: str, script: str, *, ready: int = 1, shell: bool = True, sockets: tuple[int, ...] = ()) -> Process:
    """Start a script and wait until it has printed `ready` lines."""
    arrived = anyio.Event()
    count = 0

    def take(data: bytes) -> None:
        nonlocal count
        count += data.count(b"\n")
        if count >= ready:
            arrived.set()

    argv = ("sh", "-c", script) if shell else (sys.executable, "-S", "-c", script)
    process = await spawn(Spec(argv=argv, tag=tag, sockets=sockets), on_output=take)
    with anyio.fail_after(20):
        await arrived.wait()
    return process


ESCAPES = {
    "alone": ("echo up; exec sleep 300", 1, "term"),
    "children": ("sleep 300 & sleep 300 & echo up; wait", 1, "term"),
    "ignores": ("trap '' TERM; echo up; while :; do sleep 300; done", 1, "kill"),
    "leader goes, child ignores": ("(trap '' TERM; echo up; while :; do sleep 300; done) & echo up; wait", 2, "kill"),
    "own session": ("setsid sh -c 'echo up; sleep 300' & echo up; wait", 2, "term"),
    "daemon": ("(setsid sh -c 'echo up; exec sleep 300 >/dev/null 2>&1' &) ; echo up; sleep 300", 2, "term"),
    "daemon ignores": ("(setsid sh -c 'trap \"\" TERM HUP; echo up; while :; do sleep 300; done' &) ; echo up", 2, "kill"),
    "suspended": ("sh -c 'echo up; kill -STOP $$; sleep 300' & sleep 300", 1, "term"),
}


@pytest.mark.parametrize("escape", ESCAPES, ids=lambda name: name.replace(" ", "-").replace(",", ""))
async def test_nobody_is_left(lacks: str, tag: str, escape: str) -> None:
    """The process, its children, and those that left its group, its session or their parent are gone."""
    script, ready, needed = ESCAPES[escape]
    process = await start(tag, script, ready=ready)
    before = {found.identity for found in find(tag)}

    with anyio.fail_after(20):
        stopped = await process.stop(grace_seconds=0.3 if needed == "kill" else 10)

    assert stopped.needed == needed
    assert stopped.ended >= len(before) >= 1
    assert not any(identity.alive() for identity in before)
    assert find(tag) == []


async def test_a_daemon_that_forgot_everything_is_ended(tag: str) -> None:
    """Own session, orphaned, environment cleared, output closed: as our only tree's orphan it is found none the less."""
    gc.collect()  # trees of earlier tests, which are in circles with their pipes
    become_subreaper()
    try:
        script = "(env -i setsid sh -c 'echo $$; exec sleep 300 >/dev/null 2>&1 </dev/null' &); echo up; sleep 300"
        pids: list[bytes] = []
        arrived = anyio.Event()

        def take(data: bytes) -> None:
            pids.append(data)
            if b"".join(pids).count(b"\n") == 2:
                arrived.set()

        process = await spawn(Spec(argv=("sh", "-c", script), tag=tag), on_output=take)
        with anyio.fail_after(20):
            await arrived.wait()
            daemon = Identity.of(int(next(line for line in b"".join(pids).split() if line != b"up")))
            await process.stop(grace_seconds=5)

        assert not daemon.alive()
    finally:
        become_subreaper(enabled=False)


async def test_who_was_kin_when_the_leader_exited_is_remembered(lacks: str, tag: str) -> None:
    """An orphan without mark and output is known by its session, which has no leader any more when `stop` is called."""
    read, write = os.pipe()
    script = f"env -i sh -c 'echo $$; exec sleep 300 >/dev/null 2>&1' & read x </dev/fd/{read}"
    pids: list[bytes] = []
    arrived = anyio.Event()

    def take(data: bytes) -> None:
        pids.append(data)
        arrived.set()

    process = await spawn(Spec(argv=("sh", "-c", script), tag=tag, sockets=(read,)), on_output=take)
    with anyio.fail_after(20):
        await arrived.wait()
        orphan = Identity.of(int(b"".join(pids)))
        os.write(write, b"\n")
        await process.wait()
        assert orphan.alive()
        stopped = await process.stop(grace_seconds=5)
    os.close(read)
    os.close(write)

    assert stopped.ended == 1
    assert not orphan.alive()


async def test_an_orphan_that_holds_our_output_is_told_from_those_of_others(tag: str) -> None:
    """With several trees, an unmarked orphan belongs to the one whose output it holds; the others' stays."""
    become_subreaper()
    try:
        script = "(env -i setsid sh -c 'echo up; exec sleep 300' &); echo up; sleep 300"
        one = await start(f"{tag}/one", script, ready=2)
        two = await start(f"{tag}/two", script, ready=2)

        with anyio.fail_after(20):
            first = await one.stop(grace_seconds=5)
            second = await two.stop(grace_seconds=5)

        assert (first.ended, second.ended) == (3, 3)
    finally:
        become_subreaper(enabled=False)


async def test_others_are_left_alone(lacks: str, tag: str) -> None:
    """A neighbour with the same tag, a child of other code in this process, and ourselves survive."""
    neighbour = await start(tag, "sleep 300 & echo up; wait")
    foreign = subprocess.Popen(["sleep", "300"])
    try:
        process = await start(tag, "sleep 300 & echo up; wait")
        with anyio.fail_after(20):
            await process.stop(grace_seconds=5)

        assert neighbour.identity.alive()
        assert len(find(tag)) == 2
        assert foreign.poll() is None
    finally:
        foreign.kill()
        foreign.wait()
        await neighbour.stop(grace_seconds=5)


async def test_a_suspended_process_gets_to_act_on_the_signal(lacks: str, tag: str) -> None:
    """A hung (SIGSTOP) process is woken by the stop, so that it can end by itself."""
    process = await start(tag, "trap 'exit 5' TERM; echo up; while :; do sleep 0.01; done")
    process.signal(signal.SIGSTOP)

    with anyio.fail_after(20):
        stopped = await process.stop(grace_seconds=10)

    assert stopped.needed == "term"
    assert await process.wait() == Exit(code=5, signal=None)


async def test_children_that_are_born_while_dying_do_not_get_away(tag: str) -> None:
    """A tree that forks as fast as it can, in new sessions, is frozen first and then killed."""
    script = (
        "import os, signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
        "print('up', flush=True)\n"
        "end = time.monotonic() + 20\n"
        "while time.monotonic() < end:\n"
        "    if os.fork():\n"
        "        time.sleep(0.002) or os._exit(0)\n"
        "    os.setsid()\n"
    )
    process = await start(tag, script, shell=False)

    with anyio.fail_after(30):
        stopped = await process.stop(grace_seconds=0.1)

    assert stopped.needed == "kill"
    assert find(tag) == []


async def test_stopping_what_is_gone_says_nothing_was_needed(lacks: str, tag: str) -> None:
    """Stop can be called after the end and again."""
    process = await start(tag, "echo up")

    with anyio.fail_after(20):
        await process.wait()
        first = await process.stop(grace_seconds=5)
        second = await process.stop(grace_seconds=5)

    assert (first.needed, first.ended, second.needed, second.ended) == ("nothing", 0, "nothing", 0)


async def test_a_second_stop_with_less_grace_ends_it_at_once(tag: str) -> None:
    """Who has no patience does not wait for who has."""
    process = await start(tag, "trap '' TERM; echo up; while :; do sleep 300; done")
    results: list[str] = []

    async def patient() -> None:
        results.append((await process.stop(grace_seconds=60)).needed)

    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            group.start_soon(patient)
            await anyio.wait_all_tasks_blocked()
            results.append((await process.stop(grace_seconds=0)).needed)

    assert sorted(results) == ["kill", "term"]


async def test_a_cancelled_stop_can_be_taken_up_again(tag: str) -> None:
    """Cancellation leaves the tree owned and the descriptors as they were."""
    process = await start(tag, "trap '' TERM; echo up; while :; do sleep 300; done")

    with anyio.move_on_after(0.1) as scope:
        await process.stop(grace_seconds=60)
    assert scope.cancelled_caught
    assert process.identity.alive()

    with anyio.fail_after(20):
        assert (await process.stop(grace_seconds=0)).needed == "kill"


async def test_the_signal_can_be_chosen(tag: str) -> None:
    """Some programs end in order on SIGINT or SIGQUIT only."""
    process = await start(tag, "trap 'exit 9' QUIT; trap '' TERM; echo up; while :; do sleep 0.01; done")

    with anyio.fail_after(20):
        assert (await process.stop(grace_seconds=10, signal=signal.SIGQUIT)).needed == "term"
        assert await process.wait() == Exit(code=9, signal=None)


async def test_what_is_left_of_a_dead_owner_is_ended_by_tag(lacks: str, tag: str) -> None:
    """`end_tagged` needs no `Process`: the tag is enough, and it must be the whole tag."""
    process = await start(f"{tag}/x", "(setsid sh -c 'echo up; sleep 300' &) ; echo up; sleep 300", ready=2)
    other = await start(f"{tag}/xy", "echo up; sleep 300")
    process.release()

    with anyio.fail_after(20):
        stopped = await end_tagged(f"{tag}/x", grace_seconds=5)

    assert stopped.ended >= 3
    assert find(f"{tag}/x/") == []
    assert other.identity.alive()
    await other.stop(grace_seconds=5)


async def test_orphans_are_reaped_as_they_exit(tag: str) -> None:
    """A daemon that ends long after its parent, while nobody stops or starts anything, leaves no zombie with us."""
    become_subreaper()
    read, write = os.pipe()
    try:
        script = f"(setsid sh -c 'echo up; read x </dev/fd/{read}; exit 3' &) ; echo up; exec sleep 300"
        process = await start(tag, script, ready=2, sockets=(read,))
        [orphan] = [found for found in find(tag) if found.leader and found.identity != process.identity]
        assert orphan.parent == os.getpid()

        os.write(write, b"\n")

        with anyio.fail_after(10):
            while read_row(orphan.identity.pid) is not None:
                await anyio.sleep(0.005)
            await process.stop(grace_seconds=5)
    finally:
        os.close(read)
        os.close(write)
        become_subreaper(enabled=False)


async def test_children_of_other_code_are_not_reaped(tag: str) -> None:
    """`subprocess` in the same process still gets its exit codes, although we are a subreaper."""
    become_subreaper()
    try:
        process = await start(tag, "echo up; sleep 300")
        foreign = subprocess.Popen(["sh", "-c", "exit 42"])
        os.waitid(os.P_PID, foreign.pid, os.WEXITED | os.WNOWAIT)
        with anyio.fail_after(20):
            await process.stop(grace_seconds=5)

        assert foreign.wait() == 42
    finally:
        become_subreaper(enabled=False)


async def test_a_detached_process_is_no_part_of_the_tree_that_started_it(tag: str) -> None:
    """An owner inside a tree ends with the tree, and so does what it started, but for what it detached."""
    script = (
        "import asyncio\n"
        "from harness.processes import Spec, spawn\n"
        "async def main():\n"
        f"    await spawn(Spec(argv=('sleep', '300'), tag={tag + '/in'!r}))\n"
        f"    await spawn(Spec(argv=('sleep', '300'), tag={tag + '/apart'!r}, detached=True))\n"
        "    print('up', flush=True)\n"
        "asyncio.run(main())\n"
    )
    arrived = anyio.Event()
    outer = await spawn(Spec(argv=(sys.executable, "-c", script), tag=tag), on_output=lambda _: arrived.set())
    with anyio.fail_after(20):
        await arrived.wait()
        await outer.wait()
        await outer.stop(grace_seconds=5)

    assert [found.tag for found in find(tag)] == [f"{tag}/apart"]
    await end_tagged(f"{tag}/apart", grace_seconds=5)


async def test_a_session_that_other_code_here_has_started_is_left_alone(tag: str) -> None:
    """Whoever is no subreaper is handed nobody, so a child in a session of its own is somebody's."""
    become_subreaper(enabled=False)
    other = subprocess.Popen(["sleep", "600"], start_new_session=True)
    try:
        process = await start(tag, "echo; sleep 600")

        await process.stop(grace_seconds=5)

        assert other.poll() is None
    finally:
        other.kill()
        other.wait()
