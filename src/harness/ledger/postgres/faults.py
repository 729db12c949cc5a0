"""What each failure of the driver means, as one line that says what to do."""

from __future__ import annotations

import re

import psycopg
from psycopg import errors

from harness.errors import LedgerError, StoreUnavailable
from harness.ledger.postgres.address import Address

_BY_STATE: tuple[tuple[str, str, str], ...] = (
    ("3D000", "missing", "there is no such database on the server; create it, or name another one"),
    ("28", "denied", "the server refuses this user; look at user, password and pg_hba.conf"),
    ("42501", "denied", "this user may not do that; look at its rights, or open the ledger as its owner"),
    ("53300", "busy", "the server has no connection left; raise max_connections or close some"),
    ("53100", "full", "the server's disk is full, so nothing of this was written; free some space and try again"),
    ("53", "full", "the server is short of resources, so nothing of this was written"),
    ("25006", "read-only", "the server takes no writes, as a standby does; name the primary"),
    ("3F000", "broken", "a part of the ledger's schema is gone; restore it from a backup"),
    ("42P01", "broken", "a table of the ledger is gone; restore it from a backup, or import exported bundles"),
    ("42703", "broken", "a column of the ledger is gone; restore it from a backup, or import exported bundles"),
    ("42883", "broken", "a function of the ledger is gone; restore it from a backup, or import exported bundles"),
    ("XX", "broken", "the server says that its data is damaged; look at its log before you go on"),
    ("58", "broken", "the server reports an I/O error; look at its log before you go on"),
)

_AT_LOGIN: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"database \S+ does not exist"), "3D000"),
    (re.compile(r"role \S+ does not exist|authentication failed|no password|pg_hba|not permitted to log in"), "28"),
    (re.compile(r"too many clients|remaining connection slots|too many connections"), "53300"),
)


def lost(error: BaseException) -> bool:
    """Whether the connection is gone, so that nobody knows what became of the statement."""
    if isinstance(error, (errors.AdminShutdown, errors.CrashShutdown, errors.CannotConnectNow)):
        return True
    if isinstance(error, psycopg.OperationalError):
        return error.sqlstate is None or (error.sqlstate[:2] in ("08", "57") and not isinstance(error, errors.QueryCanceled))
    return isinstance(error, (psycopg.InterfaceError, OSError))


def again(error: BaseException) -> bool:
    """Whether the server undid the transaction for a reason that another attempt does not meet."""
    return isinstance(error, (errors.DeadlockDetected, errors.SerializationFailure))


def waited(error: BaseException) -> bool:
    """Whether somebody else held a lock for too long."""
    return isinstance(error, (errors.LockNotAvailable, errors.QueryCanceled))


def unwritable(error: BaseException) -> bool:
    """Whether it is the value that cannot be written, and not the database that cannot write."""
    values = (psycopg.DataError, psycopg.NotSupportedError, errors.ProgramLimitExceeded, OverflowError, UnicodeError)
    return isinstance(error, values)


def of_one(error: BaseException) -> bool:
    """Whether one append of several in a transaction may be what the database refuses, and not the others."""
    return unwritable(error) or isinstance(error, errors.InsufficientPrivilege)  # such as a row of another tenant


def down(error: BaseException | None, address: Address) -> StoreUnavailable:
    """The server cannot be reached."""
    text = f" ({address.clean(str(error))})" if error is not None and str(error) else ""
    advice = "the database cannot be reached; is the server up, and is this its address?"
    return StoreUnavailable(f"{address.location}: {advice}{text}", reason="down")


def unavailable(error: BaseException, address: Address) -> LedgerError:
    """The driver's words as one line that says what to do."""
    state = (error.sqlstate or "") if isinstance(error, psycopg.Error) else ""
    text = address.clean(_words(error))
    for sign, reason, advice in _BY_STATE:
        if state.startswith(sign):
            return StoreUnavailable(f"{address.location}: {advice} ({text})", reason=reason)
    if unwritable(error):
        return LedgerError(f"this cannot be written: {text}")
    if not state or lost(error):
        for sign, known in _AT_LOGIN:  # libpq reports these without a code
            if sign.search(text):
                _, reason, advice = next(row for row in _BY_STATE if row[0] == known)
                return StoreUnavailable(f"{address.location}: {advice} ({text})", reason=reason)
        return down(error, address)
    return StoreUnavailable(f"{address.location}: the database refuses: {text}", reason="broken")


def _words(error: BaseException) -> str:
    if isinstance(error, psycopg.Error) and error.diag.message_primary:
        return error.diag.message_primary
    return str(error)
