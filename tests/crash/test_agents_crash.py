"""kill -9 in the middle of an agent's loop: a fresh process goes on, and every side effect happens once.

Run as a program it is the driver: it imports everything once and forks a process for each life of the agent.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import json
import os
import re
import signal
import subprocess
import sys
import traceback
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from harness.agents import AutonomousAgent, CompactionStrategy, SubAgent
from harness.kernel import (
    Kernel,
    ModelRequest,
    ModelResult,
    ScriptedModelPort,
    TenantContext,
    ToolCall,
    ToolExecutionContext,
    ToolRegistry,
)
from harness.ledger import Appended, Guard, SQLiteStore, Write

PAYMENTS = 3
MAX_POINTS = 300
TENANT = TenantContext(tenant_id="t")


class Moments:
    """Counts the moments at which a process may be killed, and kills this one at the chosen one."""

    def __init__(self, fatal: int) -> None:
        self.fatal = fatal
        self.count = 0

    def passed(self) -> None:
        self.count += 1
        if self.count == self.fatal:
            os.kill(os.getpid(), signal.SIGKILL)


class Life:
    """One life of a process: a store and a port that may be fatal, and the tools of both scenes."""

    def __init__(self, folder: Path, fatal: int) -> None:
        self.moments = moments = Moments(fatal)

        class MortalStore(SQLiteStore):
            async def append(self, *writes: Write, guards: Sequence[Guard] = ()) -> Appended:
                appended = await super().append(*writes, guards=guards)
                moments.passed()
                return appended

            def submit(self, *writes: Write, guards: Sequence[Guard] = ()) -> Awaitable[Appended]:
                future: Any = super().submit(*writes, guards=guards)
                future.add_done_callback(lambda _: moments.passed())
                return future

        self.effects = folder / "effects"
        self.store = MortalStore(folder / "harness.db", durability="process")
        self.tools = ToolRegistry()

        def paid(context: ToolExecutionContext) -> bool:
            return self.effects.exists() and context.idempotency_key in self.effects.read_text()

        @self.tools.tool(side_effect=True, on_unknown="probe", probe=paid)
        async def pay(amount: int, context: ToolExecutionContext) -> dict[str, int]:
            """Pay, once for each key."""
            moments.passed()
            with self.effects.open("a") as file:
                file.write(f"{context.idempotency_key} {amount}\n")
            moments.passed()
            return {"paid": amount}

    def kernel(self, turns: Sequence[Any]) -> Kernel:
        moments = self.moments

        class MortalPort(ScriptedModelPort):
            async def complete(self, request: ModelRequest) -> ModelResult:
                moments.passed()
                return await super().complete(request)

        return Kernel(store=self.store, model_port=MortalPort(turns, by_history=True, default=turns[-1]))

    def paid(self) -> list[int]:
        return [int(line.split()[1]) for line in self.effects.read_text().splitlines()]


async def loop(life: Life) -> dict[str, Any]:
    """An agent that pays, looks and errs."""

    @life.tools.tool
    async def look() -> str:
        """Look around."""
        life.moments.passed()
        return "nothing new"

    turns = [
        *(ToolCall(id=f"pay{n}", name="pay", arguments_json=json.dumps({"amount": n})) for n in range(1, PAYMENTS + 1)),
        ToolCall(id="look", name="look"),
        ToolCall(id="bad", name="pay", arguments_json='{"amount": "much"}'),
        ToolCall(id="none", name="no_such_tool"),
        "all paid",
    ]
    kernel = life.kernel(turns)
    agent = AutonomousAgent(kernel, tools=life.tools)
    result = await agent.run(run_id="payments", tenant=TENANT, model="m", system_prompt="Pay.", prompt="Pay all.")
    await kernel.close()
    return {
        "outcome": result.outcome,
        "output": result.output,
        "tool_calls": result.tool_calls,
        "errors": sum(message.is_error for message in result.messages),
    }


_NEXT = {
    1: ("note", {"n": 1}),
    2: ("remember", {"key": "step-2", "text": "step 5"}),
    3: ("payer", {"task": "step 3"}),
    4: ("note", {"n": 4}),
    5: ("recall", {"key": "step-2"}),
    6: ("payer", {"task": "step 6"}),
    7: ("note", {"n": 7}),
}


def decided(request: ModelRequest) -> Any:
    """What each of the models says: it depends on what it reads last, since compaction takes away what it said."""
    last, system = request.messages[-1].text, request.messages[0].text
    step = int((re.findall(r"step[- ](\d+)", last) or ["0"])[-1])
    if "transcript" in system:
        return "the gist"
    if system == "payer":
        if request.messages[-1].role == "tool":
            return f"done with step {request.prompt.split()[-1]}"
        return ToolCall(id="pay", name="pay", arguments_json=json.dumps({"amount": step}))
    if step + 1 not in _NEXT:
        return "all done"
    name, arguments = _NEXT[step + 1]
    return ToolCall(id=f"call-{step + 1}", name=name, arguments_json=json.dumps(arguments))


async def family(life: Life) -> dict[str, Any]:
    """An agent that remembers, is summarised, and lets another agent pay."""
    notes = ToolRegistry()

    @notes.tool
    async def note(n: int) -> str:
        """Write very much."""
        life.moments.passed()
        return "x" * 500 + f" step {n}"

    kernel = life.kernel([decided])
    payer = SubAgent(name="payer", description="Pays.", system_prompt="payer", tools=life.tools)
    agent = AutonomousAgent(
        kernel, tools=notes, memory="tenant", subagents=[payer],
        compaction=CompactionStrategy(trigger_at_tokens=160, keep_recent_tokens=20),
    )  # fmt: skip
    result = await agent.run(run_id="family", tenant=TENANT, model="m", system_prompt="boss", prompt="Do all.")
    await kernel.close()
    events = await life.store.read("run/memory::t")
    return {
        "outcome": result.outcome,
        "output": result.output,
        "tool_calls": result.tool_calls,
        "compactions": result.compactions,
        "conversation": [message.text for message in result.messages],
        "runs": sorted(head.stream for head in await life.store.heads("run/")),
        "written": sum(event.type == "artifact.set" for event in events),
        "children": [event.key for event in await life.store.read("run/family") if event.type == "child.linked"],
        "active": [status.run_id for status in await kernel.list_active_runs()],
    }


SCENES: dict[str, Callable[[Life], Any]] = {"loop": loop, "family": family}


async def live(scene: str, folder: Path, fatal: int) -> dict[str, Any]:
    """One life of the agent: start or go on, and report. It ends by SIGKILL at the moment `fatal`."""
    life = Life(folder, fatal)
    report = await SCENES[scene](life)
    verified = bool(await life.store.verify())
    return {**report, "paid": life.paid(), "verified": verified, "modules": [name for name in sys.modules if known(name)]}


def known(name: str) -> bool:
    return name.partition(".")[0] in ("harness", "pydantic", "pydantic_core", "anyio", "asyncio", "sqlite3")


def fork(scene: str, folder: Path, fatal: int) -> tuple[int, dict[str, Any] | None]:
    """One life in a process of its own; gives how it ended and what it reported."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.write(writer, json.dumps(asyncio.run(live(scene, folder, fatal))).encode())
            code = 0
        except BaseException:  # noqa: BLE001 - this copy of the driver must not go on with the driver's work
            traceback.print_exc()
        os._exit(code)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code > 0:
        raise SystemExit(f"the life in {folder} that should die at {fatal} failed")
    return code, json.loads(said) if said else None


