"""Removing the files of sessions that ended long ago. Their events stay in the ledger."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from harness.sessions import facts, ids

if TYPE_CHECKING:
    from harness.ledger import Store
    from harness.sessions.client.rows import Row
    from harness.sessions.client.sessions import Sessions


class Old(NamedTuple):
    """The folder of a run that ended before a moment."""

    key: str
    path: Path
    ended_us: int
    size: int  # bytes


async def old_folders(sessions: Sessions, before_us: int) -> list[Old]:
    """The folders of runs that had ended then; of what the ledger does not know nothing is said."""
    rows = {row.key: row for row in await sessions.list(live=None)}
    found: list[Old] = []
    for key, path in _folders(sessions.home):
        row = rows.get(key)
        if row is not None and (ended_us := _ended_us(row)) is not None and ended_us < before_us:
            found.append(Old(key, path, ended_us, _size(path)))
    return sorted(found, key=lambda old: (old.ended_us, old.key))


def _ended_us(row: Row) -> int | None:
    """When it ended; of one that is lost and not buried yet, when it was heard of last."""
    return row.exited_us if not row.live else row.last_us if row.state == "lost" else None


def _folders(home: Path) -> Iterator[tuple[str, Path]]:
    """Keys of runs and their folders."""
    with contextlib.suppress(OSError):
        for path in sorted((home / "sessions").iterdir()):
            if path.is_symlink() or not path.is_dir():
                continue
            key = path.name if ids.is_key(path.name) else _key_in(path)
            if ids.is_key(key) and path.name in (key, ids.id_of(key)):
                yield key, path


def _key_in(path: Path) -> str:
    try:
        return (path / "key").read_text(encoding="ascii")
    except (OSError, ValueError):
        return ""


def _size(path: Path) -> int:
    total = 0
    with contextlib.suppress(OSError):
        for each in path.rglob("*"):
            total += each.lstat().st_size if not each.is_symlink() else 0
    return total


async def remove(store: Store, old: Old) -> bool:
    """Remove the folder. False if a new run is about to take its place: then that run keeps it aside, for another time."""
    path = old.path
    if path.name != old.key:
        if await store.holder_of(facts.id_lock(ids.id_of(old.key))) is not None:
            return False
        archived = path.with_name(old.key)
        try:
            path.rename(archived)
        except OSError:
            return False
        if _key_in(archived) != old.key:  # a new run was faster: give it its folder back
            archived.rename(path)
            return False
        path = archived
    shutil.rmtree(path, ignore_errors=True)
    return not path.exists()
