"""Where a ledger is: a `postgresql://` address taken apart, and said again without its password."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

from harness.errors import StoreUnavailable

DEFAULT_SCHEMA = "harness"
_SCHEMA = re.compile(r"[a-z_][a-z0-9_]{0,39}")
_SECRETS = re.compile(r"(://)[^/\s]*@|((?:ssl)?password\s*=\s*)('(?:[^'\\]|\\.)*'|[^\s&]+)", re.IGNORECASE)
_DEFAULTS: dict[str, Any] = {
    "application_name": "harness",
    "client_encoding": "utf8",
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}


@dataclass(frozen=True, slots=True)
class Address:
    """A database and the schema in it that holds the ledger. Its words never show a password."""

    location: str
    schema: str
    parameters: dict[str, Any] = field(repr=False)

    def clean(self, text: str) -> str:
        """The text on one line, without a password that the driver may have put into it."""
        text = " ".join(hidden(text).split())
        secrets = [self.parameters.get(name) for name in ("password", "sslpassword")]
        for secret in secrets:
            if secret:
                text = text.replace(str(secret), "***")
        return text if len(text) <= 300 else f"{text[:300]}…"


def hidden(text: str) -> str:
    """The text without what looks like a password in an address."""
    return _SECRETS.sub(lambda match: "://***@" if match[1] else f"{match[2]}***", text)


def parse_address(dsn: str, schema: str | None = None) -> Address:
    """Take an address apart: a URI or libpq's `key=value` words; the URI may name the schema as `?schema=`.

    Raises `StoreUnavailable` when it is none, or when the driver is not installed.
    """
    require_driver()
    from psycopg import ProgrammingError
    from psycopg.conninfo import conninfo_to_dict

    text, named = _without_schema(dsn)
    schema = schema or named or DEFAULT_SCHEMA
    if not _SCHEMA.fullmatch(schema):
        raise StoreUnavailable(
            f"{schema!r} cannot be the schema of a ledger: small letters, digits and _ only, 40 at most", reason="missing"
        )
    try:
        given = conninfo_to_dict(text)
    except (ProgrammingError, ValueError) as error:
        raise StoreUnavailable(
            f"{hidden(dsn)}: not an address of a PostgreSQL database, such as postgresql://user@host/database", reason="missing"
        ) from error.with_traceback(None) if not _tells(error, dsn) else None
    return Address(location=_location(given, schema), schema=schema, parameters={**_DEFAULTS, **given})


def _tells(error: Exception, dsn: str) -> bool:
    """Whether the driver's words may hold the password: then they go no further."""
    return "@" in dsn or "password" in dsn or "@" in str(error)


def _without_schema(dsn: str) -> tuple[str, str | None]:
    if "://" not in dsn or "schema=" not in dsn:
        return dsn, None
    try:
        parts = urlsplit(dsn)
    except ValueError:
        return dsn, None
    query = parse_qsl(parts.query, keep_blank_values=True)
    named = next((value for key, value in query if key == "schema"), None)
    rest = urlencode([(key, value) for key, value in query if key != "schema"], quote_via=quote)
    return urlunsplit(parts._replace(query=rest)), named


def _location(given: dict[str, Any], schema: str) -> str:
    user = f"{quote(str(given['user']))}@" if given.get("user") else ""
    host = quote(str(given.get("host") or "localhost"), safe=",:.")
    port = f":{given['port']}" if given.get("port") else ""
    suffix = "" if schema == DEFAULT_SCHEMA else f"?schema={schema}"
    return f"postgresql://{user}{host}{port}/{quote(str(given.get('dbname') or given.get('user') or ''))}{suffix}"


def require_driver() -> None:
    """Raises `StoreUnavailable` when psycopg is not installed."""
    try:
        import psycopg  # noqa: F401  # pyright: ignore[reportUnusedImport]
    except ImportError as error:
        raise StoreUnavailable("PostgreSQL needs a driver: pip install 'agentharness[postgres]'", reason="missing") from error
