"""How Codex is started: arguments for each mode, and what the app-server is asked for. Pure; starts nothing.

What the user gives wins: our settings come before the user's, and the last one counts. No flag that lifts approvals or the
sandbox is ever added. Flags as of codex-cli 0.169.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath

import msgspec

from harness.errors import UsageError
from harness.sessions.dialects.codex.options import ThreadOptions
from harness.sessions.facts import Mode

_SAME = {
    "-c": "--config", "-m": "--model", "-p": "--profile", "-s": "--sandbox", "-C": "--cd", "-i": "--image",
    "-a": "--ask-for-approval", "-o": "--output-last-message", "-h": "--help", "-V": "--version",
    "--yolo": "--dangerously-bypass-approvals-and-sandbox",
}  # fmt: skip
_VALUED = frozenset({
    "--config", "--enable", "--disable", "--remote", "--remote-auth-token-env", "--image", "--model", "--local-provider",
    "--profile", "--sandbox", "--cd", "--add-dir", "--ask-for-approval", "--thread-source", "--cyber-access-program",
    "--output-schema", "--color", "--output-last-message",
})  # fmt: skip
_SWITCHES = frozenset({
    "--oss", "--strict-config", "--approve-for-me", "--dangerously-bypass-approvals-and-sandbox", "--search",
    "--dangerously-bypass-hook-trust", "--worktree", "--no-alt-screen", "--no-daemon", "--skip-git-repo-check", "--trust",
    "--ephemeral", "--ignore-user-config", "--ignore-rules", "--json", "--help", "--version", "--last", "--all",
})  # fmt: skip
_COMMANDS = frozenset({
    "agents", "exec", "e", "review", "login", "logout", "mcp", "plugin", "app-server", "remote-control", "completion", "update",
    "doctor", "sandbox", "debug", "apply", "a", "resume", "queue", "archive", "delete", "migrate-rollouts", "unarchive", "fork",
    "cloud", "exec-server", "features", "help", "proto", "mcp-server",
})  # fmt: skip
_BEFORE_EXEC = frozenset({"--ask-for-approval", "--search", "--no-alt-screen"})
"""Flags of the interactive program, which `codex exec` takes only before its own name."""
_OF_SERVER = frozenset({"--config", "--enable", "--disable", "--strict-config"})
_IGNORED_BY_SERVER = frozenset({"--no-alt-screen", "--no-daemon", "--json", "--skip-git-repo-check"})


class CommandLine(msgspec.Struct, frozen=True, kw_only=True):
    """What to run. `vendor_session` is the thread's id if it is known beforehand; `thread` is for the app-server's dialect."""

    argv: tuple[str, ...]
    vendor_session: str = ""
    thread: ThreadOptions = ThreadOptions()
    model: str = ""


class Wishes(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of the program beside its own arguments. Empty: whatever its configuration says."""

    prompt: str = ""  # as an argument; never in mode `app-server`, which is sent its messages
    resume: str = ""  # the id of the thread to continue
    cwd: str = ""  # of the thread, which would otherwise go on where it was
    model: str = ""
    approval_policy: str = ""  # on-request, never
    sandbox: str = ""  # read-only, workspace-write, danger-full-access
    overrides: tuple[str, ...] = ()  # `key=value`, for this session only; the value is TOML


class _Arguments(msgspec.Struct, frozen=True, kw_only=True):
    """The agent's own arguments, taken apart: flags with their values, and the rest."""

    flags: tuple[tuple[str, ...], ...]  # as they were given, each with its value
    names: tuple[str, ...]  # their long names, in the same order
    words: tuple[str, ...]  # what is no flag: a command or a prompt
    strange: str = ""  # a flag that is not known, with which taking apart ended
    rest: tuple[str, ...] = ()  # from there on, and from `--` on

    def value(self, name: str) -> str:
        """The last value that a flag was given; empty if it was not."""
        values = (flag[-1].partition("=")[2] if len(flag) == 1 else flag[-1] for flag in self._of(name))
        return list(values)[-1] if name in self.names else ""

    def values(self, name: str) -> tuple[str, ...]:
        """All its values."""
        return tuple(flag[-1].partition("=")[2] if len(flag) == 1 else flag[-1] for flag in self._of(name))

    def all_of(self, *names: str) -> tuple[str, ...]:
        """The arguments that are these flags and their values, in order."""
        return tuple(part for flag, name in zip(self.flags, self.names, strict=True) if name in names for part in flag)

    def all_but(self, *names: str) -> tuple[str, ...]:
        """The arguments that are other flags and their values, in order."""
        return tuple(part for flag, name in zip(self.flags, self.names, strict=True) if name not in names for part in flag)

    def _of(self, name: str) -> tuple[tuple[str, ...], ...]:
        return tuple(flag for flag, each in zip(self.flags, self.names, strict=True) if each == name)


