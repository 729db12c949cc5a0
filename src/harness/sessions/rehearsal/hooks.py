"""The hooks that a rehearsed terminal program runs: given to it for this run, by `--settings` or `-c`, never its own."""

from __future__ import annotations

import json
import subprocess
import time
from typing import Any, cast

from harness.sessions.rehearsal.arguments import Arguments
from harness.sessions.rehearsal.stage import Journal, here

_SECONDS = 10.0

Payload = dict[str, Any]


class Hooks:
    """Commands by event, run as the real programs run them: JSON on stdin, an answer on stdout."""

    def __init__(self, commands: dict[str, list[str]], notify: list[str], journal: Journal) -> None:
        self._commands = commands
        self._notify = notify
        self._journal = journal

    @classmethod
    def of(cls, arguments: Arguments, journal: Journal) -> Hooks:
        """The hooks of a command line; what cannot be read is as if it were not there, which the journal tells."""
        given: Payload = {}
        notify: list[str] = []
        try:
            for text in arguments.values("--settings"):
                given |= _settings(text).get("hooks", {})
            for text in (*arguments.values("-c"), *arguments.values("--config")):
                told = _configuration(text)
                given |= told.get("hooks", {})
                notify = told.get("notify", notify)
        except (OSError, ValueError) as error:
            journal.note("bad-settings", error=str(error))
        return cls({event: list(_commands(groups)) for event, groups in given.items()}, notify, journal)

    def run(self, event: str, payload: Payload) -> None:
        """Run the event's hooks one after another and wait for each; what they answer is not asked for."""
        for command in self._commands.get(event, ()):
            process = self._start(command, event, payload)
            try:
                process.wait(_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def ask(self, event: str, payload: Payload) -> subprocess.Popen[bytes] | None:
        """Start the event's first hook, whose answer may take its time; None if there is none."""
        commands = self._commands.get(event, ())
        return self._start(commands[0], event, payload) if commands else None

    def tell(self, payload: Payload) -> None:
        """Run the `notify` program with the payload as its last argument, and do not wait."""
        if self._notify:
            self._journal.note("notify", told=payload)
            subprocess.Popen([*self._notify, json.dumps(payload)], stdin=subprocess.DEVNULL)

    def _start(self, command: str, event: str, payload: Payload) -> subprocess.Popen[bytes]:
        self._journal.note("hook", hook=event)
        process = subprocess.Popen(
            ["/bin/sh", "-c", command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps({"hook_event_name": event, "cwd": here(), **payload}).encode())
            process.stdin.close()
        except BrokenPipeError:  # it does not care what it is told
            time.sleep(0)
        return process


def decided(answer: bytes) -> str:
    """What a PermissionRequest hook says: allow, deny, or nothing."""
    try:
        told = json.loads(answer)
        return str(told["hookSpecificOutput"]["decision"]["behavior"])
    except (ValueError, TypeError, KeyError):
        return ""


def _settings(text: str) -> Payload:
    if not text.lstrip().startswith("{"):
        with open(text, encoding="utf-8") as file:  # noqa: PTH123 - pathlib would cost more time than all the rest
            text = file.read()
    return json.loads(text)


def _configuration(text: str) -> Payload:
    """One `-c key=value`; a value that is no TOML is a string."""
    import tomllib

    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        name, _, value = text.partition("=")
        return {name: value}


def _commands(groups: object) -> list[str]:
    found: list[str] = []
    for group in cast("list[Payload]", groups):
        found += [hook["command"] for hook in group.get("hooks", ()) if hook.get("type", "command") == "command"]
    return found
