"""Sessions: starting, listing, sending, following, stopping; memory and idle time; a flood; beside the Ruby tool `harnex` if
it is on PATH and `--peers` is given. Everything is a real host with a real program."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from benchmarks.measure import Figures, scratch
from harness.ledger import SQLiteStore
from harness.processes import end_tagged
from harness.sessions import Launched, LaunchRequest, launch
from harness.sessions.client import Sessions
from harness.sessions.facts import MessageStatus

COMMAND = (sys.executable, "-m", "harness")
FLOOD_BYTES = 27_000_000
EXITS = 1_000
MESSAGES = 200
HUNDRED_SECONDS = 60.0
_READER = (
    "import os,sys,time\nout=open(sys.argv[1],'a',buffering=1)\nfor line in sys.stdin: out.write(f'{time.time_ns()} {line}')\n"
)


class World:
    """A home in the scratch folder and the sessions in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / ".harness"
        self.home.mkdir(mode=0o700)
        self.database = str(self.home / "harness.db")
        self.store = SQLiteStore(self.database, actor="benchmark")
        self.sessions = Sessions(self.store, self.home)
        self.started: list[Launched] = []

    def start(self, *argv: str, **more: object) -> Launched:
        """A session of any command."""
        wanted = LaunchRequest(
            home=str(self.home), database=self.database, cli=argv[0], agent_args=argv[1:], cwd=str(self.folder), **more
        )  # type: ignore[arg-type]
        self.started.append(launch(wanted))
        return self.started[-1]

    async def start_many(self, count: int, *argv: str) -> list[Launched]:
        """Several, two at a time."""
        gate = asyncio.Semaphore(2)

        async def one() -> Launched:
            async with gate:
                return await asyncio.to_thread(self.start, *argv)

        return list(await asyncio.gather(*(one() for _ in range(count))))

    async def stop_all(self) -> None:
        """End all of them, and wait until they are gone."""
        for each in self.started:
            await self.sessions.stop(each.key, by="benchmark", timeout_seconds=2, kill=True)
        await asyncio.gather(*(self.sessions.ended(each.key) for each in self.started))
        for each in self.started:  # a host writes its last files after the end is on record
            while Path(f"/proc/{each.host_pid}").exists():
                await asyncio.sleep(0.01)
        self.started.clear()

    def command(self, *words: str) -> float:
        """Seconds of one command, from start to end."""
        began = time.perf_counter()
        subprocess.run([*COMMAND, *words], env=self.environment(), cwd=self.folder, check=True, capture_output=True)
        return time.perf_counter() - began

    def environment(self) -> dict[str, str]:
        return {**os.environ, "HARNESS_HOME": str(self.home)}


@asynccontextmanager
async def world() -> AsyncIterator[World]:
    """A world of its own, of which nothing is left."""
    with scratch() as folder:
        made = World(folder)
        try:
            yield made
        finally:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(60):
                    await made.stop_all()
            for each in made.started:
                await end_tagged(f"session/{each.key}", grace_seconds=0)
            await made.store.close()


async def run(figures: Figures) -> None:
    for part in (_status, _detach, _send, _follow, _memory, _flood, _exits, _hundred):
        await part(figures)


async def run_peer(figures: Figures) -> None:
    """The Ruby tool's own figures in the same run, where it is installed."""
    tool = shutil.which("harnex")
    if tool is None:
        figures.add("Ruby tool harnex", "not on PATH")
        return
    with scratch() as folder:
        home = {**os.environ, "HOME": str(folder)}
        times = [_timed([tool, "status"], home, folder) for _ in range(10)]
        figures.add("harnex status", f"{statistics.median(times) * 1000:.0f} ms")
        times = [_timed([tool, "run", "cat", "--id", f"b{n}", "--detach"], home, folder) for n in range(5)]
        figures.add("harnex run --detach", f"{statistics.median(times) * 1000:.0f} ms")
        for number in range(5):
            subprocess.run([tool, "stop", "--id", f"b{number}"], env=home, cwd=folder, check=False, capture_output=True)


