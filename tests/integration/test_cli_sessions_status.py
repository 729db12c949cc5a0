"""`harness status`, `why` and `gc` over sessions that only the ledger knows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.clock import iso
from harness.ledger import Draft, SQLiteStore, Write
from harness.sessions import facts, ids
from harness.sessions.client.rows import folder_of
from harness.sessions.ids import Folder

Pretend = Callable[..., Any]
HEADINGS = "ID CLI PID PORT AGE IDLE STATE REPO DESC"


@pytest.fixture
def repo(agents: SQLiteStore) -> Path:
    return agents.path.parents[1]


def here(repo: Path, **values: Any) -> dict[str, Any]:
    return {"repo": str(repo), "cwd": str(repo), **values}


async def test_without_sessions_it_says_so(command: Any, repo: Path) -> None:
    """By the name of the repository; JSON is an empty array. Without a ledger as well, and none is made."""
    assert await command("status") == (0, f"No active sessions for {repo}.\n", "")
    assert await command("status", "--json") == (0, "[]\n", "")
    other = repo.parent / "other"
    assert await command("status", "--home", str(other)) == (0, f"No active sessions for {repo}.\n", "")
    assert not other.exists()


async def test_the_table_lists_the_newest_first(command: Any, agents: SQLiteStore, pretend: Pretend, repo: Path) -> None:
    """With the documented columns, and `-` where there is nothing."""
    one = await pretend(agents, "w1", **here(repo, description="fix the tests"))
    two = await pretend(agents, "w2", cli="codex", **here(repo))
    over = await pretend(agents, "w3", **here(repo))
    await one.state("blocked", detail="permission")
    await over.exit()
    Folder(home=repo / ".harness", key=one.key).take().joinpath("transcript.log").write_text("x")

    code, out, err = await command("status")

    lines = [line.split() for line in out.splitlines()]
    assert (code, err) == (0, "")
    assert lines[0] == HEADINGS.split()
    assert lines[1] == ["w2", "codex", str(two.guard.pid), "-", lines[1][4], "-", "starting", "repo", "-"]
    assert lines[2][6:] == ["blocked(permission)", "repo", "fix", "the", "tests"]
    assert [lines[2][3], lines[2][5][-1]] == ["-", "s"]
    assert len(lines) == 3


async def test_other_repositories_are_hinted_at(
    command: Any, agents: SQLiteStore, pretend: Pretend, repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--all` lists them; `--repo` chooses one, and a folder inside means its repository."""
    await pretend(agents, "w1", repo="/work/other")
    await pretend(agents, "w2", **here(repo))
    (repo / "inside").mkdir()
    elsewhere = repo.parent / "elsewhere"
    (elsewhere / ".git").mkdir(parents=True)

    _, out, _ = await command("status", "--repo", str(elsewhere))
    assert out.startswith(f"No active sessions for {elsewhere}.\n2 in other repositories: `harness status --all`")
    assert [row["id"] for row in await command.json("status", "--all", "--json")] == ["w2", "w1"]
    monkeypatch.chdir(repo / "inside")
    assert [row["id"] for row in await command.json("status", "--json")] == ["w2"]


async def test_json_tells_all_that_is_known(command: Any, agents: SQLiteStore, pretend: Pretend, repo: Path) -> None:
    """State with source and confidence, tokens, cost, the files."""
    session = await pretend(agents, "w1", **here(repo, description="x"))
    folder = Folder(home=repo / ".harness", key=session.key).take()
    (folder / "transcript.log").write_text("x")
    os.utime(folder / "transcript.log", ns=(0, 1_750_000_000_000_000_000))
    await session.state("busy", confidence=0.8)
    usage = facts.Usage(input_tokens=7, output_tokens=5, cost_usd=0.25)
    await session.tell((facts.USAGE, usage), (facts.IDENTIFIED, facts.Identified(model="m", vendor_session="v")))

    [row] = await command.json("status", "--json")

    expected = {
        "id": "w1", "session": session.key, "cli": "claude", "mode": "pty", "pid": session.guard.pid, "port": None,
        "live": True, "state": "busy", "detail": "", "source": "hook", "confidence": 0.8, "until": None,
        "repo": str(repo), "cwd": str(repo), "description": "x", "log_mtime": "2025-06-15T15:06:40.000000Z",
        "output_log_path": str(folder / "transcript.log"), "events_log_path": str(folder / "events.jsonl"),
        "vendor_session": "v", "model": "m", "turns": 0, "tokens": {"input": 7, "output": 5}, "cost_usd": 0.25,
        "attended": False, "tmux": None, "exited": None,
    }  # fmt: skip
    assert {name: row[name] for name in expected} == expected
    assert set(row) - set(expected) == {"since", "started_at", "age_s", "log_idle_s"}
    assert isinstance(row["log_idle_s"], int)


