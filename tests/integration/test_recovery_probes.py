"""Looking at real sockets: what an answer, no answer, and a hostile answer become; and when checks look."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest

from harness.clock import SystemClock
from harness.recovery.checks import Check, Look, Sample, assess, build_check
from harness.recovery.declarations import Invariant
from harness.recovery.facts import CheckResult
from harness.recovery.probes import MAX_BODY_BYTES, probe
from harness.recovery.schedule import Schedule, beat_after, hurry_interval

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(serve: Serve) -> AsyncGenerator[int]:
    """A server on a free port that does with each connection what `serve` does."""

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await serve(reader, writer)
        writer.close()

    server = await asyncio.start_server(once, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


def saying(answer: bytes, *, then: float = 0.0) -> Serve:
    """Read a request, say this, wait."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        await asyncio.sleep(then)

    return serve


def checking(query: str, condition: str = "", timeout: float = 0.4) -> Check:
    return build_check(Invariant(name="c", query=query, condition=condition, timeout_seconds=timeout))


async def seen(answer: bytes, condition: str = "status == 200", then: float = 0.0) -> tuple[CheckResult, str, Look]:
    """What a check makes of an answer."""
    async with serving(saying(answer, then=then)) as port:
        check = checking(f"http://127.0.0.1:{port}/health?x=1", condition)
        look = await probe(check, lambda _: {})
    return *assess(check, look), look


OK = b"HTTP/1.1 200 OK\r\ncontent-length: 15\r\nX-Version: 7\r\n\r\n"


async def test_an_answer_is_seen_with_status_body_headers_and_latency() -> None:
    """Everything that a condition may name is in the evidence."""
    text = "status == 200 && json.status == 'ok' && headers['x-version'] == '7' && body.contains('ok') && latency_ms < 400"

    result, detail, look = await seen(OK + b'{"status":"ok"}', text)

    assert (result, detail) == (CheckResult.PASS, "")
    assert 0 < look.took_ms < 400


@pytest.mark.parametrize(
    ("answer", "result", "said"),
    [
        (b"HTTP/1.1 503 no\r\ncontent-length: 0\r\n\r\n", CheckResult.FAIL, "status is 503"),
        (b"HTTP/1.1 302 x\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n", CheckResult.FAIL, "status is 302"),
        (b"", CheckResult.FAIL, "closed without an answer"),
        (b"SSH-2.0-OpenSSH_9\r\n", CheckResult.FAIL, "not HTTP"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nshort", CheckResult.FAIL, "not HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"x-long: " + b"a" * 50_000, CheckResult.FAIL, "not HTTP"),
        (b"HTTP/1.1 200 OK\r\n\r\nuntil the end", CheckResult.PASS, ""),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", CheckResult.PASS, ""),
        (b"HTTP/1.1 103 hint\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", CheckResult.PASS, ""),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n\xff\xfe", CheckResult.PASS, ""),
    ],
    ids=["503", "redirect", "nothing", "ssh", "cut", "endless-header", "no-length", "chunked", "early-hint", "no-utf8"],
)
async def test_whatever_comes_back_is_one_of_four_results(answer: bytes, result: CheckResult, said: str) -> None:
    """Only a proper answer with the right status passes; a redirect is not followed."""
    got, detail, _ = await seen(answer)

    assert got is result
    assert said in detail


async def test_an_endless_body_is_cut() -> None:
    """A service that never stops sending costs a bounded amount of memory and time."""
    result, _, look = await seen(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 300_000, then=5)

    assert result is CheckResult.PASS
    assert len(str(look.evidence["body"])) == MAX_BODY_BYTES


async def test_a_drip_does_not_outlast_the_timeout() -> None:
    """The timeout is for the whole look, not for each byte."""

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for byte in b"HTTP/1.1 200 OK\r\n":
            writer.write(bytes([byte]))
            await asyncio.sleep(0.1)

    async with serving(drip) as port:
        check = checking(f"http://127.0.0.1:{port}/", "status == 200")
        look = await probe(check, lambda _: {})

    assert assess(check, look) == (CheckResult.FAIL, "no answer within 0.4 s")
    assert look.took_ms < 600


