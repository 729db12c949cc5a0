"""Reading a program's own record from files that grow, are cut, exchanged, huge, or no files at all."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from tests.unit.test_sessions_records import NOW, moment, said

from harness.sessions import facts
from harness.sessions.dialects.claude.record import ClaudeRecord
from harness.sessions.reports import Cumulative, Report
from harness.sessions.transports import record_watch
from harness.sessions.transports.record_files import MAX_LINE, ClaudeFiles, RecordFile
from harness.sessions.transports.record_watch import RecordWatch
from harness.sessions.transports.rollout_files import CodexFiles

PIECE = 64 << 10
THREAD, OTHER = "01a229d6-3dc0-70d2-8e4d-28a55f925bda", "01a229d6-3dc0-70d2-8e4d-28a55f925bdb"


def all_of(file: RecordFile) -> list[bytes]:
    lines: list[bytes] = []
    more = True
    while more:
        found, more = file.read(PIECE)
        lines += found
    return lines


# One file


def test_only_whole_lines_that_are_new_are_read(tmp_path: Path) -> None:
    """A line that is being written is read when it is whole."""
    path = tmp_path / "record"
    file = RecordFile(str(path))
    assert file.read(PIECE) == ([], False)
    assert not file.there

    path.write_bytes(b"one\ntw")
    assert all_of(file) == [b"one"]
    assert file.there
    assert all_of(file) == []
    with path.open("ab") as written:
        written.write(b"o\nthree\n")
    assert all_of(file) == [b"two", b"three"]


def test_a_piece_at_a_time_is_read(tmp_path: Path) -> None:
    """Of a large file no more than what was asked for."""
    path = tmp_path / "record"
    path.write_bytes(b"x" * 99 + b"\n" + b"y" * 99 + b"\n")
    file = RecordFile(str(path))

    assert file.read(150) == ([b"x" * 99], True)
    assert file.read(150) == ([b"y" * 99], False)


@pytest.mark.parametrize("exchange", [True, False])
def test_a_file_that_is_cut_or_exchanged_is_read_anew(tmp_path: Path, exchange: bool) -> None:
    """Also with half a line in hand, which is nobody's then."""
    path = tmp_path / "record"
    path.write_bytes(b"one\ntwo\nhal")
    file = RecordFile(str(path))
    assert all_of(file) == [b"one", b"two"]

    if exchange:
        (tmp_path / "new").write_bytes(b"another one\nand more of it\n")
        (tmp_path / "new").replace(path)
        assert all_of(file) == [b"another one", b"and more of it"]
    else:
        path.write_bytes(b"new\n")
        assert all_of(file) == [b"new"]

    path.unlink()
    assert all_of(file) == []


def test_a_line_of_sixteen_megabytes_is_one_line(tmp_path: Path) -> None:
    """And one without end is not kept for ever."""
    path = tmp_path / "record"
    path.write_bytes(b"a" * (16 << 20) + b"\nnext\n")

    first, last = all_of(RecordFile(str(path)))

    assert (len(first), last) == (16 << 20, b"next")
    with path.open("wb") as written:
        written.truncate(3 * MAX_LINE)
    assert max(len(line) for line in all_of(RecordFile(str(path)))) <= MAX_LINE


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    """A name from outside may be that of a device, of a pipe that nobody writes to, or no name."""
    fifo, folder, loop = tmp_path / "fifo.jsonl", tmp_path / "folder", tmp_path / "loop"
    os.mkfifo(fifo)
    folder.mkdir()
    loop.symlink_to(loop)

    for path in (str(fifo), str(folder), str(loop), "/dev/zero", "", "nowhere\0", "x" * 10_000):
        assert RecordFile(path).read(PIECE) == ([], False)


# Which files


def test_the_sub_agents_of_a_session_are_found(tmp_path: Path) -> None:
    """Those that have done something since this run began, and nothing else that is there."""
    transcript = tmp_path / "s.jsonl"
    folder = tmp_path / "s" / "subagents"
    files = ClaudeFiles(began=time.time() - 60)
    files.belongs("")
    assert list(files.paths()) == []
    files.belongs(str(transcript))
    assert list(files.paths()) == [str(transcript)]

    folder.mkdir(parents=True)
    for name in ("agent-a1.jsonl", "agent-old.jsonl", "agent-a1.meta.json", "else.jsonl"):
        (folder / name).touch()
    os.utime(folder / "agent-old.jsonl", (1, 1))

    assert list(files.paths()) == [str(transcript), str(folder / "agent-a1.jsonl")]
    assert list(files.paths()) == [str(transcript), str(folder / "agent-a1.jsonl")]


