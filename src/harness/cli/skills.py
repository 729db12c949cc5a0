"""`harness skills`: teach agent programs to use this command line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.app import App
from harness.cli.options import Json
from harness.cli.output import json_line, line, plain, table
from harness.errors import HarnessError, UsageError

if TYPE_CHECKING:
    from harness.sessions.guide.skills import Outcome

app = App("Install skills that teach Claude Code and Codex to start, talk to and stop other agents.")

Names = Annotated[list[str] | None, typer.Argument(metavar="[NAMES]...", help="Which; all without any.", show_default=False)]
Local = Annotated[bool, typer.Option("--local", help="In this project's .claude and .codex instead of those at home.")]
Force = Annotated[bool, typer.Option("--force", help="Also where somebody has edited the skill.")]


@app.command()
def install(names: Names = None, local: Local = False, force: Force = False, as_json: Json = False) -> None:
    """Write the skills to .claude/skills, and link .codex/skills to them. Doing it again changes nothing.

    A skill that somebody edited is kept, unless --force; its text then stays beside it as SKILL.md.bak. Other names of
    theirs are understood too: dispatch and harness, chain-implement.

    \b
    Examples:
      harness skills install
      harness skills install harness-dispatch --local
    """
    from harness.sessions.guide import skills

    _tell(skills.install(_root(local), names or (), force=force), as_json)


@app.command()
def uninstall(names: Names = None, local: Local = False, force: Force = False, as_json: Json = False) -> None:
    """Remove the skills that install wrote, and nothing else.

    \b
    Examples:
      harness skills uninstall
    """
    from harness.sessions.guide import skills

    _tell(skills.uninstall(_root(local), names or (), force=force), as_json)


@app.command("list")
def list_(local: Local = False, as_json: Json = False) -> None:
    """List the skills, and how they stand: absent, installed, outdated, edited, not ours.

    \b
    Examples:
      harness skills list
      harness skills list --local --json
    """
    from harness.sessions.guide import skills

    found = skills.listing(_root(local))
    if as_json:
        json_line([{**_plain(each), "description": each.description, "aliases": each.aliases} for each in found])
        return
    rows = [(each.name, each.standing, ", ".join(each.aliases), each.path) for each in found]
    table(("skill", "state", "also called", "file"), rows, empty="there are no skills")


def _plain(each: object) -> dict[str, object]:
    names = ("name", "standing", "deed", "reason", "path")
    return {name: str(getattr(each, name)) for name in names if hasattr(each, name)}


def _tell(outcomes: list[Outcome], as_json: bool) -> None:
    """Say what was done; what was kept against the wish is an error."""
    if as_json:
        json_line([_plain(outcome) for outcome in outcomes])
    else:
        for outcome in outcomes:
            line(plain(f"{outcome.deed} {outcome.path}"))
    kept = [f"{outcome.path}: {outcome.reason}" for outcome in outcomes if outcome.deed == "kept"]
    if kept:
        raise HarnessError("kept as it is: " + "; ".join(kept))


def _root(local: bool) -> Path:
    """The folder that .claude and .codex are in: of the project, as git finds it, or the person's home."""
    if local:
        here = Path.cwd()
        marks = (".git", ".harness", "harness.toml")
        return next((folder for folder in (here, *here.parents) if any((folder / mark).exists() for mark in marks)), here)
    try:
        return Path.home()
    except RuntimeError as error:
        raise UsageError("nobody knows your home directory; set HOME, or use --local") from error
