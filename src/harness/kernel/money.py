"""Money of a run: slices taken from the tenant's budget under the run's lease, reserved and settled in memory."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from harness.errors import Refused
from harness.kernel import records
from harness.kernel.records import BudgetChanged
from harness.kernel.runs import RunState
from harness.kernel.tenant import TenantContext
from harness.ledger import Appended, Draft, Guard, Reserve, Store
from harness.spend import budget_exceeded, counter, slice_size

Write = Callable[[RunState, Sequence[Draft], Sequence[Guard]], Awaitable[Appended]]
ReleaseOthers = Callable[[RunState, Sequence[str]], Awaitable[None]]
ActiveRuns = Callable[[str | None], Awaitable[list[str]]]


class Purse:
    """The budgets of one kernel's runs. Amounts are micro-USD."""

    def __init__(self, store: Store, write: Write, release_others: ReleaseOthers) -> None:
        self._store = store
        self._write = write
        self._release_others = release_others
        self.active_runs: ActiveRuns | None = None  # asked only when money is short

    async def reserve(self, run: RunState, tenant: TenantContext, amount: int) -> int:
        """Set money aside for a call; gives what was set aside, which is nothing without a limit. Raises `BudgetExceeded`."""
        limit = tenant.limit_micro_usd
        if limit is None:
            return 0
        if run.slice.missing(amount):
            async with run.turn:
                missing = run.slice.missing(amount)
                if missing:
                    await self._take(run, missing, amount, limit)
                run.slice.reserve(amount)
        else:
            run.slice.reserve(amount)
        return amount

    async def _take(self, run: RunState, missing: int, needed: int, limit: int) -> None:
        left = limit - await self._store.reserved(counter(run.tenant_id))
        for amount in dict.fromkeys((slice_size(missing, needed=needed, left=max(0, left)), missing)):
            if await self._taken(run, amount, limit) is None:
                return
        await self._collect(run)
        refusal = await self._taken(run, missing, limit)
        if refusal is not None:
            raise budget_exceeded(run.tenant_id, refusal) from refusal

    async def _taken(self, run: RunState, amount: int, limit: int) -> Refused | None:
        taken = Draft(
            type=records.BUDGET_TAKEN, payload=BudgetChanged(amount=amount, tenant_id=run.tenant_id), tenant=run.tenant_id
        )
        try:
            await self._write(run, (taken,), (Reserve(counter(run.tenant_id), amount, limit),))
        except Refused as error:
            return error
        run.slice.granted += amount
        return None

    async def _collect(self, run: RunState) -> None:
        """Have other runs of the tenant give back what nobody is at work on."""
        active = await self.active_runs(run.tenant_id) if self.active_runs is not None else []
        await self._release_others(run, active)

    async def give_back(self, run: RunState, *before: Draft, guards: Sequence[Guard] = ()) -> Appended:
        """Give the tenant back what a held run did not spend, after and together with other events of the run."""
        amount = run.slice.unspent
        returned = Draft(
            type=records.BUDGET_RETURNED, payload=BudgetChanged(amount=amount, tenant_id=run.tenant_id), tenant=run.tenant_id
        )
        run.slice.granted -= amount
        try:
            return await self._write(run, (*before, returned), (*guards, Reserve(counter(run.tenant_id), -amount)))
        except BaseException:
            run.slice.granted += amount
            raise

    def settle(self, run: RunState, *, reserved: int, cost: int) -> tuple[int, tuple[Guard, ...]]:
        """Count what a call cost. Gives the overdraft to record, and the guard that adds it to the tenant's counter."""
        overdraft = run.slice.settle(reserved=reserved, cost=cost)
        return overdraft, (Reserve(counter(run.tenant_id), overdraft),) if overdraft else ()

    def settle_lost(self, run: RunState, step: str) -> int:
        """Count an attempt that never ended at what was reserved for it, since nobody knows what it cost."""
        lost = run.lost.pop(step, 0)
        if lost:
            run.slice.settle(reserved=lost, cost=lost)
        return lost
