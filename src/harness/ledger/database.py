"""Opening a ledger file: identity, schema version, migrations, pragmas, and what each failure means."""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path
from typing import Literal

from harness.errors import StoreUnavailable

Durability = Literal["full", "process"]

APPLICATION_ID = 0x48524E53  # "HRNS", in the file's header
SCHEMA_VERSION = 1
MIGRATIONS: dict[int, tuple[str, ...]] = {}  # from version N to N + 1; forward only
_WAIT_SECONDS = 5.0  # for another program's lock
_LOOK_AGAIN_SECONDS = 0.005


def unavailable(error: sqlite3.Error, path: Path | str) -> StoreUnavailable:
    """The driver's words as one line that says what to do."""
    text = str(error)
    for sign, reason, advice in (
        ("disk is full", "full", "the disk is full, so nothing of this was written; free some space and try again"),
        ("disk I/O", "broken", "the disk reports an I/O error; look at the system's log before you go on"),
        ("readonly", "read-only", "the ledger may not be written; look at the file's owner and mode"),
        ("not a database", "foreign", "this file is not a Harness ledger; name another one"),
        ("malformed", "broken", "the file is damaged; restore it from a backup, or import exported bundles"),
        ("unable to open", "missing", "the ledger cannot be opened; does its folder exist, and is it yours?"),
        ("locked", "busy", "another program holds the database locked; end it or try again"),
    ):
        if sign in text:
            return StoreUnavailable(f"{path}: {advice} ({text})", reason=reason)
    return StoreUnavailable(f"{path}: the database refuses: {text}", reason="broken")


def connect(path: Path, *, create: bool, read_only: bool, durability: Durability) -> sqlite3.Connection:
    """A connection to a ledger of this version. Raises `StoreUnavailable`.

    `create` makes a missing file; `read_only` makes no change whatever, not even a migration.
    """
    try:
        if read_only or not create:
            _must_exist(path)
        if create and not read_only:
            _create_private(path)
        uri = f"{path.absolute().as_uri()}?mode={'ro' if read_only else 'rw'}"
        connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, timeout=_WAIT_SECONDS)
    except sqlite3.Error as error:
        raise unavailable(error, path) from error
    except OSError as error:
        raise _denied(error, path) from error
    try:
        _set_up(connection, path, read_only=read_only, durability=durability)
    except sqlite3.Error as error:
        connection.close()
        raise unavailable(error, path) from error
    except BaseException:
        connection.close()
        raise
    return connection


def _denied(error: OSError, path: Path) -> StoreUnavailable:
    """An error of the file system as one that says what to do."""
    if isinstance(error, FileNotFoundError):
        told = f"the ledger cannot be created: there is no folder {path.parent}; make it first"
        return StoreUnavailable(f"{path}: {told}", reason="missing")
    if isinstance(error, PermissionError):
        told = f"{error.strerror}; look at the owner and mode of the folder {path.parent}"
        return StoreUnavailable(f"{path}: {told}", reason="read-only")
    return StoreUnavailable(f"{path}: the ledger cannot be opened: {error.strerror}", reason="missing")


def _must_exist(path: Path) -> None:
    if path.is_dir():
        raise StoreUnavailable(f"{path} is a folder, not a ledger", reason="foreign")
    if not path.exists():
        raise StoreUnavailable(f"{path}: there is no ledger here; start something first, or name another one", reason="missing")


def _create_private(path: Path) -> None:
    """Make the file readable by its owner only, whatever the umask."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        if path.is_dir():
            raise StoreUnavailable(f"{path} is a folder, not a ledger", reason="foreign") from None


def _set_up(connection: sqlite3.Connection, path: Path, *, read_only: bool, durability: Durability) -> None:
    connection.execute("BEGIN")  # so that all of it is of one moment: somebody else may be creating the ledger
    application = _pragma(connection, "application_id")
    version = _pragma(connection, "user_version")
    empty = application == 0 and not connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()
    connection.execute("COMMIT")
    if application != APPLICATION_ID and not empty:
        raise StoreUnavailable(f"{path}: this is a database of another program; name another file", reason="foreign")
    if version > SCHEMA_VERSION:
        raise StoreUnavailable(
            f"{path}: written by a newer Harness (schema {version}, this one knows {SCHEMA_VERSION}); upgrade Harness",
            reason="newer",
        )
    if read_only:
        if empty or version < SCHEMA_VERSION:
            raise StoreUnavailable(
                f"{path}: the ledger is empty or of an older version; open it once for writing", reason="missing"
            )
    else:
        _use_wal(connection)
        connection.execute(f"PRAGMA synchronous = {'FULL' if durability == 'full' else 'NORMAL'}")
        connection.execute("PRAGMA journal_size_limit = 16777216")
        connection.execute("PRAGMA secure_delete = ON")  # what an edit or a fold leaves behind would outlive an erasure
        if version < SCHEMA_VERSION:
            _migrate(connection)
    connection.execute("PRAGMA temp_store = MEMORY")
    connection.execute("PRAGMA cache_size = -4096")


def _use_wal(connection: sqlite3.Connection) -> None:
    """Keep a write-ahead log. SQLite does not wait by itself for others who change to it at this very moment."""
    deadline = time.monotonic() + _WAIT_SECONDS
    while _text(connection, "journal_mode") != "wal":
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(_LOOK_AGAIN_SECONDS)


def _migrate(connection: sqlite3.Connection) -> None:
    """Bring the schema to this version, in one transaction; another process may have been faster."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = _pragma(connection, "user_version")
        if version == 0 and not connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone():
            from importlib import resources  # with all that it loads, needed once in a ledger's life

            script = resources.files("harness.ledger").joinpath("schema.sql").read_text()
            for statement in script.split(";\n"):
                connection.execute(statement)
            version = SCHEMA_VERSION
        while version < SCHEMA_VERSION:
            for statement in MIGRATIONS[version]:
                connection.execute(statement)
            version += 1
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {version}")
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


def truncate_log(path: Path) -> bool:
    """Bring the write-ahead log into the file and cut it. Gives whether that was possible; waits for a moment only."""
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, isolation_level=None, timeout=0.2)
    try:
        return connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            return False
        raise unavailable(error, path) from error
    finally:
        connection.close()


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


def _text(connection: sqlite3.Connection, name: str) -> str:
    return str(connection.execute(f"PRAGMA {name}").fetchone()[0])
