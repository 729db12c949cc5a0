"""The options that many commands share, and the home they lead to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Home = Annotated[Path | None, typer.Option("--home", help="Where state lives.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]

_remembered: list[Path] = []


def remember_home(home: Path | None) -> None:
    """Keep `harness --home X …` for the command that follows."""
    _remembered[:] = [home] if home is not None else []


def home_option(home: Path | None) -> Path | None:
    """The command's own `--home`, else the one given before the command."""
    return home if home is not None else (_remembered[0] if _remembered else None)
