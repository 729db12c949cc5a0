"""Failure 13 of systems of this kind: an uncaught exception before close hangs the process at exit, and a subscriber that
appends deadlocks.

Here a program that forgets everything and dies of its own exception ends at once, with the exception on its standard error
and every event in the ledger that was committed; and who follows a run may write to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from harness import Kernel, MemoryStore, MockModelPort, SQLiteStore, TenantContext

TENANT = TenantContext(tenant_id="t")
LIMIT_SECONDS = 60

BEGINNING = """
    import asyncio, fcntl, sys, threading, time
    from harness import Kernel, MockModelPort, ModelInput, SQLiteStore, TenantContext

    tenant = TenantContext(tenant_id="t", budget_usd_limit=1.0)

    class Endless(MockModelPort):
        async def complete(self, request):
            await asyncio.Event().wait()
        async def stream(self, request):
            yield "one"
            await asyncio.Event().wait()

    async def begun(port=None):
        kernel = Kernel(store=SQLiteStore(sys.argv[1]), model_port=port or MockModelPort(text="said"))
        kernel.tool(name="note")(lambda: "noted")
        await kernel.start_run(tenant=tenant, run_id="r")
        await kernel.step_tool(run_id="r", tenant=tenant, tool_name="note")  # in a thread of its own
        return kernel

    def ask(kernel, name="step_model"):
        return getattr(kernel, name)(run_id="r", tenant=tenant, model="m", input=ModelInput.from_prompt("x"))
