"""The kernel: steps against the floor, side effects, concurrent runs, replay, size on disk, imports, memory."""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from pydantic import BaseModel

from benchmarks.measure import Figures, Floor, scratch
from harness.kernel import Kernel, MockModelPort, ModelInput, TenantContext
from harness.ledger import SQLiteStore

TEXT = "a" * 760  # with the step's own fields about 1 KB
TENANT = TenantContext(tenant_id="bench", capabilities=frozenset())


class Answer(BaseModel):
    """What the mock model says."""

    text: str


async def run(figures: Figures) -> None:
    with scratch() as folder:
        await _model_step(figures, folder)
        await _side_effect(figures, folder)
        await _concurrent(figures, folder)
        await _replay(figures, folder)
        await _two_processes(figures, folder)
        _imports(figures, folder)
        _memory(figures, folder)


async def _step(kernel: Kernel, run_id: str, index: int) -> None:
    await kernel.step_model(
        run_id=run_id, tenant=TENANT, model="mock", input=ModelInput.from_prompt(f"question {index}"),
        output_schema=Answer, step_key=f"step {index}",
    )  # fmt: skip


async def _model_step(figures: Figures, folder: Path) -> None:
    floor = Floor(folder / "floor.db")
    seconds: list[float] = []
    path = folder / "steps.db"
    async with SQLiteStore(path) as store, Kernel(store=store, model_port=MockModelPort(output={"text": TEXT})) as kernel:
        await kernel.start_run(tenant=TENANT, run_id="bench")
        for turn in range(40):
            floor.run(50)
            for index in range(50):
                began = time.perf_counter()
                await _step(kernel, "bench", turn * 50 + index)
                seconds.append(time.perf_counter() - began)
    figures.add("floor, p50", f"{floor.p50 * 1e6:.0f} µs")
    figures.at_most("durable model step, one run, p50", statistics.median(seconds) / floor.p50, 1.5, "x floor")
    figures.at_most("bytes on disk per 1 KB step", path.stat().st_size / len(seconds) / 1000, 1.6, "KB")
    floor.close()


async def _side_effect(figures: Figures, folder: Path) -> None:
    floor = Floor(folder / "floor-tools.db")
    seconds: list[float] = []
    async with SQLiteStore(folder / "tools.db") as store, Kernel(store=store) as kernel:

        @kernel.tool(side_effect=True)
        async def send(text: str) -> str:
            """Send a text."""
            return text

        await kernel.start_run(tenant=TENANT, run_id="bench")
        for turn in range(30):
            floor.run(50)
            for index in range(50):
                began = time.perf_counter()
                await kernel.step_tool(
                    run_id="bench", tenant=TENANT, tool_name="send", arguments={"text": TEXT}, step_key=f"{turn}-{index}"
                )
                seconds.append(time.perf_counter() - began)
    figures.at_most("side-effecting tool (intent + result), p50", statistics.median(seconds) / floor.p50, 2.4, "x floor")
    floor.close()


async def _concurrent(figures: Figures, folder: Path) -> None:
    for writers, target in ((8, 1.5), (64, 2.5)):
        floor = Floor(folder / f"floor-{writers}.db")
        rates: list[float] = []
        store = SQLiteStore(folder / f"runs-{writers}.db")
        kernel = Kernel(store=store, model_port=MockModelPort(output={"text": TEXT}))
        for name in range(writers):
            await kernel.start_run(tenant=TENANT, run_id=f"run-{name}")

        async def write(name: int, turn: int, kernel: Kernel = kernel) -> None:
            for index in range(8):
                await _step(kernel, f"run-{name}", turn * 8 + index)

        for turn in range(6):
            floor.run(300)
            before, began = int(await store.tail()), time.perf_counter()
            await asyncio.gather(*[write(name, turn) for name in range(writers)])
            rates.append((int(await store.tail()) - before) / (time.perf_counter() - began))
        ratio = statistics.median(rates) / floor.rate
        figures.at_least(f"{writers} concurrent runs, durable events per second", ratio, target, "x floor")
        await kernel.close()
        await store.close()
        floor.close()


