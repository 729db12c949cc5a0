"""A whole tree of processes: who belongs to it (a pure decision), finding it by its tag, and ending it.

Kinship is by mark in the environment, by session and group, by parent, and for orphans that were handed to us by the
output they still hold. One that cleared its environment, left the session, was orphaned and closed its output cannot be
told from the orphans of other trees: it is ended with the last tree of its owner.
"""

from __future__ import annotations

import asyncio
import os
import signal as signals
import weakref
from collections.abc import Collection, Iterable, Mapping
from typing import Literal, NamedTuple

from harness.errors import ProcessError
from harness.processes.environment import TAG, words_of
from harness.processes.exits import all_gone
from harness.processes.identity import Identity, Row, holds_file, read_environment, read_rows
from harness.processes.reaper import is_orphan, reap_orphans

Needed = Literal["nothing", "term", "kill"]

KILLED_SECONDS = 10.0  # how long a killed process may take to be gone before it is reported as stuck


class Stopped(NamedTuple):
    """What it took to end a tree: nothing was left to end, the first signal was enough, or SIGKILL was needed."""

    needed: Needed
    ended: int  # processes that were alive and are gone


class Found(NamedTuple):
    """A living process that carries a tag; descendants inherit it."""

    identity: Identity
    tag: str
    parent: int  # pid
    leader: bool  # whether it leads its session, as a spawned process does and most of its descendants do not


def kin(
    rows: Mapping[int, Row], *, root: Identity | None, own: int, known: Iterable[Identity] = (), marked: Collection[int] = ()
) -> set[int]:
    """The pids of a tree among `rows`; pure.

    Marked ones, those known from before, and the root; then, until nothing is added, children of members and whoever is
    in their sessions and groups. `own` is the owner: neither it nor the session it lives in ever belongs to the tree.
    """
    eldest = root.started if root else 0
    foreign = rows[own].session if own in rows else 0
    candidates = {pid: row for pid, row in rows.items() if pid != own and row.started >= eldest}
    before = frozenset(known)
    members = {pid for pid, row in candidates.items() if row.identity == root or row.identity in before or pid in marked}
    while True:
        sessions = {candidates[pid].session for pid in members} - {foreign, 0}
        more = {
            pid
            for pid, row in candidates.items()
            if pid not in members and (row.parent in members or row.session in sessions or row.group in members)
        }
        if not more:
            return members
        members |= more


_trees: weakref.WeakSet[Tree] = weakref.WeakSet()
"""Those of this process that may have living members."""


