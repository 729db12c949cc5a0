"""Failure 7: reconciliation simply runs the tool again, and an outcome that somebody knows cannot be recorded.

A transfer was begun, the line went dead, and the bank's statement shows that it went through. Whoever settles that must
be able to say so, and nothing may send the money twice: not the saying, not the program that is run again after it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from harness import Kernel, MemoryStore, OutcomeUnknown, SQLiteStore, StepFailed, StepRejected, TenantContext
from harness.kernel import ToolExecutionContext

TENANT = TenantContext(tenant_id="t")
RUN = "bill-12"
Store = MemoryStore | SQLiteStore


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    made: Store = MemoryStore() if request.param == "memory" else SQLiteStore(tmp_path / "state.db")
    yield made
    await made.close()


class Bank:
    """Pays, and loses the line as often as it is told to; knows which keys it has seen."""

    def __init__(self, *, lost: int = 1) -> None:
        self.keys: list[str] = []
        self.lost = lost

    def kernel(self, store: Store, *, probe: Any = None) -> Kernel:
        kernel = Kernel(store=store)

        @kernel.tool(side_effect=True, probe=probe)
        async def pay(amount: int, context: ToolExecutionContext) -> dict[str, int]:
            self.keys.append(context.idempotency_key)
            if len(self.keys) <= self.lost:
                raise OutcomeUnknown("the line went dead")
            return {"paid": amount}

        return kernel


async def pay(kernel: Kernel) -> Any:
    return await kernel.step_tool(run_id=RUN, tenant=TENANT, tool_name="pay", arguments={"amount": 5}, step_key="pay")


async def begun(kernel: Kernel) -> None:
    """The transfer of unknown outcome."""
    await kernel.open_run(tenant=TENANT, run_id=RUN)
    with pytest.raises(OutcomeUnknown):
        await pay(kernel)


async def reconciled(kernel: Kernel, outcome: Any, **more: Any) -> Any:
    return await kernel.reconcile_tool(run_id=RUN, tenant=TENANT, tool_name="pay", outcome=outcome, by="ann", **more)


async def test_a_known_outcome_is_recorded_and_nothing_runs(store: Store) -> None:
    """What a person read in the statement becomes the step's result, with the person's name, here and after a restart."""
    bank = Bank()
    async with bank.kernel(store) as kernel:
        await begun(kernel)
        settled = await reconciled(kernel, "completed", result={"paid": 5})
        assert settled.result == {"paid": 5}
    async with bank.kernel(store) as kernel:
        again = await pay(kernel)
        last = (await kernel.get_events(run_id=RUN))[-1]

    assert (again.result, again.replayed, len(bank.keys)) == ({"paid": 5}, True, 1)
    assert (last.type, last.payload["reconciled"]) == ("step.completed", "ann")


async def test_a_known_failure_is_recorded_and_nothing_runs(store: Store) -> None:
    """It did not happen: the step has failed, and says why."""
    bank = Bank()
    async with bank.kernel(store) as kernel:
        await begun(kernel)
        assert await reconciled(kernel, "failed", message="the bank never saw it") is None
        with pytest.raises(StepFailed, match="the bank never saw it"):
            await pay(kernel)

    assert len(bank.keys) == 1


async def test_only_who_says_so_runs_it_again_and_with_the_same_key(store: Store) -> None:
    """Asking for the step leaves it unknown; `retry` runs it once more, recognisable to the bank as the same transfer."""
    bank = Bank()
    async with bank.kernel(store) as kernel:
        await begun(kernel)
        with pytest.raises(OutcomeUnknown):
            await pay(kernel)
        assert len(bank.keys) == 1
        assert (await reconciled(kernel, "retry")).result == {"paid": 5}

    assert len(bank.keys) == 2
    assert len(set(bank.keys)) == 1


@pytest.mark.parametrize(("found", "paid"), [(True, 1), ({"paid": 5}, 1), (False, 2)])
async def test_a_probe_decides_whether_it_runs_again(store: Store, found: Any, paid: int) -> None:
    """Only a probe that says that nothing happened leads to a second call."""
    bank = Bank()
    async with bank.kernel(store, probe=lambda amount: found) as kernel:
        await begun(kernel)
        await reconciled(kernel, "probe")
        assert (await pay(kernel)).replayed

    assert len(bank.keys) == paid


async def test_an_outcome_is_settled_once(store: Store) -> None:
    """What is known is not unknown: a second settling is refused, and changes nothing."""
    async with Bank().kernel(store) as kernel:
        await begun(kernel)
        await reconciled(kernel, "completed", result={"paid": 5})
        before = await store.tail()
        for outcome in ("completed", "failed", "retry", "probe"):
            with pytest.raises(StepRejected, match="completed, not unknown"):
                await reconciled(kernel, outcome, step="pay")

        assert await store.tail() == before
