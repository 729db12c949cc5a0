"""Draining output to followers and rotated files: nothing lost, nothing stalled, whatever the bytes."""

from __future__ import annotations

import hashlib
import itertools
import os
import sys
from pathlib import Path

import anyio
import pytest

from harness.processes import Lines, LogReader, RotatingLog, Spec, spawn

PRODUCERS = {
    "a line of 1 MB, ten times": "w(b'x' * 1_000_000 + b'\\n') for _ in range(10)",
    "no line end at all": "w(b'y' * 4096) for _ in range(1000)",
    "every byte": "w(bytes(range(256)) * 16) for _ in range(500)",
    "single bytes": "w(bytes([n % 251])) for n in range(20_000)",
    "50,000 lines": "w(b'line %06d ' % n + b'z' * 80 + b'\\n') for n in range(50_000)",
}


def read_all(log: LogReader) -> bytes:
    parts: list[bytes] = []
    position = 0
    while (chunk := log.read(position)).data:
        assert chunk.offset == position
        parts.append(chunk.data)
        position += len(chunk.data)
    return b"".join(parts)


@pytest.mark.parametrize("fifo", [False, True], ids=["pipe", "fifo"])
@pytest.mark.parametrize("moves", [True, False], ids=["splice", "copy"])
@pytest.mark.parametrize("producer", PRODUCERS, ids=lambda name: name.replace(" ", "-").replace(",", ""))
async def test_every_byte_arrives(
    tmp_path: Path, producer: str, moves: bool, fifo: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The follower and the rotated files have exactly what was written, as its hash shows."""
    if not moves:
        monkeypatch.delattr(os, "splice", raising=False)
    code = (
        "import hashlib, os, sys\n"
        "h = hashlib.sha256()\n"
        "def w(data):\n"
        "    h.update(data)\n"
        "    while data: data = data[os.write(1, data):]\n"
        f"for _ in ({PRODUCERS[producer]}): pass\n"
        "os.write(2, h.hexdigest().encode())\n"
    )
    log = RotatingLog(tmp_path / "log" / "out.log", max_bytes=1 << 20, keep=100)
    followed, digest = hashlib.sha256(), []
    spec = Spec(argv=(sys.executable, "-S", "-c", code), tag="test/bytes", output=tmp_path / "fifo" if fifo else None)

    process = await spawn(spec, on_output=followed.update, on_error=digest.append, log=log)
    with anyio.fail_after(60):
        found = await process.wait()
    log.close()

    assert found.code == 0
    told = b"".join(digest)
    assert followed.hexdigest().encode() == told
    written = read_all(log)
    assert hashlib.sha256(written.replace(told, b"") if written.endswith(told) else written).hexdigest().encode() == told
    assert all(file.stat().st_size <= 1 << 20 for file in log.path.parent.iterdir())


async def test_a_fast_and_a_silent_child_do_not_hold_up_each_other(tmp_path: Path) -> None:
    """While one child writes without end, an answer of another takes no longer than a turn of the loop."""
    log = RotatingLog(tmp_path / "fast.log", max_bytes=1 << 22, keep=1)
    fast = await spawn(Spec(argv=("yes", "x" * 100), tag="test/fast"), log=log, on_output=lambda _: None)
    answered = anyio.Event()
    slow = await spawn(Spec(argv=("cat",), tag="test/slow", stdin=True), on_output=lambda _: answered.set())
    delays: list[float] = []

    with anyio.fail_after(20):
        while len(delays) < 20 or log.end < 1 << 20:
            answered = anyio.Event()
            begin = anyio.current_time()
            await slow.write(b"ping\n")
            await answered.wait()
            delays.append(anyio.current_time() - begin)
        await fast.stop(grace_seconds=5)
        await slow.stop(grace_seconds=5)
    log.close()

    assert sorted(delays)[len(delays) // 2] < 0.1


async def test_an_unterminated_line_reaches_the_follower_at_once() -> None:
    """A prompt without a line end is seen while the child waits."""
    seen = anyio.Event()
    process = await spawn(
        Spec(argv=("sh", "-c", "printf 'name? '; sleep 300"), tag="test/prompt"), on_output=lambda _: seen.set()
    )

    with anyio.fail_after(20):
        await seen.wait()
        await process.stop(grace_seconds=5)


async def test_five_lines_at_once_are_five_lines() -> None:
    """Lines that come in one write are all delivered."""
    lines = Lines()
    found: list[bytes] = []
    process = await spawn(
        Spec(argv=("printf", "a\\nb\\nc\\nd\\ne\\n"), tag="test/five"), on_output=lambda data: found.extend(lines.feed(data))
    )

    with anyio.fail_after(20):
        await process.wait()

    assert found == [b"a", b"b", b"c", b"d", b"e"]


async def test_64_kb_on_stderr_do_not_block(tmp_path: Path) -> None:
    """Nobody follows, nothing is logged, and still every pipe is drained."""
    process = await spawn(Spec(argv=("sh", "-c", "head -c 3000000 /dev/zero >&2; head -c 3000000 /dev/zero"), tag="test/full"))

    with anyio.fail_after(20):
        assert (await process.wait()).code == 0


async def test_a_full_disk_does_not_stall_the_child(tmp_path: Path) -> None:
    """When the log cannot be written, the child runs on, its follower gets all, and the loss is counted."""
    import resource

    log = RotatingLog(tmp_path / "out.log")
    count = 0

    def take(data: bytes) -> None:
        nonlocal count
        count += len(data)

    spec = Spec(argv=("sh", "-c", "read x; head -c 3000000 /dev/zero"), tag="test/disk", stdin=True)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        process = await spawn(spec, log=log, on_output=take)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        with anyio.fail_after(20):
            await process.write(b"\n")
            assert (await process.wait()).code == 0
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    log.close()

    assert count == 3_000_000
    assert log.lost_bytes == 3_000_000 - log.path.stat().st_size > 2_000_000


async def test_lines_from_several_processes_stay_whole(tmp_path: Path) -> None:
    """Children that share a log do not tear each other's lines, as long as they write whole lines."""
    log = RotatingLog(tmp_path / "out.log", max_bytes=50_000, keep=1000)
    script = "i=0; while [ $i -lt 500 ]; do echo $0-$i-end; i=$((i+1)); done"
    processes = [await spawn(Spec(argv=("sh", "-c", script, name), tag="test/shared"), log=log) for name in "abcd"]

    with anyio.fail_after(30):
        for process in processes:
            await process.wait()
    log.close()

    expected = {f"{name}-{number}-end" for name, number in itertools.product("abcd", range(500))}
    assert {line.text for line in log.lines()} == expected
