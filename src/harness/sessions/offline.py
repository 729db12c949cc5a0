"""Real agent programs without the internet and without spending: homes of their own, and a model that says what is wanted.

Owns how each known program is told to use the scripted model, and the words by which it is made to do something: a message
that ends with `works one` makes it run a command, `asks one` makes it ask leave for one, and so on; see `VERBS`.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import UsageError
from harness.sessions.facts import Mode

if TYPE_CHECKING:
    from harness.sessions.mock_model import Received

VERBS: Mapping[str, str] = {
    "says": "answers",
    "works": "runs a command, and answers",
    "holds": "is in a turn until the gate of the word is opened",
    "asks": "asks leave for a command that makes a file of the word's name",
    "retries": "meets a failure of its provider that it tries again",
    "refused": "has its request refused by the provider",
    "limited": "runs into a usage limit",
}
LIMIT_SECONDS = 3600
_THEIRS = ("CLAUDE", "ANTHROPIC", "CODEX", "OPENAI", "HARNESS_")
_KEY = "test-key"
_PLAN_TOKEN = "sk-ant-oat01-test"  # noqa: S105 - what says that a plan pays, which has limits; it opens nothing
_MANY = 9  # attempts


class Offline:
    """One known program with a home of its own below a folder. `plan`: Claude Code is paid by a plan rather than by key."""

    def __init__(self, program: str, folder: Path, *, cwd: Path, url: str, plan: bool = False) -> None:
        """Writes its settings. Raises `UsageError` for a program that is not known."""
        if program not in ("claude", "codex"):
            raise UsageError(f"{program!r} is not one of the programs that can be run offline: claude, codex")
        self.program = program
        self._folder = folder
        self._url = url
        self._plan = plan
        self._home.mkdir(parents=True, exist_ok=True)
        (folder / "t").mkdir(exist_ok=True)
        if program == "claude":
            self._settle_claude(cwd)
        else:
            self._settle_codex(cwd)

    @property
    def _home(self) -> Path:
        return self._folder / "h"

    @property
    def environment(self) -> dict[str, str]:
        """This process's, without what would lead a program elsewhere."""
        rest = {name: value for name, value in os.environ.items() if not name.startswith(_THEIRS)}
        temporary = str(self._folder / "t")
        known = {"HOME": str(self._home), "TMPDIR": temporary, "TERM": "xterm-256color"}
        return rest | known | (self._claude(temporary) if self.program == "claude" else self._codex())

    def _claude(self, temporary: str) -> dict[str, str]:
        return {
            "CLAUDE_CONFIG_DIR": str(self._home / ".claude"), "CLAUDE_CODE_TMPDIR": temporary, "ANTHROPIC_BASE_URL": self._url,
            "CLAUDE_CODE_MAX_RETRIES": "1", "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "DISABLE_AUTOUPDATER": "1",
            **({"CLAUDE_CODE_OAUTH_TOKEN": _PLAN_TOKEN} if self._plan else {"ANTHROPIC_API_KEY": _KEY}),
        }  # fmt: skip

    def _codex(self) -> dict[str, str]:
        return {"CODEX_HOME": str(self._home / ".codex"), "SCRIPTED_KEY": _KEY}

    def arguments(self, mode: Mode) -> tuple[str, ...]:
        """The program's own, for it to ask leave for whatever is not `echo`."""
        if self.program == "codex":
            return ("--skip-git-repo-check",) if mode is Mode.ONCE else ()
        return ("--allowedTools", "Bash(echo:*)", "--permission-mode", "default")

    def script(self, words: Sequence[str]) -> dict[str, Any]:
        """What the model answers to each verb with each of these words."""
        rules = [rule for word in words for rule in self._rules(word)]
        return {"rules": rules, "default": {"text": "Heard."}}

    def _rules(self, word: str) -> list[dict[str, Any]]:
        def on(verb: str, *turns: Mapping[str, Any]) -> dict[str, Any]:
            return {"prompt": rf"{verb} {word}\s*$", "turns": list(turns)}

        call = {"tools": [{"shell": f"echo {word}"}]}
        return [
            on("says", {"text": "Heard."}),
            on("works", call, {"text": "Did it."}),
            on("holds", call, {**call, "hold": word}, {"text": "Went on."}),
            on("asks", {"tools": [self._asking(f"touch {word}")]}, {"text": "Asked."}),
            on("retries", self._failing(), {"text": "Recovered."}),
            on("refused", {"error": {"status": 400, "message": "that is not possible"}, "times": _MANY}),
            on("limited", {**self._limiting(), "times": _MANY}),
        ]

    def _asking(self, command: str) -> dict[str, Any]:
        if self.program == "claude":
            return {"shell": command}
        wanted = {"cmd": command, "sandbox_permissions": "require_escalated", "justification": "it must be"}
        return {"name": "exec_command", "input": wanted}

    def _failing(self) -> dict[str, Any]:
        """Codex tries a status again without a word, and says so of a stream that breaks."""
        return {"error": 529} if self.program == "claude" else {"text": "half of it", "disconnect": "midstream"}

    def _limiting(self) -> dict[str, Any]:
        resets = str(int(time.time()) + LIMIT_SECONDS)
        if self.program == "claude":
            headers = {
                "anthropic-ratelimit-unified-status": "rejected", "anthropic-ratelimit-unified-reset": resets,
                "anthropic-ratelimit-unified-representative-claim": "five_hour", "x-should-retry": "false",
            }  # fmt: skip
            return {"error": 429, "headers": headers}
        headers = {
            "x-codex-primary-used-percent": "100.0", "x-codex-primary-window-minutes": "300",
            "x-codex-primary-reset-at": resets,
        }  # fmt: skip
        return {"error": {"status": 429, "type": "usage_limit_reached", "message": "limit"}, "headers": headers}

    def _settle_claude(self, cwd: Path) -> None:
        """As if a person had been asked all that it asks at its first start."""
        answered = {
            "hasCompletedOnboarding": True, "theme": "dark", "customApiKeyResponses": {"approved": [_KEY]},
            "projects": {str(cwd): {"hasTrustDialogAccepted": True}},
        }  # fmt: skip
        config = self._home / ".claude"
        config.mkdir(exist_ok=True)
        (config / ".claude.json").write_text(json.dumps(answered), encoding="utf-8")

    def _settle_codex(self, cwd: Path) -> None:
        config = self._home / ".codex"
        config.mkdir(exist_ok=True)
        settings = f"""\
model = "gpt-5.5-codex"
model_provider = "scripted"
approval_policy = "on-request"
sandbox_mode = "read-only"
analytics.enabled = false

[model_providers.scripted]
name = "scripted"
base_url = {json.dumps(f"{self._url}/v1")}
env_key = "SCRIPTED_KEY"
wire_api = "responses"
request_max_retries = 1
stream_max_retries = 1

[projects.{json.dumps(str(cwd))}]
trust_level = "trusted"
"""
        (config / "config.toml").write_text(settings, encoding="utf-8")


def heard(requests: Sequence[Received], text: str) -> int:
    """How often this text was said in the conversation as the model was sent it last."""
    asked = [request for request in requests if request.main]
    return sum(part.count(text) for part in _said(asked[-1].body)) if asked else 0


def _said(body: Mapping[str, Any]) -> list[str]:
    """What was said to the model; a message that joined a turn may come in the program's own words."""
    found: list[str] = []
    messages: Sequence[Mapping[str, Any]] = body.get("messages") or body.get("input") or ()
    for message in messages:
        content: Any = message.get("content") if message.get("role") in ("user", "system") else None
        blocks: Sequence[Any] = [content] if isinstance(content, str) else content or ()
        found += [block if isinstance(block, str) else str(block.get("text", "")) for block in blocks]
    return found
