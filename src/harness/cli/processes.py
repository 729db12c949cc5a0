"""`harness run`, `web`, `monitor`, `agent` and `service`: their options and help. `lean` starts them, mostly without this."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from harness.cli import lean
from harness.cli.app import App, Command
from harness.cli.options import Home, home_option

app = App()

Port = Annotated[int | None, typer.Option(min=1, max=65_535, help="Port; that of harness.toml without it.")]
Host = Annotated[str | None, typer.Option(help="Interface; beyond loopback a token must be set.")]


class Run(Command):
    """`harness run`, of which a shell is told also what `agent_words` reads."""

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        from harness.cli import agent_words

        options = agent_words.VALUES | agent_words.FLAGS | agent_words.OPTIONAL
        words = sorted({"claude", "codex", *(f"--{name}" for name in options)})
        offered = super().shell_complete(ctx, incomplete)
        there = {item.value for item in offered}
        own = "typer._click" if find_spec("typer._click") else "click"  # newer ones carry it with them
        item: Any = import_module(f"{own}.shell_completion").CompletionItem
        return offered + [item(word) for word in words if word.startswith(incomplete) and word not in there]


@app.command(cls=Run)
def run(
    no_service: Annotated[bool, typer.Option("--no-service", help="Without the declared services.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only what matters: no services' output.")] = False,
    port: Port = None,
    demo: Annotated[bool, typer.Option("--demo", hidden=True)] = False,
    home: Home = None,
) -> None:
    """Start an agent program (`harness run AGENT …`), or, if none is named, what this project declares.

    What it declares is watched and healed: services, monitor, agent and web door. Without a harness.toml that is the demo's
    rate limiter on 8001 and its two checks. One merged log; Ctrl-C or SIGTERM end everything within the services' stop
    timeouts, a second one at once.

    An agent is claude, codex or any command. It is shown here, and goes on if this terminal does not; the exit code is the
    agent's. Options of ours stand before or after its name, others are the agent's, and so is all that follows `--`:

    \b
      --id ID                     what the session is called; a random name without it
      --detach                    leave it in the background; prints one JSON line
      --tmux [NAME]               the same, shown in a window of tmux
      --watch                     look after it from here; 3: escalated to a person
        --preset impl|plan|gate   8m and 1 resume, 3m and 2, or 15m and none
        --stall-after TIME        such as 90s, 8m or 1h
        --max-resumes N
      --watch PATH, --watch-file PATH
                                  tell it when this file changes
      --context TEXT              its first message
      --mode pty|stream|app-server|once
                                  how it is talked to; the most structured way without it
      --resume ID                 continue a session of ours, or one of the program's own
      --worktree [BRANCH]         in a git worktree of its own
      --description TEXT, --meta JSON
      --max-turns N, --max-budget-usd N, --max-wall TIME
      --inbox-ttl TIME            how long a message waits for it (120s)
      --timeout TIME              how long the start may take
      --port N [--host NAME]      a web door for this session

    \b
    Examples:
      harness run
      harness run --no-service -q
      harness run claude
      harness run codex --id w1 --detach --context "read TASK.md and do what it says"
      harness run claude --id w2 --watch --preset impl --tmux
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
