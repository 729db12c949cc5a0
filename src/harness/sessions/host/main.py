"""Where a host process begins: the request is read, the ledger opened, and the session run to its end."""

from __future__ import annotations

import asyncio
import gc
import os

import msgspec

from harness.errors import HarnessError
from harness.ledger import open_store
from harness.processes import become_subreaper
from harness.sessions.host.host import Host
from harness.sessions.host.setup import Answer, Setup, request_from
from harness.sessions.view import SESSIONS_VIEW

_FIRST_THRESHOLD = 5_000
_MAX_REQUEST = 64 << 20


def run(*, request: int, answer: int, will: int, guard_pid: int) -> int:
    """Be the host of the session that is asked for on `request`; 0 once its end is on record, or it could not be begun.

    Anything else tells our guard that it has to be recorded. `will` is told what was taken on, for whoever has to bury us.
    """
    told = Answer(answer)
    _let_go()
    try:
        data = _read_all(request)
        if not data:  # whoever started us has changed their mind
            return 0
        setup = Setup(request_from(data), answer=told, guard_pid=guard_pid)
        os.write(will, msgspec.json.encode({"database": setup.request.database, "key": setup.folder.key}))
        gc.freeze()
        gc.set_threshold(_FIRST_THRESHOLD, 10, 10)
        gc.enable()
        return asyncio.run(_host(setup))
    except (HarnessError, OSError) as error:
        told.failed(error)
    except BaseException as error:
        told.failed(error)
        if told.setup is not None:
            told.setup.complain(error)
        raise
    return 0


def _read_all(descriptor: int) -> bytes:
    with os.fdopen(descriptor, "rb") as file:
        return file.read(_MAX_REQUEST)


def _let_go() -> None:
    """Standard streams lead nowhere: what there is to say goes to the ledger and the answer's pipe."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(nowhere, descriptor)
    os.close(nowhere)


async def _host(setup: Setup) -> int:
    become_subreaper()
    async with open_store(setup.request.database, actor=f"session/{setup.id}") as store:
        store.register(SESSIONS_VIEW)
        host = Host(setup, store)
        try:
            await host.run()
        except (HarnessError, OSError) as error:
            setup.answer.failed(error)
            if host.owes_its_end:
                setup.complain(error)
        return int(host.owes_its_end)
