"""`harness demo`: a service is started, watched, broken and healed, in a temporary home, and every step is on a ledger."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from harness.cli.app import App
from harness.cli.options import Json

app = App()


class Fault(StrEnum):
    """What the demo can break."""

    KILL = "kill"
    HANG = "hang"
    SLOW = "slow"
    ERROR_503 = "503"


@app.command()
def demo(
    chaos: Annotated[Fault, typer.Option(help="How the service is broken.")] = Fault.KILL,
    times: Annotated[int, typer.Option(min=1, max=1000, help="How many times in a row.")] = 1,
    once: Annotated[bool, typer.Option("--once", help="End when it is healed, as scripts want it.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the temporary home, and say where it is.")] = False,
    model: Annotated[
        str, typer.Option(help="rules (no key needed), anthropic:MODEL, openai:MODEL or openai-chat:MODEL.")
    ] = "rules",
    as_json: Json = False,
) -> None:
    """Break a service and watch it heal: detected, ticketed, diagnosed, restarted, verified, on the record.

    Everything is real and runs in a temporary home: a supervisor, a monitor, an agent, a web door on 8000 and a rate
    limiter on 8001 (other ports if these are taken). Without --once the dashboard stays up, and keys break the service
    again. Ctrl-C ends all of it and leaves nothing behind.

    Ends with 0 only if every incident was verified, the ledger verifies, and no process or port is left.

    \b
    Examples:
      harness demo
      harness demo --once --chaos hang
      harness demo --once --times 20 --json
      ANTHROPIC_API_KEY=… harness demo --model anthropic:claude-sonnet-4-5
    """
    from harness.cli.demo.play import Plan, play

    plan = Plan(chaos=chaos.value, times=times, once=once or as_json, keep=keep, model=model, json=as_json)
    raise typer.Exit(play(plan))
