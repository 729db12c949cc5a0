"""`harness doctor` about sessions: what they need, what they left behind, and which agent programs there are."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.cli import doctor_sessions
from harness.ledger import SQLiteStore
from harness.sessions import trials
from harness.sessions.facts import Mode

Pretend = Callable[..., Any]


@pytest.fixture
def tagged() -> Iterator[Callable[[str], int]]:
    """Starts a process that carries this tag; it ends with the test."""
    started: list[subprocess.Popen[bytes]] = []

    def start(tag: str) -> int:
        started.append(subprocess.Popen(["sleep", "1000"], env={**os.environ, "HARNESS_TAG": tag}))
        return started[-1].pid

    yield start
    for process in started:
        process.kill()
        process.wait()


async def found(command: Any, code: int) -> dict[str, tuple[str, str]]:
    """What doctor finds, by name."""
    told = await command.json("doctor", "--json", code=code)
    return {each["name"]: (each["state"], each["detail"]) for each in told}


async def test_all_is_well_with_a_session_that_runs(
    command: Any, agents: SQLiteStore, pretend: Pretend, tagged: Callable[[str], int]
) -> None:
    """Its own processes are no orphans, nor are those of a home that is not this one."""
    one = await pretend(agents, "w1")
    tagged(f"session/{one.key}")
    tagged("session/w1@00000000")

    seen = await found(command, 0)

    assert seen["sessions"] == ("ok", "1 run")
    assert {name: seen[name][0] for name in ("disk", "ledger's WAL")} == {"disk": "ok", "ledger's WAL": "ok"}
    assert not {"orphans", "lost sessions"} & seen.keys()


async def test_who_outlived_a_session_is_named(
    command: Any, agents: SQLiteStore, pretend: Pretend, tagged: Callable[[str], int]
) -> None:
    """With its pid, for only a person can know whether it matters."""
    one = await pretend(agents, "w1")
    pid = tagged(f"session/{one.key}")
    await one.exit()

    seen = await found(command, 1)

    assert seen["orphans"] == ("broken", f"pid {pid} of w1 still run though their sessions are over; end them by their pid")


async def test_a_session_whose_host_has_died_is_named(command: Any, agents: SQLiteStore, pretend: Pretend) -> None:
    """And what to do about it; afterwards all is well again."""
    await pretend(agents, "w1")
    lost = await pretend(agents, "w2")
    lost.kill_guard()

    before = await found(command, 1)
    await command("gc")
    after = await found(command, 0)

    assert before["sessions"] == ("ok", "1 run")
    assert before["lost sessions"][0] == "broken"
    assert "of w2 have died: `harness gc`" in before["lost sessions"][1]
    assert "lost sessions" not in after


async def test_little_room_and_a_log_that_grows_are_told(
    command: Any, agents: SQLiteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are seen long before anything fails."""
    monkeypatch.setattr(doctor_sessions, "_FREE_BYTES", 1 << 60)
    monkeypatch.setattr(doctor_sessions, "_WAL_BYTES", 0)

    seen = await found(command, 1)

    assert seen["disk"][0] == seen["ledger's WAL"][0] == "broken"
    assert "harness.db open" in seen["ledger's WAL"][1]


async def test_without_tmux_only_its_windows_are_missing(
    command: Any, agents: SQLiteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That is no reason to call anything broken."""
    monkeypatch.setenv("PATH", "/nowhere")

    assert (await found(command, 0))["tmux"] == ("missing", "`harness run … --tmux` needs it")


async def test_the_agent_programs_are_listed(command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With version and signs; a missing one is no error, one that does not answer is."""
    script = '#!/bin/sh\ncase $1 in --version) echo "2.1.0 (Claude Code)";; --help) echo "--print --output-format";; esac\n'
    for name, text in (("claude", script), ("codex", "#!/bin/sh\nexit 3\n")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    code, out, _ = await command("doctor", "--agents")
    claude, codex = await command.json("doctor", "--agents", "--json", code=1)
    (tmp_path / "codex").unlink()
    alone, told, _ = await command("doctor", "--agents")

    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert (code, alone) == (1, 0)
    assert lines[0] == f"ok claude 2.1.0, {tmp_path}/claude"
    assert "ok mode once --print, --output-format" in lines
    assert "missing hooks no sign of --settings" in lines
    assert lines[-1] == f"broken codex {tmp_path}/codex: it does not tell its version"
    assert (claude["version"], claude["modes"], claude["problem"]) == ("2.1.0", ["once"], None)
    assert (codex["version"], codex["found"], codex["problem"]) == (None, [], "it does not tell its version")
    assert told.splitlines()[-1].split() == ["missing", "codex", "not", "on", "PATH"]


async def test_a_program_that_cannot_be_tried_is_said(command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has a version and does nothing: that is broken, however well it starts."""
    script = '#!/bin/sh\ncase $1 in --version) echo "2.1.0 (Claude Code)";; *) exit 3;; esac\n'
    (tmp_path / "claude").write_text(script)
    (tmp_path / "claude").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(trials, "MODES", {"claude": (Mode.ONCE,), "codex": ()})

    monkeypatch.setattr(trials, "PATIENCE_SECONDS", 0.5)

    code, out, err = await command("doctor", "--agents", "--try")
    (told,) = await command.json("doctor", "--agents", "--try", "--json", code=1)

    assert (code, err) == (1, "trying claude in mode once …\n")
    first, last = (" ".join(line.split()) for line in out.splitlines())
    assert first == f"broken claude once 2.1.0: nothing; not {' '.join(trials.ASPECTS)}"
    assert last == "missing codex not on PATH"
    assert (told["program"], told["version"], told["mode"], told["problem"]) == ("claude", "2.1.0", "once", None)
    assert told["does"] == dict.fromkeys(trials.ASPECTS, False)


async def test_trying_belongs_to_the_agents(command: Any) -> None:
    code, out, err = await command("doctor", "--try")

    assert (code, out) == (2, "")
    assert "--try belongs to --agents" in err
