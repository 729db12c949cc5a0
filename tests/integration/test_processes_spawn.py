"""Starting real processes: exits, input, environment, descriptors, errors."""

from __future__ import annotations

import mmap
import os
import resource
import signal
import socket
import sys
from pathlib import Path

import anyio
import pytest

from harness.errors import ProcessError
from harness.processes import Exit, Identity, Size, Spec, clean_env, find, spawn
from harness.processes.identity import read_children, read_environment
from harness.processes.output import Drain

OURS = f"test/{os.getpid()}"  # others may run these tests at the same time


def descriptors() -> int:
    return len(list(Path("/dev/fd").iterdir()))


async def output_of(*argv: str, **options: object) -> tuple[Exit, bytes]:
    parts: list[bytes] = []
    process = await spawn(Spec(argv=argv, tag="test/out", **options), on_output=parts.append)  # type: ignore[arg-type]
    with anyio.fail_after(20):
        return await process.wait(), b"".join(parts)


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("exit 0", Exit(code=0, signal=None)),
        ("exit 7", Exit(code=7, signal=None)),
        ("kill -9 $$", Exit(code=None, signal=9)),
        ("kill -15 $$", Exit(code=None, signal=15)),
    ],
)
async def test_exits_are_told_exactly(script: str, expected: Exit) -> None:
    """Code or signal, whichever it was."""
    assert (await output_of("sh", "-c", script))[0] == expected


async def test_all_output_is_there_when_wait_returns() -> None:
    """stdout and stderr in the order in which they were written, to the last byte, 200 times."""
    for _ in range(200):
        found = await output_of("sh", "-c", "echo one; echo two >&2; printf three")
        assert found == (Exit(code=0, signal=None), b"one\ntwo\nthree")


async def test_exit_is_not_held_up_by_a_child_that_keeps_the_output() -> None:
    """A background child that holds the pipe does not delay the exit; its later output still comes, and stop ends it."""
    parts: list[bytes] = []
    arrived = anyio.Event()

    def take(data: bytes) -> None:
        parts.append(data)
        if b"late" in data:
            arrived.set()

    read, write = os.pipe()
    script = f"(read x </dev/fd/{read}; echo late; exec sleep 60) & echo early"
    process = await spawn(Spec(argv=("sh", "-c", script), tag=f"{OURS}/held", sockets=(read,)), on_output=take)
    try:
        with anyio.fail_after(10):
            assert await process.wait() == Exit(code=0, signal=None)
            assert b"".join(parts) == b"early\n"
            os.write(write, b"\n")
            await arrived.wait()
            assert (await process.stop(grace_seconds=5)).ended == 1
    finally:
        os.close(read)
        os.close(write)
    assert find(f"{OURS}/held") == []


async def test_a_child_is_known_by_its_tag_at_once() -> None:
    """The system lets us go on while the child is still in its exec, without an environment; it is known none the less."""
    for _ in range(300):
        process = await spawn(Spec(argv=("sleep", "300"), tag=f"{OURS}/at-once"))
        environment = read_environment(process.pid)
        process.signal(signal.SIGKILL)
        with anyio.fail_after(20):
            await process.wait()
        assert environment["HARNESS_TAG"] == process.tag


async def test_stderr_apart() -> None:
    """With its own follower stderr does not mix with stdout."""
    out: list[bytes] = []
    err: list[bytes] = []

    process = await spawn(
        Spec(argv=("sh", "-c", "echo out; echo err >&2"), tag="test/apart"), on_output=out.append, on_error=err.append
    )
    with anyio.fail_after(10):
        await process.wait()

    assert (b"".join(out), b"".join(err)) == (b"out\n", b"err\n")


async def test_input() -> None:
    """More than a pipe holds is written while the child reads, and the end of the input is seen."""
    size = 3_000_000
    parts: list[bytes] = []
    process = await spawn(Spec(argv=("wc", "-c"), tag="test/in", stdin=True), on_output=parts.append)

    with anyio.fail_after(20):
        await process.write(b"x" * size)
        process.close_input()
        await process.wait()

    assert int(b"".join(parts)) == size
    with pytest.raises(ProcessError, match="closed"):
        await process.write(b"more")


