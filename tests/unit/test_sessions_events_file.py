"""The files that the host keeps for other tools: `events.jsonl` grows by whole lines, `session.json` is replaced as a whole."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.ledger import Event
from harness.ledger.events import canonical
from harness.sessions import events_file, facts, published, summary_file
from harness.sessions.events_file import EventsFile
from harness.sessions.record import Session

KEY = "w1@0f3a9c21"


def event(seq: int, text: str = "", *, type_: str = facts.NOTED) -> Event:
    return Event(
        position=seq, stream=facts.stream_of(KEY), seq=seq, type=type_, ts=seq, actor="host", tenant="t", parent=None, key=None,
        schema=1, data=canonical(facts.Noted(kind="k", text=text or f"text {seq}")), salt=b"", stored_digest=None, prev=b"",
        hash=b"",
    )  # fmt: skip


def events(first: int, last: int) -> list[Event]:
    return [event(seq) for seq in range(first, last + 1)]


def lines(*given_: Event) -> bytes:
    """What the file should hold."""
    return b"".join(line + b"\n" for each in given_ if (line := published.line(each, KEY)) is not None)


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """No file grows above this size: the disk takes a part of a line and then nothing."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


def test_events_are_appended_in_order_and_each_once(path: Path) -> None:
    """Whoever gives some of them again changes nothing."""
    file = EventsFile(path, KEY)

    assert file.advance(events(1, 3))
    assert file.advance(events(2, 5))
    assert file.advance(events(1, 5))

    assert path.read_bytes() == lines(*events(1, 5))
    assert file.seq == 5
    file.close()


def test_only_its_owner_reads_it(path: Path) -> None:
    """Also where it was made by somebody with another umask."""
    path.touch(mode=0o644)

    EventsFile(path, KEY).close()

    assert path.stat().st_mode & 0o777 == 0o600


def test_an_event_that_is_not_public_leaves_no_line(path: Path) -> None:
    """It counts as taken."""
    file = EventsFile(path, KEY)

    assert file.advance([event(1, type_=facts.CLAIMED), event(2)])

    assert path.read_bytes() == lines(event(2))
    assert file.seq == 2
    file.close()


def test_the_next_writer_goes_on_after_the_last_line(path: Path) -> None:
    """It is given the stream from the beginning, or from anywhere before the end."""
    first = EventsFile(path, KEY)
    first.advance(events(1, 4))
    first.close()

    second = EventsFile(path, KEY)
    assert second.seq == 4
    second.advance(events(3, 6))
    second.close()

    assert path.read_bytes() == lines(*events(1, 6))


@given(st.integers(0, 2000), st.sampled_from([b"", b"\0" * 300, b"{}\n", b"garbage\n", b"\xff\n", b'{"seq":']))
def test_a_file_that_was_cut_anywhere_is_repaired(length: int, junk: bytes) -> None:
    """After a kill or a power cut in the middle of a write, the file ends up as if nothing had happened."""
    whole = lines(*events(1, 8))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "events.jsonl"
        path.write_bytes(whole[:length] + junk)

        file = EventsFile(path, KEY)
        assert file.advance(events(1, 8))
        file.close()

        assert path.read_bytes() == whole


def test_a_line_that_is_longer_than_what_is_read_at_once_is_found(path: Path) -> None:
    """Arguments of a tool may be long."""
    long = event(2, "x" * 300_000)
    file = EventsFile(path, KEY)
    file.advance([event(1), long])
    file.close()

    again = EventsFile(path, KEY)
    again.advance([event(3)])
    again.close()

    assert path.read_bytes() == lines(event(1), long, event(3))


@pytest.mark.parametrize("room", [0, 1, 150, 400, 1000])
def test_a_full_disk_is_caught_up_with(path: Path, room: int) -> None:
    """Nothing is raised, nothing is lost, nothing is torn once there is room again."""
    file = EventsFile(path, KEY)
    with room_for(room):
        assert not file.advance(events(1, 9))
        assert not file.advance(events(10, 12))
        assert file.problem.startswith(str(path))

    assert file.advance(())

    assert path.read_bytes() == lines(*events(1, 12))
    assert file.problem == ""
    file.close()


def test_a_torn_line_is_written_whole_after_the_file_was_closed(path: Path) -> None:
    """What was in the file of it is written again, and not left out."""
    file = EventsFile(path, KEY)
    with room_for(500):
        file.advance(events(1, 9))
    file.close()

    assert file.advance(())

    assert path.read_bytes() == lines(*events(1, 9))
    file.close()


def test_a_folder_that_is_not_there_yet_is_waited_for(tmp_path: Path) -> None:
    """What was given before the file could be opened is in it afterwards, but not what it held already."""
    folder = tmp_path / "w1"
    file = EventsFile(folder / "events.jsonl", KEY)
    assert not file.advance(events(1, 4))

    folder.mkdir()
    (folder / "events.jsonl").write_bytes(lines(*events(1, 2)))
    assert file.advance([event(5)])

    assert (folder / "events.jsonl").read_bytes() == lines(*events(1, 5))
    file.close()


