"""kill -9 in the middle of an agent's loop: a fresh process goes on, and every side effect happens once.

Run as a program it is the driver: it imports everything once and forks a process for each life of the agent.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import Any

from harness.agents import AutonomousAgent
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
MAX_POINTS = 80


class Moments:
    """Counts the moments at which a process may be killed, and kills this one at the chosen one."""

    def __init__(self, fatal: int) -> None:
        self.fatal = fatal
        self.count = 0

    def passed(self) -> None:
        self.count += 1
        if self.count == self.fatal:
            os.kill(os.getpid(), signal.SIGKILL)


async def live(folder: Path, fatal: int) -> dict[str, Any]:
    """One life of the agent: start or go on, and report. It ends by SIGKILL at the moment `fatal`."""
    moments = Moments(fatal)

    class MortalStore(SQLiteStore):
        async def append(self, *writes: Write, guards: Sequence[Guard] = ()) -> Appended:
            appended = await super().append(*writes, guards=guards)
            moments.passed()
            return appended

        def submit(self, *writes: Write, guards: Sequence[Guard] = ()) -> Awaitable[Appended]:
            future: Any = super().submit(*writes, guards=guards)
            future.add_done_callback(lambda _: moments.passed())
            return future

    class MortalPort(ScriptedModelPort):
        async def complete(self, request: ModelRequest) -> ModelResult:
            moments.passed()
            return await super().complete(request)

    effects = folder / "effects"
    registry = ToolRegistry()

    def paid(context: ToolExecutionContext) -> bool:
        return effects.exists() and context.idempotency_key in effects.read_text()

    @registry.tool(side_effect=True, on_unknown="probe", probe=paid)
    async def pay(amount: int, context: ToolExecutionContext) -> dict[str, int]:
        """Pay, once for each key."""
        moments.passed()
        with effects.open("a") as file:
            file.write(f"{context.idempotency_key} {amount}\n")
        moments.passed()
        return {"paid": amount}

    @registry.tool
    async def look() -> str:
        """Look around."""
        moments.passed()
        return "nothing new"

    turns = [
        *(ToolCall(id=f"pay{n}", name="pay", arguments_json=json.dumps({"amount": n})) for n in range(1, PAYMENTS + 1)),
        ToolCall(id="look", name="look"),
        ToolCall(id="bad", name="pay", arguments_json='{"amount": "much"}'),
        ToolCall(id="none", name="no_such_tool"),
        "all paid",
    ]
    store = MortalStore(folder / "harness.db", durability="process")
    kernel = Kernel(store=store, model_port=MortalPort(turns, by_history=True))
    agent = AutonomousAgent(kernel, tools=registry)
    result = await agent.run(
        run_id="payments", tenant=TenantContext(tenant_id="t"), model="m", system_prompt="Pay.", prompt="Pay all."
    )
    verified = bool(await store.verify())
    await kernel.close()
    return {
        "outcome": result.outcome,
        "output": result.output,
        "tool_calls": result.tool_calls,
        "errors": sum(message.is_error for message in result.messages),
        "paid": [int(line.split()[1]) for line in effects.read_text().splitlines()],
        "verified": verified,
        "moments": moments.count,
    }


def fork(folder: Path, fatal: int) -> tuple[int, dict[str, Any] | None]:
    """One life in a process of its own; gives how it ended and what it reported."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.write(writer, json.dumps(asyncio.run(live(folder, fatal))).encode())
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


def drive(root: Path) -> None:
    """Kill at every moment in turn, go on in a fresh process, and print a line for each."""
    for lazy in (
        "harness.kernel.kernel",
        "harness.kernel.history",
        "harness.ledger.sqlite",
        "harness.agents.agent",
        "pydantic",
    ):
        importlib.import_module(lazy)
    for fatal in range(1, MAX_POINTS):
        folder = root / str(fatal)
        folder.mkdir()
        code, report = fork(folder, fatal)
        died = code == -signal.SIGKILL
        if died:
            second, report = fork(folder, fatal * 2)  # dies again, if it gets so far
            if second == -signal.SIGKILL:
                code, report = fork(folder, 0)
        print(json.dumps({"fatal": fatal, "died": died, "report": report}), flush=True)
        if not died:
            return


def test_an_agent_killed_anywhere_goes_on_and_pays_once(tmp_path: Path) -> None:
    """After kill -9 at each append, call and effect, and again later, a fresh process ends the run as if undisturbed."""
    done = subprocess.run([sys.executable, __file__, str(tmp_path)], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    lives = [json.loads(line) for line in done.stdout.splitlines()]

    assert lives[-1]["died"] is False
    assert len(lives) > 20
    undisturbed = {key: value for key, value in lives[-1]["report"].items() if key != "moments"}
    assert undisturbed["paid"] == [1, 2, 3]
    assert undisturbed["output"] == "all paid"
    assert undisturbed["errors"] == 2
    assert undisturbed["verified"] is True
    for life in lives[:-1]:
        assert life["report"] is not None, f"did not go on after a kill at moment {life['fatal']}"
        assert {key: value for key, value in life["report"].items() if key != "moments"} == undisturbed, life["fatal"]


if __name__ == "__main__":
    drive(Path(sys.argv[1]))
