"""Making room for a new run: who holds the id is alive, or is buried; and what the guard's child does after a crash."""

from __future__ import annotations

import asyncio

import msgspec

from harness.errors import HarnessError, KeyTaken
from harness.ledger import Store
from harness.sessions.burying import bury, session_gone
from harness.sessions.record import folded
from harness.sessions.starting import IdTaken


async def make_room(store: Store, taken: KeyTaken, id_: str) -> None:
    """Return if the holder of a key is no more and was buried. Raises `HarnessError` naming who holds it otherwise."""
    key = taken.stream.partition("/")[2]
    holder = folded(key, await store.read(taken.stream))
    if holder.live and not session_gone(store, holder):
        if taken.name.startswith("vendor-session/"):
            vendor = taken.name.rpartition("/")[2]
            raise HarnessError(f"{holder.cli}'s session {vendor} is in use by session {holder.id!r} (pid {holder.guard_pid})")
        raise IdTaken(
            f"session {id_!r} is in use (pid {holder.pid or holder.guard_pid}); stop it with 'harness stop --id {id_}', "
            "or choose another --id"
        )
    await bury(store, key)


def bury_for_guard(deed: bytes) -> int:
    """In a child of the guard, after the host has died: end the agent's tree, then record that it is lost."""
    given = msgspec.json.decode(deed)
    return asyncio.run(_bury(str(given["database"]), str(given["key"])))


async def _bury(database: str, key: str) -> int:
    from harness.ledger import open_store
    from harness.sessions.view import SESSIONS_VIEW

    async with open_store(database, actor="guard", create=False) as store:
        store.register(SESSIONS_VIEW)
        await bury(store, key)
    return 0
