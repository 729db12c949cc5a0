"""All sessions of one ledger, from outside: list, message, stop, decide, follow, wait.

Everything is asked for by an event and a ring of the session's bell; nothing here waits for a host unless it says so.
"""

from __future__ import annotations

import contextlib
import signal
import uuid
from collections.abc import AsyncGenerator, Collection, Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path

import msgspec

from harness.errors import Conflict, NotFound, Refused, StoreUnavailable, UsageError
from harness.ledger import Draft, Event, Expect, Reserve, Store, Value, Write, is_address
from harness.processes import Identity
from harness.sessions import facts, ids
from harness.sessions.burying import bury, refresh, session_gone
from harness.sessions.client import messages, retention
from harness.sessions.client.retention import Old
from harness.sessions.client.rows import Row, seen, select
from harness.sessions.client.until import Until, Waiting
from harness.sessions.client.waiting import following
from harness.sessions.closing import end_lock
from harness.sessions.facts import MessageStatus, Origin, Placing
from harness.sessions.record import Message, Session, folded
from harness.sessions.view import SESSIONS_VIEW
from harness.wake import Bell

_MICROSECONDS = 1_000_000
_PAGE = 500
_MAX_TTL_SECONDS = 366 * 86_400.0


def agent_runs(session: Session) -> bool | None:
    """Whether its agent's own process is there; None if that cannot be told from here."""
    if session.claimed is None or session.claimed.machine != ids.machine():
        return None
    return not session.pid or Identity(pid=session.pid, started=session.pid_started).alive()


