"""Row-level security: binding a database role to one tenant, whose rows it then sees and writes alone."""

from __future__ import annotations

from psycopg import sql

from harness.errors import LedgerError
from harness.ledger.postgres.address import Address
from harness.ledger.postgres.link import Connection, rows
from harness.ledger.postgres.migrations import views_schema
from harness.ledger.postgres.statements import filled, script


async def bind(connection: Connection, address: Address, role: str, tenant: str) -> None:
    """Turn row-level security on and bind the role. It must exist and be no superuser, which no policy holds back."""
    found = await rows(connection, "SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = $1", (role,))
    if not found:
        raise LedgerError(f"{address.location}: there is no role {role!r}; create it first")
    if found[0][0]:
        raise LedgerError(f"{address.location}: {role!r} passes row-level security by; take a role that is no superuser")
    names = {
        "schema": f'"{address.schema}"',
        "views": f'"{views_schema(address.schema, tenant, role)}"',
        "role": sql.Identifier(role).as_string(connection),
        "role_text": sql.Literal(role).as_string(connection),
        "tenant_text": sql.Literal(tenant).as_string(connection),
    }
    async with connection.transaction():
        for part in script("isolation").values():
            await connection.execute(filled(part, **names).encode())
