"""Failure 15: a bare driver error for a broken, foreign or absent database; a command on a missing file creates it and exits 0.

Each is one `StoreUnavailable` or `NotFound` line that names the place and says what to do, from Python and from the
command line, for SQLite and PostgreSQL; and nothing is created, changed or hidden by asking.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from harness import PostgresStore, SQLiteStore
from harness.errors import HarnessError, NotFound, StoreUnavailable
from harness.ledger import Draft, Write

PASSWORD = "correct-horse"
COMMANDS = [
    ("ledger", "verify"),
    ("ledger", "events", "/"),
    ("ledger", "streams"),
    ("ledger", "seal"),
    ("ledger", "erase", "item/a", "1", "--reason", "x"),
    ("ledger", "rebuild"),
    ("tickets", "list"),
]


def harness(folder: Path, database: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HARNESS_")}
    return subprocess.run(
        [sys.executable, "-m", "harness", *arguments],
        cwd=folder, env={**kept, "HOME": str(folder), "HARNESS_DATABASE": database},
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip


def is_one_clear_line(done: subprocess.CompletedProcess[str], place: str) -> None:
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert place in done.stderr
    assert "Traceback" not in done.stderr
    assert PASSWORD not in done.stderr


def note() -> Write:
    return Write("item/a", (Draft(type="note.taken", payload={"text": "x"}),))


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_command_on_a_missing_file_exits_with_1_and_makes_nothing(tmp_path: Path, command: tuple[str, ...]) -> None:
    """Neither the file nor those beside it appear."""
    done = harness(tmp_path, "absent.db", *command)

    is_one_clear_line(done, "absent.db")
    assert [path.name for path in tmp_path.rglob("*") if "absent" in path.name or path.suffix in (".db", ".pem")] == []


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_command_on_a_database_without_a_ledger_exits_with_1_and_makes_nothing(
    tmp_path: Path, postgres_dsn: str, command: tuple[str, ...]
) -> None:
    """No schema and no table appears."""
    done = harness(tmp_path, postgres_dsn.replace("postgres@", f"postgres:{PASSWORD}@"), *command)

    is_one_clear_line(done, "there is no ledger here")
    with psycopg.connect(postgres_dsn) as connection:
        assert connection.execute("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'harness%'").fetchall() == []


def broken_file(path: Path) -> None:
    SQLiteStore(path)._let_go(None)  # pyright: ignore[reportPrivateUsage]
    for beside in path.parent.glob(f"{path.name}-*"):
        beside.unlink()
    content = bytearray(path.read_bytes().ljust(8192, b"\0"))
    content[100:4096] = b"\xff" * 3996
    path.write_bytes(content)


def text_file(path: Path) -> None:
    path.write_text("Dear diary, this is no database at all.\n" * 50)


def foreign_file(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE songs (title TEXT)")
    connection.close()


def newer_file(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA application_id = {0x48524E53}")
    connection.execute("PRAGMA user_version = 99")
    connection.execute("CREATE TABLE x (y)")
    connection.close()


@pytest.mark.parametrize("harm", [broken_file, text_file, foreign_file, newer_file], ids=lambda harm: harm.__name__)
async def test_a_file_that_is_no_ledger_is_named_in_one_line(tmp_path: Path, harm: Callable[[Path], None]) -> None:
    """From Python and from the command line, and the file stays as it is."""
    path = tmp_path / "odd.db"
    harm(path)
    before = path.read_bytes()

    with pytest.raises(HarnessError) as caught:
        async with SQLiteStore(path) as store:
            await store.append(note())
    done = harness(tmp_path, "odd.db", "ledger", "verify")

    assert isinstance(caught.value, StoreUnavailable)
    assert "\n" not in str(caught.value)
    assert "odd.db" in str(caught.value)
    is_one_clear_line(done, "odd.db")
    assert path.read_bytes() == before


def absent_database(dsn: str) -> str:
    return f"{dsn}_absent"


def foreign_schema(dsn: str) -> str:
    execute(dsn, "CREATE SCHEMA harness; CREATE TABLE harness.songs (title text)")
    return dsn


def look_alike(dsn: str) -> str:
    execute(dsn, "CREATE SCHEMA harness; CREATE TABLE harness.meta (artist text)")
    return dsn


def newer_schema(dsn: str) -> str:
    execute(dsn, "CREATE SCHEMA harness; CREATE TABLE harness.meta (one bool, application text, version int)")
    execute(dsn, "INSERT INTO harness.meta VALUES (true, 'harness', 99)")
    return dsn


def unknown_user(dsn: str) -> str:
    return dsn.replace("postgres:", "nobody_here:")


def nobody_listens(dsn: str) -> str:
    head, _, database = dsn.rpartition("/")
    return f"{head.rpartition(':')[0]}:1/{database}"


def execute(dsn: str, statements: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(statements.encode())


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (absent_database, "missing"),
        (foreign_schema, "foreign"),
        (look_alike, "foreign"),
        (newer_schema, "newer"),
        (unknown_user, "denied"),
        (nobody_listens, "down"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
async def test_a_database_that_is_no_ledger_is_named_in_one_line(
    tmp_path: Path, postgres_dsn: str, harm: Callable[[str], str], reason: str
) -> None:
    """The same, with a reason for machines, and without the password anywhere in the chain of errors."""
    dsn = harm(postgres_dsn.replace("postgres@", f"postgres:{PASSWORD}@"))

    with pytest.raises(StoreUnavailable) as caught:
        async with PostgresStore(dsn, retry_seconds=0.1) as store:
            await store.append(note())
    done = harness(tmp_path, dsn, "ledger", "verify")

    assert caught.value.reason == reason
    assert "\n" not in str(caught.value)
    error: BaseException | None = caught.value
    while error is not None:
        assert PASSWORD not in f"{error} {error!r}"
        error = error.__cause__ or error.__context__
    is_one_clear_line(done, "postgresql://")


@pytest.mark.parametrize(
    "harm", ["DROP TABLE harness.events CASCADE", "DROP FUNCTION harness.judge", "ALTER TABLE harness.leases RENAME token TO t"]
)
async def test_a_database_that_breaks_under_an_open_store_says_so(postgres_dsn: str, harm: str) -> None:
    """What is missing is named, each time, and nothing of the append is written."""
    from harness.ledger import Acquire

    async with PostgresStore(postgres_dsn, retry_seconds=0.1) as store:
        await store.append(note())
        execute(postgres_dsn, harm)
        for _ in range(2):
            with pytest.raises(StoreUnavailable, match="is gone") as caught:
                await store.append(note(), guards=[Acquire("l", "me", 1, 60)])
            assert caught.value.reason == "broken"
        assert [head.seq for head in await store.heads()] == [1]


def test_an_unknown_stream_of_a_good_ledger_is_an_error_too(tmp_path: Path) -> None:
    """A ledger that is there does not make what is not there valid."""
    import asyncio

    async def make() -> None:
        async with SQLiteStore(tmp_path / "good.db") as store:
            await store.append(note())
            with pytest.raises(NotFound):
                await store.verify("item/b")

    asyncio.run(make())
    is_one_clear_line(harness(tmp_path, "good.db", "ledger", "verify", "item/b"), "item/b")
