"""`harness send` and `harness inbox`: messages to an agent program, and those that still wait."""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.app import App
from harness.cli.opening import execute
from harness.cli.options import Home, Json
from harness.cli.output import ago, json_line, line, note, now_us, plain, table
from harness.cli.session_words import TIMED_OUT, Id, Program, Repo, Timeout, asker, chosen, held_up, opened, seconds
from harness.errors import HarnessError, UsageError

if TYPE_CHECKING:
    from harness.sessions.client import Sessions
    from harness.sessions.facts import MessageStatus, Origin
    from harness.sessions.record import Message, Session

app = App()

_SLACK_SECONDS = 5.0  # after a message's time is over, for the host to say so


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sending:
    """What is to be sent and how long its sender waits."""

    text: str
    origin: Origin | None
    placing: str
    submit: bool
    only_submit: bool
    forced: bool
    ttl_seconds: float | None
    wait: bool
    until_idle: bool
    timeout_seconds: float | None


@app.command()
def send(
    id_: Id,
    text: Annotated[list[str] | None, typer.Argument(metavar="TEXT", help="The message; from stdin without it.")] = None,
    message: Annotated[str | None, typer.Option(help="The message, instead of words.")] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Until the agent has it.")] = True,
    wait_for_idle: Annotated[bool, typer.Option("--wait-for-idle", help="Until the turn that it starts is over.")] = False,
    timeout: Timeout = None,
    inbox_ttl: Annotated[str | None, typer.Option(metavar="<time>", help="How long it may wait in the inbox.")] = None,
    steer: Annotated[bool, typer.Option("--steer", help="Into the turn under way, where the program can.")] = False,
    interrupt: Annotated[bool, typer.Option("--interrupt", help="End the turn under way first.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Also while nobody knows what the agent does.")] = False,
    submit_only: Annotated[bool, typer.Option("--submit-only", help="No text: Enter alone.")] = False,
    submit: Annotated[bool, typer.Option("--submit/--no-submit", help="Press Enter after the text.")] = True,
    relay: Annotated[
        bool | None, typer.Option("--relay/--no-relay", help="Say which session it comes from; on inside one.")
    ] = None,
    repo: Repo = None,
    cli: Program = None,
    as_json: Json = False,
    home: Home = None,
) -> None:
    """Send an agent a message. It is delivered at its next prompt, once and whole, and never into anything else.

    Prints JSON with what became of it. A wait that times out takes the message back, or says that the agent has it
    already, and ends with 124. Control characters are removed; lines stay together.

    \b
    Examples:
      harness send --id w1 "read TASK.md and do what it says"
      git diff | harness send --id reviewer --wait-for-idle --timeout 10m
      harness send --id w1 --message "and the tests?" --no-wait
    """
    del as_json  # it prints nothing else
    if steer and interrupt:
        raise UsageError("--steer joins the turn under way and --interrupt ends it: give one of them")
    if wait_for_idle and not (wait and submit):
        raise UsageError(f"--wait-for-idle waits, so it cannot be combined with --no-{'submit' if wait else 'wait'}")
    said = _said(text or [], message, only_submit=submit_only, submit=submit)
    told, origin = _relayed(said, relay)
    sending = _Sending(
        text=told, origin=origin, placing="steer" if steer else "interrupt" if interrupt else "queue", submit=submit,
        only_submit=submit_only, forced=force, ttl_seconds=seconds(inbox_ttl, "--inbox-ttl"), wait=wait,
        until_idle=wait_for_idle, timeout_seconds=seconds(timeout, "--timeout"),
    )  # fmt: skip

    async def work() -> int:
        async with opened(home, write=True) as sessions:
            row = await chosen(sessions, id_, repo, cli)
            return await _send(sessions, row.key, sending)

    raise typer.Exit(execute(work))


def _said(words: list[str], message: str | None, *, only_submit: bool, submit: bool) -> str:
    """The text from wherever it was given."""
    given = bool(words) or message is not None
    if only_submit:
        if given or not submit:
            raise UsageError("--submit-only presses Enter and nothing else: give no text and no --no-submit")
        return ""
    if words and message is not None:
        raise UsageError("the message is given twice: as --message and as words")
    if given:
        return message if message is not None else " ".join(words)
    from harness.sessions.client import MAX_MESSAGE_BYTES

    data = sys.stdin.buffer.read(4 * MAX_MESSAGE_BYTES + 1)
    return data.decode("utf-8", "replace").removesuffix("\n")


def _relayed(text: str, wanted: bool | None) -> tuple[str, Origin | None]:
    """The text with the header that names the session that sends it, and its origin."""
    from harness.sessions.client import relayed, sender_of

    sender = sender_of(os.environ)
    if sender is None:
        if wanted:
            raise UsageError("--relay names the session that this is sent from, and this is none (HARNESS_SESSION_ID)")
        return text, None
    return (relayed(text, sender, now_us()) if text and wanted is not False else text), sender.origin