def rollout(
    home: Path,
    thread: str,
    *,
    day: str = "2026/11/30",
    cwd: Path = Path("/w"),
    began: float = 0,
    prompt: str = "",
    root: str = "",
) -> Path:
    """One of Codex's files."""
    path = home / "sessions" / day / f"rollout-2026-11-30T00-23-56-{thread}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    meta = {
        "type": "session_meta",
        "payload": {"id": thread, "session_id": root or thread, "cwd": str(cwd), "timestamp": moment(began or time.time())},
    }
    lines = [json.dumps(meta)]
    if prompt:
        content = [{"type": "input_text", "text": prompt}]
        lines.append(json.dumps({"type": "response_item", "payload": {"type": "message", "role": "user", "content": content}}))
    path.write_text("\n".join(lines) + "\n")
    return path


def test_the_rollout_of_a_thread_is_found_by_its_name(tmp_path: Path) -> None:
    """Whenever it was begun; names that are none lead nowhere."""
    old = rollout(tmp_path, THREAD, day="2025/01/02")
    for day in ("2025/01/03", "2025/12/01", "2026/11/30"):
        rollout(tmp_path, OTHER, day=day)
    files = CodexFiles({"CODEX_HOME": str(tmp_path)}, Path("/w"), time.time())

    for thread in ("", "../../x", "*", THREAD):
        files.belongs(thread)

    assert list(files.paths()) == [str(old)]
    assert list(CodexFiles({"HOME": str(tmp_path / "none")}, Path("/w"), 0).paths()) == []


def test_a_rollout_below_the_home_is_found_once_it_is_there(tmp_path: Path) -> None:
    """Without CODEX_HOME it is in HOME/.codex; it is written later than the thread is known."""
    files = CodexFiles({"HOME": str(tmp_path)}, Path("/w"), time.time())
    files.belongs(THREAD)
    assert list(files.paths()) == []

    path = rollout(tmp_path / ".codex", THREAD)

    assert list(files.paths()) == [str(path)]


def test_before_its_first_turn_is_over_a_rollout_is_known_by_its_prompt(tmp_path: Path) -> None:
    """Not by less: others may work in the same folder at the same time."""
    began = time.time() - 60
    env = {"CODEX_HOME": str(tmp_path)}
    rollout(tmp_path, OTHER, cwd=tmp_path, prompt="not ours")
    rollout(tmp_path, OTHER.replace("a229", "a230"), cwd=tmp_path, prompt="ours", began=began - 60)
    rollout(tmp_path, OTHER.replace("a229", "a231"), cwd=Path("/elsewhere"), prompt="ours")
    rollout(tmp_path, THREAD, cwd=tmp_path)
    files = CodexFiles(env, tmp_path, began)
    files.given("  ours,\n truly")
    files.given("ours")
    assert list(files.paths()) == []

    path = rollout(tmp_path, THREAD, cwd=tmp_path, prompt="ours, truly")

    assert list(files.paths()) == [str(path)]


def test_sub_agents_are_found_by_the_thread_that_they_are_of(tmp_path: Path) -> None:
    """Also while nobody has named that; what they were told with its prompt makes none of them the session."""
    files = CodexFiles({"CODEX_HOME": str(tmp_path)}, tmp_path, time.time() - 60)
    files.given("ours")
    agent = rollout(tmp_path, OTHER, cwd=tmp_path, prompt="ours", root=THREAD)
    rollout(tmp_path, OTHER.replace("a229", "a230"), cwd=tmp_path, prompt="ours", root="of-another")
    old = rollout(tmp_path, OTHER.replace("a229", "a231"), cwd=tmp_path, root=THREAD)
    os.utime(old, (1, 1))
    (tmp_path / "sessions/2026/11/30" / f"rollout-2026-11-30T00-23-56-{THREAD}.jsonl").touch()
    assert list(files.paths()) == []

    path = rollout(tmp_path, THREAD, cwd=tmp_path, prompt="ours")

    assert {*files.paths(), *files.paths()} == {str(path), str(agent)}


# When


class Files:
    """These, whatever is asked."""

    def __init__(self, *paths: Path) -> None:
        self.found = [str(path) for path in paths]
        self.asked = 0

    def belongs(self, name: str) -> None:
        self.found.append(name)

    def given(self, prompt: str) -> None:
        pass

    def paths(self) -> Iterable[str]:
        self.asked += 1
        return self.found


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_watch, "_AFTER_SECONDS", (0.01, 0.05))
    monkeypatch.setattr(record_watch, "_OUTPUT_SECONDS", 0.03)


