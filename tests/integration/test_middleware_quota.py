"""Quotas over tenants and trees of runs: reserved before, settled after, whoever is at work and whoever is killed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from harness.clock import VirtualClock
from harness.errors import BudgetExceeded, ModelUnavailable, StepFailed, UsageError
from harness.kernel import Kernel, KernelPolicy, MockModelPort, ModelCallOptions, ModelInput, TenantContext, Usage
from harness.ledger import MemoryStore, SQLiteStore
from harness.middleware import Quota, QuotaMiddleware

Store = MemoryStore | SQLiteStore
TENANT = TenantContext(tenant_id="t")
SHORT = ModelCallOptions(max_tokens=10)
USED = Usage(input_tokens=3, output_tokens=4, cost_usd=0.01)


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    clock = VirtualClock()
    made: Store = MemoryStore(clock=clock) if request.param == "memory" else SQLiteStore(tmp_path / "k.db", clock=clock)
    yield made
    await made.close()


def ask(kernel: Kernel, run: str = "r", tenant: TenantContext = TENANT, prompt: str = "hi", **more: Any) -> Any:
    return kernel.step_model(
        run_id=run, tenant=tenant, model="m", input=ModelInput.from_prompt(prompt), model_options=SHORT, **more
    )


def kernel_of(store: Store, *quotas: Quota, port: Any = None) -> Kernel:
    port = port or MockModelPort(text="ok", usage=USED)
    kernel = Kernel(store=store, model_port=port, middleware=[QuotaMiddleware(*quotas)], policy=KernelPolicy(model_attempts=1))

    @kernel.tool()
    async def look() -> str:
        return "seen"

    return kernel


async def counters(store: Store, *names: str) -> list[int]:
    return [await store.reserved(f"quota/tenant/t{name}") for name in names]


async def test_calls_of_a_tree_are_counted_together(store: Store) -> None:
    """A run, its child and its grandchild share the quota; another tree has its own; the refusal is an event."""
    async with kernel_of(store, Quota(calls=3)) as kernel:
        await kernel.start_run(tenant=TENANT, run_id="root")
        await kernel.start_run(tenant=TENANT, run_id="child", parent_run="root")
        await kernel.start_run(tenant=TENANT, run_id="grandchild", parent_run="child")
        await kernel.start_run(tenant=TENANT, run_id="other")
        await ask(kernel, "root")
        await ask(kernel, "child")
        await kernel.step_tool(run_id="grandchild", tenant=TENANT, tool_name="look")
        for run in ("root", "grandchild"):
            with pytest.raises(BudgetExceeded, match="the tree of run 'root' is 3 calls; 3 calls are used"):
                await ask(kernel, run)
        with pytest.raises(BudgetExceeded):
            await kernel.step_tool(run_id="child", tenant=TENANT, tool_name="look")
        await ask(kernel, "other")
        last = (await kernel.get_events(run_id="child"))[-1]

    assert (last.type, last.payload["reason"]) == ("step.rejected", "budget")


async def test_a_fork_shares_the_quota_of_its_tree(store: Store) -> None:
    """Forking a run makes no room."""
    async with kernel_of(store, Quota(calls=2)) as kernel:
        await kernel.start_run(tenant=TENANT, run_id="root")
        first = await ask(kernel, "root", step_key="a")
        fork = await kernel.fork_run(run_id="root", at_seq=first.seq)
        await ask(kernel, fork.run_id, step_key="b")
        with pytest.raises(BudgetExceeded, match="the tree of run 'root'"):
            await ask(kernel, fork.run_id, step_key="c")


async def test_what_a_call_did_not_use_is_given_back(store: Store) -> None:
    """Eleven tokens are reserved and seven used, so the third call fits, and the fourth does not."""
    async with kernel_of(store, Quota(tokens=27, usd=1)) as kernel:
        await kernel.start_run(tenant=TENANT, run_id="r")
        for _ in range(3):
            await ask(kernel)
        with pytest.raises(BudgetExceeded, match="is 27 tokens; 21 tokens are used or reserved, and 11 tokens more"):
            await ask(kernel)

    assert await counters(store, "/run/r/tokens", "/run/r/usd") == [21, 30_000]


async def test_the_tenants_own_limits_need_no_quota(store: Store) -> None:
    """Money, tokens, calls and time of a tenant hold for all its runs, with or without the middleware."""
    tenant = TenantContext(tenant_id="t", call_limit=2, token_limit=1000, wall_seconds_limit=500, budget_usd_limit=1)
    async with Kernel(store=store, model_port=MockModelPort(text="ok", usage=USED)) as kernel:
        for run in ("a", "b", "c"):
            await kernel.start_run(tenant=tenant, run_id=run)
        await ask(kernel, "a", tenant)
        await ask(kernel, "b", tenant)
        with pytest.raises(BudgetExceeded, match="tenant 't' is 2 calls"):
            await ask(kernel, "c", tenant)

    assert await counters(store, "/calls", "/tokens", "/seconds") == [2, 14, 0]


async def test_replay_counts_nothing(store: Store) -> None:
    """What is recorded is free, and writes nothing."""
    events: list[int] = []
    for _ in range(2):
        async with kernel_of(store, Quota(calls=1)) as kernel:
            await kernel.open_run(tenant=TENANT, run_id="r")
            await ask(kernel, step_key="a")
            events.append(len(await kernel.get_events(run_id="r")))

    assert await counters(store, "/run/r/calls") == [1]
    assert events[0] == events[1]


async def test_a_window_begins_anew(store: Store) -> None:
    """Two calls a minute: the third waits for the next minute."""
    assert isinstance(store.clock, VirtualClock)
    async with kernel_of(store, Quota(per="tenant", calls=2, window_seconds=60)) as kernel:
        await kernel.start_run(tenant=TENANT, run_id="r")
        await ask(kernel)
        await ask(kernel)
        with pytest.raises(BudgetExceeded, match="2 calls in 60 s"):
            await ask(kernel, step_key="third")
        store.clock.advance(60)
        await ask(kernel, step_key="third")


async def test_time_is_counted(store: Store) -> None:
    """The time of calls, reserved by their timeout; and the time since the tree began."""
    clock = store.clock
    assert isinstance(clock, VirtualClock)
    async with kernel_of(store, Quota(seconds=100), Quota(elapsed_seconds=1000)) as kernel:

        @kernel.tool()
        async def slow() -> None:
            clock.advance(70)

        await kernel.start_run(tenant=TENANT, run_id="r")
        await kernel.step_tool(run_id="r", tenant=TENANT, tool_name="slow")
        with pytest.raises(BudgetExceeded, match="100 s of calls; 70 s of calls are used or reserved, and 60 s of calls more"):
            await kernel.step_tool(run_id="r", tenant=TENANT, tool_name="slow")
        await kernel.step_tool(run_id="r", tenant=TENANT, tool_name="look", timeout=30)
        clock.advance(1000)
        with pytest.raises(BudgetExceeded, match="may last 1000 s"):
            await kernel.step_tool(run_id="r", tenant=TENANT, tool_name="look", timeout=30)

    assert await counters(store, "/run/r/seconds") == [70_000_000]


async def test_a_failed_call_counts_as_a_call_and_nothing_more(store: Store) -> None:
    """Nobody charges tokens for an answer that did not come."""
    port = MockModelPort(error=ModelUnavailable("away"))
    async with kernel_of(store, Quota(calls=9, tokens=99), port=port) as kernel:

        @kernel.tool(side_effect=True)
        async def breaks() -> None:
            raise ValueError("no")

        await kernel.start_run(tenant=TENANT, run_id="r")
        with pytest.raises(ModelUnavailable):
            await ask(kernel)
        with pytest.raises(StepFailed):
            await kernel.step_tool(run_id="r", tenant=TENANT, tool_name="breaks")

    assert await counters(store, "/run/r/calls", "/run/r/tokens") == [2, 0]


async def test_what_is_refused_later_gives_everything_back(store: Store) -> None:
    """A hook that says no after the reservation leaves no trace on the counters."""

    class No:
        def before_model(self, **_: Any) -> None:
            raise ValueError("no")

    port = MockModelPort(text="ok")
    async with Kernel(store=store, model_port=port, middleware=[No(), QuotaMiddleware(Quota(calls=1, tokens=99))]) as kernel:
        await kernel.start_run(tenant=TENANT, run_id="r")
        for _ in range(3):
            with pytest.raises(ValueError, match="no"):
                await ask(kernel)

    assert await counters(store, "/run/r/calls", "/run/r/tokens") == [0, 0]


async def test_calls_at_the_same_time_never_pass_the_limit(store: Store) -> None:
    """Twenty gathered calls in four runs: exactly seven are made."""

    class Slow:
        calls = 0

        async def complete(self, request: Any) -> Any:
            Slow.calls += 1
            await asyncio.sleep(0)
            return await MockModelPort(text="ok").complete(request)

    async with kernel_of(store, Quota(per="tenant", calls=7), port=Slow()) as kernel:
        for run in "abcd":
            await kernel.start_run(tenant=TENANT, run_id=run)
        told = await asyncio.gather(*(ask(kernel, run) for run in "abcd" for _ in range(5)), return_exceptions=True)

    assert sum(not isinstance(each, BaseException) for each in told) == Slow.calls == 7
    assert sum(isinstance(each, BudgetExceeded) for each in told) == 13


WORKER = """
import asyncio, sys
from harness import BudgetExceeded, Kernel, MockModelPort, ModelInput, SQLiteStore, TenantContext
from harness.kernel import ModelCallOptions, Usage
from harness.middleware import Quota, QuotaMiddleware