async def _send(sessions: Sessions, key: str, sending: _Sending) -> int:
    from harness.sessions.facts import FINAL_STATUSES, MessageStatus, Placing

    id_ = await sessions.send(
        key, sending.text, placing=Placing(sending.placing), origin=sending.origin, ttl_seconds=sending.ttl_seconds,
        submit=sending.submit, only_submit=sending.only_submit, forced=sending.forced,
    )  # fmt: skip
    if not sending.wait:
        json_line({"ok": True, "status": "queued", "message_id": id_})
        return 0
    received = FINAL_STATUSES | {MessageStatus.ACCEPTED}
    until = FINAL_STATUSES if sending.until_idle else received
    loop = asyncio.get_running_loop()
    deadline = None if sending.timeout_seconds is None else loop.time() + sending.timeout_seconds
    try:
        async with asyncio.timeout_at(deadline or loop.time() + await _lifetime(sessions, key, id_)):
            found = await sessions.message(key, id_, until=received)
        async with asyncio.timeout_at(deadline):
            return _told(await sessions.message(key, id_, until=until) if sending.until_idle else found, until)
    except TimeoutError:
        status = await sessions.withdraw(key, id_, reason="its sender waited no longer")
    except asyncio.CancelledError:  # Ctrl-C
        status = await sessions.withdraw(key, id_, reason="its sender waited no longer")
        note(f"harness: {_left(status)}")
        raise
    session = await sessions.get(key)
    if status in until and status is not MessageStatus.WITHDRAWN:
        return _told(session.messages[id_], until)
    error = f"timeout: {_left(status, held_up(session))}"
    json_line({"ok": False, "status": str(status), "message_id": id_, "error": error})
    note(f"harness: {error}")
    return TIMED_OUT


async def _lifetime(sessions: Sessions, key: str, id_: str) -> float:
    """How long a message can wait for its delivery at most, and for the host to say that its time is over."""
    message = (await sessions.get(key)).messages[id_]
    return (message.expires_us - now_us()) / 1e6 + _SLACK_SECONDS


def _left(status: MessageStatus, held: str = "") -> str:
    """What a sender who goes away is told; `held` is what the agent waits for."""
    then = f", and the agent {held}" if held else ""
    match str(status):
        case "withdrawn":
            return f"the message was withdrawn and will not be delivered{then}"
        case "written":
            return f"the message is already written, so it cannot be taken back{then}"
        case "accepted":
            return f"the agent has the message, and {held or 'the turn goes on'}"
        case other:
            return f"the message is {other}{then}"


def _told(message: Message, until: frozenset[MessageStatus]) -> int:
    """Say what became of a message."""
    good = message.status in until and str(message.status) in ("written", "accepted", "done")
    told: dict[str, Any] = {"ok": good, "status": str(message.status), "message_id": message.id}
    if message.turn:
        told["turn"] = message.turn
    if not good:
        told["error"] = message.reason or f"the session ended while the message was {message.status}"
        note(f"harness: the message is {message.status}: {plain(told['error'])}")
    json_line(told)
    return 0 if good else 1


# -- inbox


class Action(StrEnum):
    """What can be done with an inbox."""

    LIST = "list"
    DROP = "drop"
    CLEAR = "clear"


@app.command()
def inbox(
    id_: Id,
    action: Annotated[Action, typer.Argument(help="What to do.")] = Action.LIST,
    message: Annotated[str | None, typer.Argument(metavar="MESSAGE", help="Which one to drop: its id.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="List also those that are through.")] = False,
    as_json: Json = False,
    home: Home = None,
) -> None:
    """List the messages that wait for an agent, drop one of them, or all.

    One that was written already is with the agent and cannot be dropped.

    \b
    Examples:
      harness inbox --id w1 list
      harness inbox --id w1 drop 0b5c1a52-7f0e-4c8e-a3a4-0d9f5f1a2b3c
      harness inbox --id w1 clear
    """
    if (action is Action.DROP) is not (message is not None):
        raise UsageError("`inbox drop` takes a message's id, the other two do not")

    async def look() -> Session:
        async with opened(home, write=False) as sessions:
            return await sessions.get(id_)

    async def remove() -> tuple[list[str], MessageStatus | None]:
        async with opened(home, write=True) as sessions:
            key = (await chosen(sessions, id_)).key
            dropped = await sessions.drop(key, message, by=asker())
            left = (await sessions.get(key)).messages[message].status if message is not None else None
            return dropped, left

    if action is Action.LIST:
        _list(execute(look), everything=all_, as_json=as_json)
        return
    dropped, left = execute(remove)
    if as_json:
        json_line({"ok": bool(dropped) or message is None, "dropped": dropped, "status": left and str(left)})
    elif message is None:
        line(f"dropped {len(dropped)} of those that waited")
    elif dropped:
        line(f"dropped {message}")
    if message is not None and not dropped:
        raise HarnessError(f"{message} is {left}: nothing was dropped")


def _list(session: Session, *, everything: bool, as_json: bool) -> None:
    from harness.sessions.client import moment

    listed = [message for message in session.messages.values() if everything or message.open]
    if as_json:
        json_line(
            [
                {
                    "message_id": each.id, "status": str(each.status), "msg": each.text, "placing": str(each.placing),
                    "origin": each.origin, "forced": each.forced, "submit": each.submit, "only_submit": each.only_submit,
                    "queued": moment(each.queued_us), "expires": moment(each.expires_us), "changed": moment(each.changed_us),
                    "reason": each.reason, "turn": each.turn or None,
                }
                for each in listed
            ]
        )  # fmt: skip
        return
    now = now_us()
    rows = [(each.id, each.status, ago(each.queued_us, now), _sender(each), each.text[:200]) for each in listed]
    table(("message", "status", "queued", "from", "text"), rows, empty=f"no message waits for {session.id}", cut=True)


def _sender(message: Message) -> str:
    return message.origin.id if message.origin.kind == "session" else str(message.origin.kind)