"""

ENDINGS = {
    "nothing is under way": """
        async def main():
            await begun()
            raise RuntimeError("uncaught")
    """,
    "a model is being asked": """
        async def main():
            kernel = await begun(Endless())
            asked = asyncio.ensure_future(ask(kernel))
            await asyncio.sleep(0.05)
            raise RuntimeError("uncaught")
    """,
    "an answer is being read": """
        async def main():
            kernel = await begun(Endless())
            answer = ask(kernel, "stream_model")
            await anext(answer)
            raise RuntimeError("uncaught")
    """,
    "a workflow sleeps": """
        async def main():
            kernel = await begun()
            async def workflow(ctx):
                await ctx.sleep(86_400)
            running = asyncio.ensure_future(kernel.run_workflow(run_id="r", tenant=tenant, workflow=workflow))
            async for event in kernel.store.follow():
                if event.type == "step.started":
                    raise RuntimeError("uncaught")
    """,
    "somebody follows": """
        async def main():
            kernel = await begun()
            async def follow():
                async for event in kernel.stream_events(run_id="r", follow=True):
                    pass
            following = asyncio.ensure_future(follow())
            await asyncio.sleep(0.05)
            raise RuntimeError("uncaught")
    """,
    "a tool runs in a thread": """
        async def main():
            kernel = await begun()
            began = threading.Event()
            def slow():
                began.set()
                time.sleep(300)
            kernel.tool(name="slow")(slow)
            running = asyncio.ensure_future(kernel.step_tool(run_id="r", tenant=tenant, tool_name="slow"))
            while not began.is_set():
                await asyncio.sleep(0.01)
            raise RuntimeError("uncaught")
    """,
    "an append was not waited for": """
        async def main():
            kernel = await begun()
            asyncio.ensure_future(kernel.set_artifact(run_id="r", tenant=tenant, key="k", value=1))
            raise RuntimeError("uncaught")
    """,
    "the writer's thread is there": """
        async def main():
            kernel = await begun()
            with open(sys.argv[1] + "-gate", "a") as gate:  # as another process would that writes just now
                fcntl.flock(gate, fcntl.LOCK_EX)
                put = asyncio.ensure_future(kernel.set_artifact(run_id="r", tenant=tenant, key="k", value=1))
                while not any(thread.name.startswith("ledger") for thread in threading.enumerate()):
                    await asyncio.sleep(0.01)
            await put
            raise RuntimeError("uncaught")
    """,
    "the loop was left without closing": """
        async def main():
            globals()["kernel"] = await begun()

        def after():
            raise RuntimeError("uncaught")
    """,
}


@pytest.mark.parametrize("ending", ENDINGS, ids=lambda name: name.replace(" ", "-"))
async def test_an_uncaught_exception_ends_the_process(tmp_path: Path, ending: str) -> None:
    """It ends by itself, in time, with the exception told; what was committed is there, verifies, and can be gone on with."""
    path = tmp_path / "k.db"
    program = textwrap.dedent(BEGINNING) + textwrap.dedent(ENDINGS[ending]) + "\nafter = globals().get('after', lambda: None)\n"
    program += "asyncio.run(main())\nafter()\n"

    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False
    )

    assert done.returncode == 1, done.stderr
    assert done.stderr.rstrip().endswith("RuntimeError: uncaught")
    async with SQLiteStore(path) as store, Kernel(store=store) as kernel:
        assert await store.verify_run_chain("r")
        kernel.tool(name="note")(lambda: "another")
        async with asyncio.timeout(LIMIT_SECONDS):
            noted = await kernel.step_tool(run_id="r", tenant=TENANT, tool_name="note")
            fresh = await kernel.step_tool(run_id="r", tenant=TENANT, tool_name="note")
    assert (noted.result, noted.replayed) == ("noted", True)
    assert (fresh.result, fresh.replayed) == ("another", False)


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_a_subscriber_that_appends_does_not_deadlock(tmp_path: Path, kind: str) -> None:
    """Who is told of an event may write to the same run, take steps in it and change its status, and is told of that too."""
    store = MemoryStore() if kind == "memory" else SQLiteStore(tmp_path / "k.db")
    async with store, Kernel(store=store, model_port=MockModelPort(text="x")) as kernel:

        @kernel.tool
        async def echo() -> str:
            return "echoed"

        await kernel.start_run(tenant=TENANT, run_id="r")

        async def answer() -> list[str]:
            seen: list[str] = []
            async with contextlib.aclosing(kernel.stream_events(run_id="r", follow=True)) as events:
                async for event in events:
                    seen.append(event.type)
                    match event.type:
                        case "run.started":
                            await kernel.set_artifact(run_id="r", tenant=TENANT, key="k", value=1)
                        case "artifact.set":
                            await kernel.step_tool(run_id="r", tenant=TENANT, tool_name="echo", step_key="echo")
                        case "step.completed":
                            await kernel.finish_run(run_id="r")
                        case "run.completed":
                            return seen
                        case _:
                            pass
            return seen

        async with asyncio.timeout(LIMIT_SECONDS):
            seen = await answer()

    assert seen == ["run.started", "artifact.set", "step.completed", "run.completed"]


async def test_subscribers_that_append_to_each_other_do_not_deadlock(tmp_path: Path) -> None:
    """Two that answer each other's events play ball until one stops, though all writes pass through one writer."""
    async with SQLiteStore(tmp_path / "k.db") as store, Kernel(store=store) as kernel:
        for run_id in ("ping", "pong"):
            await kernel.start_run(tenant=TENANT, run_id=run_id)

        async def play(mine: str, other: str) -> int:
            async with contextlib.aclosing(kernel.stream_events(run_id=mine, follow=True)) as events:
                async for event in events:
                    if event.type == "artifact.set":
                        count = event.payload["value"]
                        await kernel.set_artifact(run_id=other, tenant=TENANT, key="ball", value=count + 1)
                        if count >= 20:
                            return count
            return 0

        async with asyncio.timeout(LIMIT_SECONDS), asyncio.TaskGroup() as tasks:
            players = [tasks.create_task(play("ping", "pong")), tasks.create_task(play("pong", "ping"))]
            await kernel.set_artifact(run_id="ping", tenant=TENANT, key="ball", value=1)

    assert sorted(player.result() for player in players) == [20, 21]
