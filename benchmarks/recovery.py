"""Services that heal, measured from outside: real processes, real kills, the built-in rule model."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path

import psutil

from benchmarks.measure import Figures, percentile, scratch
from harness.clock import SystemClock
from harness.ledger import SQLiteStore
from harness.recovery import Invariant
from harness.recovery.checks import Check, Sample, build_check
from harness.recovery.schedule import Schedule
from harness.work import ITEM_VIEW, Items

_KILLS = 20


async def run(figures: Figures) -> None:
    _kills(figures)
    await _checks(figures)
    with scratch() as folder:
        _idle(figures, folder)
        await _failures(figures, folder)


def _kills(figures: Figures) -> None:
    """Twenty kills in a row in one demo."""
    done = subprocess.run(
        [sys.executable, "-m", "harness", "demo", "--once", "--json", "--chaos", "kill", "--times", str(_KILLS)],
        stdout=subprocess.PIPE, text=True, timeout=900, check=False,
    )  # fmt: skip
    summary = json.loads(done.stdout.strip().splitlines()[-1])
    incidents = summary["incidents"]
    verified = [incident for incident in incidents if incident["status"] == "completed"]
    figures.add("kills verified and closed", f"{len(verified)} of {_KILLS}", f"{_KILLS} of {_KILLS}", len(verified) == _KILLS)
    figures.at_most("service killed to ticket, p95", percentile([i["ticket_s"] for i in incidents], 0.95), 1.5, "s")
    figures.at_most("service killed to verified and closed, p95", percentile([i["verified_s"] for i in verified], 0.95), 8, "s")
    leaked = summary["leaked"]
    clean = leaked == {"processes": 0, "ports": 0} and summary["ledger"]["verified"]
    figures.add("left behind; ledger", f"{leaked}; {summary['ledger']}", "nothing; verified", clean)


def _idle(figures: Figures, folder: Path) -> None:
    """`harness run` with nothing to do: what supervisor, monitor and agent cost."""
    (folder / "harness.toml").write_text(_QUIET.format(python=sys.executable))
    process = subprocess.Popen(
        [sys.executable, "-m", "harness", "run", "-q"], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        time.sleep(15)
        parent = psutil.Process(process.pid)
        ours = {"supervisor": parent}
        for child in parent.children(recursive=True):
            words = child.cmdline()
            for name in ("monitor", "agent"):
                if name in words:
                    ours[name] = child
        before = {name: sum(p.cpu_times()[:2]) for name, p in ours.items()}
        time.sleep(20)
        cpu = sum(sum(p.cpu_times()[:2]) - before[name] for name, p in ours.items()) / 20 * 100
        memory = {name: p.memory_full_info().pss / 1e6 for name, p in ours.items()}
        resident = sum(p.memory_info().rss / 1e6 for p in ours.values())
    finally:
        process.terminate()
        process.wait(timeout=30)
    detail = ", ".join(f"{name} {size:.0f}" for name, size in memory.items())
    figures.at_most(f"supervisor, monitor and agent idle, resident ({detail} MB proportional)", resident, 120, "MB")
    figures.at_most("the same, processor", cpu, 2, "%")


_QUIET = """
[services.sleeper]
command = ["{python}", "-c", "import time; time.sleep(3600)"]

[invariants.sleeper_runs]
query = "process:sleeper"
condition = "running"
target = "sleeper"
"""

_SERVER = """
import asyncio
BODY = b'HTTP/1.1 200 OK\\r\\nContent-Length: 15\\r\\nConnection: close\\r\\n\\r\\n{"status":"ok"}'
async def serve(reader, writer):
    if await reader.read(1000):
        writer.write(BODY)
    writer.close()
async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
asyncio.run(main())
"""


async def _checks(figures: Figures) -> None:
    """1,000 HTTP checks at 5 s for three rounds; the server is another process."""
    server = subprocess.Popen([sys.executable, "-c", _SERVER], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        looks = bad = 0

        def saw(check: Check, sample: Sample) -> None:
            nonlocal looks, bad
            looks += 1
            bad += sample.result != "pass"

        schedule = Schedule(SystemClock(), lambda _: {}, saw)
        address = f"http://127.0.0.1:{port}/"
        invariants = [
            Invariant(name=f"c{at}", query=address, condition="status == 200", interval_seconds=5, target="server")
            for at in range(1000)
        ]
        schedule.set_checks(build_check(invariant) for invariant in invariants)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(schedule.run())
            await asyncio.sleep(6)
            before, spent, began = looks, time.process_time(), time.perf_counter()
            await asyncio.sleep(15)
            share = (time.process_time() - spent) / (time.perf_counter() - began) * 100
            running.cancel()
        figures.add("looks in 15 s (not passed)", f"{looks - before} ({bad})", "3,000", abs(looks - before - 3000) <= 30)
    finally:
        server.kill()
        server.communicate()
    figures.at_most("1,000 checks at 5 s, of one core", share, 50, "%")
    figures.at_most("the latest of them", schedule.latest_late * 1e3, 250, "ms")


_REPORTER = """
import asyncio, sys
from harness.ledger import SQLiteStore
from harness.work import Items, ITEM_VIEW, Role
async def main(path, name):
    async with SQLiteStore(path, actor=name, views=[ITEM_VIEW]) as store:
        items = Items(store, role=Role.SYSTEM)
        for n in range(50):
            kind = f"broken/{n % 5}"
            await items.create_or_recur(title=kind, fingerprint=kind, source_type="invariant", source_id=kind)
asyncio.run(main(*sys.argv[1:]))
"""


async def _failures(figures: Figures, folder: Path) -> None:
    """Sixteen processes report 800 failures with five fingerprints."""
    path = folder / "harness.db"
    async with SQLiteStore(path, views=[ITEM_VIEW]) as store:
        began = time.perf_counter()
        reporters = [subprocess.Popen([sys.executable, "-c", _REPORTER, str(path), f"r{n}"]) for n in range(16)]
        codes = [reporter.wait(timeout=120) for reporter in reporters]
        seconds = time.perf_counter() - began
        items = await Items(store).list(limit=None)
        counts = sorted(item.occurrences for item in items)
    good = codes == [0] * 16 and counts == [160] * 5
    figures.add(
        "16 processes, 800 failures, 5 fingerprints",
        f"{len(items)} tickets with {counts} in {seconds:.1f} s",
        "5, 160 each",
        good,
    )
