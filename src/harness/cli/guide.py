"""`harness guide` and `harness recipes`: how to work with sessions of agent programs, to be read in a terminal."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from harness.cli.app import App
from harness.cli.options import Json
from harness.cli.output import json_line, line, table

app = App()
recipes = App("Ways of working with sessions, from start to end.")
app.add_typer(recipes, name="recipes")


@app.command()
def guide(as_json: Json = False) -> None:
    """Print the guide to sessions: start an agent, talk to it, wait for it, read it, stop it.

    \b
    Examples:
      harness guide | less
    """
    from harness.sessions.guide import texts

    text = texts.guide()
    if as_json:
        json_line({"name": "guide", "text": text})
    else:
        line(text.rstrip("\n"))


@recipes.callback(invoke_without_command=True, no_args_is_help=False)
def all_recipes(context: typer.Context, as_json: Json = False) -> None:
    """Ways of working with sessions, from start to end; list is meant where nothing is said.

    \b
    Examples:
      harness recipes
      harness recipes show 2
    """
    if context.invoked_subcommand is None:
        _list(as_json)


@recipes.command("list")
def list_(as_json: Json = False) -> None:
    """List the recipes.

    \b
    Examples:
      harness recipes list
      harness recipes list --json
    """
    _list(as_json)


def _list(as_json: bool) -> None:
    from harness.sessions.guide import texts

    found = texts.recipes()
    if as_json:
        json_line([{"number": each.number, "name": each.name, "title": each.title, "summary": each.summary} for each in found])
        return
    rows = [(each.number, each.name, each.summary) for each in found]
    table(("recipe", "name", "what it is for"), rows, empty="there are no recipes")


@recipes.command()
def show(
    recipe: Annotated[str, typer.Argument(metavar="N", help="Its number or its name.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Print one recipe.

    \b
    Examples:
      harness recipes show 1
      harness recipes show chain
    """
    from harness.sessions.guide import texts

    found = texts.recipe(recipe)
    if as_json:
        told: dict[str, Any] = {"number": found.number, "name": found.name, "title": found.title, "text": found.text}
        json_line(told)
    else:
        line(found.text.rstrip("\n"))
