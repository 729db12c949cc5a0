"""`harness rehearse`: run an agent program that misbehaves on demand."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from harness.cli.app import App
from harness.cli.options import Json
from harness.cli.output import json_line, line, table

app = App("Run an agent program that misbehaves on demand.")

Name = Annotated[str | None, typer.Argument(metavar="NAME", help="Which one; --list tells what there is.", show_default=False)]
Install = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="Write it to this folder as a program, instead of running it.")
]


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def rehearse(
    ctx: typer.Context,
    name: Name = None,
    listed: Annotated[bool, typer.Option("--list", help="List them and what they do.")] = False,
    install: Install = None,
    as_json: Json = False,
) -> None:
    """Run an agent program that misbehaves on demand, and calls no model. All other options are its own.

    \b
    Examples:
      harness rehearse --list
      harness rehearse terminal --like shell --swallows 2
      harness rehearse claude --install bin --dies && PATH="$PWD/bin:$PATH" harness run claude --detach
    """
    from harness.errors import NotFound, UsageError
    from harness.sessions.rehearsal import catalogue
    from harness.settings import nearest

    if listed:
        _list(as_json)
        return
    if name is None:
        raise UsageError("which one? `harness rehearse --list` tells what there is")
    rehearsal = catalogue.REHEARSALS.get(name)
    if rehearsal is None:
        raise NotFound(f"no rehearsal {name!r}{nearest(name, catalogue.REHEARSALS)}")
    words: list[str] = _checked(ctx.args)
    if install is None:
        catalogue.replace_process(rehearsal, [*(["--json"] if as_json else []), *words])  # that of `codex exec`
    path = catalogue.install(rehearsal, words, install)
    if as_json:
        json_line({"ok": True, "name": name, "path": str(path)})
    else:
        line(str(path))


def _list(as_json: bool) -> None:
    from harness.sessions.rehearsal.catalogue import REHEARSALS

    known = REHEARSALS.values()
    if as_json:
        json_line([
            {"name": each.name, "program": each.program, "flags": list(each.flags), "meaning": each.meaning} for each in known
        ])  # fmt: skip
    else:
        rows = [(each.name, each.program, " ".join(each.flags), each.meaning) for each in known]
        table(("NAME", "PROGRAM", "FLAGS", "WHAT IT DOES"), rows, empty="")


def _checked(words: list[Any]) -> list[str]:
    """The rehearsal's own words. Raises `UsageError` for a flag of it that is wrong, before anything is started."""
    from harness.errors import UsageError
    from harness.sessions.rehearsal import flags

    given = [str(word) for word in words]
    try:
        flags.parse(given)
    except flags.BadFlag as error:
        raise UsageError(f"{error}; `harness rehearse terminal -- --help` lists the flags") from error
    return given
