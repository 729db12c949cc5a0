"""`harness logs`, `events` and `pane`: what an agent wrote, what happened, what its window shows."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable
from typing import Any

import pytest

from harness.clock import iso
from harness.ledger import SQLiteStore
from harness.processes import RotatingLog
from harness.sessions import facts
from harness.sessions.client import Pane, Sessions, last, output
from harness.sessions.client.panes import beginning
from harness.sessions.ids import Folder

PATIENCE_SECONDS = 20.0
Pretend = Callable[..., Any]


def log_of(session: Any, max_bytes: int = 1 << 20) -> RotatingLog:
    """The transcript of a session, which gets its folder by this."""
    folder = Folder(home=session.store.path.parent, key=session.key).take()
    return RotatingLog(folder / "transcript.log", max_bytes=max_bytes)


# Logs


async def test_logs_are_the_last_lines_as_they_came(command: Any, agents: SQLiteStore, pretend: Pretend) -> None:
    """Rotated parts included, control codes too unless they are not wanted; while it runs and afterwards."""
    session = await pretend(agents)
    log = log_of(session, max_bytes=200)
    for number in range(50):
        log.write(b"\x1b[1mline %d\x1b[0m\r\n" % number)
    log.write(b"half")

    _, raw, _ = await command("logs", "--id", "w1", "--lines", "3")
    _, plain, _ = await command("logs", "--id", "w1", "-n", "20", "--plain")
    await session.exit()
    _, lines, _ = await command("logs", "--id", session.key, "-n", "2", "--json", "--plain")

    assert raw == "\x1b[1mline 48\x1b[0m\r\n\x1b[1mline 49\x1b[0m\r\nhalf"
    assert plain.splitlines() == [f"line {number}" for number in range(31, 50)] + ["half"]
    assert [json.loads(line) for line in lines.splitlines()] == [{"line": "line 49"}, {"line": "half"}]
    assert (await command("logs", "--id", "w1", "-n", "0"))[:2] == (0, "")


async def test_plain_logs_keep_words_apart(command: Any, agents: SQLiteStore, pretend: Pretend) -> None:
    """A program that draws a window moves the cursor on where another one writes spaces."""
    log_of(await pretend(agents)).write(b"Welcome\x1b[1Cto\x1b[CClaude\x1b[3CCode\x1b[999999999C.\r\n")

    _, plain, _ = await command("logs", "--id", "w1", "--plain")

    assert plain == f"Welcome to Claude   Code{' ' * 500}.\n"


async def test_following_logs_ends_with_the_session(command: Any, agents: SQLiteStore, pretend: Pretend) -> None:
    """What is written last is shown, also when a new run has the folder by then."""
    session = await pretend(agents)
    log = log_of(session)
    log.write(b"one\n")
    following = asyncio.ensure_future(command("logs", "--id", session.key, "--follow"))
    log.write(b"two\n")
    log.write(b"three\n")
    await session.exit()
    again = await pretend(agents)
    log_of(again).write(b"another run\n")

    code, out, _ = await following

    assert (code, out) == (0, "one\ntwo\nthree\n")


async def test_stderr_is_a_log_of_its_own(command: Any, agents: SQLiteStore, pretend: Pretend) -> None:
    """Where the agent has one; files that are gone are told."""
    session = await pretend(agents)
    log_of(session)
    Folder(home=agents.path.parent, key=session.key).errors.write_text("oops\n")
    gone = await pretend(agents, "w2")

    assert (await command("logs", "--id", "w1", "--errors"))[1] == "oops\n"
    code, out, err = await command("logs", "--id", "w2")
    assert (code, out) == (1, "")
    assert f"harness events --id {gone.key}" in err


# Events


async def test_events_are_public_json_lines(command: Any, agents: SQLiteStore, pretend: Pretend) -> None:
    """With the documented envelope; a session that is over prints its events and ends."""
    session = await pretend(agents)
    await session.state("busy")
    await session.exit()

    code, out, err = await command("events", "--id", "w1")

    events = [json.loads(line) for line in out.splitlines()]
    assert (code, err) == (0, "")
    assert [event["type"] for event in events] == ["started", "state", "summary", "exited"]
    assert [event["seq"] for event in events] == [2, 3, 4, 5]
    assert {(event["schema_version"], event["id"], event["session"]) for event in events} == {(1, "w1", session.key)}


async def test_a_live_session_is_followed_to_its_end(command: Any, agents: SQLiteStore, pretend: Pretend) -> None:
    """By default; a snapshot ends at once, and a guard that dies is an end."""
    session = await pretend(agents)
    for words in (["--snapshot"], ["--no-follow"]):
        _, out, _ = await command("events", "--id", "w1", *words)
        assert [json.loads(line)["type"] for line in out.splitlines()] == ["started"]

    following = asyncio.ensure_future(command("events", "--id", "w1"))
    await session.state("busy")
    session.kill_guard()
    code, out, _ = await following

    assert code == 0
    assert [json.loads(line)["type"] for line in out.splitlines()] == ["started", "state", "summary", "exited"]
    assert json.loads(out.splitlines()[-1])["reason"] == "lost"


async def test_events_from_a_moment_on_include_it(command: Any, agents: SQLiteStore, pretend: Pretend) -> None:
    """In any zone; what is no moment is an error."""
    session = await pretend(agents)
    [busy] = await session.state("busy")
    await session.state("prompt")
    at = iso(busy.ts)

    for moment in (at, at.replace("Z", "+00:00")):
        _, out, _ = await command("events", "--id", "w1", "--snapshot", "--from", moment)
        assert [json.loads(line)["state"] for line in out.splitlines()] == ["busy", "prompt"]
    _, out, _ = await command("events", "--id", "w1", "--snapshot", "--from", iso(busy.ts + 1))
    assert [json.loads(line)["state"] for line in out.splitlines()] == ["prompt"]
    code, out, err = await command("events", "--id", "w1", "--from", "yesterday")
    assert (code, out, err.count("\n")) == (1, "", 1)


async def test_a_stream_that_is_cut_is_told(command: Any, agents: SQLiteStore, pretend: Pretend) -> None:
    """1, after what is there; so is a session that is of another repository or program, or unknown."""
    session = await pretend(agents)
    await session.state("busy")
    await session.state("prompt")
    with sqlite3.connect(agents.path) as connection:
        connection.execute("DELETE FROM events WHERE seq = 3")
    connection.close()

    code, out, err = await command("events", "--id", "w1", "--snapshot")
    assert (code, len(out.splitlines()), err.count("\n")) == (1, 1, 1)
    assert "event 3 is missing" in err
    for words in (["--id", "w9"], ["--id", "w1", "--cli", "codex"], ["--id", "w1", "--repo", "/"]):
        assert (await command("events", *words))[0] == 1


async def test_a_reader_that_goes_away_ends_it(agents: SQLiteStore, pretend: Pretend) -> None:
    """As with `| head`: no error, no traceback."""
    import sys

    session = await pretend(agents)
    for _ in range(3000):
        await session.state("busy")
    words = f"{sys.executable} -m harness events --id w1 | head -n 1"
    done = await asyncio.create_subprocess_shell(words, stdout=-1, stderr=-1, cwd=agents.path.parents[1])
    async with asyncio.timeout(PATIENCE_SECONDS):
        out, err = await done.communicate()

    assert (json.loads(out)["type"], err) == ("started", b"")


# Pane


async def test_a_pane_is_drawn_from_the_output(command: Any, agents: SQLiteStore, pretend: Pretend) -> None:
    """In the window's size, without control codes, from where it was last emptied."""
    session = await pretend(agents)
    log = log_of(session)
    Folder(home=agents.path.parent, key=session.key).path.joinpath("size").write_text("20x5")
    log.write(b"old \x1b[2J\x1b[H\x1b[31mone\x1b[0m\r\ntwo\r\nthree\x1b[2;1HTWO")

    code, out, err = await command("pane", "--id", "w1")
    told = await command.json("pane", "--id", "w1", "--lines", "2", "--json")
    more = await command.json("pane", "--id", "w1", "--lines", "5", "--json")

    assert (code, out, err) == (0, "one\nTWO\nthree\n", "")
    assert set(told) == {"ok", "id", "captured_at", "lines", "text"}
    assert (told["ok"], told["id"], told["lines"], told["text"]) == (True, "w1", 2, "TWO\nthree\n")
    assert (more["lines"], more["text"]) == (5, "one\nTWO\nthree\n\n\n")
    assert (await command("pane", "--id", "w1", "--lines", "0"))[0] == 2