def command_line(mode: Mode, *, program: str, agent_args: Sequence[str] = (), wishes: Wishes | None = None) -> CommandLine:
    """The command line of a mode. Raises `UsageError` for what the mode or the arguments do not allow."""
    wishes = wishes or Wishes()
    given = _taken_apart(agent_args)
    match mode:
        case Mode.APP_SERVER:
            return _server(program, given, wishes)
        case Mode.ONCE:
            return _once(program, given, wishes)
        case Mode.PTY:
            return _terminal(program, agent_args, given, wishes)
        case Mode.STREAM:
            raise UsageError("codex has no mode stream; its modes are app-server, pty and once")


def _server(program: str, given: _Arguments, wishes: Wishes) -> CommandLine:
    """The app-server takes settings only; what a flag of the other modes means, it is asked for."""
    if given.strange or given.rest:
        raise UsageError(f"codex app-server does not take {(given.strange or given.rest[0])!r}; use --mode pty or --mode once")
    if given.words:
        raise UsageError(
            f"codex app-server takes no command and no prompt as an argument ({given.words[0]!r}); give the prompt as "
            "--context, or send it"
        )
    asked = {"--model", "--sandbox", "--ask-for-approval", "--cd", "--add-dir", "--ephemeral", "--approve-for-me"}
    asked.add("--dangerously-bypass-approvals-and-sandbox")
    strange = [name for name in given.names if name not in asked | _OF_SERVER | _IGNORED_BY_SERVER]
    if strange:
        raise UsageError(f"codex app-server does not take {strange[0]}; use --mode pty or --mode once")
    free = "--dangerously-bypass-approvals-and-sandbox" in given.names
    reviewed = "--approve-for-me" in given.names
    policy = given.value("--ask-for-approval") or ("never" if free else "on-request" if reviewed else "")
    sandbox = given.value("--sandbox") or ("danger-full-access" if free else "workspace-write" if reviewed else "")
    model = given.value("--model") or wishes.model
    base = PurePath(wishes.cwd)
    thread = ThreadOptions(
        cwd=str(base / given.value("--cd")) if wishes.cwd or given.value("--cd") else "", resume=wishes.resume, model=model,
        approval_policy=policy or wishes.approval_policy, sandbox=sandbox or wishes.sandbox,
        roots=tuple(str(base / each) for each in given.values("--add-dir")), ephemeral="--ephemeral" in given.names,
        reviewer="auto_review" if reviewed else "",
    )  # fmt: skip
    return CommandLine(
        argv=(program, "app-server", *_settings(wishes.overrides), *given.all_of(*_OF_SERVER)),
        vendor_session=wishes.resume, thread=thread, model=model,
    )  # fmt: skip


