"""`harness stop`, `wait`, `approve` and `deny`: ending a session, waiting for it, answering what its agent asks."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.app import App
from harness.cli.opening import execute
from harness.cli.options import Home, Json
from harness.cli.output import json_line, line, note, plain
from harness.cli.session_words import (
    NAMED,
    TIMED_OUT,
    Id,
    Name,
    Program,
    Reason,
    Repo,
    Timeout,
    asker,
    chosen,
    complete_id,
    held_up,
    opened,
    seconds,
)
from harness.errors import PolicyDenied, UsageError
from harness.sessions.client import Until

if TYPE_CHECKING:
    from harness.sessions.client import Row, Sessions, Waiting
    from harness.sessions.record import Session

app = App()

_STOP_SECONDS = 30.0
_SLACK_SECONDS = 1.0  # after a stop's budget, for its end to be recorded

Request = Annotated[str, typer.Argument(metavar="REQUEST", help="What the agent asked for, as `why session` lists it.")]


# -- stop


@app.command()
def stop(
    id_: Annotated[str | None, typer.Option("--id", help=NAMED, autocompletion=complete_id)] = None,
    all_: Annotated[bool, typer.Option("--all", help="All sessions of this home.")] = False,
    timeout: Timeout = None,
    kill: Annotated[bool, typer.Option("--kill", help="At once, without the agent's own exit.")] = False,
    reason: Reason = "",
    repo: Repo = None,
    cli: Program = None,
    as_json: Json = False,
    home: Home = None,
) -> None:
    """End a session: by the agent's own exit, then SIGTERM, then SIGKILL of all its processes, within the timeout (30 s).

    Says which was needed. Stopping what has ended is no error, so it may be repeated.

    \b
    Examples:
      harness stop --id w1
      harness stop --all --timeout 10s
    """
    if (id_ is None) is not all_:
        raise UsageError("name a session with --id, or give --all")
    budget = seconds(timeout, "--timeout") or _STOP_SECONDS

    async def work() -> list[dict[str, Any]]:
        async with opened(home, write=True) as sessions:
            rows = await _meant(sessions, id_, repo, cli)
            async with asyncio.TaskGroup() as tasks:
                stops = [tasks.create_task(_stop(sessions, row, budget, kill=kill, reason=reason)) for row in rows]
            return [each.result() for each in stops]

    told = execute(work)
    if as_json:
        json_line(told if all_ else told[0])
    for each in told:
        if not each["ok"]:
            note(f"harness: {plain(each['error'])}")
        elif not as_json:
            line(plain(f"{each['id']} {_ending(each)}"))
    if all_ and not told and not as_json:
        line("no session runs")
    raise typer.Exit(0 if all(each["ok"] for each in told) else TIMED_OUT)


async def _meant(sessions: Sessions, id_: str | None, repo: Path | None, cli: str | None) -> list[Row]:
    if id_ is not None:
        return [await chosen(sessions, id_, repo, cli)]
    from harness.home import find_repository

    return await sessions.list(repo=None if repo is None else find_repository(str(repo.resolve())), cli=cli)


async def _stop(sessions: Sessions, row: Row, budget: float, *, kill: bool, reason: str) -> dict[str, Any]:
    before = row.exited_us is not None
    await sessions.stop(row.key, by=asker(), timeout_seconds=budget, kill=kill, reason=reason)
    try:
        async with asyncio.timeout(budget + _SLACK_SECONDS):
            session = await sessions.ended(row.key)
    except TimeoutError:
        error = f"{row.id} has not ended within {budget:g} s{_hint(await sessions.get(row.key))}"
        return {"ok": False, "id": row.id, "session": row.key, "status": "timeout", "error": error}
    exited = session.exited
    assert exited is not None
    return {
        "ok": True, "id": row.id, "session": row.key, "status": "already_ended" if before else "ended",
        "needed": exited.needed, "reason": str(exited.reason), **_code(session),
    }  # fmt: skip


def _hint(session: Session) -> str:
    """What may be done about one that does not end; empty if nothing is known."""
    from harness.sessions.client import agent_runs

    claimed, runs = session.claimed, agent_runs(session)
    if claimed is None or runs is None:
        return ""
    if not runs:
        return ": its agent has, and that is on record as soon as the ledger can be written: see whether its disk is full"
    return f"; its host (pid {claimed.host_pid}) does not answer: `kill -9 {claimed.host_pid}` ends all of it"


def _ending(told: dict[str, Any]) -> str:
    """How a session ended, in words."""
    if told["status"] == "already_ended":
        return f"had ended already ({_how(told)})"
    if told["reason"] == "lost":
        return "is lost: its host had died"
    match told["needed"]:
        case "exit":
            return "ended by its own exit"
        case "term":
            return "ended; SIGTERM was needed"
        case "kill":
            return "ended; SIGKILL was needed"
        case _:
            return f"ended by itself ({_how(told)})"


def _how(told: dict[str, Any]) -> str:
    return told["reason"] if told["code"] is None else f"{told['reason']}, code {told['code']}"


def _code(session: Session) -> dict[str, int | None]:
    """The agent's code as a shell gives it, and the signal that ended it."""
    exited = session.exited
    assert exited is not None
    code = 128 + exited.signal if exited.code is None and exited.signal is not None else exited.code
    return {"code": code, "exit_code": code, "signal": exited.signal}


