"""`harness doctor`: whether this machine and this home have what Harness needs. Looks, and changes nothing."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.app import App
from harness.cli.findings import Finding, show
from harness.cli.opening import execute, settings_of
from harness.cli.options import Home, Json
from harness.cli.preflight import problems
from harness.errors import HarnessError, StoreUnavailable

if TYPE_CHECKING:
    from harness.ledger import Store
    from harness.settings import Settings

app = App()

_SQLITE = (3, 40)
_LONG_SECONDS = 5.0  # a transaction that lasts longer is no append
_PARTS = {
    "services": ("cel_expr_python", "conditions of checks"),
    "web": ("nicegui", "the web door"),
    "seal": ("cryptography", "seals"),
    "postgres": ("psycopg", "ledgers in PostgreSQL"),
    "anthropic": ("anthropic", "the model anthropic:…"),
    "openai": ("openai", "the model openai:…"),
}


@app.command()
def doctor(
    agents: Annotated[
        bool, typer.Option("--agents", help="Instead, say which agent programs are installed and what they can do.")
    ] = False,
    trying: Annotated[
        bool,
        typer.Option("--try", help="With --agents: run each in each mode, with a scripted model, and say what it does."),
    ] = False,
    as_json: Json = False,
    home: Home = None,
) -> None:
    """Check this machine, this home and its sessions. Ends with 1 if something is broken.

    With --agents it asks Claude Code and Codex for their versions, their help and the schema of their protocol. No agent
    is started, no model is asked, and nothing of the user's is touched. With --try they are really run, for a minute or
    two, in a home of their own and with a scripted model on loopback: nothing is spent, and no account is needed.

    \b
    Examples:
      harness doctor
      harness doctor --json
      harness doctor --agents
      harness doctor --agents --try
    """
    from harness.cli import doctor_sessions
    from harness.errors import UsageError

    if trying and not agents:
        raise UsageError("--try belongs to --agents, which is not given")
    if trying:
        raise typer.Exit(doctor_sessions.try_agents(as_json))
    if agents:
        raise typer.Exit(doctor_sessions.agents(as_json))
    raise typer.Exit(show([*_machine(), *_parts(), doctor_sessions.tmux(), *_home(home)], as_json=as_json))


def _machine() -> Iterable[Finding]:
    import sqlite3

    version = ".".join(map(str, sys.version_info[:3]))
    yield _found("python", sys.version_info >= (3, 11), version, "3.11 or newer is needed")
    yield _found("sqlite", sqlite3.sqlite_version_info >= _SQLITE, sqlite3.sqlite_version, "3.40 or newer is needed")
    pidfd = hasattr(os, "pidfd_open")
    yield Finding(name="pidfd", state="ok" if pidfd else "missing", detail="exits are told" if pidfd else "exits are polled")
    proc = Path("/proc/self/stat").exists()
    yield Finding(name="/proc", state="ok" if proc else "missing", detail="process table" if proc else "psutil is used instead")


def _found(name: str, good: bool, detail: str, need: str) -> Finding:
    return Finding(name=name, state="ok" if good else "broken", detail=detail if good else f"{detail}: {need}")


def _parts() -> Iterable[Finding]:
    for extra, (module, what) in _PARTS.items():
        here = find_spec(module) is not None
        detail = what if here else f"{what}: pip install 'agentharness[{extra}]'"
        yield Finding(name=f"extra {extra}", state="ok" if here else "missing", detail=detail)


def _home(home: Path | None) -> Iterable[Finding]:
    from harness.cli import doctor_sessions

    try:
        settings = settings_of(home)
        wrong = list(problems(settings))
        for problem in wrong:
            yield Finding(name="harness.toml", state="broken", detail=problem)
        if not wrong:
            yield Finding(name="harness.toml", state="ok", detail=_declared(settings))
    except HarnessError as error:
        yield Finding(name="harness.toml", state="broken", detail=str(error))
        return
    if not settings.home.exists():
        yield Finding(name="home", state="missing", detail=f"{settings.home}; 'harness init' or 'harness run' makes it")
        return
    mode = settings.home.stat().st_mode & 0o777
    private = mode & 0o077 == 0
    yield Finding(
        name="home",
        state="ok" if private else "broken",
        detail=f"{settings.home} has mode {mode:04o}{'' if private else ', others may read it: chmod 700'}",
    )
    yield from doctor_sessions.files(settings)
    yield from _ledger(settings)


def _declared(settings: Settings) -> str:
    from harness.recovery import load_declarations

    declared = load_declarations(settings)
    where = "built-in demo" if declared.demo else str(settings.document.path)
    return f"{where}: {len(declared.services)} services, {len(declared.invariants)} checks"


def _ledger(settings: Settings) -> Iterable[Finding]:
    from harness.ledger import is_address

    try:
        if not is_address(settings.database) and not Path(settings.database).exists():
            yield Finding(name="ledger", state="missing", detail=f"{settings.database}; 'harness init' makes it")
            return
        yield from execute(lambda: _inside(settings))
    except HarnessError as error:
        absent = isinstance(error, StoreUnavailable) and error.reason == "missing"
        yield Finding(name="ledger", state="missing" if absent else "broken", detail=str(error))
    except OSError as error:
        yield Finding(name="ledger", state="broken", detail=f"{settings.database}: {error.strerror}")


async def _inside(settings: Settings) -> list[Finding]:
    from harness.cli import doctor_sessions
    from harness.ledger import open_store
    from harness.recovery.monitor import monitor_alive
    from harness.web import overview

    async with open_store(settings.database, create=False, read_only=True) as store:
        heads = await store.heads()
        supervised, watched = await overview.supervised(store), await monitor_alive(store)
        behind = await _behind(store)
        sessions = await doctor_sessions.sessions(store, settings)
    return [
        Finding(name="ledger", state="ok", detail=f"{sum(head.seq for head in heads)} events in {len(heads)} streams"),
        *behind,
        Finding(
            name="supervisor",
            state="ok" if supervised else "missing",
            detail="runs" if supervised else "not running: harness run",
        ),
        Finding(
            name="monitor", state="ok" if watched else "missing", detail="looks" if watched else "has not looked for a while"
        ),
        *sessions,
    ]


async def _behind(store: Store) -> list[Finding]:
    """What keeps followers of a database from the newest events; a transaction of moments is none."""
    from harness.ledger import PostgresStore

    if not isinstance(store, PostgresStore):
        return []
    old = [held for held in await store.held_back() if held.age_seconds >= _LONG_SECONDS]
    return [Finding(name="followers", state="broken", detail=str(held)) for held in old[:3]]