async def test_no_proxy_of_the_environment_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy variable, which would answer for a dead service, is not looked at."""
    async with serving(saying(OK + b'{"status":"ok"}')) as proxy:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy}")
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy}")
        check = checking(f"http://127.0.0.1:{free_port()}/", "status == 200")
        look = await probe(check, lambda _: {})

    assert assess(check, look)[0] is CheckResult.FAIL


async def test_failure_9_a_name_that_does_not_resolve_is_unknown() -> None:
    """Nobody was asked, so nobody failed, and nobody passed."""
    check = checking("http://nobody.invalid:8001/health", "status == 200", timeout=5)

    look = await probe(check, lambda _: {})

    assert assess(check, look)[0] in (CheckResult.UNKNOWN, CheckResult.FAIL)
    assert not look.evidence.get("status")


async def test_tcp_and_process_checks() -> None:
    """A port that is open passes, a closed one fails, and a process that nobody has reported is unknown."""
    async with serving(saying(b"")) as port:
        open_ = checking(f"tcp:localhost:{port}")
        assert assess(open_, await probe(open_, lambda _: {}))[0] is CheckResult.PASS

    closed = checking(f"tcp:127.0.0.1:{free_port()}")
    assert assess(closed, await probe(closed, lambda _: {}))[0] is CheckResult.FAIL
    process = checking("process:api")
    assert assess(process, await probe(process, lambda _: {"running": True}))[0] is CheckResult.PASS
    assert assess(process, await probe(process, lambda _: {"running": False}))[0] is CheckResult.FAIL
    assert assess(process, await probe(process, lambda _: {}))[0] is CheckResult.UNKNOWN


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def test_a_slow_look_skips_beats_and_keeps_the_grid() -> None:
    """After a look that took 12 s of a 5 s interval, the next is on the check's own grid."""
    assert beat_after(112.0, origin=100.0, interval=5.0) == 115.0
    assert beat_after(115.0, origin=100.0, interval=5.0) == 120.0
    assert beat_after(99.0, origin=100.0, interval=5.0) == 100.0
    assert hurry_interval(2) == 0.5
    assert hurry_interval(1000) == 5.0


async def test_looks_of_one_check_never_overlap_and_of_several_do() -> None:
    """Ten checks that take longer than their interval run side by side, each one look at a time."""
    now, most, total = {}, 0, 0

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal most, total
        path = (await reader.readuntil(b"\r\n\r\n")).split()[1]
        now[path] = now.get(path, 0) + 1
        most = max(most, now[path])
        total = max(total, sum(now.values()))
        await asyncio.sleep(0.3)
        now[path] -= 1
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    looks: list[Sample] = []
    async with serving(slow) as port:
        schedule = Schedule(SystemClock(), lambda _: {}, lambda _, sample: looks.append(sample))
        schedule.set_checks(
            build_check(Invariant(name=f"c{at}", query=f"http://127.0.0.1:{port}/{at}", interval_seconds=0.1))
            for at in range(10)
        )
        running = asyncio.ensure_future(schedule.run())
        schedule.hurry(f"c{at}" for at in range(10))
        async with asyncio.timeout(10):
            while len(looks) < 40:
                await asyncio.sleep(0.01)
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running

    assert most == 1
    assert total >= 5
    assert all(sample.result is CheckResult.PASS for sample in looks)


async def test_a_check_that_has_just_looked_does_not_look_again_at_once() -> None:
    """Two looks a few milliseconds apart are one look: a hurry keeps its half second, an order does not."""
    looks: list[int] = []

    async with serving(saying(OK + b'{"status":"ok"}')) as port:
        schedule: Schedule

        def saw(check: Check, sample: Sample) -> None:
            looks.append(sample.started_us)
            schedule.hurry(["c"])
            if len(looks) == 3:
                schedule.look_now(["c"])

        schedule = Schedule(SystemClock(), lambda _: {}, saw)
        schedule.set_checks([build_check(Invariant(name="c", query=f"http://127.0.0.1:{port}/", interval_seconds=60))])
        running = asyncio.ensure_future(schedule.run())
        async with asyncio.timeout(10):
            while len(looks) < 4:
                await asyncio.sleep(0.01)
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running

    assert looks[1] - looks[0] >= 450_000
    assert looks[2] - looks[1] >= 450_000
    assert looks[3] - looks[2] < 450_000


async def test_a_look_that_we_slept_through_is_unknown() -> None:
    """If this very process stood still, nobody can say that the target did not answer."""

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with serving(silent) as port:
        check = build_check(Invariant(name="c", query=f"http://127.0.0.1:{port}/", timeout_seconds=0.1))
        looking = asyncio.ensure_future(probe(check, lambda _: {}))
        await asyncio.sleep(0.01)
        time.sleep(0.8)
        look = await looking
        awake = await probe(check, lambda _: {})

    assert assess(check, look)[0] is CheckResult.UNKNOWN
    assert "too busy" in look.blindness
    assert assess(check, awake)[0] is CheckResult.FAIL
