"""Asking agent programs what they can do: small scripts stand in for them, so that every answer can be had."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from harness.processes import find
from harness.sessions import probing
from harness.sessions.probing import probe_program, probe_programs
from harness.sessions.rehearsal.catalogue import REHEARSALS, install

CLAUDE_HELP = """
  --print  --output-format <format>  text, json, stream-json  --input-format <format>
  --replay-user-messages  --permission-mode <mode>  --resume [value]  --session-id <uuid>  --max-budget-usd <amount>
"""


def program(folder: Path, script: str, name: str = "claude") -> str:
    """A program that does this."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def answering(help_: str, more: str = "") -> str:
    return f"""
case $1 in
--version) echo '2.1.0 (Claude Code)';;
--help) cat <<'END'
{help_}
END
;;
{more}
*) exit 2;;
esac
"""


async def test_what_the_help_names_is_found_and_nothing_else(tmp_path: Path) -> None:
    """A flag that only begins like another is none of it."""
    path = program(tmp_path, answering(CLAUDE_HELP.replace("--input-format", "--input-formatter")))

    probed = await probe_program("claude", path)

    assert (probed.version, probed.problem) == ("2.1.0", "")
    assert probed.modes == ("pty", "once")
    assert probed.lacks == ("mode stream", "hooks", "approvals")


async def test_codex_is_asked_for_the_schema_of_its_protocol(tmp_path: Path) -> None:
    """What it can be asked, what it asks and what it tells are in three files."""
    schema = """
app-server)
    mkdir -p "$4"
    echo '{"enum": ["thread/start", "turn/start", "turn/steer", "thread/resume"]}' >"$4/ClientRequest.json"
    echo '{"enum": ["thread/status/changed", "thread/tokenUsage/updated"]}' >"$4/ServerNotification.json"
;;"""
    path = program(tmp_path, answering("exec --no-daemon --ask-for-approval --config", schema), "codex")

    probed = await probe_program("codex", path)

    assert set(probed.modes) == {"app-server", "pty", "once"}
    assert probed.lacks == ("approvals", "interrupt", "limits")


@pytest.mark.parametrize(
    ("script", "problem"),
    [("exit 1", "it does not tell its version"), ("sleep 1000", "`claude --version` has not ended within 0.3 s")],
)
async def test_a_program_that_does_not_answer_is_told(
    script: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In bounded time, and nothing of it is left."""
    monkeypatch.setattr(probing, "PATIENCE_SECONDS", 0.3)

    probed = await probe_program("claude", program(tmp_path, script))

    assert (probed.version, probed.found, probed.problem) == ("", (), problem)
    assert find(f"probe/claude/{os.getpid()}") == []


async def test_a_program_that_is_none_is_told(tmp_path: Path) -> None:
    """Also one that cannot be started."""
    path = tmp_path / "claude"
    path.write_text("not a program")

    probed = await probe_program("claude", str(path))

    assert str(path) in probed.problem


async def test_nothing_of_the_users_is_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program writes into the home that it is given, which is another one; keys are not passed on."""
    home = tmp_path / "home"
    home.mkdir()
    for name in ("HOME", "CLAUDE_CONFIG_DIR", "CODEX_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(home))
    monkeypatch.setenv("ANTHROPIC_API_KEY", "secret")
    told = tmp_path / "told"
    script = f'env >>{told}; for d in "$HOME" "$CLAUDE_CONFIG_DIR" "$CODEX_HOME" "$XDG_CONFIG_HOME"; do touch "$d/x"; done\n'

    probed = await probe_program("claude", program(tmp_path / "bin", script + answering(CLAUDE_HELP)))

    assert probed.problem == ""
    assert list(home.iterdir()) == []
    assert "secret" not in told.read_text()


async def test_those_on_path_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing one is left out; a rehearsed one tells its version like the real one."""
    folder = tmp_path / "bin"
    install(REHEARSALS["codex"], [], folder)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    (probed,) = await probe_programs()

    assert (probed.program, probed.path, probed.version != "") == ("codex", str(folder / "codex"), True)
