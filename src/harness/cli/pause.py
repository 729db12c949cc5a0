"""`harness pause` and `harness unpause`: whether agents may act."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.app import App
from harness.cli.opening import actor, execute, writing
from harness.cli.options import Home, Json
from harness.cli.output import json_line, line, plain

app = App()

Reason = Annotated[str, typer.Option(help="Why; it is recorded.")]


@app.command()
def pause(reason: Reason = "", as_json: Json = False, home: Home = None) -> None:
    """Keep agents from acting, within a second and over restarts, until unpaused.

    Checks go on, tickets are opened, people may act.

    \b
    Examples:
      harness pause --reason "release"
    """
    said = execute(lambda: _pause(home, reason))
    if as_json:
        json_line({"paused": True, "reason": said})
    else:
        line(f"paused {plain(said)}")


@app.command()
def unpause(reason: Reason = "", as_json: Json = False, home: Home = None) -> None:
    """Let agents act again.

    \b
    Examples:
      harness unpause
    """
    was = execute(lambda: _unpause(home, reason))
    if as_json:
        json_line({"paused": False, "was_paused": was})
    else:
        line("agents may act again" if was else "was not paused")


async def _pause(home: Path | None, reason: str) -> str:
    from harness.recovery import pause as pausing

    async with writing(home) as store:
        await pausing.pause(store, by=actor(), reason=reason)
        return await pausing.paused_reason(store) or ""


async def _unpause(home: Path | None, reason: str) -> bool:
    from harness.recovery import pause as pausing

    async with writing(home) as store:
        was = await pausing.paused_reason(store) is not None
        await pausing.unpause(store, by=actor(), reason=reason)
        return was
