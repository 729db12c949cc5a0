"""Running a program to its end: its output, its time, its tree, and a caller that is cancelled."""

from __future__ import annotations

import sys
from pathlib import Path

import anyio
import pytest

from harness.errors import ProcessError
from harness.processes import ResourceLimits, Spec, capture

TAG = "test/capture"


def alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and ") Z " not in stat.read_text()


async def test_output_and_errors_are_told_apart() -> None:
    """And the input is given whole."""
    done = await capture(
        Spec(argv=("sh", "-c", "cat; echo no >&2; exit 3"), tag=TAG), timeout_seconds=30, stdin=b"yes\n", split=True
    )

    assert (done.output, done.errors, done.exit.code, done.ok, done.timed_out) == (b"yes\n", b"no\n", 3, False, False)


async def test_a_program_that_does_not_read_its_input_is_not_wrong() -> None:
    """A megabyte that nobody wants."""
    done = await capture(Spec(argv=("true",), tag=TAG), timeout_seconds=30, stdin=b"x" * (1 << 20))

    assert done.ok


async def test_a_flood_keeps_its_beginning_and_its_end() -> None:
    """The middle is left out, and how much it was is said."""
    code = "import sys; [sys.stdout.write(f'{n:07}\\n') for n in range(100_000)]"

    done = await capture(Spec(argv=(sys.executable, "-c", code), tag=TAG), timeout_seconds=60, max_output_bytes=1024)

    assert done.output.startswith(b"0000000\n")
    assert done.output.endswith(b"0099999\n")
    assert done.left_out_bytes == 800_000 - 1024


async def test_who_is_left_behind_is_ended(tmp_path: Path) -> None:
    """A program that ends and leaves a child is over with its child."""
    pid = tmp_path / "pid"

    await capture(Spec(argv=("sh", "-c", f"sleep 600 >/dev/null 2>&1 & echo $! > {pid}"), tag=TAG), timeout_seconds=30)

    assert not alive(int(pid.read_text()))


async def test_a_cancelled_caller_leaves_nobody(tmp_path: Path) -> None:
    """Cancellation goes on when the tree is gone, not before."""
    pid = tmp_path / "pid"
    spec = Spec(argv=("sh", "-c", f"echo $$ > {pid}; trap '' TERM; while :; do sleep 0.05; done"), tag=TAG)

    async with anyio.create_task_group() as group:
        group.start_soon(lambda: capture(spec, timeout_seconds=600))
        with anyio.fail_after(30):
            while not pid.exists() or not pid.read_text():
                await anyio.sleep(0.01)
        group.cancel_scope.cancel()

    assert not alive(int(pid.read_text()))


async def test_limits_are_set_before_the_program_begins() -> None:
    """The program finds them, and so does what it starts."""
    code = "import resource as r; print([r.getrlimit(kind)[0] for kind in (r.RLIMIT_CPU, r.RLIMIT_NOFILE, r.RLIMIT_FSIZE)])"
    limits = ResourceLimits(cpu_seconds=7, file_bytes=1 << 20, open_files=99)

    done = await capture(Spec(argv=limits.wrapped(("sh", "-c", f'{sys.executable} -c "{code}"')), tag=TAG), timeout_seconds=30)

    assert done.output == b"[7, 99, 1048576]\n"
    assert ResourceLimits().wrapped(("x",)) == ("x",)


async def test_a_program_that_is_not_there_is_an_error_in_words() -> None:
    """Without limits when it is looked for, with limits by the one that should become it."""
    with pytest.raises(ProcessError, match="is it installed"):
        await capture(Spec(argv=("no-such-program",), tag=TAG), timeout_seconds=5)

    done = await capture(Spec(argv=ResourceLimits(cpu_seconds=9).wrapped(("no-such-program",)), tag=TAG), timeout_seconds=30)

    assert (done.exit.code, b"no-such-program: cannot be started" in done.output) == (127, True)
