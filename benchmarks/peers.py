"""The kernel, the floor and systems of the same kind on the same work, in one run: a durable pure step of 1 KB, and
going on with a run after a kill.

Each is measured in processes of its own, as it comes, with SQLite on the same disk: one process takes the steps, in turns
with the floor's, and is killed behind the last; the next goes on and says how long that took. Who is not installed is
named and left out.
`python -m benchmarks.peers SYSTEM take|resume FOLDER COUNT` is one of those processes.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.measure import Figures, Floor, scratch

COUNT = 1_000
TEXT = "a" * 980
PLOT = Path("docs/images/kernel-peers.png")

Seconds = list[float]


@dataclass(frozen=True, slots=True)
class Peer:
    """One system: what it is called, which modules it needs, and how to let it work."""

    name: str
    modules: tuple[str, ...]
    take: Callable[[Path, int], object]  # so many steps of a new run, each timed; ends by `Steps.die`
    resume: Callable[[Path, int], float | None]  # the seconds until the run is where it was


@dataclass(frozen=True, slots=True)
class Row:
    """What was measured of one system, in seconds."""

    step: float
    ratio: float  # of a step to the floor's
    resumed: float  # of each step


class Steps:
    """The steps of one process, each followed by one of the floor, so that both meet the same weather."""

    def __init__(self, folder: Path) -> None:
        self.seconds: Seconds = []
        self._floor = Floor(folder / f"floor-{os.getpid()}.db")
        self._began = 0.0

    def begin(self) -> None:
        self._began = time.perf_counter()

    def end(self) -> None:
        self.seconds.append(time.perf_counter() - self._began)
        self._floor.once()

    def die(self) -> None:
        """Tell what was measured, and end as a kill does: nothing is closed."""
        print(json.dumps({"seconds": self.seconds, "floor": self._floor.seconds}), flush=True)
        os._exit(9)


def run(figures: Figures) -> None:
    """Measure everybody who is installed, print the figures and draw them."""
    rows: dict[str, Row] = {}
    with scratch() as folder:
        for name, peer in PEERS.items():
            missing = [module for module in peer.modules if not _installed(module)]
            if missing:
                figures.add(peer.name, f"skipped, {', '.join(missing)} is not installed")
                continue
            own = folder / name
            own.mkdir()
            taken = _process(name, "take", own)
            step, floor = statistics.median(taken["seconds"]), statistics.median(taken["floor"])
            rows[peer.name] = Row(step, step / floor, _process(name, "resume", own)["seconds"] / COUNT)
    for name, row in rows.items():
        figures.add(f"{name}, durable step of 1 KB, p50", f"{row.step * 1e6:,.0f} µs, {row.ratio:.1f} x floor")
        figures.add(f"{name}, resume of {COUNT:,} steps", f"{row.resumed * 1e6:,.1f} µs a step")
    _table(rows)
    _draw(figures, rows)


def _process(name: str, phase: str, folder: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.peers", name, phase, str(folder), str(COUNT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=180)
    told = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not told:
        raise RuntimeError(f"{name} {phase} told nothing:\n{done.stderr[-2000:]}")
    return json.loads(told[-1])


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # of a part of what is not there
        return False


def _table(rows: dict[str, Row]) -> None:
    print(f"\n  | system | step, p50 | x floor | resume of {COUNT:,} steps, each |\n  |---|---|---|---|")
    for name, row in rows.items():
        print(f"  | {name} | {row.step * 1e6:,.0f} µs | {row.ratio:.1f} | {row.resumed * 1e6:,.1f} µs |")
    print()


def _draw(figures: Figures, rows: dict[str, Row]) -> None:
    if not _installed("matplotlib"):
        figures.add("plot", "skipped, matplotlib is not installed")
        return
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    _, (left, right) = plt.subplots(1, 2, figsize=(10, 0.6 * len(rows) + 1.4), layout="constrained")
    for axes, title, values in (
        (left, "durable step of 1 KB, p50, x floor", [row.ratio for row in rows.values()]),
        (right, f"resume of {COUNT:,} steps, µs a step", [row.resumed * 1e6 for row in rows.values()]),
    ):
        axes.bar_label(axes.barh(list(rows), values, color="#4477aa"), fmt="%.1f", padding=3)
        axes.set(title=title)
        axes.invert_yaxis()
        axes.margins(x=0.15)
        axes.spines[["top", "right"]].set_visible(False)
    PLOT.parent.mkdir(parents=True, exist_ok=True)
    plt.savefig(PLOT, dpi=120)
    figures.add("plot", str(PLOT))


# Ours: a tool without a side effect


async def _kernel(folder: Path, count: int, *, resume: bool) -> float:
    from harness import Kernel, SQLiteStore, TenantContext

    tenant = TenantContext(tenant_id="bench")
    async with SQLiteStore(folder / "h.db") as store, Kernel(store=store) as kernel:

        @kernel.tool()
        async def say(number: int) -> str:
            return TEXT

        if resume:
            began = time.perf_counter()
            await kernel.load_run(run_id="bench")
            for number in range(count):
                call = kernel.step_tool(run_id="bench", tenant=tenant, tool_name="say", arguments={"number": number})
                assert (await call).replayed
            return time.perf_counter() - began
        await kernel.start_run(tenant=tenant, run_id="bench")
        steps = Steps(folder)
        for number in range(count):
            steps.begin()
            await kernel.step_tool(run_id="bench", tenant=tenant, tool_name="say", arguments={"number": number})
            steps.end()
        steps.die()
    raise AssertionError


# DBOS: a workflow of steps, its system database in SQLite


def _dbos(folder: Path, count: int, *, resume: bool) -> None:
    import threading

    from dbos import DBOS, SetWorkflowID

    DBOS(config={"name": "bench", "system_database_url": f"sqlite:///{folder / 'dbos.sqlite'}", "log_level": "ERROR"})
    steps = Steps(folder)
    over = threading.Event()

    @DBOS.step()
    def say(number: int) -> str:
        return TEXT

    @DBOS.workflow()
    def work() -> None:
        began = time.perf_counter()
        for number in range(count):
            steps.begin()
            say(number)
            if not resume:
                steps.end()
        if not resume:
            steps.die()
        print(json.dumps({"seconds": time.perf_counter() - began}), flush=True)
        over.set()

    DBOS.launch()  # which goes on with what was interrupted
    if not resume:
        with SetWorkflowID("bench"):
            DBOS.start_workflow(work)
    if not over.wait(120):
        raise RuntimeError("DBOS did not come to the end of the workflow")
    os._exit(0)


# LangGraph: a node that leads to itself, a checkpoint after each turn


def _langgraph(folder: Path, count: int, *, resume: bool) -> float:
    from typing import TypedDict

    from langgraph.checkpoint.sqlite import SqliteSaver
    from langgraph.graph import END, START, StateGraph

    class State(TypedDict):
        number: int
        text: str

    steps = Steps(folder)
    reached: Seconds = []

    def say(state: State) -> State:
        reached.append(time.perf_counter())
        if not resume:
            if state["number"]:  # a step is from one turn to the next, with the checkpoint between them
                steps.end()
            if state["number"] == count:
                steps.die()
            steps.begin()
        return {"number": state["number"] + 1, "text": TEXT}

    graph = StateGraph(State)
    graph.add_node("say", say)
    graph.add_edge(START, "say")
    graph.add_conditional_edges("say", lambda state: END if state["number"] > count else "say")
    with SqliteSaver.from_conn_string(str(folder / "graph.db")) as saver:
        compiled = graph.compile(checkpointer=saver)
        config: Any = {"configurable": {"thread_id": "bench"}, "recursion_limit": count + 10}
        began = time.perf_counter()
        compiled.invoke(None if resume else {"number": 0, "text": ""}, config, durability="sync")
        assert len(reached) == 1, "it began anew"
        return reached[0] - began  # until the turn that was cut off: LangGraph reads the newest state and replays nothing


PEERS = {
    "kernel": Peer(
        "harness", (),
        lambda folder, count: asyncio.run(_kernel(folder, count, resume=False)),
        lambda folder, count: asyncio.run(_kernel(folder, count, resume=True)),
    ),
    "dbos": Peer(
        "DBOS", ("dbos",),
        lambda folder, count: _dbos(folder, count, resume=False),
        lambda folder, count: _dbos(folder, count, resume=True),
    ),
    "langgraph": Peer(
        "LangGraph", ("langgraph", "langgraph.checkpoint.sqlite"),
        lambda folder, count: _langgraph(folder, count, resume=False),
        lambda folder, count: _langgraph(folder, count, resume=True),
    ),
}  # fmt: skip


def main() -> None:
    """One phase of one system."""
    name, phase, folder, count = sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])
    if phase == "take":
        PEERS[name].take(folder, count)
    else:
        print(json.dumps({"seconds": PEERS[name].resume(folder, count)}), flush=True)


if __name__ == "__main__":
    main()
