"""One run, several kernels: nothing is executed twice, nobody waits for the dead, nothing hangs at exit."""

from __future__ import annotations

import asyncio
import gc
import json
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from harness.clock import SystemClock
from harness.errors import Fenced, LeaseHeld, StepFailed, StepRejected
from harness.kernel import Kernel, KernelPolicy, ModelCallOptions, ModelInput, ModelRequest, ModelResult, TenantContext
from harness.ledger import Acquire, Draft, SQLiteStore, Write

TENANT = TenantContext(tenant_id="t")
RUN = "run-1"
MOMENT = 0.05


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "k.db"


@pytest.fixture
async def stores(path: Path) -> AsyncIterator[tuple[SQLiteStore, SQLiteStore]]:
    one, two = SQLiteStore(path), SQLiteStore(path)
    yield one, two
    await one.close()
    await two.close()


class Slow:
    """Answers after a moment; counts, and says when it was first called."""

    def __init__(self, moment: float = MOMENT) -> None:
        self.moment = moment
        self.calls = 0
        self.called = asyncio.Event()

    async def complete(self, request: ModelRequest) -> ModelResult:
        self.calls += 1
        self.called.set()
        await asyncio.sleep(self.moment)
        return ModelResult(output=request.prompt)


def ask(kernel: Kernel, prompt: str = "hi", **more: Any) -> Any:
    return kernel.step_model(
        **{"run_id": RUN, "tenant": TENANT, "model": "m", "input": ModelInput.from_prompt(prompt), "step_key": prompt, **more}
    )


def paying(store: SQLiteStore, paid: list[int], moment: float = MOMENT) -> Kernel:
    kernel = Kernel(store=store)

    @kernel.tool(side_effect=True)
    async def pay(amount: int) -> int:
        await asyncio.sleep(moment)
        paid.append(amount)
        return amount

    return kernel


def pay(kernel: Kernel) -> Any:
    return kernel.step_tool(run_id=RUN, tenant=TENANT, tool_name="pay", arguments={"amount": 1}, step_key="pay")


async def foreign_lease(store: SQLiteStore, holder: str, seconds: float) -> int:
    """Somebody else has the run; gives the token."""
    lease = await store.lease(f"run/{RUN}")
    token = lease.token + 1 if lease else 1
    if lease:
        await store.renew(f"run/{RUN}", lease.token, 0)
    event = Draft(type="run.acquired", payload={"holder": holder, "token": token}, tenant="t")
    await store.append(Write(f"run/{RUN}", (event,)), guards=[Acquire(f"run/{RUN}", holder, token, seconds)])
    return token


async def test_failure_2_two_kernels_at_one_tool_step_execute_it_once(stores: tuple[SQLiteStore, SQLiteStore]) -> None:
    """The second waits for the first, marks nothing as unknown, and gets its result."""
    paid: list[int] = []
    one, two = paying(stores[0], paid), paying(stores[1], paid)
    await one.start_run(tenant=TENANT, run_id=RUN)
    await two.load_run(run_id=RUN)

    first, second = await asyncio.gather(pay(one), pay(two))

    assert paid == [1]
    assert (first.seq, first.replayed, second.replayed) == (second.seq, False, True)
    assert [event.type for event in await one.get_events(run_id=RUN)] == ["run.started", "step.started", "step.completed"]


