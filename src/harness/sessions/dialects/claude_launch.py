"""How Claude Code is started: arguments and environment for each mode. Pure; starts nothing.

What the user gives wins: a flag that is among the agent's own arguments is not given a second time, and no flag that
lifts permissions is ever added. Flags as of Claude Code 2.1.329.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from harness.errors import UsageError
from harness.sessions.facts import Mode

STATE_EVENTS: Mapping[str, str] = {"CLAUDE_CODE_EMIT_SESSION_STATE_EVENTS": "1"}
"""Makes the program say when it is idle, running, or waits for an answer."""

_SAME = {"-p": "--print", "-r": "--resume", "-c": "--continue"}
_CONTINUES = frozenset({"--resume", "--continue", "--session-id", "--fork-session", "--from-pr", "--teleport"})
_FORMATS = {
    Mode.STREAM: (("--input-format", "stream-json"), ("--output-format", "stream-json")),
    Mode.ONCE: (("--output-format", "stream-json"),),
}


class CommandLine(msgspec.Struct, frozen=True, kw_only=True):
    """What to run. `env` is added to the environment; `vendor_session` is the session's id if it is known beforehand."""

    argv: tuple[str, ...]
    env: Mapping[str, str] = msgspec.field(default_factory=dict[str, str])
    vendor_session: str = ""


class Wishes(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of the program beside its own arguments. Empty: whatever it does by itself."""

    prompt: str = ""  # as an argument; never in mode `stream`, which is sent its messages
    session: str = ""  # a UUID: the id that a new session shall have
    resume: str = ""  # the id of the session to continue
    model: str = ""
    permission_mode: str = ""
    max_turns: int | None = None  # of the model within one turn of ours; `stream` counts anew for each message
    max_budget_usd: float | None = None
    settings: Path | None = None  # with the hooks of a session at a terminal


def command_line(mode: Mode, *, program: str, agent_args: Sequence[str] = (), wishes: Wishes | None = None) -> CommandLine:
    """The command line of a mode. Raises `UsageError` for what the mode or the arguments do not allow."""
    wishes = wishes or Wishes()
    given = _given(agent_args)
    _check(mode, agent_args, given, wishes)
    ours: list[str] = []
    for flag, value in (*_of_mode(mode), *_of_wishes(mode, wishes)):
        if flag not in given and not (flag in ("--session-id", "--resume") and given.keys() & _CONTINUES):
            ours += [flag] if value is None else [flag, value]
    prompt = ("--", wishes.prompt) if wishes.prompt else ()  # not without `--`: a list of tools before it would swallow it
    return CommandLine(
        argv=(program, *ours, *agent_args, *prompt),
        env={} if mode is Mode.PTY else STATE_EVENTS,
        vendor_session=_session(given, wishes),
    )


def _of_mode(mode: Mode) -> list[tuple[str, str | None]]:
    if mode is Mode.PTY:
        return []
    flags: list[tuple[str, str | None]] = [("--print", None), *_FORMATS[mode], ("--verbose", None)]
    if mode is Mode.STREAM:
        flags += [("--permission-prompt-tool", "stdio"), ("--replay-user-messages", None)]
    return flags


def _of_wishes(mode: Mode, wishes: Wishes) -> list[tuple[str, str | None]]:
    flags: list[tuple[str, str | None]] = []
    if wishes.resume:
        flags.append(("--resume", wishes.resume))
    elif wishes.session:
        flags.append(("--session-id", wishes.session))
    if wishes.model:
        flags.append(("--model", wishes.model))
    if wishes.permission_mode:
        flags.append(("--permission-mode", wishes.permission_mode))
    if wishes.settings is not None:
        flags.append(("--settings", str(wishes.settings)))
    if wishes.max_turns is not None and mode is not Mode.PTY:
        flags.append(("--max-turns", str(wishes.max_turns)))
    if wishes.max_budget_usd is not None and mode is not Mode.PTY:
        flags.append(("--max-budget-usd", f"{wishes.max_budget_usd:g}"))
    return flags


def _given(agent_args: Sequence[str]) -> dict[str, str]:
    """The flags among the agent's arguments, with what may be their value."""
    given: dict[str, str] = {}
    for place, argument in enumerate(agent_args):
        if argument == "--":
            break
        if argument.startswith("-"):
            name, equals, value = argument.partition("=")
            follows = agent_args[place + 1] if place + 1 < len(agent_args) else ""
            given[_SAME.get(name, name)] = value if equals else follows
    if "--permission-prompts" in given:  # who answers is said: nobody, or somebody of the user's own
        given.setdefault("--permission-prompt-tool", "")
    return given


def _check(mode: Mode, agent_args: Sequence[str], given: Mapping[str, str], wishes: Wishes) -> None:
    if mode is Mode.APP_SERVER:
        raise UsageError("claude has no app server; its modes are stream, pty and once")
    for flag, needed in _FORMATS.get(mode, ()):
        if given.get(flag, needed) != needed:
            raise UsageError(f"mode {mode} needs {flag} {needed}, not {given[flag]!r}; leave it out, or use --mode pty")
    if mode is Mode.PTY and "--print" in given:
        raise UsageError("with --print claude has no terminal; leave it out, or use --mode once")
    prompted = wishes.prompt or "--" in agent_args or (given.get("--print") or "-")[0] != "-"  # `-p PROMPT`
    if mode is Mode.STREAM and prompted:
        raise UsageError("in mode stream claude reads no prompt from its arguments; give it as --context, or send it")
    if wishes.prompt and "--" in agent_args:
        raise UsageError("two prompts: one as --context and one after '--'; leave out one of them")
    if wishes.permission_mode == "bypassPermissions":
        raise UsageError(
            "permissions are lifted only by an argument of the agent's own: -- --permission-mode bypassPermissions"
        )


def _session(given: Mapping[str, str], wishes: Wishes) -> str:
    """The session's id, if it can be told from the arguments. A fork has another id than what it continues."""
    if "--session-id" in given:
        return given["--session-id"]
    if "--fork-session" in given or given.keys() & {"--continue", "--from-pr", "--teleport"}:
        return ""
    if "--resume" in given:
        return given["--resume"] if _is_uuid(given["--resume"]) else ""
    return wishes.resume or wishes.session


def _is_uuid(text: str) -> bool:
    parts = text.split("-")
    return [len(part) for part in parts] == [8, 4, 4, 4, 12] and all(c in "0123456789abcdefABCDEF" for c in "".join(parts))