class Tree:
    """The processes of one spawn, looked up anew each time; remembers whom it has seen."""

    def __init__(self, root: Identity | None, *, tag: str, word: str = "", outputs: Iterable[tuple[int, int]] = ()) -> None:
        self._root = root
        self._word = word
        self._tag = tag
        self._outputs = tuple(outputs)
        self._known: set[Identity] = set()
        self._quiet = 0  # looks at a tree whose root has exited that found nobody
        _trees.add(self)

    def remember(self) -> None:
        """Look now, while kinship is still visible: called when the root has exited and is not reaped yet."""
        living = self.living()
        self._quiet = int(not living)
        self._known |= {row.identity for row in living if not _elsewhere(row, self._word)}
        if not self._known:
            _trees.discard(self)

    def living(self) -> list[Row]:
        """The members that have not exited."""
        rows: dict[int, Row] = {}
        marked: set[int] = set()
        eldest = self._root.started if self._root else 0
        for row in read_rows():  # marks are read at once: who lives for a moment only can still be asked now
            rows[row.pid] = row
            if row.started >= eldest and not row.dead and self._marked(row):
                marked.add(row.pid)
        members = kin(rows, root=self._root, own=os.getpid(), known=self._known, marked=marked)
        return [rows[pid] for pid in members if not rows[pid].dead]

    def _marked(self, row: Row) -> bool:
        environment = read_environment(row.pid)
        if self._word in words_of(environment) if self._word else environment.get(TAG) == self._tag:
            return True
        return is_orphan(row) and self._takes_orphan(row, environment)

    def _takes_orphan(self, row: Row, environment: Mapping[str, str]) -> bool:
        """Whether an orphan is ours: it holds our output, or says nothing and no other tree here can have lost it."""
        if any(holds_file(row.pid, file) for file in self._outputs):
            return True
        return not words_of(environment) and all(tree is self for tree in _trees)

    async def end(self, *, grace_seconds: float, signal: int) -> Stopped:
        """Signal, wait, kill, and return when nobody is left.

        Several may do this at once; each keeps its own deadline. Raises `ProcessError` naming who cannot be ended.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + grace_seconds
        told: set[Identity] = set()
        needed: Needed = "nothing"
        quiet = self._quiet
        while quiet < 2:  # one look can miss a process that is born while it looks
            living = {row.identity for row in self.living()}
            reap_orphans()
            quiet = 0 if living else quiet + 1
            if not living:
                continue
            left = deadline - loop.time()
            if left <= 0:
                needed = "kill"
                told |= await self._kill(living)
            elif living - told:
                needed = "term"
                for identity in _newest_first(living - told):
                    _tell(identity, signal)
                told |= living
                await asyncio.sleep(0)
            else:
                await all_gone(living, timeout_seconds=left)
        _trees.discard(self)
        return Stopped(needed=needed, ended=len(told))

    async def _kill(self, living: set[Identity]) -> set[Identity]:
        """Freeze first, so that none starts another one while the others die; then kill, and wait until they are gone."""
        frozen: set[Identity] = set()
        while living - frozen:
            for identity in _newest_first(living - frozen):
                _send(identity, signals.SIGSTOP)
            frozen |= living
            await asyncio.sleep(0)
            living = {row.identity for row in self.living()}
        denied = {identity.pid for identity in frozen if not _send(identity, signals.SIGKILL)}
        if denied:
            raise ProcessError(f"{self._tag}: pid {_listed(denied)} may not be ended by this user")
        if not await all_gone(frozen, timeout_seconds=KILLED_SECONDS):
            stuck = {identity.pid for identity in frozen if identity.alive()}
            raise ProcessError(f"{self._tag}: pid {_listed(stuck)} was killed and is not gone after {KILLED_SECONDS:.0f} s")
        return frozen


def _newest_first(identities: Iterable[Identity]) -> list[Identity]:
    """The order in which those who fork must be told, so that they have no time to do it again."""
    return sorted(identities, key=lambda identity: (identity.started, identity.pid), reverse=True)


def _send(identity: Identity, signal: int) -> bool:
    """False if this user may not; somebody who is gone needs no signal."""
    try:
        identity.signal(signal)
    except ProcessError:
        return False
    return True


def _tell(identity: Identity, signal: int) -> None:
    _send(identity, signal)
    if signal not in (signals.SIGKILL, signals.SIGSTOP):
        _send(identity, signals.SIGCONT)  # a suspended process could not act on it


def _listed(pids: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(pids)))


def _elsewhere(row: Row, word: str) -> bool:
    """Whether it carries the marks of another tree only: it was started to live apart."""
    words = words_of(read_environment(row.pid))
    return bool(words) and word not in words


def find(tag_prefix: str) -> list[Found]:
    """Every living process whose tag begins like this, oldest first, whoever started it."""
    found = [
        Found(identity=row.identity, tag=tag, parent=row.parent, leader=row.session == row.pid)
        for row in read_rows()
        if not row.dead and row.pid != os.getpid() and (tag := read_environment(row.pid).get(TAG, "")).startswith(tag_prefix)
        if tag
    ]
    return sorted(found, key=lambda one: (one.identity.started, one.identity.pid))


async def end_tagged(tag: str, *, grace_seconds: float, signal: int = signals.SIGTERM) -> Stopped:
    """End everything that carries exactly this tag, with all descendants: what an owner left behind that is no more."""
    return await Tree(None, tag=tag).end(grace_seconds=grace_seconds, signal=signal)
