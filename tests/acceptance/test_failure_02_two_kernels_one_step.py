"""Failure 2: two kernels run the same tool step at once, and both execute it; or the second marks a call that is still
running as unknown."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from harness import Kernel, SQLiteStore, StepToolResult, TenantContext

TENANT = TenantContext(tenant_id="t")


class Sending:
    """A tool with a side effect that lasts until it is let go."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.begun = asyncio.Event()
        self.may_end = asyncio.Event()

    def give_to(self, kernel: Kernel) -> None:
        """Register the tool in a kernel."""

        @kernel.tool(side_effect=True)
        async def send(text: str) -> str:
            """Send a text."""
            self.sent.append(text)
            self.begun.set()
            await asyncio.wait_for(self.may_end.wait(), 60)
            return f"sent {text}"


async def step(kernel: Kernel) -> StepToolResult:
    """The same step, whoever takes it."""
    return await kernel.step_tool(run_id="r", tenant=TENANT, tool_name="send", arguments={"text": "hi"}, step_key="mail")


async def test_two_kernels_at_one_step_execute_it_once(tmp_path: Path) -> None:
    """The second waits for the first, and gets what that recorded; nothing is called unknown meanwhile."""
    tool = Sending()
    path = tmp_path / "h.db"
    async with SQLiteStore(path) as one, SQLiteStore(path) as two, Kernel(store=one) as first, Kernel(store=two) as second:
        tool.give_to(first)
        tool.give_to(second)
        await first.start_run(tenant=TENANT, run_id="r")
        calls = [asyncio.ensure_future(step(first))]
        await asyncio.wait_for(tool.begun.wait(), 30)
        calls.append(asyncio.ensure_future(step(second)))
        done, _ = await asyncio.wait(calls, timeout=0.6)  # longer than who waits looks again whether the other lives
        tool.may_end.set()
        results = await asyncio.wait_for(asyncio.gather(*calls), 30)
        types = [event.event_type for event in await first.get_events(run_id="r")]

    assert not done
    assert tool.sent == ["hi"]
    assert [(result.result, result.replayed) for result in results] == [("sent hi", False), ("sent hi", True)]
    assert "step.unknown" not in types
    assert types.count("step.completed") == 1


PROGRAM = """
import asyncio, pathlib, sys
from harness import Kernel, SQLiteStore, TenantContext
TENANT = TenantContext(tenant_id="t")
folder = pathlib.Path(sys.argv[1])

async def main():
    async with SQLiteStore(folder / "h.db") as store, Kernel(store=store) as kernel:
        @kernel.tool(side_effect=True)
        async def send(text: str) -> str:
            with open(folder / "sent", "a") as file:
                file.write(text + "\\n")
            await asyncio.sleep(0.02)
            return text
        await kernel.open_run(tenant=TENANT, run_id="r")
        print("ready", flush=True)
        sys.stdin.readline()
        for number in range(10):
            text = str(number)
            await kernel.step_tool(run_id="r", tenant=TENANT, tool_name="send", arguments={"text": text}, step_key=text)
asyncio.run(main())
"""


@pytest.mark.parametrize("processes", [3])
async def test_several_processes_at_one_run_send_each_text_once(tmp_path: Path, processes: int) -> None:
    """The same program in several processes at once does each step of the run once."""
    running = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(processes)
    ]
    try:
        for process in running:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        ended = [process.communicate("go\n", timeout=120) for process in running]
    finally:
        for process in running:
            process.kill()
            process.wait()

    assert [process.returncode for process in running] == [0] * processes, ended
    assert sorted((tmp_path / "sent").read_text().split(), key=int) == [str(number) for number in range(10)]
    async with SQLiteStore(tmp_path / "h.db") as store:
        types = [event.event_type for event in await store.read("run/r")]
        assert types.count("step.completed") == 10
        assert "step.unknown" not in types
        assert await store.verify_run_chain("r")
