"""Recording the end of a session that nobody owns any more, which nobody else will: once, whoever finds it."""

from __future__ import annotations

import contextlib

from harness.errors import Conflict, KeyTaken, ProcessError
from harness.ledger import Expect, Store, Write, is_address
from harness.processes import end_tagged
from harness.sessions import facts, ids
from harness.sessions.closing import last_events
from harness.sessions.record import Session, folded

_GRACE_SECONDS = 1.0


def session_gone(store: Store, session: Session) -> bool:
    """Whether neither the guard nor the host of a session runs."""
    claimed = session.claimed
    if claimed is None:
        return True
    shared = is_address(store.location)
    processes = ((session.guard_pid, session.guard_started), (claimed.host_pid, claimed.host_started))
    return all(ids.process_gone(claimed.machine, pid, started, shared=shared) for pid, started in processes)


async def bury(store: Store, key: str) -> Session:
    """End what is left of a session here and record that it is lost; nothing happens if its end was recorded already.

    Its id and its vendor's session are free then.
    Messages that wait are dropped; of those that were written nobody will hear. Gives the session as it is then.
    """
    stream = facts.stream_of(key)
    session = folded(key, await store.read(stream))
    if session.live and session.claimed is not None and session.claimed.machine == ids.machine():
        with contextlib.suppress(ProcessError):  # of another user: that it is nobody's is true all the same
            await end_tagged(stream, grace_seconds=_GRACE_SECONDS)
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
