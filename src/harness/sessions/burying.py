"""Recording the end of a session that nobody owns any more, which nobody else will: once, whoever finds it."""

from __future__ import annotations

from harness.errors import Conflict, KeyTaken
from harness.ledger import Expect, Store, Write, is_address
from harness.sessions import facts
from harness.sessions.closing import last_events
from harness.sessions.ids import process_gone
from harness.sessions.record import Session, folded


def session_gone(store: Store, session: Session) -> bool:
    """Whether neither the guard nor the host of a session runs."""
    claimed = session.claimed
    if claimed is None:
        return True
    shared = is_address(store.location)
    processes = ((session.guard_pid, session.guard_started), (claimed.host_pid, claimed.host_started))
    return all(process_gone(claimed.machine, pid, started, shared=shared) for pid, started in processes)


async def bury(store: Store, key: str) -> Session:
    """Record that a session is lost, free its id and its vendor's session; nothing happens if its end was recorded already.

    Messages that wait are dropped; of those that were written nobody will hear. Gives the session as it is then.
    """
    stream = facts.stream_of(key)
    session = folded(key, await store.read(stream))
    while session.live:
        exited = facts.Exited(reason=facts.ExitReason.LOST, detail="its host died, and nobody saw how it ended", by=store.actor)
        drafts, guards = last_events(session, exited, store.clock.now_us())
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
    return session


async def refresh(store: Store, session: Session) -> None:
    """Fold what was written to the session's stream since."""
    for event in await store.read(facts.stream_of(session.key), after=session.seq):
        session.fold(event)
