"""Workflows and other processes: killed at every event, cancelled from outside, paused and resumed by two at once."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from harness.kernel import Kernel, TenantContext
from harness.ledger import SQLiteStore

TENANT = TenantContext(tenant_id="t")
LIMIT_SECONDS = 100

WORKFLOW = """
    import asyncio, json, os, signal, sys
    from pathlib import Path
    from harness import Kernel, RetryPolicy, SQLiteStore, TenantContext

    path = sys.argv[1]
    tenant = TenantContext(tenant_id="t")

    class Dying(SQLiteStore):
        async def append(self, *writes, guards=()):
            appended = await super().append(*writes, guards=guards)
            self.die(appended.last)
            return appended

        def submit(self, *writes, guards=()):
            future = super().submit(*writes, guards=guards)
            future.add_done_callback(lambda done: done.exception() or self.die(done.result().last))
            return future

        def die(self, event):
            if event.stream.startswith("run/r") and event.type not in ("run.acquired", "run.resumed"):
                os.kill(os.getpid(), signal.SIGKILL)

    def done(name):
        with Path(path + ".done").open("a") as log:
            log.write(name + "\\n")
        return name

    async def child(ctx):
        return await ctx.step(name="inner", action=lambda: done("inner"))

    async def workflow(ctx):
        first = await ctx.step(name="first", action=lambda: done("first"))
        tries = []
        def flaky():
            if done("flaky") and len(Path(path + ".done").read_text().split("flaky")) < 3:
                raise ValueError("not yet")
            return "flaky"
        pair = await asyncio.gather(
            ctx.step(name="pair", action=lambda: done("a")), ctx.step(name="pair", action=lambda: done("b"))
        )
        await ctx.sleep(0.01)
        flaked = await ctx.step(name="flaky", action=flaky, retry=RetryPolicy(max_attempts=10, base_seconds=0.01))
        return [first, *pair, flaked, await ctx.child(name="kid", workflow=child), await ctx.pause("well?")]

    async def main():
        async with Dying(path, durability="process") as store, Kernel(store=store) as kernel:
            result = await kernel.run_workflow(run_id="r", tenant=tenant, workflow=workflow)
            if result.status == "paused":
                await kernel.resume(run_id="r", human_input="yes")
                result = await kernel.run_workflow(run_id="r", tenant=tenant, workflow=workflow)
            print(json.dumps(result.output))

    asyncio.run(main())
"""


def python(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", textwrap.dedent(program), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False)


async def test_a_workflow_that_is_killed_again_and_again_ends_as_one_that_is_not(tmp_path: Path) -> None:
    """A kill after each further event loses nothing and repeats only what had no recorded end."""
    path = tmp_path / "k.db"
    kills = 0
    for _ in range(60):  # each process gets one event further
        ran = python(WORKFLOW, path)
        if ran.returncode == 0:
            break
        assert ran.returncode == -9, ran.stderr
        kills += 1
    done = (tmp_path / "k.db.done").read_text().split()

    assert json.loads(ran.stdout) == ["first", "a", "b", "flaky", "inner", "yes"]
    assert kills >= 10
    assert {name: done.count(name) for name in ("first", "inner")} == {"first": 1, "inner": 1}
    async with SQLiteStore(path) as store, Kernel(store=store) as kernel:
        assert await store.verify()
        events = await kernel.get_events(run_id="r")
        ends = [event.key for event in events if event.type == "step.completed"]
        assert len(ends) == len(set(ends)) == 7
        assert [event.type for event in events].count("run.paused") == 1
        assert (await kernel.get_run_progress(run_id="r")).steps == {"completed": 7}


async def test_cancelling_from_another_process_wakes_a_sleeping_workflow(tmp_path: Path) -> None:
    """The process that slept for a day ends within moments, with the run's end in its result."""
    path = tmp_path / "k.db"
    program = textwrap.dedent("""
        import asyncio, sys
        from harness import Kernel, SQLiteStore, TenantContext

        async def workflow(ctx):
            await ctx.sleep(86_400)

        async def main():
            async with SQLiteStore(sys.argv[1]) as store, Kernel(store=store) as kernel:
                tenant = TenantContext(tenant_id="t")
                print((await kernel.run_workflow(run_id="r", tenant=tenant, workflow=workflow)).status)

        asyncio.run(main())
    """)
    async with SQLiteStore(path) as store, Kernel(store=store) as kernel:
        sleeper = subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True)
        try:
            async for event in store.follow(streams=("run/r",)):
                if event.type == "step.started":
                    break
            began = time.monotonic()
            await kernel.cancel_run(run_id="r", reason="enough")
            said, _ = sleeper.communicate(timeout=LIMIT_SECONDS)
            took = time.monotonic() - began
        finally:
            sleeper.kill()
            sleeper.wait()

    assert said.strip() == "cancelled"
    assert took < 30


@pytest.mark.parametrize("first", ["pause", "resume"])
async def test_two_processes_pause_and_resume(tmp_path: Path, first: str) -> None:
    """Each change follows the one before, whoever makes it, and whoever is late is refused."""
    path = tmp_path / "k.db"
    program = textwrap.dedent("""
        import asyncio, sys
        from harness import Kernel, RunNotActive, SQLiteStore

        async def main():
            refused = made = 0
            async with SQLiteStore(sys.argv[1], durability="process") as store, Kernel(store=store) as kernel:
                for index in range(40):
                    name = ("pause", "resume")[(index + (sys.argv[2] == "resume")) % 2]
                    try:
                        await getattr(kernel, name)(run_id="r")
                        made += 1
                    except RunNotActive:
                        refused += 1
            print(made, refused)

        asyncio.run(main())
    """)
    async with SQLiteStore(path) as store, Kernel(store=store) as kernel:
        await kernel.start_run(tenant=TENANT, run_id="r")
        others = [
            subprocess.Popen([sys.executable, "-c", program, str(path), word], stdout=subprocess.PIPE, text=True)
            for word in (first, "pause")
        ]
        said = [other.communicate(timeout=LIMIT_SECONDS)[0].split() for other in others]
        changes = [event.type for event in await store.read("run/r")][1:]

    assert sum(int(made) for made, _ in said) == len(changes) > 0
    assert changes == [("run.paused", "run.resumed")[index % 2] for index in range(len(changes))]
