"""The host's side of its stream: appending, and folding whatever anybody has appended. Owns the files made of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec

from harness.errors import Busy, Conflict, StoreUnavailable
from harness.ledger import Draft, Event, Expect, Guard, Reserve, Store, Write
from harness.sessions import facts
from harness.sessions.events_file import EventsFile
from harness.sessions.ids import Folder
from harness.sessions.record import Session
from harness.sessions.summary_file import write as write_summary

_KEEP = 64  # messages, and approvals, that are over; each look at those that wait goes through all of them
_SAVE_SECONDS = 1.0
_AGAIN_SECONDS = 0.5  # between tries at a full disk, or at a server that is away; up to ten times as long in the end

T = TypeVar("T")


async def patiently(work: Callable[[], Awaitable[T]], *, meanwhile: Callable[[], Awaitable[object]] | None = None) -> T:
    """Wait for a ledger that others hold, that has no room or that is away. An agent's work is not lost for that.

    `meanwhile` is done before each new try.
    """
    pause = _AGAIN_SECONDS
    while True:
        try:
            return await work()
        except Busy:  # it has waited for long already
            if meanwhile is not None:
                await meanwhile()
        except StoreUnavailable as error:
            if error.reason not in ("busy", "full", "down"):
                raise
            await asyncio.sleep(pause)
            pause = min(2 * pause, 10 * _AGAIN_SECONDS)
            if meanwhile is not None:
                await meanwhile()


class Recorder:
    """One session's stream as this host knows it. Used by one task at a time."""

    def __init__(self, store: Store, folder: Folder) -> None:
        self.store = store
        self.stream = facts.stream_of(folder.key)
        self.session = Session(key=folder.key)
        self.writing = asyncio.Lock()  # held by whoever decides from what is on record and writes
        self._folder = folder
        self._file: EventsFile | None = None
        self._saving: asyncio.TimerHandle | None = None
        self._saved = -_SAVE_SECONDS
        self.seen: Callable[[Event], object] = lambda _event: None  # told of every event of the stream, in order

    def open_files(self) -> None:
        """Begin the views in the session's folder, which exists now."""
        self._file = EventsFile(self._folder.events, self._folder.key)

    async def append(self, *drafts: Draft, guards: tuple[Guard, ...] = ()) -> None:
        """Write events and fold them, with those of others in between. Waits for a ledger that cannot be written just now.

        What others could write, a stop above all, is seen while it waits.
        """
        write, since = Write(self.stream, drafts), self.session.seq
        while drafts:
            try:
                await patiently(lambda: self.store.append(write, guards=guards), meanwhile=self.catch_up)
                break
            except StoreUnavailable as error:
                if error.reason != "unknown":
                    raise
                if await self._are_there(drafts, since):
                    break
        await self.catch_up()

    async def _are_there(self, drafts: tuple[Draft, ...], since: int) -> bool:
        """Whether an append of which nobody knows was written."""
        events = await patiently(lambda: self.store.read(self.stream, after=since))
        ours = [(event.type, event.payload) for event in events if event.actor == self.store.actor]
        wanted = [(each.type, msgspec.json.decode(msgspec.json.encode(each.payload))) for each in drafts]
        return any(ours[at : at + len(wanted)] == wanted for at in range(len(ours)))

    async def catch_up(self) -> list[Event]:
        """Fold what is new; gives those events."""
        found: list[Event] = []
        while events := await patiently(lambda: self.store.read(self.stream, after=self.session.seq, limit=500)):
            for event in events:
                self.session.fold(event)
                self.seen(event)
            found += events
            if self._file is not None:
                self._file.advance(events)
        if self._file is not None and self._file.seq < self.session.seq:  # more than it keeps waited for the disk
            after = self._file.seq
            self._file.advance(await patiently(lambda: self.store.read(self.stream, after=after, limit=500)))
        if found:
            self._forget_old()
        return found

    async def move(self, message_id: str, type_: str, *, reason: str = "", turn: str = "", expect: bool = False) -> bool:
        """Give a message its next status; False if somebody was faster, which `catch_up` then knows."""
        session = self.session
        message = session.messages.get(message_id)
        if message is None or not message.open:
            return False
        drafts, guards = moved(session, message_id, type_, reason=reason, turn=turn)
        if expect:
            guards = (*guards, Expect(self.stream, session.seq))
        try:
            await self.append(*drafts, guards=guards)
        except Conflict:
            await self.catch_up()
            return False
        return True

    def save_soon(self) -> None:
        """Write `session.json` at once, or a second after the last time: each message changes the state more than once."""
        if self._saving is None:
            loop = asyncio.get_running_loop()
            self._saving = loop.call_at(max(loop.time(), self._saved + _SAVE_SECONDS), self.save)

    def save(self) -> None:
        """Write `session.json` as things stand."""
        if self._saving is not None:
            self._saving.cancel()
            self._saving = None
        self._saved = asyncio.get_running_loop().time()
        write_summary(self._folder.path, self.session)

    def _forget_old(self) -> None:
        """A session of days sees many messages and approvals; those that are over are told by the ledger."""
        messages, approvals = self.session.messages, self.session.approvals
        if len(messages) > 2 * _KEEP:
            for id_ in [id_ for id_, message in messages.items() if not message.open][:-_KEEP]:
                status = messages.pop(id_).status
                self.session.forgotten[status] = self.session.forgotten.get(status, 0) + 1
        if len(approvals) > 2 * _KEEP:
            for request in [request for request, approval in approvals.items() if approval.decision][:-_KEEP]:
                del approvals[request]


def moved(
    session: Session, message_id: str, type_: str, *, reason: str = "", turn: str = "", receipt: str = ""
) -> tuple[tuple[Draft, ...], tuple[Guard, ...]]:
    """The events and guards of a message's next status. One that leaves the queue gives its place in the inbox back."""
    message = session.messages[message_id]
    payload = facts.Moved(message_id=message_id, reason=reason, turn=turn, receipt=receipt)
    waits = message.status is facts.MessageStatus.QUEUED
    guards: tuple[Guard, ...] = (Reserve(facts.inbox_counter(session.key), -1, None),) if waits else ()
    return (Draft(type=type_, payload=payload),), guards


def draft(type_: str, payload: msgspec.Struct) -> Draft:
    """An event of the session."""
    return Draft(type=type_, payload=payload)