async def test_a_pane_that_is_followed_is_drawn_anew(command: Any, agents: SQLiteStore, pretend: Pretend) -> None:
    """Until the session ends; the last frame is the last state."""
    session = await pretend(agents)
    log = log_of(session)
    log.write(b"one")
    following = asyncio.ensure_future(command("pane", "--id", "w1", "--follow", "--json"))
    log.write(b"\r\x1b[Ktwo")
    await session.exit()

    _, out, _ = await following

    assert json.loads(out.splitlines()[-1])["text"] == "two\n"


async def test_an_agent_without_a_window_shows_what_was_said(command: Any, agents: SQLiteStore, pretend: Pretend) -> None:
    """A protocol is not for reading; lines of a plain pipe are."""
    session = await pretend(agents, mode=facts.Mode.STREAM)
    log_of(session).write(b'{"type":"system"}\n')
    await command("send", "--id", "w1", "fix it", "--no-wait")
    said = facts.ItemCompleted(kind="text", summary="I will.\x1b[31m")
    tool = facts.ItemCompleted(kind="tool", name="Bash", summary="make test", ok=False)
    await session.tell((facts.ITEM_COMPLETED, said), (facts.ITEM_COMPLETED, tool))
    plain = await pretend(agents, "w2", mode=facts.Mode.ONCE)
    log_of(plain).write(b"one\ntwo\n")

    assert (await command("pane", "--id", "w1"))[1] == "> fix it\nI will.\n[Bash failed] make test\n"
    assert (await command("pane", "--id", "w1", "-n", "1"))[1] == "[Bash failed] make test\n"
    assert (await command("pane", "--id", "w2"))[1] == "one\ntwo\n"