async def test_one_session_is_found_by_its_id(command: Any, agents: SQLiteStore, pretend: Pretend, repo: Path) -> None:
    """Also if it has ended, or is of another repository; what is unknown or of another program is an error."""
    first = await pretend(agents, "w1", repo="/work/other")
    await first.exit("killed", None, signal=9)
    [row] = await command.json("status", "--id", "w1", "--json")
    second = await pretend(agents, "w1", **here(repo))
    [newer] = await command.json("status", "--id=w1", "--json")
    [older] = await command.json("status", "--id", first.key, "--json")

    assert row["exited"] == {"code": 137, "signal": 9, "reason": "killed", "at": row["since"]}
    assert [newer["session"], older["session"]] == [second.key, first.key]
    for words in (["--id", "w9"], ["--id", "w1", "--cli", "codex"]):
        code, out, err = await command("status", *words)
        assert (code, out, err.count("\n")) == (1, "", 1)
        assert words[1] in err
    assert [each["id"] for each in await command.json("status", "--all", "--ended", "--json")] == ["w1", "w1"]


async def test_a_session_whose_guard_died_is_lost_and_nothing_is_written(
    command: Any, agents: SQLiteStore, pretend: Pretend, repo: Path
) -> None:
    """Whether it was recorded or not."""
    session = await pretend(agents, "w1", **here(repo))
    session.kill_guard()
    head = await agents.head(f"session/{session.key}")

    [row] = await command.json("status", "--json")

    assert (row["state"], row["source"], row["live"]) == ("lost", "process", True)
    assert await agents.head(f"session/{session.key}") == head


async def test_a_view_that_is_behind_is_read_the_usual_way(
    command: Any, agents: SQLiteStore, pretend: Pretend, repo: Path
) -> None:
    """Somebody wrote who does not know the table: the answer is as right as ever."""
    session = await pretend(agents, "w1", **here(repo))
    async with SQLiteStore(agents.path, actor="other") as store:
        told = facts.StateChanged(state=facts.State.LIMITED, source=facts.Source.HOOK, confidence=1.0)
        await store.append(Write(f"session/{session.key}", (Draft(type=facts.STATE_CHANGED, payload=told),)))

        [row] = await command.json("status", "--json")

    assert row["state"] == "limited"


async def test_words_from_outside_steer_no_terminal(command: Any, agents: SQLiteStore, pretend: Pretend, repo: Path) -> None:
    """A description is text, on one line."""
    await pretend(agents, "w1", **here(repo, description="a\x1b]0;x\x07b\nc\u202ed ä"))

    _, out, _ = await command("status")

    assert out.splitlines()[1].endswith("ab cd ä")


