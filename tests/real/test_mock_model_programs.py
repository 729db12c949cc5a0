"""The real Claude Code and the real Codex work through whole tasks against the scripted model API."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from harness.sessions.mock_model import MockModel


def _claude() -> str | None:
    """On PATH, named by HARNESS_TEST_CLAUDE, or as it comes with the Python SDK."""
    if found := shutil.which("claude") or os.environ.get("HARNESS_TEST_CLAUDE"):
        return found
    sdk = importlib.util.find_spec("claude_agent_sdk")
    bundled = Path(sdk.origin).parent / "_bundled" / "claude" if sdk is not None and sdk.origin else None
    return str(bundled) if bundled is not None and bundled.exists() else None


CLAUDE = _claude()
CODEX = shutil.which("codex") or os.environ.get("HARNESS_TEST_CODEX") or None
pytestmark = [pytest.mark.real, pytest.mark.timeout(180)]
with_claude = pytest.mark.skipif(CLAUDE is None, reason="Claude Code is missing: npm install @anthropic-ai/claude-code")
with_codex = pytest.mark.skipif(CODEX is None, reason="Codex is missing: npm install @openai/codex")
WAIT_SECONDS = 60


class Rehearsed:
    """A real program in folders of its own, which knows no other model than the scripted one."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.work = root / "work"
        for name in ("work", "home", "tmp"):
            (root / name).mkdir()
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(root / "home"),
            "TMPDIR": str(root / "tmp"),
            "CLAUDE_CODE_TMPDIR": str(root / "tmp"),
            "CLAUDE_CONFIG_DIR": str(root / "home" / "claude"),
            "CODEX_HOME": str(root / "home"),
        }

    def claude(self, base: str, prompt: str, *more: str, **variables: str) -> tuple[int, list[Any]]:
        """Claude Code's exit code, and what it prints as JSON lines."""
        environment = {
            "ANTHROPIC_BASE_URL": base,
            "ANTHROPIC_API_KEY": "test-key",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            **variables,
        }
        flags = ["--output-format", "stream-json", "--verbose"]
        allowed = ["--permission-mode", "acceptEdits", "--allowedTools", "Bash,Write"]
        return self._run([str(CLAUDE), "-p", prompt, *flags, *allowed, *more], environment)

    def codex(self, base: str, prompt: str) -> tuple[int, list[Any]]:
        """Codex's exit code, and what it prints as JSON lines."""
        provider = f'{{name="scripted",base_url="{base}/v1",env_key="SCRIPTED_KEY",wire_api="responses"}}'
        settings = [f"model_providers.scripted={provider}", "model_provider=scripted", "analytics.enabled=false"]
        flags = ["--json", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox", "-m", "gpt-5.5-codex"]
        flags += [word for setting in settings for word in ("-c", setting)]
        return self._run([str(CODEX), "exec", *flags, prompt], {"SCRIPTED_KEY": "test-key"})

    def _run(self, command: list[str], environment: dict[str, str]) -> tuple[int, list[Any]]:
        done = subprocess.run(
            command,
            cwd=self.work,
            env={**self.environment, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=WAIT_SECONDS,
            check=False,
        )
        lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        assert lines, f"exit code {done.returncode}: {done.stderr[-2000:]}"
        return done.returncode, lines

    def files(self) -> dict[str, str]:
        return {path.name: path.read_text() for path in self.work.iterdir() if path.is_file()}


@pytest.fixture
def rehearsed(tmp_path: Path) -> Rehearsed:
    return Rehearsed(tmp_path)


def task(work: Path) -> list[dict[str, Any]]:
    """A task in every portable tool, several at once, with an overloaded provider on the way."""
    calls = [
        {"shell": "echo by shell > a.txt"},
        {"write": {"path": str(work / "b.txt"), "content": "two\nlines\n"}},
        {"write": {"path": str(work / "c.txt"), "content": "no end"}},
    ]
    return [
        {"thinking": "Three files.", "text": "I write them.", "tools": calls},
        {"tools": [{"read": str(work / "b.txt")}]},
        {"error": 529, "headers": {"retry-after": "0"}, "times": 2},
        {"text": "All files are there."},
    ]


WRITTEN = {"a.txt": "by shell\n", "b.txt": "two\nlines\n", "c.txt": "no end"}


@with_claude
def test_claude_code_works_through_a_task(rehearsed: Rehearsed) -> None:
    """Its own tools write the files, it tries again when the provider is overloaded, and it reports the scripted end."""
    with MockModel({"rules": [{"prompt": "write the files", "turns": task(rehearsed.work)}]}) as api:
        code, lines = rehearsed.claude(api.url, "Please write the files.")
        asked = api.wait_requests(5)

    assert (code, lines[-1]["type"], lines[-1]["result"]) == (0, "result", "All files are there.")
    assert rehearsed.files() == WRITTEN
    assert [call["name"] for call in asked[0].answer["calls"]] == ["Bash", "Write", "Write"]
    assert [line["error_status"] for line in lines if line.get("subtype") == "api_retry"] == [529, 529]
    assert [request.outcome for request in asked] == ["answered", "answered", "error 529", "error 529", "answered"]
    assert "test-key" not in str([request.headers for request in asked])


@with_codex
def test_codex_works_through_a_task(rehearsed: Rehearsed) -> None:
    """Its shell and its patches write the files; broken streams are tried again."""
    turns = task(rehearsed.work)
    broken = [{"text": "All files", "disconnect": "midstream"}, {"text": "All", "error": {"status": 500, "midstream": True}}]
    with MockModel({"rules": [{"prompt": "write the files", "turns": [*turns[:-1], *broken, turns[-1]]}]}) as api:
        code, lines = rehearsed.codex(api.url, "Please write the files.")
        asked = api.wait_requests(7)
    items = [line["item"] for line in lines if line["type"] == "item.completed"]

    assert (code, lines[-1]["type"], items[-1]["text"]) == (0, "turn.completed", "All files are there.")
    assert rehearsed.files() == WRITTEN
    assert [call["name"] for call in asked[0].answer["calls"]] == ["exec_command", "apply_patch", "exec_command"]
    assert [item["type"] for item in items if item["type"] in ("reasoning", "file_change")] == ["reasoning", "file_change"]
    assert asked[-1].turn == "rule 1 turn 3"


@with_claude
def test_claude_code_gives_up_on_what_it_cannot_use(rehearsed: Rehearsed) -> None:
    """A refused request fails the run with the scripted message; it is asked again only with fewer features."""
    with MockModel({"default": {"error": {"status": 400, "message": "refused as scripted"}}}) as api:
        code, lines = rehearsed.claude(api.url, "go")
        asked = api.requests

    assert (code, lines[-1]["is_error"], lines[-1]["api_error_status"]) == (1, True, 400)
    assert "refused as scripted" in lines[-1]["result"]
    assert {request.outcome for request in asked} == {"error 400"}
    assert len({request.headers["anthropic-beta"] + str(len(bytes(request.raw_body))) for request in asked}) == len(asked)


@with_claude
def test_claude_code_goes_on_with_a_session(rehearsed: Rehearsed) -> None:
    """A resumed session's new prompt is matched by its own rule, whatever was said before."""
    rules = [{"prompt": "first", "turns": [{"text": "one"}]}, {"prompt": "second", "turns": [{"text": "two"}]}]
    session = str(uuid.uuid4())
    with MockModel({"rules": rules}) as api:
        _, first = rehearsed.claude(api.url, "the first thing", "--session-id", session)
        _, second = rehearsed.claude(api.url, "the second thing", "--resume", session)

    assert (first[-1]["result"], second[-1]["result"]) == ("one", "two")


@with_claude
@with_codex
def test_programs_are_held_side_by_side(tmp_path: Path) -> None:
    """Both programs are busy for as long as their gates are shut, each in its own scenario."""
    worlds = {name: tmp_path / name for name in ("claude", "codex")}
    for world in worlds.values():
        world.mkdir()
    claude, codex = (Rehearsed(world) for world in worlds.values())
    turns = [{"tools": [{"shell": "echo done > d.txt"}], "hold": "work"}, {"text": "Ready."}]
    with MockModel({"scenarios": {"a": {"turns": turns}, "b": {"turns": turns}}}) as api, ThreadPoolExecutor(2) as pool:
        ends = [pool.submit(claude.claude, api.base("a"), "go"), pool.submit(codex.codex, api.base("b"), "go")]
        api.wait_held("work", count=2, timeout_seconds=WAIT_SECONDS)
        busy = [not end.done() for end in ends]
        api.release("work")
        codes = [end.result(timeout=WAIT_SECONDS)[0] for end in ends]

    assert (busy, codes) == ([True, True], [0, 0])
    assert claude.files() == codex.files() == {"d.txt": "done\n"}
