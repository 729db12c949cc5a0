"""Sessions of a kernel, without a harness: their records, their lease, and what survives odd ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from harness import Fenced, Kernel, MemoryStore, MockModelPort, ModelInput, SQLiteStore, TenantContext
from harness.kernel import KernelPolicy
from harness.kernel.session_lease import SessionLease
from harness.ledger import Draft, Store

TENANT = TenantContext(tenant_id="t")
RUN = "r"


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    store = MemoryStore() if request.param == "memory" else SQLiteStore(tmp_path / "h.db", durability="process")
    yield store
    await store.close()


@pytest.fixture
async def kernel(store: Store) -> AsyncIterator[Kernel]:
    async with Kernel(store=store, model_port=MockModelPort(text="ok")) as kernel:
        await kernel.start_run(tenant=TENANT, run_id=RUN)
        yield kernel


async def ask(kernel: Kernel, **more: str) -> str:
    asked = ModelInput.from_prompt("?")
    return (await kernel.step_model(run_id=RUN, tenant=TENANT, model="m", input=asked, **more)).step


async def test_steps_without_a_key_are_the_sessions_own(kernel: Kernel) -> None:
    """Also in scopes and below other steps; those with a key are the run's."""
    steps: list[list[str]] = []
    for _ in range(2):
        async with kernel.session(run_id=RUN, tenant=TENANT):
            steps.append([await ask(kernel), await ask(kernel, step_key="plan")])
            with kernel.scope("loop"):
                steps[-1].append(await ask(kernel))

    assert steps == [[f"session-{n}/model#1", "plan", f"session-{n}/loop/model#1"] for n in (1, 2)]


async def test_an_erased_record_still_counts(kernel: Kernel, store: Store) -> None:
    """What it said is gone; that there was a session is not."""
    for _ in range(3):
        async with kernel.session(run_id=RUN, tenant=TENANT):
            await ask(kernel)
    newest = await store.latest(f"run/{RUN}", "session")
    assert newest is not None
    await store.erase(f"run/{RUN}", newest.seq, reason="asked for")

    async with kernel.session(run_id=RUN, tenant=TENANT) as session:
        assert session.number == 4
        assert await ask(kernel) == "session-4/model#1"


async def test_who_lost_the_lease_cannot_end_the_session(kernel: Kernel, store: Store) -> None:
    """As a process that slept for longer than its lease, while another one went on with its session."""
    asleep, wake = asyncio.Event(), asyncio.Event()

    async def sleepy() -> None:
        sleeper = Kernel(store=store, policy=KernelPolicy(lease_seconds=0.05))
        async with sleeper, sleeper.session(run_id=RUN, tenant=TENANT) as session:
            session.close()  # it lengthens its lease no more
            asleep.set()
            await wake.wait()

    first = asyncio.ensure_future(sleepy())
    await asyncio.wait_for(asleep.wait(), 20)
    async with asyncio.timeout(20), kernel.session(run_id=RUN, tenant=TENANT) as second:
        assert (second.number, second.resumed) == (1, True)
        wake.set()
        with pytest.raises(Fenced):
            await first

    ends = [event.type for event in await kernel.get_events(run_id=RUN) if event.type.startswith("session")]
    assert ends == ["session.started", "session.resumed", "session.ended"]


async def test_a_waiting_session_can_be_cancelled(kernel: Kernel) -> None:
    """It leaves nothing behind."""
    async with kernel.session(run_id=RUN, tenant=TENANT):

        async def wait() -> None:
            async with kernel.session(run_id=RUN, tenant=TENANT):
                raise AssertionError

        waiting = asyncio.ensure_future(asyncio.create_task(_outside(wait)))
        await asyncio.sleep(0.05)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    types = [event.type for event in await kernel.get_events(run_id=RUN)]
    assert types == ["run.started", "session.started", "session.ended"]


async def _outside(wait: object) -> None:
    """Run it in a context that knows of no session."""
    import contextvars

    task = contextvars.Context().run(lambda: asyncio.get_running_loop().create_task(wait()))  # type: ignore[operator]
    try:
        await task
    except asyncio.CancelledError:
        task.cancel()
        raise


def test_a_pass_whose_loop_is_over_lets_go() -> None:
    """A program that calls `asyncio.run` twice need not wait for itself."""
    store = MemoryStore()
    lease = SessionLease(store, RUN, lease_seconds=10, wait_seconds=0)

    async def beginning() -> Draft:
        return Draft(type="session.started", key="session")

    loop = asyncio.new_event_loop()
    loop.run_until_complete(lease.take(beginning))
    assert not lease.lets_go(RUN)
    lease.rest()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()

    assert lease.lets_go(RUN)