async def test_a_message_that_was_never_sent_is_marked(command: Any, agents: SQLiteStore, pretend: Pretend) -> None:
    """One that the agent has is not said again, whatever becomes of its turn."""
    session = await pretend(agents, mode=facts.Mode.STREAM)
    sent = (await command.json("send", "--id", "w1", "fix it", "--no-wait"))["message_id"]
    await session.move(facts.WRITTEN, sent)
    await session.move(facts.ACCEPTED, sent)
    await session.move(facts.FAILED, sent, reason="its turn failed")
    failed = (await command.json("send", "--id", "w1", "a\nb", "--no-wait", "--no-submit"))["message_id"]
    await session.move(facts.WRITTEN, failed)
    await session.move(facts.FAILED, failed, reason="no input line")

    shown = "> fix it\n> a\nb\n[message failed] a b: no input line\n"
    assert (await command("pane", "--id", "w1"))[1] == shown
    await session.exit()
    assert shown in (await command("pane", "--id", "w1", "--follow"))[1]


@pytest.mark.parametrize(
    ("count", "gives"),
    [(None, ["a", "", "b"]), (1, ["b"]), (3, ["a", "", "b"]), (5, ["a", "", "b", "", ""])],
)
def test_n_lines_are_n_lines(count: int | None, gives: list[str]) -> None:
    """Empty lines at the screen's end are none of its lines."""
    assert last(["a", "", "b", "", ""], count) == gives
    assert last([], count) == [""] * (count or 0)


async def test_a_long_transcript_is_not_drawn_from_its_beginning(agents: SQLiteStore, pretend: Pretend) -> None:
    """But from where the screen was emptied; else from some way back, and from further where that does not fill it."""
    session = await pretend(agents)
    log = log_of(session, max_bytes=8 << 20)
    log.write(b"x" * 100_000 + b"\x1b[2J\x1b[Hend")
    pane = Pane(Sessions(agents, agents.path.parent), session.key, "pty")

    assert beginning(log, 1000) == (100_000, True)
    assert beginning(log, 4) == (log.end - 4, False)
    assert beginning(log, 1 << 20) == (100_000, True)
    assert [line for line in pane.draw() if line] == ["end"]
    log.write(b"\r\ntop" + b"\r" * 200_000 + b"\r\nbottom")
    assert [line for line in pane.draw() if line] == ["end", "top", "bottom"]
    anew = Pane(Sessions(agents, agents.path.parent), session.key, "pty")
    assert [line for line in anew.draw() if line] == ["end", "top", "bottom"]


async def test_all_of_a_long_output_is_followed_although_the_session_has_ended(agents: SQLiteStore, pretend: Pretend) -> None:
    """The end of the session is known long before its output is through."""
    session = await pretend(agents)
    data = bytes(range(256)) * 8192
    log_of(session, max_bytes=8 << 20).write(data)
    await session.exit()

    async with asyncio.timeout(PATIENCE_SECONDS):
        chunks = [chunk.data async for chunk in output(Sessions(agents, agents.path.parent), session.key, after=0)]

    assert b"".join(chunks) == data
