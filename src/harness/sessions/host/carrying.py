"""What a run that continues another one takes over: the messages that never reached the agent, and where its counters stood."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from harness.ledger import Guard, Store, Unique
from harness.sessions import facts
from harness.sessions.burying import bury, session_gone
from harness.sessions.closing import NEVER_SENT
from harness.sessions.facts import MessageStatus, Mode
from harness.sessions.record import Message, Session, folded
from harness.sessions.reports import Cumulative

_BLOCK = 1 << 20
_KEEPS_IDS = (Mode.STREAM, Mode.APP_SERVER)  # what is typed at a terminal has none


def carried_lock(key: str) -> str:
    """The unique key of the run that took a run's messages over: two that continue it do not both send them."""
    return f"session-carried/{key}"


async def earlier(store: Store, key: str) -> Session | None:
    """The run that is continued, if the ledger knows it; one that nobody owns any more has ended then."""
    session = folded(key, await store.read(facts.stream_of(key)))
    if not session.seq:
        return None
    return await bury(store, key) if session.live and session_gone(store, session) else session


async def take_over(store: Store, before: Session) -> tuple[list[Message], list[Guard]]:
    """The messages that the claim of a run that continues another one queues again, and the guards that it needs for that."""
    lock = carried_lock(before.key)
    messages = carried(before, now_us=store.clock.now_us())
    if not messages or await store.holder_of(lock) is not None:
        return [], []
    return messages, [Unique(lock)]


def carried(before: Session, *, now_us: int) -> list[Message]:
    """The messages to queue again, in their order, under their own ids; none whose time is over.

    One that was on its way when the host died is sent again only if the program's own record can be read, is one that keeps
    our ids, and does not have it; nobody knows otherwise, and nothing is said twice.
    """
    doubtful = [message.id for message in before.messages.values() if message.status is MessageStatus.UNKNOWN]
    lost = _absent(Path(before.vendor_transcript or "/nowhere"), doubtful) if before.mode in _KEEPS_IDS else frozenset[str]()
    return [
        message
        for message in before.messages.values()
        if message.expires_us > now_us
        and (message.id in lost or (message.status is MessageStatus.DROPPED and message.reason == NEVER_SENT))
    ]


def counters(before: Session) -> Iterable[Cumulative]:
    """Where the vendor's counters stood: they go on over a resume, and what was counted is not counted again."""
    return before.counters.values()


def _absent(record: Path, ids: list[str]) -> frozenset[str]:
    """Which of these the program's own record surely lacks; none if it cannot be read."""
    left = {id_.encode(): id_ for id_ in ids}
    try:
        with record.open("rb") as file:
            held = b""
            while left and (part := file.read(_BLOCK)):
                data = held + part
                left = {word: id_ for word, id_ in left.items() if word not in data}
                held = data[-64:]
    except OSError:
        return frozenset()
    return frozenset(left.values())
