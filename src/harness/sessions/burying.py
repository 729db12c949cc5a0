"""Recording the end of a session that nobody owns any more, which nobody else will: once, whoever finds it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

from harness.errors import Conflict, HarnessError, KeyTaken, ProcessError
from harness.ledger import Expect, Store, Write, is_address
from harness.processes import end_tagged
from harness.sessions import facts, ids
from harness.sessions.closing import last_events, locks_of
from harness.sessions.events_file import EventsFile
from harness.sessions.record import Approval, Session, folded
from harness.sessions.summary_file import write as write_summary

_GRACE_SECONDS = 1.0


def session_gone(store: Store, session: Session) -> bool:
    """Whether neither the guard nor the host of a session runs.

    From within a sandbox they are not to be seen. There the host alone counts, by what it holds; its guard ends by itself.
    """
    claimed = session.claimed
    if claimed is None:
        return True
    shared = is_address(store.location)
    if ids.hidden(claimed.machine):
        return ids.let_go(claimed.folder, session.key)
    processes = ((session.guard_pid, session.guard_started), (claimed.host_pid, claimed.host_started))
    return all(ids.process_gone(claimed.machine, pid, started, shared=shared) for pid, started in processes)


async def bury(store: Store, key: str) -> Session:
    """End what is left of a session here and record that it is lost.

    Nothing happens if its end was recorded already, or if it had not even claimed its id. Its id and its vendor's session
    are free then. Messages that wait are dropped; of those that were written nobody will hear. Gives the session as it is
    then.
    """
    stream = facts.stream_of(key)
    session = folded(key, await store.read(stream))
    if not session.seq:
        return session
    if session.live and session.claimed is not None and session.claimed.machine == ids.machine():
        with contextlib.suppress(ProcessError):  # of another user: that it is nobody's is true all the same
            await end_tagged(stream, grace_seconds=_GRACE_SECONDS)
    while session.live:
        exited = facts.Exited(reason=facts.ExitReason.LOST, detail="its host died, and nobody saw how it ended", by=store.actor)
        drafts, guards = last_events(session, exited, store.clock.now_us(), held=await held_locks(store, session))
        waiting = session.open_approvals
        try:
            written = await store.append(Write(stream, drafts), guards=[Expect(stream, session.seq), *guards])
        except KeyTaken:
            await refresh(store, session)
            break
        except Conflict:
            await refresh(store, session)
        else:
            for event in written.events:
                session.fold(event)
            await withdraw_questions(store, waiting, "the session is lost")
            await _complete_files(store, session)
    return session


async def _complete_files(store: Store, session: Session) -> None:
    """Do in its folder what its host had no time for: the views tell its end, and the socket goes. One elsewhere stays."""
    if session.claimed is None:
        return
    folder = ids.Folder(home=Path(session.claimed.folder).parent.parent, key=session.key)
    if not folder.is_there:
        return
    folder.socket.unlink(missing_ok=True)
    file = EventsFile(folder.events, session.key)
    file.advance(await store.read(facts.stream_of(session.key)))
    file.close()
    write_summary(folder.path, session)


async def withdraw_questions(store: Store, approvals: Iterable[Approval], reason: str) -> None:
    """Tell people that nobody waits for their answer any more."""
    from harness.people import Questions

    for approval in approvals:
        if approval.question:
            with contextlib.suppress(HarnessError):  # it is about to pass its deadline in any case
                await Questions(store).withdraw(approval.question.removeprefix("question/"), reason=reason)


async def held_locks(store: Store, session: Session) -> list[str]:
    """Those of the keys that the run may hold which it does hold; the others are not its own to give back."""
    holders = [(lock, await store.holder_of(lock)) for lock in locks_of(session)]
    return [lock for lock, holder in holders if holder is not None and holder[0] == facts.stream_of(session.key)]


async def refresh(store: Store, session: Session) -> None:
    """Fold what was written to the session's stream since."""
    for event in await store.read(facts.stream_of(session.key), after=session.seq):
        session.fold(event)
