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

_KILLS = 20


async def run(figures: Figures) -> None:
    _kills(figures)
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

_OPENER = """
import asyncio, sys
from harness.ledger import SQLiteStore
from harness.work import Items, Duplicate
async def main(path, name):
    async with SQLiteStore(path, actor=name) as store:
        items = Items(store)
        for n in range(50):
            print(n, flush=True)
asyncio.run(main(*sys.argv[1:]))
"""


async def _failures(figures: Figures, folder: Path) -> None:
    """Sixteen processes open 800 failures on five fingerprints."""
    await asyncio.sleep(0)