def test_what_waits_is_bounded_and_what_was_refused_can_be_given_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file stays a beginning of the stream: no event is left out between two others."""
    monkeypatch.setattr(events_file, "KEPT_BYTES", 1000)
    file = EventsFile(path, KEY)
    with room_for(0):
        file.advance(events(1, 50))
        taken = file.seq
        assert 5 < taken < 10

    assert not file.advance(events(51, 60))
    assert path.read_bytes() == lines(*events(1, taken))
    assert f"after {taken}" in file.problem

    assert file.advance(events(taken + 1, 60))
    assert path.read_bytes() == lines(*events(1, 60))
    file.close()


def test_a_link_in_its_place_is_not_followed(path: Path, tmp_path: Path) -> None:
    """Nobody makes the host write elsewhere."""
    other = tmp_path / "other"
    other.write_text("mine")
    path.symlink_to(other)

    file = EventsFile(path, KEY)

    assert not file.advance(events(1, 1))
    assert other.read_text() == "mine"
    file.close()


def test_a_reader_that_follows_sees_whole_lines_only_grow(path: Path) -> None:
    """What a reader has seen stays where it was, also over a torn line and its repair."""
    file = EventsFile(path, KEY)
    with room_for(500):
        file.advance(events(1, 9))
    seen = path.read_bytes()
    file.close()

    again = EventsFile(path, KEY)
    again.advance(events(1, 9))
    again.close()

    assert not seen.endswith(b"\n")
    assert path.read_bytes().startswith(seen)


def test_the_host_can_load_it_cheaply() -> None:
    """Neither anyio nor pydantic is loaded for it."""
    heavy = ("anyio", "pydantic", "typer", "rich", "psutil", "asyncio")
    script = (
        "import sys, harness.sessions.events_file, harness.sessions.summary_file\n"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)

    assert done.stdout == "[]\n"


# session.json


def session() -> Session:
    """A run of which a little is known."""
    claimed = facts.Claimed(
        id="w1", cli="claude", mode=facts.Mode.STREAM, argv=("claude", "-p"), cwd="/src", machine="m", guard_pid=10,
        guard_started=1, host_pid=11, host_started=1, meta={"a": [1]}, limits=facts.Limits(max_turns=3),
    )  # fmt: skip
    told = [
        (facts.CLAIMED, claimed),
        (facts.STARTED, facts.Started(pid=12, started=1)),
        (facts.QUEUED, facts.Queued(message_id="m1", text="ü" * 300, expires_us=10**15)),
        (facts.QUEUED, facts.Queued(message_id="m2", text="b", expires_us=10**15)),
        (facts.WRITTEN, facts.Moved(message_id="m2")),
        (facts.WITHDRAWN, facts.Moved(message_id="m2")),
        (facts.STATE_CHANGED, facts.StateChanged(state=facts.State.BUSY, source=facts.Source.PROTOCOL, confidence=1.0)),
        (facts.APPROVAL_REQUESTED, facts.ApprovalRequested(request="r", tool="Bash")),
    ]
    found = Session(key=KEY)
    for seq, (type_, payload) in enumerate(told, 1):
        found.fold(_with(seq, type_, payload))
    return found


def _with(seq: int, type_: str, payload: object) -> Event:
    return msgspec.structs.replace(event(seq, type_=type_), data=canonical(payload))


def test_the_summary_tells_the_run(tmp_path: Path) -> None:
    """In plain JSON, for its owner only."""
    assert summary_file.write(tmp_path, session())

    path = tmp_path / "session.json"
    told = json.loads(path.read_text(encoding="utf-8"))
    assert (told["id"], told["session"], told["pid"], told["host_pid"], told["live"]) == ("w1", KEY, 12, 11, True)
    assert told["state"] == {
        "state": "busy", "detail": "", "source": "protocol", "confidence": 1.0, "since": "1970-01-01T00:00:00.000007Z",
        "until": None,
    }  # fmt: skip
    assert (told["messages"]["queued"], told["messages"]["withdrawn"], told["messages"]["done"]) == (1, 1, 0)
    assert [(message["message_id"], len(message["msg"])) for message in told["inbox"]] == [("m1", 201)]
    assert [asked["request"] for asked in told["approvals"]] == ["r"]
    assert told["limits"] == {"max_turns": 3}
    assert told["exited"] is None
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_summary_tells_the_end(tmp_path: Path) -> None:
    """With the code as the shell gives it."""
    over = session()
    over.fold(_with(9, facts.EXITED, facts.Exited(reason=facts.ExitReason.KILLED, signal=9)))

    summary_file.write(tmp_path, over)

    told = json.loads((tmp_path / "session.json").read_text())
    assert (told["live"], told["state"]["state"], told["exited"]["code"]) == (False, "exited", 137)


def test_the_summary_is_replaced_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    """What the disk refuses leaves the last one, and no leftovers."""
    summary_file.write(tmp_path, session())
    before = (tmp_path / "session.json").read_bytes()
    newer = session()
    newer.fold(_with(9, facts.EXITED, facts.Exited(reason=facts.ExitReason.SUCCESS, code=0)))

    with room_for(100):
        assert not summary_file.write(tmp_path, newer)

    assert (tmp_path / "session.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["session.json"]
    assert not summary_file.write(tmp_path / "nowhere", newer)
