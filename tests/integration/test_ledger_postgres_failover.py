"""PostgreSQL going away and coming back: what was written is known, and never written twice."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import anyio
import psycopg
import pytest

from harness.errors import Busy, LedgerError, StoreUnavailable
from harness.ledger import Acquire, Draft, Expect, PostgresStore, Unique, Write
from harness.ledger.postgres.temporary import TemporaryServer

PASSWORD = "correct-horse"


def said(stream: str, *texts: str) -> Write:
    return Write(stream, tuple(Draft(type="note.taken", payload={"text": text}) for text in texts))


async def texts(store: PostgresStore, stream: str) -> list[str]:
    return [event.payload["text"] for event in await store.read(stream)]


def end_backends(dsn: str, like: str = "%") -> int:
    """End the connections of Harness to this database whose last statement looks so."""
    sql = """SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
        WHERE datname = current_database() AND application_name = 'harness' AND query LIKE %s"""
    with psycopg.connect(dsn, autocommit=True) as connection:
        return int(connection.execute(sql, (like,)).fetchone()[0])  # type: ignore[index]


class Proxy:
    """Stands between a store and its server, and breaks what it is told to break."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.drop_reply_to: bytes | None = None  # forward this request, and close when its reply comes
        self.hold_back: bytes | None = None  # keep this request, close the client, and deliver it when told
        self.held = asyncio.Event()
        self.deliver = asyncio.Event()
        self.delivered = asyncio.Event()
        self.refusing = False
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        if self.refusing:
            writer.transport.abort()
            return
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            upstream, out = await asyncio.open_connection("127.0.0.1", self._port)
            self._writers.add(out)
            try:
                await self._relay(reader, writer, upstream, out)
            finally:
                writer.transport.abort()
                out.transport.abort()

    async def _relay(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        upstream: asyncio.StreamReader,
        out: asyncio.StreamWriter,
    ) -> None:
        drop = False

        async def back() -> None:
            while data := await upstream.read(65536):
                if drop:
                    return
                writer.write(data)
                await writer.drain()

        replies = asyncio.ensure_future(back())
        try:
            while True:
                request = asyncio.ensure_future(reader.read(65536))
                await asyncio.wait([request, replies], return_when=asyncio.FIRST_COMPLETED)
                if not request.done() or not (data := request.result()):
                    request.cancel()
                    return
                if self.drop_reply_to is not None and self.drop_reply_to in data:
                    self.drop_reply_to, drop = None, True
                if self.hold_back is not None and self.hold_back in data:
                    self.hold_back = None
                    replies.cancel()
                    await asyncio.wait([replies])
                    writer.transport.abort()
                    self.held.set()
                    await self.deliver.wait()
                    out.write(data)
                    await upstream.read(65536)
                    self.delivered.set()
                    return
                out.write(data)
                await out.drain()
                if drop:
                    await replies
                    return
        finally:
            replies.cancel()


@pytest.fixture
async def proxy(postgres_server: TemporaryServer) -> AsyncIterator[Proxy]:
    async with Proxy(postgres_server.port) as made:
        yield made


@pytest.fixture
def through(postgres_dsn: str, postgres_server: TemporaryServer, proxy: Proxy) -> str:
    """The address of the database through the proxy."""
    return postgres_dsn.replace(str(postgres_server.port), str(proxy.port)) + "?sslmode=disable&gssencmode=disable"


async def test_a_reply_that_is_lost_after_the_commit_is_found_out(through: str, proxy: Proxy) -> None:
    """The append was written once, and its caller gets the very events."""
    async with PostgresStore(through) as store:
        await store.append(said("item/a", "one"))
        proxy.drop_reply_to = b"two-marker"

        appended = await store.append(said("item/a", "two-marker"), guards=[Expect("item/a", 1), Unique("k")])

        assert proxy.drop_reply_to is None
        assert await texts(store, "item/a") == ["one", "two-marker"]
        assert appended.events == tuple(await store.read("item/a", after=1))
        assert await store.verify()


async def test_each_of_several_appends_whose_reply_is_lost_gets_its_own_outcome(through: str, proxy: Proxy) -> None:
    """Those that were refused are refused, those that were written are written, in one transaction."""
    async with PostgresStore(through) as store:
        await store.append(said("item/a", "one"))
        proxy.drop_reply_to = b"lost-marker"

        good = store.submit(said("item/a", "lost-marker"))
        bad = store.submit(said("item/b", "never"), guards=[Expect("item/b", 9)])
        last = store.submit(said("item/c", "x", "y"))

        assert [event.ref for event in (await good).events] == ["item/a#2"]
        with pytest.raises(LedgerError, match="item/b is at 0, not at 9"):
            await bad
        assert [event.ref for event in (await last).events] == ["item/c#1", "item/c#2"]
        assert await store.heads("item/b") == []


async def test_an_append_that_arrives_after_it_was_given_up_is_not_written(
    through: str, postgres_dsn: str, proxy: Proxy
) -> None:
    """A request stuck on the way is voided before it is sent anew, so it cannot be written a second time."""
    async with PostgresStore(through) as store, PostgresStore(postgres_dsn) as other:
        await store.append(said("item/a", "one"))
        proxy.hold_back = b"stuck-marker"

        await store.append(said("item/a", "stuck-marker"))
        proxy.deliver.set()
        with anyio.fail_after(20):
            await proxy.delivered.wait()

        assert proxy.held.is_set()
        assert await texts(other, "item/a") == ["one", "stuck-marker"]
        assert await other.verify()


async def test_an_erasure_whose_reply_is_lost_is_done_once(through: str, proxy: Proxy) -> None:
    """Also what is no append carries an id."""
    async with PostgresStore(through) as store:
        await store.append(said("item/a", "secret"))
        proxy.drop_reply_to = b"COMMIT"

        record = await store.erase("item/a", 1, reason="asked for")

        assert record.ref == "item/a#2"
        assert [event.type for event in await store.read("item/a")] == ["note.taken", "ledger.erased"]


