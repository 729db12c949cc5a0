"""Serving the web door: uvicorn on one address, until it is told to stop."""

from __future__ import annotations

import asyncio
import errno
import secrets
import signal
import socket
import sys
from typing import TYPE_CHECKING, Annotated

import msgspec

from harness.errors import HarnessError
from harness.settings import Settings
from harness.web.guard import Access

if TYPE_CHECKING:
    import uvicorn

    from harness.sessions.client import Sessions

DEFAULT_PORT = 8000
_STOP_SECONDS = 2
_LAST_LOOK_SECONDS = 2.0


class WebSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The section `[web]`."""

    host: str = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)] = DEFAULT_PORT
    token: str = ""
    names: tuple[str, ...] = ()  # further host names that the door is known by
    page: bool = True


def web_address(web: WebSettings) -> str:
    """`host:port` of the door."""
    return f"[{web.host}]:{web.port}" if ":" in web.host else f"{web.host}:{web.port}"


class AddressTaken(HarnessError):
    """Somebody else listens there already; choose another port with `--port`."""


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises `AddressTaken`."""
    try:
        return socket.create_server((host, port), backlog=128, family=_family(host))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            message = f"{host}:{port} is in use by another process; it is left alone, choose another port with --port"
            raise AddressTaken(message) from error
        raise HarnessError(f"cannot listen on {host}:{port}: {error.strerror}") from error


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


async def serve(settings: Settings, *, chaos: bool = False) -> None:
    """Open the door and keep it open until SIGTERM or SIGINT. Raises `AddressTaken`, `UsageError`, `StoreUnavailable`."""
    web = settings.section("web", WebSettings)
    access = Access(host=web.host, token=web.token, names=frozenset(web.names))
    with listen(web.host, web.port) as listening:
        from harness.ledger import open_store
        from harness.recovery import load_declarations
        from harness.web.application import build
        from harness.web.context import Context
        from harness.work import Items

        async with open_store(settings.database, actor="web", create=False) as store:
            context = Context(
                store=store, items=Items(store), home=settings.home, root=settings.root,
                declarations=load_declarations(settings), chaos=chaos,
            )  # fmt: skip
            server = server_of(build(context, access, page=web.page))
            await until_stopped(server, listening)


async def serve_session(settings: Settings, key: str, access: Access, listening: socket.socket) -> None:
    """Keep a door for one session open until the session ends, or SIGTERM or SIGINT."""
    from harness.ledger import open_store
    from harness.sessions.client import Sessions
    from harness.web.application import build
    from harness.web.context import Context
    from harness.work import Items

    async with open_store(settings.database, actor="web", create=False) as store:
        context = Context(store=store, items=Items(store), home=settings.home, root=settings.root, only=key)
        server = server_of(build(context, access, page=settings.section("web", WebSettings).page))
        watching = asyncio.ensure_future(_close_after(server, Sessions(store, settings.home), key))
        try:
            await until_stopped(server, listening)
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)


async def _close_after(server: uvicorn.Server, sessions: Sessions, key: str) -> None:
    """Close the door when the session has ended, with a moment for whoever looks on."""
    try:
        await sessions.ended(key)
        await asyncio.sleep(_LAST_LOOK_SECONDS)
    finally:
        server.should_exit = True


async def serve_named(settings: Settings, name: str) -> None:
    """A door for one session by its id or key, on the configured address; it makes a token and says it if none is set."""
    from harness.ledger import open_store
    from harness.sessions.client import Sessions

    web = settings.section("web", WebSettings)
    token = web.token or secrets.token_urlsafe(24)
    access = Access(host=web.host, token=token, names=frozenset(web.names))
    async with open_store(settings.database, actor="web", create=False) as store:
        row = await Sessions(store, settings.home).row(name)
    with listen(web.host, web.port) as listening:
        told = f"http://{web_address(web)}/" + ("" if web.token else f"?token={token}")
        print(f"harness: the door of {row.key} is {told}", file=sys.stderr, flush=True)
        await serve_session(settings, row.key, access, listening)


def server_of(app: object) -> uvicorn.Server:
    """uvicorn for an application of this door. It believes no header about where a request comes from."""
    import uvicorn

    from harness.web.connections import MAX_CONNECTIONS, PunctualProtocol

    config = uvicorn.Config(
        app,  # type: ignore[arg-type]
        http=PunctualProtocol,
        limit_concurrency=MAX_CONNECTIONS,
        proxy_headers=False,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=_STOP_SECONDS,
        ws_ping_interval=20,
        server_header=False,
        lifespan="on",
    )
    return uvicorn.Server(config)


async def until_stopped(server: uvicorn.Server, listening: socket.socket) -> None:
    """uvicorn raises the signal that ended it once more; here it has been obeyed by then."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    await server.serve(sockets=[listening])