async def test_writing_to_a_child_that_does_not_read_ends_with_it() -> None:
    """Who waits to write is told when the child is gone, and a cancelled write leaves nothing behind."""
    process = await spawn(Spec(argv=("sleep", "60"), tag="test/deaf", stdin=True))
    failed = anyio.Event()

    async def write() -> None:
        with pytest.raises(ProcessError):
            await process.write(b"x" * 1_000_000)
        failed.set()

    with anyio.fail_after(10):
        with anyio.move_on_after(0.05):
            await process.write(b"x" * 1_000_000)
        async with anyio.create_task_group() as group:
            group.start_soon(write)
            await anyio.wait_all_tasks_blocked()
            await process.stop(grace_seconds=5)
            await failed.wait()


async def test_writing_ends_with_the_process_although_its_child_holds_the_input() -> None:
    """The process is gone, so nobody reads, whoever has its pipe open."""
    process = await spawn(Spec(argv=("sh", "-c", "exec 3<&0; sleep 300 <&3 & read x"), tag="test/held-input", stdin=True))

    with anyio.fail_after(20):
        with pytest.raises(ProcessError, match="closed"):
            await process.write(b"\n" + b"x" * 1_000_000)
        await process.stop(grace_seconds=5)


async def test_no_input_is_the_end_of_a_file() -> None:
    """A child that reads without having been given an input does not hang."""
    assert (await output_of("cat"))[0] == Exit(code=0, signal=None)
    process = await spawn(Spec(argv=("true",), tag="test/none"))
    with pytest.raises(ProcessError, match="no input"):
        await process.write(b"x")
    await process.wait()


async def test_environment_and_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The child sees what it is given, its tag, and no secret of ours."""
    monkeypatch.setenv("MY_TOKEN", "s3cret")
    _, printed = await output_of("sh", "-c", "pwd; env", cwd=tmp_path, env=clean_env({"GIVEN": "yes"}))

    lines = printed.decode().splitlines()

    assert lines[0] == str(tmp_path.resolve())
    assert {"GIVEN=yes", "HARNESS_TAG=test/out"} <= set(lines)
    assert "s3cret" not in printed.decode()


async def test_a_child_inherits_nothing_but_what_it_is_given() -> None:
    """Only 0, 1, 2 and the sockets are open in the child; the socket has the number that it is told."""
    code = (
        "import os; print(os.environ['HARNESS_SOCKETS']);"
        "print(sorted(int(fd) for fd in os.listdir('/proc/self/fd') if os.path.exists('/proc/self/fd/' + fd)))"
    )
    with socket.create_server(("127.0.0.1", 0)) as server:
        os.set_inheritable(other := os.dup(0), True)
        _, printed = await output_of(sys.executable, "-S", "-c", code, sockets=(server.fileno(),))
        os.close(other)

        assert printed.decode().splitlines() == [str(server.fileno()), str([0, 1, 2, server.fileno()])]


async def test_a_child_leads_its_own_session_and_handles_signals_anew() -> None:
    """A terminal's Ctrl-C does not reach it, and what Python ignores (SIGPIPE) is not ignored in it."""
    _, printed = await output_of("sh", "-c", "echo $$; ps -o sid= -p $$; grep SigIgn /proc/self/status")

    own, session, _, ignored = printed.split()
    assert own == session
    assert not int(ignored, 16) & (1 << (signal.SIGPIPE - 1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"argv": ("no-such-program-x",)}, '"no-such-program-x" not found — is it installed and on your PATH?'),
        ({"argv": ("./nothing",)}, '"./nothing" does not exist'),
        ({"argv": ("/etc/passwd",)}, "not a program"),
        ({"argv": ("/",)}, "not a program"),
        ({"argv": ()}, "no command"),
        ({"tag": ""}, "needs a tag"),
        ({"cwd": Path("/no/such/folder")}, "/no/such/folder: the working directory does not exist"),
        ({"argv": ("echo", "a\0b")}, "cannot be started"),
        ({"argv": ("echo", "x" * 3_000_000)}, "Argument list too long"),
        ({"output": Path("/proc/nothing/fifo")}, "cannot make a FIFO"),
    ],
)
async def test_what_cannot_be_started_is_said_in_one_line(change: dict[str, object], message: str) -> None:
    """No traceback, no process, no descriptor is left."""
    before = descriptors()
    options: dict[str, object] = {"argv": ("true",), "tag": f"{OURS}/bad", **change}

    with pytest.raises(ProcessError, match=message) as caught:
        await spawn(Spec(**options))  # type: ignore[arg-type]

    assert "\n" not in str(caught.value)
    assert descriptors() == before
    assert find(f"{OURS}/bad") == []