def drive(scene: str, root: Path) -> None:
    """Kill at every moment in turn, go on in a fresh process, and print a line for each."""
    (root / "first").mkdir()
    _, first = fork(scene, root / "first", 0)
    assert first is not None
    for name in first["modules"]:  # once here, and not in every life
        importlib.import_module(name)
    gc.freeze()
    for fatal in range(1, MAX_POINTS):
        folder = root / str(fatal)
        folder.mkdir()
        code, report = fork(scene, folder, fatal)
        died = code == -signal.SIGKILL
        if died:
            second, report = fork(scene, folder, fatal * 2)  # dies again, if it gets so far
            if second == -signal.SIGKILL:
                code, report = fork(scene, folder, 0)
        print(json.dumps({"fatal": fatal, "died": died, "report": report}), flush=True)
        if not died:
            return


def lives_of(scene: str, root: Path) -> list[dict[str, Any]]:
    """Every life of a scene; the last one is undisturbed, and all others must have come to the same end."""
    command = [sys.executable, __file__, scene, str(root)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def ends_of(lives: list[dict[str, Any]]) -> dict[str, Any]:
    """How the undisturbed life ended; all others must have ended in the same way."""
    assert lives[-1]["died"] is False
    assert len(lives) > 20
    undisturbed = {key: value for key, value in lives[-1]["report"].items() if key != "modules"}
    for life in lives[:-1]:
        assert life["report"] is not None, f"did not go on after a kill at moment {life['fatal']}"
        assert {key: value for key, value in life["report"].items() if key != "modules"} == undisturbed, life["fatal"]
    return undisturbed


def test_an_agent_killed_anywhere_goes_on_and_pays_once(tmp_path: Path) -> None:
    """After kill -9 at each append, call and effect, and again later, a fresh process ends the run as if undisturbed."""
    undisturbed = ends_of(lives_of("loop", tmp_path))

    assert undisturbed["paid"] == [1, 2, 3]
    assert undisturbed["output"] == "all paid"
    assert undisturbed["errors"] == 2
    assert undisturbed["verified"] is True


@pytest.mark.timeout(300)
def test_an_agent_with_sub_agents_memory_and_summaries_killed_anywhere_goes_on(tmp_path: Path) -> None:
    """Killed in a child, in a summary or in a write of its memory, it ends with the same runs, words and payments."""
    undisturbed = ends_of(lives_of("family", tmp_path))

    assert undisturbed["output"] == "all done"
    assert undisturbed["paid"] == [3, 6]
    assert undisturbed["written"] == 1
    assert undisturbed["compactions"] > 1
    assert len(undisturbed["children"]) == 2
    assert len(undisturbed["runs"]) == 4
    assert undisturbed["active"] == []
    assert undisturbed["verified"] is True


if __name__ == "__main__":
    drive(sys.argv[1], Path(sys.argv[2]))