async def test_an_unknown_outcome_is_named_and_is_not_written_later(through: str, postgres_dsn: str, proxy: Proxy) -> None:
    """When the server stays away the caller is told so, and what he reads afterwards stays true."""
    async with PostgresStore(through, retry_seconds=0.3) as store, PostgresStore(postgres_dsn) as other:
        await store.append(said("item/a", "one"))
        proxy.hold_back = b"stuck-marker"

        async with asyncio.TaskGroup() as tasks:
            late = tasks.create_task(_caught(store.append(said("item/a", "stuck-marker"))))
            await proxy.held.wait()
            proxy.refusing = True
        error = late.result()
        proxy.refusing = False
        await store.append(said("item/a", "two"))
        proxy.deliver.set()
        with anyio.fail_after(20):
            await proxy.delivered.wait()

        assert isinstance(error, StoreUnavailable)
        assert error.reason == "unknown"
        assert "not known whether" in str(error)
        assert await texts(other, "item/a") == ["one", "two"]


async def _caught(appending: object) -> BaseException | None:
    try:
        await appending  # type: ignore[misc]
    except LedgerError as error:
        return error
    return None


async def test_connections_that_are_ended_all_the_time_lose_and_double_nothing(postgres_dsn: str) -> None:
    """Eight writers while their backends are ended again and again: every append is there, once."""
    done = asyncio.Event()
    ended = 0

    async def end() -> None:
        nonlocal ended
        while not done.is_set():
            ended += await asyncio.to_thread(end_backends, postgres_dsn)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.03):
                    await done.wait()

    async with PostgresStore(postgres_dsn) as store:

        async def write(name: int) -> None:
            for index in range(25):
                await store.append(said(f"item/{name}", str(index)), guards=[Unique(f"{name}/{index}")])

        with anyio.fail_after(100):
            async with asyncio.TaskGroup() as tasks:
                ending = tasks.create_task(end())
                writers = [tasks.create_task(write(name)) for name in range(8)]
                await asyncio.wait(writers)
                done.set()
                await ending

        assert ended > 0
        for name in range(8):
            assert await texts(store, f"item/{name}") == [str(index) for index in range(25)]
        assert await store.verify()


async def test_a_server_that_is_down_is_told_in_one_line_and_comes_back_by_itself() -> None:
    """At the start, in mid-run, and for a follower; no word of the password."""
    with TemporaryServer(fsync=False) as server:
        dsn = server.dsn().replace("postgres@", f"postgres:{PASSWORD}@")
        server.stop(kill=True)
        with pytest.raises(StoreUnavailable) as at_start:
            await PostgresStore.open(dsn, retry_seconds=0.2)
        server.start()
        async with PostgresStore(dsn, retry_seconds=0.2) as store:
            await store.append(said("item/a", "one"))
            seen: list[str] = []

            async def follow() -> None:
                async with contextlib.aclosing(store.follow(streams=["item/"])) as events:
                    async for event in events:
                        seen.append(event.payload["text"])
                        if len(seen) == 2:
                            return

            async with asyncio.TaskGroup() as tasks:
                following = tasks.create_task(follow())
                while not seen:
                    await asyncio.sleep(0.01)
                server.stop(kill=True)
                with pytest.raises(StoreUnavailable) as reading:
                    await store.read("item/a")
                with pytest.raises(StoreUnavailable) as writing:
                    await store.append(said("item/a", "lost"))
                with pytest.raises(StoreUnavailable):
                    await store.tail()
                server.start()
                await store.append(said("item/a", "two"))
                with anyio.fail_after(20):
                    await following
            assert await texts(store, "item/a") == ["one", "two"]
            assert seen == ["one", "two"]
            assert PASSWORD not in repr(store) + store.location + repr(vars(store))

    for caught in (at_start, reading, writing):
        error: BaseException | None = caught.value
        assert caught.value.reason == "down"
        assert "\n" not in str(caught.value)
        while error is not None:
            assert PASSWORD not in f"{error!r} {error}"
            error = error.__cause__ or error.__context__


async def test_a_restart_in_mid_append_is_waited_for() -> None:
    """With patience an append outlasts a restart of the server, and is written once."""
    with TemporaryServer(fsync=False) as server:
        async with PostgresStore(server.dsn(), retry_seconds=60) as store:
            await store.append(said("item/a", "one"))
            await asyncio.to_thread(server.stop, kill=True)
            async with asyncio.TaskGroup() as tasks:
                late = tasks.create_task(store.append(said("item/a", "two")))
                await asyncio.to_thread(server.start)
            assert late.result().first.seq == 2
            assert await texts(store, "item/a") == ["one", "two"]


async def test_a_lock_that_is_kept_for_too_long_is_busy_and_names_the_holder(
    postgres_dsn: str,
) -> None:
    """Whoever keeps a transaction open on a stream is named by its process."""
    from harness.ledger.postgres.locks import lock_id

    async with PostgresStore(postgres_dsn, busy_seconds=0.2) as store:
        await store.append(said("item/a", "one"), guards=[Acquire("l", "me", 1, 60)])
        with psycopg.connect(postgres_dsn) as blocker:
            blocker.execute("SELECT pg_advisory_xact_lock(%s)", (lock_id("harness", "stream", "item/a"),))
            with pytest.raises(Busy) as caught:
                await store.append(said("item/a", "two"))
            await store.append(said("item/b", "free"))

            assert caught.value.holder_pid == blocker.info.backend_pid
        await store.append(said("item/a", "three"))
        assert await texts(store, "item/a") == ["one", "three"]
