"""Serving the web door: uvicorn on one address, until it is told to stop."""

from __future__ import annotations

import errno
import signal
import socket
from typing import TYPE_CHECKING, Annotated

import msgspec

from harness.errors import HarnessError
from harness.settings import Settings
from harness.web.guard import Access

if TYPE_CHECKING:
    import uvicorn

DEFAULT_PORT = 8000
_STOP_SECONDS = 2


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
            server = _server(build(context, access, page=web.page))
            await _until_stopped(server, listening)


def _server(app: object) -> uvicorn.Server:
    import uvicorn

    config = uvicorn.Config(
        app,  # type: ignore[arg-type]
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=_STOP_SECONDS,
        ws_ping_interval=20,
        server_header=False,
        lifespan="on",
    )
    return uvicorn.Server(config)


async def _until_stopped(server: uvicorn.Server, listening: socket.socket) -> None:
    """uvicorn raises the signal that ended it once more; here it has been obeyed by then."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    await server.serve(sockets=[listening])
