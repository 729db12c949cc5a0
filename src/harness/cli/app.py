"""The tree of commands: which module holds which, loaded when it is asked for. It owns no behaviour."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from harness.cli import options
from harness.cli.coercion import plain


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A top-level command: where it lives and what the overview says about it."""

    section: str
    module: str
    help: str


COMMANDS = {
    "demo": Entry(section="Start", module="demo", help="Break a service and watch it heal, in a temporary home."),
    "init": Entry(section="Start", module="init", help="Write a commented harness.toml for this project."),
    "run": Entry(section="Start", module="processes", help="Start an agent program, or what this project declares."),
    "services": Entry(section="Look and act", module="services", help="List, start, stop, restart services; read their logs."),
    "checks": Entry(section="Look and act", module="checks", help="List, run, add and silence checks."),
    "tickets": Entry(section="Look and act", module="tickets", help="List, create, note, close, approve and deny tickets."),
    "questions": Entry(section="Look and act", module="questions", help="List, answer what people are asked; approve, deny."),
    "runs": Entry(section="Look and act", module="runs", help="List, show, pause, resume and cancel the kernel's runs."),
    "incident": Entry(section="Look and act", module="incident", help="Show, export and explain one incident."),
    "pause": Entry(section="Look and act", module="pause", help="Stop the agent from acting."),
    "unpause": Entry(section="Look and act", module="pause", help="Let the agent act again."),
    "chaos": Entry(section="Look and act", module="chaos", help="Break a service on purpose; it heals itself after a while."),
    "ledger": Entry(section="Prove", module="ledger", help="Verify and seal the record; replay, fork, compare runs."),
    "doctor": Entry(section="Prove", module="doctor", help="Check this machine and this home."),
    "web": Entry(section="Single processes", module="processes", help="The HTTP API and the dashboard alone."),
    "monitor": Entry(section="Single processes", module="processes", help="The monitor alone."),
    "agent": Entry(section="Single processes", module="processes", help="The agent alone."),
    "service": Entry(section="Single processes", module="processes", help="The demo's rate limiter alone."),
    "status": Entry(section="Agent sessions", module="status", help="List agent programs that run; what each does."),
    "send": Entry(section="Agent sessions", module="session_messages", help="Send an agent a message; wait for it."),
    "wait": Entry(section="Agent sessions", module="session_control", help="Wait for its exit, prompt or finished task."),
    "stop": Entry(section="Agent sessions", module="session_control", help="End a session with all its processes."),
    "attach": Entry(section="Agent sessions", module="session_output", help="Sit down at its terminal."),
    "pane": Entry(section="Agent sessions", module="session_output", help="Print what its window shows."),
    "logs": Entry(section="Agent sessions", module="session_output", help="Print what it wrote."),
    "events": Entry(section="Agent sessions", module="session_output", help="Print what happened, as JSON lines."),
    "inbox": Entry(section="Agent sessions", module="session_messages", help="List and drop messages that wait for it."),
    "approve": Entry(section="Agent sessions", module="session_control", help="Let it do what it asks leave for."),
    "deny": Entry(section="Agent sessions", module="session_control", help="Forbid what it asks leave for."),
    "why": Entry(section="Agent sessions", module="why", help="Say why a session is in its state."),
    "gc": Entry(section="Agent sessions", module="session_gc", help="Remove the files of sessions that ended long ago."),
    "guide": Entry(section="Learn", module="guide", help="How to start, talk to, watch and stop agent programs."),
    "recipes": Entry(section="Learn", module="guide", help="Ways of working with them, from start to end."),
    "skills": Entry(section="Learn", module="skills", help="Teach Claude Code and Codex to use this command line."),
    "mock-model": Entry(section="Rehearse", module="mock_model", help="A scripted model API for real agent programs."),
    "rehearse": Entry(section="Rehearse", module="rehearse", help="Run an agent program that misbehaves on demand."),
    "completion": Entry(section="Shell", module="completion", help="Print the completion script of a shell."),
}


class ReaderGone(Exception):
    """Whoever read our output has what they wanted, as with `| head`."""


class Command(TyperCommand):
    """A command whose options are read without pydantic."""

    def get_params(self, ctx: Any) -> Any:
        return plain(super().get_params(ctx))


class Group(TyperGroup):
    """A group of commands whose options are read without pydantic."""

    def get_params(self, ctx: Any) -> Any:
        return plain(super().get_params(ctx))


class App(typer.Typer):
    """Commands in the house's manner: plain help, no tracebacks, `-h`."""

    def __init__(self, help_text: str | None = None, *, cls: type[TyperGroup] = Group) -> None:
        told: dict[str, Any] = {} if help_text is None else {"help": help_text}
        super().__init__(
            **told,
            cls=cls,
            no_args_is_help=True,
            add_completion=False,
            rich_markup_mode=None,
            pretty_exceptions_enable=False,
            context_settings={"help_option_names": ["-h", "--help"]},
        )

    def command(self, name: str | None = None, *, cls: type[TyperCommand] | None = None, **options: Any) -> Any:
        """Register a command."""
        return super().command(name, cls=cls or Command, **options)


class Commands(Group):
    """The root: knows every command by name and loads only the one that is asked for."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:  # typer would call it a failure
            raise ReaderGone from error

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return load(cmd_name) if cmd_name in COMMANDS else None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            near = get_close_matches(args[0], COMMANDS, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else " See 'harness --help'."
            ctx.fail(f"No such command {args[0]!r}.{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        for section in dict.fromkeys(entry.section for entry in COMMANDS.values()):
            with formatter.section(section):
                formatter.write_dl([(name, entry.help) for name, entry in COMMANDS.items() if entry.section == section])


def load(name: str) -> TyperCommand | TyperGroup:
    """The command or group of this name, ready to run."""
    module = import_module(f"harness.cli.{COMMANDS[name].module}")
    built: Any = typer.main.get_command(module.app)
    return built.commands[name] if name in getattr(built, "commands", {}) else built


COMPLETING = "_HARNESS_COMPLETE"

app = App(cls=Commands)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"harness {version('agentharness')}")
        raise typer.Exit


@app.callback()
def root(
    home: Annotated[Path | None, typer.Option(help="Where state lives, instead of .harness in this project.")] = None,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")] = False,
) -> None:
    """Runs AI agents nobody is watching, and can prove afterwards what they did.

    \b
    Examples:
      harness demo                 break a service and watch it heal
      harness run                  start what this project declares
      harness tickets list         what is being worked on
      harness ledger verify        prove that history was not changed
    """
    options.remember_home(home)


def run(words: list[str]) -> int:
    """Run one command line through typer; gives the exit code."""
    command: Any = typer.main.get_command(app)
    if COMPLETING in os.environ:
        completion: Any = import_module("typer.completion")
        completion.completion_init()
    try:
        command.main(args=words, prog_name="harness")
    except ReaderGone as gone:
        raise BrokenPipeError from gone
    except SystemExit as end:
        sys.stdout.flush()
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0
