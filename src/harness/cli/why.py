"""`harness why`: what led to what is shown. Of a session: its readings, who disagreed, and what was decided."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.app import App
from harness.cli.opening import execute
from harness.cli.options import Home, Json
from harness.cli.output import clock_time, json_line, line, plain
from harness.cli.session_words import Name, opened

if TYPE_CHECKING:
    from harness.ledger import Event
    from harness.sessions.record import Session

app = App("Say why something is as it is shown.")


@app.callback()
def why() -> None:
    """Say why something is as it is shown."""


@app.command()
def session(
    id_: Name,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, max=1000, help="How many of each.")] = 10,
    as_json: Json = False,
    home: Home = None,
) -> None:
    """Say why a session is in the state that is shown: who saw what and when, who disagreed, what was decided, what is open.

    \b
    Examples:
      harness why session w1
      harness why session w1 --lines 50 --json
    """

    async def work() -> tuple[Session, list[Event]]:
        async with opened(home, write=False) as sessions:
            found = await sessions.get(id_)
            return found, [event async for event in sessions.events(found.key)]

    found, events = execute(work)
    told = _told(found, events, lines)
    if as_json:
        json_line(told)
    else:
        _print(found, told)


_READINGS = frozenset({"session.state_changed"})
_DISPUTES = frozenset({"session.state_disputed"})
_DECISIONS = frozenset(
    {
        "message.written", "message.failed", "message.dropped", "message.expired", "message.withdrawn", "message.lost",
        "approval.requested", "approval.decided", "stall.detected", "session.resumed", "session.escalated", "session.limited",
        "session.retried", "stop.requested", "interrupt.requested", "probe.requested", "session.guard_lost", "session.exited",
    }
)  # fmt: skip


def _told(session: Session, events: list[Event], count: int) -> dict[str, Any]:
    from harness.sessions.client import moment

    def newest(types: frozenset[str]) -> list[dict[str, Any]]:
        chosen = [event for event in events if event.type in types][-count:]
        return [{"ts": moment(event.ts), "seq": event.seq, "type": event.type, **event.payload} for event in chosen]

    return {
        "id": session.id, "session": session.key, "live": session.live, "state": str(session.state),
        "detail": session.state_detail, "source": session.state_source, "confidence": session.state_confidence,
        "since": moment(session.state_us or None), "until": moment(session.until_us), "turn": session.turn or None,
        "pending": len(session.pending), "stop_requested": session.stop is not None,
        "approvals": [
            {
                "request": each.request, "tool": each.tool, "summary": each.summary, "asked": moment(each.asked_us),
                "deadline": moment(each.deadline_us), "question": each.question or None,
            }
            for each in session.open_approvals
        ],
        "readings": newest(_READINGS), "disputes": newest(_DISPUTES), "decisions": newest(_DECISIONS),
    }  # fmt: skip


def _print(session: Session, told: dict[str, Any]) -> None:
    detail = f" ({session.state_detail})" if session.state_detail else ""
    since = f" since {clock_time(session.state_us)}" if session.state_us else ""
    line(plain(f"{session.key}  {session.state}{detail}{since}"))
    if session.state_source:
        line(plain(f"  says {session.state_source}, confidence {session.state_confidence:.2f}"))
    if session.turn:
        line(plain(f"  in turn {session.turn} since {clock_time(session.turn_started_us)}"))
    if session.pending:
        line(f"  {len(session.pending)} messages wait for its prompt")
    for each in session.open_approvals:
        line(plain(f"  asks leave {each.request}: {each.tool} {each.summary}"))
    for heading, name in (("readings", "readings"), ("disagreements", "disputes"), ("decisions", "decisions")):
        if told[name]:
            line(f"  {heading}, the newest last:")
        for each in told[name]:
            line(plain(f"    {each['ts']}  {_words(each)}")[:400])


_ENVELOPE = frozenset({"ts", "seq", "type"})


def _words(told: dict[str, Any]) -> str:
    """One entry on one line."""
    match told["type"]:
        case "session.state_changed":
            seen = f"{told.get('state')}{_brackets(told.get('detail'))} says {told.get('source')}"
            return f"{seen}, confidence {told.get('confidence')}{_dash(told.get('evidence'))}"
        case "session.state_disputed":
            won, lost = f"{told.get('source')}: {told.get('state')}", f"{told.get('other_source')}: {told.get('other_state')}"
            return f"{won} prevails over {lost}{_dash(told.get('evidence'))}"
        case other:
            rest = {
                name: value for name, value in told.items() if name not in ("ts", "seq", "type") and value not in ("", None)
            }
            return f"{other}  {' '.join(f'{name}={value}' for name, value in rest.items())}"


def _brackets(text: object) -> str:
    return f"({text})" if text else ""


def _dash(text: object) -> str:
    return f" - {text}" if text else ""
