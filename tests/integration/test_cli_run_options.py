"""`harness run <agent>` with each of its options, as a person types it; the agents are real processes."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.session_rigs import comes_true

from harness.sessions import facts
from harness.sessions.facts import MessageStatus
from harness.sessions.record import Session

if TYPE_CHECKING:
    from tests.conftest import Hosted

PATIENCE_SECONDS = 30.0


@pytest.fixture
async def cli(hosted: Hosted) -> AsyncIterator[Cli]:
    """The command line in a home of its own; whatever it has started is ended."""
    world = Cli(hosted)
    try:
        yield world
    finally:
        for row in await hosted.sessions.list():
            await hosted.sessions.stop(row.key, by="test", kill=True, timeout_seconds=2)
            async with asyncio.timeout(PATIENCE_SECONDS):
                await hosted.sessions.ended(row.key)


class Cli:
    def __init__(self, hosted: Hosted) -> None:
        self.hosted, self.sessions, self.root, self.home = hosted, hosted.sessions, hosted.root, hosted.home

    async def __call__(self, *words: str) -> str:
        code, out, err = await self.hosted.command(*words)
        assert (code, err) == (0, ""), (words, out)
        return out

    async def run(self, *words: str) -> dict[str, Any]:
        """What `harness run --detach …` tells."""
        return json.loads(await self("run", "--detach", *words))

    async def session(self, id_: str) -> Session:
        return await self.sessions.get(id_)

    async def ended(self, id_: str) -> Session:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await self.sessions.ended((await self.session(id_)).key)


def alive(pid: int | None) -> bool:
    try:
        return pid is not None and Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


HARNESS = shlex.join([sys.executable, "-m", "harness"])


async def test_a_session_that_an_agent_starts_outlives_it(cli: Cli) -> None:
    """It has a host of its own: neither a stop of the outer one nor the death of its host ends anything of it."""
    for outer, inner in (("a", "b"), ("c", "d")):
        script = f"{HARNESS} run --detach --id {inner} -- sleep 1000; exec sleep 1000"
        await cli.run("--id", outer, "--mode", "once", "sh", "--", "-c", script)
        await comes_true(lambda inner=inner: (cli.home / "sessions" / inner / "session.json").exists())
    b, d = await cli.session("b"), await cli.session("d")
    c = await cli.session("c")
    assert c.claimed is not None

    await cli("stop", "--id", "a")
    os.kill(c.claimed.host_pid, 9)
    ended = [await cli.ended("a"), await cli.ended("c")]

    assert [str(each.exited.reason) for each in ended if each.exited] == ["stopped", "lost"]
    for outer in ended:
        assert outer.claimed is not None
        await comes_true(lambda pid=outer.claimed.guard_pid: not alive(pid))
    for inner in (b, d):
        assert inner.claimed is not None
        assert [alive(pid) for pid in (inner.claimed.guard_pid, inner.claimed.host_pid, inner.pid)] == [True, True, True]
    await cli("stop", "--id", "b")
    await cli("stop", "--all")
    for inner in (b, d):
        assert inner.claimed is not None
        for pid in (inner.pid, inner.claimed.host_pid, inner.claimed.guard_pid):
            await comes_true(lambda pid=pid: not alive(pid))


# Where it runs


def git(folder: Path, *words: str) -> str:
    settings = ("-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "init.defaultBranch=main")
    done = subprocess.run(["git", *settings, *words], cwd=folder, capture_output=True, text=True, check=True, timeout=20)
    return done.stdout


@pytest.fixture
def repository(hosted: Hosted) -> Path:
    git(hosted.root, "init", "-q")
    (hosted.root / "TASK.md").write_text("work\n")
    git(hosted.root, "add", "TASK.md")
    git(hosted.root, "commit", "-qm", "the task")
    return hosted.root


async def test_a_worktree_keeps_changes_apart_and_is_taken_up_again(cli: Cli, repository: Path) -> None:
    """What is committed is in it, what the agent does stays in it, and the next run of the id finds it there."""
    script = "cat TASK.md > copy; git branch --show-current >> copy; exec sleep 1000"

    await cli.run("--id", "w", "--worktree", "feature/x", "sh", "--", "-c", script)
    first = await cli.session("w")
    tree = cli.home / "worktrees" / "w"
    await comes_true(lambda: (tree / "copy").exists() and "feature" in (tree / "copy").read_text())
    await cli("stop", "--id", "w")
    await cli.run("--id", "w", "--worktree", "feature/x", "sh", "--", "-c", "rm copy; exec sleep 1000")

    assert first.claimed is not None
    assert (first.claimed.cwd, first.claimed.worktree, first.claimed.branch) == (str(tree), str(tree), "feature/x")
    assert first.claimed.repo == str(repository)
    await comes_true(lambda: not (tree / "copy").exists())
    assert git(repository, "status", "--porcelain") == ""
    assert git(repository, "branch", "--show-current") == "main\n"


async def test_a_worktree_has_a_branch_by_the_sessions_name(cli: Cli, repository: Path) -> None:
    """Nobody has to think of one; another branch than the one that is there is refused in words."""
    await cli.run("--id", "w", "sh", "--worktree", "--", "-c", "exit 0")

    ended = await cli.ended("w")
    assert ended.claimed is not None
    assert ended.claimed.branch == "harness/w"
    code, _, err = await cli.hosted.command("run", "--detach", "--id", "w", "--worktree", "other", "sh", "--", "-c", "exit 0")
    assert code == 1
    assert err.startswith(f"harness: {cli.home / 'worktrees' / 'w'} is there already, on branch harness/w")


async def test_a_worktree_needs_a_repository_with_a_commit(cli: Cli) -> None:
    """The line says what to do, and nothing is started."""
    told = [(await cli.hosted.command("run", "--detach", "--worktree", "x", "sleep", "1000"))[::2]]
    git(cli.root, "init", "-q")
    told += [(await cli.hosted.command("run", "--detach", "--worktree", "x", "sleep", "1000"))[::2]]

    assert [code for code, _ in told] == [1, 1]
    assert told[0][1] == f"harness: --worktree needs a git repository, and {cli.root} is in none\n"
    assert told[1][1] == f"harness: --worktree needs a commit, and {cli.root} has none yet\n"
    assert await cli.sessions.list(live=None) == []


async def test_an_id_may_be_what_is_no_name_of_a_branch(cli: Cli, repository: Path) -> None:
    """Dots lead out of no folder; only the branch that would have its name is refused, with the reason."""
    await cli.run("--id", "A..b.", "sleep", "1000")
    await cli.run("--id", "C..d", "--worktree", "x", "sleep", "1000")

    refused = await cli.hosted.command("run", "--detach", "--id", "E..f", "sleep", "1000", "--worktree")

    assert [row.id for row in await cli.sessions.list()] == ["C..d", "A..b."]
    assert (cli.home / "sessions" / "A..b." / "session.json").exists()
    assert (cli.home / "worktrees" / "C..d" / "TASK.md").exists()
    assert refused[:2] == (2, "")
    assert "'E..f'" in refused[2]
    assert "git takes no '..'" in refused[2]


# What is known about it


async def test_a_description_and_meta_are_told_to_those_who_ask(cli: Cli) -> None:
    """The description in the table, both in the events and to the agent itself."""
    meta = {"ticket": 7, "tags": ["a", "ü"]}
    words = ("--description", "T-7 parser", "--meta", json.dumps(meta))
    script = 'printf "%s\\n" "$HARNESS_DESCRIPTION" "$HARNESS_ID" "$HARNESS_SESSION_ID" "$HARNESS_SESSION_CLI"; exec sleep 1000'

    told = await cli.run("--id", "w", *words, "sh", "--", "-c", script)

    log = Path(told["log"])
    await comes_true(lambda: log.read_text().count("\n") == 4)
    assert log.read_text().split() == ["T-7", "parser", "w", told["key"], "sh"]
    assert "T-7 parser" in await cli("status")
    (row,) = json.loads(await cli("status", "--json"))
    events = [json.loads(line) for line in (await cli("events", "--id", "w", "--snapshot")).splitlines()]
    (started,) = [event for event in events if event["type"] == "started"]
    assert (row["description"], started["meta"]) == ("T-7 parser", meta)


async def test_a_session_ends_when_its_time_is_over(cli: Cli) -> None:
    """The host ends it, whatever it does; whoever waits sees why."""
    began = time.monotonic()
    await cli.run("--id", "w", "--max-wall", "1s", "sh", "--", "-c", "trap '' TERM INT HUP; while :; do sleep 0.1; done")

    code, out, _ = await cli.hosted.command("wait", "--id", "w", "--timeout", "20")

    told = json.loads(out)
    assert (told["status"], told["reason"]) == ("exited", "timeout")
    assert code == 128 + 9
    assert time.monotonic() - began < 20


# Its file, its window


@pytest.mark.parametrize("option", [("--watch-file", "notes.md"), ("--watch", "notes.md"), ("--watch=notes.md",)])
async def test_the_agent_is_told_when_a_file_changes(cli: Cli, option: tuple[str, ...]) -> None:
    """The file need not be there at first; several changes in a moment are one message."""
    program = cli.hosted.twin("claude")
    await cli.run("--id", "w", program, *option)
    await cli("wait", "--id", "w", "--until", "prompt", "--timeout", "20")
    key = (await cli.session("w")).key

    for number in range(5):
        (cli.root / "notes.md").write_text(f"note {number}")
    await cli("wait", "--id", "w", "--until", "task_complete", "--timeout", "20")

    (message,) = (await cli.session("w")).messages.values()
    assert message.text == f"file-change-hook: read {cli.root / 'notes.md'}"
    assert (message.origin.kind, message.status) == ("harness", MessageStatus.DONE)
    stream = await cli.hosted.store.read(f"session/{key}")
    assert len([event for event in stream if event.type == facts.QUEUED]) == 1


@pytest.fixture
def tmux(hosted: Hosted, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A server of the test's own, which knows no settings of a person."""
    if shutil.which("tmux") is None:
        pytest.skip("tmux is missing: install it")
    folder = hosted.root / "tmux"
    folder.mkdir(mode=0o700)
    monkeypatch.setenv("TMUX_TMPDIR", str(folder))
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.delenv("TMUX", raising=False)

    def ask(*words: str) -> str:
        return subprocess.run(["tmux", *words], capture_output=True, text=True, check=False, timeout=20).stdout

    yield ask
    ask("kill-server")


