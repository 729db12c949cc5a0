"""Rotated logs: writing, reading, searching, following."""

from __future__ import annotations

import contextlib
import os
import resource
from pathlib import Path

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import ProcessError
from harness.processes import LogReader, RotatingLog


def everything(log: LogReader) -> bytes:
    found, position = b"", 0
    while (chunk := log.read(position)).data:
        assert chunk.offset == position
        found += chunk.data
        position = chunk.offset + len(chunk.data)
    return found


def files(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f"{path.name}*"))


@settings(max_examples=50, deadline=None)
@given(
    writes=st.lists(st.binary(max_size=12) | st.text("ab\n", max_size=12).map(str.encode), max_size=8),
    limit=st.integers(1, 20),
)
def test_rotation_changes_nothing_but_the_files(
    tmp_path_factory: pytest.TempPathFactory, writes: list[bytes], limit: int
) -> None:
    """What was written is read back byte by byte, no file is over its size, also when the log is opened anew each time."""
    path = tmp_path_factory.mktemp("log") / "out.log"

    for data in writes:
        with contextlib.closing(RotatingLog(path, max_bytes=limit, keep=1000)) as log:
            log.write(data)

    assert everything(LogReader(path)) == b"".join(writes)
    assert all(file.stat().st_size <= limit for file in files(path))


