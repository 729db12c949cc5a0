"""What must be true of a session after a kill, whoever was killed: nothing lost, nothing twice, nothing left."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence

from harness.ledger import Event, SQLiteStore
from harness.processes import find
from harness.sessions import facts
from harness.sessions.facts import MessageStatus
from harness.sessions.record import Session, folded
from harness.sessions.view import SESSIONS_VIEW

WORDS = re.compile(r"\bm\d\b")
_FOR_EVER = ("session-end/", "session-carried/", "question")  # keys of what happens once, and of people's questions
_AFTER_THE_END = {facts.QUEUED, facts.WITHDRAWN, facts.STOP_REQUESTED, facts.INTERRUPT_REQUESTED, facts.PROBE_REQUESTED}
_MOVES = {
    (None, facts.QUEUED),
    *(("queued", each) for each in (facts.WRITTEN, facts.DROPPED, facts.EXPIRED, facts.WITHDRAWN, facts.FAILED)),
    *(("written", each) for each in (facts.ACCEPTED, facts.COMPLETED, facts.FAILED, facts.LOST)),
    *(("accepted", each) for each in (facts.COMPLETED, facts.FAILED)),
}


Saved = Callable[[str], Mapping[str, int] | None]


async def look(
    database: str,
    *,
    told: Sequence[str],
    heard: Sequence[str],
    saved: Saved,
    receipts_last: bool,
) -> list[str]:
    """What is wrong with the runs of one session.

    `told` are lines of what clients were promised: `sent WORD ID`, `withdrew WORD`. `heard` are the words of the messages
    that the program got, in order; `saved` gives what it keeps of a session of its own. `receipts_last`: it notes what it
    has heard before it shows a sign of it.
    """
    async with SQLiteStore(database, read_only=True, views=[SESSIONS_VIEW]) as store:
        verified = await store.verify()
        wrong = [f"the chain does not verify: {problem.detail}" for problem in verified.problems]
        wrong += [f"the view {table} is not what its events tell" for table in await store.check(SESSIONS_VIEW)]
        runs = [(head.stream, await store.read(head.stream)) for head in await store.heads("session/")]
        runs.sort(key=lambda run: run[1][0].position)
        sessions = [folded(stream.partition("/")[2], events) for stream, events in runs]
        for stream, events in runs:
            wrong += [f"{stream}: {each}" for each in unlawful(events)]
            wrong += [f"{stream}: process {each.identity.pid} is left" for each in find(stream)]
        wrong += left_behind(database)
        wrong += untold(sessions, told)
        wrong += undelivered(sessions, heard, receipts_last=receipts_last)
        wrong += uncounted(sessions, saved)
    return wrong


async def noticed(database: str) -> set[str]:
    """Who has noticed that a host or a guard was killed."""
    found: set[str] = set()
    async with SQLiteStore(database, read_only=True) as store:
        for event in await store.read_all(streams=("session/",), types=(facts.GUARD_LOST, facts.EXITED), limit=1000):
            if event.type == facts.GUARD_LOST or event.payload["reason"] == "lost":
                found.add(event.actor.partition("/")[0])
    return found


def unlawful(events: Iterable[Event]) -> Iterable[str]:
    """A status that cannot follow the one before, more than one end, or something after it."""
    statuses: dict[str, MessageStatus] = {}
    session = Session(key="")
    late: set[str] = set()
    for event in events:
        if session.exited is not None and event.type not in _AFTER_THE_END:
            yield f"{event.type} after the end"
        session.fold(event)
        if event.type.startswith("message."):
            id_ = event.payload["message_id"]
            if (statuses.get(id_), event.type) not in _MOVES:
                yield f"{event.type} of a message that was {statuses.get(id_)}"
            statuses[id_] = facts.STATUS_AFTER[event.type]
            if session.exited is not None and event.type == facts.QUEUED:
                late.add(id_)  # its sender was killed before it could take it back
    if session.exited is None:
        yield "it has no end"
    for id_, status in statuses.items():
        if status not in facts.FINAL_STATUSES and id_ not in late:
            yield f"a message was left {status}"
    for approval in session.open_approvals:
        yield f"an approval was left open: {approval.request}"


def left_behind(database: str) -> list[str]:
    """Keys that are held and counters that count something."""
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    try:
        keys = [name for (name,) in connection.execute("SELECT name FROM keys")]
        counters = connection.execute("SELECT name, amount FROM counters WHERE amount <> 0").fetchall()
    finally:
        connection.close()
    left = [f"the key {key} is held" for key in keys if not key.startswith(_FOR_EVER)]
    return left + [f"the counter {name} is at {amount}" for name, amount in counters]


def untold(sessions: Sequence[Session], told: Sequence[str]) -> Iterable[str]:
    """What a client was promised, and is not so."""
    known = {id_: message for session in sessions for id_, message in session.messages.items()}
    for line in told:
        what, word, *rest = line.split()
        if what == "sent" and rest[0] not in known:
            yield f"{word} was sent, and is not on record"
        if what == "withdrew":
            standing = [message.status for message in known.values() if word in message.text]
            if standing != [MessageStatus.WITHDRAWN]:
                yield f"{word} was withdrawn, and is {standing}"


def undelivered(sessions: Sequence[Session], heard: Sequence[str], *, receipts_last: bool) -> Iterable[str]:
    """Messages that came twice, out of order, or otherwise than is on record."""
    standing = {WORDS.findall(message.text)[0]: message.status for session in sessions for message in session.messages.values()}
    if list(heard) != sorted(set(heard)):
        yield f"the agent heard {heard}"
    for word, status in standing.items():
        count = heard.count(word)
        match status:
            case MessageStatus.DONE:
                right = count == 1
            case MessageStatus.FAILED:  # its turn was cut
                right = count == 1 or not receipts_last
            case MessageStatus.UNKNOWN:
                right = count <= 1
            case _:
                right = count == 0
        if not right:
            yield f"{word} is {status}, and the agent heard it {count} times"
    if standing.get("m9") is not MessageStatus.DONE:
        yield f"the message of the second run is {standing.get('m9')}"


def uncounted(sessions: Sequence[Session], saved: Saved) -> Iterable[str]:
    """Tokens that the program counts and that are on record twice, or not at all."""
    vendor = sessions[-1].vendor_session if sessions else ""
    if (kept := saved(vendor)) is not None:
        counted = sum(session.totals.input_tokens for session in sessions if session.vendor_session == vendor)
        if counted != kept["input_tokens"]:
            yield f"the program counts {kept['input_tokens']} tokens, and {counted} are on record"
