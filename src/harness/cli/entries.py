"""Where the long-running processes begin: each loads only its own package. No typer, no rich, no pydantic."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.cli.lean import Request
    from harness.settings import Settings


def settings_for(request: Request, **flags: object) -> Settings:
    """The settings of a request's home, its options over the file's."""
    from harness.settings import load_settings

    return load_settings(home=request.values.get("home"), flags={name.replace("_", ".", 1): flags[name] for name in flags})


def web(request: Request) -> int:
    """`harness web`."""
    import asyncio

    from harness.web import serve

    settings = settings_for(request, web_host=request.values.get("host"), web_port=request.number("port"))
    asyncio.run(serve(settings, chaos="demo" in request.flags))
    return 0


def monitor(request: Request) -> int:
    """`harness monitor`."""
    raise NotImplementedError


def agent(request: Request) -> int:
    """`harness agent`."""
    raise NotImplementedError


def service(request: Request) -> int:
    """`harness service`."""
    from harness.recovery import limiter

    config = request.values.get("config")
    port = request.number("port")
    return limiter.main(
        host=request.values.get("host", "127.0.0.1"),
        port=8001 if port is None else port,
        config=None if config is None else Path(config),
    )