class Sessions:
    """The sessions of a ledger and their folders below `home`.

    `key` is a run's key throughout; `row` and `get` find it for an id. Methods that wait, wait for ever: cancel them.
    They raise `NotFound` for a session that is unknown, and, where something is asked of it, for one that has ended.
    """

    def __init__(self, store: Store, home: Path) -> None:
        self._store = store
        self.home = home
        store.register(SESSIONS_VIEW)

    def folder(self, key: str) -> ids.Folder:
        """Where the run's files are."""
        return ids.Folder(home=self.home, key=key)

    # Looking

    async def list(self, *, live: bool | None = True, repo: str | None = None, cli: str | None = None) -> list[Row]:
        """Rows, the newest first: of runs that go on (None: of all, False: of those that are over).

        One whose guard is gone is shown as lost and still counts as live until somebody records its end.
        """
        sql, values = select(live=live, repo=repo, cli=cli)
        return self._seen(await self._store.query(SESSIONS_VIEW, sql, *values))

    async def row(self, name: str, *, repo: str | None = None, cli: str | None = None) -> Row:
        """The row of a run by its key, or of the newest run of an id, a living one first.

        Raises `NotFound`, also if it is of another repository or program than is meant.
        """
        sql, values = select(name=name)
        found = self._seen(await self._store.query(SESSIONS_VIEW, sql, *values))
        if not found:
            raise NotFound(f"no session {name!r}; {await self._hint(name)}")
        row = found[0]
        for what, meant, is_ in (("program", cli, row.cli), ("repository", repo, row.repo)):
            if meant is not None and meant != is_:
                raise NotFound(f"no session {name!r} of {what} {meant!r}: that of this id has {is_!r}")
        return row

    def _seen(self, rows: Iterable[Sequence[Value]]) -> list[Row]:
        return seen(rows, shared=is_address(self._store.location))

    async def _hint(self, name: str) -> str:
        known = [str(row[0]) for row in await self._store.query(SESSIONS_VIEW, "SELECT DISTINCT id FROM sessions ORDER BY id")]
        near = get_close_matches(name, known, n=1)
        return f"did you mean {near[0]!r}?" if near else "`harness status --all` lists those that there are"

    async def get(self, name: str) -> Session:
        """All that is known of the run that `row` finds."""
        return await self._fold((await self.row(name)).key)

    async def _fold(self, key: str) -> Session:
        session = folded(key, await self._store.read(facts.stream_of(key)))
        if not session.seq:
            raise NotFound(f"no session {key!r}; {await self._hint(key.partition('@')[0])}")
        return session

    # Messages

    async def send(
        self,
        key: str,
        text: str,
        *,
        placing: Placing = Placing.QUEUE,
        origin: Origin | None = None,
        ttl_seconds: float | None = None,
        submit: bool = True,
        only_submit: bool = False,
        forced: bool = False,
    ) -> str:
        """Put a message into the session's inbox, cleaned of control bytes; gives its id. It is durable when this returns.

        Raises `InboxFull`, `UsageError` for a message that is empty or too large.
        """
        claimed = await self._claimed(key)
        text = "" if only_submit else messages.clean(text)
        if not (text or only_submit):
            raise UsageError("nothing to send: the message is empty")
        seconds = claimed.inbox_ttl_seconds if ttl_seconds is None else ttl_seconds
        if not 0 < seconds <= _MAX_TTL_SECONDS:
            raise UsageError(f"a message waits for a time above 0 s and up to a year, not {seconds:g} s")
        message = facts.Queued(
            message_id=str(uuid.uuid4()), text=text, placing=placing, origin=origin or Origin(), submit=submit,
            only_submit=only_submit, forced=forced, expires_us=self._store.clock.now_us() + round(seconds * _MICROSECONDS),
        )  # fmt: skip
        room = Reserve(facts.inbox_counter(key), 1, facts.INBOX_LIMIT)
        draft = Draft(type=facts.QUEUED, payload=message)
        try:
            written = await self._store.append(Write(facts.stream_of(key), (draft,)), guards=[room])
        except Refused as refused:
            raise messages.InboxFull(refused) from refused
        await self._must_be_in_time(key, message.message_id, written.first)
        self._ring(key)
        return message.message_id

    async def _must_be_in_time(self, key: str, message_id: str, queued: Event) -> None:
        """Take a message back that came after the session's end: nobody would ever read it."""
        end = await self._store.holder_of(end_lock(key))
        if end is not None and end[1] < queued.seq:
            with contextlib.suppress(NotFound):
                await self.withdraw(key, message_id, reason="the session had ended")
            raise self._over(key)

    async def withdraw(self, key: str, message_id: str, *, reason: str = "") -> MessageStatus:
        """Take a message back, if it is not on its way yet; gives where it stands afterwards."""
        session = await self._fold(key)
        message = _message(session, message_id)
        await self._unqueue(session, [message_id], facts.WITHDRAWN, by=self._store.actor, reason=reason)
        return message.status

    async def drop(self, key: str, message_id: str | None, *, by: str) -> list[str]:
        """Remove a message that waits (None: all of them) from the inbox; gives the ids of those that were."""
        session = await self._fold(key)
        if message_id is not None:
            _message(session, message_id)
        return await self._unqueue(session, None if message_id is None else [message_id], facts.DROPPED, by=by, reason="")

    async def _unqueue(
        self, session: Session, chosen: Collection[str] | None, type_: str, *, by: str, reason: str
    ) -> list[str]:
        """Move messages out of the queue as far as they are still in it, which the host does at the same time."""
        stream = facts.stream_of(session.key)
        while True:
            taken = [message.id for message in session.pending if chosen is None or message.id in chosen]
            if not taken:
                return []
            drafts = [Draft(type=type_, payload=facts.Moved(message_id=id_, reason=reason, by=by)) for id_ in taken]
            guards = [Expect(stream, session.seq), Reserve(facts.inbox_counter(session.key), -len(taken))]
            with contextlib.suppress(Conflict):
                await self._store.append(Write(stream, tuple(drafts)), guards=guards)
                await refresh(self._store, session)
                self._ring(session.key)
                return taken
            await refresh(self._store, session)

    async def message(self, key: str, message_id: str, *, until: Collection[MessageStatus]) -> Message:
        """Wait until a message stands at one of these, or the session has ended; gives it as it is then."""
        session = await self._fold(key)
        message = _message(session, message_id)
        if message.status in until or not session.live:
            return message
        async with contextlib.aclosing(following(self._store, session, after=session.seq)) as feed:
            async for event in feed:
                session.fold(event)
                if message.status in until or not session.live:
                    break
        return message

    # Asking the host

    async def stop(self, key: str, *, by: str, timeout_seconds: float = 30.0, kill: bool = False, reason: str = "") -> None:
        """Ask for the session's end; `ended` waits for it. Asking again, or for what has ended, does no harm.

        A ledger that has no room takes no request: then its host is asked by a signal, if it is one of this machine.
        """
        with contextlib.suppress(_Over):
            asked = facts.StopRequested(by=by, timeout_seconds=timeout_seconds, kill=kill, reason=reason)
            try:
                await self._ask(key, facts.STOP_REQUESTED, asked)
            except StoreUnavailable as error:
                claimed = await self._claimed(key)
                if error.reason != "full" or claimed.machine != ids.machine():
                    raise
                Identity(pid=claimed.host_pid, started=claimed.host_started).signal(signal.SIGTERM)

    async def interrupt(self, key: str, *, by: str, reason: str = "") -> None:
        """Ask for the end of the turn under way."""
        await self._ask(key, facts.INTERRUPT_REQUESTED, facts.InterruptRequested(by=by, reason=reason))

    async def probe(self, key: str, *, by: str, reason: str = "") -> None:
        """Ask for a sign of life, which comes as an event."""
        await self._ask(key, facts.PROBE_REQUESTED, facts.ProbeRequested(by=by, reason=reason))

    async def _ask(self, key: str, type_: str, payload: msgspec.Struct) -> None:
        await self._claimed(key)
        await self._store.append(Write(facts.stream_of(key), (Draft(type=type_, payload=payload),)))
        self._ring(key)

    async def decide(self, key: str, request: str, *, allow: bool, by: str, reason: str = "") -> None:
        """Answer what the agent asked leave for. Raises `Conflict` if it is decided, `PolicyDenied` if it is too late."""
        from harness.people import Questions

        session = await self._fold(key)
        approval = session.approvals.get(request)
        if approval is None:
            raise NotFound(f"{key} asked for no approval {request!r}; `harness why session {key}` lists what it asked for")
        if approval.decision:
            raise Conflict(f"{request} is decided already: {approval.decision} by {approval.by}", name=request)
        if not session.live:
            raise self._over(key)
        if not approval.question:
            raise Conflict(f"{request} is decided by a rule, and nobody is asked", name=request)
        questions = Questions(self._store)
        asked = await questions.get(approval.question.removeprefix("question/"))
        await questions.answer(asked.id, "approve" if allow else "deny", by=by, digest=asked.digest, note=reason)
        self._ring(key)

    async def _claimed(self, key: str) -> facts.Claimed:
        """What the run was started with. Raises `NotFound` if there is none, or if it has ended."""
        ids.id_of(key)
        row = await self.row(key)
        first = await self._store.event(facts.stream_of(row.key), 1)
        if row.live and row.state == facts.State.LOST:
            row = row if (await self._buried(key)).live else row._replace(exited_us=row.last_us)
        if not row.live or first is None or first.erased:
            raise self._over(key)
        return first.load(facts.Claimed)

    def _over(self, key: str) -> NotFound:
        return _Over(f"session {ids.id_of(key)} has ended; `harness status` lists those that run")

    def _ring(self, key: str) -> None:
        bell = Bell(self.folder(key).bell)
        bell.ring()
        bell.close()

    # Waiting

    async def events(self, key: str, *, after: int = 0) -> AsyncGenerator[Event]:
        """The run's events above `after` that there are now."""
        stream = facts.stream_of(key)
        while events := await self._store.read(stream, after=after, limit=_PAGE):
            for event in events:
                yield event
            after = events[-1].seq

    async def follow(self, key: str, *, after: int = 0) -> AsyncGenerator[Event]:
        """The run's events above `after` and those to come; ends with the run, which is buried if nobody owns it any more."""
        session = await self._fold(key)
        async with contextlib.aclosing(following(self._store, session, after=after)) as feed:
            async for event in feed:
                yield event

    async def until(self, key: str, what: Until) -> Waiting:
        """Wait until this has come or the run has ended; `Waiting.come` says which."""
        waiting = Waiting(key, what)
        for event in await self._store.read(facts.stream_of(key)):
            waiting.see(event)
        session = waiting.session
        if not session.seq:
            raise NotFound(f"no session {key!r}; {await self._hint(key.partition('@')[0])}")
        if not waiting.come and session.live:
            async with contextlib.aclosing(following(self._store, session, after=session.seq)) as feed:
                async for event in feed:
                    waiting.see(event)
                    if waiting.come or not session.live:
                        break
        return waiting

    async def ended(self, key: str) -> Session:
        """Wait for the run's end and give it; records the end of one whose guard and host are gone."""
        session = await self._buried(key)
        if session.live:
            async with contextlib.aclosing(following(self._store, session, after=session.seq)) as feed:
                async for event in feed:
                    session.fold(event)
                    if not session.live:
                        break
        return session

    # Tidying

    async def bury_lost(self) -> list[str]:
        """Record the end of every run that nobody owns any more; gives their keys."""
        lost = [row.key for row in await self.list() if row.state == facts.State.LOST]
        return [key for key in lost if (await self._buried(key)).state is facts.State.LOST]

    async def _buried(self, key: str) -> Session:
        session = await self._fold(key)
        return await bury(self._store, key) if session.live and session_gone(self._store, session) else session

    async def old_folders(self, before_us: int) -> list[Old]:
        """The folders of runs that ended before a moment, the oldest first."""
        return await retention.old_folders(self, before_us)

    async def remove(self, old: Old) -> bool:
        """Remove such a folder; False if it is needed (again)."""
        return await retention.remove(self._store, old)


class _Over(NotFound):
    """The session has ended, so nothing can be asked of it."""


def _message(session: Session, message_id: str) -> Message:
    message = session.messages.get(message_id)
    if message is None:
        raise NotFound(f"{session.key} has no message {message_id!r}; `harness inbox --id {session.id} list` lists them")
    return message