async def test_failure_2_two_processes_at_one_script_execute_each_step_once(path: Path, tmp_path: Path) -> None:
    """Several processes that run the same script at once share its steps and end with the same results."""
    async with SQLiteStore(path) as store, Kernel(store=store) as kernel:
        await kernel.start_run(tenant=TENANT, run_id=RUN)
    script = """
        import asyncio, os, sys
        from harness.kernel import *
        from harness.ledger import SQLiteStore
        path, effects = sys.argv[1:]
        TENANT = TenantContext(tenant_id="t")
        async def main():
            async with SQLiteStore(path) as store, Kernel(store=store) as kernel:
                @kernel.tool(side_effect=True)
                async def effect(n: int) -> str:
                    with open(effects, "a") as file: file.write(f"{n}\\n")
                    await asyncio.sleep(0.002)
                    return f"{n}"
                for n in range(15):
                    step = kernel.step_tool(run_id="run-1", tenant=TENANT, tool_name="effect", arguments={"n": n})
                    print((await step).result_json, end=",")
        asyncio.run(main())
    """
    effects = tmp_path / "effects"
    command = [sys.executable, "-c", textwrap.dedent(script), str(path), str(effects)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    try:
        printed = [process.communicate(timeout=60)[0].strip() for process in processes]
    finally:
        for process in processes:
            process.kill()

    assert len(set(printed)) == 1
    assert sorted(int(line) for line in effects.read_text().split()) == list(range(15))


async def test_a_second_kernel_of_this_process_gets_an_idle_run_at_once(stores: tuple[SQLiteStore, SQLiteStore]) -> None:
    """A kernel that was not closed and does nothing lets the run go, and takes it back when it goes on."""
    one, two = Kernel(store=stores[0], model_port=Slow(0)), Kernel(store=stores[1], model_port=Slow(0))
    await one.start_run(tenant=TENANT, run_id=RUN)
    begun = SystemClock().monotonic()
    await ask(one, "a")
    await ask(two, "b")
    await ask(one, "c")

    assert (await ask(one, "b")).replayed
    assert (await ask(two, "c")).replayed
    assert SystemClock().monotonic() - begun < 5
    assert [event.type for event in await one.get_events(run_id=RUN)].count("run.acquired") == 2


async def test_a_run_of_a_forgotten_kernel_is_taken_over_at_once(stores: tuple[SQLiteStore, SQLiteStore]) -> None:
    """A kernel that nobody refers to any more holds nothing."""
    one = Kernel(store=stores[0], model_port=Slow(0))
    await one.start_run(tenant=TENANT, run_id=RUN)
    del one
    gc.collect()

    async with Kernel(store=stores[1], model_port=Slow(0), policy=KernelPolicy(lease_wait_seconds=0)) as two:
        assert (await ask(two)).output == "hi"


async def test_a_run_held_elsewhere_is_waited_for_and_then_refused(stores: tuple[SQLiteStore, SQLiteStore]) -> None:
    """A holder on another machine may live: the step waits as long as the policy says, then names it."""
    store = stores[0]
    port = Slow(0)
    kernel = Kernel(store=store, model_port=port, policy=KernelPolicy(lease_wait_seconds=0.02))
    await kernel.start_run(tenant=TENANT, run_id=RUN)
    await foreign_lease(store, "elsewhere/1:1.1:00", 60)
    await kernel.close()

    kernel = Kernel(store=store, model_port=port, policy=KernelPolicy(lease_wait_seconds=0.02))
    with pytest.raises(LeaseHeld, match="held by elsewhere"):
        await ask(kernel)
    assert port.calls == 0


async def test_who_waits_for_a_lease_sees_the_result_when_it_is_recorded(stores: tuple[SQLiteStore, SQLiteStore]) -> None:
    """A step that another kernel ends is replayed at once, without the lease."""
    one = Kernel(store=stores[0], model_port=Slow())
    two_port = Slow()
    two = Kernel(store=stores[1], model_port=two_port)
    await one.start_run(tenant=TENANT, run_id=RUN)

    first, second = await asyncio.gather(ask(one), ask(two))

    assert second.replayed
    assert second.seq == first.seq
    assert two_port.calls == 0


async def test_an_expired_lease_is_taken_over_and_its_holder_is_fenced(stores: tuple[SQLiteStore, SQLiteStore]) -> None:
    """Who lost the run cannot record a result in it; what the new holder did is seen when it comes back."""
    store = stores[0]
    port = Slow()
    kernel = Kernel(store=store, model_port=port)
    await kernel.start_run(tenant=TENANT, run_id=RUN)
    step = asyncio.ensure_future(ask(kernel))
    await port.called.wait()
    token = await foreign_lease(stores[1], "elsewhere/1:1.1:00", 0.01)

    with pytest.raises(Fenced):
        await step
    await asyncio.sleep(0.02)
    again = await ask(kernel)

    assert (again.output, again.attempt) == ("hi", 2)
    lease = await store.lease(f"run/{RUN}")
    assert lease is not None
    assert lease.token == token + 1


async def test_failure_3_leases_are_lengthened_while_others_append(stores: tuple[SQLiteStore, SQLiteStore]) -> None:
    """Calls that last much longer than the lease keep it, while other steps and another connection write."""
    policy = KernelPolicy(lease_seconds=0.09)
    kernel = Kernel(store=stores[0], model_port=Slow(0.3), policy=policy)
    busy = Kernel(store=stores[1], model_port=Slow(0.001))
    await kernel.start_run(tenant=TENANT, run_id=RUN)
    await busy.start_run(tenant=TENANT, run_id="busy")

    held: list[bool] = []

    calls = asyncio.ensure_future(asyncio.gather(*(ask(kernel, f"k{number}") for number in range(5))))
    number = 0
    while not calls.done():
        await ask(busy, f"n{number}", run_id="busy")
        lease = await stores[1].lease(f"run/{RUN}")
        held.append(lease is not None and lease.held_at(stores[1].clock.now_us()))
        number += 1
    await calls

    lease = await stores[0].lease(f"run/{RUN}")
    assert lease is not None
    assert lease.token == 1
    assert sum(held) > 0.8 * len(held)  # a machine that stops for a while may let one lapse
    assert await stores[0].verify()


async def test_failure_6_a_cancelled_step_does_not_wedge_the_run(stores: tuple[SQLiteStore, SQLiteStore]) -> None:
    """Cancelled model and pure steps are made again, and counted as further attempts."""
    port = Slow(30)
    kernel = Kernel(store=stores[0], model_port=port)

    @kernel.tool()
    async def wait(seconds: float) -> float:
        await asyncio.sleep(seconds if port.moment else 0)
        return seconds

    def use() -> Any:
        return kernel.step_tool(run_id=RUN, tenant=TENANT, tool_name="wait", arguments={"seconds": 30}, step_key="w")

    await kernel.start_run(tenant=TENANT, run_id=RUN)
    for make in (ask, lambda _: use()):
        step = asyncio.ensure_future(make(kernel))
        await asyncio.sleep(0.01)
        step.cancel()
        with pytest.raises(asyncio.CancelledError):
            await step
    port.moment = 0

    assert ((await ask(kernel)).attempt, (await use()).attempt) == (2, 2)
    types = [event.type for event in await kernel.get_events(run_id=RUN)]
    assert types.count("step.interrupted") == 2
    assert types[-1] == "step.completed"


async def test_failure_6_the_next_kernel_goes_on_after_a_cancelled_one(stores: tuple[SQLiteStore, SQLiteStore]) -> None:
    """Also a kernel that was closed while a step was at work leaves a run that goes on."""
    port = Slow(30)
    kernel = Kernel(store=stores[0], model_port=port)
    await kernel.start_run(tenant=TENANT, run_id=RUN)
    step = asyncio.ensure_future(ask(kernel))
    await port.called.wait()
    step.cancel()
    await asyncio.gather(step, return_exceptions=True)
    await kernel.close()

    async with Kernel(store=stores[1], model_port=Slow(0), policy=KernelPolicy(lease_wait_seconds=0)) as two:
        assert (await ask(two)).attempt == 2


async def test_failure_8_a_long_run_is_read_once(path: Path) -> None:
    """Replaying reads the ledger when the run is loaded, and never again."""

    class Counting(SQLiteStore):
        reads = 0

        async def read(self, *args: Any, **more: Any) -> Any:
            type(self).reads += 1
            return await super().read(*args, **more)

    async with Counting(path) as store:
        kernel = Kernel(store=store, model_port=Slow(0))
        await kernel.start_run(tenant=TENANT, run_id=RUN)
        await asyncio.gather(*(ask(kernel, f"p{number}") for number in range(600)))
        await kernel.close()
        events = len(await store.read(f"run/{RUN}"))
        kernel = Kernel(store=store, model_port=Slow(0))
        Counting.reads = 0
        await kernel.load_run(run_id=RUN)
        loaded = Counting.reads
        for number in range(600):
            assert (await ask(kernel, f"p{number}")).replayed

        # the first event tells whether it is a fork, and one is compared with the list of streams
        assert loaded == Counting.reads <= 3 + events // 1000
        assert len(await store.read(f"run/{RUN}")) == events


FORGETFUL = """
    import asyncio, sys
    from harness.kernel import Kernel, ModelInput, MockModelPort, TenantContext
    from harness.ledger import SQLiteStore
    TENANT = TenantContext(tenant_id="t", budget_usd_limit=1.0)
    def blocking() -> None:
        import time
        time.sleep(60)
    async def main():
        store = SQLiteStore(sys.argv[1])
        kernel = Kernel(store=store, model_port=MockModelPort(output="x"))
        kernel.tool()(blocking)
        await kernel.start_run(tenant=TENANT, run_id="run-1")
        def ask(n):
            return kernel.step_model(
                run_id="run-1", tenant=TENANT, model="m", input=ModelInput.from_prompt(f"{n}"), step_key=f"{n}",
                visible_tool_names=(),
            )
        await asyncio.gather(*[ask(n) for n in range(20)])
        HOW
    asyncio.run(main())
"""


BLOCK = "kernel.step_tool(run_id='run-1', tenant=TENANT, tool_name='blocking')"


@pytest.mark.parametrize(
    ("how", "code"),
    [
        ("pass", 0),
        ("raise ValueError('uncaught')", 1),
        ("sys.exit(3)", 3),
        (f"asyncio.get_running_loop().call_later(0.2, sys.exit, 4); await {BLOCK}", 4),
    ],
)
async def test_forgetting_to_close_neither_hangs_nor_loses_anything(path: Path, how: str, code: int) -> None:
    """However the interpreter ends, it ends at once; every recorded step is there, and the next kernel goes on at once."""
    script = textwrap.dedent(FORGETFUL).replace("HOW", how)

    done = subprocess.run([sys.executable, "-W", "error", "-c", script, str(path)], timeout=30, capture_output=True, text=True)

    assert done.returncode == code, done.stderr
    assert ("uncaught" in done.stderr) == (code == 1)
    assert "never awaited" not in done.stderr
    async with SQLiteStore(path) as store:
        assert await store.verify_run_chain(RUN)
        port = Slow(0)
        async with Kernel(store=store, model_port=port, policy=KernelPolicy(lease_wait_seconds=0)) as kernel:
            for number in range(20):
                assert (await ask(kernel, f"{number}", visible_tool_names=())).replayed
            await ask(kernel, "next")
        assert port.calls == 1


async def test_a_killed_holder_is_taken_over_at_once(path: Path) -> None:
    """A process that was killed in the middle of a call leaves a lease that nobody waits for."""
    script = """
        import asyncio, sys
        from harness.kernel import Kernel, ModelInput, TenantContext
        from harness.ledger import SQLiteStore
        class Hangs:
            async def complete(self, request):
                await asyncio.sleep(0.05)
                print("called", flush=True)
                await asyncio.sleep(60)
        async def main():
            kernel = Kernel(store=SQLiteStore(sys.argv[1]), model_port=Hangs())
            tenant = TenantContext(tenant_id="t", budget_usd_limit=1.0)
            await kernel.start_run(tenant=tenant, run_id="run-1")
            hi = ModelInput.from_prompt("hi")
            await kernel.step_model(run_id="run-1", tenant=tenant, model="claude-haiku-4-5", input=hi, step_key="hi")
        asyncio.run(main())
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script), str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "called\n"
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=10)
    process.stdout.close()

    tenant = TenantContext(tenant_id="t", budget_usd_limit=1.0)
    async with SQLiteStore(path) as store:
        async with Kernel(store=store, model_port=Slow(0), policy=KernelPolicy(lease_wait_seconds=0)) as kernel:
            result = await ask(kernel, tenant=tenant, model="claude-haiku-4-5")
            events = await kernel.get_events(run_id=RUN)
        lost = next(event for event in events if event.type == "step.interrupted")
        started = next(event for event in events if event.type == "step.started")

        assert result.attempt == 2
        assert (lost.payload["reason"], lost.payload["cost"]) == ("crash", started.payload["reserved"])
        assert await store.reserved("spend/t") == started.payload["reserved"]


async def test_a_failed_step_leaves_nothing_held(stores: tuple[SQLiteStore, SQLiteStore]) -> None:
    """After a failure another kernel can go on at once, and what happened is plain JSON for anybody."""
    kernel = Kernel(store=stores[0])

    @kernel.tool(side_effect=True)
    def fail() -> None:
        raise RuntimeError("no")

    await kernel.start_run(tenant=TENANT, run_id=RUN)
    with pytest.raises(StepFailed):
        await kernel.step_tool(run_id=RUN, tenant=TENANT, tool_name="fail")

    for event in await kernel.get_events(run_id=RUN):
        json.loads(event.data or b"")
    async with Kernel(store=stores[1], model_port=Slow(0)) as two:
        assert (await ask(two)).output == "hi"


async def test_money_of_a_run_that_nobody_works_on_is_found_when_it_is_needed(path: Path) -> None:
    """A killed process leaves a slice of the budget; another run of the tenant gets it before it is refused."""
    script = """
        import asyncio, os, sys
        from harness.kernel import Kernel, ModelInput, MockModelPort, TenantContext, Usage
        from harness.ledger import SQLiteStore
        async def main():
            port = MockModelPort(output="x", usage=Usage(cost_usd=0.1))
            kernel = Kernel(store=SQLiteStore(sys.argv[1]), model_port=port)
            tenant = TenantContext(tenant_id="t", budget_usd_limit=1.0)
            await kernel.start_run(tenant=tenant, run_id="dead")
            for _ in range(2):
                await kernel.step_model(run_id="dead", tenant=tenant, model="m", input=ModelInput.from_prompt("hi"))
            os.kill(os.getpid(), 9)
        asyncio.run(main())
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script), str(path)], timeout=30)
    tenant = TenantContext(tenant_id="t", budget_usd_limit=1.0)
    async with SQLiteStore(path) as store:
        held = await store.reserved("spend/t")
        port = Slow(0)
        async with Kernel(store=store, model_port=port) as kernel:
            await kernel.start_run(tenant=tenant, run_id=RUN)
            await ask(kernel, tenant=tenant, model="gpt-5-nano", model_options=ModelCallOptions(max_tokens=1_900_000))
        events = [event.type for event in await store.read("run/dead")]

        assert held > 240_000
        assert port.calls == 1
        assert events[-1] == "budget.returned"
        assert await store.reserved("spend/t") == 200_000


