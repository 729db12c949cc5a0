"""`harness run <agent>` with each of its options, as a person types it; the agents are real processes."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.sessions import facts
from harness.sessions.facts import MessageStatus
from harness.sessions.record import Session
from tests.session_rigs import until

if TYPE_CHECKING:
    from tests.conftest import Hosted

PATIENCE_SECONDS = 30.0


@pytest.fixture
async def cli(hosted: Hosted) -> AsyncIterator[Cli]:
    """The command line in a home of its own; whatever it has started is ended."""
    world = Cli(hosted)
    try:
        yield world
    finally:
        for row in await hosted.sessions.list():
            await hosted.sessions.stop(row.key, by="test", kill=True, timeout_seconds=2)
            async with asyncio.timeout(PATIENCE_SECONDS):
                await hosted.sessions.ended(row.key)


class Cli:
    def __init__(self, hosted: Hosted) -> None:
        self.hosted, self.sessions, self.root, self.home = hosted, hosted.sessions, hosted.root, hosted.home

    async def __call__(self, *words: str) -> str:
        code, out, err = await self.hosted.command(*words)
        assert (code, err) == (0, ""), (words, out)
        return out

    async def run(self, *words: str) -> dict[str, Any]:
        """What `harness run --detach …` tells."""
        return json.loads(await self("run", "--detach", *words))

    async def session(self, id_: str) -> Session:
        return await self.sessions.get(id_)

    async def ended(self, id_: str) -> Session:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await self.sessions.ended((await self.session(id_)).key)


def alive(pid: int | None) -> bool:
    try:
        return pid is not None and Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


HARNESS = shlex.join([sys.executable, "-m", "harness"])


async def test_a_session_that_an_agent_starts_outlives_it(cli: Cli) -> None:
    """It has an id and a host of its own; who stops the outer one ends nothing of it, and neither does the outer host's death."""
    for outer, inner in (("a", "b"), ("c", "d")):
        script = f"{HARNESS} run --detach --id {inner} -- sleep 1000; exec sleep 1000"
        await cli.run("--id", outer, "--mode", "once", "sh", "--", "-c", script)
        await until(lambda inner=inner: (cli.home / "sessions" / inner / "session.json").exists())
    b, d = await cli.session("b"), await cli.session("d")
    c = await cli.session("c")
    assert c.claimed is not None

    await cli("stop", "--id", "a")
    os.kill(c.claimed.host_pid, 9)
    ended = [await cli.ended("a"), await cli.ended("c")]

    assert [str(each.exited.reason) for each in ended if each.exited] == ["stopped", "lost"]
    for outer in ended:
        assert outer.claimed is not None
        await until(lambda pid=outer.claimed.guard_pid: not alive(pid))
    for inner in (b, d):
        assert inner.claimed is not None
        assert [alive(pid) for pid in (inner.claimed.guard_pid, inner.claimed.host_pid, inner.pid)] == [True, True, True]
    await cli("stop", "--id", "b")
    await cli("stop", "--all")
    for inner in (b, d):
        assert inner.claimed is not None
        for pid in (inner.pid, inner.claimed.host_pid, inner.claimed.guard_pid):
            await until(lambda pid=pid: not alive(pid))