async def comes(true: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.005)


def counts(reports: list[Report]) -> list[int]:
    return [each.input_tokens for each in reports if isinstance(each, Cumulative) and not each.before]


@pytest.mark.usefixtures("quick")
async def test_what_is_written_after_the_hook_is_found(tmp_path: Path) -> None:
    """At once what is there, and what comes a moment later as well; then there is silence."""
    path, reports = tmp_path / "s.jsonl", list[Report]()
    path.write_bytes(said("a", 1) + b"\n")
    files = Files(path)
    watch = RecordWatch(ClaudeRecord(NOW), files, reports.append)

    watch.look(over=True)
    assert counts(reports) == [100]
    with path.open("ab") as file:
        file.write(said("b", 1) + b"\n")
    await comes(lambda: counts(reports) == [100, 200])
    await asyncio.sleep(0.2)

    asked = files.asked
    assert asked == 3
    await asyncio.sleep(0.2)
    assert files.asked == asked
    watch.close()


@pytest.mark.usefixtures("quick")
async def test_output_is_a_reason_to_look_but_not_for_each_byte(tmp_path: Path) -> None:
    """One look for much output, and one after the last."""
    path, reports = tmp_path / "s.jsonl", list[Report]()
    files = Files(path)
    watch = RecordWatch(ClaudeRecord(NOW), files, reports.append)

    for _ in range(1000):
        watch.stir()
    await comes(lambda: files.asked)
    path.write_bytes(said("a", 1) + b"\n")
    await comes(lambda: counts(reports) == [100])
    await asyncio.sleep(0.2)

    assert files.asked == 2
    watch.close()


@pytest.mark.usefixtures("quick")
async def test_a_large_record_does_not_hold_the_loop_up(tmp_path: Path) -> None:
    """It is read piece by piece, and others have their turn in between."""
    path, reports = tmp_path / "s.jsonl", list[Report]()
    line = said("a", 1) + b"\n"
    path.write_bytes(line * (8_000_000 // len(line)) + said("b", 1) + b"\n")
    watch = RecordWatch(ClaudeRecord(NOW), Files(path), reports.append)
    turns = 0

    watch.look()
    while counts(reports)[-1:] != [200]:
        await asyncio.sleep(0)
        turns += 1

    assert turns > 20
    watch.close()


@pytest.mark.usefixtures("quick")
async def test_what_is_left_is_read_at_the_end_and_once(tmp_path: Path) -> None:
    """The program is gone by then, and nobody comes back to it."""
    path, reports = tmp_path / "s.jsonl", list[Report]()
    watch = RecordWatch(ClaudeRecord(NOW), Files(path), reports.append)
    watch.look()
    path.write_bytes(b"".join(said(f"m{number}", 1) + b"\n" for number in range(3000)))

    watch.close()
    watch.close()
    watch.look(over=True)
    watch.stir()
    await asyncio.sleep(0.2)

    assert counts(reports)[-1] == 300_000
    assert len([each for each in reports if isinstance(each, Cumulative) and each.before]) == 1


@pytest.mark.usefixtures("quick")
async def test_a_record_that_is_never_there_is_told_of_once(tmp_path: Path) -> None:
    """Whoever set a budget has to know; before the first turn is over there is nothing to miss."""
    reports: list[Report] = []
    watch = RecordWatch(ClaudeRecord(NOW), Files(tmp_path / "none.jsonl"), reports.append)
    watch.look()
    await asyncio.sleep(0.2)
    assert reports == []

    for _ in range(2):
        watch.look(over=True)
        await asyncio.sleep(0.2)

    (noted,) = reports
    assert isinstance(noted, facts.Noted)
    assert noted.kind == "uncounted"
    watch.close()


@pytest.mark.usefixtures("quick")
async def test_a_turn_that_used_nothing_is_nothing_to_tell_of(tmp_path: Path) -> None:
    """Its provider refused it, say: the record is there."""
    path, reports = tmp_path / "s.jsonl", list[Report]()
    path.write_bytes(b"{}\n")
    watch = RecordWatch(ClaudeRecord(NOW), Files(path), reports.append)

    watch.look(over=True)
    await asyncio.sleep(0.2)

    assert reports == []
    watch.close()
