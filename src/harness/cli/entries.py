"""Where the long-running processes begin: each loads only its own package. No typer, no rich, no pydantic."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.cli.lean import Request
    from harness.settings import Settings


def settings_for(request: Request, **flags: object) -> Settings:
    """The settings of a request's home, its options over the file's."""
    from harness.settings import load_settings

    return load_settings(home=request.values.get("home"), flags={name.replace("_", ".", 1): flags[name] for name in flags})


def until_stopped(work: Callable[[], Coroutine[Any, Any, None]]) -> int:
    """Run a process's work until it ends or a signal ends it in good order: 0 after SIGTERM, 130 after Ctrl-C."""
    import asyncio
    import signal

    stopped: list[signal.Signals] = []

    async def watched() -> None:
        task = asyncio.ensure_future(work())
        loop = asyncio.get_running_loop()

        def stop(number: signal.Signals) -> None:
            stopped.append(number)
            task.cancel()

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, stop, number)
        try:
            await task
        except asyncio.CancelledError:
            if not stopped:
                raise

    asyncio.run(watched())
    return 130 if signal.SIGINT in stopped else 0


def web(request: Request) -> int:
    """`harness web`."""
    import asyncio

    from harness.web import serve, serve_named

    settings = settings_for(request, web_host=request.values.get("host"), web_port=request.number("port"))
    session = request.values.get("session")
    asyncio.run(serve(settings, chaos="demo" in request.flags) if session is None else serve_named(settings, session))
    return 0


def monitor(request: Request) -> int:
    """`harness monitor`."""
    from harness.ledger import open_store
    from harness.recovery import load_declarations
    from harness.recovery.monitor import MonitorSettings, run_monitor

    settings = settings_for(request)
    declared = load_declarations(settings)

    async def work() -> None:
        async with open_store(settings.database, actor="monitor", create=False) as store:
            await run_monitor(store, declared, settings.home, settings.section("monitor", MonitorSettings))

    return until_stopped(work)


def agent(request: Request) -> int:
    """`harness agent`."""
    from harness.ledger import open_store
    from harness.recovery import load_declarations
    from harness.recovery.responder import AgentSettings, run_responder

    settings = settings_for(request, agent_model=request.values.get("model"))
    declared = load_declarations(settings)

    async def work() -> None:
        async with open_store(settings.database, actor="agent", create=False) as store:
            await run_responder(store, declared, settings.home, settings.section("agent", AgentSettings))

    return until_stopped(work)


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
