"""`harness chaos`: break a service on purpose."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.app import App
from harness.cli.opening import actor, execute, writing
from harness.cli.options import Home, Json
from harness.cli.output import json_line, line, plain

if TYPE_CHECKING:
    from harness.ledger import Event
    from harness.recovery.facts import ChaosInjected, ChaosRefused

app = App("Break a service on purpose; it heals itself after a while.")

Name = Annotated[str, typer.Argument(metavar="SERVICE", help="The service's name.", show_default=False)]
Heal = Annotated[
    float | None, typer.Option(min=0.1, max=3600, help="Seconds until it heals itself; the fault's own without it.")
]


@app.command()
def kill(name: Name, as_json: Json = False, home: Home = None) -> None:
    """Kill the service's process with SIGKILL.

    \b
    Examples:
      harness chaos kill rate_limiter
    """
    _break("kill", name, None, as_json, home)


@app.command()
def hang(name: Name, heal_after: Heal = None, as_json: Json = False, home: Home = None) -> None:
    """Stop the service's process in mid-flight: it lives, and answers nothing.

    \b
    Examples:
      harness chaos hang rate_limiter --heal-after 30
    """
    _break("hang", name, heal_after, as_json, home)


@app.command()
def slow(name: Name, heal_after: Heal = None, as_json: Json = False, home: Home = None) -> None:
    """Let the service answer slowly.

    \b
    Examples:
      harness chaos slow rate_limiter --heal-after 30
    """
    _break("slow", name, heal_after, as_json, home)


@app.command(name="503")
def unavailable(name: Name, heal_after: Heal = None, as_json: Json = False, home: Home = None) -> None:
    """Let the service answer 503 to everything.

    \b
    Examples:
      harness chaos 503 rate_limiter --heal-after 30
    """
    _break("503", name, heal_after, as_json, home)


def _break(kind: str, name: str, heal_after: float | None, as_json: bool, home: Path | None) -> None:
    from harness.errors import HarnessError
    from harness.recovery import facts

    fact, event = execute(lambda: _asked(kind, name, heal_after, home))
    if isinstance(fact, facts.ChaosRefused):
        raise HarnessError(f"chaos {kind} of {name} was refused: {fact.reason}")
    heals = None if fact.heals_us is None else round((fact.heals_us - event.ts) / 1_000_000, 1)
    if as_json:
        json_line({"ok": True, "service": name, "chaos": kind, "pid": fact.pid, "at_us": event.ts, "heals_in_s": heals})
    else:
        line(plain(f"{kind}: {name} (pid {fact.pid})" + (f", heals itself after {heals:g} s" if heals else "")))


async def _asked(
    kind: str, name: str, heal_after: float | None, home: Path | None
) -> tuple[ChaosInjected | ChaosRefused, Event]:
    from harness.recovery import facts
    from harness.web import requests

    async with writing(home) as store:
        return await requests.break_service(
            store, facts.ChaosKind(kind), name, by=actor(), heal_after_seconds=heal_after, wait_seconds=15
        )
