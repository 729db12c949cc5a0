"""What the commands about sessions share: their options, opening the record, who asks, and times such as `90s`."""

from __future__ import annotations

import os
import shlex
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.opening import actor, execute, settings_of

if TYPE_CHECKING:
    from harness.sessions.client import Row, Sessions
    from harness.sessions.record import Session


def complete_id(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """What a shell offers for an id that was begun, the newest first; nothing where there is no ledger."""
    from harness.errors import HarnessError

    async def look() -> list[Row]:
        async with opened(ctx.params.get("home"), write=False) as sessions:
            return await sessions.list(live=None)

    try:
        found = {row.id: f"{row.state} {row.cli} {row.description}".strip() for row in reversed(execute(look))}
    except (HarnessError, OSError):
        return []
    return [(id_, told) for id_, told in reversed(found.items()) if id_.startswith(incomplete)]


NAMED = "The session's id, or the key of one of its runs."
Id = Annotated[str, typer.Option("--id", help=NAMED, autocompletion=complete_id, show_default=False)]
Name = Annotated[str, typer.Argument(metavar="ID", help=NAMED, autocompletion=complete_id)]
Repo = Annotated[Path | None, typer.Option(help="Only if it is of this repository.")]
Program = Annotated[str | None, typer.Option("--cli", help="Only if it runs this program.")]
Reason = Annotated[str, typer.Option(help="Why; it is recorded.")]
Timeout = Annotated[str | None, typer.Option(metavar="<time>", help="At most so long, such as 90s, 8m or 1h.")]

TIMED_OUT = 124
_ASKED_CHARACTERS = 200


@asynccontextmanager
async def opened(home: Path | None, *, write: bool) -> AsyncGenerator[Sessions]:
    """The home's sessions."""
    from harness.ledger import open_store
    from harness.sessions.client import Sessions

    settings = settings_of(home)
    async with open_store(settings.database, actor=asker(), create=False, read_only=not write) as store:
        yield Sessions(store, settings.home)


async def chosen(sessions: Sessions, name: str, repo: Path | None = None, cli: str | None = None) -> Row:
    """The run that the options mean. Raises `NotFound`."""
    from harness.home import find_repository

    return await sessions.row(name, repo=None if repo is None else find_repository(str(repo.resolve())), cli=cli)


def asker() -> str:
    """Who asks: the session that this command is run in, else the person."""
    from harness.sessions.client import sender_of

    sender = sender_of(os.environ)
    return actor() if sender is None else f"session:{sender.id}"


def seconds(text: str | None, what: str) -> float | None:
    """A time that was given with an option, if it was. Raises `UsageError`."""
    if text is None:
        return None
    from harness.sessions.watch import policy

    return policy.seconds(text, name=what)


def held_up(session: Session) -> str:
    """That an agent waits for a person, for what, and the command that answers; empty if it does not."""
    from harness.cli.output import plain
    from harness.sessions.facts import Mode, State

    asked = [approval for approval in session.open_approvals if approval.question]
    if asked:
        first = asked[0]
        named = f"{session.id} {shlex.quote(plain(first.request))}"
        more = f" (and {len(asked) - 1} more)" if asked[1:] else ""
        what = plain(f"{first.tool}: {first.summary}" if first.summary else first.tool)[:_ASKED_CHARACTERS]
        return f"waits for leave{more}: {what}; `harness approve {named}` gives it, `harness deny {named}` refuses it"
    if session.live and session.state is State.BLOCKED:
        look = "attach" if session.mode == Mode.PTY else "pane"
        return f"is blocked on {plain(session.state_detail) or 'something'}: `harness {look} --id {session.id}` shows it"
    return ""
