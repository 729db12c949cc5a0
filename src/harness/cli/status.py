"""`harness status`: which sessions run, and what each does. The work is `glance`'s, which is reached without typer as well."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.app import App
from harness.cli.glance import Look, show
from harness.cli.options import Home, Json, home_option

app = App()


@app.command()
def status(
    id_: Annotated[str | None, typer.Option("--id", help="Only this one, also if it has ended.")] = None,
    repo: Annotated[Path | None, typer.Option(help="Of this repository, instead of the one around you.")] = None,
    cli: Annotated[str | None, typer.Option(help="Only of this program.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Of all repositories.")] = False,
    ended: Annotated[bool, typer.Option("--ended", help="Also those that are over.")] = False,
    as_json: Json = False,
    home: Home = None,
) -> None:
    """List the sessions of agent programs that run, the newest first.

    It asks the record and no host, so one that hangs costs nothing. A session whose host has died is shown as lost. With
    --json each also has the source of its state, tokens, cost, and the paths of its files.

    \b
    Examples:
      harness status
      harness status --all
      harness status --id w1 --json
    """
    place = home_option(home)
    look = Look(
        home=None if place is None else str(place), id=id_, repo=None if repo is None else str(repo), cli=cli,
        all=all_, ended=ended, json=as_json,
    )  # fmt: skip
    raise typer.Exit(show(look))