async def test_a_window_shows_a_session_and_owns_nothing_of_it(cli: Cli, tmux: Any) -> None:
    """Windows of several sessions are in one tmux session; keys go to the agent; killing the server ends no agent."""
    shell = ("sh", "--", "-c", 'echo "ready $HARNESS_ID"; while read line; do echo "got $line"; done')
    for id_ in ("one", "two"):
        told = json.loads(await cli("run", "--id", id_, "--tmux", f"win-{id_}", *shell))
        assert (told["ok"], told["id"], told["transport"]) == (True, id_, "pty")

    windows = tmux("list-windows", "-t", "harness", "-F", "#{window_name} #{window_width}x#{window_height}").splitlines()
    assert windows == ["win-one 120x40", "win-two 120x40"]
    await comes_true(lambda: "ready two" in tmux("capture-pane", "-p", "-t", "harness:win-two"))
    tmux("send-keys", "-t", "harness:win-two", "hello", "Enter")
    await comes_true(lambda: "got hello" in tmux("capture-pane", "-p", "-t", "harness:win-two"))
    assert (await cli.session("two")).claimed.tmux == "win-two"  # pyright: ignore[reportOptionalMemberAccess]

    await cli("stop", "--id", "one")
    await comes_true(lambda: tmux("list-windows", "-t", "harness", "-F", "#{window_name}").split() == ["win-two"])
    tmux("kill-server")

    two = await cli.session("two")
    assert two.live
    assert alive(two.pid)
    assert "got hello" in await cli("pane", "--id", "two")


