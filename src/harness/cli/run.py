"""`harness run`: the supervisor in this process, with the web door, monitor and agent beside the declared services.

One merged log on stdout. Ctrl-C and SIGTERM end everything within the services' stop timeouts, a second one at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING

from harness.cli.entries import settings_for
from harness.cli.merged import MergedLog
from harness.cli.preflight import begin_looking

if TYPE_CHECKING:
    from harness.cli.lean import Request
    from harness.ledger import Store
    from harness.recovery import Supervisor
    from harness.settings import Settings

INTERRUPTED = 130


def run(request: Request) -> int:
    """Run until stopped; 0 after SIGTERM, 130 after Ctrl-C."""
    settings = settings_for(request, web_port=request.number("port"))
    verdict = begin_looking(settings)
    return asyncio.run(
        supervise(
            settings, verdict, quiet="quiet" in request.flags, services="no-service" not in request.flags,
            demo="demo" in request.flags,
        )
    )  # fmt: skip


async def supervise(
    settings: Settings, verdict: Callable[[], None], *, quiet: bool = False, services: bool = True, demo: bool = False
) -> int:
    """Take the home over and run what is declared, until a signal; gives the exit code.

    `verdict` is called before anything is written or started, and raises if the configuration could never work.
    """
    import msgspec

    from harness.ledger import open_store
    from harness.recovery import Supervisor, load_declarations, own_services
    from harness.settings import prepare_home
    from harness.web import WebSettings, web_address

    declared = load_declarations(settings)
    if not services:
        declared = msgspec.structs.replace(declared, services=())
    web = settings.section("web", WebSettings)
    verdict()
    prepare_home(settings.home)
    async with open_store(settings.database, actor="supervisor") as store:
        log = MergedLog(quiet=quiet)
        own = own_services(settings.home, web_port=web.port, web_host=web.host, demo=demo)
        supervisor = Supervisor(store, declared, settings.home, own=own, on_output=log.output)
        log.say(f"home {settings.home}" + (", built-in demo services" if declared.demo and services else ""))
        try:
            return await _until_stopped(supervisor, store, log, web_address(web))
        finally:
            log.close()


async def _until_stopped(supervisor: Supervisor, store: Store, log: MergedLog, web: str) -> int:
    code = 0
    loop = asyncio.get_running_loop()

    def stop(number: signal.Signals) -> None:
        nonlocal code
        code = INTERRUPTED if number is signal.SIGINT else 0
        log.say("ending everything; once more to end it at once")
        supervisor.stop(f"{number.name}")

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # the last when its terminal is closed
        loop.add_signal_handler(number, stop, number)
    async with asyncio.TaskGroup() as tasks:
        told = tasks.create_task(log.follow(store))
        ready = tasks.create_task(_announce(supervisor, store, log, web))
        try:
            await supervisor.run()
        finally:
            for task in (told, ready):
                task.cancel()
    log.say("ended; nothing is left running")
    return code


async def _announce(supervisor: Supervisor, store: Store, log: MergedLog, web: str) -> None:
    from harness.web import overview

    with contextlib.suppress(asyncio.CancelledError):
        await supervisor.settled.wait()
        door = next((row for row in await overview.services(store) if row.name == "harness-web"), None)
        if door is None or door.ready:
            log.say(f"up: http://{web} (Ctrl-C ends it)")
        else:
            log.say(f"up, without the web door: {door.reason or door.state} (Ctrl-C ends it)")