def _timed(argv: list[str], env: dict[str, str], cwd: Path) -> float:
    began = time.perf_counter()
    subprocess.run(argv, env=env, cwd=cwd, check=False, capture_output=True, timeout=60)
    return time.perf_counter() - began


def _milliseconds(seconds: list[float]) -> float:
    return statistics.median(seconds) * 1000


async def _status(figures: Figures) -> None:
    async with world() as here:
        floor = _milliseconds([_timed([sys.executable, "-c", "pass"], here.environment(), here.folder) for _ in range(10)])
        figures.add("python, doing nothing", f"{floor:.0f} ms")
        await here.store.tail()
        figures.at_most("status with 0 sessions", _milliseconds([here.command("status") for _ in range(10)]), 120, "ms")
        started = await here.start_many(50, "sleep", "1000")
        figures.at_most("status with 50 sessions", _milliseconds([here.command("status") for _ in range(10)]), 150, "ms")
        for each in started[:10]:
            os.kill(each.host_pid, signal.SIGSTOP)
        try:
            frozen = [here.command("status") for _ in range(10)]
        finally:
            for each in started[:10]:
                os.kill(each.host_pid, signal.SIGCONT)
        figures.at_most("status with 10 frozen hosts", _milliseconds(frozen), 300, "ms")


async def _detach(figures: Figures) -> None:
    async with world() as here:
        here.command("run", "--detach", "--id", "warm", "sleep", "1000")
        times: list[float] = []
        for number in range(20):
            await asyncio.sleep(0.3)  # the one before has its own first looks to take
            times.append(here.command("run", "--detach", "--id", f"d{number}", "sleep", "1000"))
        figures.at_most("run --detach", _milliseconds(times), 250, "ms")
        here.command("stop", "--all", "--timeout", "5")


async def _send(figures: Figures) -> None:
    async with world() as here:
        journal = here.folder / "read"
        agent = here.start(sys.executable, "-c", _READER, str(journal))
        times: list[float] = []
        for number in range(MESSAGES):
            began = time.time_ns()
            id_ = await here.sessions.send(agent.key, f"message {number}")
            await here.sessions.message(agent.key, id_, until={MessageStatus.DONE})
            lines = journal.read_text().splitlines()
            times.append((int(lines[number].split()[0]) - began) / 1e9)
        figures.at_most("send, until the program has read the line", _milliseconds(times), 20, "ms")
        read = _in_order(journal)
        figures.add("messages in order and once", f"{read} of {MESSAGES}", str(MESSAGES), read == MESSAGES)


def _in_order(journal: Path) -> int:
    read = [line.split(" ", 1)[1] for line in journal.read_text().splitlines()]
    return len(read) if read == [f"message {number}" for number in range(len(read))] else -1


