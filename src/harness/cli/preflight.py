"""What monitor and agent would end with as soon as they start: bad keys, conditions and models, told before anything runs.

Without this a misspelt key would leave services running that nobody watches. Looks at the configuration only.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING

from harness.errors import HarnessError, UsageError

if TYPE_CHECKING:
    from harness.settings import Settings


def problems(settings: Settings) -> Iterator[str]:
    """Everything in the configuration that could never work, each in one line."""
    from harness.recovery import load_declarations
    from harness.recovery.attempts import port_named
    from harness.recovery.checks import build_check
    from harness.recovery.monitor import MonitorSettings
    from harness.recovery.responder import AgentSettings
    from harness.web import Access, WebSettings

    yield from missing_parts()
    try:
        declared = load_declarations(settings)
    except HarnessError as error:
        yield str(error)
        return
    for invariant in declared.invariants:
        try:
            build_check(invariant)
        except HarnessError as error:
            yield f"{settings.document.where('invariants', invariant.name, 'condition')}: {error}"
    try:
        web = settings.section("web", WebSettings)
        Access(host=web.host, token=web.token)
    except HarnessError as error:
        yield str(error)
    for section, shape in (("monitor", MonitorSettings), ("agent", AgentSettings)):
        try:
            model = settings.section(section, shape).model
        except HarnessError as error:
            yield str(error)
            continue
        try:
            port_named(model)
        except HarnessError as error:
            yield f"[{section}] model: {error}"


def missing_parts() -> Iterator[str]:
    """Which extras of this package `harness run` and the demo need and do not find."""
    needed = {"services": "cel_expr_python", "web": "nicegui"}
    if missing := [extra for extra, module in needed.items() if find_spec(module) is None]:
        yield f"not everything is installed: pip install 'agentharness[{','.join(missing)}]'"


def begin_looking(settings: Settings) -> Callable[[], None]:
    """Look for problems in a child, while the caller imports what it needs; gives what to call before anything is started.

    That raises `UsageError` with the first problem, if there is one. In a child, so that the supervisor, which lives for
    weeks, carries nothing of what looking takes to import. To be called while the process has one thread.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        _tell(settings, writing)
    os.close(writing)

    def verdict() -> None:
        with os.fdopen(reading, "rb") as pipe:
            told = pipe.read().decode()
        os.waitpid(child, 0)
        if told:
            raise UsageError(told)

    return verdict


def _tell(settings: Settings, pipe: int) -> None:
    """In the child: write the first problem and end, whatever happens."""
    try:
        found = list(problems(settings))
        more = f" (and {len(found) - 1} more: harness doctor)" if len(found) > 1 else ""
        os.write(pipe, f"{found[0]}{more}".encode() if found else b"")
    except BaseException as error:  # noqa: BLE001 - nothing of the parent's may run in here
        os.write(pipe, f"the configuration cannot be checked: {type(error).__name__}: {error}".encode())
    finally:
        os._exit(0)
