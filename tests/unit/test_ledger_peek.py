"""Reading a view in a hurry, and what loads nothing heavy."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from harness.home import find_repository
from harness.ledger import Draft, Event, SQLiteStore, Statement, Write, peek_view
from harness.ledger import peek as peeking
from harness.ledger.database import SCHEMA_VERSION

ROWS = "SELECT name, notes FROM pages ORDER BY name"


class Pages:
    """How many notes each page has."""

    name = "pages"
    tables = ("pages",)
    ddl = ("CREATE TABLE IF NOT EXISTS pages (name TEXT PRIMARY KEY, notes INTEGER NOT NULL)",)
    prefixes = ("page/",)

    def fold(self, event: Event) -> Iterable[Statement]:
        yield (
            "INSERT INTO pages VALUES (?, 1) ON CONFLICT (name) DO UPDATE SET notes = pages.notes + 1",
            (event.stream,),
        )


def note(stream: str) -> Write:
    return Write(stream, (Draft(type="note.taken"),))


def peek(path: Path) -> list[tuple[object, ...]] | None:
    return peek_view(str(path), "pages", ROWS, prefix="page/")


async def test_rows_of_a_view_that_lacks_nothing(tmp_path: Path) -> None:
    """While another process's store is open, and after; events of other streams do not matter."""
    path = tmp_path / "odd ?#%41 name.db"
    async with SQLiteStore(path) as store:
        await store.append(note("other/x"))
        assert peek(path) == []
    async with SQLiteStore(path, views=[Pages()]) as store:
        await store.append(note("page/a"), note("page/a"), note("page/b"))
        await store.append(note("other/x"))
        assert peek(path) == [("page/a", 2), ("page/b", 1)]

    assert peek(path) == [("page/a", 2), ("page/b", 1)]


@pytest.mark.parametrize("others", [0, 60])
async def test_a_view_that_is_behind_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, others: int) -> None:
    """Who does not know the view does not fold it: then the store has to, near or far behind."""
    monkeypatch.setattr(peeking, "_NEAR", 50)
    path = tmp_path / "ledger.db"
    async with SQLiteStore(path, views=[Pages()]) as store:
        await store.append(note("page/a"))
    async with SQLiteStore(path) as store:
        await store.append(*(note("other/x") for _ in range(others + 1)))
        assert peek(path) == [("page/a", 1)]
        await store.append(note("page/a"))

        assert peek(path) is None
        assert await store.query(Pages(), ROWS) == [("page/a", 2)]
    assert peek(path) == [("page/a", 2)]


async def test_what_is_not_plain_is_left_to_the_store(tmp_path: Path) -> None:
    """Another kind of ledger, none, one of another version, a view or a table that is not there: no rows, no error."""
    path = tmp_path / "ledger.db"
    async with SQLiteStore(path) as store:
        await store.append(note("page/a"))
    (tmp_path / "text.db").write_text("no ledger at all, but a text of some length" * 9)

    assert peek(path) is None
    assert peek(tmp_path / "text.db") is None
    assert peek(tmp_path / "none.db") is None
    assert peek_view("postgresql://localhost/x", "pages", ROWS, prefix="page/") is None
    assert not (tmp_path / "none.db").exists()
    async with SQLiteStore(path, views=[Pages()]) as store:
        await store.query(Pages(), ROWS)
    assert peek(path) == [("page/a", 1)]
    assert peek_view(str(path), "pages", "SELECT nothing FROM pages", prefix="page/") is None
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    connection.close()
    assert peek(path) is None


def test_the_version_is_that_of_the_ledger() -> None:
    """Who changes the tables changes what reads them by hand."""
    assert peeking._SCHEMA_VERSION == SCHEMA_VERSION  # pyright: ignore[reportPrivateUsage]


@pytest.mark.parametrize(
    ("what", "heavy"),
    [
        ("from harness.ledger import peek_view; import harness.home", "asyncio msgspec anyio pydantic pathlib dataclasses"),
        ("import harness.ledger.sqlite, harness.clock", "anyio pydantic typer rich psutil"),
    ],
)
def test_importing_it_loads_nothing_heavy(what: str, heavy: str) -> None:
    """A glance is quick, and a small host stays small."""
    code = f"import sys; {what}; print([name for name in {heavy.split()!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)

    assert done.stdout.strip() == "[]"


def test_a_store_is_used_and_closed_without_anyio(tmp_path: Path) -> None:
    """Also closing it loads nothing more."""
    code = (
        "import asyncio, sys; from harness.ledger import Draft, SQLiteStore, Write\n"
        "async def main():\n"
        f"    async with SQLiteStore({str(tmp_path / 'l.db')!r}) as store:\n"
        "        await store.append(Write('page/a', (Draft(type='note.taken'),)))\n"
        "        await store.clock.sleep(0)\n"
        "asyncio.run(main()); print([name for name in ('anyio', 'pydantic') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)

    assert done.stdout.strip() == "[]"


def test_a_repository_is_found_upwards(tmp_path: Path) -> None:
    """A linked worktree is its own; without any it is the folder itself."""
    inside = tmp_path / "repo" / "a" / "b"
    inside.mkdir(parents=True)
    assert find_repository(str(inside)) == str(inside)

    (tmp_path / "repo" / ".git").mkdir()
    assert find_repository(str(inside)) == str(tmp_path / "repo")
    (tmp_path / "repo" / "a" / ".git").write_text("gitdir: elsewhere")
    assert find_repository(str(inside)) == str(tmp_path / "repo" / "a")