async def _follow(figures: Figures) -> None:
    async with world() as here:
        agent = here.start("cat")
        seen: list[float] = []

        async def watch() -> None:
            async with contextlib.aclosing(here.sessions.follow(agent.key)) as feed:
                async for event in feed:
                    seen.append((time.time_ns() // 1000 - event.ts) / 1e6)

        watching = asyncio.create_task(watch())
        for number in range(30):
            id_ = await here.sessions.send(agent.key, f"message {number}")
            await here.sessions.message(agent.key, id_, until={MessageStatus.DONE})
        watching.cancel()
        figures.at_most("event written, until a follower has it", _milliseconds(seen[10:]), 30, "ms")


async def _memory(figures: Figures) -> None:
    async with world() as here:
        started = await here.start_many(10, "cat")
        await asyncio.sleep(3)
        pss = [_pss(each.host_pid) for each in started]
        guards = [_pss(each.guard_pid) for each in started]
        figures.at_most("host's proportional memory, ten sessions", statistics.mean(pss) / 1024, 18, "MB")
        figures.add("its guard's", f"{statistics.mean(guards) / 1024:.2f} MB")
        before = [_cpu(each.host_pid) for each in started]
        await asyncio.sleep(20)
        spent = [(_cpu(each.host_pid) - was) / 20 for each, was in zip(started, before, strict=True)]
        figures.at_most("host's idle time", statistics.mean(spent) * 1000, 0.1, "ms/s")


def _pss(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    return 0


def _cpu(pid: int) -> float:
    """Seconds of processor time, to the nanosecond where the kernel tells."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


async def _flood(figures: Figures) -> None:
    async with world() as here:
        script = here.folder / "flood.sh"
        data = here.folder / "flood.txt"
        data.write_bytes((b"x" * 79 + b"\n") * (FLOOD_BYTES // 80))
        script.write_text(f"cat {data}\n")
        bare = min(_bare_flood(script) for _ in range(5))
        times: list[float] = []
        for _ in range(5):
            agent = here.start("sh", "-c", f"read go; sh {script}")
            await asyncio.sleep(0.3)
            began = time.perf_counter()
            await here.sessions.send(agent.key, "go")
            await here.sessions.ended(agent.key)
            times.append(time.perf_counter() - began)
        name = f"{FLOOD_BYTES // 1_000_000} MB of output, over a bare terminal ({bare * 1000:.0f} ms)"
        figures.at_most(name, min(times) / bare, 1.6, "x")


def _bare_flood(script: Path) -> float:
    ours, theirs = os.openpty()
    process = subprocess.Popen(["sh", str(script)], stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    began = time.perf_counter()
    with contextlib.suppress(OSError):
        while os.read(ours, 65536):
            pass
    process.wait()
    os.close(ours)
    return time.perf_counter() - began


async def _exits(figures: Figures) -> None:
    """From the agent's last instruction to the return of who waits, and the code."""
    async with world() as here:
        times: list[float] = []
        right = 0
        gate = asyncio.Semaphore(4)

        async def one(number: int) -> None:
            nonlocal right
            stamp = here.folder / f"exit-{number}"
            code = number % 250 + 1
            told = f"open({str(stamp)!r},'w').write(str(time.time_ns()))"
            program = f"import os,sys,time; sys.stdin.readline(); {told}; os._exit({code})"
            async with gate:
                agent = await asyncio.to_thread(here.start, sys.executable, "-c", program)
                await here.sessions.send(agent.key, "go")
                ended = await here.sessions.ended(agent.key)
                now = time.time_ns()
            here.started.remove(agent)
            times.append((now - int(stamp.read_text())) / 1e9)
            right += ended.exited is not None and ended.exited.code == code

        count = int(os.environ.get("HARNESS_BENCH_EXITS", EXITS))
        await asyncio.gather(*(one(number) for number in range(count)))
        figures.add("exit codes that are right", f"{right} of {count}", f"{count} of {count}", right == count)
        alone: list[float] = []
        times, alone = alone, times
        gate = asyncio.Semaphore(1)
        for number in range(30):
            await one(count + number)
        figures.at_most("exit, until who waits is told", _milliseconds(times), 50, "ms")
        figures.add("the same with four at once", f"{_milliseconds(alone):.1f} ms")


async def _hundred(figures: Figures) -> None:
    async with world() as here:
        began = time.perf_counter()
        started = await here.start_many(100, "cat")
        up = time.perf_counter()
        ids = {each.key: await here.sessions.send(each.key, f"hello {each.id}") for each in started}
        messages = await asyncio.gather(
            *(here.sessions.message(key, id_, until={MessageStatus.DONE, MessageStatus.UNKNOWN}) for key, id_ in ids.items())
        )
        sent = time.perf_counter()
        await here.stop_all()
        over = time.perf_counter()
        lost = sum(message.status is not MessageStatus.DONE for message in messages)
        told = f"start {up - began:.1f}, message {sent - up:.1f}, stop {over - sent:.1f} s"
        figures.at_most(f"100 sessions: {told}; {lost} messages lost", over - began, HUNDRED_SECONDS, "s")
