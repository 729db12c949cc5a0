"""`harness run`, `web`, `monitor`, `agent` and `service`: their options and help. `lean` starts them, mostly without this."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli import lean
from harness.cli.app import App
from harness.cli.options import Home, home_option

app = App()

Port = Annotated[int | None, typer.Option(min=1, max=65_535, help="Port; that of harness.toml without it.")]
Host = Annotated[str | None, typer.Option(help="Interface; beyond loopback a token must be set.")]


@app.command()
def run(
    no_service: Annotated[bool, typer.Option("--no-service", help="Without the declared services.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only what matters: no services' output.")] = False,
    port: Port = None,
    demo: Annotated[bool, typer.Option("--demo", hidden=True)] = False,
    home: Home = None,
) -> None:
    """Start what this project declares, watch it and heal it: services, monitor, agent and web door.

    Without a harness.toml that is the demo's rate limiter on 8001 and its two checks. One merged log; Ctrl-C or
    SIGTERM end everything within the services' stop timeouts, a second one at once.

    \b
    Examples:
      harness run
      harness run --no-service -q
    """
    flags = {"no-service": no_service, "quiet": quiet, "demo": demo}
    _start("run", {"port": port, "home": home}, flags)


@app.command()
def web(
    host: Host = None,
    port: Port = None,
    demo: Annotated[bool, typer.Option("--demo", help="With buttons that break services.")] = False,
    session: Annotated[str | None, typer.Option(help="Serve this one agent session only, and end with it.")] = None,
    home: Home = None,
) -> None:
    """Serve the HTTP API and the dashboard, for a home that exists.

    \b
    Examples:
      harness web
      harness web --port 9000
      HARNESS_WEB_TOKEN=… harness web --host 0.0.0.0
    """
    _start("web", {"host": host, "port": port, "session": session, "home": home}, {"demo": demo})


@app.command()
def monitor(home: Home = None) -> None:
    """Look after the declared checks and open tickets, in the foreground.

    \b
    Examples:
      harness monitor
    """
    _start("monitor", {"home": home})


@app.command()
def agent(
    model: Annotated[str | None, typer.Option(help="rules, anthropic:MODEL, openai:MODEL or openai-chat:MODEL.")] = None,
    home: Home = None,
) -> None:
    """Work tickets within the envelope, in the foreground.

    \b
    Examples:
      harness agent
      harness agent --model anthropic:claude-sonnet-4-5
    """
    _start("agent", {"model": model, "home": home})


@app.command()
def service(
    host: Annotated[str, typer.Option(help="Interface.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port.")] = 8001,
    config: Annotated[Path | None, typer.Option(help="Its configuration; may be missing.")] = None,
) -> None:
    """Serve the demo's rate limiter: something to break.

    \b
    Examples:
      harness service
      harness service --port 9001 --config rate_limiter.toml
    """
    _start("service", {"host": host, "port": port, "config": config})


def _start(command: str, values: dict[str, object], flags: dict[str, bool] | None = None) -> None:
    home = values.get("home")
    if "home" in values:
        values["home"] = home_option(home if isinstance(home, Path) else None)
    given = {name: str(value) for name, value in values.items() if value is not None}
    on = frozenset(name for name, wanted in (flags or {}).items() if wanted)
    raise typer.Exit(lean.start(lean.Request(command=command, values=given, flags=on)))