async def test_a_watched_session_goes_on_in_its_window_and_within_its_limits(cli: Cli, tmux: Any) -> None:
    """The run that takes over from a frozen one has a window as well, and what is left of time and turns."""
    notes = ("--journal", str(cli.root / "journal"), "--store", str(cli.root / "store"))
    agent = cli.hosted.twin("claude", *notes, "--freezes")
    watching = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "harness", "run", agent, "--id", "w1", "--tmux", "win", "--watch", "--stall-after", "1s",
        "--max-resumes", "2", "--max-turns", "9", "--max-wall", "10m", "--context", "do it",
        env={**os.environ, "HARNESS_HOME": str(cli.home)}, cwd=cli.root, stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip

    async with asyncio.timeout(60):
        while len(rows := await cli.sessions.list(live=None)) < 2:
            await asyncio.sleep(0.1)
    first, again = sorted([await cli.sessions.get(row.key) for row in rows], key=lambda session: session.started_us)
    await comes_true(lambda: tmux("list-windows", "-t", "harness", "-F", "#{window_name}").split() == ["win"])
    await comes_true(lambda: "Claude Code" in tmux("capture-pane", "-p", "-t", "harness:win"))
    await cli("stop", "--id", "w1")
    async with asyncio.timeout(60):
        _, err = await watching.communicate()

    assert first.claimed is not None
    assert again.claimed is not None
    assert (again.claimed.follows, again.claimed.tmux) == (first.key, "win")
    assert first.claimed.limits == facts.Limits(max_turns=9, max_wall_seconds=600.0)
    assert again.claimed.limits.max_turns == 9
    assert 500 < (again.claimed.limits.max_wall_seconds or 0) < 600
    assert b"resume 2/2 (idle=" in err