async def test_a_file_that_is_no_fifo_is_not_replaced(tmp_path: Path) -> None:
    """Somebody's file at the FIFO's place stays."""
    path = tmp_path / "out"
    path.write_text("mine")

    with pytest.raises(ProcessError, match="cannot make a FIFO here: File exists"):
        await spawn(Spec(argv=("true",), tag="test/file", output=path))

    assert path.read_text() == "mine"


async def test_nothing_leaks(tmp_path: Path) -> None:
    """Fifty lives of every kind leave no descriptor, no FIFO, no zombie."""
    before = descriptors()

    for number in range(50):
        process = await spawn(
            Spec(argv=("cat",), tag="test/leak", stdin=True, output=tmp_path / "fifo" if number % 2 else None),
            on_output=lambda _: None,
            on_error=lambda _: None,
        )
        if number % 3:
            process.close_input()
        else:
            await process.stop(grace_seconds=5)
        with anyio.fail_after(10):
            await process.wait()

    assert descriptors() == before
    assert list(tmp_path.iterdir()) == []
    assert not [row for row in read_children() if row.dead]


async def test_identity_knows_a_process_for_all_time() -> None:
    """A pid with another start time is somebody else: not alive, not signalled."""
    process = await spawn(Spec(argv=("sleep", "60"), tag="test/identity"))
    other = Identity(pid=process.pid, started=process.identity.started - 1)

    assert process.identity == Identity.of(process.pid)
    assert process.identity.alive()
    assert not other.alive()
    assert not other.signal(signal.SIGKILL)
    assert process.signal(0)
    assert process.signal(signal.SIGKILL)
    with anyio.fail_after(10):
        assert await process.wait() == Exit(code=None, signal=9)
    assert not process.identity.alive()
    assert not process.signal(signal.SIGKILL)
    with pytest.raises(ProcessError, match="no process"):
        Identity.of(process.pid)


async def test_a_process_whose_first_thread_has_ended_is_alive() -> None:
    """The table calls it a zombie, but its other threads work on."""
    code = (
        "import ctypes, threading, time\n"
        "threading.Thread(target=lambda: (time.sleep(0.05), print('on', flush=True), time.sleep(60))).start()\n"
        "ctypes.CDLL(None).pthread_exit(None)\n"
    )
    arrived = anyio.Event()
    process = await spawn(Spec(argv=(sys.executable, "-c", code), tag="test/thread"), on_output=lambda _: arrived.set())

    with anyio.fail_after(20):
        await arrived.wait()
        assert process.identity.alive()
        assert (await process.stop(grace_seconds=0)).needed == "kill"
        await process.wait()


async def test_a_follower_that_fails_does_not_stall_the_child() -> None:
    """A mistake in a follower is reported to the loop, and the output flows on."""
    import asyncio

    loop = asyncio.get_running_loop()
    reported: list[dict[str, object]] = []
    loop.set_exception_handler(lambda _, context: reported.append(context))

    def fail(_: bytes) -> None:
        raise ValueError("a mistake")

    process = await spawn(Spec(argv=("sh", "-c", "yes | head -c 1000000"), tag="test/mistake"), on_output=fail)
    with anyio.fail_after(20):
        found = await process.wait()
    read, write = os.pipe()
    os.write(write, b"last words")
    drain = Drain(read, follower=fail)
    drain.rest()
    drain.close()
    os.close(write)
    loop.set_exception_handler(None)

    assert found.code == 0
    assert {str(context["exception"]) for context in reported} == {"a mistake"}


@pytest.mark.skipif(sys.platform != "linux", reason="vfork is what Linux does")
@pytest.mark.parametrize("terminal", [None, Size()], ids=["pipe", "pty"])
async def test_a_big_owner_is_not_copied(terminal: Size | None) -> None:
    """A child is started by vfork: our memory is not marked for copying, as page faults would show."""
    pages, size = 10_000, mmap.PAGESIZE
    with mmap.mmap(-1, pages * size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as ballast:
        ballast.madvise(mmap.MADV_NOHUGEPAGE)
        ballast[::size] = bytes(pages)

        process = await spawn(Spec(argv=("sleep", "300"), tag="test/big", pty=terminal))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        ballast[::size] = b"x" * pages
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    with anyio.fail_after(20):
        await process.stop(grace_seconds=5)
    assert faults < pages // 10