class Port(MockModelPort):
    async def complete(self, request):
        if sys.argv[3] == "die":
            print("calling", flush=True)
            await asyncio.sleep(600)
        return await super().complete(request)

async def main():
    tenant = TenantContext(tenant_id="t")
    store = SQLiteStore(sys.argv[1])
    port = Port(text="ok", usage=Usage(input_tokens=3, output_tokens=4, cost_usd=0.01))
    kernel = Kernel(store=store, model_port=port, middleware=[QuotaMiddleware(Quota(per="tenant", calls=25, tokens=10_000))])
    await kernel.open_run(tenant=tenant, run_id=sys.argv[2])
    made = 0
    try:
        for n in range(20):
            await kernel.step_model(
                run_id=sys.argv[2], tenant=tenant, model="m", input=ModelInput.from_prompt("hi"), step_key=str(n),
                model_options=ModelCallOptions(max_tokens=10),
            )
            made += 1
    except BudgetExceeded:
        pass
    print(made, flush=True)
    await kernel.close()
    await store.close()

asyncio.run(main())
"""


def start(path: Path, run: str, how: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", WORKER, str(path), run, how], stdout=subprocess.PIPE, text=True)


def test_two_processes_share_one_quota(tmp_path: Path) -> None:
    """Twenty calls each of twenty-five: together they make twenty-five."""
    workers = [start(tmp_path / "k.db", run, "live") for run in ("a", "b")]
    made = [int(worker.communicate(timeout=90)[0]) for worker in workers]

    assert sum(made) == 25


async def test_a_kill_between_reserve_and_settle_counts_once(tmp_path: Path) -> None:
    """What was reserved stays counted, once, however often the run is taken up again; the rest is exact."""
    worker = start(tmp_path / "k.db", "a", "die")
    assert worker.stdout is not None
    assert worker.stdout.readline() == "calling\n"
    os.kill(worker.pid, signal.SIGKILL)
    worker.communicate(timeout=60)
    async with SQLiteStore(tmp_path / "k.db") as store:
        assert await counters(store, "/calls", "/tokens") == [1, 11]

    for _ in range(2):
        again = start(tmp_path / "k.db", "a", "live")
        assert again.communicate(timeout=90)[0] == "20\n"

    async with SQLiteStore(tmp_path / "k.db") as store:
        assert await counters(store, "/calls", "/tokens") == [1 + 20, 11 + 20 * 7]
        assert await store.verify()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, "at least one"),
        ({"per": "run", "calls": 1}, "'tree' or per 'tenant'"),
        ({"usd": float("nan")}, "usd is a number"),
        ({"calls": -1}, "calls is a number"),
        ({"tokens": "9"}, "tokens is a number"),
        ({"calls": 1, "window_seconds": 0}, "window_seconds is a number of seconds above 0"),
        ({"per": "tenant", "elapsed_seconds": 1}, "per tree"),
    ],
)
def test_a_quota_that_makes_no_sense_is_refused(given: dict[str, Any], told: str) -> None:
    """When it is made."""
    with pytest.raises(UsageError, match=told):
        Quota(**given)


@pytest.mark.parametrize("given", [{"token_limit": -1}, {"call_limit": True}, {"wall_seconds_limit": float("inf")}])
def test_a_tenants_limits_are_numbers(given: dict[str, Any]) -> None:
    """As its budget is."""
    with pytest.raises(UsageError, match="is a number from 0"):
        TenantContext(tenant_id="t", **given)