async def test_a_window_that_cannot_be_opened_leaves_a_session_that_runs(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line says so, and how to look at it; without tmux on the PATH nothing is started."""
    tool = cli.root / "bin" / "tmux"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\necho 'lost server'; exit 1\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}{os.pathsep}{os.environ['PATH']}")

    code, out, err = await cli.hosted.command("run", "--id", "w", "--tmux", "--", "sleep", "1000")

    assert (code, json.loads(out)["id"]) == (1, "w")
    assert err == "harness: tmux opens no window: lost server; the session runs: 'harness attach --id w' shows it\n"
    assert (await cli.session("w")).live
    monkeypatch.setenv("PATH", str(cli.root))
    code, out, err = await cli.hosted.command("run", "--id", "v", "--tmux", "--", "/bin/sleep", "1000")
    assert (code, out, err) == (1, "", 'harness: "tmux" not found — is it installed and on your PATH?\n')
    assert [row.id for row in await cli.sessions.list()] == ["w"]


# In a shell


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("harness stop --id ", ["w2", "w1"]),
        ("harness wait --id w", ["w2", "w1"]),
        ("harness approve w1", ["w1"]),
        ("harness why session w2", ["w2"]),
        ("harness run cl", ["claude"]),
        ("harness run --max-", ["--max-budget-usd", "--max-resumes", "--max-turns", "--max-wall"]),
        ("harness run claude --wat", ["--watch", "--watch-file"]),
    ],
)
async def test_a_shell_completes_ids_and_options(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, line: str, offered: list[str]
) -> None:
    """The newest session first, those that are over too; where there are none, nothing."""
    monkeypatch.setenv("_HARNESS_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(line.split(" ")) - 1))
    if "run" not in line:
        assert (await cli()).split() == []
        for id_ in ("w1", "w2"):
            await cli.hosted.launch("true", mode="once", id=id_)

    assert (await cli()).split() == offered