@pytest.mark.parametrize("words", [["status"], ["status", "--json"], ["status", "--all", "--id", "w1", "--json"]])
async def test_it_loads_nothing_heavy(agents: SQLiteStore, pretend: Pretend, repo: Path, words: list[str]) -> None:
    """In its plain forms it is done before the usual libraries would be loaded."""
    await pretend(agents, "w1", **here(repo))
    heavy = ("typer", "rich", "pydantic", "anyio", "asyncio", "msgspec")
    code = (
        f"import sys; from harness.cli import main; code = main({words!r});"
        f"print([name for name in {heavy!r} if name in sys.modules], code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True, cwd=repo)

    assert done.stdout.splitlines()[-1] == "[] 0"
    assert "w1" in done.stdout


async def test_settings_that_move_the_ledger_are_followed(
    command: Any, agents: SQLiteStore, pretend: Pretend, repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By harness.toml, by the environment; a comment that names the key moves nothing."""
    await pretend(agents, "w1", **here(repo))
    (repo / "harness.toml").write_text("# database = 'x'\n")
    assert [row["id"] for row in await command.json("status", "--json")] == ["w1"]

    (repo / "harness.toml").write_text("database = 'other.db'\n")
    assert await command.json("status", "--json") == []
    monkeypatch.setenv("HARNESS_DATABASE", str(agents.path))
    assert [row["id"] for row in await command.json("status", "--json")] == ["w1"]


def test_a_runs_folder_is_found_the_same_way_twice(tmp_path: Path) -> None:
    """The light way agrees with the other: for a run that has the folder, one that had it, one that has none."""
    old, new, none = "w1@00000001", "w1@00000002", "w2@00000003"
    Folder(home=tmp_path, key=old).take()
    Folder(home=tmp_path, key=new).take()

    for key in (old, new, none):
        assert folder_of(str(tmp_path), key) == str(Folder(home=tmp_path, key=key).path)


# Why


async def test_why_tells_who_saw_what(command: Any, agents: SQLiteStore, pretend: Pretend, repo: Path) -> None:
    """The last readings with source, time and confidence, disagreements, decisions, and what is open."""
    session = await pretend(agents, "w1", **here(repo))
    [busy] = await session.state("busy", "title", confidence=0.5)
    disputed = facts.StateDisputed(
        state=facts.State.BUSY, source=facts.Source.HOOK, other_state=facts.State.PROMPT, other_source=facts.Source.SCREEN,
        evidence="> ",
    )  # fmt: skip
    asked = facts.ApprovalRequested(request="r1", tool="Bash", summary="rm -rf build")
    stalled = facts.Stalled(clock="progress", idle_seconds=480.0, rung="probe", reason="no progress")
    await session.tell((facts.STATE_DISPUTED, disputed), (facts.APPROVAL_REQUESTED, asked), (facts.STALLED, stalled))

    told = await command.json("why", "session", "w1", "--json")
    code, out, _ = await command("why", "session", "w1")

    assert (told["state"], told["source"], told["confidence"]) == ("busy", "title", 0.5)
    assert told["readings"][-1]["ts"] == iso(busy.ts)
    assert told["disputes"][0]["other_source"] == "screen"
    assert [each["type"] for each in told["decisions"]] == ["approval.requested", "stall.detected"]
    assert told["approvals"][0]["request"] == "r1"
    assert code == 0
    for words in ("busy says title, confidence 0.5", "hook: busy prevails over screen: prompt - >", "asks leave r1: Bash"):
        assert words in out
    assert (await command("why", "session", "w9"))[0] == 1


# Tidying


async def test_gc_removes_the_files_of_ended_sessions_only(
    command: Any, agents: SQLiteStore, pretend: Pretend, repo: Path
) -> None:
    """Old ones, whoever has the folder's name now; what runs, what is recent and what is unknown stays."""
    home = repo / ".harness"
    keys: dict[str, str] = {}
    for name in ("w1", "w2", "w1", "w3"):
        session = await pretend(agents, name, **here(repo))
        Folder(home=home, key=session.key).take().joinpath("transcript.log").write_text("x" * 100)
        keys[f"{name}-{len(keys)}"] = session.key
        if (name, len(keys)) != ("w1", 3):
            await session.exit()
    (home / "sessions" / "mine").mkdir()
    (home / "sessions" / "linked").symlink_to(repo)

    assert (await command.json("gc", "--keep-days", "1", "--json"))["removed"] == []
    would = await command.json("gc", "--keep-days", "0", "--dry-run", "--json")
    removed = await command.json("gc", "--keep-days", "0", "--json")

    ended = {keys["w1-0"], keys["w2-1"], keys["w3-3"]}
    assert {each["session"] for each in would["removed"]} == {each["session"] for each in removed["removed"]} == ended
    assert removed["bytes"] >= 300
    assert sorted(path.name for path in (home / "sessions").iterdir()) == ["linked", "mine", "w1"]
    assert (home / "sessions" / "w1" / "key").read_text() == keys["w1-2"]
    assert json.loads((await command("status", "--id", keys["w2-1"], "--json"))[1])[0]["log_mtime"] is None


async def test_gc_buries_whom_nobody_owns(command: Any, agents: SQLiteStore, pretend: Pretend, repo: Path) -> None:
    """Their ids are free then; a dry run changes nothing."""
    session = await pretend(agents, "w1", **here(repo))
    session.kill_guard()

    await command("gc", "--dry-run")
    assert await agents.holder_of(facts.id_lock("w1")) is not None
    told = await command.json("gc", "--json")

    assert told["lost"] == [session.key]
    assert await agents.holder_of(facts.id_lock("w1")) is None
    assert ids.is_key(session.key)


async def test_commands_work_in_a_directory_that_was_deleted_if_the_home_is_named(
    command: Any, agents: SQLiteStore, pretend: Pretend, repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only an agent needs one to work in; whatever cannot do without says so, and what to do."""
    await pretend(agents, "w1", repo=str(repo))
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    says = "harness: the current directory does not exist any more: change to one that does"

    for words in (
        ["status"],
        ["status", "--id", "w1"],
        ["inbox", "--id", "w1"],
        ["run", "sleep", "1"],
        ["skills", "install", "--local"],
    ):
        code, out, err = await command(*words)
        assert (code, out, err.count("\n"), err.startswith(says)) == (1, "", 1, True), (words, err)
    monkeypatch.setenv("HARNESS_HOME", str(repo / ".harness"))
    told = [await command(*words) for words in (["status"], ["status", "--id", "w1"], ["inbox", "--id", "w1"])]
    refused = await command("run", "sleep", "1")

    assert [code for code, _, _ in told] == [0, 0, 0]
    assert all("w1" in out + err for _, out, err in told)
    assert refused == (1, "", f"{says}, for an agent works in it\n")