# -- wait


@app.command()
def wait(
    id_: Id,
    until: Annotated[Until, typer.Option(help="What to wait for.")] = Until.EXIT,
    timeout: Timeout = None,
    repo: Repo = None,
    cli: Program = None,
    as_json: Json = False,
    home: Home = None,
) -> None:
    """Wait for a session's exit, or for what its agent does, and print what came as JSON.

    Ends with the agent's exit code (128 + signal) once the session is over, with 124 if that takes too long.
    `task_complete` is the end of the work on the last message that it was sent: a turn from before does not count, and
    not one after which work goes on.

    \b
    Examples:
      harness wait --id w1
      harness wait --id w1 --until task_complete --timeout 15m
    """
    del as_json  # it prints nothing else
    limit = seconds(timeout, "--timeout")

    async def work() -> int:
        async with opened(home, write=True) as sessions:
            row = await chosen(sessions, id_, repo, cli)
            return await _wait(sessions, row.key, until, limit)

    raise typer.Exit(execute(work))


async def _wait(sessions: Sessions, key: str, until: Until, limit: float | None) -> int:
    began = time.monotonic()
    try:
        async with asyncio.timeout(limit):
            waiting = await sessions.until(key, until)
    except TimeoutError:
        session = await sessions.get(key)
        json_line({**_head(session, ok=False), "status": "timeout", "state": str(session.state), **_waited(began)})
        held = held_up(session)
        note(f"harness: timeout: {until} has not come within {limit:g} s{f'; the agent {held}' if held else ''}")
        return TIMED_OUT
    session = waiting.session
    if not session.live:
        return _exited(session, until, began)
    return _come(waiting, until, began)


def _head(session: Session, *, ok: bool) -> dict[str, Any]:
    return {"ok": ok, "id": session.id, "session": session.key}


def _waited(began: float) -> dict[str, float]:
    return {"waited_seconds": round(time.monotonic() - began, 3)}


def _exited(session: Session, until: Until, began: float) -> int:
    """Print the exit record; the agent's code. Whoever waited for something else did not get it."""
    from harness.sessions.client import moment

    exited = session.exited
    assert exited is not None
    code = _code(session)
    met = until is Until.EXIT
    json_line(
        {
            **_head(session, ok=met and code["code"] == 0), "status": "exited", "state": str(session.state), **code,
            "reason": str(exited.reason), "needed": exited.needed, "detail": exited.detail, "by": exited.by,
            "started_at": moment(session.started_us), "exited_at": moment(session.exited_us), "tail": exited.tail,
            **_waited(began),
        }
    )  # fmt: skip
    if not met:
        note(f"harness: {session.id} has ended, and {until} will not come")
    return code["code"] or (0 if met and code["code"] == 0 else 1)


def _come(waiting: Waiting, until: Until, began: float) -> int:
    session, turn = waiting.session, waiting.task
    if until is not Until.TASK_COMPLETE or turn is None:
        json_line({**_head(session, ok=True), "state": str(session.state), **_waited(began)})
        return 0
    good = turn.outcome == "success"
    told = {"event": "task_complete", "turn": turn.turn, "outcome": turn.outcome, "summary": turn.summary}
    json_line({**_head(session, ok=good), **told, **({"error": turn.error} if turn.error else {}), **_waited(began)})
    if not good:
        note(f"harness: the turn ended with {turn.outcome}{f': {plain(turn.error)}' if turn.error else ''}")
    return 0 if good else 1


# -- what an agent asks


@app.command()
def approve(id_: Name, request: Request, reason: Reason = "", as_json: Json = False, home: Home = None) -> None:
    """Let an agent do what it asks leave for, once.

    \b
    Examples:
      harness approve w1 req-7
    """
    _decide(id_, request, allow=True, reason=reason, as_json=as_json, home=home)


@app.command()
def deny(id_: Name, request: Request, reason: Reason = "", as_json: Json = False, home: Home = None) -> None:
    """Forbid what an agent asks leave for; it is told the reason.

    \b
    Examples:
      harness deny w1 req-7 --reason "not on this branch"
    """
    _decide(id_, request, allow=False, reason=reason, as_json=as_json, home=home)


def _decide(id_: str, request: str, *, allow: bool, reason: str, as_json: bool, home: Path | None) -> None:
    from harness.sessions.client import sender_of

    async def work() -> tuple[str, str]:
        async with opened(home, write=True) as sessions:
            session = await sessions.get(id_)
            if (sender := sender_of(os.environ)) is not None and sender.id == session.id:
                raise PolicyDenied("a session cannot decide what it asks for itself")
            await sessions.decide(session.key, request, allow=allow, by=asker(), reason=reason)
            return session.key, session.approvals[request].summary or session.approvals[request].tool

    key, what = execute(work)
    decision = "allow" if allow else "deny"
    if as_json:
        json_line({"ok": True, "session": key, "request": request, "decision": decision})
    else:
        line(plain(f"{decision}: {what}"))
