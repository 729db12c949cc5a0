"""A session's terminal over its host's socket, for asyncio: what comes, what is typed, how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from harness.errors import NotFound, ProcessError
from harness.sessions.client import terminal_feed
from harness.sessions.client.terminal_feed import MAX_FRAME, open_terminal
from harness.sessions.ids import Folder

KEY = "w1@0f3a9c21"
PATIENCE_SECONDS = 20.0


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """A folder whose socket has a longer path than the kernel takes."""
    folder = Folder(home=tmp_path / ("deep" * 20) / ("deeper" * 20), key=KEY)
    folder.take()
    return folder


class Host:
    """The other end of the socket."""

    def __init__(self) -> None:
        self.heard: list[tuple[bytes, bytes]] = []
        self.says: list[bytes] = []
        self.leaves = True  # when it is asked to
        self.serving: dict[asyncio.Task[None] | None, asyncio.StreamWriter] = {}

    async def close(self) -> None:
        for writer in self.serving.values():
            writer.transport.abort()
        await asyncio.gather(*(task for task in self.serving if task is not None), return_exceptions=True)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.serving[asyncio.current_task()] = writer
        for part in self.says:
            writer.write(part)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while not self.heard or self.heard[-1][0] != b"D":
                kind, length = struct.unpack(">cI", await reader.readexactly(5))
                self.heard.append((kind, await reader.readexactly(length)))
        if self.leaves:
            writer.transport.abort()


def frame(kind: bytes, payload: bytes) -> bytes:
    return struct.pack(">cI", kind, len(payload)) + payload


@pytest.fixture
async def host(folder: Folder) -> AsyncIterator[Host]:
    host = Host()
    back = os.open(".", os.O_RDONLY)
    os.chdir(folder.path)
    server = await asyncio.start_unix_server(host.serve, "host.sock")
    os.fchdir(back)
    os.close(back)
    yield host
    server.close()
    await host.close()


async def test_output_comes_to_the_end(folder: Folder, host: Host) -> None:
    """In the order of what was written, and then how it ended."""
    host.says = [frame(b"O", b"one"), frame(b"O", b""), frame(b"?", b"later versions"), frame(b"O", b"two"),
                 frame(b"X", b'{"code":3,"signal":null,"reason":"failure"}')]  # fmt: skip
    feed = await open_terminal(folder)
    async with asyncio.timeout(PATIENCE_SECONDS):
        output = [data async for data in feed.output()]
    feed.close()

    assert output == [b"one", b"", b"two"]
    assert feed.ended == {"code": 3, "signal": None, "reason": "failure"}


async def test_what_is_typed_arrives_before_it_leaves(folder: Folder, host: Host) -> None:
    """Keys and sizes in order; when `detach` returns, the host has them all."""
    feed = await open_terminal(folder)
    async with asyncio.timeout(PATIENCE_SECONDS):
        await feed.resize(columns=120, rows=40)
        await feed.type(b"ls\r" * 50_000)
        await feed.detach()
    feed.close()

    assert host.heard == [(b"R", b"\x00\x28\x00\x78"), (b"I", b"ls\r" * 50_000), (b"D", b"")]


async def test_a_host_that_does_not_answer_is_not_waited_for(
    folder: Folder, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever types is told."""
    monkeypatch.setattr(terminal_feed, "_SENT_SECONDS", 0.1)
    host.leaves = False
    feed = await open_terminal(folder)
    async with asyncio.timeout(PATIENCE_SECONDS):
        with pytest.raises(ProcessError, match="has not answered"):
            await feed.detach()
    feed.close()


async def test_a_frame_that_is_not_ours_is_refused(folder: Folder, host: Host) -> None:
    """Nobody fills our memory."""
    host.says = [struct.pack(">cI", b"O", MAX_FRAME + 1)]
    feed = await open_terminal(folder)
    async with asyncio.timeout(PATIENCE_SECONDS):
        with pytest.raises(ProcessError, match="not ours"):
            await anext(feed.output())
    feed.close()


async def test_a_session_that_nobody_hosts_here_has_no_terminal(folder: Folder, tmp_path: Path) -> None:
    """It has ended, or another run has its folder now."""
    with pytest.raises(NotFound, match="no live terminal"):
        await open_terminal(folder)
    with pytest.raises(NotFound):
        await open_terminal(Folder(home=tmp_path, key=KEY))


async def test_the_terminal_of_another_run_is_not_taken_for_it(folder: Folder, host: Host) -> None:
    """The folder of an id belongs to its newest run."""
    with pytest.raises(NotFound, match="w1@00000000"):
        await open_terminal(Folder(home=folder.home, key="w1@00000000"))