async def _replay(figures: Figures, folder: Path) -> None:
    each: dict[int, float] = {}
    for count in (10_000, 100_000):
        path = folder / f"replay-{count}.db"
        port = MockModelPort(output={"text": "b" * 80})
        async with SQLiteStore(path, durability="process") as store, Kernel(store=store, model_port=port) as kernel:
            await kernel.start_run(tenant=TENANT, run_id="bench")
            for index in range(count):
                await _step(kernel, "bench", index)
        async with SQLiteStore(path) as store, Kernel(store=store, model_port=port) as kernel:
            before = await store.head("run/bench")
            began = time.perf_counter()
            await kernel.load_run(run_id="bench")
            for index in range(count):
                await _step(kernel, "bench", index)
            seconds = time.perf_counter() - began
            assert (await store.head("run/bench")) == before, "a replay wrote"
        each[count] = seconds / count
        figures.at_most(f"replay of {count:,} steps with chain and drift check", seconds / count * 1e6, 20, "µs a step")
    figures.at_most("a step of 100,000 beside one of 10,000", each[100_000] / each[10_000], 1.25, "x")


_OTHER = """
import asyncio, sys, time
from harness import Kernel, MockModelPort, ModelInput, SQLiteStore, TenantContext
async def main():
    tenant, port, stalls = TenantContext(tenant_id="bench"), MockModelPort(text="a" * 700), []
    async with SQLiteStore(sys.argv[1]) as store, Kernel(store=store, model_port=port) as kernel:
        await kernel.start_run(tenant=tenant, run_id="other")
        print("ready", flush=True)
        end = time.monotonic() + 4
        while time.monotonic() < end:
            began = time.perf_counter()
            await kernel.step_model(run_id="other", tenant=tenant, model="mock", input=ModelInput.from_prompt("go on"))
            stalls.append(time.perf_counter() - began)
    print(max(stalls), len(stalls))
asyncio.run(main())
"""


async def _two_processes(figures: Figures, folder: Path) -> None:
    path = folder / "two.db"
    port = MockModelPort(output={"text": TEXT})
    async with SQLiteStore(path) as store, Kernel(store=store, model_port=port) as kernel:
        await kernel.start_run(tenant=TENANT, run_id="bench")
        await _step(kernel, "bench", 0)
        other = subprocess.Popen([sys.executable, "-c", _OTHER, str(path)], stdout=subprocess.PIPE, text=True)
        assert other.stdout is not None
        other.stdout.readline()
        stalls: list[float] = []
        while other.poll() is None:
            began = time.perf_counter()
            await _step(kernel, "bench", 1 + len(stalls))
            stalls.append(time.perf_counter() - began)
        theirs, count = other.stdout.read().split()
    figures.at_most("worst stall of a step, two processes on one file", max(float(theirs), *stalls) * 1e3, 50, "ms")
    figures.add("steps of the two in those 4 seconds", f"{len(stalls)} and {count}")


def _imports(figures: Figures, folder: Path) -> None:
    """With compiled modules, as an installed package has them, wherever this checkout may not write its own."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = str(folder / "compiled")

    def seconds(code: str) -> float:
        times: list[float] = []
        for _ in range(12):
            began = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True, env=environment)
            times.append(time.perf_counter() - began)
        return statistics.median(times[1:])

    bare = seconds("pass")
    figures.at_most("import harness, over bare Python", (seconds("import harness") - bare) * 1e3, 60, "ms")
    figures.at_most(
        "from harness import Kernel, over bare Python", (seconds("from harness import Kernel") - bare) * 1e3, 150, "ms"
    )


_LOAD = """
import asyncio, sys
import psutil
from harness.kernel import Kernel
from harness.ledger import SQLiteStore
async def main():
    async with SQLiteStore(sys.argv[1]) as store, Kernel(store=store) as kernel:
        await kernel.load_run(run_id="bench")
        print(psutil.Process().memory_info().rss / 1e6)
asyncio.run(main())
"""


def _memory(figures: Figures, folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _LOAD, str(folder / "replay-10000.db")], capture_output=True, text=True, check=True
    )
    figures.at_most("resident memory with a 10,000-step run loaded", float(done.stdout), 60, "MB")
