"""Making and checking the ledger's schema: identity, version, migrations under a lock, and whom the role belongs to."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import psycopg

from harness.errors import StoreUnavailable
from harness.ledger.postgres import faults
from harness.ledger.postgres.address import Address
from harness.ledger.postgres.link import Connection, rows
from harness.ledger.postgres.locks import lock_id
from harness.ledger.postgres.statements import filled, script

APPLICATION = "harness"
SCHEMA_VERSION = 1
MIGRATIONS: dict[int, tuple[str, ...]] = {}  # from version N to N + 1; forward only; `{schema}` is put in
_OLDEST_SERVER = 140000
_BEFORE_ALL = 1  # no transaction has this number


@dataclass(frozen=True, slots=True)
class Standing:
    """What was found out about the ledger at the first connection."""

    tenant: str | None  # the one tenant that this role may see; None: all
    views: str  # the schema of the views' tables


def views_schema(schema: str, tenant: str | None, role: str = "") -> str:
    """Where views are kept: the owner's together, each member's apart, since it makes them, from what it may see."""
    if tenant is None:
        return f"{schema}_views"
    of_both = hashlib.sha256(f"{tenant}\0{role}".encode())
    return f"{schema}_v_{of_both.hexdigest()[:12]}"


async def prepare(connection: Connection, address: Address, *, create: bool, read_only: bool) -> Standing:
    """Check that the ledger is there and of this version; make or migrate it if that is wanted. Raises `StoreUnavailable`."""
    try:
        return await _prepare(connection, address, create=create and not read_only, migrate=not read_only)
    except psycopg.Error as error:
        if faults.lost(error):
            raise faults.down(error, address) from error
        raise faults.unavailable(error, address) from error


async def _prepare(connection: Connection, address: Address, *, create: bool, migrate: bool) -> Standing:
    if connection.info.server_version < _OLDEST_SERVER:
        found = connection.info.server_version // 10000
        raise StoreUnavailable(f"{address.location}: PostgreSQL {found} is too old; 14 or newer is needed", reason="broken")
    version = await _version(connection, address)
    if version == 0 and not create:
        raise StoreUnavailable(
            f"{address.location}: there is no ledger here; start something first, or name another one", reason="missing"
        )
    if version < SCHEMA_VERSION:
        if version and not migrate:
            raise StoreUnavailable(f"{address.location}: of an older version; open it once for writing", reason="missing")
        await _migrate(connection, address)
    await _rebase(connection, address, allowed=migrate)
    [(tenant, role)] = await rows(connection, f'SELECT "{address.schema}".my_tenant(), session_user::text')
    return Standing(tenant=tenant, views=views_schema(address.schema, tenant, role))


async def _version(connection: Connection, address: Address) -> int:
    """The schema's version; 0 if there is no ledger. Raises `StoreUnavailable` for what is none, or newer."""
    [(encoding, meta, others)] = await rows(
        connection,
        "SELECT current_setting('server_encoding'), to_regclass($1)::text,"
        " (SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $2)",
        (f'"{address.schema}".meta', address.schema),
    )
    if encoding != "UTF8":
        raise StoreUnavailable(f"{address.location}: the database's encoding is {encoding}, not UTF8", reason="foreign")
    foreign = StoreUnavailable(
        f"{address.location}: the schema {address.schema!r} belongs to another program; name another one with ?schema=",
        reason="foreign",
    )
    if meta is None:
        if others:
            raise foreign
        return 0
    try:
        found = await rows(connection, f'SELECT application, version FROM "{address.schema}".meta')
    except (psycopg.errors.UndefinedColumn, psycopg.errors.WrongObjectType) as error:
        raise foreign from error
    if len(found) != 1 or found[0][0] != APPLICATION:
        raise foreign
    version = int(found[0][1])
    if version > SCHEMA_VERSION:
        raise StoreUnavailable(
            f"{address.location}: written by a newer Harness (schema {version}, this one knows {SCHEMA_VERSION});"
            " upgrade Harness",
            reason="newer",
        )
    return version


async def _migrate(connection: Connection, address: Address) -> None:
    """Bring the schema to this version in one transaction; another process may be faster, so under a lock."""
    schema = f'"{address.schema}"'
    async with connection.transaction():
        await rows(connection, "SELECT pg_advisory_xact_lock($1)", (lock_id(address.schema, "migrate", ""),))
        version = await _version(connection, address)
        if version == 0:
            await connection.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}".encode())
            for part in script("schema").values():
                await connection.execute(filled(part, schema=schema).encode())
            await connection.execute(f'CREATE SCHEMA IF NOT EXISTS "{views_schema(address.schema, None)}"'.encode())
            await rows(connection, f"INSERT INTO {schema}.meta (application, version) VALUES ($1, 0)", (APPLICATION,))
            version = SCHEMA_VERSION
        while version < SCHEMA_VERSION:
            for statement in MIGRATIONS[version]:
                await connection.execute(filled(statement, schema=schema).encode())
            version += 1
        for part in script("append").values():
            await connection.execute(filled(part, schema=schema).encode())
        await rows(connection, f"UPDATE {schema}.meta SET version = $1", (version,))


async def _rebase(connection: Connection, address: Address, *, allowed: bool) -> None:
    """Give events of another server's transactions a place before all of this one's.

    A dump that was loaded here brings transaction numbers that may not have come yet; followers would wait for them.
    """
    newer = f"""SELECT EXISTS (SELECT 1 FROM "{address.schema}".events WHERE xid >= pg_snapshot_xmax(pg_current_snapshot()))"""
    if not (await rows(connection, newer))[0][0]:
        return
    if not allowed:
        raise StoreUnavailable(f"{address.location}: loaded from a dump; open it once for writing", reason="missing")
    async with connection.transaction():
        await rows(connection, "SELECT pg_advisory_xact_lock($1)", (lock_id(address.schema, "migrate", ""),))
        await connection.execute(f'LOCK TABLE "{address.schema}".events IN SHARE ROW EXCLUSIVE MODE'.encode())
        if (await rows(connection, newer))[0][0]:
            await connection.execute(f"""UPDATE "{address.schema}".events SET xid = '{_BEFORE_ALL}'""".encode())
            await connection.execute(f'DELETE FROM "{address.schema}".batches'.encode())
            folded = await rows(
                connection,
                "SELECT schemaname FROM pg_tables WHERE tablename = 'harness_folded' AND schemaname LIKE $1",
                (f"{address.schema}\\_v%",),
            )
            for (views,) in folded:
                await connection.execute(f'DELETE FROM "{views}".harness_folded'.encode())