def test_old_files_go_and_offsets_stay(tmp_path: Path) -> None:
    """Only so many files are kept, and who asks for older bytes is told where the kept ones begin."""
    log = RotatingLog(tmp_path / "out.log", max_bytes=100, keep=2)
    for number in range(100):
        log.write(b"line %04d\n" % number)
    log.close()

    chunk = log.read(0)

    assert len(files(log.path)) == 3
    assert log.end == 1000
    assert chunk.offset == log.start > 0
    assert chunk.data.startswith(b"line %04d\n" % (chunk.offset // 10))


def test_files_are_cut_at_lines(tmp_path: Path) -> None:
    """A line that fits into a file is not torn."""
    log = RotatingLog(tmp_path / "out.log", max_bytes=64, keep=50)
    for number in range(50):
        log.write(b"%d %s\n" % (number, b"x" * (number % 40)))
    log.close()

    assert len(files(log.path)) > 10
    assert all(file.read_bytes().endswith(b"\n") for file in files(log.path))


@pytest.mark.parametrize("wanted", [0, 1, 3, 99, 100, 1000])
def test_tail(tmp_path: Path, wanted: int) -> None:
    """The last lines, across files, with an unfinished one at the end."""
    log = RotatingLog(tmp_path / "out.log", max_bytes=100, keep=50)
    log.write(b"".join(b"line %d\n" % number for number in range(99)) + b"unfinished")
    log.close()

    found = log.tail(wanted)

    expected = [*(f"line {number}" for number in range(99)), "unfinished"]
    assert [line.text for line in found] == (expected[-wanted:] if wanted else [])


def test_tail_has_whole_lines_longer_than_a_block(tmp_path: Path) -> None:
    """However the log is read backwards, the first of the lines is not cut."""
    log = RotatingLog(tmp_path / "out.log")
    for letter in b"abcde":
        log.write(bytes([letter]) * 200_000 + b"\n")
    log.close()

    assert [line.data for line in log.tail(2)] == [b"d" * 200_000, b"e" * 200_000]


def test_tail_of_long_lines_is_bounded(tmp_path: Path) -> None:
    """Lines of a megabyte do not fill the memory of who asks for a hundred of them."""
    log = RotatingLog(tmp_path / "out.log", max_bytes=1 << 20, keep=5)
    for letter in b"abc":
        log.write(bytes([letter]) * (1 << 20) + b"\n")
    log.close()

    found = log.tail(100, max_bytes=5000)

    assert [line.data for line in found] == [b"c" * 4999]


def test_search(tmp_path: Path) -> None:
    """The newest lines that contain a text, across files, with their offsets, cut where they are long."""
    log = RotatingLog(tmp_path / "out.log", max_bytes=1000, keep=500)
    log.write(
        b"".join(b"Fehler \xc3\x9c %d\n" % number for number in range(100)) + b"\xff\xfe Fehler " + b"y" * 100_000 + b"\nok\n"
    )
    log.close()

    assert [line.text for line in log.search("Ü 9", limit=3)] == ["Fehler Ü 97", "Fehler Ü 98", "Fehler Ü 99"]
    assert len(log.search("fehler", ignore_case=True, limit=1000)) == 101
    assert len(log.search("Fehler", limit=1)[0].data) == 65536
    ok = log.search("ok")[0]
    assert log.read(ok.offset).data == b"ok\n"


@settings(max_examples=50, deadline=None)
@given(
    data=st.text("aAb\n", max_size=80).map(str.encode), wanted=st.text("aAb", max_size=3), limit=st.integers(4, 100),
    ignore_case=st.booleans(),
)  # fmt: skip
def test_search_finds_what_a_look_at_every_line_finds(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, wanted: str, limit: int, ignore_case: bool
) -> None:
    """Whatever the files and the place of the match."""
    log = RotatingLog(tmp_path_factory.mktemp("log") / "out.log", max_bytes=limit, keep=1000)
    log.write(data)
    log.close()

    found = log.search(wanted, limit=1000, ignore_case=ignore_case)

    def matches(text: str) -> bool:
        return wanted.lower() in text.lower() if ignore_case else wanted in text

    assert found == [line for line in log.lines() if matches(line.text)]


async def test_a_follower_gets_every_byte_across_rotations(tmp_path: Path) -> None:
    """Whoever follows sees all bytes in order, also from files that were full long ago."""
    log = RotatingLog(tmp_path / "out.log", max_bytes=1000, keep=1000)
    log.write(b"before\n")
    expected = b"".join(b"line %d\n" % number for number in range(2000))
    found = b""

    async def write() -> None:
        for start in range(0, len(expected), 777):
            log.write(expected[start : start + 777])
            await anyio.lowlevel.checkpoint()

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group, contextlib.aclosing(log.follow(after=7)) as chunks:
            group.start_soon(write)
            async for chunk in chunks:
                assert chunk.offset == 7 + len(found)
                found += chunk.data
                if len(found) >= len(expected):
                    break
    log.close()

    assert found == expected


async def test_a_follower_is_woken_by_a_rotation(tmp_path: Path) -> None:
    """What is written right after a rotation, and after that, is seen at once, not when the follower next looks around."""
    log = RotatingLog(tmp_path / "out.log", max_bytes=100, keep=10)
    log.write(b"x" * 99 + b"\n")
    seen = anyio.Event()
    delays: list[float] = []

    async def follow() -> None:
        async with contextlib.aclosing(log.follow()) as chunks:
            async for _ in chunks:
                seen.set()

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(follow)
            await anyio.wait_all_tasks_blocked()
            for _ in range(5):
                seen = anyio.Event()
                begin = anyio.current_time()
                log.write(b"after\n")
                await seen.wait()
                delays.append(anyio.current_time() - begin)
                await anyio.wait_all_tasks_blocked()
            group.cancel_scope.cancel()
    log.close()

    assert len(files(log.path)) == 2
    assert max(delays) < 0.3


def test_a_full_disk_is_counted_and_said(tmp_path: Path) -> None:
    """When bytes are refused nobody is stopped, and the log itself says later how many are missing."""
    log = RotatingLog(tmp_path / "out.log")
    log.write(b"begin\n")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
    try:
        log.write(b"0123456789\n")
        log.write(b"more\n")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    log.write(b"end\n")
    log.close()

    assert log.lost_bytes == 12
    assert everything(log) == b"begin\n0123\n[harness: 12 bytes were lost here: File too large]\nend\n"


def test_a_log_emptied_by_hand_goes_on(tmp_path: Path) -> None:
    """`: > out.log` leaves no hole of zeros."""
    log = RotatingLog(tmp_path / "out.log")
    log.write(b"x" * 1000)
    os.truncate(log.path, 0)
    log.write(b"new\n")
    log.close()

    assert everything(log) == b"new\n"


def test_a_missing_log_is_empty(tmp_path: Path) -> None:
    """Asking for the log of a service that never ran is no error."""
    log = LogReader(tmp_path / "no" / "out.log")

    assert (log.start, log.end, log.tail(5), log.search("x"), log.read(7).data) == (0, 0, [], [], b"")


def test_a_log_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    """The message names the file."""
    (tmp_path / "file").write_bytes(b"")

    with pytest.raises(ProcessError, match=r"file/out\.log: cannot write"):
        RotatingLog(tmp_path / "file" / "out.log")
    with pytest.raises(ProcessError, match="at least 1"):
        RotatingLog(tmp_path / "out.log", max_bytes=0)


def test_logs_are_private(tmp_path: Path) -> None:
    """Nobody else reads what a service prints."""
    log = RotatingLog(tmp_path / "deep" / "out.log", max_bytes=10)
    log.write(b"0123456789abcdef")
    log.close()

    assert {file.stat().st_mode & 0o777 for file in files(log.path)} == {0o600}
    assert log.path.parent.stat().st_mode & 0o777 == 0o700
