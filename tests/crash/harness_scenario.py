"""A supervisor and its three tasks with side effects, killed anywhere and run again; driven by `test_harness_crash`.

Run as a program: `harness_scenario.py FOLDER before|after|random|two [COUNT SEED]`. It prints one JSON line for each point:
what was killed, and what is wrong with what came of it.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from kernel_scenario import Mortal, Port, Tally, _forked

from harness import HarnessContext, IncrementalTaskHarness, Kernel, OutcomeUnknown, SupervisorHarness, TaskUnit, TenantContext
from harness.kernel import ToolExecutionContext
from harness.ledger import SQLiteStore

TENANT = TenantContext(tenant_id="t", budget_usd_limit=1.0)
BOSS, CHILD = "boss", "boss::tasks"
TASKS = ("probe", "ask", "retry")  # each is named after what its side effect does when its outcome is unknown
SESSIONS = 40


class Tasks(IncrementalTaskHarness):
    async def define_tasks(self) -> list[TaskUnit]:
        return [TaskUnit(id=id, description=f"do {id}") for id in TASKS]

    async def work_on(self, task: TaskUnit) -> None:
        await self.run_model(prompt=f"wait {task.id}")
        await self.run_tool(tool_name="look", arguments={"task": task.id})
        await self.run_tool(tool_name=task.id, arguments={"task": task.id})
        await self.set_artifact(key=task.id, value={"did": task.id})


class Boss(SupervisorHarness):
    async def step(self, *, context: HarnessContext) -> Any:
        await self.run_model(prompt=f"wait {context.session}")
        return await self.run_child(harness=Tasks(self.kernel), run_id=CHILD)


def register(kernel: Kernel, tally: Tally) -> None:
    """A pure tool, and a side effect for each task that counts how often it happened."""

    @kernel.tool()
    def look(task: str) -> str:
        tally.add(f"look {task}")
        return task

    def happened(context: ToolExecutionContext) -> bool:
        return any(line.startswith(f"effect {context.idempotency_key} ") for line in tally.lines())

    for policy in TASKS:

        async def effect(task: str, context: ToolExecutionContext) -> None:
            if not happened(context):  # the other side honours the key
                tally.add(f"effect {context.idempotency_key} {task}")

        kernel.tool(name=policy, side_effect=True, on_unknown=policy, probe=happened)(effect)  # type: ignore[arg-type]


async def live(folder: Path, store: SQLiteStore) -> None:
    """Session after session until every task is done; a person settles what is unknown."""
    tally = Tally(folder / "tally")
    async with Kernel(store=store, model_port=Port(tally)) as kernel:
        register(kernel, tally)
        boss = Boss(kernel, TENANT)
        for _ in range(SESSIONS):
            try:
                tasks = await boss.run(BOSS)
            except OutcomeUnknown:
                did = any(line.endswith(" ask") and line.startswith("effect") for line in tally.lines())
                outcome = "completed" if did else "retry"
                await kernel.reconcile_tool(run_id=CHILD, tenant=TENANT, tool_name="ask", outcome=outcome)
                continue
            if all(task.state == "done" for task in tasks):
                return
        raise AssertionError("the tasks are never done")


async def attempt(folder: Path, n: int, when: str) -> None:
    async with Mortal(folder / "h.db", n, when) as store:
        await live(folder, store)


async def resume(folder: Path) -> None:
    """The rest of the work in a fresh process; then everything is looked at."""
    wrong: list[str] = []
    tally = Tally(folder / "tally")
    async with SQLiteStore(folder / "h.db", durability="process") as store:
        finished = {event.key or "" for event in await store.read(f"run/{CHILD}") if event.type == "step.completed"}
        before = tally.lines()
        await live(folder, store)
        wrong += repeated(tally.lines()[len(before) :], finished)
        wrong += await contradictions(store, tally.lines())
    (folder / "wrong").write_text(json.dumps(wrong))


def repeated(new: list[str], finished: set[str]) -> list[str]:
    """Steps that were finished before and were executed again."""
    wrong: list[str] = []
    for task in TASKS:
        done = {key.rpartition("/")[2] for key in finished if f"/task:{task}/" in key}
        ran = {"model#1": f"model wait {task}", "look#1": f"look {task}"}
        wrong += [f"{task}: {step} was finished and ran again" for step in done if ran.get(step) in new]
    return wrong


async def contradictions(store: SQLiteStore, lines: list[str]) -> list[str]:
    """What must not be, whatever was killed."""
    wrong: list[str] = []
    ended: dict[str, int] = {}
    effects = Counter(line.split(" ")[2] for line in lines if line.startswith("effect "))
    if effects != dict.fromkeys(TASKS, 1):
        wrong.append(f"side effects happened {dict(effects)}")
    verified = await store.verify()
    if not verified:
        wrong.append(f"the chain does not verify: {verified.problems}")
    for run in (BOSS, CHILD):
        events = await store.read(f"run/{run}")
        ends = [event.payload for event in events if event.type == "session.ended"]
        numbers = [end["number"] for end in ends]
        ended[run] = len(numbers)
        if run == CHILD and numbers != [1, 2, 3]:
            wrong.append(f"{run} ended its sessions {numbers}")
        if numbers != sorted(set(numbers)) or {end["outcome"] for end in ends} != {"completed"}:
            wrong.append(f"{run} ended {ends}")
        status = await store.latest(f"run/{run}", "status")
        if status is None or status.type != "run.completed":
            wrong.append(f"{run} is left {status and status.type}")
        artifacts = Counter(event.key for event in events if event.type == "artifact.set")
        if run == CHILD and artifacts != {f"artifact::{task}": 1 for task in TASKS}:
            wrong.append(f"artifacts were recorded {dict(artifacts)}")
    if ended[CHILD] > ended[BOSS]:
        wrong.append(f"the child ran ahead of its parent: {ended}")
    return wrong


def _point(root: Path, name: str, n: int, when: str, *, seconds: float | None = None) -> bool:
    folder = root / name
    folder.mkdir()
    code = _forked(lambda: attempt(folder, n, when), seconds=seconds)
    wrong = [] if code in (0, -signal.SIGKILL) else [f"the attempt ended with {code}"]
    if _forked(lambda: resume(folder)) != 0:
        wrong.append("the resume failed")
    else:
        wrong += json.loads((folder / "wrong").read_text())
    print(json.dumps({"point": name, "killed": code == -signal.SIGKILL, "wrong": wrong}), flush=True)
    return code == -signal.SIGKILL


async def _run(folder: Path) -> None:
    async with SQLiteStore(folder / "h.db", durability="process") as store:
        await live(folder, store)


def _begun(folder: Path) -> int:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            asyncio.run(_run(folder))
            code = 0
        except BaseException:  # noqa: BLE001 - it ends here, whatever it is
            traceback.print_exc()
        finally:
            os._exit(code)
    return pid


def _two(root: Path, name: str, dice: random.Random) -> None:
    """Two processes at once, of which one is killed; then one goes on."""
    folder = root / name
    folder.mkdir()
    pids = [_begun(folder), _begun(folder)]
    time.sleep(dice.uniform(0.005, 0.1))
    os.kill(pids[0], signal.SIGKILL)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    wrong = [] if codes[0] in (0, -signal.SIGKILL) and codes[1] == 0 else [f"the processes ended with {codes}"]
    if _forked(lambda: resume(folder)) != 0:
        wrong.append("the resume failed")
    else:
        wrong += json.loads((folder / "wrong").read_text())
    print(json.dumps({"point": name, "killed": codes[0] == -signal.SIGKILL, "wrong": wrong}), flush=True)


def main() -> None:
    root, mode = Path(sys.argv[1]), sys.argv[2]
    if mode in ("before", "after"):  # each write
        n = 1
        while _point(root, f"{mode}-{n}", n, mode):
            n += 1
        return
    dice = random.Random(int(sys.argv[4]))
    for number in range(int(sys.argv[3])):
        if mode == "two":
            _two(root, f"two-{number}", dice)
        else:
            _point(root, f"random-{number}", -1, "", seconds=dice.uniform(0.002, 0.15))


if __name__ == "__main__":
    main()
