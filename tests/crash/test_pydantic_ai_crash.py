"""kill -9 in the middle of a Pydantic AI agent: a fresh process goes on, and nothing that has ended is done again.

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
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("pydantic_ai")

from harness.kernel import Kernel, TenantContext
from harness.ledger import Appended, Guard, SQLiteStore, Write
from harness.pydantic_ai import HarnessDurability, ToolTraits, tool_context

MAX_LIVES = 60
TURNS = [
    {"text": "I look first.", "tools": [{"tool": "look", "input": {"account": "ann"}}]},
    {"tools": [{"tool": "pay", "input": {"amount": 5}}, {"tool": "pay", "input": {"amount": 7}}]},
    {"text": "Both are paid."},
]


class MortalStore(SQLiteStore):
    """Kills its process when it has appended so many times."""

    left = 0

    def _passed(self) -> None:
        self.left -= 1
        if not self.left:
            os.kill(os.getpid(), signal.SIGKILL)

    async def append(self, *writes: Write, guards: Sequence[Guard] = ()) -> Appended:
        appended = await super().append(*writes, guards=guards)
        self._passed()
        return appended

    def submit(self, *writes: Write, guards: Sequence[Guard] = ()) -> Awaitable[Appended]:
        future = super().submit(*writes, guards=guards)
        future.add_done_callback(lambda _: self._passed())  # type: ignore[attr-defined]
        return future


async def live(folder: Path, url: str, fatal: int) -> None:
    """One life of the agent, which ends by SIGKILL after `fatal` appends."""
    from pydantic_ai import Agent
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    store = MortalStore(folder / "state.db")
    store.left = fatal
    kernel = Kernel(store=store)
    durability = HarnessDurability(
        kernel, tenant=TenantContext(tenant_id="t"), read_only=["look"], tools={"pay": ToolTraits(on_unknown="retry")}
    )
    model = OpenAIChatModel("m-1", provider=OpenAIProvider(api_key="sk-test", base_url=f"{url}/v1"))
    agent = Agent(model, name="payer", capabilities=[durability])

    @agent.tool_plain
    def look(account: str) -> int:
        """What is on an account."""
        return 100

    @agent.tool_plain
    async def pay(amount: int) -> str:
        """Pay."""
        with (folder / "bank.txt").open("a") as bank:
            bank.write(f"{amount} {tool_context().idempotency_key}\n")
        await asyncio.sleep(0)
        return f"paid {amount}"

    async with durability.run("r"):
        result = await agent.run("Pay the two bills.")
    (folder / "result.txt").write_text(result.output)
    await kernel.close()
    assert await store.verify_run_chain("r")
    steps = [[event.type, event.key] for event in await store.read("run/r")]
    (folder / "events.json").write_text(json.dumps(steps))
    await store.close()


def drive(folder: Path, url: str) -> None:
    """Lives that each end one append later, until one ends by itself."""
    importlib.import_module("pydantic_ai.models.openai")
    for life in range(1, MAX_LIVES):
        pid = os.fork()
        if not pid:
            try:
                asyncio.run(live(folder, url, 1 + life % 4))
            except BaseException:  # noqa: BLE001 - a child of fork must not go on as its parent
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        if not os.WIFSIGNALED(status):
            assert os.waitstatus_to_exitcode(status) == 0, f"life {life} failed"
            print(json.dumps({"lives": life}))
            return
    raise AssertionError("no life came to the end")


def test_a_killed_agent_goes_on_and_repeats_nothing(tmp_path: Path, fake_model_api: ModuleType) -> None:
    """Killed again and again, it pays each bill under one key, and no recorded step is executed a second time."""
    script = {"side": "main", "rules": [{"prompt": "Pay", "turns": TURNS}]}
    with fake_model_api.FakeAPI(script) as api:
        driver = subprocess.run(
            [sys.executable, __file__, str(tmp_path), api.url], capture_output=True, text=True, timeout=100, check=False
        )
        asked = len(api.requests)
    assert driver.returncode == 0, driver.stderr
    lives: int = json.loads(driver.stdout)["lives"]
    events: list[Any] = json.loads((tmp_path / "events.json").read_text())
    completed = [key for type_, key in events if type_ == "step.completed"]
    payments = [line.split() for line in (tmp_path / "bank.txt").read_text().splitlines()]

    assert lives > 3
    assert (tmp_path / "result.txt").read_text() == "Both are paid."
    assert len(completed) == len(set(completed)) == 6
    assert {amount for amount, _ in payments} == {"5", "7"}
    assert len({key for _, key in payments}) == 2  # a bank that honours the key pays twice, not more
    assert asked <= 3 + sum(type_ == "step.interrupted" for type_, _ in events) + lives


if __name__ == "__main__":
    drive(Path(sys.argv[1]), sys.argv[2])