def _once(program: str, given: _Arguments, wishes: Wishes) -> CommandLine:
    """`codex exec`: its flags stand before `resume`, which takes fewer; the prompt stands last, whatever it begins with."""
    if given.words and given.words[0] in _COMMANDS:
        raise UsageError(f"--mode once runs codex exec by itself; leave out {given.words[0]!r}, or use --mode pty")
    words = given.words + given.rest[1:] if given.rest[:1] == ("--",) else given.words
    strange = () if given.rest[:1] == ("--",) else given.rest
    prompts = [*words, *([wishes.prompt] if wishes.prompt else [])]
    if len(prompts) > 1:
        raise UsageError(f"two prompts: {prompts[0][:60]!r} and {prompts[1][:60]!r}; leave out one of them")
    if prompts[:1] in ([], ["-"], [""]) and not strange:
        raise UsageError("codex exec needs a prompt: give it as --context, or after '--'")
    ours = [*_settings(wishes.overrides)]
    for flag, value in (("--model", wishes.model), ("--sandbox", wishes.sandbox)):
        ours += [flag, value] if value and flag not in given.names else []
    policy = _settings((f'approval_policy="{wishes.approval_policy}"',)) if wishes.approval_policy else ()
    resume = ("resume", wishes.resume) if wishes.resume else ()
    last = ("--", *prompts) if prompts else ()
    return CommandLine(
        argv=(
            program, *given.all_of(*_BEFORE_EXEC), "exec", "--json", *policy, *ours, *given.all_but(*_BEFORE_EXEC, "--json"),
            *strange, *resume, *last,
        ),
        vendor_session=wishes.resume, model=given.value("--model") or wishes.model,
    )  # fmt: skip


def _terminal(program: str, agent_args: Sequence[str], given: _Arguments, wishes: Wishes) -> CommandLine:
    """The interactive program, without the server that it would leave running.

    `--no-daemon` rather than `features.daemon_auto_start=false`: where a server runs already, that setting makes the program
    stop at a question at its start.
    """
    command = given.words[:1] if given.words[:1] and given.words[0] in _COMMANDS else ()
    alone = () if {"--no-daemon", "--remote"} & set(given.names) else ("--no-daemon",)
    ours = [*alone, *_settings(wishes.overrides)]
    for flag, value in (
        ("--model", wishes.model), ("--sandbox", wishes.sandbox), ("--ask-for-approval", wishes.approval_policy),
    ):  # fmt: skip
        ours += [flag, value] if value and flag not in given.names else []
    if command and (wishes.resume or wishes.prompt):
        raise UsageError(f"the agent's arguments have a command of their own ({command[0]!r}); leave it out")
    if wishes.prompt and (given.words or "--" in given.rest):
        raise UsageError("two prompts: one as --context and one among the agent's arguments; leave out one of them")
    prompt = ("--", wishes.prompt) if wishes.prompt else ()
    if not wishes.resume:
        return CommandLine(argv=(program, *ours, *agent_args, *prompt), model=given.value("--model") or wishes.model)
    options = (*given.all_but(), *(given.rest if given.rest[:1] != ("--",) else ()))
    words = given.words + (given.rest[1:] if given.rest[:1] == ("--",) else ())
    last = prompt or (("--", *words) if words else ())
    return CommandLine(
        argv=(program, "resume", *ours, *options, wishes.resume, *last), vendor_session=wishes.resume,
        model=given.value("--model") or wishes.model,
    )  # fmt: skip


def _settings(overrides: Sequence[str]) -> tuple[str, ...]:
    return tuple(part for override in overrides for part in ("-c", override))


def _taken_apart(arguments: Sequence[str]) -> _Arguments:
    """Flags, their values and the rest. A flag that is not known may have a value, so nothing behind it can be told apart."""
    flags: list[tuple[str, ...]] = []
    names: list[str] = []
    words: list[str] = []
    place = 0
    while place < len(arguments):
        argument = arguments[place]
        name, equals, _ = argument.partition("=")
        long = _SAME.get(name, name)
        if argument == "--" or (argument.startswith("-") and argument != "-" and long not in _VALUED | _SWITCHES):
            strange = "" if argument == "--" else argument
            return _Arguments(
                flags=tuple(flags), names=tuple(names), words=tuple(words), strange=strange, rest=tuple(arguments[place:])
            )
        if not argument.startswith("-") or argument == "-":
            words.append(argument)
            place += 1
            continue
        takes = long in _VALUED and not equals
        flags.append(tuple(arguments[place : place + (2 if takes else 1)]))
        names.append(long)
        place += 2 if takes else 1
    return _Arguments(flags=tuple(flags), names=tuple(names), words=tuple(words))