async def test_ending_a_dead_process_run_gives_its_money_back(path: Path) -> None:
    """Who cancels a run that nobody is at work on frees what it held, in the same append."""
    tenant = TenantContext(tenant_id="t", budget_usd_limit=1.0)
    async with SQLiteStore(path) as store:
        kernel = Kernel(store=store, model_port=Slow(0))
        await kernel.start_run(tenant=tenant, run_id=RUN)
        await ask(kernel, tenant=tenant)
        assert await store.reserved("spend/t") > 0
        del kernel
        gc.collect()

        async with Kernel(store=store) as other:
            await other.cancel_run(run_id=RUN)

        assert await store.reserved("spend/t") == 0
        assert [event.type for event in await store.read(f"run/{RUN}")][-2:] == ["run.cancelled", "budget.returned"]


async def test_a_rejected_step_is_asked_again_after_a_restart(tmp_path: Path) -> None:
    """A rejection is no end that stands: another kernel takes the lease and decides anew, instead of waiting for ever."""
    tenant = TenantContext(tenant_id="t")
    async with SQLiteStore(tmp_path / "k.db") as store:
        async with Kernel(store=store) as kernel:
            await kernel.start_run(tenant=tenant, run_id="r")
            with pytest.raises(StepRejected):
                await kernel.step_tool(run_id="r", tenant=tenant, tool_name="late", step_key="k")
        async with Kernel(store=store) as kernel:

            @kernel.tool()
            async def late() -> str:
                return "here"

            with anyio.fail_after(20):
                done = await kernel.step_tool(run_id="r", tenant=tenant, tool_name="late", step_key="k")

    assert done.result == "here"
